#include "pattern/tiles.h"

#include <inttypes.h>
#include <string.h>

#include "core/memory.h"
#include "core/parallel.h"

da_status da_tiles_begin(da_tiles *tiles, const da_allocator *allocator, int64_t batch, int64_t heads, int64_t n,
                         int64_t block_size) {
    size_t rows;
    *tiles = (da_tiles){batch, heads, n, block_size, da_tile_blocks(n, block_size), NULL, NULL};
    if (tiles->blocks > DA_MAX_TILE_BLOCKS) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "n is %" PRId64 ", which is %" PRId64 " blocks of %" PRId64 "; allowed: up to %d blocks", n,
                         tiles->blocks, block_size, DA_MAX_TILE_BLOCKS);
    }
    if (!da_multiply_sizes((size_t)batch * (size_t)heads, (size_t)tiles->blocks, &rows) || rows > INT64_MAX / 64) {
        return da_report(DA_ERROR_OUT_OF_MEMORY, "could not allocate lists of %" PRId64 " x %" PRId64 " x %" PRId64,
                         batch, heads, tiles->blocks);
    }
    tiles->row_starts = da_allocate(allocator, rows + 1, sizeof *tiles->row_starts);
    if (!tiles->row_starts) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    tiles->row_starts[0] = 0;
    return DA_OK;
}

da_status da_tiles_place(da_tiles *tiles, const da_allocator *allocator) {
    int64_t rows = da_tiles_rows(tiles);
    for (int64_t row = 0; row < rows; row++) {
        tiles->row_starts[row + 1] += tiles->row_starts[row];
    }
    tiles->columns = da_allocate(allocator, (size_t)tiles->row_starts[rows], sizeof *tiles->columns);
    if (!tiles->columns) {
        da_tiles_release(tiles, allocator);
        return DA_ERROR_OUT_OF_MEMORY;
    }
    return DA_OK;
}

void da_tiles_release(da_tiles *tiles, const da_allocator *allocator) {
    da_release(allocator, tiles->row_starts);
    da_release(allocator, tiles->columns);
    tiles->row_starts = NULL;
    tiles->columns = NULL;
}

/* ---- transposed -------------------------------------------------------------------------------------------------- */

typedef struct transposition {
    const da_tiles *from;
    da_tiles *to;
} transposition;

/* Counts a sequence's tiles by columns. */
static void count_columns(int64_t sequence, int thread, void *user) {
    const transposition *job = user;
    int64_t first = sequence * job->from->blocks, blocks = job->from->blocks;
    int64_t *counts = job->to->row_starts + first + 1;
    memset(counts, 0, (size_t)blocks * sizeof *counts);
    for (int64_t k = job->from->row_starts[first]; k < job->from->row_starts[first + blocks]; k++) {
        counts[job->from->columns[k]]++;
    }
}

/* Rows are gone through in ascending order, and so are the columns that they become. Each start serves as the place of the
 * next tile, and so ends up where the next row starts. */
static void move_tiles(int64_t sequence, int thread, void *user) {
    const transposition *job = user;
    int64_t first = sequence * job->from->blocks, blocks = job->from->blocks, *next = job->to->row_starts + first;
    for (int64_t block = 0; block < blocks; block++) {
        for (int64_t k = job->from->row_starts[first + block]; k < job->from->row_starts[first + block + 1]; k++) {
            job->to->columns[next[job->from->columns[k]]++] = (int32_t)block;
        }
    }
    memmove(next + 1, next, (size_t)(blocks - 1) * sizeof *next);
    next[0] = job->from->row_starts[first];
}

da_status da_tiles_transpose(const da_tiles *tiles, const da_allocator *allocator, int threads, da_tiles *out) {
    transposition job = {tiles, out};
    da_status status = da_tiles_begin(out, allocator, tiles->batch, tiles->heads, tiles->n, tiles->block_size);
    if (status != DA_OK) {
        return status;
    }
    da_parallel_for(threads, tiles->batch * tiles->heads, count_columns, &job);
    status = da_tiles_place(out, allocator);
    if (status == DA_OK) {
        da_parallel_for(threads, tiles->batch * tiles->heads, move_tiles, &job);
    }
    return status;
}
