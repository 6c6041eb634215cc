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

/* ---- dropout ----------------------------------------------------------------------------------------------------- */

/* 1 where dropout keeps the weight of a row and each of a vector of the block's keys, else 0. */
static vec kept_by_dropout(const da_key_block *block, const da_query_tile *tile, int r, int key) {
    const da_dropout *dropout = tile->dropout;
    real kept[VEC_LANES];
    for (int lane = 0; lane < VEC_LANES; lane++) {
        uint32_t row = tile->tokens[r], column = block->tokens[key + lane];
        uint32_t number =
            tile->rows_are_keys ? da_philox_2x32(dropout->key, column, row) : da_philox_2x32(dropout->key, row, column);
        kept[lane] = number >= dropout->threshold ? 1 : 0;
    }
    return vec_load(kept);
}

/* ---- softmax ---------------------------------------------------------------------------------------------------- */

/* A run of panels that some row sees. */
typedef struct panel_run {
    int first, end;
} panel_run;

/* Returns how many runs there are with one panel more, after those that there were. */
static int add_to_runs(panel_run *runs, int run_count, int panel) {
    if (run_count > 0 && runs[run_count - 1].end == panel) {
        runs[run_count - 1].end = panel + 1;
        return run_count;
    }
    runs[run_count] = (panel_run){panel, panel + 1};
    return run_count + 1;
}

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
static void weigh_row(const da_key_block *block, const da_query_tile *tile, int r, real reached, const panel_run *runs,
                      int run_count) {
    int padded_dim = block->padded_dim;
    real *scores = (real *)tile->scores + r * DA_BLOCK_KEYS;
    real *maximum = (real *)tile->maximum + r, *sum = (real *)tile->sum + r;
    real *accumulator = (real *)tile->accumulator + (int64_t)r * padded_dim;
    /* While a row has seen no key its maximum is -infinity; any finite stand-in gives weights of 0. */
    vec reference = vec_set1(reached == (real)-INFINITY ? 0 : reached), total = vec_set1(0);
    for (int k = 0; k < run_count; k++) {
        for (int j = runs[k].first * PANEL_KEYS; j < runs[k].end * PANEL_KEYS; j += VEC_LANES) {
            vec weight = vec_exp2(vec_sub(vec_load(scores + j), reference));
            total = vec_add(total, weight);
            if (tile->dropout) { /* the sum has it all the same */
                weight = vec_mul_or_zero(kept_by_dropout(block, tile, r, j), weight);
            }
            store_weights(scores, j, weight);
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
static void softmax_tile(const da_key_block *block, const da_query_tile *tile, const panel_run *runs, int run_count) {
    real reached[TILE_ROWS];
    for (int r = 0; r < tile->rows; r++) {
        reached[r] = row_maximum(tile, r, runs, run_count);
    }
    for (int r = 0; r < tile->rows; r++) {
        weigh_row(block, tile, r, reached[r], runs, run_count);
    }
}

/* ---- output ------------------------------------------------------------------------------------------------------ */

/* The end of the panels from `first` on whose values lie one after the other. */
static int end_of_piece(const da_key_block *block, int first, int end) {
    const char *start = block->panel_values[first];
    int64_t bytes = (int64_t)((const char *)value_memory(block, 1) - (const char *)value_memory(block, 0));
    int next = first + 1;
    while (next < end && block->panel_values[next] == start + (next - first) * bytes) {
        next++;
    }
    return next;
}

/* Adds weights times values. hides: some weights are 0 because the pair does not see each other. (So may weights that
 * dropout took away be.) */
static void accumulate_runs(const da_key_block *block, const da_query_tile *tile, const panel_run *runs, int run_count,
                            bool hides) {
    for (int k = 0; k < run_count; k++) {
        for (int first = runs[k].first, end; first < runs[k].end; first = end) {
            end = end_of_piece(block, first, runs[k].end);
            int end_key = end * PANEL_KEYS < block->count ? end * PANEL_KEYS : block->count;
            if ((hides || tile->dropout) && !block->values_finite) {
                accumulate_seen(block, tile, first * PANEL_KEYS, end_key);
            } else {
                accumulate(block, tile, first * PANEL_KEYS, end_key);
            }
        }
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
        run_count = add_to_runs(runs, run_count, p);
    }
    softmax_tile(block, tile, runs, run_count);
    accumulate_runs(block, tile, runs, run_count, hides);
}
