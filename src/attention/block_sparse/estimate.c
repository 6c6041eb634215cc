#include "attention/block_sparse/estimate.h"

#include <math.h>
#include <string.h>

#include "core/numbers.h"

/* ---- layout ------------------------------------------------------------------------------------------------------ */

static int slots_of(const da_pools *pools) {
    int slots = 1;
    for (int p = 0; p < pools->count; p++) {
        slots = pools->pool[p].query_groups > slots ? pools->pool[p].query_groups : slots;
    }
    return slots;
}

void da_strip_lay_out(da_strip *strip, const da_sparse_head *head, const da_pools *pools, da_arena *arena) {
    size_t blocks = (size_t)head->blocks, tile = (size_t)head->kernels->tile_rows;
    strip->slots = slots_of(pools);
    strip->slot_span = head->block_size;
    for (int p = 0; p < pools->count; p++) {
        strip->slot_span = da_smaller(strip->slot_span, pools->pool[p].query_span);
    }
    int fit = strip->slots < DA_STRIP_ROWS ? DA_STRIP_ROWS / strip->slots : 1;
    strip->most_blocks = (int)da_smaller(fit, head->blocks);
    size_t most = (size_t)strip->most_blocks, rows = most * (size_t)strip->slots;
    strip->pair_memory = da_arena_take(arena, most * blocks, sizeof(double));
    strip->pattern_memory = da_arena_take(arena, most * blocks, 1);
    strip->pool = da_arena_take(arena, most * blocks, 1);
    strip->maximum = da_arena_take(arena, rows * blocks, sizeof(float));
    strip->sum = da_arena_take(arena, rows * blocks, sizeof(float));
    strip->queries = da_arena_take(arena, (rows + tile) * (size_t)pools->padded_dim, sizeof(float));
    strip->scores = da_arena_take(arena, tile * DA_BLOCK_KEYS, sizeof(float));
    strip->tile_maximum = da_arena_take(arena, DA_BLOCK_KEYS, sizeof(float));
    strip->tile_sum = da_arena_take(arena, DA_BLOCK_KEYS, sizeof(float));
    strip->mass = da_arena_take(arena, most * blocks, sizeof(float));
    for (int k = 0; arena->base && k < strip->most_blocks; k++) {
        strip->rows[k] = (da_tile_row){strip->pair_memory + k * head->blocks, strip->pattern_memory + k * head->blocks};
    }
}

/* ---- scores ------------------------------------------------------------------------------------------------------ */

static int row_count(const da_strip *strip) {
    return strip->block_count * strip->slots;
}

/* The pooled query of a pool that stands for a row of the strip. */
static const float *pooled_query(const da_strip *strip, const da_pools *pools, const da_pool *pool, int row) {
    int64_t slot = row % strip->slots, group = slot * strip->slot_span / pool->query_span;
    return pool->queries + (strip->block[row / strip->slots] * pool->query_groups + group) * pools->dim;
}

static void pack_queries(const da_strip *strip, const da_sparse_head *head, const da_pools *pools,
                         const da_pool *pool) {
    int tile = head->kernels->tile_rows, rows = row_count(strip);
    memset(strip->queries, 0, (size_t)(rows + tile) * (size_t)pools->padded_dim * sizeof(float));
    for (int row = 0; row < rows; row++) {
        head->kernels->pack_query(pooled_query(strip, pools, pool, row), 1, DA_F32, pools->dim, 1, row % tile,
                                  strip->queries + (int64_t)(row / tile) * tile * pools->padded_dim);
    }
}

static const uint8_t *pools_of_row(const da_strip *strip, const da_sparse_head *head, int row) {
    return strip->pool + row / strip->slots * head->blocks;
}

/* How many of `count` tiles a pool has. */
static int64_t count_of_pool(const uint8_t *pool_of, int pool, int64_t count) {
    int64_t has = 0;
    for (int64_t block = 0; block < count; block++) {
        has += pool_of[block] == pool;
    }
    return has;
}

/* Reduces a row's scores to one maximum and sum for each tile at first..end-1 that the pool has. */
static void reduce_row(da_strip *strip, const da_sparse_head *head, const da_pools *pools, int pool, int row,
                       const float *scores, int64_t first, int64_t end, bool all) {
    const uint8_t *pool_of = pools_of_row(strip, head, row);
    float *maximum = strip->maximum + row * head->blocks, *sum = strip->sum + row * head->blocks;
    int group = pools->pool[pool].key_groups, count = (int)(end - first);
    if (all) {
        head->kernels->reduce_groups(scores, NULL, group, count, maximum + first, sum + first);
        return;
    }
    head->kernels->reduce_groups(scores, NULL, group, count, strip->tile_maximum, strip->tile_sum);
    for (int64_t block = first; block < end; block++) {
        if (pool_of[block] == pool) {
            maximum[block] = strip->tile_maximum[block - first];
            sum[block] = strip->tile_sum[block - first];
        }
    }
}

static void score_key_block(da_strip *strip, const da_sparse_head *head, const da_pools *pools, int p, int64_t index) {
    const da_pool *pool = &pools->pool[p];
    int tile_rows = head->kernels->tile_rows, rows = row_count(strip);
    int64_t first = index * pool->tiles_at_a_time, end = da_smaller(first + pool->tiles_at_a_time, head->blocks);
    for (int at = 0; at < rows; at += tile_rows) {
        bool scored = false;
        for (int r = 0; r < tile_rows && at + r < rows; r++) {
            int64_t has = count_of_pool(pools_of_row(strip, head, at + r) + first, p, end - first);
            if (has == 0) {
                continue;
            }
            if (!scored) {
                da_query_tile tile = {.queries = strip->queries + (int64_t)at * pools->padded_dim,
                                      .scores = strip->scores,
                                      .bias = pool->bias + index * DA_BLOCK_KEYS,
                                      .rows = tile_rows};
                head->kernels->score(&pool->keys[index], &tile);
                scored = true;
            }
            reduce_row(strip, head, pools, p, at + r, strip->scores + r * DA_BLOCK_KEYS, first, end,
                       has == end - first);
        }
    }
}

/* ---- masses ------------------------------------------------------------------------------------------------------ */

/* By four sums, so that one addition need not wait for the last. */
static double sum_of(const float *numbers, int64_t count) {
    double sums[4] = {0};
    int64_t k = 0;
    for (; k + 4 <= count; k += 4) {
        for (int lane = 0; lane < 4; lane++) {
            sums[lane] += (double)numbers[k + lane];
        }
    }
    for (; k < count; k++) {
        sums[0] += (double)numbers[k];
    }
    return sums[0] + sums[1] + sums[2] + sums[3];
}

/* Makes a row's sums parts of its softmax. Pooled keys stand for all keys of a tile; each counts as many times as a query of
 * the block sees it in the mean. Not finite: as large as numbers that can be added. */
static void make_masses(da_strip *strip, const da_sparse_head *head, const da_pools *pools, int row) {
    const da_tile_row *tiles = &strip->rows[row / strip->slots];
    float *maximum = strip->maximum + row * head->blocks, *mass = strip->sum + row * head->blocks;
    const uint8_t *pool_of = pools_of_row(strip, head, row);
    float largest = -INFINITY;
    for (int64_t block = 0; block < head->blocks; block++) {
        largest = maximum[block] > largest ? maximum[block] : largest;
    }
    head->kernels->weigh(maximum, mass, isfinite(largest) ? largest : 0, head->blocks, mass);
    for (int64_t block = 0; block < head->blocks; block++) {
        if (pool_of[block] == DA_NO_POOL) {
            mass[block] = 0;
            continue;
        }
        mass[block] *= (float)tiles->pairs[block] / pools->pool[pool_of[block]].tokens[block];
        mass[block] = mass[block] <= 1e30F ? mass[block] : 1e30F;
    }
    double total = sum_of(mass, head->blocks);
    float factor = total > 0 ? (float)(1 / total) : 0;
    for (int64_t block = 0; block < head->blocks; block++) {
        mass[block] *= factor;
    }
}

/* The mean over a block's slots, each with as many positions as the sequence has in it. */
static void add_slots(da_strip *strip, const da_sparse_head *head, int k) {
    float *mass = strip->mass + k * head->blocks;
    int64_t first = strip->block[k] * head->block_size, length = da_smaller(head->block_size, head->n - first);
    memset(mass, 0, (size_t)head->blocks * sizeof *mass);
    for (int slot = 0; slot < strip->slots; slot++) {
        const float *of_slot = strip->sum + (k * strip->slots + slot) * head->blocks;
        int64_t positions = da_smaller(strip->slot_span, length - slot * strip->slot_span);
        float weight = positions > 0 ? (float)positions / (float)length : 0;
        for (int64_t block = 0; block < head->blocks; block++) {
            mass[block] += weight * of_slot[block];
        }
    }
}

void da_strip_estimate(da_strip *strip, const da_sparse_head *head, const da_pools *pools) {
    int rows = row_count(strip);
    for (int k = 0; k < strip->block_count; k++) {
        da_tile_row_count(&head->patterns, head->block_size, strip->block[k], &strip->rows[k]);
        for (int64_t block = 0; block < head->blocks; block++) {
            bool has = strip->rows[k].pairs[block] > 0;
            strip->pool[k * head->blocks + block] =
                has ? (uint8_t)pools->of_pattern[strip->rows[k].pattern[block]] : DA_NO_POOL;
        }
    }
    for (int64_t k = 0; k < rows * head->blocks; k++) {
        strip->maximum[k] = -INFINITY;
        strip->sum[k] = 0;
    }
    for (int p = 0; p < pools->count; p++) {
        pack_queries(strip, head, pools, &pools->pool[p]);
        for (int64_t index = 0; index < pools->pool[p].key_blocks; index++) {
            score_key_block(strip, head, pools, p, index);
        }
    }
    for (int row = 0; row < rows; row++) {
        make_masses(strip, head, pools, row);
    }
    for (int k = 0; k < strip->block_count; k++) {
        add_slots(strip, head, k);
    }
}

const float *da_strip_slot(const da_strip *strip, const da_sparse_head *head, int k, int64_t position) {
    int64_t slot = (position - strip->block[k] * head->block_size) / strip->slot_span;
    return strip->sum + (k * strip->slots + slot) * head->blocks;
}
