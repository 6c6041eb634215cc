/* `run` from inputs to files: whole, by blocks, or over ranks. */
#include <string.h>

#include "clock.h"
#include "interrupt.h"
#include "output.h"
#include "progress.h"
#include "run.h"

static bool on_progress(int64_t finished, int64_t total, void *user) {
    progress_update(user, finished, total);
    return interrupt_signal() == 0;
}

static int interrupted(void) {
    cli_fail(RUN, "interrupted; nothing was written");
    return 128 + interrupt_signal();
}

static int compute_whole(run_state *state, const da_call_options *forward) {
    da_status status =
        da_attention_forward(state->attention, &state->q.view, &state->k.view, &state->v.view, &state->written.out,
                             state->written.has_lse ? &state->written.lse : NULL, forward);
    if (interrupt_signal() != 0) {
        return interrupted();
    }
    ranks_blame(state->ranks, status);
    return status == DA_OK ? CLI_CONTINUE : cli_fail(RUN, "%s", da_last_error_message());
}

static int compute(const run_options *options, run_state *state) {
    progress bar = progress_start("attention", !options->quiet && state->ranks->rank == 0);
    da_call_options forward;
    da_call_options_init(&forward);
    forward.key_lengths = options->lengths.count != 0 ? options->lengths.values : NULL;
    forward.key_mask = state->mask.data;
    memcpy(forward.key_mask_stride, state->mask.stride, sizeof(forward.key_mask_stride));
    forward.progress = on_progress;
    forward.progress_user = &bar;
    da_sparse_report_init(&state->sparse);
    forward.sparse_report = options->quiet && !options->json ? NULL : &state->sparse;
    double start = cli_now();
    int code = state->blocks.state.block > 0 ? blocks_run(&state->blocks, &forward) : compute_whole(state, &forward);
    /* What the report takes is no part of it. */
    state->seconds = state->ranks->mine.seconds = cli_now() - start - state->sparse.report_seconds;
    progress_end(&bar);
    return code;
}

/* ---- by blocks --------------------------------------------------------------------------------------------------- */

/* Whether the run is by blocks, and if so, how long they are; 0 where it is to be read from what is resumed. */
static int prepare_blocks(const run_options *options, run_state *state, int64_t *block) {
    const blocks_wish *wish = &options->blocks;
    *block = 0;
    state->blocks = (blocks){.command = RUN,
                             .config = &state->config,
                             .context = state->context,
                             .problem = &state->problem,
                             .attention = state->attention,
                             .q = &state->q,
                             .k = &state->k,
                             .v = &state->v,
                             .mask = &state->mask,
                             .written = &state->written};
    if (!blocks_are_wished(wish)) {
        return CLI_CONTINUE;
    }
    const char *name = da_attention_implementation(state->attention);
    const char *option = wish->resume ? "--resume" : wish->block > 0 ? "--block" : "--memory";
    if (ranks_several(state->ranks)) {
        return cli_usage(RUN, "%s: there are %d ranks, each rank's part being a block; allowed: one process", option,
                         state->ranks->ranks);
    }
    if (strcmp(name, "ring") != 0) {
        return cli_usage(RUN, "%s: the implementation is %s; allowed: ring, which alone works by blocks", option, name);
    }
    return wish->resume ? CLI_CONTINUE : blocks_choose(&state->blocks, wish, options->lse != NULL, block);
}

/* Begins the state of partial results, or reads that of those to be resumed. */
static int open_state(const run_options *options, run_state *state, int64_t block) {
    const partial_subject subject = {
        &state->config,    state->context,    &state->problem,     options->order, {&state->q, &state->k, &state->v},
        options->key_mask, &options->lengths, options->lse != NULL};
    partial *kept = &state->blocks.state;
    if (!options->blocks.resume) {
        return partial_begin(kept, RUN, &state->written, &subject, block);
    }
    int code = partial_resume(kept, RUN, &state->written, &subject);
    return code == CLI_CONTINUE ? blocks_check_resumed(&state->blocks, &options->blocks, options->lse != NULL) : code;
}

/* What was computed by blocks stays where it can be resumed. */
static void leave_results(const run_options *options, run_state *state) {
    if (state->written.kind == RESULTS_RESUMED || state->blocks.state.finished > 0) {
        results_keep(&state->written);
    } else {
        results_abandon(&state->written);
        partial_remove(&state->blocks.state);
    }
}

/* ---- files ------------------------------------------------------------------------------------------------------- */

/* Signals are only recorded while temporary files come and go, so that none is left by one that strikes in between. What
 * can be resumed is not removed by one. */
static int open_own_outputs(const run_options *options, run_state *state, results_kind kind, int64_t block) {
    interrupt_record();
    int code = results_open(&state->written, RUN, options->out, options->lse, &state->q, options->order, kind);
    if (code == CLI_CONTINUE && kind != RESULTS_TEMPORARY) {
        code = open_state(options, state, block);
    }
    if (code == CLI_CONTINUE) {
        interrupt_guard(state->written.writers, kind == RESULTS_TEMPORARY ? state->written.count : 0);
    }
    return code;
}

/* Rank 0 makes the files, and all write their rows. */
static int open_shared_outputs(const run_options *options, run_state *state) {
    da_tensor_place places[RESULTS_MAX] = {0};
    cli_ranks *ranks = state->ranks;
    int code = CLI_CONTINUE;
    interrupt_at_once();
    if (ranks->rank == 0) {
        code = open_own_outputs(options, state, RESULTS_TEMPORARY, 0);
        code = code == CLI_CONTINUE ? results_places(&state->written, RUN, places) : code;
    }
    code = ranks_settle(ranks, code);
    code = code == CLI_CONTINUE ? ranks_broadcast(ranks, places, sizeof(places)) : code;
    if (code == CLI_CONTINUE && ranks->rank != 0) {
        interrupt_record();
        code = results_join(&state->written, RUN, places, options->lse != NULL, &state->q, options->order);
        interrupt_guard(state->written.writers, state->written.count);
    }
    code = code == CLI_CONTINUE ? results_take(&state->written, RUN, ranks->part) : code;
    return ranks_settle(ranks, code == CLI_CONTINUE && interrupt_signal() != 0 ? interrupted() : code);
}

/* All ranks have brought their rows to the disk before rank 0 gives the files their names. */
static int compute_outputs(const run_options *options, run_state *state) {
    int code = compute(options, state);
    if (ranks_several(state->ranks)) {
        if (code == CLI_CONTINUE) {
            code = results_place_rows(&state->written, RUN, state->ranks->part, da_context_threads(state->context));
        }
        code = ranks_settle(state->ranks, code);
    }
    return code;
}

static int open_outputs(const run_options *options, run_state *state, int64_t block) {
    results_kind kind = options->blocks.resume                  ? RESULTS_RESUMED
                        : block > 0 && block < state->problem.n ? RESULTS_PARTIAL
                                                                : RESULTS_TEMPORARY;
    return ranks_several(state->ranks) ? open_shared_outputs(options, state)
                                       : open_own_outputs(options, state, kind, block);
}

static int commit_results(run_state *state) {
    if (state->ranks->rank != 0) {
        results_leave(&state->written);
        return CLI_CONTINUE;
    }
    int code = results_commit(&state->written, RUN);
    if (code == CLI_CONTINUE) {
        partial_remove(&state->blocks.state);
    }
    return code;
}

int run_into_files(const run_options *options, run_state *state) {
    int64_t block;
    int code = ranks_settle(state->ranks, prepare_blocks(options, state, &block));
    if (code != CLI_CONTINUE) {
        return code;
    }
    code = open_outputs(options, state, block);
    if (code == CLI_CONTINUE) {
        code = compute_outputs(options, state);
    }
    interrupt_record();
    if (code == CLI_CONTINUE) {
        code = commit_results(state);
    } else {
        leave_results(options, state);
    }
    interrupt_restore();
    return code;
}
