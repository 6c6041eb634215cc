/* The two products in the type of sums (real), and the layouts that they read:
 *   queries [head_dim][TILE_ROWS], times the score factor; panels [head_dim][PANEL_KEYS]; values [keys][padded_dim].
 * Included by attend.inc.h. */

#include "kernels/rows.inc.h"

#define PACKED_SIZE sizeof(real)

/* ---- packing ---------------------------------------------------------------------------------------------------- */

static void pack_query(const void *query, int64_t stride, da_dtype dtype, int head_dim, double factor, int row,
                       void *queries) {
    real components[DA_MAX_HEAD_DIM], *out = queries;
    load_row(query, stride, dtype, head_dim, components);
    for (int c = 0; c < head_dim; c++) {
        out[c * TILE_ROWS + row] = components[c] * (real)factor;
    }
}

static void *panel_memory(const da_key_block *block, int index) {
    return (real *)block->panels + (int64_t)index * block->head_dim * PANEL_KEYS;
}

static void *value_memory(const da_key_block *block, int index) {
    return (real *)block->values + (int64_t)index * block->padded_dim * PANEL_KEYS;
}

/* Turns rows, `step` bytes apart, into panel `index`: component by component, a vector of keys each. */
static void transpose_rows(da_key_block *block, const void *rows, int64_t step, int index) {
    real *panel = panel_memory(block, index);
    for (int key = 0; key < PANEL_KEYS; key += VEC_LANES) {
        const char *row = (const char *)rows + key * step;
        for (int c = 0; c < block->head_dim; c += VEC_LANES) {
            vec square[VEC_LANES];
            for (int j = 0; j < VEC_LANES; j++) {
                square[j] = vec_load((const real *)(const void *)(row + j * step) + c);
            }
            vec_transpose(square);
            for (int k = 0; k < VEC_LANES && c + k < block->head_dim; k++) {
                vec_store(panel + (c + k) * PANEL_KEYS + key, square[k]);
            }
        }
    }
}

/* Makes a whole panel of rows as they lie, if it can. */
static bool pack_rows(da_key_block *block, const da_key_source *source, const void *rows) {
    bool can = source->key_stride == 1 && source->dtype == (DA_REAL_IS_DOUBLE ? DA_F64 : DA_F32) &&
               block->head_dim % VEC_LANES == 0;
    if (can) {
        transpose_rows(block, rows, source->key_step, block->count / PANEL_KEYS);
    }
    return can;
}

static void transpose_panel(da_key_block *block, int index) {
    transpose_rows(block, block->staged, block->padded_dim * (int64_t)sizeof(real), index);
}

/* Zeros, and NaN from then on if a number of a row is not finite. */
static inline vec add_zeros(vec zeros, const real *row, int padded_dim) {
    for (int c = 0; c < padded_dim; c += VEC_LANES) {
        zeros = vec_fma(vec_load(row + c), vec_set1(0), zeros);
    }
    return zeros;
}

static void stage_key(da_key_block *block, const void *row, int64_t stride, da_dtype dtype, int key) {
    load_row(row, stride, dtype, block->head_dim,
             (real *)block->staged + (int64_t)(key % PANEL_KEYS) * block->padded_dim);
}

/* Stores the values from..from + count - 1 of a source, which come next; returns whether they are finite. */
static bool store_values(da_key_block *block, const da_key_source *source, int from, int count) {
    const char *row = (const char *)source->value + from * source->value_step;
    real *stored = (real *)block->values + (int64_t)block->count * block->padded_dim;
    vec zeros = vec_set1(0);
    for (int k = 0; k < count; k++) {
        load_row(row, source->value_stride, source->dtype, block->head_dim, stored);
        zeros = add_zeros(zeros, stored, block->padded_dim);
        row += source->value_step;
        stored += block->padded_dim;
    }
    return vec_reduce_add(zeros) == 0;
}

static void clear_staged(da_key_block *block, int first_slot) {
    memset((real *)block->staged + (int64_t)first_slot * block->padded_dim, 0,
           (size_t)(PANEL_KEYS - first_slot) * (size_t)block->padded_dim * sizeof(real));
}

/* ---- scores ----------------------------------------------------------------------------------------------------- */

static void score_panel(const da_key_block *block, const da_query_tile *tile, int panel) {
    const real *queries = tile->queries;
    const real *keys = block->panel_keys[panel];
    const real *bias = (const real *)tile->bias + panel * PANEL_KEYS;
    real *scores = (real *)tile->scores + panel * PANEL_KEYS;
    vec sum[TILE_ROWS][PANEL_VECS];
    for (int v = 0; v < PANEL_VECS; v++) {
        vec start = vec_load(bias + v * VEC_LANES);
        for (int r = 0; r < TILE_ROWS; r++) {
            sum[r][v] = start;
        }
    }
    for (int c = 0; c < block->head_dim; c++) {
        vec key[PANEL_VECS];
        for (int v = 0; v < PANEL_VECS; v++) {
            key[v] = vec_load(keys + v * VEC_LANES);
        }
        for (int r = 0; r < TILE_ROWS; r++) {
            vec query = vec_set1(queries[r]);
            for (int v = 0; v < PANEL_VECS; v++) {
                sum[r][v] = vec_fma(query, key[v], sum[r][v]);
            }
        }
        keys += PANEL_KEYS;
        queries += TILE_ROWS;
    }
    for (int r = 0; r < TILE_ROWS; r++) {
        for (int v = 0; v < PANEL_VECS; v++) {
            vec_store(scores + r * DA_BLOCK_KEYS + v * VEC_LANES, sum[r][v]);
        }
    }
}

/* ---- weights ---------------------------------------------------------------------------------------------------- */

/* Weight `key` of a row of the tile, where the score was. */
static inline void store_weights(real *row, int key, vec weights) {
    vec_store(row + key, weights);
}

/* ---- output ----------------------------------------------------------------------------------------------------- */

/* accumulator[rows, columns] += weights[rows, keys] * values[keys, columns] for `vecs` vectors of columns. The weight of row
 * r and key j is weights[r * row_step + j * key_step]. */
FORCE_INLINE void accumulate_columns(const int rows, const int vecs, const real *weights, const int row_step,
                                     const int key_step, int first_key, int end_key, const real *values, int padded_dim,
                                     real *accumulator) {
    vec sum[TILE_ROWS][OUTPUT_VECS];
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < vecs; v++) {
            sum[r][v] = vec_load(accumulator + r * padded_dim + v * VEC_LANES);
        }
    }
    for (int j = first_key; j < end_key; j++) {
        vec value[OUTPUT_VECS];
        for (int v = 0; v < vecs; v++) {
            value[v] = vec_load(values + (int64_t)j * padded_dim + v * VEC_LANES);
        }
        for (int r = 0; r < rows; r++) {
            vec weight = vec_set1(weights[r * row_step + j * key_step]);
            for (int v = 0; v < vecs; v++) {
                sum[r][v] = vec_fma(weight, value[v], sum[r][v]);
            }
        }
    }
    for (int r = 0; r < rows; r++) {
        for (int v = 0; v < vecs; v++) {
            vec_store(accumulator + r * padded_dim + v * VEC_LANES, sum[r][v]);
        }
    }
}

/* The same for all columns. */
FORCE_INLINE void accumulate_rows(const int rows, const real *weights, const int row_step, const int key_step,
                                  int first_key, int end_key, const real *values, int padded_dim, real *accumulator) {
    for (int column = 0; column < padded_dim; column += OUTPUT_VECS * VEC_LANES) {
        int vecs = (padded_dim - column) / VEC_LANES;
#define COLUMNS(count)                                                                                                 \
    accumulate_columns(rows, count, weights, row_step, key_step, first_key, end_key, values + column, padded_dim,      \
                       accumulator + column)
        switch (vecs < OUTPUT_VECS ? vecs : OUTPUT_VECS) {
        case 1: COLUMNS(1); break;
        case 2: COLUMNS(2); break;
#if OUTPUT_VECS > 2
        case 3: COLUMNS(3); break;
        case 4: COLUMNS(4); break;
#endif
#if OUTPUT_VECS > 4
        case 5: COLUMNS(5); break;
        case 6: COLUMNS(6); break;
        case 7: COLUMNS(7); break;
        case 8: COLUMNS(8); break;
#endif
        default: break;
        }
#undef COLUMNS
    }
}

static void accumulate(const da_key_block *block, const da_query_tile *tile, int first_key, int end_key) {
    accumulate_rows(TILE_ROWS, (const real *)tile->scores + first_key, DA_BLOCK_KEYS, 1, 0, end_key - first_key,
                    block->panel_values[first_key / PANEL_KEYS], block->padded_dim, tile->accumulator);
}

/* The same where a value is not finite and some weights are 0 because the pair does not see each other: 0 * NaN must not
 * reach a query that does not see the NaN. */
static void accumulate_seen(const da_key_block *block, const da_query_tile *tile, int first_key, int end_key) {
    int padded_dim = block->padded_dim;
    const real *values = block->panel_values[first_key / PANEL_KEYS];
    for (int r = 0; r < tile->rows; r++) {
        real *accumulator = (real *)tile->accumulator + (int64_t)r * padded_dim;
        for (int j = first_key; j < end_key; j++) {
            const real *value = values + (int64_t)(j - first_key) * padded_dim;
            real weight = ((const real *)tile->scores)[r * DA_BLOCK_KEYS + j];
            for (int c = 0; weight != 0 && c < padded_dim; c += VEC_LANES) {
                vec_store(accumulator + c, vec_fma(vec_set1(weight), vec_load(value + c), vec_load(accumulator + c)));
            }
        }
    }
}

#include "kernels/attend_rows.inc.h"
#include "kernels/backward.inc.h"
#include "kernels/spread.inc.h"
#if !DA_REAL_IS_DOUBLE
#include "kernels/estimate.inc.h"
#endif
