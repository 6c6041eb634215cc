#include "attention/block_sparse/patterns.h"

#include <limits.h>
#include <math.h>
#include <string.h>

#include "attention/block_sparse/rank.h"
#include "attention/dropout.h"
#include "attention/workspace.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "pattern/tile_universe.h"

/* Rows that a thread lists at a time. */
#define ROWS_AT_A_TIME 64

/* Second counter of the generator, for draws of tiles. */
#define TILE_DRAW 0x656c6974u

size_t da_sparse_scratch_lay_out(da_sparse_scratch *scratch, char *memory, int64_t blocks) {
    da_arena arena = {memory, 0};
    scratch->order = da_arena_take(&arena, (size_t)blocks, sizeof *scratch->order);
    scratch->columns = da_arena_take(&arena, (size_t)blocks, sizeof *scratch->columns);
    scratch->marks = da_arena_take(&arena, (size_t)blocks, sizeof *scratch->marks);
    scratch->taken = da_arena_take(&arena, (size_t)blocks, sizeof *scratch->taken);
    return arena.used;
}

int64_t da_sparse_kept(double ratio, int64_t universe) {
    /* A ratio like 0.1 is a little more or less than a tenth: what is beyond a whole number by rounding alone does not
     * count. */
    int64_t kept = (int64_t)ceil(ratio * (double)universe * (1 - 1e-12));
    kept = kept < 1 ? 1 : kept;
    return kept < universe ? kept : universe;
}

/* ---- taking some of a row's universe ----------------------------------------------------------------------------- */

typedef struct sparse_row {
    const da_attention_config *config;
    int64_t row, count; /* of the universe */
    const int32_t *columns;
    uint64_t *order;
    uint8_t *taken;
    uint32_t draw_key;
    int64_t grid_width; /* of axial */
} sparse_row;

/* What an order ranks first is taken first. Its numbers are below 2^32. */
typedef uint64_t (*row_order)(const sparse_row *r, int64_t column);

/* The nearest first; of two equally near ones the earlier. */
static uint64_t by_distance(const sparse_row *r, int64_t column) {
    int64_t distance = column < r->row ? r->row - column : column - r->row;
    uint64_t twice = 2 * (uint64_t)distance + (column > r->row);
    return twice < UINT32_MAX ? twice : UINT32_MAX;
}

static uint64_t by_position(const sparse_row *r, int64_t column) {
    return (uint64_t)column;
}

static uint64_t by_draw(const sparse_row *r, int64_t column) {
    return da_philox_2x32(r->draw_key, (uint32_t)r->row, (uint32_t)column);
}

static bool shares_line(const sparse_row *r, int64_t column) {
    return column / r->grid_width == r->row / r->grid_width || column % r->grid_width == r->row % r->grid_width;
}

/* Those of the own line first, then the others, by distance. */
static uint64_t by_line(const sparse_row *r, int64_t column) {
    return by_distance(r, column) / 2 + (shares_line(r, column) ? 0 : (uint64_t)1 << 31);
}

/* Order and column in one number, so that no two are equal. */
static uint64_t number_of(const sparse_row *r, row_order order, int64_t index) {
    return order(r, r->columns[index]) << 32 | (uint32_t)r->columns[index];
}

/* Takes the first `wanted`, by an order, of those not yet taken. */
static void take(const sparse_row *r, row_order order, int64_t wanted) {
    int64_t left = 0;
    for (int64_t k = 0; k < r->count; k++) {
        if (!r->taken[k]) {
            r->order[left++] = number_of(r, order, k);
        }
    }
    if (wanted <= 0 || left == 0) {
        return;
    }
    uint64_t last = wanted < left ? da_number_of_rank(r->order, left, wanted - 1) : UINT64_MAX;
    for (int64_t k = 0; k < r->count; k++) {
        r->taken[k] |= number_of(r, order, k) <= last;
    }
}

/* Takes `wanted` evenly spaced ones, from the own block on and around the end. */
static void take_every(const sparse_row *r, int64_t wanted) {
    int64_t own = 0;
    while (r->columns[own] < r->row) {
        own++;
    }
    for (int64_t k = 0; k < wanted; k++) {
        /* k * count / wanted, whose product might not fit */
        int64_t step = k * (r->count / wanted) + k * (r->count % wanted) / wanted;
        r->taken[(own + step) % r->count] = 1;
    }
}

/* Those of the universe before column `end`. */
static int64_t count_before(const sparse_row *r, int64_t end) {
    int64_t count = 0;
    while (count < r->count && r->columns[count] < end) {
        count++;
    }
    return count;
}

static void take_by_pattern(const sparse_row *r, da_sparse_pattern pattern, int64_t kept) {
    int64_t globals;
    switch (pattern) {
    case DA_SPARSE_GLOBAL_LOCAL:
        globals = count_before(r, r->config->global_blocks);
        take(r, by_distance, 1);
        take(r, by_position, globals < kept - 1 ? globals : kept - 1);
        break;
    case DA_SPARSE_DILATED_SPARSE: take_every(r, kept); return;
    case DA_SPARSE_AXIAL: take(r, by_line, kept); return;
    case DA_SPARSE_RANDOM:
        take(r, by_distance, 1);
        take(r, by_draw, kept - 1);
        return;
    case DA_SPARSE_HYBRID:
        take(r, by_distance, kept - kept / 3 * 2);
        take(r, by_position, kept / 3);
        take(r, by_draw, kept / 3);
        return;
    default: break;
    }
    int64_t taken = 0;
    for (int64_t k = 0; k < r->count; k++) {
        taken += r->taken[k];
    }
    take(r, by_distance, kept - taken);
}

/* The narrowest grid, at least as wide as it is high, in which a line and a column have the wanted part of all blocks: of
 * `width` blocks and (blocks - 1) / width more. The search begins a little before the root of width + blocks / width =
 * wanted. */
static int64_t width_of_grid(int64_t blocks, double ratio) {
    double wanted = ratio * (double)blocks, under_root = wanted * wanted - 4 * (double)blocks;
    int64_t width = (int64_t)ceil(sqrt((double)blocks));
    int64_t near_root = under_root > 0 ? (int64_t)((wanted + sqrt(under_root)) / 2) - 2 : 0;
    width = near_root > width ? near_root : width;
    while (width < blocks && (double)(width + (blocks - 1) / width) < wanted) {
        width++;
    }
    return width;
}

int64_t da_sparse_row(const da_attention_config *config, const da_sparse_rule *rule, const da_head_patterns *patterns,
                      int64_t head, int64_t row, const da_sparse_scratch *scratch, int32_t *columns) {
    int64_t blocks = da_tile_blocks(patterns->n, config->block_size);
    int64_t count =
        da_tile_universe(patterns, config->block_size, row, scratch->marks, columns ? scratch->columns : NULL);
    bool whole = rule->pattern == DA_SPARSE_GLOBAL_LOCAL && row < config->global_blocks;
    int64_t kept = whole || count == 0 ? count : da_sparse_kept(rule->ratio, count), written = 0;
    if (!columns) {
        return kept;
    }
    const sparse_row r = {
        .config = config,
        .row = row,
        .count = count,
        .columns = scratch->columns,
        .order = scratch->order,
        .taken = scratch->taken,
        .draw_key = da_philox_4x32(config->sparse_seed, (uint32_t)head, TILE_DRAW),
        .grid_width = rule->pattern == DA_SPARSE_AXIAL ? width_of_grid(blocks, rule->ratio) : 1,
    };
    if (kept == count) {
        memcpy(columns, scratch->columns, (size_t)count * sizeof *columns);
        return kept;
    }
    take_by_pattern(&r, rule->pattern, kept);
    for (int64_t k = 0; k < count; k++) {
        if (r.taken[k]) {
            columns[written++] = r.columns[k];
        }
    }
    memset(r.taken, 0, (size_t)count);
    return written;
}

/* ---- lists ------------------------------------------------------------------------------------------------------- */

typedef struct listing {
    const da_attention_config *config;
    int64_t all_heads;
    const da_sparse_rule *rules;
    bool one_rule, counts; /* counts: the rows' numbers of tiles; otherwise their columns */
    da_tiles *tiles;
    char *memory;
    size_t memory_per_thread;
    da_progress_state progress; /* of counting, then of writing */
} listing;

/* Lists some rows of one sequence. */
static void list_rows(int64_t index, int thread, void *user) {
    listing *job = user;
    da_tiles *tiles = job->tiles;
    int64_t parts = (tiles->blocks - 1) / ROWS_AT_A_TIME + 1, sequence = index / parts;
    int64_t first = index % parts * ROWS_AT_A_TIME, head = sequence % tiles->heads;
    da_sparse_scratch scratch;
    da_head_patterns patterns;
    if (da_progress_cancelled(&job->progress)) {
        return;
    }
    da_sparse_scratch_lay_out(&scratch, job->memory + (size_t)thread * job->memory_per_thread, tiles->blocks);
    da_head_patterns_init(&patterns, job->config, tiles->n, job->all_heads, head);
    for (int64_t row = first; row < first + ROWS_AT_A_TIME && row < tiles->blocks; row++) {
        int64_t *start = tiles->row_starts + sequence * tiles->blocks + row;
        int64_t kept = da_sparse_row(job->config, &job->rules[job->one_rule ? 0 : sequence], &patterns, head, row,
                                     &scratch, job->counts ? NULL : tiles->columns + start[0]);
        if (job->counts) {
            start[1] = kept;
        }
    }
    da_progress_step(&job->progress, thread);
}

/* After an error nothing is held. */
static da_status run_listing(listing *job, const da_allocator *allocator, const da_call_options *options, int threads,
                             int64_t parts) {
    da_progress_begin(&job->progress, options, 2 * parts);
    da_parallel_for(threads, parts, list_rows, job);
    if (!da_progress_cancelled(&job->progress)) {
        da_status status = da_tiles_place(job->tiles, allocator);
        if (status != DA_OK) {
            return status;
        }
        job->counts = false;
        da_parallel_for(threads, parts, list_rows, job);
    }
    da_status status = da_progress_end(&job->progress);
    if (status != DA_OK) {
        da_tiles_release(job->tiles, allocator);
    }
    return status;
}

da_status da_sparse_list(const da_context *context, const da_attention_config *config, int64_t n, int64_t all_heads,
                         int64_t batch, int64_t heads, const da_sparse_rule *rules, bool one_rule,
                         const da_call_options *options, da_tiles *out) {
    const da_allocator *allocator = da_context_allocator(context);
    da_sparse_scratch scratch;
    listing job = {
        .config = config, .all_heads = all_heads, .rules = rules, .one_rule = one_rule, .counts = true, .tiles = out};
    da_status status = da_tiles_begin(out, allocator, batch, heads, n, config->block_size);
    if (status != DA_OK) {
        return status;
    }
    int64_t parts = batch * heads * ((out->blocks - 1) / ROWS_AT_A_TIME + 1);
    int threads = da_threads_for(context, &config->tuning, parts);
    job.memory_per_thread = da_sparse_scratch_lay_out(&scratch, NULL, out->blocks);
    job.memory = da_allocate(allocator, (size_t)threads, job.memory_per_thread);
    if (!job.memory) {
        da_tiles_release(out, allocator);
        return DA_ERROR_OUT_OF_MEMORY;
    }
    memset(job.memory, 0, (size_t)threads * job.memory_per_thread);
    status = run_listing(&job, allocator, options, threads, parts);
    da_release(allocator, job.memory);
    return status;
}

size_t da_sparse_list_workspace(const da_context *context, const da_attention_config *config, int64_t n, size_t rows) {
    da_sparse_scratch scratch;
    int threads = da_threads_for(context, &config->tuning, rows < INT_MAX ? (int64_t)rows : INT_MAX);
    size_t memory = da_sparse_scratch_lay_out(&scratch, NULL, da_tile_blocks(n, config->block_size));
    return da_allocated_bytes((size_t)threads * memory);
}

bool da_sparse_heads_alike(const da_attention_config *config, const da_sparse_rule *rule) {
    if (config->mixing != DA_MIXING_LONGNET || rule->pattern == DA_SPARSE_RANDOM || rule->pattern == DA_SPARSE_HYBRID) {
        return false;
    }
    for (size_t p = 0; p < config->segment_count; p++) {
        if (config->dilation_rates[p] != 1) { /* which tokens are kept depends on the head */
            return false;
        }
    }
    return true;
}
