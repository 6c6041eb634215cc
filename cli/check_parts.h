/* What the checks of outputs and of gradients share: pairs of a sampled row, elements, and what rounding is allowed. */
#ifndef DA_CLI_CHECK_PARTS_H
#define DA_CLI_CHECK_PARTS_H

#include "measure.h"

double check_unit_roundoff(da_dtype dtype);

/* An element in double. */
double check_load(const da_tensor *tensor, int64_t batch, int64_t i, int64_t head, int64_t c);

/* sum_c a_ic b_jc, and in *size, unless NULL, the sum of magnitudes. */
double check_product(const da_tensor *a, const da_tensor *b, const int64_t row_a[3], const int64_t row_b[3],
                     double *size);

double check_scale(const da_attention_config *config, int64_t head_dim);

/* Divisor of the output: the groups under head_groups, else 1. */
double check_divisor(const da_attention_config *config);

/* The segments of all patterns around a token: nobody outside sees it or is seen by it. */
void check_neighbourhood(const da_attention_config *config, int64_t n, int64_t i, int64_t *first, int64_t *count);

/* Keeps the largest; an error that is not a number counts as infinite. */
void check_keep_largest(double *largest, double value);

/* Sample s of `count`: evenly spread tokens, with heads and batches taken in turn. */
void check_place(const da_tensor *tensor, int64_t s, int64_t count, int64_t place[3]);

#endif
