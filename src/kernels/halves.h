/* Rows of two-byte numbers, as they are. */
#ifndef DA_KERNELS_HALVES_H
#define DA_KERNELS_HALVES_H

#include <stdint.h>
#include <string.h>

/* Copies `count` components that lie `stride` elements apart. */
static inline void load_halves(const void *row, int64_t stride, int count, uint16_t *out) {
    if (stride == 1) {
        memcpy(out, row, (size_t)count * sizeof *out);
        return;
    }
    for (int c = 0; c < count; c++) {
        out[c] = ((const uint16_t *)row)[c * stride];
    }
}

#endif
