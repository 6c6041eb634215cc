/* The backward pass of a tile of rows against a block of columns (kernels.h: da_gradient_block, da_gradient_tile). With s
 * the scores, l and D of the query of a pair, and m its dropout factor of 0 or 1:
 *   p = 2^(s - l), dp = <grad_out, value>, ds = p (m dp - D);
 *   gradient of the first rows += ds * first columns, of values += p m * grad_out.
 * Included by products_real.inc.h: the products are those of the forward pass. */

#define DA_KERNELS_HOOKS                                                                                               \
    .attend_backward = attend_backward, .spread_columns = spread_columns, .store_key_row = store_key_row,              \
    .dot = dot_rows, .spread_rows = DA_SPREAD_ROWS,

static bool store_key_row(const void *key, int64_t stride, da_dtype dtype, int head_dim, int padded_dim, int row,
                          void *keys) {
    real *out = (real *)keys + (int64_t)row * padded_dim;
    load_row(key, stride, dtype, head_dim, out);
    return vec_reduce_add(add_zeros(vec_set1(0), out, padded_dim)) == 0;
}

/* Where the differences of a panel and of the next tile are kept. */
static real *kept_differences(const da_column_gradient *columns, int panel) {
    return (real *)columns->differences + ((int64_t)panel * DA_SPREAD_ROWS + columns->rows) * PANEL_KEYS;
}

/* Turns scores into weights (p m), and products dp into ds. */
FORCE_INLINE void differentiate_panel(const da_gradient_block *block, const da_gradient_tile *tile, int panel,
                                      const bool columns_are_queries, const bool hides, const bool drops,
                                      const bool keeps) {
    const int32_t *positions = block->first.positions;
    const real *lse = columns_are_queries ? block->lse : tile->lse;
    const real *delta = columns_are_queries ? block->delta : tile->delta;
    for (int r = 0; r < tile->first.rows; r++) {
        for (int v = 0; v < PANEL_VECS; v++) {
            int column = panel * PANEL_KEYS + v * VEC_LANES;
            real *score = (real *)tile->first.scores + r * DA_BLOCK_KEYS + column;
            real *product = (real *)tile->second.scores + r * DA_BLOCK_KEYS + column;
            vec l = columns_are_queries ? vec_load(lse + column) : vec_set1(lse[r]);
            vec d = columns_are_queries ? vec_load(delta + column) : vec_set1(delta[r]);
            vec dp = vec_load(product), difference = vec_sub(vec_load(score), l);
            if (hides) { /* last: l may be NaN */
                difference = vec_select_range(difference, positions + column, tile->first.first_visible[r],
                                              tile->first.last_visible[r]);
            }
            vec weight = vec_exp2(difference), kept_weight = weight;
            if (drops) {
                vec kept = kept_by_dropout(&block->first, &tile->first, r, column);
                kept_weight = vec_mul_or_zero(kept, weight);
                dp = vec_mul_or_zero(kept, dp);
            }
            vec_store(score, kept_weight);
            /* What a pair that does not see each other has for dp and D must not count, NaN least of all. */
            vec ds = vec_mul_or_zero(weight, vec_sub(dp, d));
            vec_store(product, ds);
            if (keeps) {
                vec_store(kept_differences(tile->columns, panel) + r * PANEL_KEYS + v * VEC_LANES, ds);
            }
        }
    }
}

static void attend_panel_backward(const da_gradient_block *block, const da_gradient_tile *tile, int panel, bool hides) {
    score_panel(&block->first, &tile->first, panel);
    if (tile->wants_first || tile->columns) {
        score_panel(&block->second, &tile->second, panel);
    }
    bool columns_are_queries = block->lse != NULL;
    if (hides || tile->first.dropout) { /* seldom: one form for all that is more */
        differentiate_panel(block, tile, panel, columns_are_queries, hides, tile->first.dropout != NULL,
                            tile->columns != NULL);
    } else if (tile->columns) {
        differentiate_panel(block, tile, panel, true, false, false, true);
    } else if (columns_are_queries) {
        differentiate_panel(block, tile, panel, true, false, false, false);
    } else {
        differentiate_panel(block, tile, panel, false, false, false, false);
    }
}

/* A panel that no row of the tile sees has differences of 0. */
static void keep_panel(const da_gradient_tile *tile, int panel, bool sees) {
    tile->columns->seen[panel] = tile->columns->seen[panel] || sees;
    if (!sees) {
        memset(kept_differences(tile->columns, panel), 0, (size_t)tile->first.rows * PANEL_KEYS * sizeof(real));
    }
}

static void attend_backward(const da_gradient_block *block, const da_gradient_tile *tile) {
    panel_run runs[MAX_PANELS];
    int run_count = 0, panel_count = (block->first.count + PANEL_KEYS - 1) / PANEL_KEYS;
    bool hides = false;
    visible_range range = range_of_tile(&tile->first);
    for (int p = 0; p < panel_count; p++) {
        panel_visibility seen = visibility_of(&block->first, &range, p);
        if (seen != SEEN_BY_NONE) {
            attend_panel_backward(block, tile, p, seen == SEEN_IN_PART);
            hides = hides || seen == SEEN_IN_PART;
            run_count = add_to_runs(runs, run_count, p);
        }
        if (tile->columns) {
            keep_panel(tile, p, seen != SEEN_BY_NONE);
        }
    }
    if (tile->columns) {
        tile->columns->rows += tile->first.rows;
    }
    if (tile->wants_first) {
        da_query_tile differences = tile->first;
        differences.scores = tile->second.scores;
        accumulate_runs(&block->first, &differences, runs, run_count, hides);
    }
    if (tile->wants_second) {
        da_query_tile weights = tile->second;
        weights.scores = tile->first.scores;
        weights.dropout = tile->first.dropout;
        accumulate_runs(&block->second, &weights, runs, run_count, hides);
    }
}
