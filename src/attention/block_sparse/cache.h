/* Lists of tiles that depend on the configuration and on the shape alone, kept by a handle from call to call. */
#ifndef DA_BLOCK_SPARSE_CACHE_H
#define DA_BLOCK_SPARSE_CACHE_H

#include "pattern/tiles.h"

/* Shapes whose lists are kept; of more, those used last. */
#define DA_CACHED_SHAPES 4

typedef struct da_tile_cache da_tile_cache;

/* A list in use by calls. */
typedef struct da_cached_tiles da_cached_tiles;

/* Errors: DA_ERROR_OUT_OF_MEMORY. context: must outlive the cache. */
da_status da_tile_cache_create(const da_context *context, const da_attention_config *config, da_tile_cache **out);
void da_tile_cache_free(da_tile_cache *cache); /* no list is in use; NULL is allowed */

/* The list of the configuration's pattern, none of content, mask and profile, for n tokens and so many heads of queries. To
 * be given back. Errors: as da_sparse_list. */
da_status da_tile_cache_take(da_tile_cache *cache, int64_t n, int64_t heads, const da_call_options *options,
                             da_cached_tiles **out);
void da_tile_cache_give_back(da_tile_cache *cache, da_cached_tiles *cached);

/* Bytes that a list takes at most, and that making it takes beside, for a problem of known length. */
void da_tile_cache_workspace(const da_context *context, const da_attention_config *config, const da_problem *problem,
                             size_t *list, size_t *making);

const da_tiles *da_cached_tiles_list(const da_cached_tiles *cached);

#endif
