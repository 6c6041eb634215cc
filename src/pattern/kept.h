#ifndef DA_PATTERN_KEPT_H
#define DA_PATTERN_KEPT_H
#include "pattern/layout.h"
typedef struct da_kept { int64_t count; const uint64_t *bits; const int64_t *before; } da_kept;
static inline int64_t da_kept_index(const da_kept *kept, int64_t row) {
    uint64_t word = kept->bits[row / 64], bit = (uint64_t)1 << (row % 64);
    return word & bit ? kept->before[row / 64] + __builtin_popcountll(word & (bit - 1)) : -1;
}
typedef struct da_layout da_layout;
int64_t da_layout_find(const da_layout *layout, int64_t position, int64_t *row);
static inline int64_t da_part_row(const da_part *part, int64_t position) { return position - part->pieces->first + part->pieces->row; }
#endif
