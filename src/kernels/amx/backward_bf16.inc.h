/* The backward pass on AMX tiles (kernels.h: da_gradient_block, da_gradient_tile; the formulas are those of
 * kernels/backward.inc.h). As in the forward pass, a vector holds what one column has for 16 rows of a tile:
 *   scores^T = first columns first rows^T         dp^T = second columns second rows^T
 *   gradient of the first rows^T  += first columns^T ds^T
 *   gradient of the second rows^T += second columns^T weights^T
 *   gradient of the columns       += ds^T keys, for all tiles that are kept at once
 * The first two leave panels of products [half of the rows][column][VEC_LANES] in f32. Weights and ds are rounded to bf16
 * and put together in pairs of columns, as weights are in the forward pass, each where its products' tile has its scores.
 * What is kept of ds, [panel][tile][column][row], is made of the same rounded numbers; its rows come in the order 0, 16, 1,
 * 17, ..., and so do the pairs of keys that they meet. There is no dropout here.
 * Included by products_bf16.inc.h. */

#define SPREAD_ROWS (2 * DA_SPREAD_ROWS) /* in bf16 */

_Static_assert(SPREAD_ROWS % TILE_ROWS == 0, "whole tiles");

/* ---- packing ---------------------------------------------------------------------------------------------------- */

/* Keys of a tile as pairs of rows r and r + 16: [16][padded_dim]. */
static bool store_key_row(const void *key, int64_t stride, da_dtype dtype, int head_dim, int padded_dim, int row,
                          void *keys) {
    const __m256i exponent = _mm256_set1_epi16(0x7f80);
    uint16_t components[DA_MAX_HEAD_DIM];
    uint32_t *pairs = (uint32_t *)keys + (int64_t)(row / TILE_ROWS * TILE_ROWS + row % VEC_LANES) * padded_dim;
    bool upper = row % TILE_ROWS >= VEC_LANES;
    __mmask16 beyond = 0;
    memset(components + padded_dim - VEC_LANES, 0, VEC_LANES * sizeof *components);
    load_halves(key, stride, head_dim, components);
    for (int c = 0; c < padded_dim; c += VEC_LANES) {
        __m256i halves = _mm256_loadu_si256((const __m256i *)(const void *)(components + c));
        __m512i wide = _mm512_cvtepu16_epi32(halves);
        beyond |= _mm256_cmpeq_epi16_mask(_mm256_and_si256(halves, exponent), exponent);
        if (upper) {
            wide = _mm512_or_si512(_mm512_slli_epi32(wide, 16), _mm512_loadu_si512(pairs + c));
        }
        _mm512_storeu_si512(pairs + c, wide);
    }
    return beyond == 0;
}

/* ---- products with rows ------------------------------------------------------------------------------------------ */

static real *product_row(const da_query_tile *tile, int half, int column) {
    return (real *)tile->scores + (half * PANEL_KEYS + column) * VEC_LANES;
}

/* Products of a panel's columns with the rows, by all tiles. */
static void multiply_panel(const da_key_block *block, const da_query_tile *tile, int panel) {
    const int length = key_length(block->head_dim);
    const size_t column_bytes = (size_t)length * sizeof(uint16_t);
    const char *columns = block->panel_keys[panel];
    const char *rows = tile->queries;
    MEMORY_IS_CURRENT();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int c = 0; c < length; c += 32) {
        _tile_loadd(4, columns, column_bytes);
        _tile_loadd(6, rows, QUERY_ROW);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, columns + 16 * column_bytes, column_bytes);
        _tile_dpbf16ps(1, 5, 6);
        _tile_loadd(7, rows + TILE_ROW, QUERY_ROW);
        _tile_dpbf16ps(2, 4, 7);
        _tile_dpbf16ps(3, 5, 7);
        columns += 64;
        rows += 16 * QUERY_ROW;
    }
    _tile_stored(0, product_row(tile, 0, 0), TILE_ROW);
    _tile_stored(1, product_row(tile, 0, 16), TILE_ROW);
    _tile_stored(2, product_row(tile, 1, 0), TILE_ROW);
    _tile_stored(3, product_row(tile, 1, 16), TILE_ROW);
    MEMORY_IS_CURRENT();
}

/* ---- weights and differences ------------------------------------------------------------------------------------- */

/* The rows that see a column: first[half] <= its position <= last[half], lane by lane. */
typedef struct row_ranges {
    __m512i first[HALVES], last[HALVES];
} row_ranges;

/* Rows that are not in use see nothing. */
static row_ranges ranges_of_rows(const da_query_tile *tile) {
    row_ranges ranges;
    for (int half = 0; half < HALVES; half++) {
        int used = tile->rows - half * VEC_LANES;
        __mmask16 in_use = used >= VEC_LANES ? 0xffff : used > 0 ? (__mmask16)((1u << used) - 1) : 0;
        ranges.first[half] =
            _mm512_mask_loadu_epi32(_mm512_set1_epi32(INT32_MAX), in_use, tile->first_visible + half * VEC_LANES);
        ranges.last[half] =
            _mm512_mask_loadu_epi32(_mm512_set1_epi32(INT32_MIN), in_use, tile->last_visible + half * VEC_LANES);
    }
    return ranges;
}

/* Where ds of a panel and a kept tile are kept: PANEL_KEYS rows of a tile. */
static uint16_t *kept_differences(const da_column_gradient *columns, int panel, int row) {
    return (uint16_t *)columns->differences + ((int64_t)panel * SPREAD_ROWS + row) * PANEL_KEYS;
}

/* What a panel's differentiation needs beside its products. */
typedef struct panel_terms {
    const real *bias, *lse, *delta; /* of the panel's columns; or lse and delta of the rows */
    const int32_t *positions;
    const row_ranges *ranges;
    vec score_factor, product_factor;
} panel_terms;

/* The weight and ds of one column for half of the rows. */
FORCE_INLINE vec differentiate(const panel_terms *terms, vec score, vec product, int half, int column,
                               const bool columns_are_queries, const bool hides, vec *difference) {
    vec start = columns_are_queries ? vec_set1(terms->bias[column] - terms->lse[column])
                                    : vec_sub(vec_set1(terms->bias[column]), vec_load(terms->lse + half * VEC_LANES));
    vec delta = columns_are_queries ? vec_set1(terms->delta[column]) : vec_load(terms->delta + half * VEC_LANES);
    vec exponent = vec_fma(score, terms->score_factor, start);
    if (hides) { /* last: lse may be NaN */
        __m512i position = _mm512_set1_epi32(terms->positions[column]);
        __mmask16 seen = _mm512_cmple_epi32_mask(terms->ranges->first[half], position) &
                         _mm512_cmple_epi32_mask(position, terms->ranges->last[half]);
        exponent = _mm512_mask_blend_ps(seen, vec_set1((real)-INFINITY), exponent);
    }
    vec weight = weight_of(exponent);
    /* What a pair that does not see each other has for dp and D must not count, NaN least of all. */
    *difference = vec_mul_or_zero(weight, _mm512_fmsub_ps(product, terms->product_factor, delta));
    return weight;
}

/* Turns a panel's products into pairs of weights and of ds, and keeps these where `kept` is not NULL. */
FORCE_INLINE void differentiate_panel(const da_gradient_tile *tile, const panel_terms *terms, int panel, uint16_t *kept,
                                      const bool columns_are_queries, const bool hides) {
    for (int column = 0; column < PANEL_KEYS; column += 2) {
        __m512i differences[HALVES];
        int pair = (panel * PANEL_KEYS + column) / 2;
        for (int half = 0; half < HALVES; half++) {
            const real *scores = product_row(&tile->first, half, column);
            const real *products = product_row(&tile->second, half, column);
            vec even, odd;
            vec even_weight = differentiate(terms, vec_load(scores), vec_load(products), half, column,
                                            columns_are_queries, hides, &even);
            vec odd_weight = differentiate(terms, vec_load(scores + VEC_LANES), vec_load(products + VEC_LANES), half,
                                           column + 1, columns_are_queries, hides, &odd);
            differences[half] = weight_pairs(even, odd);
            _mm512_storeu_si512(weight_row(&tile->first, half, pair), weight_pairs(even_weight, odd_weight));
            _mm512_storeu_si512(weight_row(&tile->second, half, pair), differences[half]);
        }
        if (kept) {
            __m512i even = _mm512_mask_blend_epi16(0xaaaaaaaa, differences[0], _mm512_slli_epi32(differences[1], 16));
            __m512i odd = _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_srli_epi32(differences[0], 16), differences[1]);
            _mm512_storeu_si512(kept + column * TILE_ROWS, even);
            _mm512_storeu_si512(kept + (column + 1) * TILE_ROWS, odd);
        }
    }
}

static void attend_panel_backward(const da_gradient_block *block, const da_gradient_tile *tile,
                                  const row_ranges *ranges, int panel, bool hides) {
    bool columns_are_queries = block->lse != NULL;
    panel_terms terms = {
        .bias = (const real *)tile->first.bias + panel * PANEL_KEYS,
        .lse = columns_are_queries ? (const real *)block->lse + panel * PANEL_KEYS : tile->lse,
        .delta = columns_are_queries ? (const real *)block->delta + panel * PANEL_KEYS : tile->delta,
        .positions = block->first.positions + panel * PANEL_KEYS,
        .ranges = ranges,
        .score_factor = vec_set1((real)tile->first.score_factor),
        .product_factor = vec_set1((real)tile->second.score_factor),
    };
    uint16_t *kept = tile->columns ? kept_differences(tile->columns, panel, tile->columns->rows) : NULL;
    multiply_panel(&block->first, &tile->first, panel);
    multiply_panel(&block->second, &tile->second, panel);
    if (hides) {
        differentiate_panel(tile, &terms, panel, kept, columns_are_queries, true);
    } else if (columns_are_queries) {
        differentiate_panel(tile, &terms, panel, kept, true, false);
    } else {
        differentiate_panel(tile, &terms, panel, NULL, false, false);
    }
}

/* ---- gradients of rows ------------------------------------------------------------------------------------------- */

/* `accumulator` += the panels' columns times their weights, for 16 or 32 components from `component` on. */
FORCE_INLINE void accumulate_components(const da_key_block *block, const da_query_tile *tile, const seen_panels *seen,
                                        int component, const bool two) {
    const size_t row = PANEL_KEYS * sizeof(uint16_t);
    char *at = (char *)((real *)tile->accumulator + component * TILE_ROWS);
    MEMORY_IS_CURRENT();
    _tile_loadd(0, at, QUERY_ROW);
    _tile_loadd(1, at + TILE_ROW, QUERY_ROW);
    if (two) {
        _tile_loadd(2, at + 16 * QUERY_ROW, QUERY_ROW);
        _tile_loadd(3, at + 16 * QUERY_ROW + TILE_ROW, QUERY_ROW);
    }
    for (int k = 0; k < seen->count; k++) {
        int panel = seen->panel[k];
        const char *values = (const char *)block->panel_values[panel] + (size_t)component * row;
        _tile_loadd(4, values, row);
        _tile_loadd(6, weight_row(tile, 0, panel * PANEL_KEYS / 2), TILE_ROW);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, weight_row(tile, 1, panel * PANEL_KEYS / 2), TILE_ROW);
        _tile_dpbf16ps(1, 4, 7);
        if (two) {
            _tile_loadd(5, values + 16 * row, row);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
    _tile_stored(0, at, QUERY_ROW);
    _tile_stored(1, at + TILE_ROW, QUERY_ROW);
    if (two) {
        _tile_stored(2, at + 16 * QUERY_ROW, QUERY_ROW);
        _tile_stored(3, at + 16 * QUERY_ROW + TILE_ROW, QUERY_ROW);
    }
    MEMORY_IS_CURRENT();
}

static void accumulate_gradient(const da_key_block *block, const da_query_tile *tile, const seen_panels *seen) {
    if (seen->hides_any && !block->values_finite) {
        for (int k = 0; k < seen->count; k++) {
            accumulate_seen_panel(block, tile, seen->panel[k]);
        }
        return;
    }
    int component = 0;
    for (; component + 32 <= block->padded_dim; component += 32) {
        accumulate_components(block, tile, seen, component, true);
    }
    if (component < block->padded_dim) {
        accumulate_components(block, tile, seen, component, false);
    }
}

/* ---- the whole ---------------------------------------------------------------------------------------------------- */

/* Panels that no row of the tile sees have differences of 0. */
static void keep_panels(const da_gradient_block *block, da_column_gradient *columns, const seen_panels *seen) {
    int next = 0;
    for (int p = 0; p * PANEL_KEYS < block->first.count; p++) {
        if (next < seen->count && seen->panel[next] == p) {
            columns->seen[p] = true;
            next++;
        } else {
            memset(kept_differences(columns, p, columns->rows), 0, TILE_ROWS * PANEL_KEYS * sizeof(uint16_t));
        }
    }
    columns->rows += TILE_ROWS;
}

static void attend_backward(const da_gradient_block *block, const da_gradient_tile *tile) {
    seen_panels seen = find_panels(&block->first, &tile->first);
    bool in_part = tile->first.rows < TILE_ROWS;
    row_ranges ranges = ranges_of_rows(&tile->first);
    unsigned state = flush_subnormals();
    for (int k = 0; k < seen.count; k++) {
        attend_panel_backward(block, tile, &ranges, seen.panel[k], in_part || seen.hides[k]);
    }
    _mm_setcsr(state);
    if (tile->columns) {
        keep_panels(block, tile->columns, &seen);
    }
    if (tile->wants_first) {
        da_query_tile differences = tile->first;
        differences.scores = tile->second.scores;
        accumulate_gradient(&block->first, &differences, &seen);
    }
    if (tile->wants_second) {
        da_query_tile weights = tile->second;
        weights.scores = tile->first.scores;
        accumulate_gradient(&block->second, &weights, &seen);
    }
}

/* ---- the gradient of columns --------------------------------------------------------------------------------------- */

/* `sums` += what is kept of a panel times the keys, for 16 or 32 components. */
FORCE_INLINE void spread_components(const char *differences, const char *keys, int rows, size_t sum_bytes, char *sums,
                                    const bool two) {
    MEMORY_IS_CURRENT();
    _tile_loadd(0, sums, sum_bytes);
    _tile_loadd(1, sums + 16 * sum_bytes, sum_bytes);
    if (two) {
        _tile_loadd(2, sums + TILE_ROW, sum_bytes);
        _tile_loadd(3, sums + 16 * sum_bytes + TILE_ROW, sum_bytes);
    }
    for (int row = 0; row < rows; row += TILE_ROWS) {
        _tile_loadd(4, differences, TILE_ROW);
        _tile_loadd(6, keys, sum_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(5, differences + 16 * TILE_ROW, TILE_ROW);
        _tile_dpbf16ps(1, 5, 6);
        if (two) {
            _tile_loadd(7, keys + TILE_ROW, sum_bytes);
            _tile_dpbf16ps(2, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
        }
        differences += PANEL_KEYS * TILE_ROW;
        keys += TILE_ROWS * sum_bytes;
    }
    _tile_stored(0, sums, sum_bytes);
    _tile_stored(1, sums + 16 * sum_bytes, sum_bytes);
    if (two) {
        _tile_stored(2, sums + TILE_ROW, sum_bytes);
        _tile_stored(3, sums + 16 * sum_bytes + TILE_ROW, sum_bytes);
    }
    MEMORY_IS_CURRENT();
}

static void spread_panel(const da_column_gradient *columns, int panel, int padded_dim, real *sums) {
    const char *differences = (const char *)kept_differences(columns, panel, 0), *keys = columns->keys;
    const size_t sum_bytes = (size_t)padded_dim * sizeof(real);
    int component = 0;
    for (; component + 32 <= padded_dim; component += 32) {
        spread_components(differences, keys + (size_t)component * sizeof(real), columns->rows, sum_bytes,
                          (char *)(sums + component), true);
    }
    if (component < padded_dim) {
        spread_components(differences, keys + (size_t)component * sizeof(real), columns->rows, sum_bytes,
                          (char *)(sums + component), false);
    }
}

/* The same where a key is not finite, and a query may not see it. */
static void spread_panel_seen(const da_column_gradient *columns, int panel, int padded_dim, real *sums) {
    for (int row = 0; row < columns->rows; row++) {
        int pair = row % VEC_LANES, upper = row % TILE_ROWS / VEC_LANES;
        const uint16_t *differences = kept_differences(columns, panel, row / TILE_ROWS * TILE_ROWS) + 2 * pair + upper;
        const uint16_t *key =
            (const uint16_t *)columns->keys + 2 * (int64_t)(row / TILE_ROWS * TILE_ROWS + pair) * padded_dim + upper;
        for (int column = 0; column < PANEL_KEYS; column++) {
            real difference = da_float_from_bf16(differences[column * TILE_ROWS]);
            for (int c = 0; difference != 0 && c < padded_dim; c++) {
                sums[(int64_t)column * padded_dim + c] += difference * da_float_from_bf16(key[2 * c]);
            }
        }
    }
}

static void spread_columns(const da_gradient_block *block, da_column_gradient *columns) {
    int padded_dim = block->first.padded_dim;
    for (int p = 0; p * PANEL_KEYS < block->first.count; p++) {
        real *sums = (real *)columns->sums + (int64_t)p * PANEL_KEYS * padded_dim;
        if (columns->seen[p] && columns->keys_finite) {
            spread_panel(columns, p, padded_dim, sums);
        } else if (columns->seen[p]) {
            spread_panel_seen(columns, p, padded_dim, sums);
        }
        columns->seen[p] = false;
    }
    columns->rows = 0;
}
