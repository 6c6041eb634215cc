/* Heads of which tiles leave nothing out: they are computed as without tiles. */
#ifndef DA_BLOCK_SPARSE_FULL_H
#define DA_BLOCK_SPARSE_FULL_H

#include "attention/workspace.h"
#include "pattern/tiles.h"

/* full[b * heads + h], of a call's batch elements and heads: every tile that the dilated pattern of the head has is among
 * `tiles`. The time grows with the tiles of such heads; of others, with those up to the first row that lacks some. Errors:
 * DA_ERROR_OUT_OF_MEMORY. */
da_status da_sparse_find_full(const da_context *context, const da_attention_config *config, const da_tiles *tiles,
                              int64_t batch, int64_t heads, bool *full);

/* Bytes that it allocates, for tiles of so many tokens. */
size_t da_sparse_full_workspace(const da_context *context, const da_attention_config *config, const da_problem *problem,
                                int64_t block_size);

#endif
