#include "attention/block_sparse/report.h"

#include <string.h>

#include "attention/workspace.h"
#include "core/parallel.h"
#include "pattern/pairs.h"
#include "pattern/tile_universe.h"

/* Rows that a thread counts at a time. */
#define ROWS_AT_A_TIME 16

/* Pairs are whole numbers that a double holds exactly, so that it does not matter who adds which. */
typedef struct sums {
    int64_t tiles_kept, tiles_all;
    double pairs_kept, pairs_all;
} sums;

/* One thread's memory. */
typedef struct worker {
    sums *sums;
    uint8_t *marks;    /* [blocks] */
    int32_t *universe; /* [blocks] */
    da_piece *pieces;  /* [blocks] */
} worker;

typedef struct counting {
    const da_attention_config *config;
    const da_tiles *tiles;
    int64_t heads; /* of the call */
    char *memory;
    size_t memory_per_thread;
} counting;

static size_t lay_out(worker *w, char *memory, int64_t blocks) {
    da_arena arena = {memory, 0};
    w->sums = da_arena_take(&arena, 1, sizeof *w->sums);
    w->marks = da_arena_take(&arena, (size_t)blocks, sizeof *w->marks);
    w->universe = da_arena_take(&arena, (size_t)blocks, sizeof *w->universe);
    w->pieces = da_arena_take(&arena, (size_t)blocks, sizeof *w->pieces);
    return arena.used;
}

static da_piece piece_of(const da_tiles *tiles, int64_t block) {
    int64_t first = block * tiles->block_size, size = tiles->block_size;
    return (da_piece){first, size < tiles->n - first ? first + size : tiles->n, 0};
}

/* The tiles of a row that are in its universe, as stretches of keys; returns how many tiles. */
static int64_t kept_pieces(const da_tiles *tiles, int64_t row, const worker *w, int64_t universe, da_part *keys) {
    const int32_t *column = tiles->columns + tiles->row_starts[row];
    const int32_t *end = tiles->columns + tiles->row_starts[row + 1];
    int64_t kept = 0;
    *keys = (da_part){0, 0, w->pieces};
    for (int64_t k = 0; k < universe && column < end; column++) {
        while (k < universe && w->universe[k] < *column) {
            k++;
        }
        if (k == universe || w->universe[k] != *column) {
            continue;
        }
        da_piece piece = piece_of(tiles, *column);
        da_piece *last = keys->piece_count > 0 ? &w->pieces[keys->piece_count - 1] : NULL;
        if (last && last->end == piece.first) {
            last->end = piece.end;
        } else {
            piece.row = keys->length;
            w->pieces[keys->piece_count++] = piece;
        }
        keys->length += piece.end - piece.first;
        kept++;
    }
    return kept;
}

static void count_row(const da_tiles *tiles, const da_head_patterns *patterns, int64_t row, int64_t block,
                      const worker *w) {
    const da_piece all = {0, tiles->n, 0}, own = piece_of(tiles, block);
    const da_piece own_piece = {own.first, own.end, 0};
    const da_part queries = {own.end - own.first, 1, &own_piece}, all_keys = {tiles->n, 1, &all};
    da_part keys;
    int64_t universe = da_tile_universe(patterns, tiles->block_size, block, w->marks, w->universe);
    w->sums->tiles_all += universe;
    w->sums->tiles_kept += kept_pieces(tiles, row, w, universe, &keys);
    w->sums->pairs_all += da_pairs_count(patterns, &queries, &all_keys).distinct;
    w->sums->pairs_kept += keys.length > 0 ? da_pairs_count(patterns, &queries, &keys).distinct : 0;
}

/* Some rows of one head, of one of the lists' batch elements. */
static void count_rows(int64_t index, int thread, void *user) {
    const counting *job = user;
    const da_tiles *tiles = job->tiles;
    int64_t parts = (tiles->blocks - 1) / ROWS_AT_A_TIME + 1, sequence = index / parts;
    int64_t first = index % parts * ROWS_AT_A_TIME, head = sequence % job->heads;
    worker w;
    da_head_patterns patterns;
    lay_out(&w, job->memory + (size_t)thread * job->memory_per_thread, tiles->blocks);
    da_head_patterns_init(&patterns, job->config, tiles->n, job->heads, head);
    for (int64_t block = first; block < first + ROWS_AT_A_TIME && block < tiles->blocks; block++) {
        count_row(tiles, &patterns, da_tiles_row(tiles, sequence / job->heads, head, block), block, &w);
    }
}

da_status da_sparse_count(const da_context *context, const da_attention_config *config, const da_tiles *tiles,
                          int64_t batch, int64_t heads, da_sparse_report *report) {
    const da_allocator *allocator = da_context_allocator(context);
    counting job = {.config = config, .tiles = tiles, .heads = heads};
    worker w;
    int64_t parts = tiles->batch * heads * ((tiles->blocks - 1) / ROWS_AT_A_TIME + 1), times = batch / tiles->batch;
    int threads = da_threads_for(context, &config->tuning, parts);
    job.memory_per_thread = lay_out(&w, NULL, tiles->blocks);
    job.memory = da_allocate(allocator, (size_t)threads, job.memory_per_thread);
    if (!job.memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    memset(job.memory, 0, (size_t)threads * job.memory_per_thread);
    da_parallel_for(threads, parts, count_rows, &job);
    report->tiles_kept = report->tiles_all = 0;
    report->pairs_kept = report->pairs_all = 0;
    for (int thread = 0; thread < threads; thread++) {
        lay_out(&w, job.memory + (size_t)thread * job.memory_per_thread, tiles->blocks);
        report->tiles_kept += times * w.sums->tiles_kept;
        report->tiles_all += times * w.sums->tiles_all;
        report->pairs_kept += (double)times * w.sums->pairs_kept;
        report->pairs_all += (double)times * w.sums->pairs_all;
    }
    da_release(allocator, job.memory);
    return DA_OK;
}

size_t da_sparse_count_workspace(const da_context *context, const da_attention_config *config, int64_t n,
                                 int64_t block_size) {
    worker w;
    size_t of_thread = lay_out(&w, NULL, da_tile_blocks(n, block_size));
    return da_allocated_bytes((size_t)da_threads_for(context, &config->tuning, INT64_MAX) * of_thread);
}
