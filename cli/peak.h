/* The most multiply-adds that this machine's vector units do, measured. */
#ifndef DA_CLI_PEAK_H
#define DA_CLI_PEAK_H

#include "dilated_attention.h"

typedef struct peak {
    double median, best; /* floating-point operations a second, all threads together; a multiply-add is two */
    int rounds;
} peak;

/* For the sums of `dtype`: f64 for DA_F64, f32 otherwise; on the context's threads and instruction set. */
peak peak_measure(const da_context *context, da_dtype dtype);

#endif
