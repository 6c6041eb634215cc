/* `standard`: dilated attention in plain C, to read and to debug against.
 *
 * Tiles of consecutive queries go, one pattern after the other, through the keys of their segments, with one running
 * softmax per query through all patterns (Milakov and Gimelshein, arXiv:1805.02867): when a larger score turns up, sum
 * and accumulator shrink by exp(old maximum - new maximum). That is the paper's mixing by softmax denominators, without
 * an output per pattern. Memory is one tile a thread. */
#include "attention/standard/standard.h"

#include <math.h>

#include "attention/job.h"
#include "attention/standard/backward.h"
#include "attention/standard/sequence.h"

#define REAL float
#define EXP expf
#define LOG logf
#define NAME(x) x##_f32
#include "attention/standard/tile.inc.h"
#undef REAL
#undef EXP
#undef LOG
#undef NAME
#define REAL double
#define EXP exp
#define LOG log
#define NAME(x) x##_f64
#include "attention/standard/tile.inc.h"

typedef struct forward_job {
    const da_forward_call *call;
    int64_t tiles; /* per sequence */
    da_job job;
} forward_job;

static void run_tile(int64_t index, int thread, void *user) {
    forward_job *shared = user;
    const da_forward_call *call = shared->call;
    int64_t n = call->query->shape[1], heads = call->query->shape[2];
    int64_t first = index % shared->tiles * TILE_ROWS;
    int rows = n - first < TILE_ROWS ? (int)(n - first) : TILE_ROWS;
    void *memory = da_job_memory(&shared->job, thread);
    if (da_progress_cancelled(&shared->job.progress)) {
        return;
    }
    sequence s = {
        .query = call->query,
        .key = call->key,
        .value = call->value,
        .out = call->out,
        .lse = call->lse,
        .options = call->options,
        .scale = call->scale,
    };
    sequence_begin(&s, call->config, call->dropout, index / shared->tiles / heads, index / shared->tiles % heads);
    if (call->query->dtype == DA_F64) {
        forward_tile_f64(memory, &s, first, rows);
    } else {
        forward_tile_f32(memory, &s, first, rows);
    }
    da_progress_step(&shared->job.progress, thread);
}

/* Fills in all but the call. */
static void plan(forward_job *shared, const da_context *context, const da_attention_config *config,
                 const da_problem *problem) {
    da_arena arena = {0};
    shared->tiles = (da_problem_length(problem) - 1) / TILE_ROWS + 1;
    da_arena_take(&arena, 1, problem->dtype == DA_F64 ? sizeof(tile_f64) : sizeof(tile_f32));
    shared->job.memory_per_thread = arena.used;
    da_job_plan(&shared->job, context, &config->tuning, problem->batch * problem->heads * shared->tiles);
}

static da_status forward(void *state, const da_forward_call *call, void *user) {
    da_problem problem;
    forward_job shared = {.call = call};
    da_problem_of_tensors(call->query, call->key, &problem);
    plan(&shared, call->context, call->config, &problem);
    return da_job_run(&shared.job, call->context, call->options, run_tile, &shared);
}

static size_t workspace(const da_context *context, const da_attention_config *config, const da_problem *problem,
                        void *user) {
    forward_job shared = {0};
    plan(&shared, context, config, problem);
    return da_job_bytes(&shared.job);
}

const da_implementation da_standard_implementation = {
    .size = sizeof(da_implementation),
    .name = "standard",
    .description = "Plain portable C, tiled, one pass over all patterns: the version to read",
    .best_for = "a baseline, and debugging",
    .memory = "one tile a thread: 200 KiB, 400 KiB for f64; for gradients 330 KiB, 660 KiB",
    .features = DA_FEATURE_ALL & ~DA_FEATURE_QUERY_RANGE,
    .dtypes = DA_DTYPE_BITS_ALL,
    .forward = forward,
    .workspace = workspace,
    .backward = da_standard_backward,
    .backward_workspace = da_standard_backward_workspace,
};
