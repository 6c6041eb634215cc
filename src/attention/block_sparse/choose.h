/* Tiles chosen by content: for each head and block of queries those with the most attention, estimated from pooled queries
 * and keys (pool.h, estimate.h), corrected by exact attention of a few sampled queries (sample.h). */
#ifndef DA_BLOCK_SPARSE_CHOOSE_H
#define DA_BLOCK_SPARSE_CHOOSE_H

#include "pattern/tiles.h"

/* Chooses for every batch element and head, for sparse_pattern content and profile, and for those that do not look at data if
 * quality_target is below 1.
 *
 * By content without a target, and by content in a profile, each row keeps da_sparse_kept() tiles, those with the largest
 * estimates. By content with a target, a head keeps the tiles whose estimated attention, divided by what they cost (da_tile_cost in
 * learn.h), is at or above a threshold, and of each row one at least: the highest threshold with which sampled queries of the head keep the
 * target in the mean, with one standard error to spare. Other patterns get the smallest ratio that does so, in thousandths.
 * With a target, a head keeps all tiles where those that keep it would cost no less than all pairs do without tiles.
 *
 * The result depends on query, key, configuration and the options' padding alone, but for rounding, and not on threads. The
 * caller owns *out (da_tiles_release with the context's allocator). Errors: DA_ERROR_INVALID_ARGUMENT (more blocks than fit, a
 * profile of another number of heads), DA_ERROR_OUT_OF_MEMORY, DA_ERROR_CANCELLED. */
da_status da_sparse_choose(const da_context *context, const da_attention_config *config, const da_tensor *query,
                           const da_tensor *key, const da_call_options *options, da_tiles *out);

/* Bytes that it allocates at most, the lists of tiles among them, for a problem of known length. */
size_t da_sparse_choose_workspace(const da_context *context, const da_attention_config *config,
                                  const da_problem *problem);

#endif
