/* Mean and standard error of numbers that come one after the other. */
#ifndef DA_BLOCK_SPARSE_TALLY_H
#define DA_BLOCK_SPARSE_TALLY_H

#include <math.h>
#include <stdint.h>

typedef struct da_tally {
    int64_t count;
    double sum, squares;
} da_tally;

static inline void da_tally_add(da_tally *tally, double number) {
    tally->count++;
    tally->sum += number;
    tally->squares += number * number;
}

/* NAN of none. */
static inline double da_tally_mean(const da_tally *tally) {
    return tally->count > 0 ? tally->sum / (double)tally->count : NAN;
}

/* Standard error of the mean; NAN of fewer than two. */
static inline double da_tally_error(const da_tally *tally) {
    double count = (double)tally->count;
    double variance = (tally->squares - tally->sum * (tally->sum / count)) / (count - 1);
    return tally->count > 1 ? sqrt((variance > 0 ? variance : 0) / count) : NAN;
}

#endif
