/* Lists of tiles: for each sequence (batch element and head) and each block of rows, the blocks of columns that are kept, in
 * ascending order. Rows are queries and columns keys or, transposed, the other way round. */
#ifndef DA_PATTERN_TILES_H
#define DA_PATTERN_TILES_H

#include "dilated_attention.h"

typedef struct da_tiles {
    int64_t batch, heads; /* 1: the same for all of a call */
    int64_t n, block_size;
    int64_t blocks;      /* ceil(n / block_size) */
    int64_t *row_starts; /* [batch * heads * blocks + 1] */
    int32_t *columns;    /* [row_starts[batch * heads * blocks]] */
} da_tiles;

/* Tokens at most: a block's number fits a column. */
#define DA_MAX_TILE_BLOCKS INT32_MAX

static inline int64_t da_tile_blocks(int64_t n, int64_t block_size) {
    return (n - 1) / block_size + 1;
}

static inline int64_t da_tiles_rows(const da_tiles *tiles) {
    return tiles->batch * tiles->heads * tiles->blocks;
}

static inline int64_t da_tiles_count(const da_tiles *tiles) {
    return tiles->row_starts[da_tiles_rows(tiles)];
}

/* The number of a block of rows among those of all sequences; b and h of the call. */
static inline int64_t da_tiles_row(const da_tiles *tiles, int64_t b, int64_t h, int64_t block) {
    return ((tiles->batch == 1 ? 0 : b) * tiles->heads + (tiles->heads == 1 ? 0 : h)) * tiles->blocks + block;
}

/* How lists are made: begin; the number of tiles of each row r to row_starts[r + 1]; place, which sums the numbers up and
 * allocates columns; then the columns. After an error nothing is held. batch, heads, n >= 1.
 * Errors: DA_ERROR_INVALID_ARGUMENT (more than DA_MAX_TILE_BLOCKS blocks), DA_ERROR_OUT_OF_MEMORY. */
da_status da_tiles_begin(da_tiles *tiles, const da_allocator *allocator, int64_t batch, int64_t heads, int64_t n,
                         int64_t block_size);
da_status da_tiles_place(da_tiles *tiles, const da_allocator *allocator);
void da_tiles_release(da_tiles *tiles, const da_allocator *allocator);

/* *out = rows for columns. Errors: DA_ERROR_OUT_OF_MEMORY. */
da_status da_tiles_transpose(const da_tiles *tiles, const da_allocator *allocator, int threads, da_tiles *out);

/* The tiles of a mask; NULL for NULL. */
const da_tiles *da_tile_mask_tiles(const da_tile_mask *mask);

/* A mask of tiles that it takes over: *tiles holds nothing then, whatever is returned. Errors: DA_ERROR_OUT_OF_MEMORY. */
da_status da_tile_mask_take(da_tiles *tiles, const da_allocator *allocator, da_tile_mask **out);

#endif
