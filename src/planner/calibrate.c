#include "planner/calibrate.h"

#include <stdlib.h>

#include "attention/improved/improved.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "core/tensor.h"
#include "planner/fit.h"
#include "planner/trial.h"

/* Repeats go on until SECONDS have passed; the fastest counts, as what disturbs a run makes it slower. Where a repeat takes
 * so long that disturbances even out, fewer than MIN_REPEATS are enough. All times are the processor's, not the clock's:
 * what else the machine does should not be taken for this library's work. */
#define SECONDS 0.025
#define MOST_SECONDS 0.25
#define MIN_REPEATS 5
#define MAX_REPEATS 10

/* Query-key components of the longest run. */
#define RUN_WORK (48.0 * 1024 * 1024)
#define MAX_LENGTH 1024
#define MIN_LENGTH 192

enum { MAX_RUNS = 10, TILE = 64, FAR_QUERIES = 2048, FAR_KEYS = 2 * DA_MAX_BLOCK_KEYS };

/* A short problem. */
typedef struct short_run {
    da_attention_config config;
    da_trial_size size;
    double fastest;
} short_run;

typedef struct run_list {
    int count;
    short_run runs[MAX_RUNS];
} run_list;

/* Adds a run of one thread, with one pattern of rate 1, which the caller may change. */
static short_run *add_run(run_list *list, int64_t n, int64_t segment) {
    short_run *run = &list->runs[list->count++];
    *run = (short_run){.size = {1, n, n}, .fastest = -1};
    da_attention_config_init(&run->config);
    run->config.segment_count = run->config.rate_count = 1;
    run->config.segment_lengths[0] = segment;
    run->config.dilation_rates[0] = 1;
    run->config.tuning.threads = 1;
    run->config.tuning.unit = DA_MAX_UNIT;
    return run;
}

/* A unit as large as they come against a few keys. */
static void add_far_run(run_list *list) {
    add_run(list, FAR_QUERIES, FAR_QUERIES)->size.keys = FAR_KEYS;
}

/* The runs, each with more of one part of the work than the others: workspace and call, panels, classes, blocks,
 * packing, rows, masks. */
static void make_runs(run_list *list, int64_t n, int tile_rows) {
    add_run(list, 1, 1);
    add_run(list, n, n);
    add_run(list, n, 16);
    add_run(list, n / 2, n / 2)->config.tuning.block_keys = TILE;
    add_run(list, n / 3, n / 3)->config.tuning.unit = tile_rows;
    short_run *diagonal = add_run(list, n, n);
    diagonal->config.causal = true;
    diagonal->config.window = 0;
    add_run(list, n, n)->config.causal = true;
    short_run *dilated = add_run(list, n, n / 4);
    dilated->config.segment_count = dilated->config.rate_count = 2;
    dilated->config.segment_lengths[1] = n;
    dilated->config.dilation_rates[1] = 4;
}

/* No vector kernels: runs must be shorter, and the cache is not what limits them. */
static bool is_slow(const da_context *context, const da_calibration *timing) {
    return timing->implementation->forward != da_improved_implementation.forward ||
           da_context_isa(context) == DA_ISA_PORTABLE;
}

static int64_t choose_length(const da_context *context, const da_calibration *timing) {
    double most = RUN_WORK / (double)timing->head_dim / (is_slow(context, timing) ? 16 : 1);
    int64_t n = MIN_LENGTH;
    while (n < MAX_LENGTH && (double)((n + TILE) * (n + TILE)) <= most) {
        n += TILE;
    }
    return n;
}

static da_status time_runs(const da_trial *trial, run_list *list) {
    double start = da_trial_thread_clock();
    for (int repeat = 0; repeat < MAX_REPEATS; repeat++) {
        for (int k = 0; k < list->count; k++) {
            short_run *run = &list->runs[k];
            double wall, before = da_trial_thread_clock();
            da_status status = da_trial_run(trial, &run->config, run->size, &wall);
            double seconds = da_trial_thread_clock() - before;
            if (status != DA_OK) {
                return status;
            }
            run->fastest = run->fastest < 0 || seconds < run->fastest ? seconds : run->fastest;
        }
        double passed = da_trial_thread_clock() - start;
        if (passed > MOST_SECONDS || (repeat + 1 >= MIN_REPEATS && passed > SECONDS)) {
            break;
        }
    }
    return DA_OK;
}

/* What padding hides takes part in no more than the visit. */
static void leave_out_padding(const da_trial_size *size, double amount[DA_WORK_KINDS]) {
    double share = (double)size->keys / (double)size->n;
    amount[DA_WORK_KEYS] *= share;
    amount[DA_WORK_CLASS_KEYS] *= share;
    amount[DA_WORK_TILE_BLOCKS] *= share;
    amount[DA_WORK_FAR_TILES] *= share;
    amount[DA_WORK_TILE_PANELS] *= share;
}

/* The work of a whole run. */
static void sum_work(const da_trial *trial, const short_run *run, double amount[DA_WORK_KINDS]) {
    da_work_list list;
    da_problem problem;
    da_problem_init(&problem);
    problem.n = run->size.n;
    problem.kv_heads = 1;
    problem.head_dim = trial->query.shape[3];
    problem.dtype = trial->query.dtype;
    for (int j = 0; j < DA_WORK_KINDS; j++) {
        amount[j] = 0;
    }
    if (!da_work_count(trial->context, trial->implementation, &run->config, &problem, &list)) {
        return;
    }
    for (int64_t unit = 0; unit < list.units; unit++) {
        for (int j = 0; j < DA_WORK_KINDS; j++) {
            amount[j] += da_work_of_unit(&list, 0, 1, unit)->amount[j];
        }
    }
    amount[DA_WORK_MEMORY] = (double)list.memory;
    leave_out_padding(&run->size, amount);
}

/* Solves for the time of each part. */
static void solve(const da_trial *trial, const run_list *list, da_calibration *timing) {
    double matrix[MAX_RUNS * DA_WORK_KINDS];
    for (int i = 0; i < list->count; i++) {
        const short_run *run = &list->runs[i];
        sum_work(trial, run, &matrix[i * DA_WORK_KINDS]);
        for (int j = 0; j < DA_WORK_KINDS; j++) {
            matrix[i * DA_WORK_KINDS + j] /= run->fastest;
        }
    }
    da_fit(matrix, list->count, DA_WORK_KINDS, timing->seconds);
}

static int busy_threads(const da_context *context) {
    int threads = da_context_threads(context), cores = da_usable_cores();
    return threads < cores ? threads : cores;
}

/* ---- threads beside one another ---------------------------------------------------------------------------------- */

enum { ROUNDS = 7 };

/* One run by each thread. */
typedef struct side_by_side {
    const da_trial *trial;
    const short_run *run;
    double *seconds; /* of each thread */
    da_status *status;
} side_by_side;

static void run_beside(int64_t index, int thread, void *user) {
    const side_by_side *all = user;
    da_trial own = *all->trial;
    double wall, start = da_trial_thread_clock();
    own.out.data = da_tensor_row(&all->trial->out, index, 0, 0);
    own.lse.data = da_tensor_row(&all->trial->lse, index, 0, 0);
    all->status[index] = da_trial_run(&own, &all->run->config, all->run->size, &wall);
    all->seconds[index] = da_trial_thread_clock() - start;
}

static int compare_doubles(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* How much longer a thread computes for the same while the others compute too: they may share a core, its cache or its
 * clock rate. Its own processor time counts, so that what else the machine does plays no part. */
static da_status measure_slowdown(const da_trial *trial, const short_run *run, int threads, double *slowdown) {
    double seconds[DA_MAX_THREADS], rounds[ROUNDS], alone = 0, start = da_trial_thread_clock();
    da_status status[DA_MAX_THREADS], worst = DA_OK;
    side_by_side all = {trial, run, seconds, status};
    int round = 0;
    *slowdown = 1;
    for (; round < ROUNDS && threads > 1 && worst == DA_OK && da_trial_thread_clock() - start < MOST_SECONDS; round++) {
        run_beside(0, 0, &all);
        worst = status[0];
        alone = round == 0 || seconds[0] < alone ? seconds[0] : alone;
        da_parallel_for(threads, threads, run_beside, &all);
        rounds[round] = 0;
        for (int t = 0; t < threads; t++) {
            rounds[round] += seconds[t] / threads;
            worst = status[t] != DA_OK ? status[t] : worst;
        }
    }
    if (threads > 1 && worst == DA_OK) {
        qsort(rounds, (size_t)round, sizeof *rounds, compare_doubles);
        *slowdown = rounds[round / 2] > alone ? rounds[round / 2] / alone : 1;
    }
    return worst;
}

static da_status take_timing(const da_context *context, da_calibration *timing) {
    da_improved_cut cut;
    da_trial trial;
    da_problem problem;
    run_list list = {.count = 0};
    da_problem_init(&problem);
    problem.batch = busy_threads(context);
    int64_t n = choose_length(context, timing);
    problem.n = is_slow(context, timing) ? n : FAR_QUERIES;
    problem.kv_heads = 1;
    problem.head_dim = timing->head_dim;
    problem.dtype = timing->dtype;
    da_status status = da_trial_create(context, &problem, &trial);
    if (status != DA_OK) {
        return status;
    }
    trial.implementation = timing->implementation;
    da_attention_config plain;
    da_attention_config_init(&plain);
    da_improved_describe(context, &plain, &problem, &cut);
    make_runs(&list, n, cut.tile_rows);
    if (problem.n > n) {
        add_far_run(&list);
    }
    status = time_runs(&trial, &list);
    if (status == DA_OK) {
        solve(&trial, &list, timing);
        status = measure_slowdown(&trial, &list.runs[1], (int)problem.batch, &timing->slowdown);
    }
    da_trial_free(&trial);
    return status;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

#define BUFFER_BYTES (16u << 20)
enum { PARTS = 64, READS = 3 };

typedef struct buffer {
    uint64_t *words;
    uint64_t sums[PARTS];
    double seconds[PARTS];
} buffer;

static void fill_part(int64_t index, int thread, void *user) {
    buffer *read = user;
    size_t words = BUFFER_BYTES / sizeof(uint64_t) / PARTS;
    for (size_t k = 0; k < words; k++) {
        read->words[(size_t)index * words + k] = k;
    }
}

static void read_part(int64_t index, int thread, void *user) {
    buffer *read = user;
    size_t words = BUFFER_BYTES / sizeof(uint64_t) / PARTS;
    const uint64_t *from = read->words + (size_t)index * words;
    uint64_t sum = 0;
    double start = da_trial_thread_clock();
    for (size_t k = 0; k < words; k++) {
        sum += from[k];
    }
    read->sums[index] = sum;
    read->seconds[index] = da_trial_thread_clock() - start;
}

static da_status measure_reading(const da_context *context, double *bytes_per_second) {
    buffer read;
    double fastest = -1;
    read.words = da_allocate(da_context_allocator(context), BUFFER_BYTES, 1);
    if (!read.words) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    da_parallel_for(busy_threads(context), PARTS, fill_part, &read);
    for (int k = 0; k < READS; k++) {
        double seconds = 0;
        da_parallel_for(busy_threads(context), PARTS, read_part, &read);
        for (int part = 0; part < PARTS; part++) {
            seconds += read.seconds[part] / busy_threads(context);
        }
        fastest = fastest < 0 || seconds < fastest ? seconds : fastest;
    }
    da_release(da_context_allocator(context), read.words);
    *bytes_per_second = BUFFER_BYTES / fastest;
    return DA_OK;
}

da_status da_calibrate(const da_context *context, const da_implementation *implementation, da_dtype dtype,
                       int64_t head_dim, da_calibration *timing, double *bytes_per_second) {
    da_calibrations *calibrations = da_context_calibrations(context);
    da_status status = DA_OK;
    pthread_mutex_lock(&calibrations->lock);
    if (calibrations->bytes_per_second == 0) {
        status = measure_reading(context, &calibrations->bytes_per_second);
    }
    const da_calibration *known = da_calibrations_find(calibrations, implementation, dtype, head_dim);
    if (known) {
        *timing = *known;
    } else if (status == DA_OK) {
        *timing = (da_calibration){.implementation = implementation, .dtype = dtype, .head_dim = head_dim};
        status = take_timing(context, timing);
        if (status == DA_OK) {
            da_calibrations_enter(calibrations, timing);
        }
    }
    *bytes_per_second = calibrations->bytes_per_second;
    pthread_mutex_unlock(&calibrations->lock);
    return status;
}
