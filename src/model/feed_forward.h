/* A layer's second half: x + down(activation(up(norm(x)))), over all rows, forward and backward. */
#ifndef DA_MODEL_FEED_FORWARD_H
#define DA_MODEL_FEED_FORWARD_H

#include "dilated_attention_nn.h"
#include "model/norm_rows.h"

typedef struct da_feed_forward {
    da_dtype real;
    int threads;
    da_activation activation;
    int64_t width, inner;
    da_layer_norm norm;
    const void *up_weight, *up_bias, *down_weight, *down_bias; /* (inner, width), (width, inner); biases may be NULL */
    void *memory;                                              /* da_feed_forward_elements of the real type */
} da_feed_forward;

/* Where the gradients are added. */
typedef struct da_feed_forward_gradients {
    void *norm_weight, *norm_bias, *up_weight, *up_bias, *down_weight, *down_bias;
} da_feed_forward_gradients;

/* Elements of working memory for either pass. */
int64_t da_feed_forward_elements(int threads, int64_t rows, int64_t width, int64_t inner, bool backward);

/* x (rows, width), in place. */
void da_feed_forward_forward(const da_feed_forward *layer, int64_t rows, void *x);

/* x as the forward pass had it; grad, the gradient of its result, becomes that of x. */
void da_feed_forward_backward(const da_feed_forward *layer, int64_t rows, const void *x, void *grad,
                              const da_feed_forward_gradients *gradients);

#endif
