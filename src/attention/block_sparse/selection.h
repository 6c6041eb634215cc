/* The tiles of a call: given with it, kept from earlier calls, or chosen. */
#ifndef DA_BLOCK_SPARSE_SELECTION_H
#define DA_BLOCK_SPARSE_SELECTION_H

#include "attention/block_sparse/cache.h"

typedef struct da_sparse_selection {
    const da_tiles *tiles;
    bool *full; /* [batch][heads]: heads of which tiles leave nothing out */
    bool all_full;
    double seconds; /* that choosing took */
    da_tile_cache *cache;
    da_cached_tiles *cached; /* NULL: not of the cache */
    da_tiles own;            /* of this call alone; without columns: none */
} da_sparse_selection;

/* Chooses. options: as the checks of call.h leave them. To be released. Errors: DA_ERROR_INVALID_ARGUMENT (a mask of another
 * shape), DA_ERROR_OUT_OF_MEMORY, DA_ERROR_CANCELLED. */
da_status da_sparse_select(da_tile_cache *cache, const da_context *context, const da_attention_config *config,
                           const da_tensor *query, const da_tensor *key, const da_call_options *options,
                           da_sparse_selection *out);
void da_sparse_selection_release(da_sparse_selection *selection, const da_context *context);

/* Bytes, at most: while tiles are chosen; held by their lists and what is known of them from then on, while tiles are
 * computed; and of the lists that a backward pass transposes them to. Lists that come with a call are not among them. 0 for a problem of unknown length. */
typedef struct da_selection_memory {
    size_t choosing, held, transposed;
} da_selection_memory;

/* Tokens of a block of the tiles that a configuration leads to, where a call brings none. */
int64_t da_sparse_tile_block(const da_attention_config *config);

da_selection_memory da_sparse_select_memory(const da_context *context, const da_attention_config *config,
                                            const da_problem *problem);

#endif
