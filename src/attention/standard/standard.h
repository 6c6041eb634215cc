#ifndef DA_ATTENTION_STANDARD_H
#define DA_ATTENTION_STANDARD_H

#include "dilated_attention.h"

/* Queries of a tile, which is what a thread takes at a time, and keys that it loads at once. */
#define DA_STANDARD_TILE_ROWS 32
#define DA_STANDARD_TILE_KEYS 64

extern const da_implementation da_standard_implementation;

#endif
