#include "pattern/tile_row.h"

#include <string.h>

#include "core/numbers.h"

/* Tokens of one residue modulo a pattern's rate: first, first + rate, ... */
typedef struct kept_tokens {
    int64_t first, count;
} kept_tokens;

static int64_t last_of(const kept_tokens *tokens, int64_t rate) {
    return tokens->first + (tokens->count - 1) * rate;
}

/* Pairs of queries and keys of one segment, query by query. All lie at one residue, so that with i = key->first + d rate a
 * query sees the keys 0..d as far as causality goes, and from d - window / rate on. */
static double pairs_one_by_one(const da_head_patterns *patterns, int64_t rate, const kept_tokens *queries,
                               const kept_tokens *keys) {
    int64_t pairs = 0, reach = patterns->window / rate;
    for (int64_t k = 0; k < queries->count; k++) {
        int64_t d = (queries->first - keys->first) / rate + k;
        int64_t first = d > reach ? d - reach : 0,
                last = patterns->causal ? da_smaller(d, keys->count - 1) : keys->count - 1;
        pairs += da_larger(last - first + 1, 0);
    }
    return (double)pairs;
}

static double pairs_of(const da_head_patterns *patterns, int64_t rate, const kept_tokens *queries,
                       const kept_tokens *keys) {
    bool all_before = last_of(keys, rate) <= queries->first;
    bool all_within = last_of(queries, rate) - keys->first <= patterns->window;
    if ((all_before || !patterns->causal) && all_within) {
        return (double)queries->count * (double)keys->count;
    }
    return pairs_one_by_one(patterns, rate, queries, keys);
}

/* Adds the pairs of pattern p with the keys of the segment [first, end) in the blocks column to column_end - 1. */
static void add_columns(const da_head_patterns *patterns, int p, int64_t block_size, int64_t first, int64_t end,
                        const kept_tokens *queries, int64_t column, int64_t column_end, da_tile_row *row) {
    const da_head_pattern *pattern = &patterns->pattern[p];
    kept_tokens keys = {
        da_first_congruent(da_larger(column * block_size, first), first + pattern->offset, pattern->rate), 0};
    for (; column < column_end; column++) {
        int64_t tile_end = da_smaller((column + 1) * block_size, end);
        keys.count = keys.first < tile_end ? (tile_end - keys.first - 1) / pattern->rate + 1 : 0;
        double pairs = keys.count > 0 ? pairs_of(patterns, pattern->rate, queries, &keys) : 0;
        if (pairs > 0) {
            row->pairs[column] += pairs;
            row->pattern[column] = (uint8_t)p;
        }
        keys.first += keys.count * pattern->rate;
    }
}

/* The keys of the segment [first, end), which its queries see as far as causality and the window let them. In blocks that lie
 * within the segment, and that all queries see the whole of, there are as many keys in each if the rate divides the block. */
static void add_segment(const da_head_patterns *patterns, int p, int64_t block_size, int64_t first, int64_t end,
                        const kept_tokens *queries, da_tile_row *row) {
    const da_head_pattern *pattern = &patterns->pattern[p];
    int64_t last = last_of(queries, pattern->rate), to = patterns->causal ? last + 1 : end;
    int64_t from = queries->first - first > patterns->window ? queries->first - patterns->window : first;
    int64_t column = from / block_size, column_end = (to - 1) / block_size + 1;
    int64_t seen_first = last - first > patterns->window ? last - patterns->window : first;
    int64_t seen_end = patterns->causal ? queries->first + 1 : end;
    int64_t whole = (seen_first - 1 + block_size) / block_size, whole_end = seen_end / block_size;
    if (whole >= whole_end || block_size % pattern->rate != 0) {
        whole = whole_end = column_end;
    }
    double pairs = (double)queries->count * (double)(block_size / pattern->rate);
    add_columns(patterns, p, block_size, first, end, queries, column, whole, row);
    for (int64_t k = whole; k < whole_end; k++) {
        row->pairs[k] += pairs;
    }
    if (whole < whole_end) {
        memset(row->pattern + whole, p, (size_t)(whole_end - whole));
    }
    add_columns(patterns, p, block_size, first, end, queries, whole_end, column_end, row);
}

/* Patterns with larger rates first, and of equal ones the later: so that the last that has pairs with a block is the one that
 * `pattern` names. */
static void order_patterns(const da_head_patterns *patterns, int order[DA_MAX_PATTERNS]) {
    for (int p = 0; p < patterns->count; p++) {
        int k = p;
        for (; k > 0 && patterns->pattern[order[k - 1]].rate <= patterns->pattern[p].rate; k--) {
            order[k] = order[k - 1];
        }
        order[k] = p;
    }
}

void da_tile_row_count(const da_head_patterns *patterns, int64_t block_size, int64_t block, da_tile_row *row) {
    int64_t query_first = block * block_size, query_end = da_smaller(query_first + block_size, patterns->n);
    size_t blocks = (size_t)((patterns->n - 1) / block_size + 1);
    memset(row->pairs, 0, blocks * sizeof *row->pairs);
    memset(row->pattern, 0, blocks * sizeof *row->pattern);
    int order[DA_MAX_PATTERNS];
    order_patterns(patterns, order);
    for (int k = 0; k < patterns->count; k++) {
        int p = order[k];
        const da_head_pattern *pattern = &patterns->pattern[p];
        for (int64_t at = query_first; at < query_end;) {
            int64_t first = da_segment_first(pattern, at), end = da_segment_end(pattern, patterns->n, at);
            int64_t residue = first + pattern->offset, stop = da_smaller(end, query_end);
            kept_tokens queries = {da_first_congruent(at, residue, pattern->rate),
                                   da_count_congruent(at, stop, residue, pattern->rate)};
            if (queries.count > 0) {
                add_segment(patterns, p, block_size, first, end, &queries, row);
            }
            at = stop;
        }
    }
}
