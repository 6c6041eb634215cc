#define _POSIX_C_SOURCE 200809L

#include "attention/block_sparse/selection.h"

#include <inttypes.h>

#include "attention/block_sparse/choose.h"
#include "attention/block_sparse/full.h"
#include "attention/block_sparse/lists.h"
#include "comm/clock.h"
#include "core/memory.h"

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

/* Which heads keep all that they have. */
static da_status find_full(const da_context *context, const da_attention_config *config, const da_tensor *query,
                           da_sparse_selection *out) {
    int64_t batch = query->shape[0], heads = query->shape[2];
    out->full = da_allocate(da_context_allocator(context), (size_t)(batch * heads), sizeof *out->full);
    if (!out->full) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    da_status status = da_sparse_find_full(context, config, out->tiles, batch, heads, out->full);
    out->all_full = true;
    for (int64_t sequence = 0; status == DA_OK && sequence < batch * heads; sequence++) {
        out->all_full = out->all_full && out->full[sequence];
    }
    return status;
}

da_status da_sparse_select(da_tile_cache *cache, const da_context *context, const da_attention_config *config,
                           const da_tensor *query, const da_tensor *key, const da_call_options *options,
                           da_sparse_selection *out) {
    *out = (da_sparse_selection){.cache = cache};
    da_status status;
    if (options->tiles) {
        status = take_mask(options->tiles, "options.tiles", query, out);
    } else {
        double begin = da_seconds();
        status = choose(cache, context, config, query, key, options, out);
        out->seconds = da_seconds() - begin;
    }
    if (status != DA_OK) {
        return status;
    }
    status = find_full(context, config, query, out);
    if (status != DA_OK) {
        da_sparse_selection_release(out, context);
    }
    return status;
}

int64_t da_sparse_tile_block(const da_attention_config *config) {
    return config->sparse_pattern == DA_SPARSE_MASK ? da_tile_mask_tiles(config->tile_mask)->block_size
                                                    : config->block_size;
}

/* Of lists that are there. */
static size_t bytes_of(const da_tiles *tiles) {
    const da_list_sizes sizes = {(size_t)da_tiles_rows(tiles), (size_t)da_tiles_count(tiles)};
    return da_sparse_list_bytes(&sizes);
}

static da_selection_memory memory_of_lists(const da_context *context, const da_attention_config *config,
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

da_selection_memory da_sparse_select_memory(const da_context *context, const da_attention_config *config,
                                            const da_problem *problem) {
    da_selection_memory memory = memory_of_lists(context, config, problem);
    if (problem->n > 0) {
        size_t bytes = da_sparse_product((size_t)(problem->batch * problem->heads), sizeof(bool));
        memory.held = da_sparse_sum(memory.held, da_allocated_bytes(bytes));
        size_t searching = da_sparse_full_workspace(context, config, problem, da_sparse_tile_block(config));
        size_t most = da_sparse_sum(memory.held, searching);
        memory.choosing = memory.choosing > most ? memory.choosing : most;
    }
    return memory;
}

void da_sparse_selection_release(da_sparse_selection *selection, const da_context *context) {
    if (selection->cached) {
        da_tile_cache_give_back(selection->cache, selection->cached);
    }
    da_tiles_release(&selection->own, da_context_allocator(context));
    da_release(da_context_allocator(context), selection->full);
}
