#include "pattern/schedule.h"

#include <string.h>

/* Below this many rows in a class of queries within a segment, tiles stay so empty that the plain schedule is faster. */
#define SHARED_MIN_ROWS 32
/* A finer class of keys is split off for sharing only if it is at least this part of the coarser one; beyond, the split
 * makes more and shorter rectangles than it saves scores. */
#define SHARED_MAX_RATIO 8
/* Units are made smaller until there are this many, to keep threads even, but not below UNIT_MIN positions. */
#define UNITS_WANTED 64
#define UNIT_MIN 512
#define UNIT_MAX ((int64_t)1 << 20)

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

int64_t da_schedule_unit(const da_attention_config *config, int64_t n, int64_t sequences, int max_rows) {
    int64_t largest_rate = 1;
    for (size_t p = 0; p < config->rate_count; p++) {
        largest_rate = larger(largest_rate, config->dilation_rates[p]);
    }
    int64_t unit = largest_rate > UNIT_MAX / max_rows ? UNIT_MAX : largest_rate * max_rows;
    while (unit > UNIT_MIN && (n + unit - 1) / unit < UNITS_WANTED / smaller(sequences, UNITS_WANTED)) {
        unit = larger(unit / 2, UNIT_MIN);
    }
    return unit;
}

static void sort_by_rate(da_schedule *schedule) {
    const da_head_patterns *patterns = &schedule->patterns;
    for (int p = 0; p < patterns->count; p++) {
        int k = p;
        for (; k > 0 && patterns->pattern[schedule->by_rate[k - 1]].rate > patterns->pattern[p].rate; k--) {
            schedule->by_rate[k] = schedule->by_rate[k - 1];
        }
        schedule->by_rate[k] = p;
    }
}

static bool can_share(const da_schedule *schedule) {
    const da_head_patterns *patterns = &schedule->patterns;
    int64_t shortest = patterns->n, rate = 1;
    for (int k = 0; k < patterns->count; k++) {
        const da_head_pattern *pattern = &patterns->pattern[schedule->by_rate[k]];
        if (pattern->rate % rate != 0) {
            return false;
        }
        rate = pattern->rate;
        shortest = smaller(shortest, pattern->segment);
    }
    return shortest / rate >= SHARED_MIN_ROWS;
}

void da_schedule_init(da_schedule *schedule, const da_attention_config *config, int64_t n, int64_t heads, int64_t head,
                      int64_t unit, int max_rows) {
    *schedule = (da_schedule){.unit = unit, .unit_count = (n - 1) / unit + 1, .max_rows = max_rows};
    da_head_patterns_init(&schedule->patterns, config, n, heads, head);
    sort_by_rate(schedule);
    schedule->shared = can_share(schedule);
}

/* ---- items ------------------------------------------------------------------------------------------------------ */

typedef struct item_walk {
    const da_schedule *schedule;
    int64_t first, end; /* a stretch without segment boundaries */
    da_item_visitor visit;
    void *user;
} item_walk;

/* Visits the positions of the stretch that are `residue` modulo `stride`, max_rows at a time. */
static void visit_class(const item_walk *walk, int64_t stride, int64_t residue, uint64_t kept_by) {
    int64_t position = da_first_congruent(walk->first, residue, stride);
    int64_t left = da_count_congruent(walk->first, walk->end, residue, stride);
    while (left > 0) {
        int64_t rows = smaller(left, walk->schedule->max_rows);
        da_item item = {position, stride, (int)rows, kept_by};
        walk->visit(&item, walk->user);
        position += rows * stride;
        left -= rows;
    }
}

/* Splits the class `residue` modulo `stride` by the patterns from by_rate[level] on, whose rates it divides. */
static void split_class(const item_walk *walk, int level, int64_t stride, int64_t residue, uint64_t kept_by) {
    const da_head_patterns *patterns = &walk->schedule->patterns;
    if (level == patterns->count) {
        visit_class(walk, stride, residue, kept_by);
        return;
    }
    int index = walk->schedule->by_rate[level];
    const da_head_pattern *pattern = &patterns->pattern[index];
    int64_t kept = (da_segment_first(pattern, walk->first) + pattern->offset) % pattern->rate;
    if (kept % stride != residue) {
        split_class(walk, level + 1, stride, residue, kept_by); /* the pattern keeps none of this class */
        return;
    }
    for (int64_t part = residue; part < pattern->rate; part += stride) {
        uint64_t bit = part == kept ? (uint64_t)1 << index : 0;
        split_class(walk, level + 1, pattern->rate, part, kept_by | bit);
    }
}

/* The end of the stretch from `first` in which no pattern's segment ends. */
static int64_t stretch_end(const da_head_patterns *patterns, int64_t first, int64_t end) {
    for (int p = 0; p < patterns->count; p++) {
        end = smaller(end, da_segment_end(&patterns->pattern[p], patterns->n, first));
    }
    return end;
}

void da_schedule_items(const da_schedule *schedule, int64_t unit, da_item_visitor visit, void *user) {
    int64_t first = unit * schedule->unit, end = smaller(first + schedule->unit, schedule->patterns.n);
    while (first < end) {
        item_walk walk = {schedule, first, end, visit, user};
        if (schedule->shared) {
            walk.end = stretch_end(&schedule->patterns, first, end);
            split_class(&walk, 0, 1, 0, 0);
        } else {
            visit_class(&walk, 1, 0, 0);
        }
        first = walk.end;
    }
}

/* ---- rectangles ------------------------------------------------------------------------------------------------- */

typedef struct rectangle_walk {
    const da_schedule *schedule;
    const da_item *item;
    da_rectangle rectangle; /* rows, multiplicity and dropping are filled in; the keys change */
    da_rectangle_visitor visit;
    void *user;
} rectangle_walk;

/* Visits the current rows with the keys in [first, end) that are `residue` modulo `stride`. */
static void visit_keys(rectangle_walk *walk, int64_t first, int64_t end, int64_t residue, int64_t stride) {
    const da_head_patterns *patterns = &walk->schedule->patterns;
    const da_item *item = walk->item;
    da_rectangle *rectangle = &walk->rectangle;
    int64_t first_query = item->query_first + rectangle->row_first * item->query_stride;
    int64_t last_query = first_query + (rectangle->row_count - 1) * rectangle->row_stride * item->query_stride;
    if (patterns->causal) {
        end = smaller(end, last_query + 1);
    }
    if (patterns->window < first_query) {
        first = larger(first, first_query - patterns->window);
    }
    rectangle->key_first = da_first_congruent(first, residue, stride);
    rectangle->key_stride = stride;
    rectangle->key_count = da_count_congruent(first, end, residue, stride);
    if (rectangle->key_count > 0 || rectangle->zero_keys > 0) {
        walk->visit(rectangle, walk->user);
    }
}

/* A class of keys that one or more patterns hold: the first ones of a list sorted by rate. */
typedef struct key_class {
    int64_t rate, residue, multiplicity;
} key_class;

/* Classes of the patterns that hold [first, end) for the item's rows, each a part of the one before it. */
static int key_classes(const da_schedule *schedule, const da_item *item, int64_t first, int64_t end,
                       key_class classes[DA_MAX_PATTERNS]) {
    const da_head_patterns *patterns = &schedule->patterns;
    int count = 0;
    for (int k = 0; k < patterns->count; k++) {
        int index = schedule->by_rate[k];
        const da_head_pattern *pattern = &patterns->pattern[index];
        int64_t segment_first = da_segment_first(pattern, item->query_first);
        bool holds = (item->kept_by >> index & 1) && segment_first <= first &&
                     end <= da_segment_end(pattern, patterns->n, item->query_first);
        if (!holds) {
            continue;
        }
        int64_t multiplicity = count > 0 ? classes[count - 1].multiplicity + 1 : 1;
        if (count > 0 && classes[count - 1].rate == pattern->rate) {
            classes[count - 1].multiplicity = multiplicity;
        } else {
            classes[count++] =
                (key_class){pattern->rate, (segment_first + pattern->offset) % pattern->rate, multiplicity};
        }
    }
    return count;
}

/* Visits [first, end), over which the same patterns hold, so that every key is seen with its multiplicity. */
static void visit_stretch(rectangle_walk *walk, int64_t first, int64_t end) {
    key_class classes[DA_MAX_PATTERNS];
    int count = key_classes(walk->schedule, walk->item, first, end, classes);
    if (count > 0 && walk->schedule->patterns.once) {
        walk->rectangle.multiplicity = 1;
        visit_keys(walk, first, end, classes[0].residue, classes[0].rate); /* the first class contains the others */
        return;
    }
    int64_t counted = 0; /* multiplicity that an unsplit class has already given to its parts */
    for (int k = 0; k < count; k++) {
        const key_class *coarse = &classes[k], *fine = &classes[k + 1];
        walk->rectangle.multiplicity = coarse->multiplicity - counted;
        if (k + 1 == count || fine->rate / coarse->rate > SHARED_MAX_RATIO) {
            visit_keys(walk, first, end, coarse->residue, coarse->rate);
            counted = coarse->multiplicity;
            continue;
        }
        for (int64_t part = coarse->residue; part < fine->rate; part += coarse->rate) {
            if (part != fine->residue) {
                visit_keys(walk, first, end, part, fine->rate);
            }
        }
    }
}

/* Where the keys' multiplicities can change: the ends of the segments that hold the rows, sorted. */
static int segment_cuts(const da_schedule *schedule, const da_item *item, int64_t cuts[2 * DA_MAX_PATTERNS]) {
    const da_head_patterns *patterns = &schedule->patterns;
    int count = 0;
    for (int p = 0; p < patterns->count; p++) {
        if (!(item->kept_by >> p & 1)) {
            continue;
        }
        int64_t ends[2] = {da_segment_first(&patterns->pattern[p], item->query_first),
                           da_segment_end(&patterns->pattern[p], patterns->n, item->query_first)};
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

static void shared_rectangles(rectangle_walk *walk) {
    const da_head_patterns *patterns = &walk->schedule->patterns;
    const da_item *item = walk->item;
    int64_t cuts[2 * DA_MAX_PATTERNS], zero_keys = 0;
    for (int p = 0; p < patterns->count; p++) {
        if (item->kept_by >> p & 1) {
            zero_keys += da_pattern_zero_keys(patterns, &patterns->pattern[p], item->query_first);
        }
    }
    walk->rectangle = (da_rectangle){.row_stride = 1, .row_count = item->query_count, .zero_keys = zero_keys};
    if (zero_keys > 0) {
        visit_keys(walk, 0, 0, 0, 1);
        walk->rectangle.zero_keys = 0;
    }
    int count = segment_cuts(walk->schedule, item, cuts);
    for (int k = 0; k + 1 < count; k++) {
        if (cuts[k] < cuts[k + 1]) {
            visit_stretch(walk, cuts[k], cuts[k + 1]);
        }
    }
}

static void plain_rectangles(rectangle_walk *walk) {
    const da_head_patterns *patterns = &walk->schedule->patterns;
    const da_item *item = walk->item;
    int64_t end = item->query_first + item->query_count;
    for (int p = 0; p < patterns->count; p++) {
        const da_head_pattern *pattern = &patterns->pattern[p];
        int64_t segment_end;
        for (int64_t from = item->query_first; from < end; from = segment_end) {
            int64_t segment_first = da_segment_first(pattern, from);
            segment_end = da_segment_end(pattern, patterns->n, from);
            int64_t kept = segment_first + pattern->offset;
            int64_t rows_end = smaller(segment_end, end);
            int64_t rows = da_count_congruent(from, rows_end, kept, pattern->rate);
            if (rows == 0) {
                continue;
            }
            walk->rectangle = (da_rectangle){
                .row_first = (int)(da_first_congruent(from, kept, pattern->rate) - item->query_first),
                .row_stride = rows > 1 ? (int)pattern->rate : 1,
                .row_count = (int)rows,
                .multiplicity = 1,
                .zero_keys = da_pattern_zero_keys(patterns, pattern, from),
                .drop_if_held_by = patterns->once ? p : 0,
            };
            visit_keys(walk, segment_first, segment_end, kept, pattern->rate);
        }
    }
}

void da_schedule_rectangles(const da_schedule *schedule, const da_item *item, da_rectangle_visitor visit, void *user) {
    rectangle_walk walk = {.schedule = schedule, .item = item, .visit = visit, .user = user};
    if (schedule->shared) {
        shared_rectangles(&walk);
    } else {
        plain_rectangles(&walk);
    }
}
