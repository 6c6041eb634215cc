/* The order of work: which queries are computed together, and which keys they see.
 *
 * A head's sequence is cut into units of a fixed number of positions; a unit is what a thread takes at a time. A unit
 * holds items: up to `max_rows` query rows, at equal distances, that are computed together. For an item the keys come
 * as rectangles: all pairs of some of its rows with an arithmetic progression of keys, every pair seen `multiplicity`
 * times (causality, window and padding apart). One running softmax per row goes through all rectangles.
 *
 * There are two schedules.
 *
 * shared: each (query, key) pair is in exactly one rectangle, with its multiplicity, so that its score is computed once
 *     however many patterns hold it. For this the rows of an item are kept by the same patterns and lie in the same
 *     segments: they are a residue class modulo the largest rate within a stretch without segment boundaries. The rates
 *     must divide one another; the segment lengths may be anything.
 *
 * plain: an item is a stretch of consecutive positions; each pattern gives rectangles of its own for the rows that it
 *     keeps. For everything else: rates that do not divide one another, segments too small to fill a tile by classes.
 *     With overlap "once" a pair that an earlier pattern holds is dropped by the kernel, pair by pair. */
#ifndef DA_PATTERN_SCHEDULE_H
#define DA_PATTERN_SCHEDULE_H

#include "pattern/pattern.h"

typedef struct da_schedule {
    da_head_patterns patterns;
    bool shared;
    int by_rate[DA_MAX_PATTERNS]; /* indices of the patterns, rates ascending */
    int64_t unit;                 /* positions in a unit */
    int64_t unit_count;
    int max_rows;
} da_schedule;

typedef struct da_item {
    int64_t query_first, query_stride;
    int query_count;  /* 1..max_rows */
    uint64_t kept_by; /* shared: bit p is set if pattern p keeps the rows */
} da_item;

typedef struct da_rectangle {
    int row_first, row_stride, row_count; /* rows of the item, row_count >= 1 */
    int64_t key_first, key_stride, key_count;
    int64_t multiplicity;
    int64_t zero_keys;   /* keys of score 0 and value 0 that each of the rows sees besides */
    int drop_if_held_by; /* a pair that one of patterns 0..this-1 holds is not seen; 0: no pair is dropped */
} da_rectangle;

/* Positions in a unit, for `sequences` (batch x heads) sequences of n tokens: a function of the problem alone, so that
 * the work is cut the same way for any number of threads. */
int64_t da_schedule_unit(const da_attention_config *config, int64_t n, int64_t sequences, int max_rows);

void da_schedule_init(da_schedule *schedule, const da_attention_config *config, int64_t n, int64_t heads, int64_t head,
                      int64_t unit, int max_rows);

typedef void (*da_item_visitor)(const da_item *item, void *user);
typedef void (*da_rectangle_visitor)(const da_rectangle *rectangle, void *user);

/* Visits the items of a unit; together they hold each of its positions once. */
void da_schedule_items(const da_schedule *schedule, int64_t unit, da_item_visitor visit, void *user);

/* Visits the rectangles of an item, clipped to what causality and window let its rows see at all. */
void da_schedule_rectangles(const da_schedule *schedule, const da_item *item, da_rectangle_visitor visit, void *user);

#endif
