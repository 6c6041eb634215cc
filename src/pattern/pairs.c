#include "pattern/pairs.h"

#include "core/numbers.h"

/* Tokens that some patterns keep in segments that they share: positions base, base + rate, ... below `end`, called 0, 1,
 * .... A query and a key of a cell are a pair of all these patterns, causality and the window apart. */
typedef struct cell {
    int64_t base, end, rate;
} cell;

typedef struct count {
    const da_head_patterns *patterns;
    const da_part *queries, *keys;
    da_pairs pairs;
} count;

/* ---- pairs of a cell ----------------------------------------------------------------------------------------------- */

/* Numbers first..end-1 of the cell. */
typedef struct run {
    int64_t first, end;
} run;

/* What piece k of a part holds of a cell. False: there is no such piece, or it lies beyond the cell. */
static bool run_of_piece(const cell *c, const da_part *part, int64_t k, run *out) {
    if (k == part->piece_count || part->pieces[k].first >= c->end) {
        return false;
    }
    int64_t first = da_larger(part->pieces[k].first, c->base), end = da_smaller(part->pieces[k].end, c->end);
    out->first = (first - c->base) / c->rate + ((first - c->base) % c->rate != 0);
    out->end = end > c->base ? (end - 1 - c->base) / c->rate + 1 : 0;
    out->end = da_larger(out->first, out->end);
    return true;
}

static double tokens_of(const cell *c, const da_part *part) {
    double tokens = 0;
    run r;
    for (int64_t k = da_part_piece_after(part, c->base); run_of_piece(c, part, k, &r); k++) {
        tokens += (double)(r.end - r.first);
    }
    return tokens;
}

/* Sum of all v < u, each limited to 0..m. */
static double limited_sum(double u, double m) {
    if (u <= 0) {
        return 0;
    }
    return u <= m + 1 ? u * (u - 1) / 2 : m * (m + 1) / 2 + (u - m - 1) * m;
}

/* Pairs of a query x and a key y with y <= x + shift. */
static double pairs_of_runs(run queries, run keys, int64_t shift) {
    double begin = (double)(shift + 1 - keys.first), m = (double)(keys.end - keys.first);
    return limited_sum((double)queries.end + begin, m) - limited_sum((double)queries.first + begin, m);
}

/* Pairs of a cell with y <= x + shift. Keys that all queries of a piece see are added up on the way. */
static double pairs_below(const cell *c, const da_part *queries, const da_part *keys, int64_t shift) {
    double pairs = 0, seen_by_all = 0;
    int64_t next = da_part_piece_after(keys, c->base);
    run query, key;
    for (int64_t q = da_part_piece_after(queries, c->base); run_of_piece(c, queries, q, &query); q++) {
        if (query.first == query.end) {
            continue;
        }
        for (; run_of_piece(c, keys, next, &key) && key.end - 1 <= query.first + shift; next++) {
            seen_by_all += (double)(key.end - key.first);
        }
        pairs += seen_by_all * (double)(query.end - query.first);
        for (int64_t k = next; run_of_piece(c, keys, k, &key) && key.first <= query.end - 1 + shift; k++) {
            pairs += pairs_of_runs(query, key, shift);
        }
    }
    return pairs;
}

static double pairs_of_cell(const count *job, const cell *c) {
    const da_head_patterns *patterns = job->patterns;
    double pairs = patterns->causal ? pairs_below(c, job->queries, job->keys, 0)
                                    : tokens_of(c, job->queries) * tokens_of(c, job->keys);
    if (patterns->window < c->end - c->base) { /* too far in the past */
        pairs -= pairs_below(c, job->queries, job->keys, -(patterns->window / c->rate + 1));
    }
    return pairs;
}

/* ---- cells --------------------------------------------------------------------------------------------------------- */

static int64_t greatest_divisor(int64_t a, int64_t b) {
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

/* What a cell has in common with the tokens that another pattern keeps in its segment first..end-1; false: nothing. */
static bool meet(const cell *c, int64_t first, int64_t end, const da_head_pattern *pattern, cell *out) {
    int64_t residue = first + pattern->offset;
    out->end = da_smaller(c->end, end);
    if (c->rate < pattern->rate) { /* the other way round there are fewer to try */
        cell other = {da_first_congruent(da_larger(first, c->base), residue, pattern->rate), end, pattern->rate};
        da_head_pattern ours = {.rate = c->rate, .offset = 0};
        return other.base < out->end && meet(&other, c->base, c->end, &ours, out);
    }
    int64_t divisor = greatest_divisor(c->rate, pattern->rate), tries = pattern->rate / divisor;
    out->base = da_first_congruent(da_larger(first, c->base), c->base, c->rate);
    for (; tries > 0 && out->base < out->end; tries--, out->base += c->rate) {
        if ((out->base - residue) % pattern->rate == 0) {
            int64_t most = INT64_MAX / 4 / c->rate, factor = pattern->rate / divisor;
            out->rate = factor < most ? c->rate * factor : INT64_MAX / 4; /* there is one such token, then */
            return true;
        }
    }
    return false;
}

/* The next segment of a pattern, from *at on and before `limit`, that holds tokens of both parts. */
static bool next_segment(const count *job, const da_head_pattern *pattern, int64_t *at, int64_t limit, int64_t *first,
                         int64_t *end) {
    for (;;) {
        int64_t q = da_part_piece_after(job->queries, *at);
        if (q == job->queries->piece_count || job->queries->pieces[q].first >= limit) {
            return false;
        }
        int64_t position = da_larger(*at, job->queries->pieces[q].first);
        *first = da_segment_first(pattern, position);
        *end = da_segment_end(pattern, job->patterns->n, position);
        int64_t k = da_part_piece_after(job->keys, *first);
        if (k == job->keys->piece_count || job->keys->pieces[k].first >= limit) {
            return false;
        }
        if (job->keys->pieces[k].first < *end) {
            *at = *end;
            return true;
        }
        *at = da_segment_first(pattern, job->keys->pieces[k].first);
    }
}

/* Adds pairs of a cell that pattern p, and maybe later ones, hold too. Every set of patterns is met once, the larger ones
 * in the cells of smaller ones; sets of even size are taken off again. */
static void add_cells(count *job, const cell *c, int p, int size) {
    for (; p < job->patterns->count; p++) {
        const da_head_pattern *pattern = &job->patterns->pattern[p];
        int64_t at = c->base, first, end;
        while (at < c->end && next_segment(job, pattern, &at, c->end, &first, &end)) {
            cell both;
            double pairs = meet(c, first, end, pattern, &both) ? pairs_of_cell(job, &both) : 0;
            if (pairs == 0) {
                continue;
            }
            job->pairs.counted += size == 0 ? pairs : 0;
            job->pairs.distinct += size % 2 == 0 ? pairs : -pairs;
            if (job->patterns->count <= DA_MAX_TOLD_APART) {
                add_cells(job, &both, p + 1, size + 1);
            }
        }
    }
}

da_pairs da_pairs_count(const da_head_patterns *patterns, const da_part *queries, const da_part *keys) {
    count job = {.patterns = patterns, .queries = queries, .keys = keys};
    const cell whole = {0, patterns->n, 1};
    add_cells(&job, &whole, 0, 0);
    return job.pairs;
}
