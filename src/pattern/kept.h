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

/* The marked rows of a part, numbered in ascending order: two bits of memory a row. */
typedef struct da_kept {
    int64_t length;  /* rows of the part */
    int64_t count;   /* marked ones */
    uint64_t *bits;  /* one per row */
    int64_t *before; /* marked rows before each word of bits */
} da_kept;

/* Takes the memory for a part of `length` rows. */
void da_kept_lay_out(da_kept *kept, da_arena *arena, int64_t length);

/* No row is marked; da_kept_mark(..., kept->bits) may follow, for any number of heads. */
void da_kept_clear(da_kept *kept);

/* Numbers what was marked. */
void da_kept_number(da_kept *kept);

static inline int da_count_bits(uint64_t word) {
    /* Sums of neighbouring bits, of pairs, of fours, and by a product of all bytes. */
    word -= word >> 1 & UINT64_C(0x5555555555555555);
    word = (word & UINT64_C(0x3333333333333333)) + (word >> 2 & UINT64_C(0x3333333333333333));
    word = (word + (word >> 4)) & UINT64_C(0x0f0f0f0f0f0f0f0f);
    return (int)((word * UINT64_C(0x0101010101010101)) >> 56);
}

/* The number of a row among the marked ones; -1: it is not marked. */
static inline int64_t da_kept_index(const da_kept *kept, int64_t row) {
    uint64_t word = kept->bits[row / 64], bit = (uint64_t)1 << row % 64;
    return word & bit ? kept->before[row / 64] + da_count_bits(word & (bit - 1)) : -1;
}

#endif
