/* The micro-kernels, written once over the operations of simd.h and compiled for each instruction set and type of sums.
 *
 * attend() is the whole of dilated attention's inner loop: scores of a query tile against the panels of a key block, the
 * running softmax, and the product with the values. The two products, and the packing that they read, come from
 * DA_PRODUCTS: products_real.inc.h, or a file of an instruction set's own. It defines pack_query, stage_key,
 * transpose_panel, store_value, clear_staged, score_panel, store_weights, accumulate and accumulate_seen. */
#include "kernels/kernels.h"
#include "kernels/simd.h"

#define PANEL_KEYS (PANEL_VECS * VEC_LANES)
#define MAX_PANELS (DA_BLOCK_KEYS / PANEL_KEYS)

_Static_assert(PANEL_KEYS >= DA_MIN_PANEL_KEYS && DA_BLOCK_KEYS % PANEL_KEYS == 0, "panels must fill a block");
_Static_assert(TILE_ROWS <= DA_MAX_TILE_ROWS, "a tile must fit da_query_tile");

#ifndef DA_PRODUCTS
#define DA_PRODUCTS "kernels/products_real.inc.h"
#endif
#include DA_PRODUCTS

/* ---- key blocks ------------------------------------------------------------------------------------------------- */

static void append_key(da_key_block *block, const da_key_source *source) {
    int key = block->count++, slot = key % PANEL_KEYS, panel = key / PANEL_KEYS;
    stage_key(block, source, slot);
    bool finite = store_value(block, source, key);
    block->positions[key] = source->position;
    block->values_finite = (key == 0 || block->values_finite) && finite;
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
    clear_staged(block, used);
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
