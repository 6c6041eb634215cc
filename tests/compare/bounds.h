/* How far a pass may lie from the exact result, from its data type and the magnitudes of its own terms. The
 * reasoning and the constants are written down in ../tolerances.md. */
#ifndef DA_TESTS_BOUNDS_H
#define DA_TESTS_BOUNDS_H

#include "compare/gradient_file.h"

/* Largest error of the sums behind one query, before results are rounded to their data type. */
typedef struct row_bound {
    double out, lse;
} row_bound;

/* Whether weights are rounded to bf16 before they meet the values. */
bool rounds_weights(da_isa isa, da_dtype dtype);

/* `dtype` is the data type of the tensors: sums are f64 for DA_F64 and f32 otherwise. `bf16_weights`: as
 * rounds_weights() says. `merges`: of partial results of a row, where keys came in several blocks. */
row_bound bound_of_row(const case_row *row, int64_t head_dim, da_dtype dtype, bool bf16_weights, int64_t merges);

/* Largest error of a row of a gradient, before it is rounded to its data type, from the output and the logsumexp that a
 * forward pass within the bounds above gave, stored in `dtype` and `lse_dtype`. */
double bound_of_gradient(const gradient_row *row, int64_t head_dim, da_dtype dtype, da_dtype lse_dtype,
                         bool bf16_weights, int64_t merges);

/* Adds the rounding of a result to the data type that stores it. */
double bound_when_stored(double bound, double exact, da_dtype dtype);

#endif
