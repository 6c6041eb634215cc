/* The order of work: which queries are computed together, and which keys they see.
 *
 * A head's sequence is cut into units of a fixed number of positions; a unit is what a thread takes at a time. A unit is
 * taken in spans (usually one), which meet few enough segments to number them. Within a span a set of segments, of any
 * patterns, says all that matters of a token: a query sees a key as many times as there are segments in which the head
 * keeps both. Queries that the same segments keep form a class.
 *
 * The keys of a span come as runs. All keys of a run are seen by the same classes: by each class wholly, or not at all,
 * so that no score is computed in vain. So each score is computed once, however many patterns hold the pair, and a key is
 * fetched once for all the classes that see it, whatever the segment lengths and rates are. */
#ifndef DA_PATTERN_SCHEDULE_H
#define DA_PATTERN_SCHEDULE_H

#include "pattern/pattern.h"

/* A set of segments of a span: bit k stands for segment k. */
typedef uint64_t da_segment_set;

#define DA_MAX_SPAN_SEGMENTS 64

_Static_assert(DA_MAX_PATTERNS <= DA_MAX_SPAN_SEGMENTS, "every query must fit a span");

/* Classes that da_span_keys can tell apart at a time. */
#define DA_MAX_CLASSES 64

/* Positions first..end-1. */
typedef struct da_interval {
    int64_t first, end;
} da_interval;

/* Queries first..end-1 and the segments that hold them. */
typedef struct da_span {
    const da_head_patterns *patterns;
    int64_t first, end;
    int segment_count;
    struct {
        int64_t first, end; /* tokens of the segment */
        int pattern;
    } segments[DA_MAX_SPAN_SEGMENTS];
    int first_bit[DA_MAX_PATTERNS];         /* of each pattern's segments, which are numbered in order */
    int64_t first_segment[DA_MAX_PATTERNS]; /* index in the sequence of the pattern's first segment */
    /* Token i sees tokens from i - sees_before to i + sees_after, as far as segments let it; INT64_MAX: all. */
    int64_t sees_before, sees_after;
    /* Only these positions are visited, in ascending order, none twice. NULL, as da_span_begin has it: all. */
    const da_interval *columns;
    int column_intervals;
} da_span;

/* Positions in a unit, at most max_unit, for `sequences` (batch x heads) sequences of n tokens: a function of the problem
 * alone, so that the work is cut the same way for any number of threads. */
int64_t da_schedule_unit(int64_t n, int64_t sequences, int64_t max_unit);

/* Begins a span at `first` that goes as far as its segments have room, at most to `limit`. */
void da_span_begin(da_span *span, const da_head_patterns *patterns, int64_t first, int64_t limit);

/* Keys change places with queries: the span holds keys, and da_span_keys visits the queries that see them. Segments keep
 * the same positions of both, so that only causality and the window turn round. */
void da_span_reverse(da_span *span);

/* The segments in which the head keeps query i of the span. */
da_segment_set da_span_kept_in(const da_span *span, int64_t i);

/* What causality and the window let some query of the span see, where segments do not matter. */
da_interval da_span_visible(const da_span *span);

/* How often a query kept in `kept_in` sees a key held in `held_in`. */
int da_span_multiplicity(const da_span *span, da_segment_set kept_in, da_segment_set held_in);

/* Zero keys that a query kept in `kept_in` sees. */
int64_t da_span_zero_keys(const da_span *span, da_segment_set kept_in);

/* Keys of a run at equal distances, all held in the same segments: position, position + step, .... seen_by: bit c is set if
 * class c sees them; the same for all keys of a run. */
typedef struct da_key_run {
    int64_t position, step, count;
    da_segment_set held_in;
    uint64_t seen_by;
} da_key_run;

typedef void (*da_key_visitor)(const da_key_run *keys, void *user);

/* Visits every key that the queries of a span see, run by run, within a run in ascending order. classes[0..class_count-1]
 * are the segment sets of its classes, at most DA_MAX_CLASSES. Keys that causality or the window hide from all of the span
 * are left out. */
void da_span_keys(const da_span *span, const da_segment_set *classes, int class_count, da_key_visitor visit,
                  void *user);

#endif
