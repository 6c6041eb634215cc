/* The micro-kernels, written once over the operations of simd.h and compiled for each instruction set and type of sums.
 *
 * attend() is the whole of dilated attention's inner loop: scores of a query tile against the panels of a key block, the
 * running softmax, and the product with the values. The multiplicity of a key enters as the starting value of its
 * scores, so that it costs nothing. */
#include "kernels/kernels.h"
#include "kernels/simd.h"

#define PANEL_KEYS (PANEL_VECS * VEC_LANES)
#define MAX_PANELS (DA_BLOCK_KEYS / PANEL_KEYS)

_Static_assert(PANEL_KEYS >= DA_MIN_PANEL_KEYS && DA_BLOCK_KEYS % PANEL_KEYS == 0, "panels must fill a block");
_Static_assert(TILE_ROWS <= DA_MAX_TILE_ROWS, "a tile must fit da_query_tile");

/* ---- packing ---------------------------------------------------------------------------------------------------- */

static void load_strided_row(const void *row, int64_t stride, da_dtype dtype, int count, real *out) {
    int64_t step = stride * (int64_t)da_dtype_size(dtype);
    for (int c = 0; c < count; c++) {
        out[c] = (real)da_dtype_load(dtype, (const char *)row + c * step);
    }
}

/* One row of a tensor as reals. */
static void load_row(const void *row, int64_t stride, da_dtype dtype, int count, real *out) {
    if (stride != 1) {
        load_strided_row(row, stride, dtype, count, out);
        return;
    }
#if DA_REAL_IS_DOUBLE
    memcpy(out, row, (size_t)count * sizeof(real));
#else
    const uint16_t *halves = row;
    int whole = count / VEC_LANES * VEC_LANES;
    if (dtype == DA_F32) {
        memcpy(out, row, (size_t)count * sizeof(real));
    } else if (dtype == DA_BF16) {
        for (int c = 0; c < whole; c += VEC_LANES) {
            vec_store(out + c, vec_load_bf16(halves + c));
        }
        load_strided_row(halves + whole, 1, dtype, count - whole, out + whole);
    } else {
        for (int c = 0; c < whole; c += VEC_LANES) {
            vec_store(out + c, vec_load_f16(halves + c));
        }
        load_strided_row(halves + whole, 1, dtype, count - whole, out + whole);
    }
#endif
}

static void pack_query(const void *query, int64_t stride, da_dtype dtype, int head_dim, double factor, int row,
                       void *queries) {
    real components[DA_MAX_HEAD_DIM], *out = queries;
    load_row(query, stride, dtype, head_dim, components);
    for (int c = 0; c < head_dim; c++) {
        out[c * TILE_ROWS + row] = components[c] * (real)factor;
    }
}

/* Turns the staged rows into panel `index`: component by component, a vector of keys each. */
static void transpose_panel(da_key_block *block, int index) {
    const real *staged = block->staged;
    real *panel = (real *)block->panels + (int64_t)index * block->head_dim * PANEL_KEYS;
    for (int c = 0; c < block->head_dim; c++) {
        for (int j = 0; j < PANEL_KEYS; j++) {
            panel[c * PANEL_KEYS + j] = staged[j * block->padded_dim + c];
        }
    }
}

static bool row_is_finite(const real *row, int padded_dim) {
    vec zero = vec_set1(0);
    for (int c = 0; c < padded_dim; c += VEC_LANES) {
        zero = vec_fma(vec_load(row + c), vec_set1(0), zero); /* NaN from then on if one is not finite */
    }
    return vec_reduce_add(zero) == 0;
}

static void append_key(da_key_block *block, const da_key_source *source) {
    int key = block->count++, slot = key % PANEL_KEYS, panel = key / PANEL_KEYS;
    real *value = (real *)block->values + (int64_t)key * block->padded_dim;
    load_row(source->key, source->key_stride, source->dtype, block->head_dim,
             (real *)block->staged + (int64_t)slot * block->padded_dim);
    load_row(source->value, source->value_stride, source->dtype, block->head_dim, value);
    block->positions[key] = source->position;
    block->values_finite = (key == 0 || block->values_finite) && row_is_finite(value, block->padded_dim);
    if (slot == 0 || source->position < block->panel_first[panel]) {
        block->panel_first[panel] = source->position;
    }
    if (slot == 0 || source->position > block->panel_last[panel]) {
        block->panel_last[panel] = source->position;
    }
    if (slot == PANEL_KEYS - 1) {
        transpose_panel(block, panel);
    }
}

static void close_block(da_key_block *block) {
    int used = block->count % PANEL_KEYS;
    if (used == 0) {
        return;
    }
    memset((real *)block->staged + (int64_t)used * block->padded_dim, 0,
           (size_t)(PANEL_KEYS - used) * (size_t)block->padded_dim * sizeof(real));
    for (int key = block->count; key % PANEL_KEYS != 0; key++) {
        block->positions[key] = 0;
    }
    transpose_panel(block, block->count / PANEL_KEYS);
}

static void set_bias(const uint8_t *multiplicities, int count, void *bias) {
    real *out = bias, logarithm = 0;
    for (int key = 0; key < count; key++) {
        if (key == 0 || multiplicities[key] != multiplicities[key - 1]) {
            logarithm = (real)log2((double)multiplicities[key]);
        }
        out[key] = logarithm;
    }
    for (int key = count; key % PANEL_KEYS != 0; key++) {
        out[key] = (real)-INFINITY;
    }
}

/* ---- scores ----------------------------------------------------------------------------------------------------- */

static void score_panel(const da_key_block *block, const da_query_tile *tile, int panel) {
    const real *queries = tile->queries;
    const real *keys = (const real *)block->panels + (int64_t)panel * block->head_dim * PANEL_KEYS;
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

/* Turns a row's scores into weights 2^(score - maximum), and brings its sum and accumulator to the new maximum. */
static void softmax_row(const da_query_tile *tile, int r, int padded_dim, const panel_run *runs, int run_count) {
    real *scores = (real *)tile->scores + r * DA_BLOCK_KEYS;
    real *maximum = (real *)tile->maximum + r, *sum = (real *)tile->sum + r;
    real *accumulator = (real *)tile->accumulator + (int64_t)r * padded_dim;
    vec largest = vec_set1(*maximum), total = vec_set1(0);
    for (int k = 0; k < run_count; k++) {
        for (int j = runs[k].first * PANEL_KEYS; j < runs[k].end * PANEL_KEYS; j += VEC_LANES) {
            largest = vec_max(largest, vec_load(scores + j));
        }
    }
    real reached = vec_reduce_max(largest);
    /* While a row has seen no key its maximum is -infinity; any finite stand-in gives weights of 0. */
    vec reference = vec_set1(reached == (real)-INFINITY ? 0 : reached);
    for (int k = 0; k < run_count; k++) {
        for (int j = runs[k].first * PANEL_KEYS; j < runs[k].end * PANEL_KEYS; j += VEC_LANES) {
            vec weight = vec_exp2(vec_sub(vec_load(scores + j), reference));
            vec_store(scores + j, weight);
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

/* ---- output ----------------------------------------------------------------------------------------------------- */

/* accumulator[:, columns] += weights[:, keys] * values[keys, columns] for `vecs` vectors of columns. */
FORCE_INLINE void accumulate_columns(const int vecs, const real *weights, int first_key, int end_key,
                                     const real *values, int padded_dim, real *accumulator) {
    vec sum[TILE_ROWS][OUTPUT_VECS];
    for (int r = 0; r < TILE_ROWS; r++) {
        for (int v = 0; v < vecs; v++) {
            sum[r][v] = vec_load(accumulator + r * padded_dim + v * VEC_LANES);
        }
    }
    for (int j = first_key; j < end_key; j++) {
        vec value[OUTPUT_VECS];
        for (int v = 0; v < vecs; v++) {
            value[v] = vec_load(values + (int64_t)j * padded_dim + v * VEC_LANES);
        }
        for (int r = 0; r < TILE_ROWS; r++) {
            vec weight = vec_set1(weights[r * DA_BLOCK_KEYS + j]);
            for (int v = 0; v < vecs; v++) {
                sum[r][v] = vec_fma(weight, value[v], sum[r][v]);
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
    const real *weights = tile->scores, *values = block->values;
    real *accumulator = tile->accumulator;
    int padded_dim = block->padded_dim;
    for (int column = 0; column < padded_dim; column += OUTPUT_VECS * VEC_LANES) {
        int vecs = (padded_dim - column) / VEC_LANES;
#define COLUMNS(count)                                                                                                 \
    accumulate_columns(count, weights, first_key, end_key, values + column, padded_dim, accumulator + column)
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

/* The same where a value is not finite and some weights are 0 because the pair does not see each other: 0 * NaN must not
 * reach a query that does not see the NaN. */
static void accumulate_seen(const da_key_block *block, const da_query_tile *tile, int first_key, int end_key) {
    int padded_dim = block->padded_dim;
    for (int r = 0; r < tile->rows; r++) {
        real *accumulator = (real *)tile->accumulator + (int64_t)r * padded_dim;
        for (int j = first_key; j < end_key; j++) {
            const real *value = (const real *)block->values + (int64_t)j * padded_dim;
            real weight = ((const real *)tile->scores)[r * DA_BLOCK_KEYS + j];
            for (int c = 0; weight != 0 && c < padded_dim; c += VEC_LANES) {
                vec_store(accumulator + c, vec_fma(vec_set1(weight), vec_load(value + c), vec_load(accumulator + c)));
            }
        }
    }
}

/* ---- the whole -------------------------------------------------------------------------------------------------- */

typedef struct visible_range {
    int32_t widest_first, widest_last;       /* what at least one row sees lies in here */
    int32_t narrowest_first, narrowest_last; /* what lies in here, all rows see */
} visible_range;

static visible_range range_of_tile(const da_query_tile *tile) {
    visible_range range = {tile->first_visible[0], tile->last_visible[0], tile->first_visible[0],
                           tile->last_visible[0]};
    for (int r = 1; r < tile->rows; r++) {
        int32_t first = tile->first_visible[r], last = tile->last_visible[r];
        range.widest_first = first < range.widest_first ? first : range.widest_first;
        range.widest_last = last > range.widest_last ? last : range.widest_last;
        range.narrowest_first = first > range.narrowest_first ? first : range.narrowest_first;
        range.narrowest_last = last < range.narrowest_last ? last : range.narrowest_last;
    }
    return range;
}

static void attend(const da_key_block *block, const da_query_tile *tile) {
    panel_run runs[MAX_PANELS];
    int run_count = 0, panel_count = (block->count + PANEL_KEYS - 1) / PANEL_KEYS;
    bool hides = false;
    visible_range range = range_of_tile(tile);
    for (int p = 0; p < panel_count; p++) {
        int32_t first = block->panel_first[p], last = block->panel_last[p];
        if (first > range.widest_last || last < range.widest_first) {
            continue; /* no row sees a key of it */
        }
        score_panel(block, tile, p);
        if (last > range.narrowest_last || first < range.narrowest_first) {
            mask_panel(block, tile, p);
            hides = true;
        }
        if (run_count > 0 && runs[run_count - 1].end == p) {
            runs[run_count - 1].end = p + 1;
        } else {
            runs[run_count++] = (panel_run){p, p + 1};
        }
    }
    for (int r = 0; r < tile->rows; r++) {
        softmax_row(tile, r, block->padded_dim, runs, run_count);
    }
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

static void store_row(const void *accumulator, double factor, da_dtype dtype, int head_dim, void *out, int64_t stride) {
    real row[DA_MAX_HEAD_DIM];
    for (int c = 0; c < head_dim; c++) {
        row[c] = ((const real *)accumulator)[c] * (real)factor;
    }
    int done = 0;
    if (stride == 1 && dtype == (DA_REAL_IS_DOUBLE ? DA_F64 : DA_F32)) {
        memcpy(out, row, (size_t)head_dim * sizeof(real));
        return;
    }
#if !DA_REAL_IS_DOUBLE
    if (stride == 1 && dtype == DA_F16) {
        for (; done + VEC_LANES <= head_dim; done += VEC_LANES) {
            vec_store_f16((uint16_t *)out + done, vec_load(row + done));
        }
    } else if (stride == 1 && dtype == DA_BF16) {
        for (; done < head_dim; done++) {
            ((uint16_t *)out)[done] = da_bf16_from_float(row[done]);
        }
    }
#endif
    int64_t step = stride * (int64_t)da_dtype_size(dtype);
    for (int c = done; c < head_dim; c++) {
        da_dtype_store(dtype, (char *)out + c * step, (double)row[c]);
    }
}

extern const da_kernels DA_KERNELS_NAME;
const da_kernels DA_KERNELS_NAME = {
    .isa = DA_KERNELS_ISA,
    .tile_rows = TILE_ROWS,
    .panel_keys = PANEL_KEYS,
    .vector_lanes = VEC_LANES,
    .real_size = sizeof(real),
    .pack_query = pack_query,
    .append_key = append_key,
    .close_block = close_block,
    .set_bias = set_bias,
    .attend = attend,
    .store_row = store_row,
};
