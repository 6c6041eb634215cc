#include "attention/block_sparse/full.h"

#include <string.h>

#include "core/parallel.h"
#include "pattern/tile_universe.h"

/* One thread's memory. */
typedef struct worker {
    uint8_t *marks;    /* [blocks] */
    int32_t *universe; /* [blocks] */
} worker;

typedef struct search {
    const da_attention_config *config;
    const da_tiles *tiles;
    int64_t heads; /* of the call */
    bool *full;
    char *memory;
    size_t memory_per_thread;
} search;

static size_t lay_out(worker *w, char *memory, int64_t blocks) {
    da_arena arena = {memory, 0};
    w->marks = da_arena_take(&arena, (size_t)blocks, sizeof *w->marks);
    w->universe = da_arena_take(&arena, (size_t)blocks, sizeof *w->universe);
    return arena.used;
}

/* Are all of these columns, in ascending order, among a row's? */
static bool holds_all(const da_tiles *tiles, int64_t row, const int32_t *columns, int64_t count) {
    int64_t k = tiles->row_starts[row], end = tiles->row_starts[row + 1];
    if (end - k < count) {
        return false;
    }
    for (int64_t found = 0; found < count; k++) {
        if (k == end || tiles->columns[k] > columns[found]) {
            return false;
        }
        found += tiles->columns[k] == columns[found];
    }
    return true;
}

/* Rows with the most tiles come first where attention is causal: they tell most often. */
static void search_head(int64_t sequence, int thread, void *user) {
    const search *job = user;
    const da_tiles *tiles = job->tiles;
    int64_t batch = sequence / job->heads, head = sequence % job->heads;
    worker w;
    da_head_patterns patterns;
    (void)lay_out(&w, job->memory + (size_t)thread * job->memory_per_thread, tiles->blocks);
    da_head_patterns_init(&patterns, job->config, tiles->n, job->heads, head);
    bool full = true;
    for (int64_t block = tiles->blocks - 1; full && block >= 0; block--) {
        int64_t count = da_tile_universe(&patterns, tiles->block_size, block, w.marks, w.universe);
        full = holds_all(tiles, da_tiles_row(tiles, batch, head, block), w.universe, count);
    }
    job->full[sequence] = full;
}

da_status da_sparse_find_full(const da_context *context, const da_attention_config *config, const da_tiles *tiles,
                              int64_t batch, int64_t heads, bool *full) {
    const da_allocator *allocator = da_context_allocator(context);
    search job = {.config = config, .tiles = tiles, .heads = heads, .full = full};
    worker w;
    int64_t different = tiles->batch * heads; /* heads of the batch elements that lists tell apart */
    int threads = da_threads_for(context, &config->tuning, different);
    job.memory_per_thread = lay_out(&w, NULL, tiles->blocks);
    job.memory = da_allocate(allocator, (size_t)threads, job.memory_per_thread);
    if (!job.memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    memset(job.memory, 0, (size_t)threads * job.memory_per_thread);
    da_parallel_for(threads, different, search_head, &job);
    da_release(allocator, job.memory);
    for (int64_t sequence = different; sequence < batch * heads; sequence++) {
        full[sequence] = full[sequence - heads];
    }
    return DA_OK;
}

size_t da_sparse_full_workspace(const da_context *context, const da_attention_config *config, const da_problem *problem,
                                int64_t block_size) {
    worker w;
    size_t of_thread = lay_out(&w, NULL, da_tile_blocks(problem->n, block_size));
    int threads = da_threads_for(context, &config->tuning, problem->batch * problem->heads);
    return da_allocated_bytes((size_t)threads * of_thread);
}
