/* What is found out about a head before its tiles are chosen: its pools, a correction of their estimates, and what must be kept
 * so that sampled queries keep a target. */
#ifndef DA_BLOCK_SPARSE_LEARN_H
#define DA_BLOCK_SPARSE_LEARN_H

#include "attention/block_sparse/estimate.h"
#include "attention/block_sparse/patterns.h"
#include "attention/block_sparse/sample.h"
#include "pattern/tile_universe.h"

typedef struct da_learner {
    da_sparse_head head;
    bool estimates; /* content: there are pools and a correction */
    bool has_target;
    bool by_cost; /* estimates of calibrating queries' blocks are attention by cost, for a threshold */
    da_pools pools;
    da_sample sample;
    float *pooled;     /* [sampled queries][blocks]: what is estimated for them, or for their blocks */
    float *correction; /* [blocks]: factor of the estimates of each block of keys */
    char *workers;     /* of each thread */
    size_t worker_size;
    char *scratch; /* of each thread, for pools, and after that for samples */
    size_t scratch_size;
} da_learner;

/* A thread's strip, and what selecting takes. */
typedef struct da_choice_worker {
    da_strip strip;
    da_sparse_scratch patterns;
    float *values;       /* [blocks] */
    int32_t *candidates; /* [blocks] */
    int32_t *kept;       /* [most_blocks][blocks] */
} da_choice_worker;

/* What tiles cost, in pairs of a query and a key that are computed without tiles: each pair, and each tile, however few its
 * pairs are. */
typedef struct da_tile_prices {
    double pair, tile;
} da_tile_prices;

/* Of the head at hand. */
da_tile_prices da_tile_prices_of(const da_sparse_head *head);

static inline double da_tile_cost(const da_tile_prices *prices, double pairs) {
    return prices->pair * pairs + prices->tile;
}

/* Memory for the head at hand, whose threads are head.threads; returns its bytes. memory NULL: only counts. */
size_t da_learner_lay_out(da_learner *learner, char *memory);

/* Bytes for the head that needs the most. */
size_t da_learner_most(da_learner *learner);

/* How many heads are learned from and chosen side by side; sets how many threads each has. */
int da_learner_plan(da_learner *learner, int64_t sequences);

/* The memory of a thread; NULL: sizes only. */
size_t da_learner_worker(const da_learner *learner, char *memory, da_choice_worker *worker);
void da_learner_worker_at(const da_learner *learner, int thread, da_choice_worker *worker);

/* Fills pools, samples and correction of the head, after da_learner_lay_out. */
void da_learner_run(da_learner *learner);

/* With by_cost: the highest threshold of estimated attention by cost with which calibrating queries lose at most 1 - target,
 * in the mean and with a standard error to spare. 0, which keeps all, where none does. */
float da_learner_threshold(const da_learner *learner, double target);

/* Without: the smallest ratio, in steps of a thousandth, with which rows chosen by a pattern (or by content, where there are
 * estimates) keep the target likewise; 1 where none does. Thread 0's memory is used. */
double da_learner_ratio(const da_learner *learner, da_sparse_pattern pattern, double target);

/* Do the tiles that calibrating queries' blocks keep, by a threshold as above or by a rule, cost less than all pairs of these
 * blocks do without tiles? Thread 0's memory is used. */
bool da_learner_threshold_pays(const da_learner *learner, float threshold);
bool da_learner_rule_pays(const da_learner *learner, const da_sparse_rule *rule);

/* Keeps `budget` >= 1 of worker->candidates, those with the largest values; of equals the first. Returns how many. */
int64_t da_keep_largest(const da_choice_worker *worker, int64_t count, int64_t budget, int32_t *kept);

#endif
