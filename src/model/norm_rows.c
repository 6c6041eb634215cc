#include "model/norm_rows.h"

#include <string.h>

#include "core/parallel.h"
#include "multihead/linear.h"

static int64_t block_rows(int64_t rows, int64_t block) {
    int64_t rest = rows - block * DA_ROW_BLOCK;
    return rest < DA_ROW_BLOCK ? rest : DA_ROW_BLOCK;
}

/* ---- sums -------------------------------------------------------------------------------------------------------- */

static void *partial_of(const da_norm_sums *sums, int64_t block, int which) {
    return da_elements_on(sums->partials, (block % DA_CHUNK_BLOCKS * 2 + which) * sums->width, sums->real);
}

void da_norm_sums_clear(const da_norm_sums *sums) {
    memset(sums->partials, 0, (size_t)da_norm_sums_elements(sums->width) * da_dtype_size(sums->real));
}

void da_norm_block_backward(const da_norm_sums *sums, const da_layer_norm *norm, int64_t block, int64_t count,
                            const void *x, void *grad_y, void *grad_x) {
    int64_t width = norm->width;
    da_layer_norm_backward(sums->real, norm, count, (da_matrix){x, width}, (da_matrix){grad_y, width}, grad_y, width,
                           partial_of(sums, block, 0), partial_of(sums, block, 1));
    da_add_elements(sums->real, grad_x, grad_y, count * width);
}

void da_norm_sums_collect(const da_norm_sums *sums, void *weight, void *bias) {
    for (int64_t block = 0; block < DA_CHUNK_BLOCKS; block++) {
        da_add_elements(sums->real, weight, partial_of(sums, block, 0), sums->width);
        da_add_elements(sums->real, bias, partial_of(sums, block, 1), sums->width);
    }
}

/* ---- all rows ---------------------------------------------------------------------------------------------------- */

typedef struct norm_work {
    da_dtype real;
    const da_layer_norm *norm;
    int64_t rows, first_block;
    const void *x;
    void *y, *grad_x; /* y: grad_y in the backward pass */
    const da_norm_sums *sums;
} norm_work;

static void forward_block(int64_t block, int thread, void *user) {
    const norm_work *w = user;
    int64_t width = w->norm->width, first = block * DA_ROW_BLOCK * width;
    da_layer_norm_forward(w->real, w->norm, block_rows(w->rows, block),
                          (da_matrix){da_elements_on(w->x, first, w->real), width},
                          da_elements_on(w->y, first, w->real), width);
}

void da_norm_rows(da_dtype real, int threads, const da_layer_norm *norm, int64_t rows, const void *x, void *y) {
    norm_work work = {.real = real, .norm = norm, .rows = rows, .x = x, .y = y};
    da_parallel_for(threads, da_row_blocks(rows), forward_block, &work);
}

static void backward_block(int64_t index, int thread, void *user) {
    const norm_work *w = user;
    int64_t block = w->first_block + index, first = block * DA_ROW_BLOCK * w->norm->width;
    da_norm_block_backward(w->sums, w->norm, block, block_rows(w->rows, block), da_elements_on(w->x, first, w->real),
                           da_elements_on(w->y, first, w->real), da_elements_on(w->grad_x, first, w->real));
}

void da_norm_rows_backward(da_dtype real, int threads, const da_layer_norm *norm, int64_t rows, const void *x,
                           void *grad_y, void *grad_x, const da_norm_sums *sums, void *weight, void *bias) {
    norm_work work = {.real = real, .norm = norm, .rows = rows, .x = x, .y = grad_y, .grad_x = grad_x, .sums = sums};
    int64_t blocks = da_row_blocks(rows);
    for (; work.first_block < blocks; work.first_block += DA_CHUNK_BLOCKS) {
        int64_t rest = blocks - work.first_block;
        da_norm_sums_clear(sums);
        da_parallel_for(threads, rest < DA_CHUNK_BLOCKS ? rest : DA_CHUNK_BLOCKS, backward_block, &work);
        da_norm_sums_collect(sums, weight, bias);
    }
}
