#include "attention/block_sparse/measure.h"

#include "attention/block_sparse/sample.h"
#include "attention/block_sparse/tally.h"
#include "core/memory.h"

#define PURPOSES (1U << DA_SAMPLE_REPORT)

static size_t lay_out(da_sample *sample, char **scratch, const da_sparse_head *head, char *memory) {
    da_arena arena = {memory, 0};
    da_sample_lay_out(sample, head, PURPOSES, &arena);
    *scratch = da_arena_take(&arena, (size_t)head->threads, da_sample_scratch(head));
    return arena.used;
}

static void measure_head(const da_sparse_head *head, const da_tiles *tiles, char *memory, da_tally *found) {
    da_sample sample;
    char *scratch;
    (void)lay_out(&sample, &scratch, head, memory);
    da_sample_take(&sample, head, PURPOSES, scratch);
    for (int k = 0; k < sample.count; k++) {
        if (!sample.queries[k].has_keys) {
            continue;
        }
        int64_t row = da_tiles_row(tiles, head->batch, head->head, sample.queries[k].position / head->block_size);
        double kept = da_sample_kept(&sample, head, k, tiles->columns + tiles->row_starts[row],
                                     tiles->row_starts[row + 1] - tiles->row_starts[row]);
        da_tally_add(found, kept);
    }
}

/* The heads of a batch element have patterns of their own, and may need memory of different sizes. */
static size_t most_memory(da_sparse_head *head) {
    da_sample sample;
    char *scratch;
    size_t most = 0;
    for (int64_t h = 0; h < head->heads; h++) {
        da_sparse_head_at(head, h);
        size_t bytes = lay_out(&sample, &scratch, head, NULL);
        most = bytes > most ? bytes : most;
    }
    return most;
}

da_status da_sparse_measure(const da_context *context, const da_attention_config *config, const da_tensor *query,
                            const da_tensor *key, const da_call_options *options, const da_tiles *tiles,
                            da_sparse_report *report) {
    const da_allocator *allocator = da_context_allocator(context);
    da_sparse_head head;
    da_tally found = {0};
    da_sparse_head_init(&head, context, config, query, key, options);
    head.block_size = tiles->block_size; /* a mask's may be another than the configuration's */
    head.blocks = tiles->blocks;
    char *memory = da_allocate(allocator, most_memory(&head), 1);
    if (!memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    for (int64_t s = 0; s < query->shape[0] * head.heads; s++) {
        da_sparse_head_at(&head, s);
        measure_head(&head, tiles, memory, &found);
    }
    da_release(allocator, memory);
    report->sampled_queries = found.count;
    report->mass_kept = da_tally_mean(&found);
    report->mass_error = da_tally_error(&found);
    return DA_OK;
}

size_t da_sparse_measure_workspace(const da_context *context, const da_attention_config *config,
                                   const da_problem *problem, int64_t block_size) {
    int64_t n = problem->n;
    const da_tensor query = da_tensor_make(NULL, problem->dtype, problem->batch, n, problem->heads, problem->head_dim);
    const da_tensor key = da_tensor_make(NULL, problem->dtype, problem->batch, n, problem->kv_heads, problem->head_dim);
    da_sparse_head head;
    da_sparse_head_init(&head, context, config, &query, &key, NULL);
    head.block_size = block_size;
    head.blocks = da_tile_blocks(n, block_size);
    return da_allocated_bytes(most_memory(&head));
}
