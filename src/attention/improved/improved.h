#ifndef DA_ATTENTION_IMPROVED_H
#define DA_ATTENTION_IMPROVED_H

#include "dilated_attention.h"

extern const da_implementation da_improved_implementation;

/* How `improved` would cut a problem. */
typedef struct da_improved_cut {
    int tile_rows, panel_keys, block_keys;
    int64_t unit, unit_count; /* per sequence */
    int threads;
    size_t unit_bytes; /* of a unit's packed queries and accumulators, gone through once per block of keys */
} da_improved_cut;

void da_improved_describe(const da_context *context, const da_attention_config *config, const da_problem *problem,
                          da_improved_cut *cut);

#endif
