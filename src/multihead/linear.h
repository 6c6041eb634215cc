/* What linear layers need beside products: rows of sums, forward and backward, in the real type. */
#ifndef DA_MULTIHEAD_LINEAR_H
#define DA_MULTIHEAD_LINEAR_H

#include "multihead/convert.h"
#include "multihead/product.h"

/* Output features that are one job of a weight's gradient. */
#define DA_FEATURE_BLOCK 128

static inline int64_t da_feature_blocks(int64_t features) {
    return (features + DA_FEATURE_BLOCK - 1) / DA_FEATURE_BLOCK;
}

/* sum[c] += terms[c] */
void da_add_elements(da_dtype real, void *sum, const void *terms, int64_t count);

/* product[c] *= factors[c] */
void da_multiply_elements(da_dtype real, void *product, const void *factors, int64_t count);

/* Adds bias to each row; nothing where it is NULL. */
void da_add_bias(da_dtype real, const void *bias, int64_t width, int64_t count, void *rows, int64_t ld);

/* Gradients of features first .. first + count - 1 of a linear layer out = in weight^T + bias, added to weight
 * (features, width) and bias (features; may be NULL): gradient (rows, features), input (rows, width). */
void da_linear_feature_gradient(da_dtype real, int64_t first, int64_t count, int64_t rows, int64_t width,
                                da_matrix gradient, da_matrix input, void *weight, void *bias);

/* The same of all features, in jobs of DA_FEATURE_BLOCK for the threads. */
void da_linear_gradient(da_dtype real, int threads, int64_t features, int64_t rows, int64_t width, da_matrix gradient,
                        da_matrix input, void *weight, void *bias);

#endif
