#include "attention/block_sparse/lists.h"

#include "attention/block_sparse/profile.h"
#include "core/memory.h"
#include "core/numbers.h"
#include "pattern/tiles.h"

/* Rows are looked at one by one, or, of long sequences, so many parts of neighbours, all of which are taken to have what
 * the one that has the most could have. */
#define PARTS 65536

size_t da_sparse_product(size_t count, size_t size) {
    size_t product;
    return da_multiply_sizes(count, size, &product) ? product : SIZE_MAX;
}

size_t da_sparse_sum(size_t a, size_t b) {
    size_t sum;
    return da_add_sizes(a, b, &sum) ? sum : SIZE_MAX;
}

/* Blocks that hold keys which the queries first..end-1 may see by a pattern, of which the tokens *from..*to-1 hold all. One
 * row of `width` queries sees no more of them than `*of_row`. */
static void most_of_pattern(const da_head_patterns *patterns, const da_head_pattern *pattern, int64_t block_size,
                            int64_t first, int64_t end, int64_t *from, int64_t *to, int64_t *of_row) {
    int64_t segment = pattern->segment, reach = (block_size - 1) / segment + 2; /* segments that a row meets */
    *from = da_segment_first(pattern, first);
    *to = da_segment_end(pattern, patterns->n, end - 1);
    if (patterns->causal) {
        *to = da_smaller(*to, end);
    }
    if (patterns->window < first - *from) {
        *from = first - patterns->window;
    }
    int64_t tokens = *to - *from;
    tokens = segment <= tokens / reach ? reach * segment : tokens;
    int64_t blocks = (tokens - 1) / block_size + 2, keys = (tokens - 1) / pattern->rate + 1 + reach;
    *of_row = da_smaller(blocks, keys);
}

/* What each row of the queries first..end-1 can see, at most. */
static int64_t most_of_universe(const da_head_patterns *patterns, int64_t block_size, int64_t first, int64_t end) {
    int64_t from = patterns->n, to = 0, sum = 0;
    for (int p = 0; p < patterns->count; p++) {
        int64_t pattern_from, pattern_to, blocks;
        most_of_pattern(patterns, &patterns->pattern[p], block_size, first, end, &pattern_from, &pattern_to, &blocks);
        from = da_smaller(from, pattern_from);
        to = da_larger(to, pattern_to);
        sum += blocks;
    }
    return da_smaller(sum, (to - 1) / block_size - from / block_size + 1);
}

/* Of all rows of a head. ratio 1: all tiles. */
static size_t most_of_head(const da_attention_config *config, const da_head_patterns *patterns, double ratio) {
    int64_t size = config->block_size, blocks = da_tile_blocks(patterns->n, size);
    int64_t rows = (blocks - 1) / PARTS + 1, globals = config->global_blocks;
    bool has_globals = config->sparse_pattern == DA_SPARSE_GLOBAL_LOCAL || config->sparse_pattern == DA_SPARSE_PROFILE;
    size_t tiles = 0;
    for (int64_t row = 0; row < blocks; row += rows) {
        int64_t row_end = da_smaller(row + rows, blocks);
        int64_t end = row_end < blocks ? row_end * size : patterns->n;
        int64_t universe = most_of_universe(patterns, size, row * size, end);
        int64_t kept = has_globals && row < globals ? universe : da_sparse_kept(ratio, universe);
        tiles = da_sparse_sum(tiles, da_sparse_product((size_t)(row_end - row), (size_t)kept));
    }
    return tiles;
}

static double ratio_of(const da_attention_config *config, int64_t head) {
    if (config->sparse_pattern == DA_SPARSE_PROFILE) {
        const da_sparse_profile *profile = config->sparse_profile;
        return head < profile->heads ? profile->rules[head].ratio : 1; /* else calls are refused */
    }
    return config->quality_target < 1 ? 1 : config->sparsity_ratio;
}

da_list_sizes da_sparse_list_sizes(const da_attention_config *config, const da_problem *problem, int64_t batch,
                                   int64_t heads) {
    da_list_sizes sizes = {0};
    int64_t blocks = da_tile_blocks(problem->n, config->block_size);
    if (blocks > DA_MAX_TILE_BLOCKS) { /* calls are refused */
        return sizes;
    }
    /* The heads' patterns may differ in what is kept of segments, which plays no part here. */
    bool alike = config->mixing == DA_MIXING_LONGNET && config->sparse_pattern != DA_SPARSE_PROFILE;
    size_t of_head = 0;
    for (int64_t head = 0; head < heads; head++) {
        if (head == 0 || !alike) {
            da_head_patterns patterns;
            da_head_patterns_init(&patterns, config, problem->n, problem->heads, head);
            of_head = most_of_head(config, &patterns, ratio_of(config, head));
        }
        sizes.tiles = da_sparse_sum(sizes.tiles, of_head);
    }
    sizes.tiles = da_sparse_product(sizes.tiles, (size_t)batch);
    sizes.rows = da_sparse_product((size_t)blocks, da_sparse_product((size_t)batch, (size_t)heads));
    return sizes;
}

size_t da_sparse_list_bytes(const da_list_sizes *sizes) {
    size_t starts = da_sparse_product(da_sparse_sum(sizes->rows, 1), sizeof(int64_t));
    size_t columns = da_sparse_product(sizes->tiles, sizeof(int32_t));
    return da_sparse_sum(da_sparse_sum(starts, columns), (size_t)2 * DA_ALLOCATED_LINE);
}
