#include "pattern/schedule.h"

/* Units are made smaller until there are this many, to keep threads even, but not below UNIT_MIN positions. */
#define UNITS_WANTED 48
#define UNIT_MIN 256

/* Sets of classes that one part of the keys is seen by, told apart to make runs; any further ones share a run. */
#define MAX_RUNS 32

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

int64_t da_schedule_unit(int64_t n, int64_t sequences, int64_t max_unit) {
    int64_t unit = max_unit;
    while (unit > UNIT_MIN && (n - 1) / unit + 1 < UNITS_WANTED / smaller(sequences, UNITS_WANTED)) {
        unit = larger(unit / 2, UNIT_MIN);
    }
    return smaller(unit, n);
}

int64_t da_stretch_end(const da_head_patterns *patterns, int64_t first, int64_t limit) {
    for (int p = 0; p < patterns->count; p++) {
        limit = smaller(limit, da_segment_end(&patterns->pattern[p], patterns->n, first));
    }
    return limit;
}

da_pattern_set da_kept_by(const da_head_patterns *patterns, int64_t i) {
    da_pattern_set kept_by = 0;
    for (int p = 0; p < patterns->count; p++) {
        kept_by |= (da_pattern_set)da_pattern_keeps(&patterns->pattern[p], i) << p;
    }
    return kept_by;
}

int da_pattern_set_multiplicity(const da_head_patterns *patterns, da_pattern_set kept_by, da_pattern_set held_by) {
    int count = 0;
    for (da_pattern_set both = kept_by & held_by; both != 0; both &= both - 1) {
        count++;
    }
    return patterns->once && count > 1 ? 1 : count;
}

int64_t da_zero_keys(const da_head_patterns *patterns, da_pattern_set kept_by, int64_t i) {
    int64_t keys = 0;
    for (int p = 0; p < patterns->count; p++) {
        if (kept_by >> p & 1) {
            keys += da_pattern_zero_keys(patterns, &patterns->pattern[p], i);
        }
    }
    return keys;
}

/* ---- keys ------------------------------------------------------------------------------------------------------- */

typedef struct key_walk {
    const da_head_patterns *patterns;
    const da_pattern_set *classes;
    int class_count;
    da_key_visitor visit;
    void *user;
} key_walk;

/* The keys that one pattern holds, in ascending order. */
typedef struct progression {
    int64_t next, rate;
    da_pattern_set bit;
} progression;

static uint64_t classes_that_see(const key_walk *walk, da_pattern_set held_by) {
    uint64_t seen_by = 0;
    for (int c = 0; c < walk->class_count; c++) {
        seen_by |= (uint64_t)((walk->classes[c] & held_by) != 0) << c;
    }
    return seen_by;
}

/* The next key of several progressions and the patterns that hold it; moves those on. */
static int64_t next_key(progression *progressions, int count, da_pattern_set *held_by) {
    int64_t position = INT64_MAX;
    for (int k = 0; k < count; k++) {
        position = smaller(position, progressions[k].next);
    }
    *held_by = 0;
    for (int k = 0; k < count; k++) {
        if (progressions[k].next == position) {
            *held_by |= progressions[k].bit;
            progressions[k].next += progressions[k].rate;
        }
    }
    return position;
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

/* Visits the keys in [first, end), over which the same patterns hold. They are gone through once for each run: usually
 * there is one. */
static void visit_part(const key_walk *walk, const progression *progressions, int count, int64_t end) {
    run_list runs = {.count = 0};
    for (int run = 0; run == 0 || run < runs.count; run++) {
        progression moving[DA_MAX_PATTERNS];
        da_pattern_set held_by, last_held_by = 0;
        uint64_t seen_by = 0;
        int belongs_to = -1;
        for (int k = 0; k < count; k++) {
            moving[k] = progressions[k];
        }
        for (int64_t j; (j = next_key(moving, count, &held_by)) < end;) {
            if (held_by != last_held_by) {
                seen_by = classes_that_see(walk, held_by);
                belongs_to = seen_by != 0 ? run_of(&runs, seen_by) : -1;
                last_held_by = held_by;
            }
            if (belongs_to == run) {
                walk->visit(j, held_by, seen_by, walk->user);
            }
        }
    }
}

void da_schedule_keys(const da_head_patterns *patterns, int64_t first, int64_t end, const da_pattern_set *classes,
                      int class_count, da_key_visitor visit, void *user) {
    key_walk walk = {patterns, classes, class_count, visit, user};
    int64_t cuts[2 * DA_MAX_PATTERNS];
    int cut_count = da_segment_cuts(patterns, first, cuts);
    int64_t visible_first = patterns->window < first ? first - patterns->window : 0;
    int64_t visible_end = patterns->causal ? end : patterns->n;
    for (int k = 0; k + 1 < cut_count; k++) {
        progression progressions[DA_MAX_PATTERNS];
        int64_t part_first = larger(cuts[k], visible_first), part_end = smaller(cuts[k + 1], visible_end);
        int count = 0;
        for (int p = 0; p < patterns->count && part_first < part_end; p++) {
            const da_head_pattern *pattern = &patterns->pattern[p];
            int64_t segment_first = da_segment_first(pattern, first);
            if (segment_first > cuts[k] || da_segment_end(pattern, patterns->n, first) < cuts[k + 1]) {
                continue;
            }
            int64_t next = da_first_congruent(part_first, segment_first + pattern->offset, pattern->rate);
            progressions[count++] = (progression){next, pattern->rate, (da_pattern_set)1 << p};
        }
        if (count > 0) {
            visit_part(&walk, progressions, count, part_end);
        }
    }
}
