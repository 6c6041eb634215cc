/* What a configuration costs: pairs of queries and keys, counted. */
#include <math.h>

#include "config/validation.h"
#include "pattern/pattern.h"

/* Queries looked at one by one, over all heads. Shorter problems are counted in full. */
#define MAX_SAMPLES 65536
/* The same where a whole period of the pattern is looked at. */
#define MAX_PERIOD 262144
/* Heads looked at, spread over all. */
#define MAX_HEADS 64
/* A query whose patterns' rates do not divide one another has its keys listed; this many at most over the sample. */
#define MAX_LISTED_KEYS ((int64_t)1 << 24)

/* Range of positions that query i sees at all. */
static void visible_range(const da_head_patterns *patterns, int64_t i, int64_t *first, int64_t *end) {
    *first = patterns->window < i ? i - patterns->window : 0;
    *end = patterns->causal ? i + 1 : patterns->n;
}

/* Keys that query i sees by one pattern. */
static int64_t keys_by_pattern(const da_head_patterns *patterns, const da_head_pattern *pattern, int64_t i) {
    int64_t first, end;
    if (!da_pattern_keeps(pattern, i)) {
        return 0;
    }
    visible_range(patterns, i, &first, &end);
    int64_t segment_first = da_segment_first(pattern, i), segment_end = da_segment_end(pattern, patterns->n, i);
    return da_count_congruent(first > segment_first ? first : segment_first, end < segment_end ? end : segment_end,
                              segment_first + pattern->offset, pattern->rate);
}

/* Distinct keys of query i where the rates divide one another: of the patterns that keep i and hold a part of the keys,
 * the one with the smallest rate holds all that the others do. */
static int64_t distinct_by_nesting(const da_head_patterns *patterns, int64_t i) {
    int64_t cuts[2 * DA_MAX_PATTERNS], keys = 0, first, end;
    int cut_count = da_segment_cuts(patterns, i, cuts);
    visible_range(patterns, i, &first, &end);
    for (int k = 0; k + 1 < cut_count; k++) {
        const da_head_pattern *densest = NULL;
        for (int p = 0; p < patterns->count; p++) {
            const da_head_pattern *pattern = &patterns->pattern[p];
            bool holds = da_pattern_keeps(pattern, i) && da_segment_first(pattern, i) <= cuts[k] &&
                         da_segment_end(pattern, patterns->n, i) >= cuts[k + 1];
            if (holds && (!densest || pattern->rate < densest->rate)) {
                densest = pattern;
            }
        }
        if (densest) {
            keys += da_count_congruent(first > cuts[k] ? first : cuts[k], end < cuts[k + 1] ? end : cuts[k + 1],
                                       da_segment_first(densest, i) + densest->offset, densest->rate);
        }
    }
    return keys;
}

/* The same where the rates do not divide one another: each pattern's keys that no earlier pattern holds. */
static int64_t distinct_by_listing(const da_head_patterns *patterns, int64_t i) {
    int64_t keys = 0, first, end;
    visible_range(patterns, i, &first, &end);
    for (int p = 0; p < patterns->count; p++) {
        const da_head_pattern *pattern = &patterns->pattern[p];
        if (!da_pattern_keeps(pattern, i)) {
            continue;
        }
        int64_t segment_first = da_segment_first(pattern, i), segment_end = da_segment_end(pattern, patterns->n, i);
        int64_t from = first > segment_first ? first : segment_first, to = end < segment_end ? end : segment_end;
        for (int64_t j = da_first_congruent(from, segment_first + pattern->offset, pattern->rate); j < to;
             j += pattern->rate) {
            bool held = false;
            for (int q = 0; q < p && !held; q++) {
                held = da_pattern_joins(&patterns->pattern[q], i, j);
            }
            keys += !held;
        }
    }
    return keys;
}

/* Sums over the sampled queries of one head. */
typedef struct pair_sums {
    double counted, distinct, distinct_counted; /* the last: counted, over the queries that distinct was found for */
    int64_t queries, listed;
} pair_sums;

static void add_query(const da_head_patterns *patterns, bool divide, int64_t i, pair_sums *sums) {
    int64_t counted = 0;
    for (int p = 0; p < patterns->count; p++) {
        counted += keys_by_pattern(patterns, &patterns->pattern[p], i);
    }
    sums->counted += (double)counted;
    sums->queries++;
    if (divide || sums->listed + counted <= MAX_LISTED_KEYS) {
        sums->distinct += (double)(divide ? distinct_by_nesting(patterns, i) : distinct_by_listing(patterns, i));
        sums->distinct_counted += (double)counted;
        sums->listed += divide ? 0 : counted;
    }
}

/* Query number k of a sample spread evenly, and at no period of a pattern, over 0..n-1. */
static int64_t sample_position(int64_t k, int64_t n) {
    const double golden_ratio = 0.61803398874989484820;
    double place = (double)(k + 1) * golden_ratio;
    int64_t position = (int64_t)((place - floor(place)) * (double)n);
    return position < n ? position : n - 1;
}

/* The queries that are looked at in each head: first, first + 1, ..., or spread over the whole sequence. */
typedef struct query_sample {
    int64_t first, count;
    bool spread;
} query_sample;

/* All queries of a short problem; one period of the pattern, from the middle, where there is one; or a sample. */
static query_sample choose_sample(const da_attention_config *config, int64_t n, int64_t heads) {
    int64_t longest = 1;
    for (size_t p = 0; p < config->segment_count; p++) {
        longest = config->segment_lengths[p] > longest ? config->segment_lengths[p] : longest;
    }
    bool periodic = longest <= n / 2 && longest <= MAX_PERIOD / heads;
    for (size_t p = 0; p < config->segment_count; p++) {
        periodic = periodic && longest % config->segment_lengths[p] == 0;
    }
    if (n <= MAX_SAMPLES / heads) {
        return (query_sample){0, n, false};
    }
    if (periodic) {
        return (query_sample){n / longest / 2 * longest, longest, false};
    }
    return (query_sample){0, MAX_SAMPLES / heads, true};
}

static void add_head(const da_attention_config *config, const da_problem *problem, int64_t head, query_sample sample,
                     pair_sums *sums) {
    da_head_patterns patterns;
    da_head_patterns_init(&patterns, config, problem->n, problem->heads, head);
    bool divide = da_rates_divide(&patterns);
    for (int64_t k = 0; k < sample.count; k++) {
        add_query(&patterns, divide, sample.spread ? sample_position(k, problem->n) : sample.first + k, sums);
    }
}

void da_cost_init(da_cost *cost) {
    if (cost) {
        *cost = (da_cost){.size = sizeof *cost};
    }
}

da_status da_pattern_cost(const da_attention_config *config, const da_problem *problem, da_cost *cost) {
    da_attention_config ours;
    da_problem size;
    da_status status = da_attention_config_import(config, &ours);
    if (status == DA_OK) {
        status = da_problem_import(problem, &size);
    }
    if (status == DA_OK && size.n < 1) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "problem.n is 0; allowed: 1 or more");
    }
    if (status == DA_OK) {
        status = da_check_result(cost, sizeof *cost, "cost");
    }
    if (status != DA_OK) {
        return status;
    }
    int64_t heads = size.heads < MAX_HEADS ? size.heads : MAX_HEADS;
    query_sample sample = choose_sample(&ours, size.n, heads);
    pair_sums sums = {0};
    for (int64_t h = 0; h < heads; h++) {
        add_head(&ours, &size, h * size.heads / heads, sample, &sums);
    }
    double n = (double)size.n, sequences = (double)size.batch * (double)size.heads;
    double tokens = sequences * n, value_bytes = (double)da_dtype_size(size.dtype);
    double kv_share = (double)size.kv_heads / (double)size.heads;
    *cost = (da_cost){
        .size = cost->size,
        .counted_pairs = sums.counted * tokens / (double)sums.queries,
        .dense_pairs = sequences * (ours.causal ? n * (n + 1) / 2 : n * n),
        .tensor_bytes =
            tokens * ((2 + 2 * kv_share) * (double)size.head_dim * value_bytes + (size.dtype == DA_F64 ? 8 : 4)),
    };
    cost->distinct_pairs =
        sums.distinct_counted > 0 ? cost->counted_pairs * (sums.distinct / sums.distinct_counted) : 0;
    if (ours.overlap == DA_OVERLAP_ONCE) {
        cost->counted_pairs = cost->distinct_pairs;
    }
    cost->counted_flops = 4 * (double)size.head_dim * cost->counted_pairs;
    return DA_OK;
}
