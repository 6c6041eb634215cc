/* Layer norm of rows, forward and backward; the formulas stand in dilated_attention_nn.h. */
#ifndef DA_MULTIHEAD_LAYER_NORM_H
#define DA_MULTIHEAD_LAYER_NORM_H

#include "multihead/product.h"

/* A norm of `width` channels in the real type. */
typedef struct da_layer_norm {
    const void *weight, *bias;
    int64_t width;
    double eps;
} da_layer_norm;

/* y = the norm of each row of x. y may be x. */
void da_layer_norm_forward(da_dtype real, const da_layer_norm *norm, int64_t rows, da_matrix x, void *y, int64_t ldy);

/* grad_x from the norm's input and grad_y; grad_x may be grad_y. Adds to grad_weight and grad_bias, row after row. */
void da_layer_norm_backward(da_dtype real, const da_layer_norm *norm, int64_t rows, da_matrix x, da_matrix grad_y,
                            void *grad_x, int64_t ldg, void *grad_weight, void *grad_bias);

#endif
