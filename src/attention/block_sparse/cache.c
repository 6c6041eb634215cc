#define _POSIX_C_SOURCE 200809L

#include "attention/block_sparse/cache.h"

#include <pthread.h>

#include "attention/block_sparse/lists.h"
#include "core/memory.h"

struct da_cached_tiles {
    int64_t n, heads;
    int64_t users; /* calls, and the cache itself while it keeps the list */
    int64_t last_use;
    da_tiles tiles;
};

struct da_tile_cache {
    const da_context *context;
    const da_attention_config *config;
    pthread_mutex_t lock;
    int64_t uses;
    da_cached_tiles *kept[DA_CACHED_SHAPES];
};

const da_tiles *da_cached_tiles_list(const da_cached_tiles *cached) {
    return &cached->tiles;
}

da_status da_tile_cache_create(const da_context *context, const da_attention_config *config, da_tile_cache **out) {
    da_tile_cache *cache = da_allocate(da_context_allocator(context), 1, sizeof *cache);
    if (!cache) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *cache = (da_tile_cache){.context = context, .config = config};
    pthread_mutex_init(&cache->lock, NULL);
    *out = cache;
    return DA_OK;
}

static void leave(const da_tile_cache *cache, da_cached_tiles *cached) {
    const da_allocator *allocator = da_context_allocator(cache->context);
    if (cached && --cached->users == 0) {
        da_tiles_release(&cached->tiles, allocator);
        da_release(allocator, cached);
    }
}

void da_tile_cache_free(da_tile_cache *cache) {
    if (cache) {
        for (int k = 0; k < DA_CACHED_SHAPES; k++) {
            leave(cache, cache->kept[k]);
        }
        pthread_mutex_destroy(&cache->lock);
        da_release(da_context_allocator(cache->context), cache);
    }
}

/* With the lock held: the list of a shape, for one more call; NULL if it is not kept. */
static da_cached_tiles *find(da_tile_cache *cache, int64_t n, int64_t heads) {
    for (int k = 0; k < DA_CACHED_SHAPES; k++) {
        da_cached_tiles *kept = cache->kept[k];
        if (kept && kept->n == n && kept->heads == heads) {
            kept->users++;
            kept->last_use = ++cache->uses;
            return kept;
        }
    }
    return NULL;
}

/* With the lock held: keeps a list in the place of none, or else of the one that was used longest ago. */
static void keep(da_tile_cache *cache, da_cached_tiles *cached) {
    int place = 0;
    for (int k = 1; k < DA_CACHED_SHAPES && cache->kept[place]; k++) {
        if (!cache->kept[k] || cache->kept[k]->last_use < cache->kept[place]->last_use) {
            place = k;
        }
    }
    leave(cache, cache->kept[place]);
    cached->users++;
    cached->last_use = ++cache->uses;
    cache->kept[place] = cached;
}

/* Of how many heads there are lists of their own. */
static int64_t heads_that_differ(const da_attention_config *config, const da_sparse_rule *rule, int64_t heads) {
    return da_sparse_heads_alike(config, rule) ? 1 : heads;
}

void da_tile_cache_workspace(const da_context *context, const da_attention_config *config, const da_problem *problem,
                             size_t *list, size_t *making) {
    const da_sparse_rule rule = {config->sparse_pattern, config->sparsity_ratio};
    const da_list_sizes sizes =
        da_sparse_list_sizes(config, problem, 1, heads_that_differ(config, &rule, problem->heads));
    *list = da_sparse_sum(da_sparse_list_bytes(&sizes), da_allocated_bytes(sizeof(da_cached_tiles)));
    *making = da_sparse_list_workspace(context, config, problem->n, sizes.rows);
}

static da_status make(const da_tile_cache *cache, int64_t n, int64_t heads, const da_call_options *options,
                      da_cached_tiles **out) {
    const da_attention_config *config = cache->config;
    const da_sparse_rule rule = {config->sparse_pattern, config->sparsity_ratio};
    const da_allocator *allocator = da_context_allocator(cache->context);
    da_cached_tiles *made = da_allocate(allocator, 1, sizeof *made);
    if (!made) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *made = (da_cached_tiles){.n = n, .heads = heads, .users = 1};
    int64_t different = heads_that_differ(config, &rule, heads);
    da_status status =
        da_sparse_list(cache->context, config, n, heads, 1, different, &rule, true, options, &made->tiles);
    if (status != DA_OK) {
        da_release(allocator, made);
        return status;
    }
    *out = made;
    return DA_OK;
}

/* Lists are made without the lock: of two calls that make the same one, the first to be done has it kept. */
da_status da_tile_cache_take(da_tile_cache *cache, int64_t n, int64_t heads, const da_call_options *options,
                             da_cached_tiles **out) {
    pthread_mutex_lock(&cache->lock);
    *out = find(cache, n, heads);
    pthread_mutex_unlock(&cache->lock);
    if (*out) {
        return DA_OK;
    }
    da_cached_tiles *made;
    da_status status = make(cache, n, heads, options, &made);
    if (status != DA_OK) {
        return status;
    }
    pthread_mutex_lock(&cache->lock);
    *out = find(cache, n, heads);
    if (*out) {
        leave(cache, made);
    } else {
        keep(cache, made);
        *out = made;
    }
    pthread_mutex_unlock(&cache->lock);
    return DA_OK;
}

void da_tile_cache_give_back(da_tile_cache *cache, da_cached_tiles *cached) {
    pthread_mutex_lock(&cache->lock);
    leave(cache, cached);
    pthread_mutex_unlock(&cache->lock);
}
