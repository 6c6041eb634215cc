/* The most multiply-adds that this machine's vector units do, measured. */
#ifndef DA_CLI_PEAK_H
#define DA_CLI_PEAK_H

#include "dilated_attention.h"

typedef struct peak {
    double median, best; /* floating-point operations a second, all threads together; a multiply-add is two */
    int rounds;
} peak;

#define PEAK_MAX_ROUNDS 15

/* For the sums of `dtype`: f64 for DA_F64, f32 otherwise; on the context's threads and instruction set; of 1 to
 * PEAK_MAX_ROUNDS rounds. */
peak peak_measure(const da_context *context, da_dtype dtype, int rounds);

/* Of `rounds` rates, which it sorts. */
peak peak_of_rates(double *rates, int rounds);

#endif
