#include "pattern/tile_universe.h"

#include <string.h>

#include "core/numbers.h"

/* Blocks that are marked lie in first..last. */
typedef struct marked {
    uint8_t *marks;
    int64_t block_size, first, last;
} marked;

/* Marks the blocks of the tokens first, first + rate, ... up to `last`. */
static void mark_tokens(marked *m, int64_t first, int64_t last, int64_t rate) {
    int64_t first_block = first / m->block_size, last_block = last / m->block_size;
    m->first = da_smaller(m->first, first_block);
    m->last = da_larger(m->last, last_block);
    if (rate <= m->block_size) { /* none is left out between them */
        memset(m->marks + first_block, 1, (size_t)(last_block - first_block + 1));
        return;
    }
    for (int64_t token = first; token <= last; token += rate) {
        m->marks[token / m->block_size] = 1;
    }
}

/* Marks what the queries first..end-1, which lie in one segment of the pattern, see of it. Both queries and keys are tokens
 * of one residue. The last query sees all earlier keys that any sees, and the first all later ones but for the window, so
 * that a block is seen if it has a key between the earliest that the window leaves the first query and the latest that
 * causality leaves the last: between those two every key is seen by the nearest query, at the latest. */
static void mark_segment(marked *m, const da_head_patterns *patterns, const da_head_pattern *pattern, int64_t first,
                         int64_t end) {
    int64_t segment_first = da_segment_first(pattern, first), kept = segment_first + pattern->offset;
    int64_t segment_end = da_segment_end(pattern, patterns->n, first);
    int64_t query = da_first_congruent(first, kept, pattern->rate);
    if (query >= end) {
        return;
    }
    int64_t last_query = query + (end - 1 - query) / pattern->rate * pattern->rate;
    int64_t from = patterns->window < query - segment_first ? query - patterns->window : segment_first;
    int64_t key = da_first_congruent(from, kept, pattern->rate);
    int64_t last_key =
        patterns->causal ? last_query : last_query + (segment_end - 1 - last_query) / pattern->rate * pattern->rate;
    mark_tokens(m, key, last_key, pattern->rate);
}

/* Lists what is marked, and clears it. */
static int64_t take_marked(const marked *m, int32_t *columns) {
    int64_t count = 0;
    for (int64_t block = m->first; block <= m->last; block++) {
        if (m->marks[block]) {
            if (columns) {
                columns[count] = (int32_t)block;
            }
            count++;
        }
    }
    if (count > 0) {
        memset(m->marks + m->first, 0, (size_t)(m->last - m->first + 1));
    }
    return count;
}

int64_t da_tile_universe(const da_head_patterns *patterns, int64_t block_size, int64_t row, uint8_t *marks,
                         int32_t *columns) {
    marked m = {.marks = marks, .block_size = block_size, .first = INT64_MAX, .last = -1};
    int64_t first = row * block_size, end = block_size < patterns->n - first ? first + block_size : patterns->n;
    for (int p = 0; p < patterns->count; p++) {
        const da_head_pattern *pattern = &patterns->pattern[p];
        for (int64_t at = first; at < end; at = da_segment_end(pattern, patterns->n, at)) {
            mark_segment(&m, patterns, pattern, at, da_smaller(end, da_segment_end(pattern, patterns->n, at)));
        }
    }
    return take_marked(&m, columns);
}
