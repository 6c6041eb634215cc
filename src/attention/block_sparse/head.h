/* One head of one batch element, as those who choose tiles see it. */
#ifndef DA_BLOCK_SPARSE_HEAD_H
#define DA_BLOCK_SPARSE_HEAD_H

#include "core/compiler.h"
#include "core/tensor.h"
#include "kernels/kernels.h"
#include "pattern/pattern.h"

typedef struct da_sparse_head {
    const da_context *context;
    const da_attention_config *config;
    const da_tensor *query, *key;
    const da_call_options *options;
    const da_kernels *kernels; /* for f32 */
    int threads;
    double factor; /* of scores, in units of log 2: scale / ln 2 */
    int64_t n, heads, block_size, blocks;
    int64_t batch, head, key_head;
    da_head_patterns patterns;
} da_sparse_head;

/* What all heads of a call have in common. Tensors and options are as the checks of call.h leave them. */
void da_sparse_head_init(da_sparse_head *head, const da_context *context, const da_attention_config *config,
                         const da_tensor *query, const da_tensor *key, const da_call_options *options);

/* Goes to sequence 0..batch * heads - 1. */
void da_sparse_head_at(da_sparse_head *head, int64_t sequence);

/* The rows of one head of a tensor, for kernels that do not take f64: rows of f64 are rounded first. */
typedef struct da_kernel_rows {
    const char *first;
    int64_t step; /* bytes from row to row */
    int64_t n, head_dim, row_stride;
    int64_t stride; /* between components, and data type, of rows as da_kernel_row gives them */
    da_dtype dtype;
    bool rounds;
    size_t prefetched; /* bytes of a row */
    float rounded[DA_MAX_HEAD_DIM];
} da_kernel_rows;

void da_kernel_rows_of(da_kernel_rows *rows, const da_tensor *tensor, int64_t batch, int64_t head);

/* Rounds a row of f64. */
const void *da_kernel_round(da_kernel_rows *rows, const char *row);

/* How many rows ahead of their use others are asked for. */
#define DA_PREFETCH_ROWS 16

/* Row i, with stride and data type of `rows`; holds until the next. After it, `count` rows, `rate` apart, are to be read (one
 * where rows are rounded). */
static inline const void *da_kernel_run(da_kernel_rows *rows, int64_t i, int64_t rate, int count) {
    const char *row = rows->first + i * rows->step;
    for (int64_t k = DA_PREFETCH_ROWS; k < DA_PREFETCH_ROWS + count && i + k * rate < rows->n; k++) {
        for (size_t line = 0; line < rows->prefetched; line += DA_CACHE_LINE) {
            PREFETCH(row + k * rate * rows->step + (int64_t)line);
        }
    }
    return rows->rounds ? da_kernel_round(rows, row) : row;
}

static inline const void *da_kernel_row(da_kernel_rows *rows, int64_t i) {
    return da_kernel_run(rows, i, 1, 1);
}

/* The first token from `from` on that a pattern keeps; n: there is none. */
int64_t da_sparse_next_kept(const da_head_pattern *pattern, int64_t n, int64_t from);

#endif
