/* The work of one unit of `improved`: its walk over spans, classes and blocks of keys, with counting in place of
 * arithmetic. */
#include "pattern/schedule.h"
#include "planner/work.h"

typedef struct class_rows {
    da_segment_set kept_in;
    int first, count; /* in `rows` */
} class_rows;

/* A span being counted. */
typedef struct walk {
    const da_head_patterns *patterns;
    const da_improved_cut *cut;
    double *amount;
    bool hides; /* causality or a window is set */
    da_span span;
    int class_count;
    class_rows classes[DA_MAX_CLASSES];
    int64_t rows[DA_MAX_UNIT]; /* positions of the queries, class by class */
    int key_count;
    uint64_t seen_by;
    int64_t keys[DA_MAX_BLOCK_KEYS];
} walk;

static int find_class(const walk *w, da_segment_set kept_in) {
    int c = 0;
    while (c < w->class_count && w->classes[c].kept_in != kept_in) {
        c++;
    }
    return c;
}

/* Sorts the span's queries into classes; where there is no room for another, the span ends. */
static void sort_queries(walk *w) {
    uint8_t class_of[DA_MAX_UNIT];
    w->class_count = 0;
    for (int64_t i = w->span.first; i < w->span.end; i++) {
        da_segment_set kept_in = da_span_kept_in(&w->span, i);
        int c = find_class(w, kept_in);
        if (c == DA_MAX_CLASSES) {
            w->span.end = i;
            break;
        }
        if (c == w->class_count) {
            w->classes[w->class_count++] = (class_rows){kept_in, 0, 0};
        }
        w->classes[c].count++;
        class_of[i - w->span.first] = (uint8_t)c;
    }
    for (int c = 0, next = 0; c < w->class_count; c++) {
        w->classes[c].first = next;
        next += w->classes[c].count;
        w->classes[c].count = 0;
    }
    for (int64_t i = w->span.first; i < w->span.end; i++) {
        class_rows *class = &w->classes[class_of[i - w->span.first]];
        w->rows[class->first + class->count++] = i;
    }
}

/* Rows of a class whose position is below `position`. */
static int rows_below(const walk *w, const class_rows *class, int64_t position) {
    const int64_t *rows = &w->rows[class->first];
    int low = 0, high = class->count;
    while (low < high) {
        int middle = (low + high) / 2;
        if (rows[middle] < position) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

static int tiles_of(const walk *w, int rows) {
    return (rows + w->cut->tile_rows - 1) / w->cut->tile_rows;
}

/* Tiles of a class that see some, and all, of the keys between two positions. */
static void count_tiles(const walk *w, const class_rows *class, int64_t first_key, int64_t last_key, int *some,
                        int *all) {
    const da_head_patterns *patterns = w->patterns;
    int tile_rows = w->cut->tile_rows, tiles = tiles_of(w, class->count);
    int some_from = 0, some_to = tiles, all_from = 0, all_to = tiles;
    if (patterns->causal) {
        int later = rows_below(w, class, first_key); /* the first row that is not before the keys */
        some_from = later < class->count ? later / tile_rows : tiles;
        all_from = tiles_of(w, rows_below(w, class, last_key));
    }
    if (patterns->window < patterns->n) {
        some_to = tiles_of(w, rows_below(w, class, last_key + patterns->window + 1));
        int near = rows_below(w, class, first_key + patterns->window + 1);
        all_to = near == class->count ? tiles : near / tile_rows;
    }
    *some = some_to > some_from ? some_to - some_from : 0;
    *all = all_to > all_from ? all_to - all_from : 0;
}

static void count_block_of_class(const walk *w, const class_rows *class) {
    int panel = w->cut->panel_keys, tiles = tiles_of(w, class->count);
    w->amount[DA_WORK_CLASS_KEYS] += w->key_count;
    w->amount[DA_WORK_TILE_BLOCKS] += tiles;
    if (!w->hides) {
        w->amount[DA_WORK_TILE_PANELS] += (double)tiles * ((w->key_count + panel - 1) / panel);
        return;
    }
    for (int key = 0; key < w->key_count; key += panel) {
        int last = key + panel < w->key_count ? key + panel - 1 : w->key_count - 1, some, all;
        count_tiles(w, class, w->keys[key], w->keys[last], &some, &all);
        w->amount[DA_WORK_TILE_PANELS] += some;
        w->amount[DA_WORK_MASKED] += some > all ? some - all : 0;
    }
}

static void count_block(walk *w) {
    w->amount[DA_WORK_KEYS] += w->key_count;
    for (int c = 0; c < w->class_count && w->key_count > 0; c++) {
        if (w->seen_by >> c & 1) {
            count_block_of_class(w, &w->classes[c]);
        }
    }
    w->key_count = 0;
}

static void visit_keys(const da_key_run *keys, void *user) {
    walk *w = user;
    for (int64_t k = 0; k < keys->count; k++) {
        if (w->key_count == w->cut->block_keys || keys->seen_by != w->seen_by) {
            count_block(w);
            w->seen_by = keys->seen_by;
        }
        w->keys[w->key_count++] = keys->position + k * keys->step;
    }
}

/* Counts the queries from `first` on, as far as a span and its classes have room; returns where it stopped. */
static int64_t count_span(walk *w, int64_t first, int64_t end) {
    da_segment_set kept_in[DA_MAX_CLASSES];
    da_span_begin(&w->span, w->patterns, first, end);
    sort_queries(w);
    for (int c = 0; c < w->class_count; c++) {
        kept_in[c] = w->classes[c].kept_in;
    }
    w->key_count = 0;
    da_span_keys(&w->span, kept_in, w->class_count, visit_keys, w);
    count_block(w);
    w->amount[DA_WORK_SPANS] += 1;
    w->amount[DA_WORK_ROWS] += (double)(w->span.end - w->span.first);
    return w->span.end;
}

void da_work_add_improved(const da_head_patterns *patterns, const da_improved_cut *cut, int64_t first, int64_t end,
                          da_work *work) {
    da_work counted = {{0}};
    walk w = {.patterns = patterns, .cut = cut, .amount = counted.amount};
    w.hides = patterns->causal || patterns->window < patterns->n;
    int64_t at = first;
    for (int span = 0; at < end && span < DA_WORK_MAX_SPANS; span++) {
        at = count_span(&w, at, end);
    }
    double scale = (double)(end - first) / (double)(at - first);
    for (int k = 0; k < DA_WORK_KINDS; k++) {
        work->amount[k] += counted.amount[k] * scale;
    }
}
