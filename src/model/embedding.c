#include "model/embedding.h"

#include <string.h>

#include "core/parallel.h"
#include "multihead/linear.h"
#include "multihead/rows.h"

#define COLUMNS 64 /* that are one job backward: jobs share no element, and each goes through the rows in order */

typedef struct embedding_work {
    da_dtype real;
    int64_t width, rows;
    const int32_t *tokens;
    const void *source;
    void *target;
} embedding_work;

static void forward_block(int64_t block, int thread, void *user) {
    const embedding_work *w = user;
    size_t bytes = (size_t)w->width * da_dtype_size(w->real);
    int64_t end = (block + 1) * DA_ROW_BLOCK < w->rows ? (block + 1) * DA_ROW_BLOCK : w->rows;
    for (int64_t row = block * DA_ROW_BLOCK; row < end; row++) {
        memcpy(da_elements_on(w->target, row * w->width, w->real),
               da_elements_on(w->source, w->tokens[row] * w->width, w->real), bytes);
    }
}

void da_embedding_forward(da_dtype real, int threads, int64_t width, const void *weight, int64_t rows,
                          const int32_t *tokens, void *x) {
    embedding_work work = {real, width, rows, tokens, weight, x};
    da_parallel_for(threads, da_row_blocks(rows), forward_block, &work);
}

static void backward_columns(int64_t block, int thread, void *user) {
    const embedding_work *w = user;
    int64_t first = block * COLUMNS, count = w->width - first < COLUMNS ? w->width - first : COLUMNS;
    for (int64_t row = 0; row < w->rows; row++) {
        da_add_elements(w->real, da_elements_on(w->target, w->tokens[row] * w->width + first, w->real),
                        da_elements_on(w->source, row * w->width + first, w->real), count);
    }
}

void da_embedding_backward(da_dtype real, int threads, int64_t width, const void *grad, int64_t rows,
                           const int32_t *tokens, void *weight) {
    embedding_work work = {real, width, rows, tokens, grad, weight};
    da_parallel_for(threads, (width + COLUMNS - 1) / COLUMNS, backward_columns, &work);
}
