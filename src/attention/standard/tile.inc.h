/* The forward computation of `standard` for one type of sums. Included twice by standard.c, with REAL, EXP, LOG and NAME(x). */

/* Everything that a tile of consecutive queries needs. Keys are stored component by component, so that the loop over
 * keys, which a compiler can vectorise, is the inner one. */
typedef struct NAME(tile) {
    REAL query[TILE_ROWS][DA_MAX_HEAD_DIM];       /* times the scale */
    REAL maximum[TILE_ROWS];                      /* largest score so far, over all patterns */
    REAL sum[TILE_ROWS];                          /* of c * exp(score - maximum) */
    REAL accumulator[TILE_ROWS][DA_MAX_HEAD_DIM]; /* of c * exp(score - maximum) * value, without what is dropped */
    int64_t zero_keys[TILE_ROWS];
    int64_t position[TILE_KEYS];
    REAL key[DA_MAX_HEAD_DIM][TILE_KEYS];
    REAL value[TILE_KEYS][DA_MAX_HEAD_DIM];
} NAME(tile);

static void NAME(begin)(NAME(tile) * tile, const sequence *s, int64_t first, int rows) {
    for (int r = 0; r < rows; r++) {
        tile->maximum[r] = -(REAL)INFINITY;
        tile->sum[r] = 0;
        tile->zero_keys[r] = 0;
        for (int c = 0; c < s->head_dim; c++) {
            tile->query[r][c] = (REAL)(load(s->query, s->batch, first + r, s->head, c) * s->scale);
            tile->accumulator[r][c] = 0;
        }
    }
}

/* Takes up to TILE_KEYS keys that are not padded from the front of the progression; returns how many. */
static int NAME(load_keys)(NAME(tile) * tile, const sequence *s, progression *from) {
    int count = take_keys(s, from, tile->position);
    for (int t = 0; t < count; t++) {
        for (int c = 0; c < s->head_dim; c++) {
            tile->key[c][t] = (REAL)load(s->key, s->batch, tile->position[t], s->kv_head, c);
            tile->value[t][c] = (REAL)load(s->value, s->batch, tile->position[t], s->kv_head, c);
        }
    }
    return count;
}

/* One step of the running softmax: query i, row r, against the loaded keys of pattern p. */
static void NAME(attend_row)(NAME(tile) * tile, const sequence *s, int p, int64_t i, int r, int keys) {
    REAL score[TILE_KEYS] = {0};
    bool seen[TILE_KEYS];
    REAL largest = tile->maximum[r];
    for (int c = 0; c < s->head_dim; c++) {
        for (int t = 0; t < keys; t++) {
            score[t] += tile->query[r][c] * tile->key[c][t];
        }
    }
    for (int t = 0; t < keys; t++) {
        seen[t] = sees(&s->patterns, p, i, tile->position[t]);
        if (seen[t] && !(score[t] <= largest)) { /* a NaN becomes the maximum, and shows */
            largest = score[t];
        }
    }
    if (largest == -(REAL)INFINITY) {
        return;
    }
    REAL shrink = EXP(tile->maximum[r] - largest);
    tile->sum[r] *= shrink;
    for (int c = 0; c < s->head_dim; c++) {
        tile->accumulator[r][c] *= shrink;
    }
    tile->maximum[r] = largest;
    for (int t = 0; t < keys; t++) {
        if (!seen[t]) {
            continue;
        }
        REAL weight = EXP(score[t] - largest);
        tile->sum[r] += weight;
        if (drops(s, i, tile->position[t])) {
            continue;
        }
        for (int c = 0; c < s->head_dim; c++) {
            tile->accumulator[r][c] += weight * tile->value[t][c];
        }
    }
}

/* The queries first..end-1, all of one segment of pattern p, against the keys of that segment. */
static void NAME(attend_segment)(NAME(tile) * tile, const sequence *s, int p, int64_t first, int64_t end,
                                 int64_t base) {
    progression queries = kept_tokens(&s->patterns, p, first, end);
    if (queries.first >= end) {
        return;
    }
    for (int64_t i = queries.first; i < end; i += queries.rate) {
        tile->zero_keys[i - base] += da_pattern_zero_keys(&s->patterns, &s->patterns.pattern[p], i);
    }
    progression seen = keys_for(&s->patterns, p, queries);
    while (seen.first < seen.end) {
        int keys = NAME(load_keys)(tile, s, &seen);
        for (int64_t i = queries.first; i < end; i += queries.rate) {
            NAME(attend_row)(tile, s, p, i, (int)(i - base), keys);
        }
    }
}

/* Divides by the softmax's sum, to which z zero keys add z * exp(0 - maximum), and writes output and logsumexp. Weights that
 * dropout kept get their factor here. */
static void NAME(finish)(NAME(tile) * tile, const sequence *s, int64_t first, int rows) {
    for (int r = 0; r < rows; r++) {
        REAL sum = tile->sum[r], maximum = tile->maximum[r], shrink = 1;
        if (tile->zero_keys[r] > 0) {
            REAL largest = maximum > 0 ? maximum : 0;
            shrink = EXP(maximum - largest);
            sum = sum * shrink + (REAL)tile->zero_keys[r] * EXP(-largest);
            maximum = largest;
        }
        bool has_keys = sum != 0;
        REAL factor = has_keys ? shrink * (REAL)s->dropout.factor / (sum * (REAL)s->patterns.divisor) : 0;
        for (int c = 0; c < s->head_dim; c++) {
            store(s->out, s->batch, first + r, s->head, c, (double)(tile->accumulator[r][c] * factor));
        }
        if (s->lse) {
            store(s->lse, s->batch, first + r, s->head, 0, has_keys ? (double)(maximum + LOG(sum)) : -INFINITY);
        }
    }
}

static void NAME(forward_tile)(void *memory, const sequence *s, int64_t first, int rows) {
    NAME(tile) *tile = memory;
    NAME(begin)(tile, s, first, rows);
    for (int p = 0; p < s->patterns.count; p++) {
        int64_t segment_end;
        for (int64_t from = first; from < first + rows; from = segment_end) {
            segment_end = da_segment_end(&s->patterns.pattern[p], s->patterns.n, from);
            int64_t end = segment_end < first + rows ? segment_end : first + rows;
            NAME(attend_segment)(tile, s, p, from, end, first);
        }
    }
    NAME(finish)(tile, s, first, rows);
}
