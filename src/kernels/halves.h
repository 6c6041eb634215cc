/* Rows of two-byte numbers, as they are: what products of bf16 share. */
#ifndef DA_KERNELS_HALVES_H
#define DA_KERNELS_HALVES_H

#include <string.h>

#include "kernels/kernels.h"

/* Copies `count` components that lie `stride` elements apart. */
static inline void load_halves(const void *row, int64_t stride, int count, uint16_t *out) {
    enum { AT_A_TIME = 16 };
    const uint16_t *halves = row;
    int c = 0;
    /* Of a fixed number the compiler makes moves: a call for each row would cost more than the copy. */
    for (; stride == 1 && c + AT_A_TIME <= count; c += AT_A_TIME) {
        memcpy(out + c, halves + c, AT_A_TIME * sizeof *out);
    }
    for (; c < count; c++) {
        out[c] = halves[c * stride];
    }
}

/* The products' own: stores a value as key `key`, and returns whether it is finite. */
static bool store_value(da_key_block *block, const void *value, int64_t stride, int key);

/* Stores the values from..from + count - 1 of a source, which come next; returns whether they are finite. */
static bool store_values(da_key_block *block, const da_key_source *source, int from, int count) {
    bool finite = true;
    for (int k = 0; k < count; k++) {
        const char *row = (const char *)source->value + (from + k) * source->value_step;
        finite &= store_value(block, row, source->value_stride, block->count + k);
    }
    return finite;
}

#endif
