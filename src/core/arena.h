/* One piece of memory, laid out once. */
#ifndef DA_CORE_ARENA_H
#define DA_CORE_ARENA_H

#include <stddef.h>

/* Hands out aligned parts of one piece of memory. With base NULL it only adds up. */
typedef struct da_arena {
    char *base;
    size_t used;
} da_arena;

void *da_arena_take(da_arena *arena, size_t count, size_t size);

#endif
