/* attend() for tiles whose scores lie row by row: scores [TILE_ROWS][DA_BLOCK_KEYS], accumulator [TILE_ROWS][padded_dim].
 * Included by products, after their score_panel, store_weights, accumulate and accumulate_seen. */

/* ---- masks ------------------------------------------------------------------------------------------------------ */

/* Scores of pairs that do not see each other become -infinity. */
static void mask_panel(const da_key_block *block, const da_query_tile *tile, int panel) {
    for (int r = 0; r < tile->rows; r++) {
        for (int v = 0; v < PANEL_VECS; v++) {
            int key = panel * PANEL_KEYS + v * VEC_LANES;
            real *score = (real *)tile->scores + r * DA_BLOCK_KEYS + key;
            vec_store(score, vec_select_range(vec_load(score), block->positions + key, tile->first_visible[r],
                                              tile->last_visible[r]));
        }
    }
}

/* ---- softmax ---------------------------------------------------------------------------------------------------- */

/* A run of panels that some row sees. */
typedef struct panel_run {
    int first, end;
} panel_run;

/* The largest of a row's scores, and its maximum so far. */
static real row_maximum(const da_query_tile *tile, int r, const panel_run *runs, int run_count) {
    const real *scores = (const real *)tile->scores + r * DA_BLOCK_KEYS;
    vec largest = vec_set1(((const real *)tile->maximum)[r]);
    for (int k = 0; k < run_count; k++) {
        for (int j = runs[k].first * PANEL_KEYS; j < runs[k].end * PANEL_KEYS; j += VEC_LANES) {
            largest = vec_max(largest, vec_load(scores + j));
        }
    }
    return vec_reduce_max(largest);
}

/* Turns a row's scores into weights 2^(score - reached), and brings its sum and accumulator to the new maximum. */
static void weigh_row(const da_query_tile *tile, int r, real reached, int padded_dim, const panel_run *runs,
                      int run_count) {
    real *scores = (real *)tile->scores + r * DA_BLOCK_KEYS;
    real *maximum = (real *)tile->maximum + r, *sum = (real *)tile->sum + r;
    real *accumulator = (real *)tile->accumulator + (int64_t)r * padded_dim;
    /* While a row has seen no key its maximum is -infinity; any finite stand-in gives weights of 0. */
    vec reference = vec_set1(reached == (real)-INFINITY ? 0 : reached), total = vec_set1(0);
    for (int k = 0; k < run_count; k++) {
        for (int j = runs[k].first * PANEL_KEYS; j < runs[k].end * PANEL_KEYS; j += VEC_LANES) {
            vec weight = vec_exp2(vec_sub(vec_load(scores + j), reference));
            store_weights(scores, j, weight);
            total = vec_add(total, weight);
        }
    }
    if (reached > *maximum) {
        vec factor = vec_exp2(vec_sub(vec_set1(*maximum), reference));
        real lanes[VEC_LANES];
        vec_store(lanes, factor);
        *sum *= lanes[0];
        for (int c = 0; c < padded_dim; c += VEC_LANES) {
            vec_store(accumulator + c, vec_mul(vec_load(accumulator + c), factor));
        }
        *maximum = reached;
    }
    *sum += vec_reduce_add(total);
}

/* All maxima come first, so that the end of one row's reduction need not be waited for. */
static void softmax_tile(const da_query_tile *tile, int padded_dim, const panel_run *runs, int run_count) {
    real reached[TILE_ROWS];
    for (int r = 0; r < tile->rows; r++) {
        reached[r] = row_maximum(tile, r, runs, run_count);
    }
    for (int r = 0; r < tile->rows; r++) {
        weigh_row(tile, r, reached[r], padded_dim, runs, run_count);
    }
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

static void attend(const da_key_block *block, const da_query_tile *tile) {
    panel_run runs[MAX_PANELS];
    int run_count = 0, panel_count = (block->count + PANEL_KEYS - 1) / PANEL_KEYS;
    bool hides = false;
    visible_range range = range_of_tile(tile);
    for (int p = 0; p < panel_count; p++) {
        panel_visibility seen = visibility_of(block, &range, p);
        if (seen == SEEN_BY_NONE) {
            continue;
        }
        score_panel(block, tile, p);
        if (seen == SEEN_IN_PART) {
            mask_panel(block, tile, p);
            hides = true;
        }
        if (run_count > 0 && runs[run_count - 1].end == p) {
            runs[run_count - 1].end = p + 1;
        } else {
            runs[run_count++] = (panel_run){p, p + 1};
        }
    }
    softmax_tile(tile, block->padded_dim, runs, run_count);
    for (int k = 0; k < run_count; k++) {
        int end_key = runs[k].end * PANEL_KEYS;
        end_key = end_key < block->count ? end_key : block->count;
        if (hides && !block->values_finite) {
            accumulate_seen(block, tile, runs[k].first * PANEL_KEYS, end_key);
        } else {
            accumulate(block, tile, runs[k].first * PANEL_KEYS, end_key);
        }
    }
}
