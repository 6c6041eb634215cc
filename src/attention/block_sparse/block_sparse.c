/* `block_sparse`: what `improved` computes, of chosen tiles alone. */
#define _POSIX_C_SOURCE 200809L

#include "attention/block_sparse/block_sparse.h"

#include "attention/block_sparse/lists.h"
#include "attention/block_sparse/measure.h"
#include "attention/block_sparse/report.h"
#include "attention/block_sparse/selection.h"
#include "attention/improved/passes.h"
#include "comm/clock.h"
#include "config/validation.h"

static da_status create(const da_context *context, const da_attention_config *config, void *user, void **state) {
    da_tile_cache *cache;
    da_status status = da_tile_cache_create(context, config, &cache);
    *state = status == DA_OK ? cache : NULL;
    return status;
}

static void destroy(void *state, void *user) {
    da_tile_cache_free(state);
}

/* ---- progress: of the choice, and then of its tiles ---------------------------------------------------------------- */

enum { CHOOSING = 200, ALL_PARTS = 1000 }; /* of reports */

/* A part of a call, of which the caller hears as of a part of the whole. */
typedef struct stage {
    da_progress report;
    void *user;
    int64_t first, end;
} stage;

static bool report_stage(int64_t finished, int64_t total, void *user) {
    const stage *s = user;
    return s->report(s->first + (s->end - s->first) * finished / total, ALL_PARTS, s->user);
}

/* Options for the stage; `s` lives as long as they are used. */
static da_call_options options_of(const da_call_options *options, int64_t first, int64_t end, stage *s) {
    da_call_options ours = *options;
    *s = (stage){options->progress, options->progress_user, first, end};
    ours.progress = options->progress ? report_stage : NULL;
    ours.progress_user = s;
    return ours;
}

static da_status select_tiles(void *cache, const da_context *context, const da_attention_config *config,
                              const da_tensor *query, const da_tensor *key, const da_call_options *options,
                              da_sparse_selection *out) {
    stage choosing;
    const da_call_options ours = options_of(options, 0, CHOOSING, &choosing);
    return da_sparse_select(cache, context, config, query, key, &ours, out);
}

/* ---- calls --------------------------------------------------------------------------------------------------------- */

static da_status check_report(const da_sparse_report *report) {
    return report ? da_check_result(report, sizeof *report, "sparse_report") : DA_OK;
}

/* Fills in what the caller wants to know. */
static da_status fill_report(const da_context *context, const da_attention_config *config, const da_tensor *query,
                             const da_tensor *key, const da_call_options *options, const da_sparse_selection *selection,
                             da_sparse_report *report) {
    if (!report) {
        return DA_OK;
    }
    size_t size = report->size;
    double begin = da_seconds();
    da_sparse_report_init(report);
    report->size = size;
    report->choose_seconds = selection->seconds;
    da_status status = da_sparse_count(context, config, selection->tiles, query->shape[0], query->shape[2], report);
    if (status == DA_OK) {
        status = da_sparse_measure(context, config, query, key, options, selection->tiles, report);
    }
    report->report_seconds = da_seconds() - begin;
    return status;
}

static da_status forward(void *state, const da_forward_call *call, void *user) {
    stage computing;
    da_sparse_selection selection;
    da_forward_call ours = *call;
    const da_call_options options = options_of(call->options, CHOOSING, ALL_PARTS, &computing);
    ours.options = &options;
    da_status status = check_report(call->options->sparse_report);
    if (status == DA_OK) {
        status = select_tiles(state, call->context, call->config, call->query, call->key, call->options, &selection);
    }
    if (status != DA_OK) {
        return status;
    }
    status = fill_report(call->context, call->config, call->query, call->key, call->options, &selection,
                         call->options->sparse_report);
    if (status == DA_OK) {
        status = da_improved_forward_tiles(&ours, selection.all_full ? NULL : selection.tiles, selection.full);
    }
    da_sparse_selection_release(&selection, call->context);
    return status;
}

static da_status backward(void *state, const da_backward_call *call, void *user) {
    const da_backward_tensors *t = call->tensors;
    const da_allocator *allocator = da_context_allocator(call->context);
    stage computing;
    da_sparse_selection selection;
    da_tiles transposed = {0};
    da_backward_call ours = *call;
    const da_call_options options = options_of(call->options, CHOOSING, ALL_PARTS, &computing);
    ours.options = &options;
    da_status status = select_tiles(state, call->context, call->config, t->query, t->key, call->options, &selection);
    if (status != DA_OK) {
        return status;
    }
    if (selection.all_full) {
        status = da_improved_backward_tiles(&ours, NULL, NULL, NULL);
    } else {
        status = da_tiles_transpose(selection.tiles, allocator, da_context_threads(call->context), &transposed);
        if (status == DA_OK) {
            status = da_improved_backward_tiles(&ours, selection.tiles, &transposed, selection.full);
        }
    }
    da_tiles_release(&transposed, allocator);
    da_sparse_selection_release(&selection, call->context);
    return status;
}

/* The same tiles that a forward call with these options would take, as a mask of the caller's. */
static da_status list_tiles(void *state, const da_forward_call *call, da_tile_mask **out, da_sparse_report *report,
                            void *user) {
    da_sparse_selection selection;
    da_status status = check_report(report);
    if (status == DA_OK) {
        status =
            da_sparse_select(state, call->context, call->config, call->query, call->key, call->options, &selection);
    }
    if (status != DA_OK) {
        return status;
    }
    const da_tiles *tiles = selection.tiles;
    status = fill_report(call->context, call->config, call->query, call->key, call->options, &selection, report);
    if (status == DA_OK) {
        status = da_tile_mask_create_csr(da_context_allocator(call->context), tiles->batch, tiles->heads, tiles->n,
                                         tiles->block_size, tiles->row_starts, tiles->columns, out);
    }
    da_sparse_selection_release(&selection, call->context);
    return status;
}

static size_t larger(size_t a, size_t b) {
    return a > b ? a : b;
}

/* A report is made before tiles are computed. */
static size_t report_workspace(const da_context *context, const da_attention_config *config,
                               const da_problem *problem) {
    int64_t block = da_sparse_tile_block(config);
    return problem->n == 0 ? 0
                           : larger(da_sparse_count_workspace(context, config, problem->n, block),
                                    da_sparse_measure_workspace(context, config, problem, block));
}

static size_t workspace(const da_context *context, const da_attention_config *config, const da_problem *problem,
                        void *user) {
    const da_selection_memory lists = da_sparse_select_memory(context, config, problem);
    size_t computing = larger(da_improved_tiles_workspace(context, config, problem, da_sparse_tile_block(config)),
                              da_improved_tiles_workspace(context, config, problem, 0));
    size_t most = larger(computing, report_workspace(context, config, problem));
    return larger(lists.choosing, da_sparse_sum(lists.held, most));
}

static size_t backward_workspace(const da_context *context, const da_attention_config *config,
                                 const da_problem *problem, void *user) {
    const da_selection_memory lists = da_sparse_select_memory(context, config, problem);
    size_t computing =
        larger(da_improved_tiles_backward_workspace(context, config, problem, da_sparse_tile_block(config)),
               da_improved_tiles_backward_workspace(context, config, problem, 0));
    return larger(lists.choosing, da_sparse_sum(da_sparse_sum(lists.held, lists.transposed), computing));
}

const da_implementation da_block_sparse_implementation = {
    .size = sizeof(da_implementation),
    .name = "block_sparse",
    .description = "The vector kernels on some tiles of the dilated pattern, chosen by a pattern, by content or by the "
                   "caller: approximate",
    .best_for = "speed where an approximation will do: O(n x s)",
    .memory =
        "that of improved, and lists of the tiles: 4 bytes a tile, 8 for each block of queries of a head; "
        "while choosing by content, pools of a head's queries and keys; packed keys and values of one head, or of "
        "some that take 8 MiB",
    .features = DA_FEATURE_ALL,
    .dtypes = DA_DTYPE_BITS_ALL,
    .create = create,
    .destroy = destroy,
    .forward = forward,
    .workspace = workspace,
    .backward = backward,
    .backward_workspace = backward_workspace,
    .tiles = list_tiles,
};
