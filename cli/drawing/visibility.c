#include "drawing/visibility.h"

#include "core/numbers.h"

/* Members of first, first + step, ... that lie in range. */
static int64_t progression_count(int64_t first, int64_t step, token_range range) {
    int64_t below_end = range.end <= first ? 0 : (range.end - first - 1) / step + 1;
    int64_t below_first = range.first <= first ? 0 : (range.first - first - 1) / step + 1;
    return da_larger(below_end - below_first, 0);
}

static token_range range_meet(token_range a, token_range b) {
    token_range meet = {da_larger(a.first, b.first), da_smaller(a.end, b.end)};
    meet.end = da_larger(meet.end, meet.first);
    return meet;
}

visibility visibility_of(const da_attention_config *config, int64_t n, int64_t heads, int64_t head) {
    visibility view = {.config = config, .n = n, .heads = heads, .head = head};
    int64_t count = (int64_t)config->segment_count;
    int64_t group = -1;
    if (config->mixing == DA_MIXING_HEAD_GROUPS) {
        int64_t size = heads / count, large = heads % count; /* the first `large` groups have one head more */
        group = head < large * (size + 1) ? head / (size + 1) : large + (head - large * (size + 1)) / size;
    }
    for (int64_t p = 0; p < count; p++) {
        int64_t rate = config->dilation_rates[p];
        int64_t offset = config->offset_rule == DA_OFFSET_MOD ? head % rate : head / ((heads - 1) / rate + 1);
        if (group >= 0) {
            offset = group % rate;
        }
        if (group < 0 || group == p) {
            view.patterns[view.pattern_count++] = (head_pattern){config->segment_lengths[p], rate, offset};
        }
    }
    return view;
}

token_range visibility_segment(const visibility *view, const head_pattern *pattern, int64_t token) {
    int64_t first = token - token % pattern->segment;
    return (token_range){first, first + da_smaller(pattern->segment, view->n - first)};
}

static bool keeps(const head_pattern *pattern, int64_t token) {
    return token % pattern->segment % pattern->rate == pattern->offset;
}

size_t visibility_keepers(const visibility *view, int64_t query) {
    size_t count = 0;
    for (size_t p = 0; p < view->pattern_count; p++) {
        count += keeps(&view->patterns[p], query);
    }
    return count;
}

/* What causal and window leave to a query. */
static token_range allowed_keys(const visibility *view, int64_t query) {
    const da_attention_config *config = view->config;
    bool windowed = config->window != DA_NO_WINDOW && config->window < query;
    return (token_range){windowed ? query - config->window : 0, config->causal ? query + 1 : view->n};
}

pattern_reach visibility_reach(const visibility *view, const head_pattern *pattern, int64_t query) {
    pattern_reach reach = {0};
    if (!keeps(pattern, query)) {
        return reach;
    }
    token_range segment = visibility_segment(view, pattern, query);
    token_range keys = range_meet(segment, allowed_keys(view, query));
    int64_t kept_in_segment = progression_count(segment.first + pattern->offset, pattern->rate, segment);
    reach.kept = true;
    reach.back = (query - da_larger(keys.first, segment.first + pattern->offset)) / pattern->rate * pattern->rate;
    reach.ahead = (keys.end - 1 - query) / pattern->rate * pattern->rate;
    reach.keys = reach.back / pattern->rate + 1 + reach.ahead / pattern->rate;
    if (view->config->tail_rule == DA_TAIL_ZERO_PAD && !view->config->causal) {
        int64_t length = da_smaller(pattern->segment, view->n);
        reach.zero_keys = (length - 1) / pattern->rate + 1 - kept_in_segment;
    }
    return reach;
}

/* 0 + 1 + ... + (m - 1), or 0. */
static double triangle(int64_t m) {
    return m <= 1 ? 0.0 : 0.5 * (double)m * (double)(m - 1);
}

/* Pairs (a, b), a in first_a..first_a+count_a-1 and b likewise, with a - b >= distance. */
static double pairs_behind(int64_t first_a, int64_t count_a, int64_t first_b, int64_t count_b, int64_t distance) {
    /* For a the number of b is a - distance - first_b + 1, cut to 0..count_b: a sum of a ramp less a sum of a ramp. */
    int64_t last = first_a + count_a - distance - first_b + 1, start = first_a - distance - first_b + 1;
    double ramp = triangle(last) - triangle(start);
    return ramp - (triangle(last - count_b) - triangle(start - count_b));
}

/* Pairs of one segment of a pattern. */
static double segment_pairs(const visibility *view, const head_pattern *pattern, token_range segment,
                            token_range queries, token_range keys) {
    int64_t first = segment.first + pattern->offset;
    queries = range_meet(queries, segment);
    keys = range_meet(keys, segment);
    int64_t query_count = progression_count(first, pattern->rate, queries);
    int64_t key_count = progression_count(first, pattern->rate, keys);
    if (query_count == 0 || key_count == 0) {
        return 0.0;
    }
    int64_t query = progression_count(first, pattern->rate, (token_range){segment.first, queries.first});
    int64_t key = progression_count(first, pattern->rate, (token_range){segment.first, keys.first});
    double pairs = view->config->causal ? pairs_behind(query, query_count, key, key_count, 0)
                                        : (double)query_count * (double)key_count;
    if (view->config->window != DA_NO_WINDOW) {
        int64_t farthest = da_smaller(view->config->window, view->n) / pattern->rate;
        pairs -= pairs_behind(query, query_count, key, key_count, farthest + 1);
    }
    return pairs;
}

double visibility_pattern_pairs(const visibility *view, const head_pattern *pattern, token_range queries,
                                token_range keys) {
    int64_t first = da_larger(queries.first, keys.first) / pattern->segment;
    int64_t last = (da_smaller(queries.end, keys.end) - 1) / pattern->segment; /* below first: no segment meets both */
    double pairs = 0.0;
    for (int64_t s = first; s <= last; s++) {
        token_range segment = visibility_segment(view, pattern, s * pattern->segment);
        int64_t alike = s > first && s < last ? last - s : 1; /* segments between first and last are alike */
        pairs += (double)alike * segment_pairs(view, pattern, segment, queries, keys);
        s += alike - 1;
    }
    return pairs;
}

static int64_t greatest_common_divisor(int64_t a, int64_t b) {
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* Tokens query + k * step in the range, for any whole k. */
static int64_t steps_count(int64_t query, int64_t step, token_range range) {
    return progression_count(query % step, step, range);
}

/* Tokens in the range at a multiple of `step` from the query that are also at a multiple of one of the rates. All these
 * progressions pass through the query, so two of them meet in the progression of their least common multiple. */
static int64_t union_count(int64_t query, int64_t step, const int64_t *rates, size_t count, token_range range) {
    for (size_t k = 0; k < count; k++) {
        if (step % rates[k] == 0) {
            return steps_count(query, step, range);
        }
    }
    bool holds_query = range.first <= query && query < range.end;
    int64_t total = 0;
    for (size_t k = 0; k < count; k++) {
        int64_t factor = rates[k] / greatest_common_divisor(step, rates[k]);
        int64_t both =
            factor > INT64_MAX / 4 / step ? INT64_MAX / 4 : factor * step; /* so far that nothing else is met */
        int64_t here = steps_count(query, both, range);
        if (here == 0 || (here == 1 && holds_query && k + 1 < count)) {
            continue; /* nothing, or the query itself, which the last rate counts */
        }
        total += here - union_count(query, both, rates + k + 1, count - k - 1, range);
    }
    return total;
}

/* Segments of the patterns that keep the query, with their rates. */
typedef struct query_patterns {
    size_t count;
    token_range keys[DA_MAX_PATTERNS];
    int64_t rates[DA_MAX_PATTERNS];
} query_patterns;

static query_patterns patterns_of_query(const visibility *view, int64_t query, token_range keys) {
    query_patterns mine = {.count = 0};
    keys = range_meet(keys, allowed_keys(view, query));
    for (size_t p = 0; p < view->pattern_count; p++) {
        token_range seen = range_meet(visibility_segment(view, &view->patterns[p], query), keys);
        if (keeps(&view->patterns[p], query) && seen.first < seen.end) {
            mine.keys[mine.count] = seen;
            mine.rates[mine.count++] = view->patterns[p].rate;
        }
    }
    return mine;
}

int64_t visibility_distinct_keys(const visibility *view, int64_t query, token_range keys) {
    query_patterns mine = patterns_of_query(view, query, keys);
    int64_t total = 0;
    int64_t position = keys.first;
    while (position < keys.end) { /* one stretch at a time, over which the same patterns hold */
        int64_t rates[DA_MAX_PATTERNS] = {0};
        size_t count = 0;
        int64_t end = keys.end;
        for (size_t p = 0; p < mine.count; p++) {
            if (position < mine.keys[p].first) {
                end = da_smaller(end, mine.keys[p].first);
            } else if (position < mine.keys[p].end) {
                end = da_smaller(end, mine.keys[p].end);
                rates[count++] = mine.rates[p];
            }
        }
        total += union_count(query, 1, rates, count, (token_range){position, end});
        position = end;
    }
    return total;
}

/* Part of the pairs, counted once per pattern, that is left when each is counted once; from a sample of the queries. */
static double distinct_part(const visibility *view, token_range queries, token_range keys) {
    int64_t length = queries.end - queries.first;
    int64_t samples = da_smaller(length, VISIBILITY_EXACT_QUERIES);
    double counted = 0.0, distinct = 0.0;
    uint64_t random = 0x9E3779B97F4A7C15u ^ (uint64_t)queries.first;
    for (int64_t s = 0; s < samples; s++) {
        int64_t stratum = queries.first + s * length / samples;
        int64_t width = queries.first + (s + 1) * length / samples - stratum;
        random = random * 6364136223846793005u + 1442695040888963407u;
        int64_t query = stratum + (int64_t)((random >> 33) % (uint64_t)width);
        int64_t once = visibility_distinct_keys(view, query, keys);
        query_patterns mine = patterns_of_query(view, query, keys);
        distinct += (double)once;
        for (size_t p = 0; p < mine.count; p++) {
            counted += (double)steps_count(query, mine.rates[p], mine.keys[p]);
        }
    }
    return counted > 0.0 ? distinct / counted : 1.0;
}

double visibility_distinct_pairs(const visibility *view, token_range queries, token_range keys) {
    double largest = 0.0, sum = 0.0;
    for (size_t p = 0; p < view->pattern_count; p++) {
        double pairs = visibility_pattern_pairs(view, &view->patterns[p], queries, keys);
        largest = pairs > largest ? pairs : largest;
        sum += pairs;
    }
    if (sum == largest) {
        return sum;
    }
    double estimate = sum * distinct_part(view, queries, keys);
    double area = (double)(queries.end - queries.first) * (double)(keys.end - keys.first);
    estimate = estimate < largest ? largest : estimate;
    return estimate > area ? area : estimate;
}
