/* Dense tensors of a problem with pseudo-random inputs, for tests that compare runs with one another. */
#ifndef DA_TESTS_PROBLEM_DATA_H
#define DA_TESTS_PROBLEM_DATA_H

#include "dilated_attention.h"

typedef struct problem_data {
    da_tensor query, key, value, out, lse; /* lse is f64 */
    da_tensor grad_out, grad_query, grad_key, grad_value;
    float *inputs, *outputs, *gradients; /* grad_out is among the inputs */
    double *sums;
    size_t out_bytes, lse_bytes, gradient_bytes;
} problem_data;

/* f32 tensors; the same seed gives the same inputs. */
problem_data problem_data_make(unsigned seed, int64_t batch, int64_t n, int64_t heads, int64_t kv_heads,
                               int64_t head_dim);
void problem_data_free(problem_data *data);

/* Fills all outputs with 0xFF. */
void problem_data_clear(problem_data *data);

/* True if both have the same outputs, to the bit. */
bool problem_data_equal(const problem_data *a, const problem_data *b);

da_status problem_data_forward(problem_data *data, const da_attention *attention, const da_call_options *options);

/* All gradients, after a forward pass. */
da_status problem_data_backward(problem_data *data, const da_attention *attention, const da_call_options *options);

#endif
