/* What a configuration costs: pairs of queries and keys, counted. */
#include <math.h>

#include "config/validation.h"
#include "pattern/schedule.h"

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

static void add_keys(const da_rectangle *rectangle, void *user) {
    *(int64_t *)user += rectangle->key_count;
}

/* Distinct keys of query i: the shared schedule's rectangles for an item of this one row hold each key once. */
static int64_t distinct_by_schedule(const da_schedule *schedule, int64_t i) {
    da_item item = {.query_first = i, .query_stride = 1, .query_count = 1};
    int64_t keys = 0;
    for (int p = 0; p < schedule->patterns.count; p++) {
        item.kept_by |= da_pattern_keeps(&schedule->patterns.pattern[p], i) ? (uint64_t)1 << p : 0;
    }
    da_schedule_rectangles(schedule, &item, add_keys, &keys);
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

static bool rates_divide(const da_schedule *schedule) {
    for (int k = 1; k < schedule->patterns.count; k++) {
        int64_t finer = schedule->patterns.pattern[schedule->by_rate[k]].rate;
        if (finer % schedule->patterns.pattern[schedule->by_rate[k - 1]].rate != 0) {
            return false;
        }
    }
    return true;
}

static void add_query(const da_schedule *schedule, bool divide, int64_t i, pair_sums *sums) {
    const da_head_patterns *patterns = &schedule->patterns;
    int64_t counted = 0;
    for (int p = 0; p < patterns->count; p++) {
        counted += keys_by_pattern(patterns, &patterns->pattern[p], i);
    }
    sums->counted += (double)counted;
    sums->queries++;
    if (divide || sums->listed + counted <= MAX_LISTED_KEYS) {
        sums->distinct += (double)(divide ? distinct_by_schedule(schedule, i) : distinct_by_listing(patterns, i));
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
    da_schedule schedule;
    da_schedule_init(&schedule, config, problem->n, problem->heads, head, problem->n, 1);
    bool divide = rates_divide(&schedule);
    /* With "once" the shared schedule's rectangles hold each key once, whatever the ratio of the rates. */
    schedule.shared = divide;
    schedule.patterns.once = divide;
    for (int64_t k = 0; k < sample.count; k++) {
        add_query(&schedule, divide, sample.spread ? sample_position(k, problem->n) : sample.first + k, sums);
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
