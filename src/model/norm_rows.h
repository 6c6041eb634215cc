/* Layer norms of many rows on all threads, and the sums of their gradients. */
#ifndef DA_MODEL_NORM_ROWS_H
#define DA_MODEL_NORM_ROWS_H

#include "multihead/layer_norm.h"
#include "multihead/rows.h"

/* Blocks of rows that are in work at once, where memory grows with them. Fixed, so that results do not depend on who
 * computes them. */
#define DA_CHUNK_BLOCKS 8

/* Gradients of a norm's weight and bias: one partial sum for each block of a chunk, added in the order of blocks. */
typedef struct da_norm_sums {
    da_dtype real;
    int64_t width;
    void *partials; /* (DA_CHUNK_BLOCKS, 2, width) */
} da_norm_sums;

static inline int64_t da_norm_sums_elements(int64_t width) {
    return DA_CHUNK_BLOCKS * 2 * width;
}

/* Before each chunk. */
void da_norm_sums_clear(const da_norm_sums *sums);

/* grad_x += the gradient through the norm of rows of block `block`, whose gradients are in grad_y (overwritten). */
void da_norm_block_backward(const da_norm_sums *sums, const da_layer_norm *norm, int64_t block, int64_t count,
                            const void *x, void *grad_y, void *grad_x);

/* weight += ..., bias += ... */
void da_norm_sums_collect(const da_norm_sums *sums, void *weight, void *bias);

/* y = norm(x); both dense (rows, width). */
void da_norm_rows(da_dtype real, int threads, const da_layer_norm *norm, int64_t rows, const void *x, void *y);

/* grad_x += the gradient through the norm; weight and bias as above; grad_y is overwritten. */
void da_norm_rows_backward(da_dtype real, int threads, const da_layer_norm *norm, int64_t rows, const void *x,
                           void *grad_y, void *grad_x, const da_norm_sums *sums, void *weight, void *bias);

#endif
