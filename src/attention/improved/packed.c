#include "attention/improved/packed.h"

#include <string.h>

#include "core/compiler.h"
#include "core/dtype.h"
#include "core/numbers.h"
#include "core/tensor.h"

/* What packed columns take at a time, where a sequence's take no more. */
#define PACKED_BYTES (8 * 1024 * 1024)

bool da_columns_can_be_packed(const da_unit_cut *cut, const da_attention_config *config, int64_t tile_block) {
    bool can = tile_block > 0 && tile_block % cut->kernels->panel_keys == 0;
    for (size_t p = 0; p < config->segment_count; p++) {
        can = can && config->dilation_rates[p] == 1;
    }
    return can;
}

static size_t bytes_of_sequence(const da_packed_columns *packed) {
    return 2 * (size_t)packed->blocks * DA_BLOCK_KEYS * packed->column_bytes;
}

void da_packed_plan(da_packed_columns *packed, const da_unit_cut *cut, int64_t n, int64_t batch, int64_t heads,
                    int64_t least) {
    int64_t all = batch * heads;
    size_t components = (size_t)(cut->padded_dim + DA_WIDEST_STEP - 1) / DA_WIDEST_STEP * DA_WIDEST_STEP;
    packed->cut = cut;
    packed->n = n;
    packed->blocks = (packed->n - 1) / DA_BLOCK_KEYS + 1;
    packed->heads = heads;
    packed->column_bytes = components * cut->kernels->packed_size;
    int64_t fitting = (int64_t)(PACKED_BYTES / bytes_of_sequence(packed));
    packed->sequences = da_smaller(da_larger(da_larger(fitting, least), 1), all);
}

static int panels_of_block(const da_packed_columns *packed) {
    return DA_BLOCK_KEYS / packed->cut->kernels->panel_keys;
}

size_t da_packed_lay_out(da_packed_columns *packed, char *memory) {
    da_arena arena = {memory, 0};
    size_t blocks = (size_t)(packed->sequences * packed->blocks);
    packed->keys = da_arena_take(&arena, blocks * DA_BLOCK_KEYS, packed->column_bytes);
    packed->values = da_arena_take(&arena, blocks * DA_BLOCK_KEYS, packed->column_bytes);
    packed->panels = da_arena_take(&arena, blocks * (size_t)panels_of_block(packed), sizeof *packed->panels);
    packed->values_finite = da_arena_take(&arena, blocks, sizeof *packed->values_finite);
    return arena.used;
}

/* ---- packing ----------------------------------------------------------------------------------------------------- */

int64_t da_packed_parts(const da_packed_columns *packed) {
    return packed->count * packed->blocks;
}

/* Rows first..end-1 of one head lie far apart, where no hardware prefetcher follows. */
static void prefetch_rows(const da_tensor *tensor, int64_t batch, int64_t head, int64_t first, int64_t end) {
    size_t bytes = (size_t)tensor->shape[3] * da_dtype_size(tensor->dtype);
    for (int64_t row = first; row < end; row++) {
        const char *at = da_tensor_row(tensor, batch, row, head);
        for (size_t line = 0; line < bytes; line += DA_CACHE_LINE) {
            PREFETCH_FOR_LATER(at + line);
        }
    }
}

static void append_rows(const da_packed_columns *packed, const da_tensor *keys, const da_tensor *values, int64_t batch,
                        int64_t head, int64_t first, int64_t end, da_key_block *block) {
    da_key_source source = {.key_stride = keys->stride[3],
                            .value_stride = values->stride[3],
                            .key_step = keys->stride[1] * (int64_t)da_dtype_size(keys->dtype),
                            .value_step = values->stride[1] * (int64_t)da_dtype_size(values->dtype),
                            .dtype = keys->dtype};
    int panel_keys = packed->cut->kernels->panel_keys;
    for (int64_t row = first; row < end; row += panel_keys) {
        int64_t next = da_smaller(row + panel_keys, end), after = da_smaller(next + panel_keys, end);
        prefetch_rows(keys, batch, head, next, after);
        prefetch_rows(values, batch, head, next, after);
        source.key = da_tensor_row(keys, batch, row, head);
        source.value = da_tensor_row(values, batch, row, head);
        source.count = (int)(next - row);
        packed->cut->kernels->append_keys(block, &source);
    }
    packed->cut->kernels->close_block(block);
}

/* Heads of a token lie side by side: their parts come one after the other. */
void da_packed_fill(const da_packed_columns *packed, int64_t part, const da_key_block *scratch) {
    int64_t sequence = part % packed->count, number = part / packed->count;
    const da_tensor *tensors = packed->scope->sources->tensors;
    int64_t batch = (packed->first + sequence) / packed->heads, head = (packed->first + sequence) % packed->heads;
    size_t at = (size_t)(sequence * packed->blocks + number);
    int64_t first = number * DA_BLOCK_KEYS, end = da_smaller(first + DA_BLOCK_KEYS, packed->n);
    size_t bytes = DA_BLOCK_KEYS * packed->column_bytes;
    da_key_block block = *scratch;
    block.count = 0;
    block.panels = packed->keys + at * bytes;
    block.values = packed->values + at * bytes;
    if (packed->cut->clear_memory) {
        memset(block.panels, 0, bytes);
        memset(block.values, 0, bytes);
    }
    append_rows(packed, &tensors[DA_FIRST], &tensors[DA_SECOND], batch, head, first, end, &block);
    packed->values_finite[at] = block.values_finite;
    for (int p = 0; p < panels_of_block(packed); p++) {
        packed->panels[at * (size_t)panels_of_block(packed) + (size_t)p] =
            (da_packed_panel){block.panel_keys[p], block.panel_values[p]};
    }
}

/* ---- panels ------------------------------------------------------------------------------------------------------ */

const da_packed_panel *da_packed_panel_at(const da_packed_columns *packed, int64_t sequence, int64_t panel,
                                          bool *values_finite) {
    int64_t in_block = panels_of_block(packed), at = (sequence - packed->first) * packed->blocks * in_block + panel;
    *values_finite = packed->values_finite[at / in_block];
    return &packed->panels[at];
}
