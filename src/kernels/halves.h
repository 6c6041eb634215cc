/* Rows of two-byte numbers, as they are. */
#ifndef DA_KERNELS_HALVES_H
#define DA_KERNELS_HALVES_H

#include <stdint.h>
#include <string.h>

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

#endif
