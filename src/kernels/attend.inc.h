/* The micro-kernels, written once over the operations of simd.h and compiled for each instruction set and type of sums.
 *
 * attend() is the whole of dilated attention's inner loop: scores of a query tile against the panels of a key block, the
 * running softmax, and the product with the values. The two products, and the packing that they read, come from
 * DA_PRODUCTS: products_real.inc.h, or a file of an instruction set's own. It defines pack_query, panel_memory,
 * value_memory, pack_rows, stage_key, store_values, transpose_panel, clear_staged and attend (that of attend_rows.inc.h, or
 * its own), and DA_KERNELS_HOOKS where it needs optional members of the table. */
#include "kernels/kernels.h"
#include "kernels/simd.h"

#define PANEL_KEYS (PANEL_VECS * VEC_LANES)
#define MAX_PANELS (DA_BLOCK_KEYS / PANEL_KEYS)

_Static_assert(PANEL_KEYS >= DA_MIN_PANEL_KEYS && DA_BLOCK_KEYS % PANEL_KEYS == 0, "panels must fill a block");
_Static_assert(TILE_ROWS <= DA_MAX_TILE_ROWS, "a tile must fit da_query_tile");

/* ---- what a tile sees -------------------------------------------------------------------------------------------- */

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

/* How the rows of a tile see a panel. */
typedef enum panel_visibility { SEEN_BY_NONE, SEEN_IN_PART, SEEN_WHOLLY } panel_visibility;

static panel_visibility visibility_of(const da_key_block *block, const visible_range *range, int panel) {
    int32_t first = block->panel_first[panel], last = block->panel_last[panel];
    if (first > range->widest_last || last < range->widest_first) {
        return SEEN_BY_NONE;
    }
    return last > range->narrowest_last || first < range->narrowest_first ? SEEN_IN_PART : SEEN_WHOLLY;
}

#ifndef DA_PRODUCTS
#define DA_PRODUCTS "kernels/products_real.inc.h"
#endif
#include DA_PRODUCTS

/* ---- key blocks ------------------------------------------------------------------------------------------------- */

/* Says where the keys from..from + count - 1 of a source are that come next in the block's last panel, in ascending order. */
static void add_positions(da_key_block *block, const da_key_source *source, int from, int count) {
    int first = block->count, panel = first / PANEL_KEYS;
    int32_t position = source->position + from * source->position_step;
    uint32_t token = source->token + (uint32_t)from * (uint32_t)source->position_step;
    for (int k = 0; k < count; k++) {
        block->positions[first + k] = position + k * source->position_step;
        block->tokens[first + k] = token + (uint32_t)k * (uint32_t)source->position_step;
    }
    int32_t last = block->positions[first + count - 1];
    if (first % PANEL_KEYS == 0) {
        block->panel_keys[panel] = panel_memory(block, panel);
        block->panel_values[panel] = block->values ? value_memory(block, panel) : NULL;
        block->panel_first[panel] = position;
        block->panel_last[panel] = last;
    }
    block->panel_first[panel] = position < block->panel_first[panel] ? position : block->panel_first[panel];
    block->panel_last[panel] = last > block->panel_last[panel] ? last : block->panel_last[panel];
}

/* A panel at a time, or what is missing of one. */
static void append_keys(da_key_block *block, const da_key_source *source) {
    bool finite = block->count == 0 || block->values_finite;
    for (int from = 0, count; from < source->count; from += count) {
        int first = block->count, room = PANEL_KEYS - first % PANEL_KEYS, rest = source->count - from;
        const char *keys = (const char *)source->key + from * source->key_step;
        count = rest < room ? rest : room;
        bool packed = count == PANEL_KEYS && pack_rows(block, source, keys);
        for (int k = 0; k < count && !packed; k++) {
            stage_key(block, keys + k * source->key_step, source->key_stride, source->dtype, first + k);
        }
        if (source->value) {
            finite &= store_values(block, source, from, count);
        }
        if (count == room && !packed) {
            transpose_panel(block, first / PANEL_KEYS);
        }
        add_positions(block, source, from, count);
        block->count += count;
    }
    block->values_finite = finite;
}

static void close_block(da_key_block *block) {
    int used = block->count % PANEL_KEYS;
    if (used == 0) {
        return;
    }
    clear_staged(block, used);
    for (int key = block->count; key % PANEL_KEYS != 0; key++) {
        block->positions[key] = INT32_MAX; /* that no row sees: the score of a NaN is NaN in spite of the bias */
        block->tokens[key] = 0;
    }
    transpose_panel(block, block->count / PANEL_KEYS);
}

/* log2 of a key's multiplicity, which mostly is one of a few. */
static real logarithm_of(int multiplicity) {
    static const real few[] = {(real)-INFINITY, 0, 1, (real)1.58496250072115618145, 2};
    return multiplicity < (int)(sizeof few / sizeof *few) ? few[multiplicity] : (real)log2((double)multiplicity);
}

static void set_bias(const uint8_t *multiplicities, int count, void *bias) {
    real *out = bias;
    for (int key = 0; key < count; key++) {
        out[key] = logarithm_of(multiplicities[key]);
    }
    for (int key = count; key % PANEL_KEYS != 0; key++) {
        out[key] = (real)-INFINITY;
    }
}

static void store_row(const void *accumulator, double factor, da_dtype dtype, int head_dim, void *out, int64_t stride) {
    real row[DA_MAX_HEAD_DIM];
    bool as_it_is = stride == 1 && dtype == (DA_REAL_IS_DOUBLE ? DA_F64 : DA_F32);
    real *scaled = as_it_is ? out : row;
    for (int c = 0; c < head_dim; c++) {
        scaled[c] = ((const real *)accumulator)[c] * (real)factor;
    }
    if (as_it_is) {
        return;
    }
    int done = 0;
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
const da_kernels DA_KERNELS_NAME = {.isa = DA_KERNELS_ISA,
                                    .tile_rows = TILE_ROWS,
                                    .panel_keys = PANEL_KEYS,
                                    .vector_lanes = VEC_LANES,
                                    .real_size = sizeof(real),
                                    .packed_size = PACKED_SIZE,
                                    .pack_query = pack_query,
                                    .append_keys = append_keys,
                                    .close_block = close_block,
                                    .set_bias = set_bias,
                                    .attend = attend,
                                    .store_row = store_row,
#ifdef DA_KERNELS_HOOKS
                                    DA_KERNELS_HOOKS
#endif
#ifdef DA_ESTIMATE_HOOKS
                                        DA_ESTIMATE_HOOKS
#endif
};
