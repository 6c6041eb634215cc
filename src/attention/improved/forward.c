/* The fast forward pass: rows are queries, columns keys (unit.h), with one running softmax per row through all patterns. */
#include <math.h>
#include <string.h>

#include "attention/improved/improved.h"
#include "attention/improved/packed.h"
#include "attention/improved/passes.h"
#include "attention/improved/unit.h"
#include "attention/job.h"
#include "core/compiler.h"
#include "core/dtype.h"
#include "core/numbers.h"
#include "core/parallel.h"
#include "core/tensor.h"

#define ROW_ARRAYS 2 /* accumulators and packed queries */
#define ROWS_AHEAD 8 /* of their output, which is asked for */

static const double ln_2 = 0.69314718055994530942;

/* What a call's threads share. */
typedef struct forward_job {
    const da_forward_call *call;
    const da_scope *scope;
    int64_t tile_block; /* 0: no tiles are chosen */
    da_unit_cut cut;
    da_packed_columns packed; /* no sequences: units gather their columns */
    int64_t first_unit;       /* of the packed sequences at hand */
    da_job job;
} forward_job;

/* One thread's memory, and the unit that it is at. */
typedef struct worker {
    const forward_job *shared;
    da_unit unit;
    int64_t sequence, head;
    da_head_patterns patterns;
    char *maximum, *sum; /* real[rows] */
    char *accumulator;   /* real[rows][padded_dim] */
    char *queries;       /* real[tiles][padded_dim][tile_rows] */
    char *scores;        /* scratch of a tile */
    da_key_block block;
} worker;

/* Lays a worker's memory out; returns the bytes it takes. */
static size_t lay_out(worker *w, const da_unit_cut *cut, char *memory) {
    da_arena arena = {memory, 0};
    size_t real = cut->kernels->real_size, tile = (size_t)cut->kernels->tile_rows, padded = (size_t)cut->padded_dim;
    da_unit_lay_out(&w->unit, &arena, cut);
    w->maximum = da_arena_take(&arena, cut->rows, real);
    w->sum = da_arena_take(&arena, cut->rows, real);
    w->accumulator = da_arena_take(&arena, cut->rows * padded, real);
    w->queries = da_arena_take(&arena, cut->rows * padded, real);
    w->scores = da_arena_take(&arena, tile * DA_BLOCK_KEYS, real);
    da_block_lay_out(&w->block, &arena, cut);
    return arena.used;
}

/* ---- the functions of the pass ----------------------------------------------------------------------------------- */

/* Packs a class's queries and begins their softmax. */
static void begin_class(void *user, const da_row_class *class) {
    worker *w = user;
    const da_forward_call *call = w->shared->call;
    const da_kernels *kernels = w->shared->cut.kernels;
    size_t rows = (size_t)da_unit_padded_rows(&w->unit, class), first = (size_t) class->first_row;
    size_t row_bytes = da_unit_row_bytes(&w->unit);
    memset(w->sum + first * kernels->real_size, 0, rows * kernels->real_size);
    memset(w->accumulator + first * row_bytes, 0, rows * row_bytes);
    for (size_t row = 0; row < rows; row++) {
        da_set_real(kernels, w->maximum, (int64_t)(first + row), -INFINITY);
    }
    da_unit_pack(&w->unit, class, call->query, w->head, call->scale / ln_2, w->queries);
}

static void fill_block(void *user) {
    worker *w = user;
    da_unit_gather(&w->unit, DA_FIRST, DA_SECOND, &w->block);
}

static void attend_tile(void *user, const da_row_class *class, int row_in_class) {
    worker *w = user;
    const da_kernels *kernels = w->shared->cut.kernels;
    size_t row = (size_t)(class->first_row + row_in_class), row_bytes = da_unit_row_bytes(&w->unit);
    da_query_tile tile = {
        .queries = w->queries + row * row_bytes,
        .maximum = w->maximum + row * kernels->real_size,
        .sum = w->sum + row * kernels->real_size,
        .accumulator = w->accumulator + row * row_bytes,
        .scores = w->scores,
        .score_factor = w->shared->call->scale / ln_2,
    };
    da_unit_describe_tile(&w->unit, class, row_in_class, &tile);
    kernels->attend(&w->block, &tile);
}

/* Divides a row's accumulator by its sum and writes output and logsumexp. The zero keys come in here: with z of them the
 * sum gains z * 2^(0 - maximum), and the accumulator nothing. */
static void finish_row(worker *w, int row, double zero_keys) {
    const da_kernels *kernels = w->shared->cut.kernels;
    const da_tensor *out = w->shared->call->out, *lse = w->shared->call->lse;
    int64_t i = da_unit_tensor_row(&w->unit, row), batch = w->unit.batch;
    double maximum = da_real_at(kernels, w->maximum, row), sum = da_real_at(kernels, w->sum, row);
    double factor = w->unit.dropout.factor / w->patterns.divisor;
    if (zero_keys > 0) {
        double reached = maximum > 0 ? maximum : 0, shrink = exp2(maximum - reached);
        sum = sum * shrink + zero_keys * exp2(-reached);
        factor *= shrink;
        maximum = reached;
    }
    bool has_keys = sum != 0; /* a NaN is a key's */
    kernels->store_row(w->accumulator + (size_t)row * da_unit_row_bytes(&w->unit), has_keys ? factor / sum : 0,
                       out->dtype, w->shared->cut.head_dim, da_tensor_row(out, batch, i, w->head), out->stride[3]);
    if (lse) {
        da_dtype_store(lse->dtype, da_tensor_row(lse, batch, i, w->head),
                       has_keys ? (maximum + log2(sum)) * ln_2 : -INFINITY);
    }
}

/* A row's softmax as it is carried from scope to scope. */
typedef struct carried_row {
    char *maximum, *sum, *accumulator;
} carried_row;

static carried_row find_carried(const worker *w, int row) {
    const da_scope *scope = w->shared->scope;
    const da_unit_cut *cut = &w->shared->cut;
    size_t sequences = (size_t)(w->shared->call->query->shape[0] * w->shared->call->query->shape[2]);
    size_t rows = sequences * (size_t)scope->rows->length;
    size_t at = da_unit_carried(&w->unit, w->sequence, da_unit_row_position(&w->unit, row));
    char *sums = scope->carry->memory + rows * cut->kernels->real_size,
         *accumulators = sums + rows * cut->kernels->real_size;
    return (carried_row){.maximum = scope->carry->memory + at * cut->kernels->real_size,
                         .sum = sums + at * cut->kernels->real_size,
                         .accumulator = accumulators + at * da_unit_row_bytes(&w->unit)};
}

/* Of a maximum that grew: 2^(from - to), where both may be -infinity. */
static double shrinking(double from, double to) {
    return from == to ? 1 : exp2(from - to);
}

/* row = row * row_factor + other * other_factor: real[padded_dim]. */
static void merge_row(const da_unit_cut *cut, char *row, double row_factor, const char *other, double other_factor) {
    int count = cut->padded_dim;
    if (cut->kernels->real_size == sizeof(double)) {
        double *to = (double *)(void *)row;
        const double *from = (const double *)(const void *)other;
        for (int c = 0; c < count; c++) {
            to[c] = to[c] * row_factor + from[c] * other_factor;
        }
    } else {
        float *to = (float *)(void *)row, to_factor = (float)row_factor, from_factor = (float)other_factor;
        const float *from = (const float *)(const void *)other;
        for (int c = 0; c < count; c++) {
            to[c] = to[c] * to_factor + from[c] * from_factor;
        }
    }
}

/* Adds to a row what earlier scopes gave. */
static void add_carried(worker *w, int row) {
    const da_kernels *kernels = w->shared->cut.kernels;
    carried_row carried = find_carried(w, row);
    double theirs = da_real_at(kernels, carried.maximum, 0), ours = da_real_at(kernels, w->maximum, row);
    double reached = theirs > ours ? theirs : ours;
    double shrink_theirs = shrinking(theirs, reached), shrink_ours = shrinking(ours, reached);
    char *accumulator = w->accumulator + (size_t)row * da_unit_row_bytes(&w->unit);
    da_set_real(kernels, w->sum, row,
                da_real_at(kernels, w->sum, row) * shrink_ours + da_real_at(kernels, carried.sum, 0) * shrink_theirs);
    da_set_real(kernels, w->maximum, row, reached);
    merge_row(&w->shared->cut, accumulator, shrink_ours, carried.accumulator, shrink_theirs);
}

static void carry_row(const worker *w, int row) {
    const da_kernels *kernels = w->shared->cut.kernels;
    carried_row carried = find_carried(w, row);
    size_t row_bytes = da_unit_row_bytes(&w->unit);
    da_set_real(kernels, carried.maximum, 0, da_real_at(kernels, w->maximum, row));
    da_set_real(kernels, carried.sum, 0, da_real_at(kernels, w->sum, row));
    memcpy(carried.accumulator, w->accumulator + (size_t)row * row_bytes, row_bytes);
}

/* Asks for where a row's output goes: stores would wait for it. */
static void prefetch_output(const worker *w, int row) {
    const da_tensor *out = w->shared->call->out;
    char *at = da_tensor_row(out, w->unit.batch, da_unit_tensor_row(&w->unit, row), w->head);
    size_t bytes = (size_t)out->shape[3] * da_dtype_size(out->dtype);
    for (size_t line = 0; line < bytes; line += DA_CACHE_LINE) {
        PREFETCH_TO_WRITE(at + line);
    }
}

static void finish_class(void *user, const da_row_class *class) {
    worker *w = user;
    const da_scope *scope = w->shared->scope;
    double zero_keys = (double)da_span_zero_keys(&w->unit.span, class->kept_in);
    da_unit_finish_tiles(&w->unit, class, w->accumulator);
    int end = class->first_row + class->row_count;
    for (int row = class->first_row; row < end; row++) {
        if (row + ROWS_AHEAD < end) {
            prefetch_output(w, row + ROWS_AHEAD);
        }
        if (!da_scope_begins(scope)) {
            add_carried(w, row);
        }
        if (da_scope_ends(scope)) {
            finish_row(w, row, zero_keys);
        } else {
            carry_row(w, row);
        }
    }
}

static bool key_is_absent(const void *user, int64_t position) {
    const worker *w = user;
    return da_key_is_padded(w->shared->call->options, w->unit.batch, position);
}

static const da_unit_pass forward_pass = {
    .column_is_absent = key_is_absent,
    .begin_class = begin_class,
    .fill_block = fill_block,
    .attend_tile = attend_tile,
    .finish_class = finish_class,
};

/* ---- the call ---------------------------------------------------------------------------------------------------- */

static void run_unit(int64_t index, int thread, void *user) {
    forward_job *shared = user;
    const da_forward_call *call = shared->call;
    index += shared->first_unit;
    int64_t sequence = index / shared->cut.unit_count, heads = call->query->shape[2];
    da_piece piece = da_unit_piece(&shared->cut, shared->scope->rows, index % shared->cut.unit_count);
    worker w = {.shared = shared, .sequence = sequence, .head = sequence % heads};
    if (da_progress_cancelled(&shared->job.progress)) {
        return;
    }
    w.unit = (da_unit){.cut = &shared->cut,
                       .pass = &forward_pass,
                       .scope = shared->scope,
                       .batch = sequence / heads,
                       .columns_may_be_absent = da_keys_may_be_padded(call->options),
                       .column_head = w.head / (heads / call->key->shape[2])};
    lay_out(&w, &shared->cut, da_job_memory(&shared->job, thread));
    w.unit.worker = &w;
    w.unit.patterns = &w.patterns;
    da_unit_set_tiles(&w.unit, w.head);
    if (shared->packed.sequences > 0 && w.unit.tiles) {
        w.unit.packed = &shared->packed;
        w.unit.packed_sequence = w.unit.batch * call->key->shape[2] + w.unit.column_head;
    }
    da_scope_patterns(shared->scope, call->config, w.head, &w.patterns);
    da_dropout_begin(&w.unit.dropout, call->dropout, call->options->dropout_seed, w.unit.batch,
                     shared->scope->heads.first + w.head);
    da_unit_run(&w.unit, &piece);
    da_progress_step(&shared->job.progress, thread);
}

static void pack_part(int64_t index, int thread, void *user) {
    forward_job *shared = user;
    worker w;
    if (!da_progress_cancelled(&shared->job.progress)) {
        lay_out(&w, &shared->cut, da_job_memory(&shared->job, thread));
        da_packed_fill(&shared->packed, index, &w.block);
    }
}

/* Some sequences of keys at a time: packs them, and runs the units of all heads that share them. */
static void run_packed(forward_job *shared) {
    da_packed_columns *packed = &shared->packed;
    const int64_t *queries = shared->call->query->shape, *keys = shared->call->key->shape;
    int64_t all = keys[0] * keys[2], units = queries[2] / keys[2] * shared->cut.unit_count;
    packed->scope = shared->scope;
    da_packed_lay_out(packed, da_job_shared_memory(&shared->job));
    for (packed->first = 0; packed->first < all; packed->first += packed->count) {
        packed->count = da_smaller(packed->sequences, all - packed->first);
        shared->first_unit = packed->first * units;
        da_parallel_for(shared->job.threads, da_packed_parts(packed), pack_part, shared);
        da_parallel_for(shared->job.threads, packed->count * units, run_unit, shared);
    }
}

/* Threads are to find units enough of the sequences that are packed at a time. */
#define UNITS_FOR_THREAD 8

static void plan_packing(forward_job *shared, const da_attention_config *config, const da_problem *problem) {
    int64_t n = shared->scope ? shared->scope->n : problem->n;
    int64_t units = problem->heads / problem->kv_heads * shared->cut.unit_count;
    if (n > 0 && da_columns_can_be_packed(&shared->cut, config, shared->tile_block)) {
        da_packed_plan(&shared->packed, &shared->cut, n, problem->batch, problem->kv_heads,
                       UNITS_FOR_THREAD * shared->job.threads / units);
        shared->job.shared_memory = da_packed_lay_out(&shared->packed, NULL);
    }
}

/* Fills in all but the call. Without a scope, for the whole problem. */
static void plan(forward_job *shared, const da_kernels *kernels, const da_context *context,
                 const da_attention_config *config, const da_problem *problem) {
    worker layout;
    int64_t sequences = problem->batch * problem->heads;
    da_unit_cut_init(&shared->cut, kernels, config, problem, sequences, ROW_ARRAYS, shared->tile_block);
    if (shared->scope) {
        da_unit_cut_part(&shared->cut, shared->scope->rows);
    }
    shared->job.memory_per_thread = lay_out(&layout, &shared->cut, NULL);
    shared->job.clear_memory = shared->cut.clear_memory;
    da_job_plan(&shared->job, context, &config->tuning, sequences * shared->cut.unit_count);
    plan_packing(shared, config, problem);
}

void da_improved_describe(const da_context *context, const da_attention_config *config, const da_problem *problem,
                          da_improved_cut *cut) {
    forward_job shared = {0};
    const da_kernels *kernels = da_kernels_for(da_context_isa(context), problem->dtype);
    plan(&shared, kernels, context, config, problem);
    cut->threads = shared.job.threads;
    cut->tile_rows = kernels->tile_rows;
    cut->panel_keys = kernels->panel_keys;
    cut->unit = shared.cut.unit;
    cut->unit_count = shared.cut.unit_count;
    cut->block_keys = shared.cut.block_keys;
    cut->unit_bytes = (size_t)shared.cut.unit * (size_t)(ROW_ARRAYS * shared.cut.padded_dim) * kernels->real_size;
}

/* Products of their own hold no weights that dropout could take away. */
static const da_kernels *kernels_for(const da_context *context, da_dtype dtype, bool drops) {
    da_isa isa = da_context_isa(context);
    return drops ? da_kernels_for_dropout(isa, dtype) : da_kernels_for(isa, dtype);
}

da_status da_improved_forward(void *state, const da_forward_call *call, void *user) {
    const da_head_range all = da_all_heads(call->query);
    return da_improved_forward_heads(call, &all);
}

static da_status run_whole(const da_forward_call *call, const da_head_range *heads, const da_tiles *tiles,
                           const bool *full) {
    da_whole whole;
    int64_t n = call->query->shape[1], first = call->options->query_first, end = call->options->query_end;
    da_scope scope = *da_scope_whole(&whole, n, heads, call->key, call->value);
    const da_piece piece = {first, end, first};
    const da_part queries = {end - first, 1, &piece};
    if (end != 0) {
        scope.rows = &queries;
    }
    scope.tiles = tiles;
    scope.full = full;
    return da_improved_forward_scope(call, &scope);
}

da_status da_improved_forward_heads(const da_forward_call *call, const da_head_range *heads) {
    return run_whole(call, heads, NULL, NULL);
}

da_status da_improved_forward_tiles(const da_forward_call *call, const da_tiles *tiles, const bool *full) {
    const da_head_range all = da_all_heads(call->query);
    return run_whole(call, &all, tiles, full);
}

size_t da_improved_forward_carry(const da_context *context, bool drops, const da_problem *problem) {
    const da_kernels *kernels = kernels_for(context, problem->dtype, drops);
    return (size_t)(problem->batch * problem->heads * problem->n) *
           (size_t)(da_unit_padded_dim(kernels, problem->head_dim) + 2) * kernels->real_size;
}

/* Do the rows' tiles have more blocks of keys than there are? Otherwise not all keys are worth packing. */
static bool tiles_repeat_keys(const da_forward_call *call, const da_scope *scope) {
    const da_tiles *tiles = scope->tiles;
    const da_piece *rows = scope->rows->pieces;
    int64_t first = rows->first / tiles->block_size, last = (rows->end - 1) / tiles->block_size, count = 0;
    for (int64_t b = 0; b < call->query->shape[0]; b++) {
        for (int64_t h = 0; h < call->query->shape[2]; h++) {
            const int64_t *starts = &tiles->row_starts[da_tiles_row(tiles, b, h, 0)];
            count += starts[last + 1] - starts[first];
        }
    }
    return count > call->key->shape[0] * call->key->shape[2] * tiles->blocks;
}

da_status da_improved_forward_scope(const da_forward_call *call, const da_scope *scope) {
    da_problem problem;
    forward_job shared = {.call = call, .scope = scope, .tile_block = da_scope_tile_block(scope)};
    da_problem_of_tensors(call->query, call->key, &problem);
    problem.n = scope->rows->length;
    plan(&shared, kernels_for(call->context, problem.dtype, call->dropout > 0), call->context, call->config, &problem);
    if (shared.packed.sequences == 0 || !tiles_repeat_keys(call, scope)) {
        shared.packed.sequences = 0;
        shared.job.shared_memory = 0;
        return da_job_run(&shared.job, call->context, call->options, run_unit, &shared);
    }
    da_status status = da_job_begin(&shared.job, call->context, call->options);
    if (status != DA_OK) {
        return status;
    }
    run_packed(&shared);
    return da_job_end(&shared.job, call->context);
}

size_t da_improved_tiles_workspace(const da_context *context, const da_attention_config *config,
                                   const da_problem *problem, int64_t tile_block) {
    forward_job shared = {.tile_block = tile_block}, training = {.tile_block = tile_block};
    da_isa isa = da_context_isa(context);
    plan(&shared, da_kernels_for(isa, problem->dtype), context, config, problem);
    if (config->dropout > 0) { /* whether a call trains is not known */
        plan(&training, da_kernels_for_dropout(isa, problem->dtype), context, config, problem);
    }
    size_t bytes = da_job_bytes(&shared.job), training_bytes = da_job_bytes(&training.job);
    return training_bytes > bytes ? training_bytes : bytes;
}

size_t da_improved_workspace(const da_context *context, const da_attention_config *config, const da_problem *problem,
                             void *user) {
    return da_improved_tiles_workspace(context, config, problem, 0);
}
