/* Queries and keys of a head pooled: means over a few consecutive tokens that a pattern keeps, 64 queries or 4 keys.
 *
 * The mean of exp(<q, k>) over the keys of a group exceeds exp(<q, mean>) by what the keys differ. With their variance v,
 * the mean over components, taken to be the same in all directions, it is exp(<q, mean> + v <q, q> / 2) to second order:
 * one more component of keys, v, and of queries, <q, q> / 2 (in units of log 2). docs/block-sparse.md has the figures by
 * which the sizes of groups and this term were chosen. */
#ifndef DA_BLOCK_SPARSE_POOL_H
#define DA_BLOCK_SPARSE_POOL_H

#include "attention/block_sparse/head.h"
#include "core/arena.h"

#define DA_POOLED_QUERIES 64
#define DA_POOLED_KEYS 4
#define DA_LOG2_POOLED_KEYS 2

/* Pools of the tokens that one or more patterns keep. Groups lie in one block each. */
typedef struct da_pool {
    const da_head_pattern *pattern;
    int64_t query_span, key_span; /* positions of a group */
    int query_groups, key_groups; /* of a block; the last ones of the sequence may have no token */
    int64_t tiles_at_a_time;      /* blocks whose keys one key block holds */
    int64_t key_blocks;
    float *queries;     /* [blocks * query_groups][dim] */
    da_key_block *keys; /* [key_blocks], of which panels and count are kept */
    float *bias;        /* [key_blocks][DA_BLOCK_KEYS]: log2 of the number of keys in a group */
    float *tokens;      /* [blocks]: tokens that the pattern keeps in a block, padded ones among them */
} da_pool;

/* All pools of a head. */
typedef struct da_pools {
    int dim, padded_dim; /* components of pooled rows */
    int count;
    int of_pattern[DA_MAX_PATTERNS]; /* the pool of each pattern */
    da_pool pool[DA_MAX_PATTERNS];
} da_pools;

/* Which pools a head has, and memory for them; with arena->base NULL only its size is found. */
void da_pools_lay_out(da_pools *pools, const da_sparse_head *head, da_arena *arena);

/* Bytes that each thread needs of its own to fill pools. */
size_t da_pools_scratch(const da_pools *pools, const da_sparse_head *head);

/* They are filled a stretch of the sequence at a time: blocks of it. */
int64_t da_pools_stretch(const da_pools *pools);

/* Fills what ends in blocks first + 1..end, a stretch; scratch: of the calling thread, which held zeros before its first use. */
void da_pools_fill(const da_pools *pools, const da_sparse_head *head, int64_t first, int64_t end, char *scratch);

#endif
