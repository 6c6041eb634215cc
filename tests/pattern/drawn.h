/* Generated configurations and layouts, the same at every run: short sequences, with all that bears on who sees whom. */
#ifndef DA_TESTS_DRAWN_H
#define DA_TESTS_DRAWN_H

#include "pattern/layout.h"

#define DRAWN_MAX_N 300

typedef struct drawn {
    da_attention_config config;
    int64_t n, heads, head;
    int ranks;
} drawn;

/* A number from 0 to end - 1. */
int64_t drawn_below(int64_t end);

/* Every eighth of the numbers may be DRAWN_MAX_N long, the others are up to 70. */
drawn drawn_next(int number);

/* Any partition of it, uneven stretches among them. To be freed. */
da_layout *drawn_layout(const drawn *d);

#endif
