/* The end of the model: final norm, output projection and cross-entropy, over all rows. */
#ifndef DA_MODEL_HEAD_H
#define DA_MODEL_HEAD_H

#include "model/norm_rows.h"

typedef struct da_head {
    da_dtype real;
    int threads;
    int64_t words, width;
    da_layer_norm norm;
    const void *weight; /* (words, width) */
    void *memory;       /* da_head_bytes */
} da_head;

typedef struct da_head_gradients {
    void *norm_weight, *norm_bias, *weight;
} da_head_gradients;

/* Bytes of working memory for any of the calls. */
size_t da_head_bytes(da_dtype real, int threads, int64_t rows, int64_t words, int64_t width);

/* Mean loss over rows with target >= 0, of which there is at least one. */
double da_head_loss(const da_head *head, int64_t rows, const void *x, const int32_t *targets);

/* The same to the bit; grad gets the gradient of x (rows, width). */
double da_head_backward(const da_head *head, int64_t rows, const void *x, const int32_t *targets, void *grad,
                        const da_head_gradients *gradients);

/* logits (rows, words) */
void da_head_logits(const da_head *head, int64_t rows, const void *x, void *logits);

#endif
