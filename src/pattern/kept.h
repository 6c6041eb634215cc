/* Which tokens of one rank the tokens of another need.
 *
 * `rows` and `columns` are what two ranks hold. By a pattern, a row sees the columns that it keeps in the row's segment, as
 * far as causality and the window let it. A stretch of rows, consecutive positions in one segment, therefore sees one range
 * of positions, at one residue modulo the rate; the ranges of all stretches ascend with the stretches. Both functions below
 * walk them: the time taken grows with the pieces of both parts and the segments that both touch, and marking with the
 * columns kept, never with rows times columns, and not with the tokens of other ranks. */
#ifndef DA_PATTERN_KEPT_H
#define DA_PATTERN_KEPT_H

#include "core/arena.h"
#include "pattern/layout.h"
#include "pattern/pattern.h"

/* Marks in `bits`, one bit per row of `columns`, exactly the rows that some row of `rows` sees by the patterns of one head.
 * reversed: `rows` are keys and `columns` the queries that see them. Returns how many it marked that were not marked
 * before, so that the marks of several heads add up. */
int64_t da_kept_mark(const da_head_patterns *patterns, const da_part *rows, const da_part *columns, bool reversed,
                     uint64_t *bits);

/* How many rows da_kept_mark would mark in empty bits. Where of any two rates one divides the other, no token is looked
 * at: a billion of them take no longer than their segments and pieces do. Otherwise those that are kept are. */
int64_t da_kept_count(const da_head_patterns *patterns, const da_part *rows, const da_part *columns, bool reversed);

/* The marked rows of a part, numbered in ascending order: as a bitmap of all rows or, where they are few, as a list, whichever
 * is smaller. So memory is at most two bits for each row of the part, and at most 12 bytes for each marked one (and what
 * rounding to lines of the cache adds). */
typedef struct da_kept {
    int64_t length;  /* rows of the part */
    int64_t count;   /* marked ones */
    uint64_t *bits;  /* NULL: there is a list, or no marked row; one per row */
    int64_t *before; /* marked rows before each word of bits */
    int64_t *rows;   /* the list */
    int64_t *firsts; /* the number of the first listed row of each 2^shift rows, and at the end `count` */
    int shift;
} da_kept;

/* Words of a bitmap of `length` rows. */
static inline size_t da_kept_words(int64_t length) {
    return (size_t)(length / 64 + (length % 64 != 0));
}

/* Takes the memory for `count` marked rows of a part of `length`. */
void da_kept_lay_out(da_kept *kept, da_arena *arena, int64_t length, int64_t count);

/* Bytes of that; 0 for no rows. */
size_t da_kept_bytes(int64_t length, int64_t count);

/* Takes the rows over that are marked in `bits`: as many as it was laid out for. */
void da_kept_fill(da_kept *kept, const uint64_t *bits);

static inline int da_count_bits(uint64_t word) {
    /* Sums of neighbouring bits, of pairs, of fours, and by a product of all bytes. */
    word -= word >> 1 & UINT64_C(0x5555555555555555);
    word = (word & UINT64_C(0x3333333333333333)) + (word >> 2 & UINT64_C(0x3333333333333333));
    word = (word + (word >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return (int)((word * UINT64_C(0x0101010101010101)) >> 56);
}

/* The number of a row in the list; -1: it is not there. */
static inline int64_t da_kept_find(const da_kept *kept, int64_t row) {
    if (kept->count == 0) {
        return -1;
    }
    const int64_t *firsts = kept->firsts + (row >> kept->shift);
    int64_t first = firsts[0], end = firsts[1];
    while (first < end) {
        int64_t middle = first + (end - first) / 2;
        if (kept->rows[middle] < row) {
            first = middle + 1;
        } else {
            end = middle;
        }
    }
    return first < firsts[1] && kept->rows[first] == row ? first : -1;
}

/* The number of a row among the marked ones; -1: it is not marked. */
static inline int64_t da_kept_index(const da_kept *kept, int64_t row) {
    if (!kept->bits) {
        return da_kept_find(kept, row);
    }
    uint64_t word = kept->bits[row / 64], bit = (uint64_t)1 << row % 64;
    return word & bit ? kept->before[row / 64] + da_count_bits(word & (bit - 1)) : -1;
}

/* The marked row number `number`, 0 <= number < count; `before` is the one before it, or -1. */
int64_t da_kept_next(const da_kept *kept, int64_t number, int64_t before);

#endif
