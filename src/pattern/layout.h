/* Which rank holds which tokens of a sequence, and as which rows. */
#ifndef DA_PATTERN_LAYOUT_H
#define DA_PATTERN_LAYOUT_H

#include "dilated_attention.h"

/* floor(k n / parts), without the product: where part k begins, and part k - 1 ends, of n divided evenly. */
static inline int64_t da_even_end(int64_t n, int64_t k, int64_t parts) {
    return n / parts * k + n % parts * k / parts;
}

/* Positions first..end-1 of the sequence; they are rows row, row + 1, ... of the part. */
typedef struct da_piece {
    int64_t first, end, row;
} da_piece;

/* What one rank holds: pieces in ascending order, none empty, no two of them adjacent. */
typedef struct da_part {
    int64_t length; /* rows */
    int64_t piece_count;
    const da_piece *pieces;
} da_part;

/* A piece, and who holds it. */
typedef struct da_held_piece {
    da_piece piece;
    int rank;
} da_held_piece;

/* The parts of all ranks. */
typedef struct da_layout {
    da_allocator allocator;
    int64_t n;
    int ranks;
    da_part *parts;          /* one per rank */
    da_piece *pieces;        /* of all parts */
    da_held_piece *in_order; /* of the sequence */
    int64_t piece_count;
    size_t bytes; /* of memory, all of it */
} da_layout;

/* A layout of n tokens: 0 <= n <= 2^48, 1 <= ranks <= 2^24. lengths: NULL, or the rows that each
 * rank brings, whose sum is n: with DA_PARTITION_CONTIGUOUS any, with the others those that the partition gives it. Memory: 56 bytes a piece, at most one piece per block of a striped sequence, two
 * per rank of a zigzag one. allocator NULL: the C library's. Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_OUT_OF_MEMORY;
 * *out is then NULL. */
da_status da_layout_create(const da_allocator *allocator, da_partition partition, int64_t stripe, int64_t n, int ranks,
                           const int64_t *lengths, da_layout **out);
void da_layout_free(da_layout *layout); /* NULL is allowed */

static inline const da_part *da_layout_part(const da_layout *layout, int rank) {
    return &layout->parts[rank];
}

/* The rank that holds a position, 0 <= position < n, and the row of its part. Takes the logarithm of all pieces. */
int da_layout_find(const da_layout *layout, int64_t position, int64_t *row);

/* The part of a single process, which holds all of n tokens; `piece` is the memory for its one piece. */
da_part da_part_whole(int64_t n, da_piece *piece);

/* Number of the first piece that ends beyond `position`; piece_count if none does. */
int64_t da_part_piece_after(const da_part *part, int64_t position);

/* The row of a position; -1: the part does not hold it. */
static inline int64_t da_part_row(const da_part *part, int64_t position) {
    int64_t k = 0;
    if (part->piece_count > 2) {
        k = da_part_piece_after(part, position);
    } else {
        while (k < part->piece_count && part->pieces[k].end <= position) {
            k++;
        }
    }
    if (k == part->piece_count || position < part->pieces[k].first) {
        return -1;
    }
    return part->pieces[k].row + (position - part->pieces[k].first);
}

/* The position of a row, 0 <= row < length. */
int64_t da_part_position(const da_part *part, int64_t row);

#endif
