#include "attention/block_sparse/learn.h"

#include <math.h>
#include <string.h>

#include "attention/block_sparse/tally.h"
#include "core/dtype.h"
#include "core/numbers.h"
#include "core/parallel.h"

/* Corrections are ratios of attention, exact to estimated, summed over the sampled queries. So many times an even spread is
 * added to both, so that few queries do not decide alone. */
#define EVEN_SHARE 1.0

/* Heads side by side take less waiting than threads that share each head, but memory for as many. */
#define MEMORY_SIDE_BY_SIDE ((size_t)256 << 20)

#define RATIO_STEPS 1000

/* docs/block-sparse.md has the measurements. Where some rates are above 1, classes have few rows in a block, and tiles few
 * columns. */
static const da_tile_prices dense_prices = {1, 160}, dilated_prices = {1.3, 600};

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static unsigned purposes_of(const da_learner *learner) {
    return (learner->estimates ? 1U << DA_SAMPLE_CORRECT : 0) | (learner->has_target ? 1U << DA_SAMPLE_CALIBRATE : 0);
}

size_t da_learner_worker(const da_learner *learner, char *memory, da_choice_worker *w) {
    da_arena arena = {memory, 0};
    size_t blocks = (size_t)learner->head.blocks,
           scratch = da_sparse_scratch_lay_out(&w->patterns, NULL, learner->head.blocks);
    da_strip_lay_out(&w->strip, &learner->head, &learner->pools, &arena);
    w->values = da_arena_take(&arena, blocks, sizeof(float));
    w->candidates = da_arena_take(&arena, blocks, sizeof(int32_t));
    w->kept = da_arena_take(&arena, blocks * (size_t)w->strip.most_blocks, sizeof(int32_t));
    char *patterns = da_arena_take(&arena, scratch, 1);
    if (patterns) {
        (void)da_sparse_scratch_lay_out(&w->patterns, patterns, learner->head.blocks);
    }
    return arena.used;
}

void da_learner_worker_at(const da_learner *learner, int thread, da_choice_worker *worker) {
    (void)da_learner_worker(learner, learner->workers + (size_t)thread * learner->worker_size, worker);
}

size_t da_learner_lay_out(da_learner *learner, char *memory) {
    const da_sparse_head *head = &learner->head;
    da_arena arena = {memory, 0};
    da_choice_worker worker;
    size_t threads = (size_t)head->threads, pools, sample = da_sample_scratch(head);
    learner->pools = (da_pools){0};
    if (learner->estimates) {
        da_pools_lay_out(&learner->pools, head, &arena);
    }
    da_sample_lay_out(&learner->sample, head, purposes_of(learner), &arena);
    learner->pooled = da_arena_take(&arena, (size_t)learner->sample.capacity * (size_t)head->blocks, sizeof(float));
    learner->correction = da_arena_take(&arena, (size_t)head->blocks, sizeof(float));
    pools = da_pools_scratch(&learner->pools, head);
    learner->scratch_size = pools + sample;
    learner->scratch = da_arena_take(&arena, threads, learner->scratch_size);
    learner->worker_size = da_learner_worker(learner, NULL, &worker);
    learner->workers = da_arena_take(&arena, threads, learner->worker_size);
    return arena.used;
}

size_t da_learner_most(da_learner *learner) {
    size_t most = 0;
    for (int64_t h = 0; h < learner->head.heads; h++) {
        da_sparse_head_at(&learner->head, h);
        size_t bytes = da_learner_lay_out(learner, NULL);
        most = bytes > most ? bytes : most;
    }
    return most;
}

int da_learner_plan(da_learner *learner, int64_t sequences) {
    int threads = learner->head.threads;
    learner->head.threads = 1;
    if (sequences >= threads && da_learner_most(learner) <= MEMORY_SIDE_BY_SIDE / (size_t)threads) {
        return threads;
    }
    learner->head.threads = threads;
    return 1;
}

/* ---- estimates for sampled queries --------------------------------------------------------------------------------- */

/* A strip of the blocks of sampled queries: those that correct need their own slot, the others their whole block. */
static void estimate_sampled(int64_t part, int thread, void *user) {
    da_learner *learner = user;
    const da_sample *sample = &learner->sample;
    da_choice_worker w;
    int64_t blocks = learner->head.blocks;
    const da_tile_prices prices = da_tile_prices_of(&learner->head);
    da_learner_worker_at(learner, thread, &w);
    int first = (int)part * w.strip.most_blocks;
    w.strip.block_count = (int)da_smaller(w.strip.most_blocks, sample->count - first);
    for (int k = 0; k < w.strip.block_count; k++) {
        w.strip.block[k] = sample->queries[first + k].position / learner->head.block_size;
    }
    da_strip_estimate(&w.strip, &learner->head, &learner->pools);
    for (int k = 0; k < w.strip.block_count; k++) {
        bool corrects = first + k < sample->first_of[DA_SAMPLE_CALIBRATE];
        float *out = learner->pooled + (first + k) * blocks;
        memcpy(out,
               corrects ? da_strip_slot(&w.strip, &learner->head, k, sample->queries[first + k].position)
                        : w.strip.mass + k * blocks,
               (size_t)blocks * sizeof *out);
        for (int64_t block = 0; !corrects && learner->by_cost && block < blocks; block++) {
            double pairs = w.strip.rows[k].pairs[block];
            out[block] = pairs > 0 ? out[block] / (float)da_tile_cost(&prices, pairs) : 0;
        }
    }
}

/* The ratio of exact attention to estimated, of each block of keys. */
static void find_corrections(da_learner *learner) {
    const da_sample *sample = &learner->sample;
    int64_t blocks = learner->head.blocks;
    int end = sample->first_of[DA_SAMPLE_CALIBRATE];
    double even = end * EVEN_SHARE / (double)blocks;
    for (int64_t block = 0; block < blocks; block++) {
        double exact = even, estimated = even;
        for (int k = 0; k < end; k++) {
            if (sample->queries[k].has_keys) {
                exact += (double)sample->mass[k * blocks + block];
                estimated += (double)learner->pooled[k * blocks + block];
            }
        }
        learner->correction[block] = even > 0 ? (float)(exact / estimated) : 1;
    }
}

/* Samples and pools of a stretch of the sequence: so its keys are fetched once. */
static void learn_stretch(int64_t part, int thread, void *user) {
    const da_learner *learner = user;
    const da_sparse_head *head = &learner->head;
    int64_t stretch = da_pools_stretch(&learner->pools), first = part * stretch;
    int64_t end = da_smaller(first + stretch, head->blocks);
    char *scratch = learner->scratch + (size_t)thread * learner->scratch_size;
    da_sample_blocks(&learner->sample, head, first, end, scratch + da_pools_scratch(&learner->pools, head));
    da_pools_fill(&learner->pools, head, first, end, scratch);
}

void da_learner_run(da_learner *learner) {
    const da_sample *sample = &learner->sample;
    int64_t blocks = learner->head.blocks;
    da_choice_worker w;
    memset(learner->workers, 0, (size_t)learner->head.threads * learner->worker_size);
    if (!learner->estimates) {
        da_sample_take(&learner->sample, &learner->head, purposes_of(learner), learner->scratch);
        return;
    }
    int64_t stretch = da_pools_stretch(&learner->pools);
    memset(learner->scratch, 0, (size_t)learner->head.threads * learner->scratch_size);
    da_sample_begin(&learner->sample, &learner->head, purposes_of(learner));
    da_parallel_for(learner->head.threads, (blocks + stretch - 1) / stretch, learn_stretch, learner);
    da_sample_end(&learner->sample, &learner->head);
    (void)da_learner_worker(learner, NULL, &w);
    int most = w.strip.most_blocks;
    da_parallel_for(learner->head.threads, (sample->count + most - 1) / most, estimate_sampled, learner);
    find_corrections(learner);
    for (int k = sample->first_of[DA_SAMPLE_CALIBRATE]; k < sample->count; k++) {
        for (int64_t block = 0; block < blocks; block++) {
            learner->pooled[k * blocks + block] *= learner->correction[block];
        }
    }
}

/* ---- what keeps a target ------------------------------------------------------------------------------------------- */

/* The loss of a calibrating query's attention, by what `user` says. */
typedef double query_loss(const da_learner *learner, int query, const void *user);

/* Is the loss small enough, in the mean over the queries, with one standard error to spare? */
static bool keeps_target(const da_learner *learner, double target, query_loss *loss_of, const void *user) {
    const da_sample *sample = &learner->sample;
    da_tally loss = {0};
    for (int k = sample->first_of[DA_SAMPLE_CALIBRATE]; k < sample->count; k++) {
        if (sample->queries[k].has_keys) {
            da_tally_add(&loss, loss_of(learner, k, user));
        }
    }
    return loss.count > 1 && da_tally_mean(&loss) + da_tally_error(&loss) <= 1 - target;
}

/* With a threshold: of each row, the tile with the largest value stays. */
static double loss_below(const da_learner *learner, int query, const void *user) {
    const float threshold = *(const float *)user;
    const float *mass = learner->sample.mass + query * learner->head.blocks,
                *value = learner->pooled + query * learner->head.blocks;
    double kept = learner->sample.queries[query].zero_keys;
    float largest = -1, mass_of_largest = 0;
    for (int64_t block = 0; block < learner->head.blocks; block++) {
        kept += value[block] >= threshold ? (double)mass[block] : 0;
        if (value[block] > largest) {
            largest = value[block];
            mass_of_largest = mass[block];
        }
    }
    return 1 - kept - (largest < threshold ? (double)mass_of_largest : 0);
}

/* By halving between the bits of numbers, whose order is that of the numbers. */
float da_learner_threshold(const da_learner *learner, double target) {
    uint32_t low = 0, high = da_bits_from_float(INFINITY);
    while (high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        float threshold = da_float_from_bits(middle);
        if (keeps_target(learner, target, loss_below, &threshold)) {
            low = middle;
        } else {
            high = middle;
        }
    }
    return da_float_from_bits(low);
}

/* The block of queries that a sampled one lies in. */
static int64_t row_of(const da_learner *learner, int query) {
    return learner->sample.queries[query].position / learner->head.block_size;
}

/* The tiles of a calibrating query's row by content: those with the largest estimates. */
static int64_t row_by_content(const da_learner *learner, int query, double ratio, da_choice_worker *w) {
    const da_sparse_head *head = &learner->head;
    const float *value = learner->pooled + query * head->blocks;
    int64_t count =
        da_tile_universe(&head->patterns, head->block_size, row_of(learner, query), w->patterns.marks, w->candidates);
    for (int64_t k = 0; k < count; k++) {
        w->values[k] = value[w->candidates[k]];
    }
    return count > 0 ? da_keep_largest(w, count, da_sparse_kept(ratio, count), w->kept) : 0;
}

/* The tiles that a calibrating query's block keeps by a rule, in w->kept; returns how many. */
static int64_t row_by_rule(const da_learner *learner, int query, const void *user, da_choice_worker *w) {
    const da_sparse_rule *rule = user;
    const da_sparse_head *head = &learner->head;
    return rule->pattern == DA_SPARSE_CONTENT ? row_by_content(learner, query, rule->ratio, w)
                                              : da_sparse_row(head->config, rule, &head->patterns, head->head,
                                                              row_of(learner, query), &w->patterns, w->kept);
}

static double loss_by_rule(const da_learner *learner, int query, const void *user) {
    da_choice_worker w;
    da_learner_worker_at(learner, 0, &w);
    int64_t count = row_by_rule(learner, query, user, &w);
    return 1 - da_sample_kept(&learner->sample, &learner->head, query, w.kept, count);
}

double da_learner_ratio(const da_learner *learner, da_sparse_pattern pattern, double target) {
    int low = 0, high = RATIO_STEPS;
    while (high - low > 1) {
        int middle = low + (high - low) / 2;
        da_sparse_rule rule = {pattern, (double)middle / RATIO_STEPS};
        if (keeps_target(learner, target, loss_by_rule, &rule)) {
            high = middle;
        } else {
            low = middle;
        }
    }
    return (double)high / RATIO_STEPS;
}

/* ---- what pays --------------------------------------------------------------------------------------------------- */

da_tile_prices da_tile_prices_of(const da_sparse_head *head) {
    bool dense = true;
    for (int p = 0; p < head->patterns.count; p++) {
        dense = dense && head->patterns.pattern[p].rate == 1;
    }
    return dense ? dense_prices : dilated_prices;
}

/* The tiles that a calibrating query's block keeps, by what `user` says, in w->kept; returns how many. */
typedef int64_t row_tiles(const da_learner *learner, int query, const void *user, da_choice_worker *w);

static int64_t row_above(const da_learner *learner, int query, const void *user, da_choice_worker *w) {
    const float threshold = *(const float *)user, *value = learner->pooled + query * learner->head.blocks;
    int64_t count = 0;
    for (int64_t block = 0; block < learner->head.blocks; block++) {
        if (value[block] >= threshold) {
            w->kept[count++] = (int32_t)block;
        }
    }
    return count;
}

/* Blocks of calibrating queries lie all over the sequence, and so stand for all. */
static bool pays(const da_learner *learner, row_tiles *tiles_of, const void *user) {
    const da_sparse_head *head = &learner->head;
    const da_tile_prices prices = da_tile_prices_of(head);
    double of_tiles = 0, of_all = 0;
    da_choice_worker w;
    da_learner_worker_at(learner, 0, &w);
    const da_tile_row *row = &w.strip.rows[0];
    for (int k = learner->sample.first_of[DA_SAMPLE_CALIBRATE]; k < learner->sample.count; k++) {
        int64_t count = tiles_of(learner, k, user, &w);
        da_tile_row_count(&head->patterns, head->block_size, row_of(learner, k), &w.strip.rows[0]);
        for (int64_t t = 0; t < count; t++) {
            double pairs = row->pairs[w.kept[t]];
            of_tiles += pairs > 0 ? da_tile_cost(&prices, pairs) : 0;
        }
        for (int64_t block = 0; block < head->blocks; block++) {
            of_all += row->pairs[block];
        }
    }
    return of_tiles < of_all;
}

bool da_learner_threshold_pays(const da_learner *learner, float threshold) {
    return pays(learner, row_above, &threshold);
}

bool da_learner_rule_pays(const da_learner *learner, const da_sparse_rule *rule) {
    return pays(learner, row_by_rule, rule);
}

/* ---- largest values -------------------------------------------------------------------------------------------------- */

/* Counts below 2^31, which a compiler adds up several at a time. */
static int32_t count_from(const float *values, int64_t count, float least) {
    int32_t reached = 0;
    for (int64_t k = 0; k < count; k++) {
        reached += values[k] >= least;
    }
    return reached;
}

/* A number that `budget` of the values reach, or more if some are equal: by halving between the bits of numbers, none of
 * which is negative, so that their order is that of the numbers. */
static float threshold_of(const float *values, int64_t count, int64_t budget) {
    float smallest = INFINITY, largest = 0;
    for (int64_t k = 0; k < count; k++) {
        smallest = values[k] < smallest ? values[k] : smallest;
        largest = values[k] > largest ? values[k] : largest;
    }
    uint32_t low = da_bits_from_float(smallest), high = da_bits_from_float(largest) + 1;
    while (high > low && high - low > 1) {
        uint32_t middle = low + (high - low) / 2;
        int64_t reached = count_from(values, count, da_float_from_bits(middle));
        if (reached == budget) {
            return da_float_from_bits(middle);
        }
        low = reached > budget ? middle : low;
        high = reached > budget ? high : middle;
    }
    return da_float_from_bits(low);
}

int64_t da_keep_largest(const da_choice_worker *w, int64_t count, int64_t budget, int32_t *kept) {
    float threshold = threshold_of(w->values, count, budget);
    int64_t kept_count = 0, above = 0;
    for (int64_t k = 0; k < count; k++) {
        above += w->values[k] > threshold;
    }
    for (int64_t k = 0, equal = budget - above; k < count; k++) {
        bool keeps = w->values[k] > threshold || (w->values[k] == threshold && equal-- > 0);
        kept[kept_count] = w->candidates[k]; /* to be overwritten if it is not kept */
        kept_count += keeps;
    }
    return kept_count;
}
