/* Cross-entropy of rows of logits, and its gradient in their place. */
#ifndef DA_MODEL_CROSS_ENTROPY_H
#define DA_MODEL_CROSS_ENTROPY_H

#include "dilated_attention_nn.h"

/* Sum over the rows with target >= 0 of log sum_v exp(logits_v) - logits_target, in double. */
double da_cross_entropy(da_dtype real, int64_t rows, int64_t words, const void *logits, const int32_t *targets);

/* The same sum to the bit; logits = scale (softmax(logits) - 1 at the target), 0 in rows with target < 0. */
double da_cross_entropy_gradient(da_dtype real, int64_t rows, int64_t words, double scale, void *logits,
                                 const int32_t *targets);

#endif
