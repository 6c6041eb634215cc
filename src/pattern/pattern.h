/* Who sees whom: the patterns of one head, and the arithmetic of their segments. */
#ifndef DA_PATTERN_PATTERN_H
#define DA_PATTERN_PATTERN_H

#include "dilated_attention.h"

/* One pattern as one head runs it on a sequence of n tokens. */
typedef struct da_head_pattern {
    int64_t segment; /* segment length, at most n */
    int64_t rate;
    int64_t offset; /* 0..rate-1: the first token kept in each segment */
} da_head_pattern;

/* The patterns of one head. */
typedef struct da_head_patterns {
    int64_t n;
    int count;
    da_head_pattern pattern[DA_MAX_PATTERNS];
    double divisor; /* of the output: the number of groups under head_groups, else 1 */
    bool causal, once, zero_pad;
    int64_t window; /* keys with i - j <= window are seen; INT64_MAX: all */
} da_head_patterns;

/* Fills *out from a validated configuration; 0 <= head < heads. */
void da_head_patterns_init(da_head_patterns *out, const da_attention_config *config, int64_t n, int64_t heads,
                           int64_t head);

/* First position of i's segment, and one past its last. */
int64_t da_segment_first(const da_head_pattern *pattern, int64_t i);
int64_t da_segment_end(const da_head_pattern *pattern, int64_t n, int64_t i);

/* True if the pattern keeps token i. */
bool da_pattern_keeps(const da_head_pattern *pattern, int64_t i);

/* True if the pattern lets query i see key j, window and causality apart. */
bool da_pattern_joins(const da_head_pattern *pattern, int64_t i, int64_t j);

/* Number of zero keys that torchscale's padding adds to the segment of i (tail_rule zero_pad). */
int64_t da_pattern_zero_keys(const da_head_patterns *patterns, const da_head_pattern *pattern, int64_t i);

/* May a query of [query_first, query_end) see a key of [key_first, key_end)? The two ranges are not empty, and are apart or
 * overlap in any way; for ranges that overlap, always true. */
bool da_ranges_meet(const da_head_patterns *patterns, int64_t query_first, int64_t query_end, int64_t key_first,
                    int64_t key_end);

/* The ends of the segments around token i, sorted: between two of them the same patterns hold the keys that i sees.
 * Returns how many. */
int da_segment_cuts(const da_head_patterns *patterns, int64_t i, int64_t cuts[2 * DA_MAX_PATTERNS]);

/* True if of any two rates one divides the other. */
bool da_rates_divide(const da_head_patterns *patterns);

/* The smallest x >= from with x = residue modulo stride. */
int64_t da_first_congruent(int64_t from, int64_t residue, int64_t stride);

/* Number of x in [from, end) with x = residue modulo stride. */
int64_t da_count_congruent(int64_t from, int64_t end, int64_t residue, int64_t stride);

#endif
