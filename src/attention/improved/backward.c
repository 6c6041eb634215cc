/* The fast backward pass, the formulas being those of da_attention_backward. No two threads add to one gradient, and
 * nothing is added in an order that threads could change. There are two ways:
 *
 * - By stretches. Where segments end together at short enough intervals, a thread takes such a stretch of a sequence, which
 *   nothing outside sees. Rows are its keys, a unit at a time, and columns the queries that see them (unit.h); the gradient
 *   of queries is added up beside, for all of the stretch. Scores are computed once: five products for a pair.
 * - In two directions, of any units, which share nothing but the inputs: for grad_query, rows are queries and columns keys;
 *   for grad_key and grad_value, rows are keys and columns queries. Scores are computed in both: seven products.
 *
 * Which way is taken depends on the problem and the tuning alone: by stretches, where they fit into the workspace and there
 * are enough of them, or where the tuning's unit is as long. */
#include <math.h>
#include <string.h>

#include "attention/improved/passes.h"
#include "attention/improved/unit.h"
#include "attention/job.h"
#include "core/dtype.h"
#include "core/tensor.h"

/* Arrays that hold something for each row. */
#define SUM_ARRAYS 2
#define PACKED_ARRAYS 2         /* in two directions */
#define STRETCH_PACKED_ARRAYS 3 /* by stretches: keys once more, as rows */

/* A stretch's sums may take STRETCH_BYTES, and there must be enough stretches to keep threads busy. */
#define STRETCH_BYTES (8 * 1024 * 1024)
#define STRETCHES_WANTED 8

enum { LSE = 0, DELTA = 1 }; /* terms of a query, as da_source has them */

static const double ln_2 = 0.69314718055994530942;

/* What a call's threads share. */
typedef struct backward_job {
    const da_backward_call *call;
    const da_scope *query_scope, *key_scope; /* of the two directions; of stretches the latter */
    int64_t tile_block;                      /* 0: no tiles are chosen */
    da_unit_cut query_cut, key_cut;
    bool is_part;                   /* of a problem: in two directions, one at a time */
    int64_t query_units, key_units; /* 0: no such gradient is wanted, or it is computed by stretches */
    int64_t stretch;                /* 0: in two directions */
    int64_t stretch_count;          /* per sequence */
    size_t grad_key_rows;           /* for which a thread adds up the gradients of keys */
    da_job job;                     /* its parts: units or stretches */
} backward_job;

/* One thread's memory, and the unit that it is at. */
typedef struct worker {
    const backward_job *shared;
    const da_backward_tensors *tensors;
    da_unit unit;
    int64_t first;    /* position of the first row of grad_key and grad_value */
    int64_t sequence; /* of queries or of keys, among those of all batch elements */
    int64_t head, kv_head;
    da_head_patterns patterns;
    char *lse, *delta;                            /* real[rows]: terms of rows that are queries */
    char *first_packed, *second_packed;           /* real[tiles][padded_dim][tile_rows] */
    char *first_accumulator, *second_accumulator; /* real[rows][padded_dim] */
    char *first_scores, *second_scores;           /* scratch of a tile */
    char *no_bias;                                /* real[DA_BLOCK_KEYS], zero */
    char *grad_key, *grad_value;                  /* real[grad_key_rows][padded_dim]: sums over the heads of a group */
    char *column_lse, *column_delta;              /* real[DA_BLOCK_KEYS]: terms of columns that are queries */
    da_gradient_block block;
    /* By stretches: */
    bool wants_columns;                /* the gradient of queries */
    int64_t stretch_first;             /* position of the first row of grad_query */
    char *grad_query;                  /* real[stretch][padded_dim] */
    char *stretch_lse, *stretch_delta; /* real[stretch]: terms of its queries */
    char *key_rows;                    /* real[rows][padded_dim] */
    bool keys_finite;
    da_column_gradient columns;
    int next_row; /* that may be kept beside those that are */
} worker;

static void lay_out_stretch(worker *w, const backward_job *shared, da_arena *arena) {
    size_t real = shared->key_cut.kernels->real_size, padded = (size_t)shared->key_cut.padded_dim;
    w->grad_query = da_arena_take(arena, (size_t)shared->stretch * padded, real);
    w->stretch_lse = da_arena_take(arena, (size_t)shared->stretch, real);
    w->stretch_delta = da_arena_take(arena, (size_t)shared->stretch, real);
    w->key_rows = da_arena_take(arena, shared->key_cut.rows * padded, real);
    w->columns.differences = da_arena_take(arena, (size_t)DA_SPREAD_ROWS * DA_BLOCK_KEYS, real);
    w->columns.sums = da_arena_take(arena, DA_BLOCK_KEYS * padded, real);
}

/* Lays a worker's memory out, for either direction; returns the bytes it takes. */
static size_t lay_out(worker *w, const backward_job *shared, char *memory) {
    da_arena arena = {memory, 0};
    const da_unit_cut *cut = &shared->query_cut;
    size_t real = cut->kernels->real_size, padded = (size_t)cut->padded_dim;
    size_t scores = (size_t)cut->kernels->tile_rows * DA_BLOCK_KEYS;
    size_t rows = cut->rows > shared->key_cut.rows ? cut->rows : shared->key_cut.rows;
    da_unit_lay_out(&w->unit, &arena, cut->rows > shared->key_cut.rows ? cut : &shared->key_cut);
    w->lse = da_arena_take(&arena, rows, real);
    w->delta = da_arena_take(&arena, rows, real);
    w->first_packed = da_arena_take(&arena, rows * padded, real);
    w->second_packed = da_arena_take(&arena, rows * padded, real);
    w->first_accumulator = da_arena_take(&arena, rows * padded, real);
    w->second_accumulator = da_arena_take(&arena, rows * padded, real);
    w->first_scores = da_arena_take(&arena, scores, real);
    w->second_scores = da_arena_take(&arena, scores, real);
    w->no_bias = da_arena_take(&arena, DA_BLOCK_KEYS, real);
    w->grad_key = da_arena_take(&arena, shared->grad_key_rows * padded, real);
    w->grad_value = da_arena_take(&arena, shared->grad_key_rows * padded, real);
    w->column_lse = da_arena_take(&arena, DA_BLOCK_KEYS, real);
    w->column_delta = da_arena_take(&arena, DA_BLOCK_KEYS, real);
    da_block_lay_out(&w->block.first, &arena, cut);
    da_block_lay_out(&w->block.second, &arena, cut);
    if (shared->stretch > 0) {
        lay_out_stretch(w, shared, &arena);
    }
    return arena.used;
}

/* ---- what both directions do ------------------------------------------------------------------------------------- */

/* Kernels that round to bf16 add to the bits, which would carry a NaN of many ones over into a number. */
static double usual_nan(double x) {
    return isnan(x) ? NAN : x;
}

/* log2 of a query's softmax denominator, and <grad_out, out> - grad_lse. A query without keys gets weights of 0. */
static void terms_of_query(const da_kernels *kernels, const da_backward_tensors *t, int64_t batch, int64_t i,
                           int64_t head, double terms[2]) {
    double natural = da_dtype_load(t->lse->dtype, da_tensor_row(t->lse, batch, i, head));
    if (natural == -INFINITY) {
        terms[LSE] = INFINITY;
        terms[DELTA] = 0;
        return;
    }
    double delta =
        kernels->dot(da_tensor_row(t->grad_out, batch, i, head), t->grad_out->stride[3],
                     da_tensor_row(t->out, batch, i, head), t->out->stride[3], t->out->dtype, (int)t->query->shape[3]);
    if (t->grad_lse) {
        delta -= da_dtype_load(t->grad_lse->dtype, da_tensor_row(t->grad_lse, batch, i, head));
    }
    terms[LSE] = usual_nan(natural / ln_2);
    terms[DELTA] = usual_nan(delta);
}

void da_improved_query_terms(const da_backward_call *call, int64_t batch, int64_t row, int64_t head, double terms[2]) {
    const da_kernels *kernels =
        da_kernels_for_backward(da_context_isa(call->context), call->tensors->query->dtype, call->dropout > 0);
    terms_of_query(kernels, call->tensors, batch, row, head, terms);
}

/* Of weights that dropout keeps, and of the output under head_groups. */
static double weight_factor(const worker *w) {
    return w->unit.dropout.factor / w->patterns.divisor;
}

static void clear_accumulators(worker *w, const da_row_class *class) {
    size_t row_bytes = da_unit_row_bytes(&w->unit), first = (size_t) class->first_row * row_bytes;
    size_t bytes = (size_t)da_unit_padded_rows(&w->unit, class) * row_bytes;
    memset(w->first_accumulator + first, 0, bytes);
    memset(w->second_accumulator + first, 0, bytes);
}

static void attend_tile(worker *w, const da_row_class *class, int row_in_class, bool wants_first, bool wants_second) {
    size_t row = (size_t)(class->first_row + row_in_class), real = w->unit.cut->kernels->real_size;
    size_t at = row * da_unit_row_bytes(&w->unit);
    da_gradient_tile tile = {
        .first = {.queries = w->first_packed + at,
                  .accumulator = w->first_accumulator + at,
                  .scores = w->first_scores,
                  .score_factor = w->shared->call->scale / ln_2},
        .lse = w->lse + row * real,
        .delta = w->delta + row * real,
        .wants_first = wants_first,
        .wants_second = wants_second,
        .columns = w->wants_columns ? &w->columns : NULL,
    };
    da_unit_describe_tile(&w->unit, class, row_in_class, &tile.first);
    tile.second = (da_query_tile){
        .queries = w->second_packed + at,
        .accumulator = w->second_accumulator + at,
        .scores = w->second_scores,
        .bias = w->no_bias,
        .score_factor = weight_factor(w),
        .rows = tile.first.rows,
    };
    w->unit.cut->kernels->attend_backward(&w->block, &tile);
}

static bool is_padded_key(const void *user, int64_t position) {
    const worker *w = user;
    return da_key_is_padded(w->shared->call->options, w->unit.batch, position);
}

static void store_gradient(const worker *w, const da_tensor *gradient, int64_t position, int64_t head, double factor,
                           const char *sums) {
    w->unit.cut->kernels->store_row(sums, factor, gradient->dtype, w->unit.cut->head_dim,
                                    da_tensor_row(gradient, w->unit.batch, position + w->unit.row_shift, head),
                                    gradient->stride[3]);
}

static void add_row(const worker *w, const char *row, char *sums) {
    int count = w->unit.cut->padded_dim;
    if (w->unit.cut->kernels->real_size == sizeof(double)) {
        for (int c = 0; c < count; c++) {
            ((double *)(void *)sums)[c] += ((const double *)(const void *)row)[c];
        }
    } else {
        for (int c = 0; c < count; c++) {
            ((float *)(void *)sums)[c] += ((const float *)(const void *)row)[c];
        }
    }
}

/* Row `position` of the sums that are carried, of the array `which` among those of the direction. */
static char *find_carried(const worker *w, int which, int64_t position) {
    const int64_t *shape = w->unit.pass->rows_are_keys ? w->tensors->key->shape : w->tensors->query->shape;
    int64_t sequence = which * shape[0] * shape[2] + w->sequence;
    return w->unit.scope->carry->memory + da_unit_carried(&w->unit, sequence, position) * da_unit_row_bytes(&w->unit);
}

/* A row of sums is done with in this scope: adds what earlier ones gave, and stores it or carries it on. */
static void leave_sums(const worker *w, int which, const da_tensor *gradient, int64_t position, int64_t head,
                       double factor, char *sums) {
    if (!da_scope_begins(w->unit.scope)) {
        add_row(w, find_carried(w, which, position), sums);
    }
    if (da_scope_ends(w->unit.scope)) {
        store_gradient(w, gradient, position, head, factor, sums);
    } else {
        memcpy(find_carried(w, which, position), sums, da_unit_row_bytes(&w->unit));
    }
}

/* ---- the gradient of queries ------------------------------------------------------------------------------------- */

static void begin_queries(void *user, const da_row_class *class) {
    worker *w = user;
    for (int row = class->first_row; row < class->first_row + class->row_count; row++) {
        double terms[2];
        terms_of_query(w->unit.cut->kernels, w->tensors, w->unit.batch, da_unit_tensor_row(&w->unit, row), w->head,
                       terms);
        da_set_real(w->unit.cut->kernels, w->lse, row, terms[LSE]);
        da_set_real(w->unit.cut->kernels, w->delta, row, terms[DELTA]);
    }
    clear_accumulators(w, class);
    da_unit_pack(&w->unit, class, w->tensors->query, w->head, w->shared->call->scale / ln_2, w->first_packed);
    da_unit_pack(&w->unit, class, w->tensors->grad_out, w->head, weight_factor(w), w->second_packed);
}

static void gather_keys(void *user) {
    worker *w = user;
    da_unit_gather(&w->unit, DA_FIRST, DA_FIRST, &w->block.first);
    da_unit_gather(&w->unit, DA_SECOND, DA_SECOND, &w->block.second);
    w->block.lse = NULL;
    w->block.delta = NULL;
}

static void attend_queries(void *user, const da_row_class *class, int row) {
    attend_tile(user, class, row, true, false);
}

static void finish_queries(void *user, const da_row_class *class) {
    worker *w = user;
    size_t row_bytes = da_unit_row_bytes(&w->unit);
    da_unit_finish_tiles(&w->unit, class, w->first_accumulator);
    for (int row = class->first_row; row < class->first_row + class->row_count; row++) {
        leave_sums(w, 0, w->tensors->grad_query, da_unit_row_position(&w->unit, row), w->head, w->shared->call->scale,
                   w->first_accumulator + (size_t)row * row_bytes);
    }
}

static const da_unit_pass query_pass = {
    .column_is_absent = is_padded_key,
    .begin_class = begin_queries,
    .fill_block = gather_keys,
    .attend_tile = attend_queries,
    .finish_class = finish_queries,
};

/* ---- the gradients of keys and values ---------------------------------------------------------------------------- */

/* Keys as rows, for the gradient of columns. */
static void store_key_rows(worker *w, const da_row_class *class) {
    const da_tensor *key = w->tensors->key;
    const da_unit_cut *cut = w->unit.cut;
    size_t row_bytes = da_unit_row_bytes(&w->unit), last_tile = (size_t)cut->kernels->tile_rows * row_bytes;
    char *keys = w->key_rows + (size_t) class->first_row * row_bytes;
    memset(keys + (size_t)da_unit_padded_rows(&w->unit, class) * row_bytes - last_tile, 0, last_tile);
    for (int row = 0; row < class->row_count; row++) {
        int64_t position = da_unit_row_position(&w->unit, class->first_row + row);
        bool finite =
            cut->kernels->store_key_row(da_tensor_row(key, w->unit.batch, position, w->kv_head), key->stride[3],
                                        key->dtype, cut->head_dim, cut->padded_dim, row, keys);
        w->keys_finite = w->keys_finite && finite;
    }
}

static void begin_keys(void *user, const da_row_class *class) {
    worker *w = user;
    clear_accumulators(w, class);
    if (w->wants_columns) {
        store_key_rows(w, class);
    }
    da_unit_pack(&w->unit, class, w->tensors->key, w->kv_head, w->shared->call->scale / ln_2, w->first_packed);
    da_unit_pack(&w->unit, class, w->tensors->value, w->kv_head, weight_factor(w), w->second_packed);
}

static void terms_of_column(const worker *w, int column, double terms[2]) {
    const da_kernels *kernels = w->unit.cut->kernels;
    const da_source *source = w->unit.columns.sources[column];
    int64_t in_stretch = w->unit.columns.positions[column] - w->stretch_first, row = w->unit.columns.rows[column];
    if (w->shared->stretch > 0) {
        terms[LSE] = da_real_at(kernels, w->stretch_lse, in_stretch);
        terms[DELTA] = da_real_at(kernels, w->stretch_delta, in_stretch);
    } else if (source->terms) {
        terms[LSE] = source->terms[row][LSE];
        terms[DELTA] = source->terms[row][DELTA];
    } else {
        terms_of_query(kernels, w->tensors, w->unit.batch, row, w->head, terms);
    }
}

static void gather_queries(void *user) {
    worker *w = user;
    const da_kernels *kernels = w->unit.cut->kernels;
    da_unit_gather(&w->unit, DA_FIRST, DA_FIRST, &w->block.first);
    da_unit_gather(&w->unit, DA_SECOND, DA_SECOND, &w->block.second);
    for (int column = 0; column < w->unit.columns.count; column++) {
        double terms[2];
        terms_of_column(w, column, terms);
        da_set_real(kernels, w->column_lse, column, terms[LSE]);
        da_set_real(kernels, w->column_delta, column, terms[DELTA]);
    }
    for (int column = w->unit.columns.count; column % kernels->panel_keys != 0; column++) {
        da_set_real(kernels, w->column_lse, column, 0);
        da_set_real(kernels, w->column_delta, column, 0);
    }
    w->block.lse = w->column_lse;
    w->block.delta = w->column_delta;
    if (w->wants_columns) {
        memset(w->columns.sums, 0, DA_BLOCK_KEYS * da_unit_row_bytes(&w->unit));
    }
}

/* Takes the product of the tiles that are kept. */
static void spread_columns(void *user) {
    worker *w = user;
    if (w->columns.rows > 0) {
        w->unit.cut->kernels->spread_columns(&w->block, &w->columns);
    }
}

/* Makes room for keeping one more tile, which begins at `row`. */
static void make_room(worker *w, int row) {
    int tile_rows = w->unit.cut->kernels->tile_rows;
    if (row != w->next_row || w->columns.rows + tile_rows > w->unit.cut->kernels->spread_rows) {
        spread_columns(w);
    }
    if (w->columns.rows == 0) {
        w->columns.keys = w->key_rows + (size_t)row * da_unit_row_bytes(&w->unit);
        w->columns.keys_finite = w->keys_finite;
    }
    w->next_row = row + tile_rows;
}

static void attend_keys(void *user, const da_row_class *class, int row) {
    worker *w = user;
    if (w->wants_columns) {
        make_room(w, class->first_row + row);
    }
    attend_tile(w, class, row, w->tensors->grad_key != NULL, w->tensors->grad_value != NULL);
}

/* Adds what the unit's keys give to the gradient of the block's queries. */
static void leave_block(void *user) {
    worker *w = user;
    size_t row_bytes = da_unit_row_bytes(&w->unit);
    for (int column = 0; column < w->unit.columns.count && w->wants_columns; column++) {
        size_t to = (size_t)(w->unit.columns.positions[column] - w->stretch_first) * row_bytes;
        add_row(w, (const char *)w->columns.sums + (size_t)column * row_bytes, w->grad_query + to);
    }
}

/* Adds what a head of the group gives; other heads of it have other classes. */
static void finish_keys(void *user, const da_row_class *class) {
    worker *w = user;
    size_t row_bytes = da_unit_row_bytes(&w->unit);
    da_unit_finish_tiles(&w->unit, class, w->first_accumulator);
    da_unit_finish_tiles(&w->unit, class, w->second_accumulator);
    for (int row = class->first_row; row < class->first_row + class->row_count; row++) {
        size_t from = (size_t)row * row_bytes;
        size_t to = (size_t)(da_unit_row_position(&w->unit, row) - w->first) * row_bytes;
        add_row(w, w->first_accumulator + from, w->grad_key + to);
        add_row(w, w->second_accumulator + from, w->grad_value + to);
    }
}

static const da_unit_pass key_pass = {
    .rows_are_keys = true,
    .row_is_absent = is_padded_key,
    .begin_class = begin_keys,
    .fill_block = gather_queries,
    .attend_tile = attend_keys,
    .leave_class = spread_columns,
    .leave_block = leave_block,
    .finish_class = finish_keys,
};

/* ---- units ------------------------------------------------------------------------------------------------------- */

/* A piece's rows against all columns of a head. */
static void run_head(worker *w, int64_t head, const da_piece *piece) {
    const da_backward_call *call = w->shared->call;
    w->head = head;
    w->unit.columns_may_be_absent = da_keys_may_be_padded(call->options);
    w->unit.column_head = w->unit.pass->rows_are_keys ? head : w->kv_head;
    da_unit_set_tiles(&w->unit, head);
    da_scope_patterns(w->unit.scope, call->config, head, &w->patterns);
    da_dropout_begin(&w->unit.dropout, call->dropout, call->options->dropout_seed, w->unit.batch,
                     w->unit.scope->heads.first + head);
    w->keys_finite = true;
    da_unit_run(&w->unit, piece);
}

/* Begins the sums for the keys first..end-1. */
static void begin_key_sums(worker *w, int64_t first, int64_t end) {
    size_t bytes = (size_t)(end - first) * da_unit_row_bytes(&w->unit);
    w->first = first;
    memset(w->grad_key, 0, bytes);
    memset(w->grad_value, 0, bytes);
}

static void store_key_sums(const worker *w, int64_t end) {
    const da_tensor *grad_key = w->tensors->grad_key, *grad_value = w->tensors->grad_value;
    size_t row_bytes = da_unit_row_bytes(&w->unit);
    for (int64_t j = w->first; j < end; j++) {
        size_t row = (size_t)(j - w->first) * row_bytes;
        if (grad_key) {
            leave_sums(w, 0, grad_key, j, w->kv_head, w->shared->call->scale, w->grad_key + row);
        }
        if (grad_value) {
            leave_sums(w, 1, grad_value, j, w->kv_head, weight_factor(w), w->grad_value + row);
        }
    }
}

/* The keys of a unit, over all the heads of their group. */
static void run_keys(worker *w, int64_t group, const da_piece *piece) {
    begin_key_sums(w, piece->first, piece->end);
    for (int64_t head = w->kv_head * group; head < (w->kv_head + 1) * group; head++) {
        run_head(w, head, piece);
    }
    store_key_sums(w, piece->end);
}

static void run_unit(int64_t index, int thread, void *user) {
    backward_job *shared = user;
    bool keys = index >= shared->query_units;
    const da_unit_cut *cut = keys ? &shared->key_cut : &shared->query_cut;
    const da_backward_tensors *t = shared->call->tensors;
    const da_scope *scope = keys ? shared->key_scope : shared->query_scope;
    int64_t heads = t->query->shape[2], kv_heads = t->key->shape[2], group = heads / kv_heads;
    int64_t in_pass = keys ? index - shared->query_units : index, sequence = in_pass / cut->unit_count;
    int64_t per_batch = keys ? kv_heads : heads;
    da_piece piece = da_unit_piece(cut, scope->rows, in_pass % cut->unit_count);
    worker w = {.shared = shared, .tensors = t, .sequence = sequence};
    if (da_progress_cancelled(&shared->job.progress)) {
        return;
    }
    w.kv_head = keys ? sequence % per_batch : sequence % per_batch / group;
    w.unit =
        (da_unit){.cut = cut, .pass = keys ? &key_pass : &query_pass, .scope = scope, .batch = sequence / per_batch};
    lay_out(&w, shared, da_job_memory(&shared->job, thread));
    w.unit.worker = &w;
    w.unit.patterns = &w.patterns;
    if (keys) {
        run_keys(&w, group, &piece);
    } else {
        run_head(&w, sequence % per_batch, &piece);
    }
    da_progress_step(&shared->job.progress, thread);
}

/* ---- stretches --------------------------------------------------------------------------------------------------- */

static void store_query_sums(const worker *w, int64_t end) {
    size_t row_bytes = da_unit_row_bytes(&w->unit);
    for (int64_t i = w->stretch_first; i < end && w->wants_columns; i++) {
        store_gradient(w, w->tensors->grad_query, i, w->head, w->shared->call->scale,
                       w->grad_query + (size_t)(i - w->stretch_first) * row_bytes);
    }
}

/* Each query meets the keys of several units: its terms are computed once. */
static void find_stretch_terms(worker *w, int64_t end) {
    const da_kernels *kernels = w->unit.cut->kernels;
    for (int64_t i = w->stretch_first; i < end; i++) {
        double terms[2];
        terms_of_query(kernels, w->tensors, w->unit.batch, i, w->head, terms);
        da_set_real(kernels, w->stretch_lse, i - w->stretch_first, terms[LSE]);
        da_set_real(kernels, w->stretch_delta, i - w->stretch_first, terms[DELTA]);
    }
}

/* One head of a stretch, a unit of keys at a time. Where heads share keys, the sums of these are begun and stored by the
 * caller; otherwise they are of a unit. */
static void run_head_of_stretch(backward_job *shared, worker *w, int64_t head, int64_t end, bool shares_keys,
                                int thread) {
    memset(w->grad_query, 0, (size_t)(end - w->stretch_first) * da_unit_row_bytes(&w->unit));
    w->head = head;
    find_stretch_terms(w, end);
    for (int64_t first = w->stretch_first; first < end; first += shared->key_cut.unit) {
        int64_t unit_end = end - first < shared->key_cut.unit ? end : first + shared->key_cut.unit;
        if (da_progress_cancelled(&shared->job.progress)) {
            return;
        }
        if (!shares_keys) {
            begin_key_sums(w, first, unit_end);
        }
        run_head(w, head, &(da_piece){first, unit_end, first});
        if (!shares_keys) {
            store_key_sums(w, unit_end);
        }
        da_progress_step(&shared->job.progress, thread);
    }
    store_query_sums(w, end);
}

static void run_stretch(int64_t index, int thread, void *user) {
    backward_job *shared = user;
    const da_backward_tensors *t = shared->call->tensors;
    int64_t n = t->query->shape[1], kv_heads = t->key->shape[2], group = t->query->shape[2] / kv_heads;
    int64_t sequence = index / shared->stretch_count, first = index % shared->stretch_count * shared->stretch;
    int64_t end = n - first < shared->stretch ? n : first + shared->stretch;
    worker w = {.shared = shared, .tensors = t, .stretch_first = first, .wants_columns = t->grad_query != NULL};
    w.kv_head = sequence % kv_heads;
    w.unit =
        (da_unit){.cut = &shared->key_cut, .pass = &key_pass, .scope = shared->key_scope, .batch = sequence / kv_heads};
    lay_out(&w, shared, da_job_memory(&shared->job, thread));
    w.unit.worker = &w;
    w.unit.patterns = &w.patterns;
    if (group > 1) {
        begin_key_sums(&w, first, end);
    }
    for (int64_t head = w.kv_head * group; head < (w.kv_head + 1) * group; head++) {
        run_head_of_stretch(shared, &w, head, end, group > 1, thread);
    }
    if (group > 1) {
        store_key_sums(&w, end);
    }
}

static int64_t greatest_common_divisor(int64_t a, int64_t b) {
    return b == 0 ? a : greatest_common_divisor(b, a % b);
}

/* The shortest length at whose multiples segments of all patterns end; n if there is none shorter. */
static int64_t closed_length(const da_attention_config *config, int64_t n) {
    int64_t length = 1;
    for (size_t p = 0; p < config->segment_count; p++) {
        int64_t segment = config->segment_lengths[p], times = segment / greatest_common_divisor(segment, length);
        if (times >= n / length + 1) {
            return n;
        }
        length *= times;
    }
    return length;
}

/* Units of a stretch that are as long as each other, at most `most`: each gathers all columns, however few its rows. Of
 * tiles, whole blocks where one fits. */
static int64_t even_unit(int64_t stretch, int64_t most, int64_t tile_block) {
    int64_t count = (stretch - 1) / most + 1, unit = (stretch - 1) / count + 1;
    int64_t whole = tile_block > 0 ? (unit - 1 + tile_block) / tile_block * tile_block : unit;
    return whole <= most ? whole : unit;
}

/* Units of keys in the stretches of a sequence. */
static int64_t units_of_stretches(const backward_job *shared, int64_t n) {
    int64_t unit = shared->key_cut.unit, rest = n % shared->stretch;
    return n / shared->stretch * ((shared->stretch - 1) / unit + 1) + (rest + unit - 1) / unit;
}

/* Rows of reals that take the memory of what is held for a row. */
static int row_arrays(const da_kernels *kernels, int packed_arrays) {
    int real = (int)kernels->real_size, packed = packed_arrays * (int)kernels->packed_size;
    return SUM_ARRAYS + (packed + real - 1) / real;
}

/* Decides whether to go by stretches, and by which. */
static void plan_stretches(backward_job *shared, const da_kernels *kernels, const da_attention_config *config,
                           const da_problem *problem) {
    int64_t n = da_problem_length(problem), closed = closed_length(config, n);
    bool shares_keys = problem->kv_heads < problem->heads;
    da_unit_cut cut;
    da_unit_cut_init(&cut, kernels, config, problem, INT64_MAX, row_arrays(kernels, STRETCH_PACKED_ARRAYS),
                     shared->tile_block);
    int64_t stretch = closed < cut.unit ? cut.unit / closed * closed : closed, count = (n - 1) / stretch + 1;
    int64_t row_bytes = cut.padded_dim * (int64_t)kernels->real_size * (shares_keys ? 3 : 1);
    bool wanted = config->tuning.unit > 0 ? config->tuning.unit >= stretch
                                          : count >= STRETCHES_WANTED / problem->batch / problem->kv_heads;
    if (wanted && stretch <= STRETCH_BYTES / row_bytes) {
        shared->query_cut = shared->key_cut = cut;
        shared->query_cut.unit = shared->key_cut.unit = even_unit(stretch, cut.unit, shared->tile_block);
        shared->stretch = stretch;
        shared->stretch_count = count;
        shared->grad_key_rows = (size_t)(shares_keys ? stretch : cut.unit);
    }
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

/* Fills in all but the call. Without scopes, for the whole problem. */
static void plan(backward_job *shared, bool wants_query, bool wants_keys, bool drops, const da_context *context,
                 const da_attention_config *config, const da_problem *problem) {
    worker layout;
    const da_kernels *kernels = da_kernels_for_backward(da_context_isa(context), problem->dtype, drops);
    int64_t queries = problem->batch * problem->heads, keys = problem->batch * problem->kv_heads;
    int arrays = row_arrays(kernels, PACKED_ARRAYS);
    da_unit_cut_init(&shared->query_cut, kernels, config, problem, queries, arrays, shared->tile_block);
    da_unit_cut_init(&shared->key_cut, kernels, config, problem, keys, arrays, shared->tile_block);
    if (shared->query_scope) {
        da_unit_cut_part(&shared->query_cut, shared->query_scope->rows);
        da_unit_cut_part(&shared->key_cut, shared->key_scope->rows);
    }
    shared->grad_key_rows = (size_t)shared->key_cut.unit;
    if (!shared->is_part) {
        plan_stretches(shared, kernels, config, problem);
    }
    shared->job.memory_per_thread = lay_out(&layout, shared, NULL);
    shared->job.clear_memory =
        true; /* no_bias is zero, as are columns beyond head_dim and rows that a tile does not use */
    if (shared->stretch > 0) {
        da_job_plan(&shared->job, context, &config->tuning,
                    wants_query || wants_keys ? keys * shared->stretch_count : 0);
        shared->job.steps = queries * units_of_stretches(shared, da_problem_length(problem));
    } else {
        shared->query_units = wants_query ? queries * shared->query_cut.unit_count : 0;
        shared->key_units = wants_keys ? keys * shared->key_cut.unit_count : 0;
        da_job_plan(&shared->job, context, &config->tuning, shared->query_units + shared->key_units);
    }
}

/* The gradients that the call wants, all rows of both directions being as many. */
static da_status run(backward_job *shared) {
    const da_backward_call *call = shared->call;
    const da_backward_tensors *t = call->tensors;
    da_problem problem;
    da_problem_of_tensors(t->query, t->key, &problem);
    problem.n = shared->query_scope->rows->length;
    shared->tile_block = da_scope_tile_block(shared->query_scope);
    plan(shared, t->grad_query, t->grad_key || t->grad_value, call->dropout > 0, call->context, call->config, &problem);
    return da_job_run(&shared->job, call->context, call->options, shared->stretch > 0 ? run_stretch : run_unit, shared);
}

da_status da_improved_backward(void *state, const da_backward_call *call, void *user) {
    const da_head_range all = da_all_heads(call->tensors->query);
    return da_improved_backward_heads(call, &all);
}

static da_status run_whole(const da_backward_call *call, const da_head_range *heads, const da_tiles *tiles,
                           const da_tiles *transposed, const bool *full) {
    const da_backward_tensors *t = call->tensors;
    int64_t n = t->query->shape[1];
    da_whole queries, keys;
    da_scope query_scope = *da_scope_whole(&queries, n, heads, t->key, t->value);
    da_scope key_scope = *da_scope_whole(&keys, n, heads, t->query, t->grad_out);
    query_scope.tiles = tiles;
    key_scope.tiles = transposed;
    query_scope.full = key_scope.full = full;
    backward_job shared = {.call = call, .query_scope = &query_scope, .key_scope = &key_scope};
    return run(&shared);
}

da_status da_improved_backward_heads(const da_backward_call *call, const da_head_range *heads) {
    return run_whole(call, heads, NULL, NULL, NULL);
}

da_status da_improved_backward_tiles(const da_backward_call *call, const da_tiles *tiles, const da_tiles *transposed,
                                     const bool *full) {
    const da_head_range all = da_all_heads(call->tensors->query);
    return run_whole(call, &all, tiles, transposed, full);
}

da_status da_improved_backward_scope(const da_backward_call *call, const da_scope *scope) {
    backward_job shared = {.call = call, .query_scope = scope, .key_scope = scope, .is_part = true};
    return run(&shared);
}

size_t da_improved_backward_scope_workspace(const da_context *context, const da_attention_config *config,
                                            const da_problem *problem, bool keys) {
    backward_job shared = {.is_part = true};
    plan(&shared, !keys, keys, false, context, config, problem);
    return da_job_bytes(&shared.job);
}

size_t da_improved_backward_carry(const da_context *context, bool drops, const da_problem *problem, int64_t heads) {
    const da_kernels *kernels = da_kernels_for_backward(da_context_isa(context), problem->dtype, drops);
    return (size_t)(problem->batch * heads * problem->n) * (size_t)da_unit_padded_dim(kernels, problem->head_dim) *
           kernels->real_size;
}

size_t da_improved_tiles_backward_workspace(const da_context *context, const da_attention_config *config,
                                            const da_problem *problem, int64_t tile_block) {
    backward_job shared = {.tile_block = tile_block}, training = {.tile_block = tile_block};
    plan(&shared, true, true, false, context, config, problem);
    if (config->dropout > 0) { /* whether a call trains is not known */
        plan(&training, true, true, true, context, config, problem);
    }
    size_t bytes = da_job_bytes(&shared.job), training_bytes = da_job_bytes(&training.job);
    return training_bytes > bytes ? training_bytes : bytes;
}

size_t da_improved_backward_workspace(const da_context *context, const da_attention_config *config,
                                      const da_problem *problem, void *user) {
    return da_improved_tiles_backward_workspace(context, config, problem, 0);
}
