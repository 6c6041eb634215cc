/* The backward computation of `standard` for one type of sums. Included twice by backward.c, with REAL, EXP and NAME(x). */

/* One query and what its pairs need of it. */
typedef struct NAME(query_row) {
    REAL query[DA_MAX_HEAD_DIM];    /* times the scale */
    REAL grad_out[DA_MAX_HEAD_DIM]; /* times the factor of weights that dropout keeps, over the groups */
    REAL lse;
    REAL shift; /* d_i - grad_lse_i */
} NAME(query_row);

/* Keys of one pattern and one segment. Both tensors are stored component by component, so that the loop over keys, which a
 * compiler can vectorise, is the inner one; keys also row by row, as they are added up. */
typedef struct NAME(key_block) {
    int count;
    int64_t position[TILE_KEYS];
    REAL key[DA_MAX_HEAD_DIM][TILE_KEYS];
    REAL value[DA_MAX_HEAD_DIM][TILE_KEYS];
    REAL row[TILE_KEYS][DA_MAX_HEAD_DIM];
} NAME(key_block);

/* A query against the keys of a block. */
typedef struct NAME(pairs) {
    bool seen[TILE_KEYS], kept[TILE_KEYS];
    REAL weight[TILE_KEYS]; /* p_ij, the pattern's share of the multiplicity; only if seen, as ds_ij is */
    REAL ds[TILE_KEYS];
} NAME(pairs);

/* Consecutive queries and their gradients, without the scale. */
typedef struct NAME(query_tile) {
    NAME(key_block) keys;
    NAME(query_row) query[TILE_ROWS];
    REAL grad_query[TILE_ROWS][DA_MAX_HEAD_DIM];
} NAME(query_tile);

/* Consecutive keys' gradients; the keys are loaded pattern by pattern. */
typedef struct NAME(key_tile) {
    NAME(key_block) keys;
    NAME(query_row) query;
    REAL grad_key[TILE_KEYS][DA_MAX_HEAD_DIM];
    REAL grad_value[TILE_KEYS][DA_MAX_HEAD_DIM];
} NAME(key_tile);

/* ---- loading ----------------------------------------------------------------------------------------------------- */

/* A query without keys, whose lse is -infinity, needs nothing else: it has no gradient and gives none. */
static void NAME(load_query)(NAME(query_row) * row, const sequence *s, const da_backward_tensors *t, int64_t i) {
    row->lse = (REAL)load(s->lse, s->batch, i, s->head, 0);
    if (row->lse == -(REAL)INFINITY) {
        return;
    }
    REAL factor = (REAL)(s->dropout.factor / s->patterns.divisor), d = 0;
    for (int c = 0; c < s->head_dim; c++) {
        REAL grad_out = (REAL)load(t->grad_out, s->batch, i, s->head, c);
        row->query[c] = (REAL)(load(s->query, s->batch, i, s->head, c) * s->scale);
        row->grad_out[c] = grad_out * factor;
        d += grad_out * (REAL)load(s->out, s->batch, i, s->head, c);
    }
    row->shift = t->grad_lse ? d - (REAL)load(t->grad_lse, s->batch, i, s->head, 0) : d;
}

/* Takes up to TILE_KEYS keys that are not padded from the front of the progression. */
static void NAME(take_key_block)(NAME(key_block) * block, const sequence *s, progression *from) {
    block->count = take_keys(s, from, block->position);
    for (int k = 0; k < block->count; k++) {
        int64_t j = block->position[k];
        for (int c = 0; c < s->head_dim; c++) {
            block->row[k][c] = block->key[c][k] = (REAL)load(s->key, s->batch, j, s->kv_head, c);
            block->value[c][k] = (REAL)load(s->value, s->batch, j, s->kv_head, c);
        }
    }
}

/* ---- pairs ------------------------------------------------------------------------------------------------------- */

/* p_ij = exp(s_ij - lse_i) and ds_ij = p_ij (dp_ij - d_i + grad_lse_i) of query i and the keys, which pattern p joins. */
static void NAME(differentiate)(const NAME(query_row) * row, const NAME(key_block) * block, const sequence *s, int p,
                                int64_t i, NAME(pairs) * out) {
    REAL score[TILE_KEYS] = {0}, dp[TILE_KEYS] = {0};
    for (int c = 0; c < s->head_dim; c++) {
        for (int k = 0; k < block->count; k++) {
            score[k] += row->query[c] * block->key[c][k];
            dp[k] += row->grad_out[c] * block->value[c][k];
        }
    }
    for (int k = 0; k < block->count; k++) {
        int64_t j = block->position[k];
        out->seen[k] = row->lse != -(REAL)INFINITY && sees(&s->patterns, p, i, j);
        out->kept[k] = out->seen[k] && !drops(s, i, j);
        if (out->seen[k]) {
            out->weight[k] = EXP(score[k] - row->lse);
            out->ds[k] = out->weight[k] * ((out->kept[k] ? dp[k] : 0) - row->shift);
        }
    }
}

/* ---- the gradient of queries ------------------------------------------------------------------------------------- */

/* Adds what the keys give to grad_query. Pairs that are not seen are left out, not taken times 0: NaN would come through. */
static void NAME(add_to_query)(REAL *grad_query, const NAME(key_block) * block, const NAME(pairs) * pairs,
                               int head_dim) {
    for (int k = 0; k < block->count; k++) {
        for (int c = 0; pairs->seen[k] && c < head_dim; c++) {
            grad_query[c] += pairs->ds[k] * block->row[k][c];
        }
    }
}

/* The queries first..end-1 of the tile, which begins at `base`, all of one segment of pattern p, against its keys. */
static void NAME(queries_in_segment)(NAME(query_tile) * tile, const sequence *s, int p, int64_t first, int64_t end,
                                     int64_t base) {
    NAME(pairs) pairs;
    progression queries = kept_tokens(&s->patterns, p, first, end);
    if (queries.first >= end) {
        return;
    }
    progression keys = keys_for(&s->patterns, p, queries);
    while (keys.first < keys.end) {
        NAME(take_key_block)(&tile->keys, s, &keys);
        for (int64_t i = queries.first; i < end; i += queries.rate) {
            NAME(differentiate)(&tile->query[i - base], &tile->keys, s, p, i, &pairs);
            NAME(add_to_query)(tile->grad_query[i - base], &tile->keys, &pairs, s->head_dim);
        }
    }
}

/* grad_query of the queries first..end-1 of one head. */
static void NAME(differentiate_queries)(void *memory, const sequence *s, const da_backward_tensors *t, int64_t first,
                                        int64_t end) {
    NAME(query_tile) *tile = memory;
    for (int64_t i = first; i < end; i++) {
        NAME(load_query)(&tile->query[i - first], s, t, i);
        for (int c = 0; c < s->head_dim; c++) {
            tile->grad_query[i - first][c] = 0;
        }
    }
    for (int p = 0; p < s->patterns.count; p++) {
        int64_t segment_end;
        for (int64_t from = first; from < end; from = segment_end) {
            segment_end = da_segment_end(&s->patterns.pattern[p], s->patterns.n, from);
            NAME(queries_in_segment)(tile, s, p, from, segment_end < end ? segment_end : end, first);
        }
    }
    for (int64_t i = first; i < end; i++) {
        for (int c = 0; c < s->head_dim; c++) {
            store(t->grad_query, s->batch, i, s->head, c, (double)(tile->grad_query[i - first][c] * (REAL)s->scale));
        }
    }
}

/* ---- the gradients of keys and values ---------------------------------------------------------------------------- */

/* Adds what the query gives to its keys and values; grad_key gets the scale with the query. */
static void NAME(add_to_keys)(NAME(key_tile) * tile, const NAME(pairs) * pairs, int64_t base, int head_dim) {
    for (int k = 0; k < tile->keys.count; k++) {
        int64_t at = tile->keys.position[k] - base;
        for (int c = 0; pairs->seen[k] && c < head_dim; c++) {
            tile->grad_key[at][c] += pairs->ds[k] * tile->query.query[c];
        }
        for (int c = 0; pairs->kept[k] && c < head_dim; c++) {
            tile->grad_value[at][c] += pairs->weight[k] * tile->query.grad_out[c];
        }
    }
}

/* The keys first..end-1 of the tile, which begins at `base`, all of one segment of pattern p, against its queries. */
static void NAME(keys_in_segment)(NAME(key_tile) * tile, const sequence *s, const da_backward_tensors *t, int p,
                                  int64_t first, int64_t end, int64_t base) {
    NAME(pairs) pairs;
    progression kept = kept_tokens(&s->patterns, p, first, end), rest = kept;
    if (kept.first >= end) {
        return;
    }
    progression queries = queries_for(&s->patterns, p, kept);
    NAME(take_key_block)(&tile->keys, s, &rest); /* all of them: a block has room for a tile */
    for (int64_t i = queries.first; tile->keys.count > 0 && i < queries.end; i += queries.rate) {
        NAME(load_query)(&tile->query, s, t, i);
        NAME(differentiate)(&tile->query, &tile->keys, s, p, i, &pairs);
        NAME(add_to_keys)(tile, &pairs, base, s->head_dim);
    }
}

/* What the queries of one head give to the keys first..end-1 and their values. */
static void NAME(differentiate_keys)(void *memory, const sequence *s, const da_backward_tensors *t, int64_t first,
                                     int64_t end) {
    NAME(key_tile) *tile = memory;
    for (int p = 0; p < s->patterns.count; p++) {
        int64_t segment_end;
        for (int64_t from = first; from < end; from = segment_end) {
            segment_end = da_segment_end(&s->patterns.pattern[p], s->patterns.n, from);
            NAME(keys_in_segment)(tile, s, t, p, from, segment_end < end ? segment_end : end, first);
        }
    }
}

static void NAME(begin_keys)(void *memory, int64_t keys, int head_dim) {
    NAME(key_tile) *tile = memory;
    for (int64_t k = 0; k < keys; k++) {
        for (int c = 0; c < head_dim; c++) {
            tile->grad_key[k][c] = tile->grad_value[k][c] = 0;
        }
    }
}

static void NAME(finish_keys)(const void *memory, const sequence *s, const da_backward_tensors *t, int64_t first,
                              int64_t end) {
    const NAME(key_tile) *tile = memory;
    for (int64_t j = first; j < end; j++) {
        for (int c = 0; t->grad_key && c < s->head_dim; c++) {
            store(t->grad_key, s->batch, j, s->kv_head, c, (double)tile->grad_key[j - first][c]);
        }
        for (int c = 0; t->grad_value && c < s->head_dim; c++) {
            store(t->grad_value, s->batch, j, s->kv_head, c, (double)tile->grad_value[j - first][c]);
        }
    }
}
