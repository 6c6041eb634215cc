/* da_tile_mask: a caller's list of tiles. */
#include <inttypes.h>
#include <string.h>

#include "config/validation.h"
#include "core/memory.h"
#include "pattern/tiles.h"

struct da_tile_mask {
    da_allocator allocator;
    da_tiles tiles;
};

const da_tiles *da_tile_mask_tiles(const da_tile_mask *mask) {
    return mask ? &mask->tiles : NULL;
}

da_status da_tile_mask_take(da_tiles *tiles, const da_allocator *allocator, da_tile_mask **out) {
    da_tile_mask *mask = da_allocate(allocator, 1, sizeof *mask);
    if (!mask) {
        da_tiles_release(tiles, allocator);
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *mask = (da_tile_mask){allocator ? *allocator : (da_allocator){0}, *tiles};
    *tiles = (da_tiles){0};
    *out = mask;
    return DA_OK;
}

void da_tile_mask_free(da_tile_mask *mask) {
    if (mask) {
        da_allocator allocator = mask->allocator;
        da_tiles_release(&mask->tiles, &allocator);
        da_release(&allocator, mask);
    }
}

/* ---- checks ------------------------------------------------------------------------------------------------------ */

static da_status check_given(const void *pointer, const char *name, const char *allowed) {
    return pointer ? DA_OK : da_report(DA_ERROR_INVALID_ARGUMENT, "%s is NULL; allowed: %s", name, allowed);
}

static da_status check_shape(int64_t batch, int64_t heads, int64_t n, int64_t block_size) {
    const struct {
        const char *name;
        int64_t value, highest;
    } sizes[] = {{"batch", batch, (int64_t)1 << 24}, {"heads", heads, (int64_t)1 << 24}, {"n", n, (int64_t)1 << 48}};
    for (int k = 0; k < 3; k++) {
        if (sizes[k].value < 1 || sizes[k].value > sizes[k].highest) {
            return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is %" PRId64 "; allowed: 1 to %" PRId64, sizes[k].name,
                             sizes[k].value, sizes[k].highest);
        }
    }
    return da_check_tile_block("block_size", block_size);
}

/* Checks what both ways of making a mask are given; *out is then NULL. */
static da_status check_arguments(const da_allocator *allocator, int64_t batch, int64_t heads, int64_t n,
                                 int64_t block_size, da_tile_mask **out) {
    da_status status = check_given(out, "out", "a place for the mask");
    if (status == DA_OK) {
        *out = NULL;
        status = da_check_allocator(allocator);
    }
    return status == DA_OK ? check_shape(batch, heads, n, block_size) : status;
}

static da_status check_row(const da_tiles *shape, int64_t row, const int64_t *row_starts, const int32_t *columns) {
    if (row_starts[row + 1] < row_starts[row] || row_starts[row + 1] - row_starts[row] > shape->blocks) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "row_starts[%" PRId64 "] is %" PRId64 "; allowed: %" PRId64 ", as the row before, to %" PRId64
                         " more",
                         row + 1, row_starts[row + 1], row_starts[row], shape->blocks);
    }
    int64_t lowest = 0;
    for (int64_t k = row_starts[row]; k < row_starts[row + 1]; k++) {
        if (columns[k] < lowest || columns[k] >= shape->blocks) {
            return da_report(DA_ERROR_INVALID_ARGUMENT,
                             "columns[%" PRId64 "] is %" PRId32 "; allowed: %" PRId64 " to %" PRId64
                             ", ascending within row %" PRId64,
                             k, columns[k], lowest, shape->blocks - 1, row);
        }
        lowest = (int64_t)columns[k] + 1;
    }
    return DA_OK;
}

static da_status check_rows(const da_tiles *shape, const int64_t *row_starts, const int32_t *columns) {
    if (row_starts[0] != 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "row_starts[0] is %" PRId64 "; allowed: 0", row_starts[0]);
    }
    int64_t rows = da_tiles_rows(shape);
    if (!columns && row_starts[rows] != 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "columns is NULL; allowed: the blocks of keys of each row");
    }
    for (int64_t row = 0; row < rows; row++) {
        da_status status = check_row(shape, row, row_starts, columns);
        if (status != DA_OK) {
            return status;
        }
    }
    return DA_OK;
}

/* ---- making ------------------------------------------------------------------------------------------------------ */

da_status da_tile_mask_create(const da_allocator *allocator, int64_t batch, int64_t heads, int64_t n,
                              int64_t block_size, const uint8_t *kept, da_tile_mask **out) {
    da_tiles tiles;
    da_status status = check_arguments(allocator, batch, heads, n, block_size, out);
    if (status == DA_OK) {
        status = check_given(kept, "kept", "a byte for each tile");
    }
    if (status == DA_OK) {
        status = da_tiles_begin(&tiles, allocator, batch, heads, n, block_size);
    }
    if (status != DA_OK) {
        return status;
    }
    int64_t rows = da_tiles_rows(&tiles), blocks = tiles.blocks;
    for (int64_t row = 0; row < rows; row++) {
        int64_t count = 0;
        for (int64_t block = 0; block < blocks; block++) {
            count += kept[row * blocks + block] != 0;
        }
        tiles.row_starts[row + 1] = count;
    }
    status = da_tiles_place(&tiles, allocator);
    if (status != DA_OK) {
        return status;
    }
    int64_t next = 0;
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t block = 0; block < blocks; block++) {
            if (kept[row * blocks + block]) {
                tiles.columns[next++] = (int32_t)block;
            }
        }
    }
    return da_tile_mask_take(&tiles, allocator, out);
}

da_status da_tile_mask_create_csr(const da_allocator *allocator, int64_t batch, int64_t heads, int64_t n,
                                  int64_t block_size, const int64_t *row_starts, const int32_t *columns,
                                  da_tile_mask **out) {
    da_tiles tiles;
    da_status status = check_arguments(allocator, batch, heads, n, block_size, out);
    if (status == DA_OK) {
        status = check_given(row_starts, "row_starts", "where each row starts");
    }
    if (status == DA_OK) {
        status = da_tiles_begin(&tiles, allocator, batch, heads, n, block_size);
    }
    if (status != DA_OK) {
        return status;
    }
    status = check_rows(&tiles, row_starts, columns);
    if (status != DA_OK) {
        da_tiles_release(&tiles, allocator);
        return status;
    }
    for (int64_t row = 0; row < da_tiles_rows(&tiles); row++) {
        tiles.row_starts[row + 1] = row_starts[row + 1] - row_starts[row];
    }
    status = da_tiles_place(&tiles, allocator);
    if (status != DA_OK) {
        return status;
    }
    if (columns) {
        memcpy(tiles.columns, columns, (size_t)da_tiles_count(&tiles) * sizeof *columns);
    }
    return da_tile_mask_take(&tiles, allocator, out);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

void da_tile_mask_info_init(da_tile_mask_info *info) {
    if (info) {
        *info = (da_tile_mask_info){.size = sizeof *info};
    }
}

da_status da_tile_mask_get_info(const da_tile_mask *mask, da_tile_mask_info *info) {
    da_status status = check_given(mask, "mask", "a mask of tiles");
    if (status == DA_OK) {
        status = da_check_result(info, sizeof *info, "info");
    }
    if (status != DA_OK) {
        return status;
    }
    const da_tiles *tiles = &mask->tiles;
    *info = (da_tile_mask_info){
        .size = info->size,
        .batch = tiles->batch,
        .heads = tiles->heads,
        .n = tiles->n,
        .block_size = tiles->block_size,
        .blocks = tiles->blocks,
        .tiles = da_tiles_count(tiles),
        .row_starts = tiles->row_starts,
        .columns = tiles->columns,
    };
    return DA_OK;
}
