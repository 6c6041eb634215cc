#include "attention/block_sparse/pool.h"

#include <math.h>
#include <string.h>

#include "attention/workspace.h"
#include "core/numbers.h"

static size_t rounded_up(size_t bytes) {
    return (bytes + 63) / 64 * 64;
}

/* ---- layout ------------------------------------------------------------------------------------------------------ */

/* Do two patterns keep the same tokens? Where segments hold whole periods, they keep one residue of the sequence. */
static bool keep_the_same(const da_head_pattern *a, const da_head_pattern *b) {
    return a->rate == b->rate && a->offset == b->offset &&
           (a->segment == b->segment || (a->segment % a->rate == 0 && b->segment % b->rate == 0));
}

static int find_pool(const da_pools *pools, const da_head_pattern *pattern) {
    int p = 0;
    while (p < pools->count && !keep_the_same(pools->pool[p].pattern, pattern)) {
        p++;
    }
    return p;
}

/* Positions of a group of `tokens` kept tokens, within a block. */
static int64_t span_of(const da_sparse_head *head, const da_head_pattern *pattern, int64_t tokens) {
    return pattern->rate < head->block_size / tokens ? tokens * pattern->rate : head->block_size;
}

static int groups_of(const da_sparse_head *head, int64_t span) {
    return (int)((head->block_size + span - 1) / span);
}

static void lay_out_pool(da_pool *pool, const da_pools *pools, const da_sparse_head *head, da_arena *arena) {
    size_t panels = (size_t)DA_BLOCK_KEYS * (size_t)pools->padded_dim;
    pool->query_span = span_of(head, pool->pattern, DA_POOLED_QUERIES);
    pool->key_span = span_of(head, pool->pattern, DA_POOLED_KEYS);
    pool->query_groups = groups_of(head, pool->query_span);
    pool->key_groups = groups_of(head, pool->key_span);
    pool->tiles_at_a_time = DA_BLOCK_KEYS / pool->key_groups;
    pool->key_blocks = (head->blocks - 1) / pool->tiles_at_a_time + 1;
    pool->queries =
        da_arena_take(arena, (size_t)head->blocks * (size_t)pool->query_groups * (size_t)pools->dim, sizeof(float));
    pool->keys = da_arena_take(arena, (size_t)pool->key_blocks, sizeof *pool->keys);
    pool->bias = da_arena_take(arena, (size_t)pool->key_blocks * DA_BLOCK_KEYS, sizeof(float));
    pool->tokens = da_arena_take(arena, (size_t)head->blocks, sizeof(float));
    float *memory = da_arena_take(arena, (size_t)pool->key_blocks * panels, sizeof(float));
    for (int64_t k = 0; memory && k < pool->key_blocks; k++) {
        pool->keys[k] = (da_key_block){
            .head_dim = pools->dim, .padded_dim = pools->padded_dim, .panels = memory + (size_t)k * panels};
    }
}

void da_pools_lay_out(da_pools *pools, const da_sparse_head *head, da_arena *arena) {
    int lanes = head->kernels->vector_lanes, head_dim = (int)head->query->shape[3];
    /* Kernels take no more components than tensors may have: at the most, the term of the variance is left out. */
    pools->dim = head_dim < DA_MAX_HEAD_DIM ? head_dim + 1 : head_dim;
    pools->padded_dim = (pools->dim + lanes - 1) / lanes * lanes;
    pools->count = 0;
    for (int p = 0; p < head->patterns.count; p++) {
        const da_head_pattern *pattern = &head->patterns.pattern[p];
        int found = pools->of_pattern[p] = find_pool(pools, pattern);
        if (found == pools->count) {
            pools->pool[found] = (da_pool){.pattern = pattern};
            lay_out_pool(&pools->pool[pools->count++], pools, head, arena);
        }
    }
}

/* What a thread has beside the panels that it fills. */
typedef struct scratch {
    void *staged;
    float *means; /* [DA_BLOCK_KEYS][padded_dim] */
    int32_t *positions;
    uint32_t *tokens;
} scratch;

static size_t lay_out_scratch(scratch *s, const da_pools *pools, const da_sparse_head *head, char *memory) {
    da_arena arena = {memory, 0};
    size_t padded = (size_t)pools->padded_dim;
    s->staged = da_arena_take(&arena, (size_t)head->kernels->panel_keys * padded, sizeof(float));
    s->means = da_arena_take(&arena, DA_BLOCK_KEYS * padded, sizeof *s->means);
    s->positions = da_arena_take(&arena, DA_BLOCK_KEYS, sizeof *s->positions);
    s->tokens = da_arena_take(&arena, DA_BLOCK_KEYS, sizeof *s->tokens);
    return rounded_up(arena.used);
}

size_t da_pools_scratch(const da_pools *pools, const da_sparse_head *head) {
    scratch s;
    return lay_out_scratch(&s, pools, head, NULL);
}

/* ---- filling ----------------------------------------------------------------------------------------------------- */

/* Of the tokens of a group. */
typedef struct group {
    int64_t kept, present; /* kept by the pattern; and not padded */
    double squares;
    float *sum; /* [dim]; then the mean, and the term of the variance */
} group;

/* Adds `count` tokens from i on, `rate` apart. */
static void add_run(const da_sparse_head *head, da_kernel_rows *rows, bool of_keys, int64_t i, int64_t rate,
                    int64_t count, group *to) {
    bool one_by_one = rows->rounds || (of_keys && da_keys_may_be_padded(head->options));
    int at_a_time = one_by_one ? 1 : (int)count;
    for (int64_t k = 0; k < count; k += at_a_time) {
        if (one_by_one && of_keys && da_key_is_padded(head->options, head->batch, i + k * rate)) {
            continue;
        }
        const void *row = da_kernel_run(rows, i + k * rate, rate, at_a_time);
        to->present += at_a_time;
        to->squares += (double)head->kernels->add_rows(row, rate * rows->step, at_a_time, rows->stride, rows->dtype,
                                                       (int)rows->head_dim, to->sum);
    }
}

/* rows: of keys, or of queries. */
static void add_group(const da_sparse_head *head, const da_head_pattern *pattern, da_kernel_rows *rows, bool of_keys,
                      int64_t first, int64_t end, group *to) {
    to->kept = to->present = 0;
    to->squares = 0;
    memset(to->sum, 0, (size_t)rows->head_dim * sizeof *to->sum);
    for (int64_t at = first; at < end;) {
        int64_t i = da_sparse_next_kept(pattern, head->n, at);
        int64_t stop = da_smaller(end, i < end ? da_segment_end(pattern, head->n, i) : end);
        int64_t count = i < stop ? (stop - 1 - i) / pattern->rate + 1 : 0;
        to->kept += count;
        add_run(head, rows, of_keys, i, pattern->rate, count, to);
        at = stop;
    }
}

/* Turns sums into the mean, times factor; returns the mean's squared length. */
static double take_mean(const da_sparse_head *head, group *of, int head_dim, double factor) {
    float times = (float)(factor / (double)(of->present > 0 ? of->present : 1));
    for (int c = 0; c < head_dim; c++) {
        of->sum[c] *= times;
    }
    return head->kernels->dot(of->sum, 1, of->sum, 1, DA_F32, head_dim);
}

static int64_t group_end(const da_sparse_head *head, int64_t block, int64_t first, int64_t span) {
    return da_smaller(da_smaller(first + span, (block + 1) * head->block_size), head->n);
}

static void pool_queries(const da_pools *pools, const da_pool *pool, const da_sparse_head *head, int64_t block) {
    int head_dim = (int)head->query->shape[3];
    da_kernel_rows rows;
    da_kernel_rows_of(&rows, head->query, head->batch, head->head);
    for (int g = 0; g < pool->query_groups; g++) {
        int64_t first = block * head->block_size + g * pool->query_span;
        group of = {.sum = pool->queries + (block * pool->query_groups + g) * pools->dim};
        add_group(head, pool->pattern, &rows, false, first, group_end(head, block, first, pool->query_span), &of);
        double squares = take_mean(head, &of, head_dim, head->factor);
        if (pools->dim >
            head_dim) { /* in units of log 2, v <q, q> / 2 is v ln 2 / 2 times the square of what is stored */
            of.sum[head_dim] = (float)(squares * 0.5 * 0.69314718055994530942);
        }
    }
}

/* The means of a block's groups, to rows of padded_dim components; and the logarithms of their tokens. */
static void pool_keys(const da_pools *pools, const da_pool *pool, const da_sparse_head *head, int64_t block,
                      float *means, float *bias) {
    int head_dim = (int)head->key->shape[3];
    double tokens = 0;
    da_kernel_rows rows;
    da_kernel_rows_of(&rows, head->key, head->batch, head->key_head);
    for (int g = 0; g < pool->key_groups; g++) {
        int64_t first = block * head->block_size + g * pool->key_span;
        group of = {.sum = means + g * pools->padded_dim};
        add_group(head, pool->pattern, &rows, true, first, group_end(head, block, first, pool->key_span), &of);
        double present = (double)(of.present > 0 ? of.present : 1), squares = take_mean(head, &of, head_dim, 1);
        double variance = of.squares / present - squares;
        if (pools->dim > head_dim) {
            of.sum[head_dim] = (float)(variance > 0 ? variance / head_dim : 0);
        }
        bias[g] = of.present == DA_POOLED_KEYS ? (float)DA_LOG2_POOLED_KEYS
                  : of.present > 0             ? (float)log2(present)
                                               : -INFINITY;
        tokens += (double)of.kept;
    }
    pool->tokens[block] = (float)tokens;
}

static void fill_key_block(const da_pools *pools, const da_pool *pool, const da_sparse_head *head, int64_t index,
                           const scratch *s) {
    da_key_block *keys = &pool->keys[index];
    float *bias = pool->bias + index * DA_BLOCK_KEYS;
    int64_t first = index * pool->tiles_at_a_time, end = da_smaller(first + pool->tiles_at_a_time, head->blocks);
    int count = (int)(end - first) * pool->key_groups;
    keys->count = 0;
    keys->staged = s->staged;
    keys->positions = s->positions;
    keys->tokens = s->tokens;
    for (int64_t block = first; block < end; block++) {
        int64_t done = (block - first) * pool->key_groups;
        pool_keys(pools, pool, head, block, s->means + done * pools->padded_dim, bias + done);
        pool_queries(pools, pool, head, block);
    }
    for (int key = count; key < DA_BLOCK_KEYS; key++) {
        bias[key] = -INFINITY;
    }
    head->kernels->append_keys(keys, &(da_key_source){.key = s->means,
                                                      .key_step = pools->padded_dim * (int64_t)sizeof *s->means,
                                                      .key_stride = 1,
                                                      .dtype = DA_F32,
                                                      .count = count});
    head->kernels->close_block(keys);
}

int64_t da_pools_stretch(const da_pools *pools) {
    int64_t blocks = pools->pool[0].tiles_at_a_time;
    for (int p = 1; p < pools->count; p++) {
        blocks = da_smaller(blocks, pools->pool[p].tiles_at_a_time);
    }
    return blocks;
}

void da_pools_fill(const da_pools *pools, const da_sparse_head *head, int64_t first, int64_t end,
                   char *scratch_memory) {
    scratch s;
    lay_out_scratch(&s, pools, head, scratch_memory);
    for (int p = 0; p < pools->count; p++) {
        const da_pool *pool = &pools->pool[p];
        for (int64_t k = first / pool->tiles_at_a_time; k < pool->key_blocks; k++) {
            if (da_smaller((k + 1) * pool->tiles_at_a_time, head->blocks) > end) {
                break;
            }
            fill_key_block(pools, pool, head, k, &s);
        }
    }
}
