#include "drawing/zoom.h"

#include <math.h>

/* `length` tokens around the middle, inside `whole`. */
static token_range around(int64_t middle, int64_t length, token_range whole) {
    int64_t first = middle - length / 2;
    first = first > whole.end - length ? whole.end - length : first;
    first = first < whole.first ? whole.first : first;
    return (token_range){first, first + length < whole.end ? first + length : whole.end};
}

/* The longest segment at the query that is a real step: not almost all of the sequence, and not almost the window.
 * Without one, a length half way between the two, as powers go. */
static token_range choose_part(const visibility *view, int64_t query) {
    token_range part = around(query, (int64_t)sqrt((double)ZOOM_WINDOW * (double)view->n), (token_range){0, view->n});
    int64_t longest = 0;
    for (size_t p = 0; p < view->pattern_count; p++) {
        token_range segment = visibility_segment(view, &view->patterns[p], query);
        int64_t length = segment.end - segment.first;
        if (8 * ZOOM_WINDOW <= length && length <= view->n / 4 && length > longest) {
            longest = length;
            part = segment;
        }
    }
    return part;
}

static size_t boundaries_at(const visibility *view, int64_t token) {
    size_t count = 0;
    for (size_t p = 0; p < view->pattern_count; p++) {
        count += token % view->patterns[p].segment == 0;
    }
    return count;
}

/* The window lies across a boundary of the shortest segments that is none of the longer ones where there is such a
 * boundary, so that it shows what a neighbourhood sees and what crosses it; else around the query. */
static token_range choose_window(const visibility *view, int64_t query, token_range part) {
    int64_t shortest = view->n;
    for (size_t p = 0; p < view->pattern_count; p++) {
        shortest = view->patterns[p].segment < shortest ? view->patterns[p].segment : shortest;
    }
    int64_t middle = query;
    size_t fewest = SIZE_MAX;
    for (int64_t step = 0; step < 64; step++) {
        int64_t steps = step % 2 == 0 ? step / 2 : -(step / 2) - 1; /* nearest first */
        int64_t boundary = (query / shortest + steps) * shortest;
        bool inside = boundary > part.first && boundary < part.end;
        if (inside && boundaries_at(view, boundary) < fewest) {
            fewest = boundaries_at(view, boundary);
            middle = boundary;
        }
    }
    return around(middle, ZOOM_WINDOW, part);
}

size_t zoom_ranges(const visibility *view, int64_t query, token_range ranges[3]) {
    size_t count = 0;
    ranges[count++] = (token_range){0, view->n};
    if (view->n > ZOOM_TWO_STEPS) {
        ranges[count++] = choose_part(view, query);
    }
    ranges[count] = choose_window(view, query, ranges[count - 1]);
    return count + 1;
}

token_range zoom_heads(const visibility *view, token_range window) {
    return around((window.first + window.end) / 2, ZOOM_HEADS < view->n ? ZOOM_HEADS : view->n, window);
}
