/* Rows of a table by token, and their gradients. */
#ifndef DA_MODEL_EMBEDDING_H
#define DA_MODEL_EMBEDDING_H

#include "dilated_attention_nn.h"

/* x[row] = weight[tokens[row]] */
void da_embedding_forward(da_dtype real, int threads, int64_t width, const void *weight, int64_t rows,
                          const int32_t *tokens, void *x);

/* weight[tokens[row]] += grad[row], in the order of rows. */
void da_embedding_backward(da_dtype real, int threads, int64_t width, const void *grad, int64_t rows,
                           const int32_t *tokens, void *weight);

#endif
