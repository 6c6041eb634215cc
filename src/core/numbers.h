/* The smaller and the larger of two whole numbers. */
#ifndef DA_CORE_NUMBERS_H
#define DA_CORE_NUMBERS_H

#include <stdint.h>

static inline int64_t da_smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static inline int64_t da_larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

#endif
