/* Which query of one head sees which key, as arithmetic on progressions: no walk over pairs, so that it is as quick
 * for a hundred million tokens as for a hundred. da_pattern_multiplicity answers for single pairs; this counts over
 * ranges. */
#ifndef DA_CLI_DRAWING_VISIBILITY_H
#define DA_CLI_DRAWING_VISIBILITY_H

#include "dilated_attention.h"

/* A pattern as one head runs it. */
typedef struct head_pattern {
    int64_t segment, rate, offset;
} head_pattern;

typedef struct visibility {
    const da_attention_config *config; /* validated; it must outlive this */
    int64_t n, heads, head;
    size_t pattern_count; /* 1 with DA_MIXING_HEAD_GROUPS: a head then runs the pattern of its group alone */
    head_pattern patterns[DA_MAX_PATTERNS];
} visibility;

/* Tokens first..end-1. */
typedef struct token_range {
    int64_t first, end;
} token_range;

/* What one query sees through one pattern. */
typedef struct pattern_reach {
    bool kept;         /* false: the pattern does not keep this query; the rest is zero */
    int64_t keys;      /* that the query sees */
    int64_t back;      /* distance to the earliest of them, 0 if it is not earlier than the query */
    int64_t ahead;     /* distance to the last of them, likewise */
    int64_t zero_keys; /* keys beyond the end that the zero_pad rule adds */
} pattern_reach;

/* 0 <= head < heads, n >= 1. */
visibility visibility_of(const da_attention_config *config, int64_t n, int64_t heads, int64_t head);

/* Tokens of the segment of `pattern` that holds `token`, cut at the end of the sequence. */
token_range visibility_segment(const visibility *view, const head_pattern *pattern, int64_t token);

/* How many patterns keep the query. */
size_t visibility_keepers(const visibility *view, int64_t query);

pattern_reach visibility_reach(const visibility *view, const head_pattern *pattern, int64_t query);

/* Pairs in queries x keys that one pattern holds. Exact up to 2^53. The ranges are equal or apart. */
double visibility_pattern_pairs(const visibility *view, const head_pattern *pattern, token_range queries,
                                token_range keys);

/* Keys in the range that the query sees, each counted once whatever the number of patterns that hold it. */
int64_t visibility_distinct_keys(const visibility *view, int64_t query, token_range keys);

/* Distinct pairs in queries x keys. Exact where no two patterns share pairs there, and for at most
 * VISIBILITY_EXACT_QUERIES queries; otherwise the overlap is estimated from that many queries, the same at every
 * call, and the result kept between the largest pattern's pairs and the sum over patterns. So it is 0 only if no pair
 * is seen. */
#define VISIBILITY_EXACT_QUERIES 48
double visibility_distinct_pairs(const visibility *view, token_range queries, token_range keys);

#endif
