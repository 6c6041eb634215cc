/* The two products by bf16 dot products (AVX512_BF16): each lane adds two products to a sum in f32. Components of queries
 * and keys, and weights and values of neighbouring keys, are packed in pairs:
 *   queries [pairs][TILE_ROWS], panels [pairs][PANEL_KEYS], pairs of components (2p, 2p + 1);
 *   values [key pairs][padded_dim], pairs of keys (2p, 2p + 1).
 * Queries are packed as they are, since a factor would have to be rounded; scores are multiplied by it in f32. Weights are
 * rounded to bf16 for the product with the values, and summed before that.
 * Included by attend.inc.h. */

#include "kernels/halves.h"

#define PACKED_SIZE sizeof(uint16_t)

/* ---- packing ---------------------------------------------------------------------------------------------------- */

static uint32_t pair_at(const uint16_t *halves, int pair) {
    return halves[2 * pair] | (uint32_t)halves[2 * pair + 1] << 16;
}

static int pair_count(int count) {
    return (count + 1) / 2;
}

static void pack_query(const void *query, int64_t stride, da_dtype dtype, int head_dim, double factor, int row,
                       void *queries) {
    uint16_t components[DA_MAX_HEAD_DIM + 1];
    load_halves(query, stride, head_dim, components);
    components[head_dim] = 0;
    for (int p = 0; p < pair_count(head_dim); p++) {
        ((uint32_t *)queries)[p * TILE_ROWS + row] = pair_at(components, p);
    }
}

static uint16_t *staged_row(da_key_block *block, int slot) {
    return (uint16_t *)block->staged + (int64_t)slot * block->padded_dim;
}

static void stage_key(da_key_block *block, const void *row, int64_t stride, da_dtype dtype, int key) {
    load_halves(row, stride, block->head_dim, staged_row(block, key % PANEL_KEYS));
}

static void clear_staged(da_key_block *block, int first_slot) {
    memset(staged_row(block, first_slot), 0,
           (size_t)(PANEL_KEYS - first_slot) * (size_t)block->padded_dim * sizeof(uint16_t));
}

static void *panel_memory(const da_key_block *block, int index) {
    return (uint32_t *)block->panels + (int64_t)index * pair_count(block->head_dim) * PANEL_KEYS;
}

static void *value_memory(const da_key_block *block, int index) {
    return (uint32_t *)block->values + (int64_t)index * block->padded_dim * (PANEL_KEYS / 2);
}

/* Turns rows, `step` bytes apart, into panel `index`. Pairs are moved as numbers in f32 are, whatever their bits say. What is
 * loaded beyond a row's pairs is not stored. */
static void transpose_rows(da_key_block *block, const void *rows, int64_t step, int index) {
    uint32_t *panel = panel_memory(block, index);
    int pairs = pair_count(block->head_dim);
    for (int key = 0; key < PANEL_KEYS; key += VEC_LANES) {
        const char *row = (const char *)rows + key * step;
        for (int p = 0; p < pairs; p += VEC_LANES) {
            vec square[VEC_LANES];
            for (int j = 0; j < VEC_LANES; j++) {
                square[j] = _mm512_loadu_ps((const void *)(row + j * step + 4 * p));
            }
            vec_transpose(square);
            for (int k = 0; k < VEC_LANES && p + k < pairs; k++) {
                _mm512_storeu_ps((void *)(panel + (p + k) * PANEL_KEYS + key), square[k]);
            }
        }
    }
}

/* Makes a whole panel of rows as they lie, if it can. */
static bool pack_rows(da_key_block *block, const da_key_source *source, const void *rows) {
    bool can = source->key_stride == 1 && block->head_dim % (2 * VEC_LANES) == 0;
    if (can) {
        transpose_rows(block, rows, source->key_step, block->count / PANEL_KEYS);
    }
    return can;
}

static void transpose_panel(da_key_block *block, int index) {
    transpose_rows(block, block->staged, block->padded_dim * (int64_t)sizeof(uint16_t), index);
}

/* Returns whether the value is finite. An even key leaves zeros in the place of its neighbour, which may not come. */
static bool store_value(da_key_block *block, const void *value, int64_t stride, int key) {
    uint16_t components[DA_MAX_HEAD_DIM];
    uint32_t *pairs = (uint32_t *)block->values + (int64_t)(key / 2) * block->padded_dim;
    uint32_t largest = 0, shift = key % 2 == 0 ? 0 : 16;
    int c = 0;
    load_halves(value, stride, block->head_dim, components);
    __m512i exponents = _mm512_setzero_si512(), exponent_bits = _mm512_set1_epi32(0x7f80);
    for (; c + VEC_LANES <= block->head_dim; c += VEC_LANES) {
        __m512i halves = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)(components + c)));
        __m512i before = shift == 0 ? _mm512_setzero_si512() : _mm512_loadu_si512(pairs + c);
        exponents = _mm512_max_epu32(exponents, _mm512_and_si512(halves, exponent_bits));
        _mm512_storeu_si512(pairs + c,
                            _mm512_or_si512(before, _mm512_sll_epi32(halves, _mm_cvtsi32_si128((int)shift))));
    }
    largest = _mm512_reduce_max_epu32(exponents);
    for (; c < block->head_dim; c++) {
        uint32_t half = components[c], exponent = half & 0x7f80u;
        pairs[c] = (shift == 0 ? 0 : pairs[c]) | half << shift;
        largest = exponent > largest ? exponent : largest;
    }
    return largest < 0x7f80u;
}

/* ---- scores ----------------------------------------------------------------------------------------------------- */

static inline vec dot_pairs(vec sum, __m512i a, __m512i b) {
    return _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b);
}

static void score_panel(const da_key_block *block, const da_query_tile *tile, int panel) {
    const uint32_t *queries = tile->queries, *keys = block->panel_keys[panel];
    const real *bias = (const real *)tile->bias + panel * PANEL_KEYS;
    real *scores = (real *)tile->scores + panel * PANEL_KEYS;
    vec sum[TILE_ROWS][PANEL_VECS], factor = vec_set1((real)tile->score_factor);
    for (int r = 0; r < TILE_ROWS; r++) {
        for (int v = 0; v < PANEL_VECS; v++) {
            sum[r][v] = vec_set1(0);
        }
    }
    for (int p = pair_count(block->head_dim); p > 0; p--) {
        __m512i key[PANEL_VECS];
        for (int v = 0; v < PANEL_VECS; v++) {
            key[v] = _mm512_loadu_si512(keys + v * VEC_LANES);
        }
        for (int r = 0; r < TILE_ROWS; r++) {
            __m512i query = _mm512_set1_epi32((int)queries[r]);
            for (int v = 0; v < PANEL_VECS; v++) {
                sum[r][v] = dot_pairs(sum[r][v], query, key[v]);
            }
        }
        keys += PANEL_KEYS;
        queries += TILE_ROWS;
    }
    for (int v = 0; v < PANEL_VECS; v++) {
        vec start = vec_load(bias + v * VEC_LANES);
        for (int r = 0; r < TILE_ROWS; r++) {
            vec_store(scores + r * DA_BLOCK_KEYS + v * VEC_LANES, vec_fma(sum[r][v], factor, start));
        }
    }
}

/* ---- weights ---------------------------------------------------------------------------------------------------- */

/* Weight `key` of a row of the tile, as bf16 in the row's memory: never ahead of the scores that are still to be read. */
static inline void store_weights(real *row, int key, vec weights) {
    _mm256_storeu_si256((__m256i *)(void *)((uint16_t *)(void *)row + key), (__m256i)_mm512_cvtneps_pbh(weights));
}

static const uint16_t *weight_row(const da_query_tile *tile, int row) {
    return (const uint16_t *)(const void *)((const real *)tile->scores + row * DA_BLOCK_KEYS);
}

/* ---- output ----------------------------------------------------------------------------------------------------- */

/* accumulator[:, columns] += weights[:, keys] * values[keys, columns] for `vecs` vectors of columns; values: from the first
 * pair on. */
FORCE_INLINE void accumulate_columns(const int vecs, const da_query_tile *tile, int first_pair, int end_pair,
                                     const uint32_t *values, int padded_dim, real *accumulator) {
    vec sum[TILE_ROWS][OUTPUT_VECS];
    for (int r = 0; r < TILE_ROWS; r++) {
        for (int v = 0; v < vecs; v++) {
            sum[r][v] = vec_load(accumulator + r * padded_dim + v * VEC_LANES);
        }
    }
    for (int p = first_pair; p < end_pair; p++) {
        __m512i value[OUTPUT_VECS];
        for (int v = 0; v < vecs; v++) {
            value[v] = _mm512_loadu_si512(values + (int64_t)(p - first_pair) * padded_dim + v * VEC_LANES);
        }
        for (int r = 0; r < TILE_ROWS; r++) {
            int pair;
            memcpy(&pair, weight_row(tile, r) + 2 * p, sizeof pair);
            __m512i weight = _mm512_set1_epi32(pair);
            for (int v = 0; v < vecs; v++) {
                sum[r][v] = dot_pairs(sum[r][v], weight, value[v]);
            }
        }
    }
    for (int r = 0; r < TILE_ROWS; r++) {
        for (int v = 0; v < vecs; v++) {
            vec_store(accumulator + r * padded_dim + v * VEC_LANES, sum[r][v]);
        }
    }
}

static void accumulate(const da_key_block *block, const da_query_tile *tile, int first_key, int end_key) {
    const uint32_t *values = block->panel_values[first_key / PANEL_KEYS];
    real *accumulator = tile->accumulator;
    int padded_dim = block->padded_dim;
    for (int column = 0; column < padded_dim; column += OUTPUT_VECS * VEC_LANES) {
        int vecs = (padded_dim - column) / VEC_LANES;
#define COLUMNS(count)                                                                                                 \
    accumulate_columns(count, tile, first_key / 2, pair_count(end_key), values + column, padded_dim,                   \
                       accumulator + column)
        switch (vecs < OUTPUT_VECS ? vecs : OUTPUT_VECS) {
        case 1: COLUMNS(1); break;
        case 2: COLUMNS(2); break;
        case 3: COLUMNS(3); break;
        case 4: COLUMNS(4); break;
        default: break;
        }
#undef COLUMNS
    }
}

/* The same where a value is not finite and some weights are 0 because the pair does not see each other: 0 * NaN must not
 * reach a query that does not see the NaN. */
static void accumulate_seen(const da_key_block *block, const da_query_tile *tile, int first_key, int end_key) {
    const uint16_t *values = block->panel_values[first_key / PANEL_KEYS];
    for (int r = 0; r < tile->rows; r++) {
        real *accumulator = (real *)tile->accumulator + (int64_t)r * block->padded_dim;
        for (int j = first_key; j < end_key; j++) {
            const uint16_t *halves = values + (int64_t)((j - first_key) / 2) * block->padded_dim * 2 + j % 2;
            real weight = da_float_from_bf16(weight_row(tile, r)[j]);
            for (int c = 0; weight != 0 && c < block->head_dim; c++) {
                accumulator[c] += weight * da_float_from_bf16(halves[2 * c]);
            }
        }
    }
}

#include "kernels/attend_rows.inc.h"
