#include "pattern/pattern.h"

/* The group of a head, and its size's rule: the first heads % groups groups are one head larger. */
static int64_t group_of_head(int64_t head, int64_t heads, int64_t groups) {
    int64_t smaller = heads / groups, larger_groups = heads % groups, in_larger = larger_groups * (smaller + 1);
    return head < in_larger ? head / (smaller + 1) : larger_groups + (head - in_larger) / smaller;
}

static int64_t offset_of_head(const da_attention_config *config, int64_t heads, int64_t head, int64_t rate) {
    if (config->offset_rule == DA_OFFSET_MOD) {
        return head % rate;
    }
    return head / (heads / rate + (heads % rate != 0));
}

void da_head_patterns_init(da_head_patterns *out, const da_attention_config *config, int64_t n, int64_t heads,
                           int64_t head) {
    bool groups = config->mixing == DA_MIXING_HEAD_GROUPS;
    int64_t group = groups ? group_of_head(head, heads, (int64_t)config->segment_count) : 0;
    *out = (da_head_patterns){
        .n = n,
        .divisor = groups ? (double)config->segment_count : 1.0,
        .causal = config->causal,
        .once = config->overlap == DA_OVERLAP_ONCE,
        .zero_pad = config->tail_rule == DA_TAIL_ZERO_PAD,
        .window = config->window == DA_NO_WINDOW ? INT64_MAX : config->window,
    };
    for (size_t p = 0; p < config->segment_count; p++) {
        if (groups && (int64_t)p != group) {
            continue;
        }
        int64_t segment = config->segment_lengths[p], rate = config->dilation_rates[p];
        int64_t offset = groups ? group % rate : offset_of_head(config, heads, head, rate);
        /* Beyond n neither makes a difference, but could overflow in sums: one segment holds all, and of n tokens at
         * most the one at `offset` is kept. */
        int64_t largest_rate = offset < n ? n : offset + 1;
        out->pattern[out->count++] = (da_head_pattern){
            .segment = segment < n ? segment : n,
            .rate = rate < largest_rate ? rate : largest_rate,
            .offset = offset,
        };
    }
}

int64_t da_segment_first(const da_head_pattern *pattern, int64_t i) {
    return i - i % pattern->segment;
}

int64_t da_segment_end(const da_head_pattern *pattern, int64_t n, int64_t i) {
    int64_t first = da_segment_first(pattern, i);
    return pattern->segment < n - first ? first + pattern->segment : n;
}

bool da_pattern_keeps(const da_head_pattern *pattern, int64_t i) {
    return i % pattern->segment % pattern->rate == pattern->offset;
}

bool da_pattern_joins(const da_head_pattern *pattern, int64_t i, int64_t j) {
    return i / pattern->segment == j / pattern->segment && da_pattern_keeps(pattern, i) && da_pattern_keeps(pattern, j);
}

bool da_rates_divide(const da_head_patterns *patterns) {
    for (int p = 0; p < patterns->count; p++) {
        for (int q = 0; q < p; q++) {
            int64_t a = patterns->pattern[p].rate, b = patterns->pattern[q].rate;
            if (a % b != 0 && b % a != 0) {
                return false;
            }
        }
    }
    return true;
}

int64_t da_first_congruent(int64_t from, int64_t residue, int64_t stride) {
    int64_t distance = (residue - from) % stride;
    return from + (distance < 0 ? distance + stride : distance);
}

int64_t da_count_congruent(int64_t from, int64_t end, int64_t residue, int64_t stride) {
    int64_t first = da_first_congruent(from, residue, stride);
    return first < end ? (end - first - 1) / stride + 1 : 0;
}

int64_t da_pattern_zero_keys(const da_head_patterns *patterns, const da_head_pattern *pattern, int64_t i) {
    if (!patterns->zero_pad || patterns->causal) {
        return 0;
    }
    int64_t first = da_segment_first(pattern, i), end = da_segment_end(pattern, patterns->n, i);
    /* A segment is filled to `segment` tokens and then to a multiple of the rate: one kept token every `rate`. */
    int64_t kept_when_full = pattern->segment / pattern->rate + (pattern->segment % pattern->rate != 0);
    return kept_when_full - da_count_congruent(first, end, first + pattern->offset, pattern->rate);
}

/* Does the pattern keep a token of [first, end) in the segment that begins at `segment_first`? */
static bool keeps_some(const da_head_pattern *pattern, int64_t segment_first, int64_t first, int64_t end) {
    return da_first_congruent(first, segment_first + pattern->offset, pattern->rate) < end;
}

/* Of two ranges, the first of which ends before the second begins, one segment at most has tokens of both. */
static bool pattern_joins_ranges(const da_head_pattern *pattern, int64_t n, int64_t first, int64_t end,
                                 int64_t later_first, int64_t later_end) {
    int64_t segment_first = da_segment_first(pattern, later_first);
    int64_t segment_end = da_segment_end(pattern, n, later_first);
    return segment_first < end &&
           keeps_some(pattern, segment_first, segment_first > first ? segment_first : first, end) &&
           keeps_some(pattern, segment_first, later_first, segment_end < later_end ? segment_end : later_end);
}

bool da_ranges_meet(const da_head_patterns *patterns, int64_t query_first, int64_t query_end, int64_t key_first,
                    int64_t key_end) {
    bool keys_before = key_end <= query_first, keys_after = query_end <= key_first;
    if (!keys_before && !keys_after) {
        return true;
    }
    if (keys_before ? patterns->window < query_first - (key_end - 1) : patterns->causal) {
        return false;
    }
    for (int p = 0; p < patterns->count; p++) {
        const da_head_pattern *pattern = &patterns->pattern[p];
        if (keys_before ? pattern_joins_ranges(pattern, patterns->n, key_first, key_end, query_first, query_end)
                        : pattern_joins_ranges(pattern, patterns->n, query_first, query_end, key_first, key_end)) {
            return true;
        }
    }
    return false;
}

int da_segment_cuts(const da_head_patterns *patterns, int64_t i, int64_t cuts[2 * DA_MAX_PATTERNS]) {
    int count = 0;
    for (int p = 0; p < patterns->count; p++) {
        int64_t ends[2] = {da_segment_first(&patterns->pattern[p], i),
                           da_segment_end(&patterns->pattern[p], patterns->n, i)};
        for (int e = 0; e < 2; e++) {
            int k = count++;
            for (; k > 0 && cuts[k - 1] > ends[e]; k--) {
                cuts[k] = cuts[k - 1];
            }
            cuts[k] = ends[e];
        }
    }
    return count;
}
