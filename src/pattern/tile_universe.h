/* The tiles that a dilated pattern has: the universe from which some are kept. */
#ifndef DA_PATTERN_TILE_UNIVERSE_H
#define DA_PATTERN_TILE_UNIVERSE_H

#include "pattern/pattern.h"

/* The blocks of keys in which some query of block `row` sees a key, causality and the window applied, in ascending order.
 * Returns how many. marks: [blocks], all zero, and zero again afterwards; columns: [blocks], or NULL to count only. The time
 * grows with the segments that the row's block meets, and with the blocks between the first and the last column. */
int64_t da_tile_universe(const da_head_patterns *patterns, int64_t block_size, int64_t row, uint8_t *marks,
                         int32_t *columns);

#endif
