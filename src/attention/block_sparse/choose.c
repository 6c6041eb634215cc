#include "attention/block_sparse/choose.h"

#include <stdatomic.h>
#include <string.h>

#include "attention/block_sparse/learn.h"
#include "attention/block_sparse/lists.h"
#include "attention/block_sparse/profile.h"
#include "attention/workspace.h"
#include "core/numbers.h"
#include "core/parallel.h"
#include "core/progress.h"

/* A call. */
typedef struct choice {
    da_learner learner;               /* as each head begins */
    const da_sparse_profile *profile; /* or NULL */
    da_tiles *tiles;
    int32_t *
        *columns; /* [rows of tiles]: of the first row of some that were chosen together, the tiles of all of them */
    atomic_bool out_of_memory;
    da_progress_state progress; /* a step for each head that is learned from, and for each row */
    char *memory;               /* of each head that is at hand */
    size_t memory_size;
} choice;

/* A head of it. */
typedef struct chooser {
    choice *call;
    int thread; /* where heads are side by side */
    da_learner learner;
    da_sparse_rule rule;
    float threshold;   /* by content with a target */
    int64_t first_row; /* of the head, in tiles */
} chooser;

/* ---- rows ---------------------------------------------------------------------------------------------------------- */

/* Keeps the candidates at or above the threshold, or else one. */
static int64_t keep_above(da_choice_worker *w, int64_t count, float threshold, int32_t *kept) {
    int64_t kept_count = 0;
    for (int64_t k = 0; k < count; k++) {
        if (w->values[k] >= threshold) {
            kept[kept_count++] = w->candidates[k];
        }
    }
    return kept_count > 0 ? kept_count : da_keep_largest(w, count, 1, kept);
}

/* Chooses tiles of block k of an estimated strip; returns how many. */
static int64_t select_row(const chooser *c, da_choice_worker *w, int k, int32_t *kept) {
    const da_learner *learner = &c->learner;
    const float *mass = w->strip.mass + k * learner->head.blocks;
    const da_tile_prices prices = da_tile_prices_of(&learner->head);
    int64_t count = 0;
    for (int64_t block = 0; block < learner->head.blocks; block++) {
        double pairs = w->strip.rows[k].pairs[block];
        if (pairs > 0) {
            double cost = learner->by_cost ? da_tile_cost(&prices, pairs) : 1;
            w->candidates[count] = (int32_t)block;
            w->values[count++] = mass[block] / (float)cost * learner->correction[block];
        }
    }
    if (count == 0) {
        return 0;
    }
    return learner->by_cost ? keep_above(w, count, c->threshold, kept)
                            : da_keep_largest(w, count, da_sparse_kept(c->rule.ratio, count), kept);
}

/* Chooses the rows of a strip's blocks, one after the other in w->kept; returns how many tiles. */
static int64_t choose_rows(const chooser *c, da_choice_worker *w) {
    const da_sparse_head *head = &c->learner.head;
    int64_t count = 0;
    if (c->learner.estimates) {
        da_strip_estimate(&w->strip, head, &c->learner.pools);
    }
    for (int k = 0; k < w->strip.block_count; k++) {
        int64_t row = w->strip.block[k];
        int64_t in_row = c->learner.estimates ? select_row(c, w, k, w->kept + count)
                                              : da_sparse_row(head->config, &c->rule, &head->patterns, head->head, row,
                                                              &w->patterns, w->kept + count);
        c->call->tiles->row_starts[c->first_row + row + 1] = in_row;
        count += in_row;
    }
    return count;
}

static void choose_strip(int64_t part, int thread, void *user) {
    const chooser *c = user;
    da_progress_state *progress = &c->call->progress;
    da_choice_worker w;
    if (da_progress_cancelled(progress)) {
        return;
    }
    da_learner_worker_at(&c->learner, thread, &w);
    int64_t first = part * w.strip.most_blocks;
    w.strip.block_count = (int)da_smaller(w.strip.most_blocks, c->learner.head.blocks - first);
    for (int k = 0; k < w.strip.block_count; k++) {
        w.strip.block[k] = first + k;
    }
    int64_t count = choose_rows(c, &w);
    int32_t *columns = da_allocate(da_context_allocator(c->learner.head.context), (size_t)count, sizeof *columns);
    c->call->columns[c->first_row + first] = columns;
    if (!columns) {
        atomic_store(&c->call->out_of_memory, true);
        return;
    }
    memcpy(columns, w.kept, (size_t)count * sizeof *columns);
    for (int k = 0; k < w.strip.block_count && !da_progress_cancelled(progress); k++) {
        da_progress_step(progress, c->thread + thread); /* one of them is 0 */
    }
}

/* ---- heads --------------------------------------------------------------------------------------------------------- */

/* By which rule the head at hand chooses, as far as that does not depend on data. */
static void find_rule(chooser *c) {
    const da_attention_config *config = c->learner.head.config;
    c->rule = (da_sparse_rule){config->sparse_pattern, config->sparsity_ratio};
    if (c->call->profile) {
        c->rule = c->call->profile->rules[c->learner.head.head];
    }
    c->learner.estimates = c->rule.pattern == DA_SPARSE_CONTENT;
    c->learner.by_cost = c->learner.estimates && c->learner.has_target;
}

/* All tiles are kept where those that keep the target would take no less time: then the head is computed without. */
static void find_what_keeps_target(chooser *c) {
    double target = c->learner.head.config->quality_target;
    bool pays = true;
    if (c->learner.by_cost) {
        c->threshold = da_learner_threshold(&c->learner, target);
        pays = da_learner_threshold_pays(&c->learner, c->threshold);
    } else if (c->learner.has_target) {
        c->rule.ratio = da_learner_ratio(&c->learner, c->rule.pattern, target);
        pays = da_learner_rule_pays(&c->learner, &c->rule);
    }
    if (!pays) {
        c->rule = (da_sparse_rule){DA_SPARSE_LOCAL_WINDOW, 1}; /* no pattern leaves any out */
        c->learner.estimates = c->learner.by_cost = false;
    }
}

static void choose_head(int64_t sequence, int thread, void *user) {
    choice *call = user;
    chooser c = {
        .call = call, .thread = thread, .learner = call->learner, .first_row = sequence * call->learner.head.blocks};
    da_choice_worker w;
    if (atomic_load(&call->out_of_memory) || da_progress_cancelled(&call->progress)) {
        return;
    }
    da_sparse_head_at(&c.learner.head, sequence);
    find_rule(&c);
    (void)da_learner_lay_out(&c.learner, call->memory + (size_t)thread * call->memory_size);
    da_learner_run(&c.learner);
    da_progress_step(&call->progress, thread);
    if (da_progress_cancelled(&call->progress)) {
        return;
    }
    find_what_keeps_target(&c);
    (void)da_learner_worker(&c.learner, NULL, &w);
    int64_t most = w.strip.most_blocks;
    da_parallel_for(c.learner.head.threads, (c.learner.head.blocks + most - 1) / most, choose_strip, &c);
}

/* ---- the whole call ------------------------------------------------------------------------------------------------ */

static void begin(choice *call, const da_context *context, const da_attention_config *config, const da_tensor *query,
                  const da_tensor *key, const da_call_options *options) {
    *call = (choice){.profile = config->sparse_pattern == DA_SPARSE_PROFILE ? config->sparse_profile : NULL};
    da_sparse_head_init(&call->learner.head, context, config, query, key, options);
    call->learner.has_target = config->quality_target < 1 && !call->profile;
    /* Memory is laid out for the most that a head may need. */
    call->learner.estimates = config->sparse_pattern == DA_SPARSE_CONTENT || call->profile;
    atomic_init(&call->out_of_memory, false);
}

/* Moves what was chosen to one place. */
static da_status collect(const choice *call, const da_allocator *allocator) {
    da_tiles *tiles = call->tiles;
    int64_t rows = da_tiles_rows(tiles), end = 0;
    da_status status = da_tiles_place(tiles, allocator);
    for (int64_t row = 0; status == DA_OK && row < rows; row = end) {
        for (end = row + 1; end < rows && !call->columns[end];) {
            end++;
        }
        memcpy(tiles->columns + tiles->row_starts[row], call->columns[row],
               (size_t)(tiles->row_starts[end] - tiles->row_starts[row]) * sizeof *tiles->columns);
    }
    return status;
}

static da_status choose_all(choice *call, const da_allocator *allocator, int64_t sequences) {
    int threads = da_learner_plan(&call->learner, sequences);
    call->memory_size = da_learner_most(&call->learner);
    call->memory = da_allocate(allocator, (size_t)threads, call->memory_size);
    if (!call->memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    da_progress_begin(&call->progress, call->learner.head.options, sequences * (call->learner.head.blocks + 1));
    da_parallel_for(threads, sequences, choose_head, call);
    da_release(allocator, call->memory);
    if (atomic_load(&call->out_of_memory)) {
        return da_report(DA_ERROR_OUT_OF_MEMORY, "could not allocate the lists of chosen tiles");
    }
    da_status status = da_progress_end(&call->progress);
    return status == DA_OK ? collect(call, allocator) : status;
}

da_status da_sparse_choose(const da_context *context, const da_attention_config *config, const da_tensor *query,
                           const da_tensor *key, const da_call_options *options, da_tiles *out) {
    const da_allocator *allocator = da_context_allocator(context);
    choice call;
    begin(&call, context, config, query, key, options);
    call.tiles = out;
    da_status status = da_sparse_profile_check(config, query->shape[2]);
    if (status == DA_OK) {
        status = da_tiles_begin(out, allocator, query->shape[0], query->shape[2], query->shape[1], config->block_size);
    }
    if (status != DA_OK) {
        return status;
    }
    int64_t rows = da_tiles_rows(out);
    call.columns = da_allocate(allocator, (size_t)rows, sizeof *call.columns);
    status = DA_ERROR_OUT_OF_MEMORY;
    if (call.columns) {
        memset(call.columns, 0, (size_t)rows * sizeof *call.columns);
        status = choose_all(&call, allocator, query->shape[0] * query->shape[2]);
        for (int64_t row = 0; row < rows; row++) {
            da_release(allocator, call.columns[row]);
        }
    }
    da_release(allocator, call.columns);
    if (status != DA_OK) {
        da_tiles_release(out, allocator);
    }
    return status;
}

/* Rows are chosen while there is memory for heads, which is gone when they are moved to one place. Each row may end in a part of
 * a line. */
static size_t list_workspace(const da_problem *problem, const da_attention_config *config, size_t of_heads) {
    const da_list_sizes sizes = da_sparse_list_sizes(config, problem, problem->batch, problem->heads);
    size_t lists = da_sparse_list_bytes(&sizes), columns = da_sparse_product(sizes.tiles, sizeof(int32_t));
    size_t pointers = da_sparse_product(sizes.rows, sizeof(int32_t *) + DA_ALLOCATED_LINE) + DA_ALLOCATED_LINE;
    size_t chosen = da_sparse_sum(columns, pointers);
    size_t more = columns > of_heads ? columns : da_allocated_bytes(of_heads);
    return da_sparse_sum(da_sparse_sum(lists - columns, chosen), more);
}

size_t da_sparse_choose_workspace(const da_context *context, const da_attention_config *config,
                                  const da_problem *problem) {
    choice call;
    int64_t n = problem->n;
    da_tensor query = da_tensor_make(NULL, problem->dtype, problem->batch, n, problem->heads, problem->head_dim);
    da_tensor key = da_tensor_make(NULL, problem->dtype, problem->batch, n, problem->kv_heads, problem->head_dim);
    begin(&call, context, config, &query, &key, NULL);
    size_t threads = (size_t)da_learner_plan(&call.learner, problem->batch * problem->heads);
    return list_workspace(problem, config, threads * da_learner_most(&call.learner));
}
