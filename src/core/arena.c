#include "core/arena.h"

#define ALIGNMENT 64

void *da_arena_take(da_arena *arena, size_t count, size_t size) {
    void *taken = arena->base ? arena->base + arena->used : NULL;
    arena->used += (count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return taken;
}
