/* The tiles of a block of queries: which blocks of keys the patterns of a head let it see, and how much of each. */
#ifndef DA_PATTERN_TILE_ROW_H
#define DA_PATTERN_TILE_ROW_H

#include "pattern/pattern.h"

/* Both arrays have an element for each block of the sequence. */
typedef struct da_tile_row {
    double *pairs;    /* of a query of the block and a key that it sees, once for each pattern that holds the pair */
    uint8_t *pattern; /* of the patterns that hold some, the first with the smallest rate; 0 where there is none */
} da_tile_row;

/* Counts for queries block * block_size to (block + 1) * block_size - 1 or the end of the sequence. Exact up to 2^53, with
 * causality and the window. The time grows with the blocks, the segments that the queries touch and the blocks in these, and
 * not with tokens, but for the tiles that causality or an end of the window cuts. */
void da_tile_row_count(const da_head_patterns *patterns, int64_t block_size, int64_t block, da_tile_row *row);

#endif
