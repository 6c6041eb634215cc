/* Forward, a block of rows goes through the whole of it, so that no more than a block of the inner layer exists. Backward,
 * a chunk of blocks does: rows first, then the gradients of the weights, output features by output features, then rows
 * again. */
#include "model/feed_forward.h"

#include "core/parallel.h"
#include "model/activation.h"
#include "multihead/linear.h"

typedef struct pass {
    const da_feed_forward *layer;
    int64_t rows, block_rows; /* block_rows: of memory */
    void *x, *grad;
    const da_feed_forward_gradients *gradients;
    int64_t first_block;
    /* Of a chunk: normed rows, and of the inner layer what comes out and the gradient of what goes in. */
    void *normed, *active, *grad_inner;
    void *scratch;
    int64_t scratch_elements; /* of a thread */
    da_norm_sums sums;
} pass;

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

int64_t da_feed_forward_elements(int threads, int64_t rows, int64_t width, int64_t inner, bool backward) {
    int64_t block = least(rows, DA_ROW_BLOCK), chunk = least(rows, DA_CHUNK_BLOCKS * DA_ROW_BLOCK);
    int64_t scratch = threads * block * (width + inner);
    return scratch + (backward ? chunk * (width + 2 * inner) + da_norm_sums_elements(width) : 0);
}

static pass begin(const da_feed_forward *layer, int64_t rows) {
    int64_t block = least(rows, DA_ROW_BLOCK), elements = block * (layer->width + layer->inner);
    return (pass){
        .layer = layer, .rows = rows, .block_rows = block, .scratch = layer->memory, .scratch_elements = elements};
}

static void *scratch_of(const pass *p, int thread) {
    return da_elements_on(p->scratch, thread * p->scratch_elements, p->layer->real);
}

static void up(const da_feed_forward *layer, int64_t count, const void *normed, void *inner) {
    da_product(layer->real, DA_PRODUCT_B_TRANSPOSED, count, layer->inner, layer->width,
               (da_matrix){normed, layer->width}, (da_matrix){layer->up_weight, layer->width}, false, inner,
               layer->inner);
    da_add_bias(layer->real, layer->up_bias, layer->inner, count, inner, layer->inner);
}

static void norm_block(const da_feed_forward *layer, int64_t count, const void *x, void *normed) {
    da_layer_norm_forward(layer->real, &layer->norm, count, (da_matrix){x, layer->width}, normed, layer->width);
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

static void forward_block(int64_t block, int thread, void *user) {
    const pass *p = user;
    const da_feed_forward *layer = p->layer;
    int64_t first = block * DA_ROW_BLOCK, count = least(p->rows - first, DA_ROW_BLOCK);
    void *x = da_elements_on(p->x, first * layer->width, layer->real), *normed = scratch_of(p, thread);
    void *inner = da_elements_on(normed, p->block_rows * layer->width, layer->real);
    norm_block(layer, count, x, normed);
    up(layer, count, normed, inner);
    da_activation_apply(layer->real, layer->activation, count * layer->inner, inner, inner);
    da_product(layer->real, DA_PRODUCT_B_TRANSPOSED, count, layer->width, layer->inner,
               (da_matrix){inner, layer->inner}, (da_matrix){layer->down_weight, layer->inner}, true, x, layer->width);
    da_add_bias(layer->real, layer->down_bias, layer->width, count, x, layer->width);
}

void da_feed_forward_forward(const da_feed_forward *layer, int64_t rows, void *x) {
    pass p = begin(layer, rows);
    p.x = x;
    da_parallel_for(layer->threads, da_row_blocks(rows), forward_block, &p);
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

/* A block's rows in the arrays of the chunk. */
static void *in_chunk(const pass *p, void *array, int64_t index, int64_t width) {
    return da_elements_on(array, index * DA_ROW_BLOCK * width, p->layer->real);
}

static void inner_block(int64_t index, int thread, void *user) {
    const pass *p = user;
    const da_feed_forward *layer = p->layer;
    int64_t first = (p->first_block + index) * DA_ROW_BLOCK, count = least(p->rows - first, DA_ROW_BLOCK);
    int64_t elements = count * layer->inner;
    void *x = da_elements_on(p->x, first * layer->width, layer->real), *grad_active = scratch_of(p, thread);
    void *normed = in_chunk(p, p->normed, index, layer->width), *active = in_chunk(p, p->active, index, layer->inner);
    void *slope = in_chunk(p, p->grad_inner, index, layer->inner);
    da_matrix grad = {da_elements_on(p->grad, first * layer->width, layer->real), layer->width};
    norm_block(layer, count, x, normed);
    up(layer, count, normed, slope);
    da_activation_apply_with_slope(layer->real, layer->activation, elements, slope, active);
    da_product(layer->real, DA_PRODUCT_PLAIN, count, layer->inner, layer->width, grad,
               (da_matrix){layer->down_weight, layer->inner}, false, grad_active, layer->inner);
    da_multiply_elements(layer->real, slope, grad_active, elements);
}

static void outer_block(int64_t index, int thread, void *user) {
    const pass *p = user;
    const da_feed_forward *layer = p->layer;
    int64_t block = p->first_block + index, first = block * DA_ROW_BLOCK;
    int64_t count = least(p->rows - first, DA_ROW_BLOCK);
    void *grad_normed = scratch_of(p, thread);
    da_matrix grad_inner = {in_chunk(p, p->grad_inner, index, layer->inner), layer->inner};
    da_product(layer->real, DA_PRODUCT_PLAIN, count, layer->width, layer->inner, grad_inner,
               (da_matrix){layer->up_weight, layer->width}, false, grad_normed, layer->width);
    da_norm_block_backward(&p->sums, &layer->norm, block, count,
                           da_elements_on(p->x, first * layer->width, layer->real), grad_normed,
                           da_elements_on(p->grad, first * layer->width, layer->real));
}

static void weights(const pass *p, int64_t count) {
    const da_feed_forward *layer = p->layer;
    int64_t first = p->first_block * DA_ROW_BLOCK;
    da_matrix grad = {da_elements_on(p->grad, first * layer->width, layer->real), layer->width};
    da_linear_gradient(layer->real, layer->threads, layer->width, count, layer->inner, grad,
                       (da_matrix){p->active, layer->inner}, p->gradients->down_weight, p->gradients->down_bias);
    da_linear_gradient(layer->real, layer->threads, layer->inner, count, layer->width,
                       (da_matrix){p->grad_inner, layer->inner}, (da_matrix){p->normed, layer->width},
                       p->gradients->up_weight, p->gradients->up_bias);
}

void da_feed_forward_backward(const da_feed_forward *layer, int64_t rows, const void *x, void *grad,
                              const da_feed_forward_gradients *gradients) {
    pass p = begin(layer, rows);
    int64_t chunk = least(rows, DA_CHUNK_BLOCKS * DA_ROW_BLOCK), blocks = da_row_blocks(rows);
    p.x = da_elements_on(x, 0, layer->real);
    p.grad = grad;
    p.gradients = gradients;
    p.normed = da_elements_on(layer->memory, layer->threads * p.scratch_elements, layer->real);
    p.active = da_elements_on(p.normed, chunk * layer->width, layer->real);
    p.grad_inner = da_elements_on(p.active, chunk * layer->inner, layer->real);
    p.sums = (da_norm_sums){layer->real, layer->width, da_elements_on(p.grad_inner, chunk * layer->inner, layer->real)};
    for (; p.first_block < blocks; p.first_block += DA_CHUNK_BLOCKS) {
        int64_t count = least(blocks - p.first_block, DA_CHUNK_BLOCKS);
        da_norm_sums_clear(&p.sums);
        da_parallel_for(layer->threads, count, inner_block, &p);
        weights(&p, least(rows - p.first_block * DA_ROW_BLOCK, chunk));
        da_parallel_for(layer->threads, count, outer_block, &p);
        da_norm_sums_collect(&p.sums, gradients->norm_weight, gradients->norm_bias);
    }
}
