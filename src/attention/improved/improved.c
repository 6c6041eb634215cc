/* `improved`: the fast forward pass. Keys and values of a rectangle (pattern/schedule.h) are gathered and packed in
 * blocks; the micro-kernels (kernels/kernels.h) take them against tiles of query rows, with one running softmax per row
 * through all patterns. Nothing here depends on the data type or the instruction set. */
#include "attention/improved/improved.h"

#include <math.h>
#include <string.h>

#include "attention/workspace.h"
#include "core/compiler.h"
#include "core/dtype.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "core/tensor.h"
#include "kernels/kernels.h"
#include "pattern/schedule.h"

/* Rows of an item: their queries and their running state together stay within a common second-level cache, beside a
 * block of keys; more rows reuse a packed key more often. */
#define ITEM_REALS (32 * 1024)
#define ITEM_MAX_ROWS 512
#define ITEM_MIN_ROWS 64

#define CACHE_LINE 64
#define PREFETCH_KEYS 16 /* how far ahead of their use keys are asked for */

static const double ln_2 = 0.69314718055994530942;

/* What a call's threads share. */
typedef struct forward_job {
    const da_forward_call *call;
    const da_kernels *kernels;
    int head_dim, padded_dim, max_rows;
    int64_t unit, unit_count; /* per sequence */
    char *memory;
    size_t memory_per_thread;
    da_progress_state progress;
} forward_job;

/* Running softmax of some rows. */
typedef struct row_state {
    char *maximum, *sum; /* real[rows] */
    char *accumulator;   /* real[rows][padded_dim] */
} row_state;

/* One thread's memory, and the item that it is at. */
typedef struct worker {
    const forward_job *job;
    da_schedule schedule;
    int64_t batch, head, kv_head;
    da_item item;
    row_state rows;      /* of the item, by row */
    double *zero_keys;   /* [max_rows] */
    da_rectangle chosen; /* the rows that are in the tiles now; row_count 0: none */
    row_state tiles;     /* of the chosen rows, in order */
    char *queries;       /* real[tiles][head_dim][tile_rows] */
    char *scores;
    da_key_block block;
} worker;

static int max_rows_for(int padded_dim, int64_t n) {
    int rows = ITEM_REALS / padded_dim;
    rows = rows > ITEM_MAX_ROWS ? ITEM_MAX_ROWS : rows < ITEM_MIN_ROWS ? ITEM_MIN_ROWS : rows;
    return n < rows ? (int)n : rows;
}

static int padded_dim_for(const da_kernels *kernels, int64_t head_dim) {
    return ((int)head_dim + kernels->vector_lanes - 1) / kernels->vector_lanes * kernels->vector_lanes;
}

static row_state take_rows(da_arena *arena, size_t rows, size_t padded_dim, size_t real_size) {
    row_state state;
    state.maximum = da_arena_take(arena, rows, real_size);
    state.sum = da_arena_take(arena, rows, real_size);
    state.accumulator = da_arena_take(arena, rows * padded_dim, real_size);
    return state;
}

/* Lays a worker's memory out; returns the bytes it takes. */
static size_t lay_out(worker *w, const forward_job *job, char *memory) {
    da_arena arena = {memory, 0};
    const da_kernels *kernels = job->kernels;
    size_t real = kernels->real_size, head_dim = (size_t)job->head_dim, padded = (size_t)job->padded_dim;
    size_t rows = (size_t)job->max_rows, tile = (size_t)kernels->tile_rows;
    size_t tiled_rows = (rows + tile - 1) / tile * tile;
    w->rows = take_rows(&arena, rows, padded, real);
    w->zero_keys = da_arena_take(&arena, rows, sizeof *w->zero_keys);
    w->tiles = take_rows(&arena, tiled_rows, padded, real);
    w->queries = da_arena_take(&arena, tiled_rows * head_dim, real);
    w->scores = da_arena_take(&arena, tile * DA_BLOCK_KEYS, real);
    w->block = (da_key_block){.head_dim = job->head_dim, .padded_dim = job->padded_dim};
    w->block.staged = da_arena_take(&arena, (size_t)kernels->panel_keys * padded, real);
    w->block.panels = da_arena_take(&arena, DA_BLOCK_KEYS * head_dim, real);
    w->block.values = da_arena_take(&arena, DA_BLOCK_KEYS * padded, real);
    w->block.bias = da_arena_take(&arena, DA_BLOCK_KEYS, real);
    w->block.positions = da_arena_take(&arena, DA_BLOCK_KEYS, sizeof *w->block.positions);
    return arena.used;
}

/* ---- real numbers whose type only the kernels know --------------------------------------------------------------- */

static double real_at(const forward_job *job, const char *array, int64_t index) {
    return job->kernels->real_size == sizeof(double) ? ((const double *)(const void *)array)[index]
                                                     : (double)((const float *)(const void *)array)[index];
}

static void set_real(const forward_job *job, char *array, int64_t index, double value) {
    if (job->kernels->real_size == sizeof(double)) {
        ((double *)(void *)array)[index] = value;
    } else {
        ((float *)(void *)array)[index] = (float)value;
    }
}

static char *accumulator_row(const forward_job *job, const row_state *state, int64_t row) {
    return state->accumulator + (size_t)(row * job->padded_dim) * job->kernels->real_size;
}

static void copy_row(const forward_job *job, const row_state *from, int64_t from_row, const row_state *to,
                     int64_t to_row) {
    size_t real = job->kernels->real_size;
    memcpy(to->maximum + (size_t)to_row * real, from->maximum + (size_t)from_row * real, real);
    memcpy(to->sum + (size_t)to_row * real, from->sum + (size_t)from_row * real, real);
    memcpy(accumulator_row(job, to, to_row), accumulator_row(job, from, from_row), (size_t)job->padded_dim * real);
}

/* ---- tiles of chosen rows ---------------------------------------------------------------------------------------- */

static int64_t query_position(const worker *w, int64_t chosen_row) {
    int64_t row = w->chosen.row_first + chosen_row * w->chosen.row_stride;
    return w->item.query_first + row * w->item.query_stride;
}

/* Position relative to the item, as the kernels compare it; exact up to 2^30 tokens from the item, and beyond that still
 * on the right side of every bound that causality or a window of at most 2^30 sets. */
static int32_t relative_position(const worker *w, int64_t position) {
    const int64_t limit = (int64_t)1 << 30;
    int64_t relative = position - w->item.query_first;
    return (int32_t)(relative > limit ? limit : relative < -limit ? -limit : relative);
}

/* With overlap "once" in the plain schedule: is the pair held by a pattern that came before? */
typedef struct pair_filter {
    const worker *worker;
    int first_row;
} pair_filter;

static bool held_before(int row, int32_t position, void *user) {
    const pair_filter *filter = user;
    const worker *w = filter->worker;
    int64_t i = query_position(w, filter->first_row + row), j = w->item.query_first + position;
    for (int p = 0; p < w->chosen.drop_if_held_by; p++) {
        if (da_pattern_joins(&w->schedule.patterns.pattern[p], i, j)) {
            return true;
        }
    }
    return false;
}

static void attend_tile(worker *w, int first_row) {
    const forward_job *job = w->job;
    const da_kernels *kernels = job->kernels;
    const da_head_patterns *patterns = &w->schedule.patterns;
    pair_filter filter = {w, first_row};
    size_t real = kernels->real_size;
    int rows = w->chosen.row_count - first_row;
    da_query_tile tile = {
        .queries = w->queries + (size_t)first_row * (size_t)job->head_dim * real,
        .maximum = w->tiles.maximum + (size_t)first_row * real,
        .sum = w->tiles.sum + (size_t)first_row * real,
        .accumulator = accumulator_row(job, &w->tiles, first_row),
        .scores = w->scores,
        .rows = rows < kernels->tile_rows ? rows : kernels->tile_rows,
        .drops = w->chosen.drop_if_held_by > 0 ? held_before : NULL,
        .drops_user = &filter,
    };
    for (int r = 0; r < tile.rows; r++) {
        int64_t i = query_position(w, first_row + r);
        tile.last_visible[r] = patterns->causal ? relative_position(w, i) : INT32_MAX;
        tile.first_visible[r] = patterns->window < i ? relative_position(w, i - patterns->window) : INT32_MIN;
    }
    kernels->attend(&w->block, &tile);
}

/* Takes the gathered keys against all tiles. */
static void flush_block(worker *w) {
    if (w->block.count == 0) {
        return;
    }
    w->job->kernels->close_block(&w->block);
    for (int row = 0; row < w->chosen.row_count; row += w->job->kernels->tile_rows) {
        attend_tile(w, row);
    }
    w->block.count = 0;
}

static void pack_chosen_queries(worker *w) {
    const forward_job *job = w->job;
    const da_tensor *query = job->call->query;
    int tile_rows = job->kernels->tile_rows;
    size_t tile_bytes = (size_t)tile_rows * (size_t)job->head_dim * job->kernels->real_size;
    int tiles = (w->chosen.row_count + tile_rows - 1) / tile_rows;
    memset(w->queries + (size_t)(tiles - 1) * tile_bytes, 0, tile_bytes); /* rows that stay unused in the last one */
    for (int row = 0; row < w->chosen.row_count; row++) {
        job->kernels->pack_query(da_tensor_row(query, w->batch, query_position(w, row), w->head), query->stride[3],
                                 query->dtype, job->head_dim, job->call->scale / ln_2, row % tile_rows,
                                 w->queries + (size_t)(row / tile_rows) * tile_bytes);
    }
}

static void leave_rows(worker *w) {
    flush_block(w);
    for (int row = 0; row < w->chosen.row_count; row++) {
        copy_row(w->job, &w->tiles, row, &w->rows, w->chosen.row_first + (int64_t)row * w->chosen.row_stride);
    }
    w->chosen.row_count = 0;
}

/* Brings the rows of a rectangle into the tiles, unless they are there already. */
static void choose_rows(worker *w, const da_rectangle *rectangle) {
    const da_rectangle *chosen = &w->chosen;
    if (chosen->row_count == rectangle->row_count && chosen->row_first == rectangle->row_first &&
        chosen->row_stride == rectangle->row_stride && chosen->drop_if_held_by == rectangle->drop_if_held_by) {
        return;
    }
    leave_rows(w);
    w->chosen = *rectangle;
    for (int row = 0; row < w->chosen.row_count; row++) {
        copy_row(w->job, &w->rows, w->chosen.row_first + (int64_t)row * w->chosen.row_stride, &w->tiles, row);
    }
    pack_chosen_queries(w);
}

/* ---- items ------------------------------------------------------------------------------------------------------- */

/* Rows of keys and values lie far apart, where no hardware prefetcher follows. */
static void prefetch_row(const void *row, size_t bytes) {
    for (size_t line = 0; line < bytes; line += CACHE_LINE) {
        PREFETCH((const char *)row + line);
    }
}

static void visit_rectangle(const da_rectangle *rectangle, void *user) {
    worker *w = user;
    const da_forward_call *call = w->job->call;
    for (int row = 0; rectangle->zero_keys > 0 && row < rectangle->row_count; row++) {
        w->zero_keys[rectangle->row_first + row * rectangle->row_stride] += (double)rectangle->zero_keys;
    }
    if (rectangle->key_count == 0) {
        return;
    }
    choose_rows(w, rectangle);
    size_t row_bytes = (size_t)w->job->head_dim * da_dtype_size(call->key->dtype);
    da_key_source source = {.key_stride = call->key->stride[3],
                            .value_stride = call->value->stride[3],
                            .dtype = call->key->dtype,
                            .bias = log2((double)rectangle->multiplicity)};
    for (int64_t k = 0; k < rectangle->key_count; k++) {
        int64_t j = rectangle->key_first + k * rectangle->key_stride;
        int64_t ahead = j + PREFETCH_KEYS * rectangle->key_stride;
        if (k + PREFETCH_KEYS < rectangle->key_count) {
            prefetch_row(da_tensor_row(call->key, w->batch, ahead, w->kv_head), row_bytes);
            prefetch_row(da_tensor_row(call->value, w->batch, ahead, w->kv_head), row_bytes);
        }
        if (da_key_is_padded(call->options, w->batch, j)) {
            continue;
        }
        source.key = da_tensor_row(call->key, w->batch, j, w->kv_head);
        source.value = da_tensor_row(call->value, w->batch, j, w->kv_head);
        source.position = relative_position(w, j);
        w->job->kernels->append_key(&w->block, &source);
        if (w->block.count == DA_BLOCK_KEYS) {
            flush_block(w);
        }
    }
}

/* Divides a row's accumulator by its sum and writes output and logsumexp. The zero keys come in here: with z of them the
 * sum gains z * 2^(0 - maximum), and the accumulator nothing. */
static void finish_row(worker *w, int row) {
    const forward_job *job = w->job;
    const da_tensor *out = job->call->out, *lse = job->call->lse;
    int64_t i = w->item.query_first + row * w->item.query_stride;
    double maximum = real_at(job, w->rows.maximum, row), sum = real_at(job, w->rows.sum, row);
    double zeros = w->zero_keys[row], factor = 1;
    if (zeros > 0) {
        double reached = maximum > 0 ? maximum : 0;
        factor = exp2(maximum - reached);
        sum = sum * factor + zeros * exp2(-reached);
        maximum = reached;
    }
    bool has_keys = sum != 0; /* a NaN is a key's */
    job->kernels->store_row(accumulator_row(job, &w->rows, row),
                            has_keys ? factor / (sum * w->schedule.patterns.divisor) : 0, out->dtype, job->head_dim,
                            da_tensor_row(out, w->batch, i, w->head), out->stride[3]);
    if (lse) {
        da_dtype_store(lse->dtype, da_tensor_row(lse, w->batch, i, w->head),
                       has_keys ? (maximum + log2(sum)) * ln_2 : -INFINITY);
    }
}

static void visit_item(const da_item *item, void *user) {
    worker *w = user;
    const forward_job *job = w->job;
    w->item = *item;
    w->chosen.row_count = 0;
    w->block.count = 0;
    size_t rows = (size_t)item->query_count;
    memset(w->rows.sum, 0, rows * job->kernels->real_size);
    memset(w->rows.accumulator, 0, rows * (size_t)job->padded_dim * job->kernels->real_size);
    memset(w->zero_keys, 0, rows * sizeof *w->zero_keys);
    for (int row = 0; row < item->query_count; row++) {
        set_real(job, w->rows.maximum, row, -INFINITY);
    }
    da_schedule_rectangles(&w->schedule, item, visit_rectangle, w);
    leave_rows(w);
    for (int row = 0; row < item->query_count; row++) {
        finish_row(w, row);
    }
}

static void run_unit(int64_t index, int thread, void *user) {
    forward_job *job = user;
    const da_tensor *query = job->call->query, *key = job->call->key;
    int64_t sequence = index / job->unit_count, heads = query->shape[2];
    worker w = {.job = job, .batch = sequence / heads, .head = sequence % heads};
    if (da_progress_cancelled(&job->progress)) {
        return;
    }
    w.kv_head = w.head / (heads / key->shape[2]);
    lay_out(&w, job, job->memory + (size_t)thread * job->memory_per_thread);
    da_schedule_init(&w.schedule, job->call->config, query->shape[1], heads, w.head, job->unit, job->max_rows);
    da_schedule_items(&w.schedule, index % job->unit_count, visit_item, &w);
    da_progress_step(&job->progress, thread);
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

/* Fills in all but the memory; returns the number of threads that the call can use. */
static int plan(forward_job *job, const da_context *context, const da_attention_config *config,
                const da_problem *problem) {
    worker layout;
    int64_t sequences = problem->batch * problem->heads, n = da_problem_length(problem);
    job->kernels = da_kernels_for(da_context_isa(context), problem->dtype);
    job->head_dim = (int)problem->head_dim;
    job->padded_dim = padded_dim_for(job->kernels, problem->head_dim);
    job->max_rows = max_rows_for(job->padded_dim, n);
    job->unit = da_schedule_unit(config, n, sequences, job->max_rows);
    job->unit_count = (n - 1) / job->unit + 1;
    job->memory_per_thread = lay_out(&layout, job, NULL);
    int64_t units = sequences * job->unit_count, threads = da_context_threads(context);
    return (int)(threads < units ? threads : units);
}

static da_status forward(void *state, const da_forward_call *call, void *user) {
    const da_allocator *allocator = da_context_allocator(call->context);
    da_problem problem;
    forward_job job = {.call = call};
    da_problem_of_call(call, &problem);
    int threads = plan(&job, call->context, call->config, &problem);
    job.memory = da_allocate(allocator, (size_t)threads, job.memory_per_thread);
    if (!job.memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    /* Zero once: columns beyond head_dim stay zero, and rows that a tile does not use hold numbers. */
    memset(job.memory, 0, (size_t)threads * job.memory_per_thread);
    int64_t units = problem.batch * problem.heads * job.unit_count;
    da_progress_begin(&job.progress, call->options, units);
    da_parallel_for(threads, units, run_unit, &job);
    da_release(allocator, job.memory);
    return da_progress_end(&job.progress);
}

static size_t workspace(const da_context *context, const da_attention_config *config, const da_problem *problem,
                        void *user) {
    forward_job job = {0};
    size_t threads = (size_t)plan(&job, context, config, problem);
    return threads * job.memory_per_thread;
}

const da_implementation da_improved_implementation = {
    .size = sizeof(da_implementation),
    .name = "improved",
    .description =
        "Vector kernels (AVX-512, AVX2, portable) chosen at run time; one pass over all patterns, each score "
        "computed once where the patterns' rates divide one another",
    .best_for = "speed on any CPU",
    .memory = "a fixed workspace of about 1 MiB a thread",
    .features = DA_FEATURE_ALL,
    .dtypes = DA_DTYPE_BITS_ALL,
    .forward = forward,
    .workspace = workspace,
};
