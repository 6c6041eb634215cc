/* Who holds what: the tokens of a sequence, divided among ranks. */
#ifndef DA_PATTERN_LAYOUT_H
#define DA_PATTERN_LAYOUT_H

#include "dilated_attention.h"

/* Positions first..end-1, which are the rows row, row + 1, ... of a part. */
typedef struct da_piece {
    int64_t first, end, row;
} da_piece;

/* The tokens that one rank holds, in ascending order. */
typedef struct da_part {
    int64_t length;
    int64_t piece_count;
    const da_piece *pieces;
} da_part;

#endif
