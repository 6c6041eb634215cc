/* The two products of bf16 tensors on AMX tiles, and the softmax between them. Both are computed transposed: a vector
 * holds one key's scores for 16 queries, so that maxima and sums are taken lane by lane, without a reduction, and the
 * weights of two keys make the pairs that the second product wants.
 *   scores^T = keys queries^T       panels [key][key_length], queries [pairs of components][TILE_ROWS],
 *                                   scores [key][VEC_LANES] in f32, of one half of the queries at a time
 *   output^T += values^T weights^T  values [panel][padded_dim][PANEL_KEYS], weights [half][pair of keys][VEC_LANES], which
 *                                   take the other half of the scores' memory, accumulator [padded_dim][TILE_ROWS];
 *                                   finish_tile turns it into rows
 * key_length is head_dim rounded up to 32, with zeros. Queries are packed as they are, since a factor would have to be
 * rounded; scores are multiplied by it in f32. Weights are rounded to bf16 for the product with the values, and summed
 * before that. Included by attend.inc.h. */
#include "kernels/amx/tiles.inc.h"
#include "kernels/halves.h"
#include "kernels/rows.inc.h"

#define DA_KERNELS_HOOKS                                                                                               \
    .begin = begin_tiles, .end = end_tiles, .finish_tile = finish_tile, .attend_backward = attend_backward,            \
    .spread_columns = spread_columns, .spread_rows = SPREAD_ROWS, .store_key_row = store_key_row, .dot = dot_rows,

#define TILE_ROW 64                                  /* bytes of a row of a tile */
#define QUERY_ROW ((size_t)TILE_ROWS * sizeof(real)) /* bytes of a row of queries or of the accumulator */
#define HALVES (TILE_ROWS / VEC_LANES)

/* Rounded up to the components of one step of the product. */
static int key_length(int head_dim) {
    return (head_dim + 31) / 32 * 32;
}

#define PACKED_SIZE sizeof(uint16_t)

/* ---- packing ---------------------------------------------------------------------------------------------------- */

static void pack_query(const void *query, int64_t stride, da_dtype dtype, int head_dim, double factor, int row,
                       void *queries) {
    uint32_t pairs[DA_MAX_HEAD_DIM / 2];
    pairs[(head_dim - 1) / 2] = 0; /* the odd one out has a zero beside it */
    load_halves(query, stride, head_dim, (uint16_t *)pairs);
    for (int p = 0; p < (head_dim + 1) / 2; p++) {
        ((uint32_t *)queries)[p * TILE_ROWS + row] = pairs[p];
    }
}

static void *panel_memory(const da_key_block *block, int index) {
    return (uint16_t *)block->panels + (int64_t)index * PANEL_KEYS * key_length(block->head_dim);
}

static void *value_memory(const da_key_block *block, int index) {
    return (uint16_t *)block->values + (int64_t)index * block->padded_dim * PANEL_KEYS;
}

static uint16_t *key_row(const da_key_block *block, int key) {
    return (uint16_t *)panel_memory(block, key / PANEL_KEYS) + (key % PANEL_KEYS) * key_length(block->head_dim);
}

/* Values wait for their panel to fill, and are turned then; keys need no turning. */
static uint16_t *staged_value(const da_key_block *block, int slot) {
    return (uint16_t *)block->staged + (int64_t)slot * block->padded_dim;
}

static void stage_key(da_key_block *block, const void *row, int64_t stride, da_dtype dtype, int key) {
    load_halves(row, stride, block->head_dim, key_row(block, key));
}

/* Returns whether the value is finite. */
static bool store_value(da_key_block *block, const void *value, int64_t stride, int key) {
    const __m512i exponent = _mm512_set1_epi32(0x7f807f80);
    uint16_t *staged = staged_value(block, key % PANEL_KEYS);
    __mmask32 beyond = 0;
    load_halves(value, stride, block->head_dim, staged);
    for (int c = 0; c < block->padded_dim; c += 32) {
        __mmask32 here = block->padded_dim - c < 32 ? 0xffff : 0xffffffff;
        __m512i halves = _mm512_and_si512(_mm512_maskz_loadu_epi16(here, staged + c), exponent);
        beyond |= _mm512_cmpeq_epi16_mask(halves, exponent);
    }
    return beyond == 0;
}

/* Makes a whole panel of rows as they lie, if it can: here values are turned, which are staged for it. */
static bool pack_rows(da_key_block *block, const da_key_source *source, const void *rows) {
    return false;
}

/* The staged values as panel `index`: component by component, a row of keys each. */
static void transpose_panel(da_key_block *block, int index) {
    uint16_t *panel = value_memory(block, index);
    for (int c = 0; c < block->padded_dim; c += 16) {
        vec pair[16]; /* of two bf16, which are moved and not looked into */
        for (int p = 0; p < 16; p++) {
            const __m256i *even = (const __m256i *)(const void *)(staged_value(block, 2 * p) + c);
            const __m256i *odd = (const __m256i *)(const void *)(staged_value(block, 2 * p + 1) + c);
            __m512i high = _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(odd)), 16);
            pair[p] = _mm512_castsi512_ps(_mm512_or_si512(_mm512_cvtepu16_epi32(_mm256_loadu_si256(even)), high));
        }
        vec_transpose(pair);
        for (int i = 0; i < 16; i++) {
            vec_store((real *)(void *)(panel + (c + i) * PANEL_KEYS), pair[i]);
        }
    }
}

static void clear_staged(da_key_block *block, int first_slot) {
    size_t slots = (size_t)(PANEL_KEYS - first_slot);
    memset(staged_value(block, first_slot), 0, slots * (size_t)block->padded_dim * sizeof(uint16_t));
    memset(key_row(block, block->count), 0, slots * (size_t)key_length(block->head_dim) * sizeof(uint16_t));
}

/* ---- scores ----------------------------------------------------------------------------------------------------- */

static real *score_row(const da_query_tile *tile, int key) {
    return (real *)tile->scores + key * VEC_LANES;
}

/* Weights of half of the queries for a pair of keys. */
static uint32_t *weight_row(const da_query_tile *tile, int half, int pair) {
    return (uint32_t *)tile->scores + (DA_BLOCK_KEYS + half * (DA_BLOCK_KEYS / 2) + pair) * VEC_LANES;
}

/* Products of a panel's keys with half of the queries, by tmm4-7. */
FORCE_INLINE void score_panel(const da_key_block *block, const da_query_tile *tile, int half, int panel) {
    const int length = key_length(block->head_dim);
    const size_t key_bytes = (size_t)length * sizeof(uint16_t);
    const char *keys = block->panel_keys[panel];
    const char *queries = (const char *)tile->queries + half * TILE_ROW;
    char *scores = (char *)score_row(tile, panel * PANEL_KEYS);
    _tile_zero(4);
    _tile_zero(5);
    for (int c = 0; c < length; c += 32) {
        _tile_loadd(7, queries, QUERY_ROW);
        _tile_loadd(6, keys, key_bytes);
        _tile_dpbf16ps(4, 6, 7);
        _tile_loadd(6, keys + 16 * key_bytes, key_bytes);
        _tile_dpbf16ps(5, 6, 7);
        keys += 64;
        queries += 16 * QUERY_ROW;
    }
    _tile_stored(4, scores, TILE_ROW);
    _tile_stored(5, scores + 16 * TILE_ROW, TILE_ROW);
    MEMORY_IS_CURRENT();
}

/* The largest score of each query, taken four keys at a time. */
typedef struct maxima {
    vec part[4];
} maxima;

/* Makes scores of products: times the factor, plus the bias, and -infinity where a pair does not see each other. */
static void finish_scores(const da_key_block *block, const da_query_tile *tile, int half, int panel, bool hides,
                          maxima *largest) {
    const vec factor = vec_set1((real)tile->score_factor);
    const real *bias = (const real *)tile->bias + panel * PANEL_KEYS;
    const int32_t *positions = block->positions + panel * PANEL_KEYS;
    const __m512i first = _mm512_loadu_si512(tile->first_visible + half * VEC_LANES);
    const __m512i last = _mm512_loadu_si512(tile->last_visible + half * VEC_LANES);
    real *scores = score_row(tile, panel * PANEL_KEYS);
    maxima reached = *largest;
    for (int key = 0; key < PANEL_KEYS; key += 4) {
        for (int i = 0; i < 4; i++) {
            vec score = vec_fma(vec_load(scores + (key + i) * VEC_LANES), factor, vec_set1(bias[key + i]));
            if (hides) {
                __m512i position = _mm512_set1_epi32(positions[key + i]);
                __mmask16 seen = _mm512_cmple_epi32_mask(first, position) & _mm512_cmple_epi32_mask(position, last);
                score = _mm512_mask_blend_ps(seen, vec_set1((real)-INFINITY), score);
            }
            vec_store(scores + (key + i) * VEC_LANES, score);
            reached.part[i] = vec_max(reached.part[i], score);
        }
    }
    *largest = reached;
}

/* ---- softmax ---------------------------------------------------------------------------------------------------- */

/* Weights of an even key and the odd one after it, rounded to bf16 (halves up): pairs. */
static inline __m512i weight_pairs(vec even, vec odd) {
    const __m512i half = _mm512_set1_epi32(0x8000);
    __m512i low = _mm512_srli_epi32(_mm512_add_epi32(_mm512_castps_si512(even), half), 16);
    __m512i high = _mm512_add_epi32(_mm512_castps_si512(odd), half);
    return _mm512_mask_blend_epi16(0xaaaaaaaa, low, high);
}

/* 2^x, as vec_exp2, with no test of its own for results below the normal range, which flush_subnormals makes 0. */
static inline vec weight_of(vec x) {
    vec fraction;
    vec whole = vec_split(x, &fraction);
    return _mm512_scalef_ps(vec_exp2_polynomial(fraction), whole);
}

/* Turns a panel's scores into weights 2^(score - reference), in pairs, and adds them up. */
FORCE_INLINE void weigh_panel(const da_query_tile *tile, int half, int panel, vec reference, vec total[2]) {
    const real *scores = score_row(tile, panel * PANEL_KEYS);
    uint32_t *weights = weight_row(tile, half, panel * PANEL_KEYS / 2);
    vec total_even = total[0], total_odd = total[1];
    for (int key = 0; key < PANEL_KEYS; key += 2) {
        vec even = weight_of(vec_sub(vec_load(scores), reference));
        vec odd = weight_of(vec_sub(vec_load(scores + VEC_LANES), reference));
        _mm512_storeu_si512(weights, weight_pairs(even, odd));
        total_even = vec_add(total_even, even);
        total_odd = vec_add(total_odd, odd);
        scores += 2 * VEC_LANES;
        weights += VEC_LANES;
    }
    total[0] = total_even;
    total[1] = total_odd;
}

/* Brings sums and accumulators of half of the queries to the maxima that their scores reached; returns what to measure
 * scores from. */
static vec raise_maximum(const da_query_tile *tile, int half, int padded_dim, const maxima *largest) {
    real *maximum = (real *)tile->maximum + half * VEC_LANES, *sum = (real *)tile->sum + half * VEC_LANES;
    real *accumulator = (real *)tile->accumulator + half * VEC_LANES;
    const vec *part = largest->part, before = vec_load(maximum);
    vec reached = vec_max(vec_max(part[0], part[1]), vec_max(part[2], part[3]));
    reached = vec_max(before, reached);
    /* While a query has seen no key its maximum is -infinity; any finite stand-in gives weights of 0. */
    __mmask16 none = _mm512_cmp_ps_mask(reached, vec_set1((real)-INFINITY), _CMP_EQ_OQ);
    __mmask16 grown = _mm512_cmp_ps_mask(reached, before, _CMP_GT_OQ);
    vec reference = _mm512_mask_blend_ps(none, reached, vec_set1(0));
    if (grown) {
        vec factor = _mm512_mask_blend_ps(grown, vec_set1(1), vec_exp2(vec_sub(before, reference)));
        vec_store(maximum, _mm512_mask_blend_ps(grown, before, reached));
        vec_store(sum, vec_mul(vec_load(sum), factor));
        for (int c = 0; c < padded_dim; c++) {
            vec_store(accumulator + c * TILE_ROWS, vec_mul(vec_load(accumulator + c * TILE_ROWS), factor));
        }
    }
    return reference;
}

/* ---- output ----------------------------------------------------------------------------------------------------- */

#define COLUMN_TILES 4 /* of the accumulator that are in registers (tmm0-3): 64 components of the values */

/* `tiles` tiles of half of the accumulator, from component `column` on. */
FORCE_INLINE void load_accumulator(const da_query_tile *tile, int half, int column, int tiles) {
    const char *at = (const char *)((const real *)tile->accumulator + column * TILE_ROWS + half * VEC_LANES);
    MEMORY_IS_CURRENT();
    _tile_loadd(0, at, QUERY_ROW);
    if (tiles > 1) {
        _tile_loadd(1, at + 16 * QUERY_ROW, QUERY_ROW);
    }
    if (tiles > 2) {
        _tile_loadd(2, at + 32 * QUERY_ROW, QUERY_ROW);
    }
    if (tiles > 3) {
        _tile_loadd(3, at + 48 * QUERY_ROW, QUERY_ROW);
    }
}

FORCE_INLINE void store_accumulator(const da_query_tile *tile, int half, int column, int tiles) {
    char *at = (char *)((real *)tile->accumulator + column * TILE_ROWS + half * VEC_LANES);
    _tile_stored(0, at, QUERY_ROW);
    if (tiles > 1) {
        _tile_stored(1, at + 16 * QUERY_ROW, QUERY_ROW);
    }
    if (tiles > 2) {
        _tile_stored(2, at + 32 * QUERY_ROW, QUERY_ROW);
    }
    if (tiles > 3) {
        _tile_stored(3, at + 48 * QUERY_ROW, QUERY_ROW);
    }
    MEMORY_IS_CURRENT();
}

/* Adds a panel's values times half of the queries' weights to tmm0-3, by tmm6-7. */
FORCE_INLINE void accumulate_panel(const da_key_block *block, const da_query_tile *tile, int half, int panel,
                                   int column, int tiles) {
    const size_t row = PANEL_KEYS * sizeof(uint16_t);
    const char *weights = (const char *)weight_row(tile, half, panel * PANEL_KEYS / 2);
    const char *values = (const char *)block->panel_values[panel] + (size_t)column * row;
    MEMORY_IS_CURRENT();
    _tile_loadd(7, weights, TILE_ROW);
    _tile_loadd(6, values, row);
    _tile_dpbf16ps(0, 6, 7);
    if (tiles > 1) {
        _tile_loadd(6, values + 16 * row, row);
        _tile_dpbf16ps(1, 6, 7);
    }
    if (tiles > 2) {
        _tile_loadd(6, values + 32 * row, row);
        _tile_dpbf16ps(2, 6, 7);
    }
    if (tiles > 3) {
        _tile_loadd(6, values + 48 * row, row);
        _tile_dpbf16ps(3, 6, 7);
    }
}

static int tiles_from(int column, int padded_dim) {
    int tiles = (padded_dim - column) / 16;
    return tiles < COLUMN_TILES ? tiles : COLUMN_TILES;
}

/* The same where a value is not finite and some weights are 0 because the pair does not see each other: 0 * NaN must not
 * reach a query that does not see the NaN. */
static void accumulate_seen_panel(const da_key_block *block, const da_query_tile *tile, int panel) {
    for (int r = 0; r < tile->rows; r++) {
        for (int j = panel * PANEL_KEYS; j < (panel + 1) * PANEL_KEYS && j < block->count; j++) {
            uint32_t pair = weight_row(tile, r / VEC_LANES, j / 2)[r % VEC_LANES];
            real weight = da_float_from_bf16((uint16_t)(j % 2 == 0 ? pair : pair >> 16));
            const uint16_t *value = (const uint16_t *)block->panel_values[panel] + j % PANEL_KEYS;
            for (int c = 0; weight != 0 && c < block->head_dim; c++) {
                ((real *)tile->accumulator)[c * TILE_ROWS + r] += weight * da_float_from_bf16(value[c * PANEL_KEYS]);
            }
        }
    }
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

/* The panels of a block that some row of a tile sees. */
typedef struct seen_panels {
    int count;
    uint8_t panel[MAX_PANELS];
    bool hides[MAX_PANELS]; /* from some row some of its keys */
    bool hides_any;
} seen_panels;

static seen_panels find_panels(const da_key_block *block, const da_query_tile *tile) {
    seen_panels seen = {0};
    visible_range range = range_of_tile(tile);
    for (int p = 0; p * PANEL_KEYS < block->count; p++) {
        panel_visibility visibility = visibility_of(block, &range, p);
        if (visibility != SEEN_BY_NONE) {
            seen.panel[seen.count] = (uint8_t)p;
            seen.hides[seen.count++] = visibility == SEEN_IN_PART;
            seen.hides_any = seen.hides_any || visibility == SEEN_IN_PART;
        }
    }
    return seen;
}

/* Scores of half of the queries (`scores`), and weights and output of the half before it (`outputs`): matrix products of
 * the one go on while vectors of the other are computed. Scores take the place of those that became weights, so that less
 * of the first-level cache is gone through; they are finished one panel late, so that no product is waited for. */
FORCE_INLINE void run_stage(const da_key_block *block, const da_query_tile *tile, const seen_panels *seen,
                            const bool scores, const bool outputs, int half, maxima *largest) {
    const int before = half - 1, padded_dim = block->padded_dim;
    const bool by_tiles = outputs && (block->values_finite || !seen->hides_any);
    const int tiles = tiles_from(0, padded_dim);
    vec reference = vec_set1(0), total[2] = {vec_set1(0), vec_set1(0)};
    if (outputs) {
        reference = raise_maximum(tile, before, padded_dim, largest);
    }
    if (by_tiles) {
        load_accumulator(tile, before, 0, tiles);
    }
    for (int i = 0; i < 4; i++) {
        largest->part[i] = vec_set1((real)-INFINITY);
    }
    for (int k = 0; k < seen->count; k++) {
        if (outputs) {
            weigh_panel(tile, before, seen->panel[k], reference, total);
        }
        if (scores) {
            score_panel(block, tile, half, seen->panel[k]);
        }
        if (by_tiles && k > 0) {
            accumulate_panel(block, tile, before, seen->panel[k - 1], 0, tiles);
        }
        if (scores && k > 0) {
            finish_scores(block, tile, half, seen->panel[k - 1], seen->hides[k - 1], largest);
        }
    }
    if (scores) {
        finish_scores(block, tile, half, seen->panel[seen->count - 1], seen->hides[seen->count - 1], largest);
    }
    if (by_tiles) {
        accumulate_panel(block, tile, before, seen->panel[seen->count - 1], 0, tiles);
        store_accumulator(tile, before, 0, tiles);
    }
    if (outputs) {
        real *sum = (real *)tile->sum + before * VEC_LANES;
        vec_store(sum, vec_add(vec_load(sum), vec_add(total[0], total[1])));
    }
}

/* The columns of the output that found no room in registers. */
static void accumulate_rest(const da_key_block *block, const da_query_tile *tile, const seen_panels *seen, int half) {
    for (int column = 16 * COLUMN_TILES; column < block->padded_dim; column += 16 * COLUMN_TILES) {
        int tiles = tiles_from(column, block->padded_dim);
        load_accumulator(tile, half, column, tiles);
        for (int k = 0; k < seen->count; k++) {
            accumulate_panel(block, tile, half, seen->panel[k], column, tiles);
        }
        store_accumulator(tile, half, column, tiles);
    }
}

/* Vector instructions make subnormal results 0, as the tiles' do: they would take a hundred times as long. Returns the
 * state to go back to. */
static unsigned flush_subnormals(void) {
    const unsigned flush_results = 0x8000, no_trap = 0x800;
    unsigned before = _mm_getcsr();
    _mm_setcsr(before | flush_results | no_trap);
    return before;
}

static void attend(const da_key_block *block, const da_query_tile *tile) {
    seen_panels seen = find_panels(block, tile);
    bool both = tile->rows > VEC_LANES;
    maxima largest;
    if (seen.count == 0) {
        return;
    }
    unsigned state = flush_subnormals();
    run_stage(block, tile, &seen, true, false, 0, &largest);
    if (both) {
        run_stage(block, tile, &seen, true, true, 1, &largest);
    }
    run_stage(block, tile, &seen, false, true, both ? 2 : 1, &largest);
    _mm_setcsr(state);
    if (seen.hides_any && !block->values_finite) {
        for (int k = 0; k < seen.count; k++) {
            accumulate_seen_panel(block, tile, seen.panel[k]);
        }
        return;
    }
    for (int half = 0; half <= both; half++) {
        accumulate_rest(block, tile, &seen, half);
    }
}

/* Turns a tile's accumulator into rows of padded_dim. */
static void finish_tile(void *accumulator, int padded_dim) {
    real *columns = accumulator, rows[TILE_ROWS * DA_MAX_HEAD_DIM];
    for (int c = 0; c < padded_dim; c += 16) {
        for (int half = 0; half < HALVES; half++) {
            vec part[VEC_LANES];
            for (int i = 0; i < VEC_LANES; i++) {
                part[i] = vec_load(columns + (c + i) * TILE_ROWS + half * VEC_LANES);
            }
            vec_transpose(part);
            for (int i = 0; i < VEC_LANES; i++) {
                vec_store(rows + (half * VEC_LANES + i) * padded_dim + c, part[i]);
            }
        }
    }
    memcpy(accumulator, rows, (size_t)(TILE_ROWS * padded_dim) * sizeof(real));
}

#include "kernels/amx/backward_bf16.inc.h"
