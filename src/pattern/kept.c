#include "pattern/kept.h"

#include <string.h>

#include "core/numbers.h"

/* ---- what the rows see, range by range ----------------------------------------------------------------------------- */

/* The ranges of positions that the rows see by one pattern, in ascending order; no two meet. Of a range, the positions that
 * are `residue` modulo the rate are seen. */
typedef struct reach {
    const da_head_patterns *patterns;
    const da_head_pattern *pattern;
    const da_part *rows, *columns;
    int64_t before, after; /* a row at i sees positions i - before to i + after; INT64_MAX: all */
    int64_t at;            /* rows from here on are still to be looked at */
    int64_t row_piece;     /* the first piece of rows that ends beyond `at` */
    int64_t column_piece;  /* the first piece of columns that ends beyond the segment's first position */
    int64_t first, end, residue;
} reach;

static void reach_begin(reach *r, const da_head_patterns *patterns, int p, const da_part *rows, const da_part *columns,
                        bool reversed) {
    int64_t past = patterns->window, future = patterns->causal ? 0 : INT64_MAX;
    *r = (reach){
        .patterns = patterns,
        .pattern = &patterns->pattern[p],
        .rows = rows,
        .columns = columns,
        .before = reversed ? future : past,
        .after = reversed ? past : future,
    };
}

/* The next rows that lie in one segment with a column: positions *first..*end-1 of the segment that ends at *segment_end. */
static bool next_stretch(reach *r, int64_t *first, int64_t *end, int64_t *segment_end) {
    for (;;) {
        while (r->row_piece < r->rows->piece_count && r->rows->pieces[r->row_piece].end <= r->at) {
            r->row_piece++;
        }
        if (r->row_piece == r->rows->piece_count) {
            return false;
        }
        *first = da_larger(r->at, r->rows->pieces[r->row_piece].first);
        *segment_end = da_segment_end(r->pattern, r->patterns->n, *first);
        int64_t segment_first = da_segment_first(r->pattern, *first);
        while (r->column_piece < r->columns->piece_count && r->columns->pieces[r->column_piece].end <= segment_first) {
            r->column_piece++;
        }
        if (r->column_piece == r->columns->piece_count) {
            return false;
        }
        if (r->columns->pieces[r->column_piece].first < *segment_end) {
            *end = da_smaller(*segment_end, r->rows->pieces[r->row_piece].end);
            r->at = *end;
            return true;
        }
        r->at = da_segment_first(r->pattern, r->columns->pieces[r->column_piece].first);
    }
}

/* Moves on to the next range, not empty; false at the end. Between the first and the last row of a stretch every position at
 * the residue is a row that sees itself, so that the range has no gap. */
static bool reach_next(reach *r) {
    int64_t first, end, segment_end;
    while (next_stretch(r, &first, &end, &segment_end)) {
        int64_t segment_first = da_segment_first(r->pattern, first), rate = r->pattern->rate;
        int64_t residue = segment_first + r->pattern->offset, row = da_first_congruent(first, residue, rate);
        if (row >= end) {
            continue;
        }
        int64_t last_row = row + (end - 1 - row) / rate * rate;
        int64_t seen_first = r->before < row - segment_first ? row - r->before : segment_first;
        int64_t seen_end = r->after < segment_end - 1 - last_row ? last_row + r->after + 1 : segment_end;
        r->residue = residue;
        r->first = da_larger(seen_first, r->end);
        r->end = da_larger(seen_end, r->end);
        if (r->first < r->end) {
            return true;
        }
    }
    return false;
}

/* ---- marks --------------------------------------------------------------------------------------------------------- */

/* Sets bits first..end-1; returns how many were not set. */
static int64_t set_bits(uint64_t *bits, int64_t first, int64_t end) {
    int64_t set = 0;
    while (first < end) {
        int64_t word = first / 64, stop = da_smaller(end, (word + 1) * 64);
        uint64_t mask = (UINT64_MAX >> (64 - (stop - first))) << first % 64;
        set += da_count_bits(mask & ~bits[word]);
        bits[word] |= mask;
        first = stop;
    }
    return set;
}

/* The same for rows first, first + rate, ... below end. */
static int64_t set_every(uint64_t *bits, int64_t first, int64_t end, int64_t rate) {
    int64_t set = 0;
    if (rate == 1) {
        return set_bits(bits, first, end);
    }
    for (int64_t row = first; row < end; row += rate) {
        uint64_t bit = (uint64_t)1 << row % 64;
        set += !(bits[row / 64] & bit);
        bits[row / 64] |= bit;
    }
    return set;
}

int64_t da_kept_mark(const da_head_patterns *patterns, const da_part *rows, const da_part *columns, bool reversed,
                     uint64_t *bits) {
    int64_t marked = 0;
    for (int p = 0; p < patterns->count; p++) {
        reach r;
        int64_t k = 0; /* the first piece of columns that the range may touch */
        reach_begin(&r, patterns, p, rows, columns, reversed);
        while (reach_next(&r)) {
            for (; k < columns->piece_count && columns->pieces[k].first < r.end; k++) {
                const da_piece *piece = &columns->pieces[k];
                int64_t first = da_first_congruent(da_larger(r.first, piece->first), r.residue, r.pattern->rate);
                int64_t to_row = piece->row - piece->first;
                marked += set_every(bits, first + to_row, da_smaller(r.end, piece->end) + to_row, r.pattern->rate);
                if (piece->end > r.end) {
                    break;
                }
            }
        }
    }
    return marked;
}

/* ---- counts -------------------------------------------------------------------------------------------------------- */

/* The patterns' current ranges, side by side. */
typedef struct sweep {
    bool nested; /* of any two rates one divides the other */
    int count;   /* of patterns that have a range; the others have left */
    reach reaches[DA_MAX_PATTERNS];
} sweep;

/* Drops pattern k, whose ranges are at their end. */
static void drop(sweep *s, int k) {
    s->reaches[k] = s->reaches[--s->count];
}

/* Positions first..end-1 that one of the active patterns sees, where of any two rates one divides the other: residues are
 * then apart, or one holds the other. */
static int64_t count_by_nesting(const reach *const *active, int count, int64_t first, int64_t end) {
    int64_t seen = 0;
    for (int a = 0; a < count; a++) {
        int64_t rate = active[a]->pattern->rate;
        bool held = false; /* by a pattern with a smaller rate, or an earlier one with the same */
        for (int b = 0; b < count && !held; b++) {
            int64_t other = active[b]->pattern->rate;
            held = (other < rate || (other == rate && b < a)) && (active[a]->residue - active[b]->residue) % other == 0;
        }
        seen += held ? 0 : da_count_congruent(first, end, active[a]->residue, rate);
    }
    return seen;
}

/* The same for any rates: each pattern's positions that no earlier one sees. */
static int64_t count_by_listing(const reach *const *active, int count, int64_t first, int64_t end) {
    int64_t seen = 0;
    for (int a = 0; a < count; a++) {
        int64_t rate = active[a]->pattern->rate;
        for (int64_t j = da_first_congruent(first, active[a]->residue, rate); j < end; j += rate) {
            bool held = false;
            for (int b = 0; b < a && !held; b++) {
                held = (j - active[b]->residue) % active[b]->pattern->rate == 0;
            }
            seen += !held;
        }
    }
    return seen;
}

/* Columns among positions first..end-1, in which the active patterns are the same; *piece moves on. */
static int64_t count_columns(const sweep *s, const da_part *columns, int64_t first, int64_t end, int64_t *piece) {
    const reach *active[DA_MAX_PATTERNS];
    int count = 0;
    for (int k = 0; k < s->count; k++) {
        if (s->reaches[k].first <= first) {
            active[count++] = &s->reaches[k];
        }
    }
    int64_t seen = 0;
    for (; *piece < columns->piece_count && columns->pieces[*piece].first < end; ++*piece) {
        const da_piece *part = &columns->pieces[*piece];
        int64_t from = da_larger(first, part->first), to = da_smaller(end, part->end);
        if (from < to) {
            seen += s->nested ? count_by_nesting(active, count, from, to) : count_by_listing(active, count, from, to);
        }
        if (part->end > end) {
            break;
        }
    }
    return seen;
}

/* The end of the positions from `at` on in which the same patterns are active. */
static int64_t same_until(const sweep *s, int64_t at) {
    int64_t end = INT64_MAX;
    for (int k = 0; k < s->count; k++) {
        end = da_smaller(end, s->reaches[k].first > at ? s->reaches[k].first : s->reaches[k].end);
    }
    return end;
}

int64_t da_kept_count(const da_head_patterns *patterns, const da_part *rows, const da_part *columns, bool reversed) {
    sweep s = {.nested = da_rates_divide(patterns)};
    int64_t seen = 0, at = 0, piece = 0;
    for (int p = 0; p < patterns->count; p++) {
        reach_begin(&s.reaches[s.count], patterns, p, rows, columns, reversed);
        s.count += reach_next(&s.reaches[s.count]);
    }
    while (s.count > 0) {
        int64_t end = same_until(&s, at);
        seen += count_columns(&s, columns, at, end, &piece);
        at = end;
        for (int k = s.count - 1; k >= 0; k--) {
            if (s.reaches[k].end <= at && !reach_next(&s.reaches[k])) {
                drop(&s, k);
            }
        }
    }
    return seen;
}

/* ---- numbers ------------------------------------------------------------------------------------------------------- */

/* Runs of 2^shift rows, at most one for every two of the list: a search looks at few. */
static int64_t run_count(const da_kept *kept) {
    return ((kept->length - 1) >> kept->shift) + 1;
}

void da_kept_lay_out(da_kept *kept, da_arena *arena, int64_t length, int64_t count) {
    size_t words = da_kept_words(length);
    *kept = (da_kept){.length = length, .count = count};
    if (count == 0) {
        return;
    }
    while (run_count(kept) > da_larger(1, count / 2)) {
        kept->shift++;
    }
    size_t listed = (size_t)count, runs = (size_t)run_count(kept) + 1;
    if (listed + runs < 2 * words) {
        kept->rows = da_arena_take(arena, listed, sizeof *kept->rows);
        kept->firsts = da_arena_take(arena, runs, sizeof *kept->firsts);
    } else {
        kept->bits = da_arena_take(arena, words, sizeof *kept->bits);
        kept->before = da_arena_take(arena, words, sizeof *kept->before);
    }
}

size_t da_kept_bytes(int64_t length, int64_t count) {
    da_arena arena = {0};
    da_kept unused;
    da_kept_lay_out(&unused, &arena, length, count);
    return arena.used;
}

static void fill_bitmap(da_kept *kept, const uint64_t *bits) {
    int64_t before = 0;
    for (size_t w = 0; w < da_kept_words(kept->length); w++) {
        kept->bits[w] = bits[w];
        kept->before[w] = before;
        before += da_count_bits(bits[w]);
    }
}

/* The first row from `row` on that is marked: there is one. */
static int64_t next_bit(const uint64_t *bits, int64_t row) {
    int64_t w = row / 64;
    uint64_t word = bits[w] & (UINT64_MAX << row % 64);
    while (word == 0) {
        word = bits[++w];
    }
    return w * 64 + da_count_bits((word & -word) - 1);
}

static void fill_list(da_kept *kept, const uint64_t *bits) {
    int64_t run = 0, row = -1;
    for (int64_t k = 0; k < kept->count; k++) {
        row = next_bit(bits, row + 1);
        kept->rows[k] = row;
        for (; run <= row >> kept->shift; run++) {
            kept->firsts[run] = k;
        }
    }
    for (; run <= run_count(kept); run++) {
        kept->firsts[run] = kept->count;
    }
}

void da_kept_fill(da_kept *kept, const uint64_t *bits) {
    if (kept->bits) {
        fill_bitmap(kept, bits);
    } else if (kept->count > 0) {
        fill_list(kept, bits);
    }
}

int64_t da_kept_next(const da_kept *kept, int64_t number, int64_t before) {
    return kept->bits ? next_bit(kept->bits, before + 1) : kept->rows[number];
}
