/* What `run` reports. */
#include <inttypes.h>
#include <stdio.h>

#include "output.h"
#include "resident.h"
#include "run.h"

static json_t *json_report(const run_options *options, const run_state *state, double tokens_per_second, double flops) {
    const da_problem *problem = &state->problem;
    int64_t block = state->blocks.state.block;
    json_t *converted =
        json_integer((json_int_t)(state->q.converted_bytes + state->k.converted_bytes + state->v.converted_bytes));
    return json_pack(
        "{s:s, s:s, s:s*, s:s, s:i, s:I, s:I, s:I, s:I, s:I, s:s, s:o, s:o, s:f, s:f, s:f, s:f, s:I, s:o, s:s,"
        " s:s*, s:o*, s:o*, s:o*, s:I}",
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
        block > 0 ? json_integer((json_int_t)state->blocks.resumed_from) : NULL, "sparse", sparse_json(&state->sparse),
        "peak_resident_bytes", (json_int_t)resident_peak());
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
    sparse_print("computed ", &state->sparse);
}

int run_report(const run_options *options, run_state *state) {
    da_cost cost = {.size = sizeof(cost)};
    da_status status = da_pattern_cost(&state->config, &state->problem, &cost);
    if (status == DA_OK) {
        status = da_attention_workspace(state->attention, &state->problem, &state->workspace);
    }
    if (status != DA_OK) {
        return cli_fail(RUN, "%s", da_last_error_message());
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
    if (state->sparse.pairs_all > 0) {
        flops *= state->sparse.pairs_kept / state->sparse.pairs_all;
    }
    if (options->json) {
        return cli_print_json(RUN, json_ranks(state, json_report(options, state, tokens_per_second, flops)));
    }
    if (!options->quiet) {
        print_report(state, tokens_per_second, flops);
    }
    return CLI_OK;
}
