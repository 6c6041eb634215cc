/* `improved`: the fast forward pass.
 *
 * A thread takes a unit of one head's sequence at a time and goes through its spans (pattern/schedule.h). The queries
 * of a span are packed once, in tiles that belong to one class each. Their keys and values come in runs, are gathered
 * and packed in blocks, and every block is taken against the tiles of all the classes that see it, by the micro-kernels
 * (kernels/kernels.h), with one running softmax per row through all patterns. So a key is packed once per span, and a
 * score is computed once. Nothing here depends on the data type or the instruction set. */
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

/* Queries of a unit: the more of them, the more often a packed key is used. Their accumulators take UNIT_BYTES, and their
 * packed components as much again. */
#define UNIT_BYTES (512 * 1024)
#define UNIT_MAX_ROWS 2048

#define WIDEST_VECTOR 32 /* components to whose multiples kernels round head_dim up */

#define CACHE_LINE 64
#define PREFETCH_ROWS 16 /* how far ahead of their use rows of keys, values and queries are asked for */

_Static_assert(DA_BLOCK_KEYS <= DA_MAX_BLOCK_KEYS && UNIT_MAX_ROWS <= DA_MAX_UNIT, "a tuning must reach the defaults");

static const double ln_2 = 0.69314718055994530942;

/* What a call's threads share. */
typedef struct forward_job {
    const da_forward_call *call;
    const da_kernels *kernels;
    int head_dim, padded_dim;
    int64_t unit, unit_count; /* per sequence */
    int64_t most_classes;     /* of a span */
    int block_keys;           /* at most DA_BLOCK_KEYS */
    char *memory;
    size_t memory_per_thread;
    da_progress_state progress;
} forward_job;

/* The queries of a span that the same segments keep. Their rows are first_row, first_row + 1, ... */
typedef struct query_class {
    da_segment_set kept_in;
    int first_row, row_count; /* first_row begins a tile */
    double zero_keys;
} query_class;

/* One thread's memory, and the span that it is at. */
typedef struct worker {
    const forward_job *job;
    da_head_patterns patterns;
    int64_t batch, head, kv_head;
    da_span span;
    int class_count;
    query_class classes[DA_MAX_CLASSES];
    uint8_t *class_of;   /* [unit]: of each query of the span */
    int *row_positions;  /* [rows]: of each row's query, relative to the span's first */
    char *maximum, *sum; /* real[rows] */
    char *accumulator;   /* real[rows][padded_dim] */
    char *queries;       /* real[tiles][padded_dim][tile_rows] */
    char *scores;        /* scratch of a tile */
    char *bias;          /* real[DA_BLOCK_KEYS], of the class at hand */
    da_key_block block;
    int key_count;           /* keys visited and not yet attended to */
    int64_t *key_positions;  /* [DA_BLOCK_KEYS] */
    da_segment_set *held_in; /* [DA_BLOCK_KEYS]: the segments that hold each */
    uint64_t seen_by;        /* the classes that see them */
} worker;

static int padded_dim_for(const da_kernels *kernels, int64_t head_dim) {
    return ((int)head_dim + kernels->vector_lanes - 1) / kernels->vector_lanes * kernels->vector_lanes;
}

static int64_t largest_unit(const da_kernels *kernels, int padded_dim) {
    int64_t rows = UNIT_BYTES / (padded_dim * (int64_t)kernels->real_size);
    return rows < UNIT_MAX_ROWS ? rows : UNIT_MAX_ROWS;
}

/* Lays a worker's memory out; returns the bytes it takes. */
static size_t lay_out(worker *w, const forward_job *job, char *memory) {
    da_arena arena = {memory, 0};
    size_t real = job->kernels->real_size, tile = (size_t)job->kernels->tile_rows;
    size_t padded = (size_t)job->padded_dim, unit = (size_t)job->unit;
    /* Each class may leave its last tile part empty. */
    size_t rows = (unit + (size_t)job->most_classes * (tile - 1) + tile - 1) / tile * tile;
    w->class_of = da_arena_take(&arena, unit, sizeof *w->class_of);
    w->row_positions = da_arena_take(&arena, rows, sizeof *w->row_positions);
    w->maximum = da_arena_take(&arena, rows, real);
    w->sum = da_arena_take(&arena, rows, real);
    w->accumulator = da_arena_take(&arena, rows * padded, real);
    w->queries = da_arena_take(&arena, rows * padded, real);
    w->scores = da_arena_take(&arena, tile * DA_BLOCK_KEYS, real);
    w->bias = da_arena_take(&arena, DA_BLOCK_KEYS, real);
    w->key_positions = da_arena_take(&arena, DA_BLOCK_KEYS, sizeof *w->key_positions);
    w->held_in = da_arena_take(&arena, DA_BLOCK_KEYS, sizeof *w->held_in);
    w->block = (da_key_block){.head_dim = job->head_dim, .padded_dim = job->padded_dim};
    w->block.staged = da_arena_take(&arena, (size_t)job->kernels->panel_keys * padded, real);
    w->block.panels = da_arena_take(&arena, DA_BLOCK_KEYS * padded, real);
    w->block.values = da_arena_take(&arena, DA_BLOCK_KEYS * padded, real);
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

static char *accumulator_row(const worker *w, int row) {
    return w->accumulator + (size_t)row * (size_t)w->job->padded_dim * w->job->kernels->real_size;
}

/* Rows lie far apart, where no hardware prefetcher follows. */
static void prefetch_row(const void *row, size_t bytes) {
    for (size_t line = 0; line < bytes; line += CACHE_LINE) {
        PREFETCH((const char *)row + line);
    }
}

/* ---- queries ----------------------------------------------------------------------------------------------------- */

/* Index of the class of `kept_in`; a new one if there is none and room for one; -1 if there is no room. */
static int find_class(worker *w, da_segment_set kept_in) {
    for (int c = 0; c < w->class_count; c++) {
        if (w->classes[c].kept_in == kept_in) {
            return c;
        }
    }
    if (w->class_count == w->job->most_classes) {
        return -1;
    }
    w->classes[w->class_count] = (query_class){.kept_in = kept_in};
    return w->class_count++;
}

/* Finds the classes of the span's queries; where there is no room for another, the span ends. */
static void find_classes(worker *w) {
    w->class_count = 0;
    for (int64_t i = w->span.first; i < w->span.end; i++) {
        int c = find_class(w, da_span_kept_in(&w->span, i));
        if (c < 0) {
            w->span.end = i;
            return;
        }
        w->classes[c].row_count++;
        w->class_of[i - w->span.first] = (uint8_t)c;
    }
}

/* Gives each class its rows, a whole number of tiles, and each row its query. */
static void place_rows(worker *w) {
    int tile_rows = w->job->kernels->tile_rows, next_row = 0;
    for (int c = 0; c < w->class_count; c++) {
        query_class *class = &w->classes[c];
        class->first_row = next_row;
        class->zero_keys = (double)da_span_zero_keys(&w->span, class->kept_in);
        next_row += (class->row_count + tile_rows - 1) / tile_rows * tile_rows;
        class->row_count = 0;
    }
    for (int64_t i = w->span.first; i < w->span.end; i++) {
        query_class *class = &w->classes[w->class_of[i - w->span.first]];
        w->row_positions[class->first_row + class->row_count++] = (int)(i - w->span.first);
    }
}

/* Packs a class's queries and begins their softmax. */
static void begin_class(worker *w, const query_class *class) {
    const forward_job *job = w->job;
    const da_tensor *query = job->call->query;
    int tile_rows = job->kernels->tile_rows;
    size_t real = job->kernels->real_size, row_bytes = (size_t)job->padded_dim * real;
    size_t query_bytes = (size_t)job->head_dim * da_dtype_size(query->dtype);
    int rows = (class->row_count + tile_rows - 1) / tile_rows * tile_rows;
    char *queries = w->queries + (size_t) class->first_row * row_bytes;
    memset(w->sum + (size_t) class->first_row * real, 0, (size_t)rows * real);
    memset(accumulator_row(w, class->first_row), 0, (size_t)(rows * job->padded_dim) * real);
    /* Rows that the last tile does not use hold zeros. */
    memset(queries + (size_t)(rows - tile_rows) * row_bytes, 0, (size_t)tile_rows * row_bytes);
    for (int row = 0; row < rows; row++) {
        set_real(job, w->maximum, class->first_row + row, -INFINITY);
    }
    for (int row = 0; row < class->row_count; row++) {
        if (row + PREFETCH_ROWS < class->row_count) {
            int64_t ahead = w->span.first + w->row_positions[class->first_row + row + PREFETCH_ROWS];
            prefetch_row(da_tensor_row(query, w->batch, ahead, w->head), query_bytes);
        }
        int64_t i = w->span.first + w->row_positions[class->first_row + row];
        job->kernels->pack_query(da_tensor_row(query, w->batch, i, w->head), query->stride[3], query->dtype,
                                 job->head_dim, job->call->scale / ln_2, row % tile_rows,
                                 queries + (size_t)(row / tile_rows * tile_rows) * row_bytes);
    }
}

/* Divides a row's accumulator by its sum and writes output and logsumexp. The zero keys come in here: with z of them the
 * sum gains z * 2^(0 - maximum), and the accumulator nothing. */
static void finish_row(worker *w, int row, double zero_keys) {
    const forward_job *job = w->job;
    const da_tensor *out = job->call->out, *lse = job->call->lse;
    int64_t i = w->span.first + w->row_positions[row];
    double maximum = real_at(job, w->maximum, row), sum = real_at(job, w->sum, row), factor = 1;
    if (zero_keys > 0) {
        double reached = maximum > 0 ? maximum : 0;
        factor = exp2(maximum - reached);
        sum = sum * factor + zero_keys * exp2(-reached);
        maximum = reached;
    }
    bool has_keys = sum != 0; /* a NaN is a key's */
    job->kernels->store_row(accumulator_row(w, row), has_keys ? factor / (sum * w->patterns.divisor) : 0, out->dtype,
                            job->head_dim, da_tensor_row(out, w->batch, i, w->head), out->stride[3]);
    if (lse) {
        da_dtype_store(lse->dtype, da_tensor_row(lse, w->batch, i, w->head),
                       has_keys ? (maximum + log2(sum)) * ln_2 : -INFINITY);
    }
}

static void finish_class(worker *w, const query_class *class) {
    const da_kernels *kernels = w->job->kernels;
    for (int row = 0; row < class->row_count; row++) {
        if (row % kernels->tile_rows == 0 && kernels->finish_tile) {
            kernels->finish_tile(accumulator_row(w, class->first_row + row), w->job->padded_dim);
        }
        finish_row(w, class->first_row + row, class->zero_keys);
    }
}

/* ---- keys -------------------------------------------------------------------------------------------------------- */

/* A position relative to the span, as the kernels compare it; exact up to 2^30 tokens away, and beyond that still on
 * the right side of every bound that causality or a window of at most 2^30 sets. */
static int32_t relative_position(const worker *w, int64_t position) {
    const int64_t limit = (int64_t)1 << 30;
    int64_t relative = position - w->span.first;
    return (int32_t)(relative > limit ? limit : relative < -limit ? -limit : relative);
}

static void attend_tile(worker *w, const query_class *class, int row_in_class) {
    const da_kernels *kernels = w->job->kernels;
    const da_head_patterns *patterns = &w->patterns;
    size_t real = kernels->real_size;
    int row = class->first_row + row_in_class, rows = class->row_count - row_in_class;
    da_query_tile tile = {
        .queries = w->queries + (size_t)row * (size_t)w->job->padded_dim * real,
        .maximum = w->maximum + (size_t)row * real,
        .sum = w->sum + (size_t)row * real,
        .accumulator = accumulator_row(w, row),
        .scores = w->scores,
        .bias = w->bias,
        .score_factor = w->job->call->scale / ln_2,
        .rows = rows < kernels->tile_rows ? rows : kernels->tile_rows,
    };
    for (int r = 0; r < tile.rows; r++) {
        int64_t i = w->span.first + w->row_positions[row + r];
        tile.last_visible[r] = patterns->causal ? relative_position(w, i) : INT32_MAX;
        tile.first_visible[r] = patterns->window < i ? relative_position(w, i - patterns->window) : INT32_MIN;
    }
    kernels->attend(&w->block, &tile);
}

/* The bias of the block's keys for the queries of a class. */
static void set_class_bias(worker *w, const query_class *class) {
    uint8_t multiplicities[DA_BLOCK_KEYS];
    da_segment_set held_in = 0;
    int multiplicity = 0;
    for (int key = 0; key < w->key_count; key++) {
        if (key == 0 || w->held_in[key] != held_in) {
            held_in = w->held_in[key];
            multiplicity = da_span_multiplicity(&w->span, class->kept_in, held_in);
        }
        multiplicities[key] = (uint8_t)multiplicity;
    }
    w->job->kernels->set_bias(multiplicities, w->block.count, w->bias);
}

/* Takes the block against the tiles of a class that see a key of it. */
static void attend_class(worker *w, const query_class *class) {
    const da_head_patterns *patterns = &w->patterns;
    int tile_rows = w->job->kernels->tile_rows;
    /* Keys and rows are in ascending order. */
    int64_t first_key = w->key_positions[0], last_key = w->key_positions[w->key_count - 1];
    set_class_bias(w, class);
    for (int row = 0; row < class->row_count; row += tile_rows) {
        int last_row = row + tile_rows < class->row_count ? row + tile_rows - 1 : class->row_count - 1;
        int64_t first_query = w->span.first + w->row_positions[class->first_row + row];
        int64_t last_query = w->span.first + w->row_positions[class->first_row + last_row];
        bool all_later = patterns->causal && first_key > last_query;
        bool all_too_early = patterns->window < first_query && last_key < first_query - patterns->window;
        if (!all_later && !all_too_early) {
            attend_tile(w, class, row);
        }
    }
}

/* Gathers the keys that were visited into the block, asking for each some keys ahead of its use. */
static void fill_block(worker *w) {
    const da_tensor *key = w->job->call->key, *value = w->job->call->value;
    size_t row_bytes = (size_t)w->job->head_dim * da_dtype_size(key->dtype);
    da_key_source source = {.key_stride = key->stride[3], .value_stride = value->stride[3], .dtype = key->dtype};
    w->block.count = 0;
    for (int k = 0; k < w->key_count; k++) {
        if (k + PREFETCH_ROWS < w->key_count) {
            int64_t ahead = w->key_positions[k + PREFETCH_ROWS];
            prefetch_row(da_tensor_row(key, w->batch, ahead, w->kv_head), row_bytes);
            prefetch_row(da_tensor_row(value, w->batch, ahead, w->kv_head), row_bytes);
        }
        source.key = da_tensor_row(key, w->batch, w->key_positions[k], w->kv_head);
        source.value = da_tensor_row(value, w->batch, w->key_positions[k], w->kv_head);
        source.position = relative_position(w, w->key_positions[k]);
        w->job->kernels->append_key(&w->block, &source);
    }
    w->job->kernels->close_block(&w->block);
}

/* Takes the keys that were visited against the tiles of all classes that see them. */
static void flush_keys(worker *w) {
    if (w->key_count == 0) {
        return;
    }
    fill_block(w);
    for (int c = 0; c < w->class_count; c++) {
        if (w->seen_by >> c & 1) {
            attend_class(w, &w->classes[c]);
        }
    }
    w->key_count = 0;
}

static void visit_key(int64_t position, da_segment_set held_in, uint64_t seen_by, void *user) {
    worker *w = user;
    if (da_key_is_padded(w->job->call->options, w->batch, position)) {
        return;
    }
    if (w->key_count == w->job->block_keys || seen_by != w->seen_by) {
        flush_keys(w);
        w->seen_by = seen_by;
    }
    w->key_positions[w->key_count] = position;
    w->held_in[w->key_count++] = held_in;
}

/* ---- units ------------------------------------------------------------------------------------------------------- */

/* Computes the queries from `first` on, as far as a span and its classes have room; returns where it stopped. */
static int64_t run_span(worker *w, int64_t first, int64_t end) {
    da_segment_set kept_in[DA_MAX_CLASSES];
    da_span_begin(&w->span, &w->patterns, first, end);
    find_classes(w);
    place_rows(w);
    for (int c = 0; c < w->class_count; c++) {
        kept_in[c] = w->classes[c].kept_in;
        begin_class(w, &w->classes[c]);
    }
    w->key_count = 0;
    da_span_keys(&w->span, kept_in, w->class_count, visit_key, w);
    flush_keys(w);
    for (int c = 0; c < w->class_count; c++) {
        finish_class(w, &w->classes[c]);
    }
    return w->span.end;
}

static void run_unit(int64_t index, int thread, void *user) {
    forward_job *job = user;
    const da_tensor *query = job->call->query;
    int64_t sequence = index / job->unit_count, n = query->shape[1], heads = query->shape[2];
    int64_t first = index % job->unit_count * job->unit, end = n - first < job->unit ? n : first + job->unit;
    worker w = {.job = job, .batch = sequence / heads, .head = sequence % heads};
    if (da_progress_cancelled(&job->progress)) {
        return;
    }
    w.kv_head = w.head / (heads / job->call->key->shape[2]);
    lay_out(&w, job, job->memory + (size_t)thread * job->memory_per_thread);
    da_head_patterns_init(&w.patterns, job->call->config, n, heads, w.head);
    if (job->kernels->begin) {
        job->kernels->begin();
    }
    while (first < end) {
        first = run_span(&w, first, end);
    }
    if (job->kernels->end) {
        job->kernels->end();
    }
    da_progress_step(&job->progress, thread);
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

static int64_t choose_unit(const da_tuning *tuning, int64_t n, int64_t sequences, int64_t largest) {
    if (tuning->unit == 0) {
        return da_schedule_unit(n, sequences, largest);
    }
    int64_t unit = tuning->unit < largest ? tuning->unit : largest;
    return unit < n ? unit : n;
}

/* Classes that the queries of a unit can fall into: each pattern of a rate above 1 keeps a query or not, in each of the
 * segments that the unit meets. */
static int64_t most_classes(const da_attention_config *config, int64_t unit) {
    int64_t most = unit < DA_MAX_CLASSES ? unit : DA_MAX_CLASSES, pieces = 1, kept_or_not = 1;
    for (size_t p = 0; p < config->segment_count && pieces * kept_or_not < most; p++) {
        pieces += unit / config->segment_lengths[p] + 1; /* edges of segments within the unit */
        kept_or_not *= config->dilation_rates[p] == 1 ? 1 : 2;
    }
    return pieces * kept_or_not < most ? pieces * kept_or_not : most;
}

/* Fills in all but the memory; returns the number of threads that the call can use. */
static int plan(forward_job *job, const da_context *context, const da_attention_config *config,
                const da_problem *problem) {
    worker layout;
    int64_t sequences = problem->batch * problem->heads, n = da_problem_length(problem);
    int block_keys = config->tuning.block_keys;
    job->kernels = da_kernels_for(da_context_isa(context), problem->dtype);
    job->head_dim = (int)problem->head_dim;
    job->padded_dim = padded_dim_for(job->kernels, problem->head_dim);
    job->unit = choose_unit(&config->tuning, n, sequences, largest_unit(job->kernels, job->padded_dim));
    job->unit_count = (n - 1) / job->unit + 1;
    job->most_classes = most_classes(config, job->unit);
    job->block_keys = block_keys > 0 && block_keys < DA_BLOCK_KEYS ? block_keys : DA_BLOCK_KEYS;
    job->memory_per_thread = lay_out(&layout, job, NULL);
    return da_threads_for(context, &config->tuning, sequences * job->unit_count);
}

void da_improved_describe(const da_context *context, const da_attention_config *config, const da_problem *problem,
                          da_improved_cut *cut) {
    forward_job job = {0};
    cut->threads = plan(&job, context, config, problem);
    cut->tile_rows = job.kernels->tile_rows;
    cut->panel_keys = job.kernels->panel_keys;
    cut->unit = job.unit;
    cut->unit_count = job.unit_count;
    cut->block_keys = job.block_keys;
    cut->unit_bytes = (size_t)job.unit * (size_t)(2 * job.padded_dim) * job.kernels->real_size;
}

static da_status forward(void *state, const da_forward_call *call, void *user) {
    const da_allocator *allocator = da_context_allocator(call->context);
    da_problem problem;
    forward_job job = {.call = call};
    da_problem_of_tensors(call->query, call->key, &problem);
    int threads = plan(&job, call->context, call->config, &problem);
    job.memory = da_allocate(allocator, (size_t)threads, job.memory_per_thread);
    if (!job.memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    if (job.head_dim % WIDEST_VECTOR !=
        0) { /* components between head_dim and the end of a vector are read, and stay zero */
        memset(job.memory, 0, (size_t)threads * job.memory_per_thread);
    }
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
        "Vector kernels (AVX-512, AVX2, NEON, portable) chosen at run time; one pass over all patterns, each score "
        "computed once however many patterns hold it",
    .best_for = "speed on any CPU",
    .memory = "a fixed workspace of 1.5 MiB a thread",
    .features = DA_FEATURE_ALL,
    .dtypes = DA_DTYPE_BITS_ALL,
    .forward = forward,
    .workspace = workspace,
};
