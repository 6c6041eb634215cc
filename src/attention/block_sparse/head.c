#include "attention/block_sparse/head.h"

#include <math.h>

#include "attention/workspace.h"
#include "core/dtype.h"
#include "pattern/tiles.h"

static const double ln_2 = 0.69314718055994530942;

void da_sparse_head_init(da_sparse_head *head, const da_context *context, const da_attention_config *config,
                         const da_tensor *query, const da_tensor *key, const da_call_options *options) {
    double scale = config->scale_is_set ? config->scale : 1 / sqrt((double)query->shape[3]);
    *head = (da_sparse_head){
        .context = context,
        .config = config,
        .query = query,
        .key = key,
        .options = options,
        .kernels = da_kernels_for(da_context_isa(context), DA_F32),
        .threads = da_threads_for(context, &config->tuning, DA_MAX_THREADS),
        .factor = scale / ln_2,
        .n = query->shape[1],
        .heads = query->shape[2],
        .block_size = config->block_size,
        .blocks = da_tile_blocks(query->shape[1], config->block_size),
    };
}

void da_sparse_head_at(da_sparse_head *head, int64_t sequence) {
    head->batch = sequence / head->heads;
    head->head = sequence % head->heads;
    head->key_head = head->head / (head->heads / head->key->shape[2]);
    da_head_patterns_init(&head->patterns, head->config, head->n, head->heads, head->head);
}

void da_kernel_rows_of(da_kernel_rows *rows, const da_tensor *tensor, int64_t batch, int64_t head) {
    int64_t size = (int64_t)da_dtype_size(tensor->dtype);
    rows->first = da_tensor_row(tensor, batch, 0, head);
    rows->step = tensor->stride[1] * size;
    rows->n = tensor->shape[1];
    rows->head_dim = tensor->shape[3];
    rows->rounds = tensor->dtype == DA_F64;
    rows->stride = rows->rounds ? 1 : tensor->stride[3];
    rows->dtype = rows->rounds ? DA_F32 : tensor->dtype;
    rows->prefetched = tensor->stride[3] == 1 ? (size_t)(rows->head_dim * size) : 0;
    rows->row_stride = tensor->stride[3];
}

const void *da_kernel_round(da_kernel_rows *rows, const char *row) {
    for (int64_t c = 0; c < rows->head_dim; c++) {
        rows->rounded[c] = (float)da_dtype_load(DA_F64, row + c * rows->row_stride * (int64_t)sizeof(double));
    }
    return rows->rounded;
}

int64_t da_sparse_next_kept(const da_head_pattern *pattern, int64_t n, int64_t from) {
    while (from < n) {
        int64_t end = da_segment_end(pattern, n, from);
        int64_t kept = da_first_congruent(from, da_segment_first(pattern, from) + pattern->offset, pattern->rate);
        if (kept < end) {
            return kept;
        }
        from = end;
    }
    return n;
}
