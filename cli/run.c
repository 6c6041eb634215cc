/* run: attention over tensors in files. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "blocks.h"
#include "clock.h"
#include "commands.h"
#include "configuration.h"
#include "interrupt.h"
#include "machine.h"
#include "output.h"
#include "planning.h"
#include "progress.h"
#include "ranks.h"
#include "resident.h"
#include "results.h"
#include "tensors.h"

#define COMMAND "run"

typedef struct run_options {
    configuration configuration;
    machine machine;
    planning planning;
    blocks_wish blocks;
    const char *q, *k, *v, *out, *lse, *key_mask, *implementation;
    axis_order order;
    cli_list lengths;
    cli_number comm_timeout;
    bool json, quiet;
} run_options;

/* All that a run holds, so that one function can let go of it. */
typedef struct run_state {
    cli_ranks *ranks;
    da_attention_config config;
    da_context *context;
    da_attention *attention;
    loaded_tensor q, k, v;
    loaded_mask mask;
    results written;
    blocks blocks; /* of a run by blocks; no block: it has none */
    da_problem problem;
    char reason[512]; /* of the choice; "" if the user chose */
    double seconds;
    size_t workspace;
} run_state;

static int check_paths(const run_options *options) {
    const char *required[][2] = {
        {"--q", options->q}, {"--k", options->k}, {"--v", options->v}, {"--out", options->out}};
    for (size_t i = 0; i < CLI_COUNT(required); i++) {
        if (required[i][1] == NULL) {
            return cli_usage(COMMAND, "%s: missing; give a .npy or .safetensors file", required[i][0]);
        }
    }
    const char *outputs[][2] = {{"--out", options->out}, {"--lse", options->lse}};
    const char *others[][2] = {
        {"--q", options->q}, {"--k", options->k}, {"--v", options->v}, {"--key-mask", options->key_mask}};
    for (size_t i = 0; i < CLI_COUNT(outputs); i++) {
        for (size_t j = 0; j < CLI_COUNT(others); j++) {
            if (outputs[i][1] != NULL && others[j][1] != NULL && same_file(outputs[i][1], others[j][1])) {
                return cli_usage(COMMAND, "%s: \"%s\" is the file of %s; an output may not replace an input",
                                 outputs[i][0], outputs[i][1], others[j][0]);
            }
        }
    }
    if (options->lse != NULL && same_file(options->out, options->lse)) {
        return cli_usage(COMMAND, "--lse: \"%s\" is the file of --out; give another", options->lse);
    }
    return CLI_CONTINUE;
}

/* ------------------------------------------------------------------------------------------------------------------ */

static int check_lengths(const run_options *options, const run_state *state) {
    const cli_list *lengths = &options->lengths;
    int64_t batch = state->problem.batch, n = state->problem.n;
    if (lengths->count != 0 && (int64_t)lengths->count != batch) {
        return cli_usage(COMMAND, "--lengths: gives %zu lengths; the batch of --q is %" PRId64, lengths->count, batch);
    }
    for (size_t i = 0; i < lengths->count; i++) {
        if (lengths->values[i] > n) {
            return cli_usage(COMMAND, "--lengths: %" PRId64 " is not from 0 to %" PRId64 ", the tokens of --q",
                             lengths->values[i], n);
        }
    }
    return CLI_CONTINUE;
}

/* Key and value must be as the query, their heads apart, which must divide the query's. */
static int check_shape(const loaded_tensor *q, const loaded_tensor *other) {
    static const char *const axes[] = {"batch", "n", "heads", "head dim"};
    for (int axis = 0; axis < 4; axis++) {
        int64_t wanted = q->view.shape[axis], found = other->view.shape[axis];
        if (axis == 2 ? wanted % found != 0 : wanted != found) {
            return cli_fail(COMMAND, "%s: %s: %s is %" PRId64 ", but that of --q is %" PRId64 "; allowed: %s",
                            other->option, other->path, axes[axis], found, wanted,
                            axis == 2 ? "a divisor of it (grouped queries)" : "the same");
        }
    }
    return CLI_CONTINUE;
}

static int check_inputs(const run_state *state) {
    const loaded_tensor *others[] = {&state->k, &state->v};
    if (state->q.view.shape[3] > DA_MAX_HEAD_DIM) {
        return cli_fail(COMMAND, "--q: %s: head dim is %" PRId64 "; allowed: 1 to %d", state->q.path,
                        state->q.view.shape[3], DA_MAX_HEAD_DIM);
    }
    for (size_t i = 0; i < CLI_COUNT(others); i++) {
        int code = check_shape(&state->q, others[i]);
        if (code != CLI_CONTINUE) {
            return code;
        }
        if (state->config.dtype == DA_DTYPE_ANY && others[i]->view.dtype != state->q.view.dtype) {
            return cli_fail(COMMAND,
                            "%s: %s: holds %s, but --q holds %s; allowed: one type, or --dtype to convert to one",
                            others[i]->option, others[i]->path, da_dtype_name(others[i]->view.dtype),
                            da_dtype_name(state->q.view.dtype));
        }
    }
    if (state->k.view.shape[2] != state->v.view.shape[2]) {
        return cli_fail(COMMAND, "--v: %s: heads is %" PRId64 ", but that of --k is %" PRId64 "; allowed: the same",
                        state->v.path, state->v.view.shape[2], state->k.view.shape[2]);
    }
    return CLI_CONTINUE;
}

static void note_problem(run_state *state) {
    const int64_t *shape = state->q.shape;
    da_problem_init(&state->problem);
    state->problem.batch = shape[0];
    state->problem.n = shape[1];
    state->problem.heads = shape[2];
    state->problem.kv_heads = state->k.shape[2];
    state->problem.head_dim = shape[3];
    state->problem.dtype = state->config.dtype != DA_DTYPE_ANY ? state->config.dtype : state->q.view.dtype;
}

/* Of several ranks, this one's rows alone. */
static int take_rows(run_state *state) {
    loaded_tensor *tensors[] = {&state->q, &state->k, &state->v};
    int threads = da_context_threads(state->context);
    int code = ranks_divide(state->ranks, &state->config, state->problem.n);
    if (code != CLI_CONTINUE || state->ranks->part == NULL) {
        return code;
    }
    for (size_t i = 0; i < CLI_COUNT(tensors) && code == CLI_CONTINUE; i++) {
        code = loaded_take(tensors[i], COMMAND, state->ranks->part, threads);
    }
    return code == CLI_CONTINUE && state->mask.data != NULL
               ? mask_take(&state->mask, COMMAND, state->ranks->part, state->problem.batch)
               : code;
}

static int open_inputs(const run_options *options, run_state *state) {
    const char *names[] = {"--q", "--k", "--v"}, *paths[] = {options->q, options->k, options->v};
    loaded_tensor *tensors[] = {&state->q, &state->k, &state->v};
    for (size_t i = 0; i < CLI_COUNT(tensors); i++) {
        int code = loaded_open(tensors[i], COMMAND, names[i], paths[i], options->order);
        if (code != CLI_CONTINUE) {
            return code;
        }
    }
    int code = check_inputs(state);
    if (code == CLI_CONTINUE) {
        note_problem(state);
        code = check_lengths(options, state);
    }
    if (code == CLI_CONTINUE && options->key_mask != NULL) {
        code = mask_open(&state->mask, COMMAND, options->key_mask, state->problem.batch, state->problem.n);
    }
    return code;
}

static int load(const run_options *options, run_state *state) {
    loaded_tensor *tensors[] = {&state->q, &state->k, &state->v};
    int code = open_inputs(options, state);
    if (code == CLI_CONTINUE) {
        code = take_rows(state);
    }
    for (size_t i = 0; i < CLI_COUNT(tensors) && code == CLI_CONTINUE && state->config.dtype != DA_DTYPE_ANY; i++) {
        code = loaded_convert(tensors[i], COMMAND, state->config.dtype, da_context_threads(state->context));
    }
    return code;
}

/* ------------------------------------------------------------------------------------------------------------------ */

static void note_reason(const da_explanation *explanation, char *reason, size_t size) {
    for (size_t i = 0; i < da_explanation_rule_count(explanation); i++) {
        da_rule rule;
        if (da_explanation_rule(explanation, i, &rule) == DA_OK && rule.chosen) {
            snprintf(reason, size, "%s (%s)", rule.condition, rule.facts);
        }
    }
}

/* What several ranks cannot do, or must do alike. */
static int check_ranks(const run_options *options, run_state *state) {
    const char *name = options->implementation;
    da_implementation_info info;
    da_implementation_info_init(&info);
    if (!ranks_several(state->ranks)) {
        return CLI_CONTINUE;
    }
    if (strcmp(name, "auto") != 0 && da_implementation_get_info(state->context, name, &info) == DA_OK &&
        (info.features & DA_FEATURE_PARTS) == 0) {
        return cli_usage(COMMAND,
                         "--impl: \"%s\" computes in one process; allowed over %d ranks: auto, ring, distributed", name,
                         state->ranks->ranks);
    }
    if (options->planning.mode != NULL && strcmp(options->planning.mode, "measure") == 0) {
        return cli_usage(COMMAND, "--plan: \"measure\" is for one process; allowed over %d ranks: estimate",
                         state->ranks->ranks);
    }
    return CLI_CONTINUE;
}

/* Ranks may have been started with different words. What is not here, the library compares. */
static int agree(const run_options *options, run_state *state) {
    const da_problem *problem = &state->problem;
    const char *const words[] = {options->out, options->lse, options->implementation};
    struct {
        int64_t numbers[9];
        char words[CLI_COUNT(words)][512];
    } common;
    memset(&common, 0, sizeof(common));
    const int64_t numbers[] = {problem->batch,    problem->n,     problem->heads,
                               problem->kv_heads, problem->dtype, problem->head_dim,
                               options->order,    state->q.rank,  state->mask.data != NULL};
    memcpy(common.numbers, numbers, sizeof(numbers));
    for (size_t i = 0; i < CLI_COUNT(words); i++) {
        snprintf(common.words[i], sizeof(common.words[i]), "%s", words[i] != NULL ? words[i] : "");
    }
    return ranks_agree(state->ranks, &common, sizeof(common), "command line, or shapes of inputs,");
}

/* "auto" is resolved here, with the tensors in sight, so that the reason given is that of the choice made. */
static int create(run_options *options, run_state *state) {
    const char *name = options->implementation;
    state->config.sequence_length = state->problem.n;
    da_explanation *explanation = NULL;
    da_status status = DA_OK;
    if (strcmp(name, "auto") == 0) {
        status = da_explain(state->context, &state->config, &state->problem, &explanation);
        if (status == DA_OK) {
            name = da_explanation_choice(explanation);
            note_reason(explanation, state->reason, sizeof(state->reason));
        }
    }
    int code = CLI_CONTINUE;
    if (status == DA_OK) {
        code = planning_tune(&options->planning, COMMAND, state->context, name, &state->problem, &state->config, NULL);
    }
    if (status == DA_OK && code == CLI_CONTINUE) {
        status = da_attention_create(state->context, name, &state->config, &state->attention);
    }
    da_explanation_free(explanation);
    if (code != CLI_CONTINUE) {
        return code;
    }
    ranks_blame(state->ranks, status);
    if (status == DA_ERROR_UNKNOWN_IMPLEMENTATION) {
        return cli_usage(COMMAND, "--impl: %s", da_last_error_message());
    }
    return status == DA_OK ? CLI_CONTINUE : cli_refused(COMMAND, status);
}

static bool on_progress(int64_t finished, int64_t total, void *user) {
    progress_update(user, finished, total);
    return interrupt_signal() == 0;
}

static int interrupted(void) {
    cli_fail(COMMAND, "interrupted; nothing was written");
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
    return status == DA_OK ? CLI_CONTINUE : cli_fail(COMMAND, "%s", da_last_error_message());
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
    double start = cli_now();
    int code = state->blocks.state.block > 0 ? blocks_run(&state->blocks, &forward) : compute_whole(state, &forward);
    state->seconds = state->ranks->mine.seconds = cli_now() - start;
    progress_end(&bar);
    return code;
}

/* ---- by blocks --------------------------------------------------------------------------------------------------- */

/* Whether the run is by blocks, and if so, how long they are; 0 where it is to be read from what is resumed. */
static int prepare_blocks(const run_options *options, run_state *state, int64_t *block) {
    const blocks_wish *wish = &options->blocks;
    *block = 0;
    state->blocks = (blocks){.command = COMMAND,
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
        return cli_usage(COMMAND, "%s: there are %d ranks, each rank's part being a block; allowed: one process",
                         option, state->ranks->ranks);
    }
    if (strcmp(name, "ring") != 0) {
        return cli_usage(COMMAND, "%s: the implementation is %s; allowed: ring, which alone works by blocks", option,
                         name);
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
        return partial_begin(kept, COMMAND, &state->written, &subject, block);
    }
    int code = partial_resume(kept, COMMAND, &state->written, &subject);
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
    int code = results_open(&state->written, COMMAND, options->out, options->lse, &state->q, options->order, kind);
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
        code = code == CLI_CONTINUE ? results_places(&state->written, COMMAND, places) : code;
    }
    code = ranks_settle(ranks, code);
    code = code == CLI_CONTINUE ? ranks_broadcast(ranks, places, sizeof(places)) : code;
    if (code == CLI_CONTINUE && ranks->rank != 0) {
        interrupt_record();
        code = results_join(&state->written, COMMAND, places, options->lse != NULL, &state->q, options->order);
        interrupt_guard(state->written.writers, state->written.count);
    }
    code = code == CLI_CONTINUE ? results_take(&state->written, COMMAND, ranks->part) : code;
    return ranks_settle(ranks, code == CLI_CONTINUE && interrupt_signal() != 0 ? interrupted() : code);
}

/* All ranks have brought their rows to the disk before rank 0 gives the files their names. */
static int compute_outputs(const run_options *options, run_state *state) {
    int code = compute(options, state);
    if (ranks_several(state->ranks)) {
        if (code == CLI_CONTINUE) {
            code = results_place_rows(&state->written, COMMAND, state->ranks->part, da_context_threads(state->context));
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
    int code = results_commit(&state->written, COMMAND);
    if (code == CLI_CONTINUE) {
        partial_remove(&state->blocks.state);
    }
    return code;
}

static int compute_into_files(const run_options *options, run_state *state) {
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

/* ------------------------------------------------------------------------------------------------------------------ */

static json_t *json_report(const run_options *options, const run_state *state, double tokens_per_second, double flops) {
    const da_problem *problem = &state->problem;
    int64_t block = state->blocks.state.block;
    json_t *converted =
        json_integer((json_int_t)(state->q.converted_bytes + state->k.converted_bytes + state->v.converted_bytes));
    return json_pack(
        "{s:s, s:s, s:s*, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:s, s:o, s:o, s:f, s:f, s:f, s:f, s:I, s:o, s:s,"
        " s:s*, s:o*, s:o*, s:I}",
        "implementation", da_attention_implementation(state->attention), "requested", options->implementation, "reason",
        state->reason[0] != '\0' ? state->reason : NULL, "instruction_set", da_isa_name(da_context_isa(state->context)),
        "threads", da_context_threads(state->context), "batch", (json_int_t)problem->batch, "n", (json_int_t)problem->n,
        "heads", (json_int_t)problem->heads, "kv_heads", (json_int_t)problem->kv_heads, "head_dim",
        (json_int_t)problem->head_dim, "dtype", da_dtype_name(problem->dtype), "segment_lengths",
        cli_json_integers(state->config.segment_lengths, state->config.segment_count), "dilation_rates",
        cli_json_integers(state->config.dilation_rates, state->config.rate_count), "seconds", state->seconds,
        "tokens_per_second", tokens_per_second, "counted_flops", flops, "counted_gflops_per_second",
        flops / state->seconds * 1e-9, "workspace_bytes", (json_int_t)state->workspace, "converted_input_bytes",
        converted, "out", options->out, "lse", options->lse, "block",
        block > 0 ? json_integer((json_int_t)block) : NULL, "resumed_from",
        block > 0 ? json_integer((json_int_t)state->blocks.resumed_from) : NULL, "peak_resident_bytes",
        (json_int_t)resident_peak());
}

/* What several ranks add to a report; `report` may be NULL. */
static json_t *json_ranks(const run_state *state, json_t *report) {
    const cli_ranks *ranks = state->ranks;
    json_t *sent = ranks_several(ranks) ? json_array() : NULL;
    for (int rank = 0; sent != NULL && rank < ranks->ranks; rank++) {
        json_array_append_new(sent, json_integer((json_int_t)ranks->words[rank].bytes_sent));
    }
    if (report != NULL && sent != NULL) {
        json_object_set_new(report, "ranks", json_integer(ranks->ranks));
        json_object_set_new(report, "partition", json_string(da_partition_name(state->config.partition)));
        json_object_set_new(report, "bytes_sent", sent);
    }
    return report;
}

static void print_ranks(const run_state *state) {
    const cli_ranks *ranks = state->ranks;
    char bytes[CLI_BYTES_TEXT];
    int64_t most = 0;
    if (!ranks_several(ranks)) {
        return;
    }
    for (int rank = 0; rank < ranks->ranks; rank++) {
        most = ranks->words[rank].bytes_sent > most ? ranks->words[rank].bytes_sent : most;
    }
    printf("%d ranks, %s: ", ranks->ranks, da_partition_name(state->config.partition));
    printf("a rank sent at most %s; ", cli_bytes((double)most, bytes));
}

static void print_report(const run_state *state, double tokens_per_second, double flops) {
    const da_problem *problem = &state->problem;
    char n[CLI_GROUPED_TEXT], rate[CLI_GROUPED_TEXT], memory[CLI_BYTES_TEXT];
    size_t converted = state->q.converted_bytes + state->k.converted_bytes + state->v.converted_bytes;
    print_ranks(state);
    printf("%s (%s, %d threads): %" PRId64 " x %s x %" PRId64 " x %" PRId64
           " %s in %.3f s, %s tokens/s, %.1f GF/s counted, "
           "%s beyond inputs and outputs",
           da_attention_implementation(state->attention), da_isa_name(da_context_isa(state->context)),
           da_context_threads(state->context), problem->batch, cli_grouped(problem->n, n), problem->heads,
           problem->head_dim, da_dtype_name(problem->dtype), state->seconds,
           cli_grouped((int64_t)tokens_per_second, rate), flops / state->seconds * 1e-9,
           cli_bytes((double)(state->workspace + converted), memory));
    if (state->blocks.state.block > 0) {
        printf(", in blocks of %s tokens, at most %s resident", cli_grouped(state->blocks.state.block, n),
               cli_bytes((double)resident_peak(), memory));
    }
    printf(state->reason[0] != '\0' ? "; chosen because: %s\n" : "%s\n", state->reason);
}

static int report(const run_options *options, run_state *state) {
    da_cost cost = {.size = sizeof(cost)};
    da_status status = da_pattern_cost(&state->config, &state->problem, &cost);
    if (status == DA_OK) {
        status = da_attention_workspace(state->attention, &state->problem, &state->workspace);
    }
    if (status != DA_OK) {
        return cli_fail(COMMAND, "%s", da_last_error_message());
    }
    for (int rank = 0; ranks_several(state->ranks) && rank < state->ranks->ranks; rank++) { /* the slowest */
        double seconds = state->ranks->words[rank].seconds;
        state->seconds = seconds > state->seconds ? seconds : state->seconds;
    }
    if (state->blocks.state.block > 0) {
        state->workspace = state->blocks.workspace;
    }
    double computed = (double)(state->problem.n - state->blocks.resumed_from); /* by this run */
    double tokens_per_second = (double)state->problem.batch * computed / state->seconds;
    double flops = cost.counted_flops * computed / (double)state->problem.n;
    if (options->json) {
        return cli_print_json(COMMAND, json_ranks(state, json_report(options, state, tokens_per_second, flops)));
    }
    if (!options->quiet) {
        print_report(state, tokens_per_second, flops);
    }
    return CLI_OK;
}

/* All but the attention itself: what may fail on one rank alone. */
static int prepare(run_options *options, run_state *state) {
    machine chosen = options->machine;
    int code = check_paths(options);
    if (code == CLI_CONTINUE) {
        code = configuration_finish(&options->configuration, COMMAND, &state->config);
    }
    if (code == CLI_CONTINUE) {
        code = planning_open(&options->planning, COMMAND);
    }
    if (code == CLI_CONTINUE) {
        chosen.comm = state->ranks->comm;
        chosen.threads = chosen.threads != 0 ? chosen.threads : ranks_threads(state->ranks);
        code = machine_context(&chosen, COMMAND, NULL, options->planning.plans, &state->context);
    }
    if (code == CLI_CONTINUE) {
        code = check_ranks(options, state);
    }
    return code == CLI_CONTINUE ? load(options, state) : code;
}

static int run(run_options *options, cli_ranks *ranks) {
    run_state state = {.ranks = ranks};
    int code = ranks_settle(ranks, prepare(options, &state));
    if (code == CLI_CONTINUE) {
        code = agree(options, &state);
    }
    if (code == CLI_CONTINUE) {
        code = ranks_settle(ranks, create(options, &state));
    }
    if (code == CLI_CONTINUE) {
        code = compute_into_files(options, &state);
    }
    if (code == CLI_CONTINUE) {
        code = ranks->rank == 0 ? report(options, &state) : CLI_OK;
    }
    loaded_close(&state.q);
    loaded_close(&state.k);
    loaded_close(&state.v);
    mask_close(&state.mask);
    partial_free(&state.blocks.state);
    da_attention_free(state.attention);
    da_context_free(state.context);
    planning_close(&options->planning);
    return code;
}

static bool read_timeout(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    cli_option number = *option;
    cli_number seconds;
    number.target = &seconds;
    if (!cli_read_number(&number, text, allowed, allowed_size) || !(seconds.value > 0 && seconds.value <= 1e9)) {
        snprintf(allowed, allowed_size, "is not a number of seconds above 0, at most 1e9");
        return false;
    }
    *(cli_number *)option->target = seconds;
    return true;
}

int command_run(int argc, char **argv) {
    run_options options = {.implementation = "auto", .comm_timeout = {.value = RANKS_TIMEOUT}};
    cli_ranks ranks;
    const cli_option files[] = {
        {"q", "FILE", "query: (batch, n, heads, head dim), or without batch", cli_read_text, &options.q, 0, 0},
        {"k", "FILE", "key: its heads divide those of the query", cli_read_text, &options.k, 0, 0},
        {"v", "FILE", "value: like the key", cli_read_text, &options.v, 0, 0},
        {"out", "FILE", "output: like the query", cli_read_text, &options.out, 0, 0},
        {"lse", "FILE", "logarithm of the softmax sum: (batch, n, heads)", cli_read_text, &options.lse, 0, 0},
        {"layout", "L", "order of the axes in all these files: bnhd (default)\nor bhnd: (batch, heads, n, head dim)",
         read_axis_order, &options.order, 0, 0},
        {"lengths", "A,B,..", "of each sequence, the keys before this one exist", cli_read_list, &options.lengths, 0,
         INT64_MAX},
        {"key-mask", "FILE", "bool or u8 (batch, n): true where the key is padding", cli_read_text, &options.key_mask,
         0, 0},
    };
    const cli_option other[] = {
        {"impl", "NAME", "implementation (default: auto)", cli_read_text, &options.implementation, 0, 0},
        {"comm-timeout", "SECONDS",
         "of several ranks (mpirun): how long one waits for another\nbefore it gives up (600)", read_timeout,
         &options.comm_timeout, 0, 0},
        {"json", NULL, "report as JSON", cli_read_flag, &options.json, 0, 0},
        {"quiet", NULL, "no report, no progress bar", cli_read_flag, &options.quiet, 0, 0},
    };
    cli_option shared[CONFIGURATION_OPTION_COUNT], computing[MACHINE_OPTION_COUNT], tuning[PLANNING_OPTION_COUNT];
    cli_option by_blocks[BLOCKS_OPTION_COUNT];
    configuration_options(&options.configuration, shared);
    machine_options(&options.machine, computing);
    planning_options(&options.planning, tuning);
    blocks_options(&options.blocks, by_blocks);
    const cli_group groups[] = {{"files (.npy, or .safetensors with an optional \":name\")", files, CLI_COUNT(files)},
                                {"configuration (--dtype converts the inputs)", shared, CLI_COUNT(shared)},
                                {"computing", computing, CLI_COUNT(computing)},
                                {"tuning", tuning, CLI_COUNT(tuning)},
                                {"more than memory (--impl ring)", by_blocks, CLI_COUNT(by_blocks)},
                                {"other", other, CLI_COUNT(other)}};
    const cli_command command = {
        COMMAND,
        "--q FILE --k FILE --v FILE --segments A,B,.. --rates A,B,.. --out FILE [OPTIONS]",
        "Computes attention on tensors in files. Inputs are mapped, outputs appear under their names only when all is "
        "done.",
        "  dilated-attention run --q q.npy --k k.npy --v v.npy --segments 2048,4096,8192 --rates 1,2,4 --out out.npy\n"
        "  dilated-attention run --q t.safetensors:q --k t.safetensors:k --v t.safetensors:v --segments 64 --rates 1 "
        "\\\n"
        "      --preset torchscale --causal --out out.safetensors --lse lse.npy --json\n"
        "  mpirun -n 4 dilated-attention run --impl ring --partition zigzag --causal --q q.npy --k k.npy --v v.npy \\\n"
        "      --segments 2048,4096,8192 --rates 1,2,4 --out out.npy\n"
        "  dilated-attention run --q q.npy --k k.npy --v v.npy --segments 256,4096 --rates 1,16 --out out.npy "
        "\\\n"
        "      --impl ring --memory 512M",
        groups,
        CLI_COUNT(groups)};
    ranks_begin(&ranks, COMMAND);
    int code = cli_parse(&command, argc, argv);
    code = ranks_open(&ranks, options.comm_timeout.value, code);
    return ranks_close(&ranks, code == CLI_CONTINUE ? run(&options, &ranks) : code);
}
