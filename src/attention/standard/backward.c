/* The backward pass of `standard`, by the formulae at da_attention_backward.
 *
 * Scores are computed again from query and key, and weights from the logsumexp of the forward pass (Dao et al.,
 * arXiv:2205.14135). There are two passes, each like the forward one, pattern by pattern over the segments: tiles of queries
 * gather grad_query from the keys that they see, and tiles of keys gather grad_key and grad_value from the queries that see
 * them, of all the heads that share the key. Each pair's numbers are made twice that way, but no two threads add to one
 * number, whence results are the same for any number of them, and nothing but a tile is held. */
#include "attention/standard/backward.h"

#include <math.h>

#include "attention/job.h"
#include "attention/standard/sequence.h"

#define REAL float
#define EXP expf
#define NAME(x) x##_f32
#include "attention/standard/backward.inc.h"
#undef REAL
#undef EXP
#undef NAME
#define REAL double
#define EXP exp
#define NAME(x) x##_f64
#include "attention/standard/backward.inc.h"
#include "core/numbers.h"

typedef struct backward_job {
    const da_backward_call *call;
    int64_t query_tiles, key_tiles; /* per sequence and head, or kv head */
    int64_t query_work, key_work;   /* tiles in all, of the gradients that are wanted */
    da_job job;
} backward_job;

static void begin_head(sequence *s, const da_backward_call *call, int64_t batch, int64_t head) {
    const da_backward_tensors *t = call->tensors;
    *s = (sequence){
        .query = t->query,
        .key = t->key,
        .value = t->value,
        .out = t->out,
        .lse = t->lse,
        .options = call->options,
        .scale = call->scale,
    };
    sequence_begin(s, call->config, call->dropout, batch, head);
}

static void run_query_tile(const backward_job *shared, int64_t index, void *memory) {
    const da_backward_tensors *t = shared->call->tensors;
    int64_t heads = t->query->shape[2], first = index % shared->query_tiles * TILE_ROWS;
    int64_t end = da_smaller(first + TILE_ROWS, t->query->shape[1]);
    sequence s;
    begin_head(&s, shared->call, index / shared->query_tiles / heads, index / shared->query_tiles % heads);
    if (t->query->dtype == DA_F64) {
        differentiate_queries_f64(memory, &s, t, first, end);
    } else {
        differentiate_queries_f32(memory, &s, t, first, end);
    }
}

static void run_key_tile(const backward_job *shared, int64_t index, void *memory) {
    const da_backward_tensors *t = shared->call->tensors;
    int64_t kv_heads = t->key->shape[2], group = t->query->shape[2] / kv_heads;
    int64_t batch = index / shared->key_tiles / kv_heads, kv_head = index / shared->key_tiles % kv_heads;
    int64_t first = index % shared->key_tiles * TILE_KEYS, end = da_smaller(first + TILE_KEYS, t->key->shape[1]);
    bool f64 = t->query->dtype == DA_F64;
    int head_dim = (int)t->query->shape[3];
    sequence s;
    (f64 ? begin_keys_f64 : begin_keys_f32)(memory, end - first, head_dim);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        begin_head(&s, shared->call, batch, head);
        (f64 ? differentiate_keys_f64 : differentiate_keys_f32)(memory, &s, t, first, end);
    }
    (f64 ? finish_keys_f64 : finish_keys_f32)(memory, &s, t, first, end);
}

static void run_tile(int64_t index, int thread, void *user) {
    backward_job *shared = user;
    void *memory = da_job_memory(&shared->job, thread);
    if (da_progress_cancelled(&shared->job.progress)) {
        return;
    }
    if (index < shared->query_work) {
        run_query_tile(shared, index, memory);
    } else {
        run_key_tile(shared, index - shared->query_work, memory);
    }
    da_progress_step(&shared->job.progress, thread);
}

static size_t tile_size(da_dtype dtype) {
    size_t queries = dtype == DA_F64 ? sizeof(query_tile_f64) : sizeof(query_tile_f32);
    size_t keys = dtype == DA_F64 ? sizeof(key_tile_f64) : sizeof(key_tile_f32);
    return queries > keys ? queries : keys;
}

/* Fills in all but the call. */
static void plan(backward_job *shared, const da_context *context, const da_attention_config *config,
                 const da_problem *problem, bool wants_query, bool wants_keys) {
    da_arena arena = {0};
    int64_t n = da_problem_length(problem);
    shared->query_tiles = (n - 1) / TILE_ROWS + 1;
    shared->key_tiles = (n - 1) / TILE_KEYS + 1;
    shared->query_work = wants_query ? problem->batch * problem->heads * shared->query_tiles : 0;
    shared->key_work = wants_keys ? problem->batch * problem->kv_heads * shared->key_tiles : 0;
    da_arena_take(&arena, 1, tile_size(problem->dtype));
    shared->job.memory_per_thread = arena.used;
    da_job_plan(&shared->job, context, &config->tuning, shared->query_work + shared->key_work);
}

da_status da_standard_backward(void *state, const da_backward_call *call, void *user) {
    const da_backward_tensors *t = call->tensors;
    da_problem problem;
    backward_job shared = {.call = call};
    da_problem_of_tensors(t->query, t->key, &problem);
    plan(&shared, call->context, call->config, &problem, t->grad_query, t->grad_key || t->grad_value);
    return da_job_run(&shared.job, call->context, call->options, run_tile, &shared);
}

size_t da_standard_backward_workspace(const da_context *context, const da_attention_config *config,
                                      const da_problem *problem, void *user) {
    backward_job shared = {0};
    plan(&shared, context, config, problem, true, true);
    return da_job_bytes(&shared.job);
}
