/* The work of one tile of `standard`. */
#include "attention/standard/standard.h"
#include "pattern/pattern.h"
#include "planner/work.h"

/* The queries first..end-1 of a tile, all of one segment of the pattern. */
static void add_segment(const da_head_patterns *patterns, const da_head_pattern *pattern, int64_t first, int64_t end,
                        da_work *work) {
    int64_t segment_first = da_segment_first(pattern, first);
    int64_t segment_end = da_segment_end(pattern, patterns->n, first);
    int64_t kept = segment_first + pattern->offset;
    int64_t queries = da_count_congruent(first, end, kept, pattern->rate);
    if (queries == 0) {
        return;
    }
    int64_t first_query = da_first_congruent(first, kept, pattern->rate);
    int64_t from = patterns->window < first_query - segment_first ? first_query - patterns->window : segment_first;
    int64_t to = patterns->causal && end < segment_end ? end : segment_end;
    double keys = (double)da_count_congruent(from, to, kept, pattern->rate);
    work->amount[DA_WORK_KEYS] += keys;
    work->amount[DA_WORK_TILE_PANELS] += keys * (double)queries;
}

void da_work_add_standard(const da_head_patterns *patterns, int64_t first, int64_t end, da_work *work) {
    work->amount[DA_WORK_ROWS] += (double)(end - first);
    for (int p = 0; p < patterns->count; p++) {
        int64_t segment_end;
        for (int64_t from = first; from < end; from = segment_end) {
            segment_end = da_segment_end(&patterns->pattern[p], patterns->n, from);
            add_segment(patterns, &patterns->pattern[p], from, segment_end < end ? segment_end : end, work);
        }
    }
}
