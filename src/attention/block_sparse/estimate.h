/* The attention of blocks of queries by blocks of keys, estimated from pools. */
#ifndef DA_BLOCK_SPARSE_ESTIMATE_H
#define DA_BLOCK_SPARSE_ESTIMATE_H

#include "attention/block_sparse/pool.h"
#include "pattern/tile_row.h"

/* Blocks of queries are estimated a few at a time, so that their pooled queries fill tiles. */
#define DA_STRIP_ROWS 12

#define DA_NO_POOL UINT8_MAX

/* One thread's memory, and its result. Pooled queries of a block stand for slots: equal stretches of its positions, as many
 * as the finest pool has. */
typedef struct da_strip {
    int slots;         /* of a block */
    int64_t slot_span; /* positions */
    int most_blocks;   /* that fit */
    int block_count;
    int64_t block[DA_STRIP_ROWS];
    da_tile_row rows[DA_STRIP_ROWS]; /* of each block */
    double *pair_memory;
    uint8_t *pattern_memory;
    uint8_t *pool;        /* [most_blocks][blocks]: that estimates each tile; DA_NO_POOL where there is no pair */
    float *maximum, *sum; /* [rows][blocks] */
    float *queries;       /* packed, of one pool */
    float *scores;        /* [tile_rows][DA_BLOCK_KEYS] */
    float *tile_maximum, *tile_sum; /* [DA_BLOCK_KEYS] */
    float *mass;                    /* [most_blocks][blocks]: the mean of a block's slots */
} da_strip;

void da_strip_lay_out(da_strip *strip, const da_sparse_head *head, const da_pools *pools, da_arena *arena);

/* Estimates strip->block[0..block_count-1]: the part of a query's attention that each block of keys gets, in the mean over
 * the queries, in `mass`; 0 where the patterns have no pair. Where scores are not finite, the masses are, but say no more than
 * where that is. The pairs of each block are left in `rows`. */
void da_strip_estimate(da_strip *strip, const da_sparse_head *head, const da_pools *pools);

/* After it: the same of the slot alone that a position of block k of the strip belongs to; blocks numbers. */
const float *da_strip_slot(const da_strip *strip, const da_sparse_head *head, int k, int64_t position);

#endif
