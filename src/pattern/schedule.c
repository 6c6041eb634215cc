#include "pattern/schedule.h"

#include "core/numbers.h"

/* Units are made smaller until there are this many, to keep threads even, but not below UNIT_MIN positions. */
#define UNITS_WANTED 32
#define UNIT_MIN 128

/* Sets of classes that one part of the keys is seen by, told apart to make runs; any further ones share a run. */
#define MAX_RUNS 32

int64_t da_schedule_unit(int64_t n, int64_t sequences, int64_t max_unit) {
    int64_t unit = max_unit;
    while (unit > UNIT_MIN && (n - 1) / unit + 1 < UNITS_WANTED / da_smaller(sequences, UNITS_WANTED)) {
        unit = da_larger(unit / 2, UNIT_MIN);
    }
    return da_smaller(unit, n);
}

/* ---- spans ------------------------------------------------------------------------------------------------------ */

static int segments_between(const da_head_pattern *pattern, int64_t first, int64_t end) {
    int64_t count = (end - 1) / pattern->segment - first / pattern->segment + 1;
    return (int)da_smaller(count, DA_MAX_SPAN_SEGMENTS + 1);
}

/* The largest end, up to `limit`, for which all patterns' segments have room. One segment of each pattern always has. */
static int64_t span_end(const da_head_patterns *patterns, int64_t first, int64_t limit) {
    int64_t end = limit;
    for (;;) {
        int count = 0;
        int64_t shorter = first + 1;
        for (int p = 0; p < patterns->count; p++) {
            int segments = segments_between(&patterns->pattern[p], first, end);
            count += segments;
            if (segments > 1) { /* one segment less of the pattern with the shortest */
                shorter = da_larger(shorter, da_segment_first(&patterns->pattern[p], end - 1));
            }
        }
        if (count <= DA_MAX_SPAN_SEGMENTS) {
            return end;
        }
        /* Far from fitting, halve; near, give up one segment at a time. */
        end = count > 2 * DA_MAX_SPAN_SEGMENTS ? first + (end - first + 1) / 2 : shorter;
    }
}

void da_span_begin(da_span *span, const da_head_patterns *patterns, int64_t first, int64_t limit) {
    span->patterns = patterns;
    span->first = first;
    span->end = span_end(patterns, first, limit);
    span->segment_count = 0;
    span->sees_before = patterns->window;
    span->sees_after = patterns->causal ? 0 : INT64_MAX;
    span->columns = NULL;
    for (int p = 0; p < patterns->count; p++) {
        const da_head_pattern *pattern = &patterns->pattern[p];
        span->first_bit[p] = span->segment_count;
        span->first_segment[p] = first / pattern->segment;
        for (int64_t at = first; at < span->end; at = da_segment_end(pattern, patterns->n, at)) {
            int k = span->segment_count++;
            span->segments[k].first = da_segment_first(pattern, at);
            span->segments[k].end = da_segment_end(pattern, patterns->n, at);
            span->segments[k].pattern = p;
        }
    }
}

void da_span_reverse(da_span *span) {
    int64_t before = span->sees_before;
    span->sees_before = span->sees_after;
    span->sees_after = before;
}

da_segment_set da_span_kept_in(const da_span *span, int64_t i) {
    da_segment_set kept_in = 0;
    for (int p = 0; p < span->patterns->count; p++) {
        const da_head_pattern *pattern = &span->patterns->pattern[p];
        int64_t segment = i / pattern->segment;
        if ((i - segment * pattern->segment) % pattern->rate == pattern->offset) {
            kept_in |= (da_segment_set)1 << (span->first_bit[p] + (int)(segment - span->first_segment[p]));
        }
    }
    return kept_in;
}

int da_span_multiplicity(const da_span *span, da_segment_set kept_in, da_segment_set held_in) {
    int count = 0;
    for (da_segment_set both = kept_in & held_in; both != 0; both &= both - 1) {
        count++;
    }
    return span->patterns->once && count > 1 ? 1 : count;
}

int64_t da_span_zero_keys(const da_span *span, da_segment_set kept_in) {
    int64_t keys = 0;
    for (int k = 0; k < span->segment_count; k++) {
        if (kept_in >> k & 1) {
            const da_head_pattern *pattern = &span->patterns->pattern[span->segments[k].pattern];
            keys += da_pattern_zero_keys(span->patterns, pattern, span->segments[k].first);
        }
    }
    return keys;
}

/* ---- keys ------------------------------------------------------------------------------------------------------- */

typedef struct key_walk {
    const da_segment_set *classes;
    int class_count;
    da_key_visitor visit;
    void *user;
} key_walk;

/* The keys that one segment holds, in ascending order. */
typedef struct progression {
    int64_t next, rate;
    da_segment_set bit;
} progression;

static uint64_t classes_that_see(const key_walk *walk, da_segment_set held_in) {
    uint64_t seen_by = 0;
    for (int c = 0; c < walk->class_count; c++) {
        seen_by |= (uint64_t)((walk->classes[c] & held_in) != 0) << c;
    }
    return seen_by;
}

/* The next keys of several progressions, below `end`, that the same ones of them hold, at equal distances; moves those on.
 * No keys: there are none left. */
static void next_keys(progression *progressions, int count, int64_t end, da_key_run *keys) {
    int64_t position = INT64_MAX, others = end; /* the next key that others hold */
    int holders = 0, holder = 0;
    *keys = (da_key_run){.step = 1};
    for (int k = 0; k < count; k++) {
        position = da_smaller(position, progressions[k].next);
    }
    if (position >= end) {
        return;
    }
    for (int k = 0; k < count; k++) {
        if (progressions[k].next == position) {
            keys->held_in |= progressions[k].bit;
            keys->step = progressions[k].rate;
            progressions[k].next += progressions[k].rate;
            holder = k;
            holders++;
        } else {
            others = da_smaller(others, progressions[k].next);
        }
    }
    keys->position = position;
    keys->count = holders == 1 ? (others - 1 - position) / keys->step + 1 : 1;
    progressions[holder].next = position + keys->count * keys->step;
}

/* Sets of classes for which a run has been made, or is to be made. */
typedef struct run_list {
    uint64_t seen_by[MAX_RUNS];
    int count;
} run_list;

/* Index of the run of a set of classes; a new one if there is room, else the last, which then takes all that is left. */
static int run_of(run_list *runs, uint64_t seen_by) {
    for (int k = 0; k < runs->count; k++) {
        if (runs->seen_by[k] == seen_by) {
            return k;
        }
    }
    if (runs->count < MAX_RUNS) {
        runs->seen_by[runs->count++] = seen_by;
    }
    return runs->count - 1;
}

/* Visits the keys in [first, end), over which the same segments hold. They are gone through once for each run: usually
 * there is one. */
static void visit_part(const key_walk *walk, const progression *progressions, int count, int64_t end) {
    run_list runs = {.count = 0};
    for (int run = 0; run == 0 || run < runs.count; run++) {
        progression moving[DA_MAX_PATTERNS];
        da_segment_set last_held_in = 0;
        da_key_run keys;
        uint64_t seen_by = 0;
        int belongs_to = -1;
        for (int k = 0; k < count; k++) {
            moving[k] = progressions[k];
        }
        for (next_keys(moving, count, end, &keys); keys.count > 0; next_keys(moving, count, end, &keys)) {
            if (keys.held_in != last_held_in) {
                seen_by = classes_that_see(walk, keys.held_in);
                belongs_to = seen_by != 0 ? run_of(&runs, seen_by) : -1;
                last_held_in = keys.held_in;
            }
            if (belongs_to == run) {
                keys.seen_by = seen_by;
                walk->visit(&keys, walk->user);
            }
        }
    }
}

/* Ends of the span's segments, sorted: between two of them the same segments hold. Returns how many. */
static int segment_cuts(const da_span *span, int64_t cuts[2 * DA_MAX_SPAN_SEGMENTS]) {
    int count = 0;
    for (int s = 0; s < span->segment_count; s++) {
        int64_t ends[2] = {span->segments[s].first, span->segments[s].end};
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

da_interval da_span_visible(const da_span *span) {
    int64_t n = span->patterns->n;
    return (da_interval){
        .first = span->sees_before < span->first ? span->first - span->sees_before : 0,
        .end = span->sees_after < n - span->end ? span->end + span->sees_after : n,
    };
}

/* The progressions of the segments that hold all of [cuts[0], cuts[1]), from there on; returns how many. */
static int progressions_between(const da_span *span, const int64_t *cuts, progression progressions[DA_MAX_PATTERNS]) {
    int count = 0; /* no two segments of a pattern hold the same part */
    for (int s = 0; s < span->segment_count; s++) {
        if (span->segments[s].first <= cuts[0] && cuts[1] <= span->segments[s].end) {
            const da_head_pattern *pattern = &span->patterns->pattern[span->segments[s].pattern];
            int64_t kept = span->segments[s].first + pattern->offset;
            progressions[count++] = (progression){kept, pattern->rate, (da_segment_set)1 << s};
        }
    }
    return count;
}

/* Visits what [first, end), over which the same segments hold, has in common with an interval. */
static void visit_common(const key_walk *walk, progression *progressions, int count, int64_t first, int64_t end) {
    for (int k = 0; k < count; k++) {
        progressions[k].next = da_first_congruent(first, progressions[k].next, progressions[k].rate);
    }
    visit_part(walk, progressions, count, end);
}

void da_span_keys(const da_span *span, const da_segment_set *classes, int class_count, da_key_visitor visit,
                  void *user) {
    key_walk walk = {classes, class_count, visit, user};
    int64_t cuts[2 * DA_MAX_SPAN_SEGMENTS];
    int cut_count = segment_cuts(span, cuts), interval_count = span->columns ? span->column_intervals : 1, next = 0;
    da_interval visible = da_span_visible(span);
    const da_interval *intervals = span->columns ? span->columns : &visible;
    for (int k = 0; k + 1 < cut_count; k++) {
        progression progressions[DA_MAX_PATTERNS];
        int64_t part_first = da_larger(cuts[k], visible.first), part_end = da_smaller(cuts[k + 1], visible.end);
        while (next < interval_count && intervals[next].end <= part_first) {
            next++;
        }
        int count = part_first < part_end && next < interval_count && intervals[next].first < part_end
                        ? progressions_between(span, &cuts[k], progressions)
                        : 0;
        for (int i = next; count > 0 && i < interval_count && intervals[i].first < part_end; i++) {
            visit_common(&walk, progressions, count, da_larger(part_first, intervals[i].first),
                         da_smaller(part_end, intervals[i].end));
        }
    }
}
