/* The order of work: which queries are computed together, and which keys they see.
 *
 * A head's sequence is cut into units of a fixed number of positions; a unit is what a thread takes at a time. A unit is
 * cut into stretches where a pattern's segment ends. All queries of a stretch lie in the same segment of every pattern,
 * so what a query sees depends only on which patterns keep it; the queries that the same patterns keep form a class.
 *
 * The keys of a stretch come as runs. All keys of a run are seen by the same classes: by each class wholly, or not at
 * all, so that no score is computed in vain. Within a run each key says which patterns hold it; a query of a class sees
 * it as many times as there are patterns in both sets. So each score is computed once, however many patterns hold the
 * pair, whatever the segment lengths and rates are. */
#ifndef DA_PATTERN_SCHEDULE_H
#define DA_PATTERN_SCHEDULE_H

#include "pattern/pattern.h"

/* A set of patterns of a head: bit p stands for pattern p. */
typedef uint64_t da_pattern_set;

_Static_assert(DA_MAX_PATTERNS <= 64, "a da_pattern_set has 64 bits");

/* Classes that da_schedule_keys can tell apart at a time. */
#define DA_MAX_CLASSES 64

/* Positions in a unit, at most max_unit, for `sequences` (batch x heads) sequences of n tokens: a function of the problem
 * alone, so that the work is cut the same way for any number of threads. */
int64_t da_schedule_unit(int64_t n, int64_t sequences, int64_t max_unit);

/* The end of the stretch that begins at `first`: where a segment ends, at most `limit`. */
int64_t da_stretch_end(const da_head_patterns *patterns, int64_t first, int64_t limit);

/* The patterns that keep token i. */
da_pattern_set da_kept_by(const da_head_patterns *patterns, int64_t i);

/* How often a query kept by `kept_by` sees a key held by `held_by`. */
int da_pattern_set_multiplicity(const da_head_patterns *patterns, da_pattern_set kept_by, da_pattern_set held_by);

/* Zero keys that a query i kept by `kept_by` sees. */
int64_t da_zero_keys(const da_head_patterns *patterns, da_pattern_set kept_by, int64_t i);

/* A key of a run. seen_by: bit c is set if class c sees it; the same for all keys of a run. */
typedef void (*da_key_visitor)(int64_t position, da_pattern_set held_by, uint64_t seen_by, void *user);

/* Visits every key that queries first..end-1 of a stretch see, run by run, within a run in ascending order. classes[0..
 * class_count-1] are the pattern sets of its classes, at most DA_MAX_CLASSES. Keys that causality or the window hide
 * from all of the stretch are left out. */
void da_schedule_keys(const da_head_patterns *patterns, int64_t first, int64_t end, const da_pattern_set *classes,
                      int class_count, da_key_visitor visit, void *user);

#endif
