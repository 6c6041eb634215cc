#define _POSIX_C_SOURCE 200809L

#include "attention/block_sparse/selection.h"

#include <inttypes.h>

#include "attention/block_sparse/choose.h"
#include "attention/block_sparse/lists.h"
#include "comm/clock.h"

/* A mask must be of the call's shape. */
static da_status take_mask(const da_tile_mask *mask, const char *name, const da_tensor *query,
                           da_sparse_selection *out) {
    const da_tiles *tiles = da_tile_mask_tiles(mask);
    const struct {
        const char *what;
        int64_t of_mask, of_call;
        bool may_be_one;
    } sizes[] = {{"batch", tiles->batch, query->shape[0], true},
                 {"n", tiles->n, query->shape[1], false},
                 {"heads", tiles->heads, query->shape[2], true}};
    for (int k = 0; k < 3; k++) {
        if (sizes[k].of_mask != sizes[k].of_call && !(sizes[k].may_be_one && sizes[k].of_mask == 1)) {
            return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is of %s %" PRId64 "; allowed: %" PRId64 ", as query%s",
                             name, sizes[k].what, sizes[k].of_mask, sizes[k].of_call,
                             sizes[k].may_be_one ? ", or 1" : "");
        }
    }
    out->tiles = tiles;
    return DA_OK;
}

static bool looks_at_data(const da_attention_config *config) {
    return config->sparse_pattern == DA_SPARSE_CONTENT || config->sparse_pattern == DA_SPARSE_PROFILE ||
           (config->quality_target < 1 && config->sparse_pattern != DA_SPARSE_MASK);
}

static da_status choose(da_tile_cache *cache, const da_context *context, const da_attention_config *config,
                        const da_tensor *query, const da_tensor *key, const da_call_options *options,
                        da_sparse_selection *out) {
    if (config->sparse_pattern == DA_SPARSE_MASK) {
        return take_mask(config->tile_mask, "tile_mask", query, out);
    }
    da_status status;
    if (looks_at_data(config)) {
        status = da_sparse_choose(context, config, query, key, options, &out->own);
        out->tiles = &out->own;
    } else {
        status = da_tile_cache_take(cache, query->shape[1], query->shape[2], options, &out->cached);
        out->tiles = status == DA_OK ? da_cached_tiles_list(out->cached) : NULL;
    }
    return status;
}

da_status da_sparse_select(da_tile_cache *cache, const da_context *context, const da_attention_config *config,
                           const da_tensor *query, const da_tensor *key, const da_call_options *options,
                           da_sparse_selection *out) {
    *out = (da_sparse_selection){.cache = cache};
    if (options->tiles) {
        return take_mask(options->tiles, "options.tiles", query, out);
    }
    double begin = da_seconds();
    da_status status = choose(cache, context, config, query, key, options, out);
    out->seconds = da_seconds() - begin;
    return status;
}

/* Of lists that are there. */
static size_t bytes_of(const da_tiles *tiles) {
    const da_list_sizes sizes = {(size_t)da_tiles_rows(tiles), (size_t)da_tiles_count(tiles)};
    return da_sparse_list_bytes(&sizes);
}

da_selection_memory da_sparse_select_memory(const da_context *context, const da_attention_config *config,
                                            const da_problem *problem) {
    da_selection_memory memory = {0};
    if (config->sparse_pattern == DA_SPARSE_MASK) {
        memory.transposed = bytes_of(da_tile_mask_tiles(config->tile_mask));
    } else if (problem->n == 0) {
        return memory;
    } else if (looks_at_data(config)) {
        const da_list_sizes sizes = da_sparse_list_sizes(config, problem, problem->batch, problem->heads);
        memory.choosing = da_sparse_choose_workspace(context, config, problem);
        memory.held = memory.transposed = da_sparse_list_bytes(&sizes);
    } else {
        size_t making;
        da_tile_cache_workspace(context, config, problem, &memory.held, &making);
        memory.choosing = da_sparse_sum(memory.held, making);
        memory.transposed = memory.held;
    }
    return memory;
}

void da_sparse_selection_release(da_sparse_selection *selection, const da_context *context) {
    if (selection->cached) {
        da_tile_cache_give_back(selection->cache, selection->cached);
    }
    da_tiles_release(&selection->own, da_context_allocator(context));
}
