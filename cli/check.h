/* Compares an output with the definition, evaluated in f64 for a sample of queries. */
#ifndef DA_CLI_CHECK_H
#define DA_CLI_CHECK_H

#include "measure.h"

#define CHECK_QUERIES 64

typedef struct check_result {
    int queries;
    double largest_error;     /* of an output element */
    double largest_lse_error; /* of a logsumexp */
    double worst;             /* the largest error in parts of what is allowed there; above 1: failed */
    bool passed;
} check_result;

/* The queries are spread over batch, tokens and heads, the first and the last among them. Pairs outside of `tiles`, unless
 * that is NULL, are not of the definition.
 *
 * Allowed is  u_out |out| + 16 u_sum (4 + max |score|) max |value|,  and for the logsumexp  16 u_sum (4 + max |score|),
 * where u_out is half a unit in the last place of the output's data type, u_sum that of f32 (of f64 for f64), and the
 * maxima are over the keys that the query sees: a score is a sum whose rounding grows with its size, and an error of
 * the scores reaches the output through the values. For bf16, whose weights may be rounded to bf16, u_out times the
 * weighted mean of |value| is allowed besides. */
da_status check_sample(const da_attention_config *config, const workload *work, const da_tile_mask *tiles, int threads,
                       check_result *result);

#define CHECK_GRADIENT_ROWS 48

/* The same for rows of the three gradients, from the output and logsumexp of the workload. Allowed is
 * u_out |gradient| + (16 u_sum (4 + max |score|) + 2 u_out, of half types only) times the sum of the terms by magnitude: that
 * of the score's rounding, and, for bf16 and f16, that of the stored output and of weights that meet vectors in bf16. */
da_status check_gradient_sample(const da_attention_config *config, const workload *work, const da_tile_mask *tiles,
                                int threads, check_result *result);

#endif
