/* profile: which tiles each head needs, found on queries and keys in files, for `--sparse-profile` of other commands. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "configuration.h"
#include "machine.h"
#include "output.h"
#include "results.h"
#include "tensors.h"

#define COMMAND "profile"

typedef struct profile_options {
    configuration configuration;
    machine machine;
    const char *q, *k, *out;
    axis_order order;
    cli_list lengths;
    bool json, quiet;
} profile_options;

/* All that the command holds, so that one function can let go of it. */
typedef struct profile_state {
    da_attention_config config;
    da_context *context;
    loaded_tensor q, k;
    da_sparse_profile *profile;
} profile_state;

static int check_options(const profile_options *options) {
    const configuration *chosen = &options->configuration;
    const char *required[][2] = {{"--q", options->q}, {"--k", options->k}, {"--out", options->out}};
    for (size_t i = 0; i < CLI_COUNT(required); i++) {
        if (required[i][1] == NULL) {
            return cli_usage(COMMAND, "%s: missing; give the name of a file", required[i][0]);
        }
    }
    if (!chosen->quality_target.is_set || chosen->quality_target.value >= 1) {
        return cli_usage(COMMAND, "--quality-target: %s; allowed: a number above 0 and below 1",
                         chosen->quality_target.is_set ? "is 1" : "missing");
    }
    if (chosen->sparse_pattern != NULL || chosen->sparsity_ratio.is_set) {
        return cli_usage(COMMAND, "%s: is what this command finds for each head; allowed: --quality-target",
                         chosen->sparse_pattern != NULL ? "--sparse-pattern" : "--sparsity-ratio");
    }
    for (size_t i = 0; i < 2; i++) {
        if (same_file(options->out, required[i][1])) {
            return cli_usage(COMMAND, "--out: \"%s\" is the file of %s; an output may not replace an input",
                             options->out, required[i][0]);
        }
    }
    return CLI_CONTINUE;
}

/* The library checks the rest, by the names of its arguments. */
static int check_shapes(const profile_options *options, const profile_state *state) {
    const da_tensor *q = &state->q.view, *k = &state->k.view;
    const cli_list *lengths = &options->lengths;
    if (k->dtype != q->dtype && state->config.dtype == DA_DTYPE_ANY) {
        return cli_fail(COMMAND, "--k: %s: holds %s, but --q holds %s; allowed: one type, or --dtype to convert to one",
                        state->k.path, da_dtype_name(k->dtype), da_dtype_name(q->dtype));
    }
    if (lengths->count != 0 && (int64_t)lengths->count != q->shape[0]) {
        return cli_usage(COMMAND, "--lengths: gives %zu lengths; the batch of --q is %" PRId64, lengths->count,
                         q->shape[0]);
    }
    return CLI_CONTINUE;
}

static int load(const profile_options *options, profile_state *state) {
    loaded_tensor *tensors[] = {&state->q, &state->k};
    const char *names[] = {"--q", "--k"}, *paths[] = {options->q, options->k};
    int code = CLI_CONTINUE;
    for (size_t i = 0; i < CLI_COUNT(tensors) && code == CLI_CONTINUE; i++) {
        code = loaded_open(tensors[i], COMMAND, names[i], paths[i], options->order);
    }
    if (code == CLI_CONTINUE) {
        code = check_shapes(options, state);
    }
    for (size_t i = 0; i < CLI_COUNT(tensors) && code == CLI_CONTINUE && state->config.dtype != DA_DTYPE_ANY; i++) {
        code = loaded_convert(tensors[i], COMMAND, state->config.dtype, da_context_threads(state->context));
    }
    return code;
}

static json_t *json_head(const da_sparse_profile *profile, int64_t head) {
    da_sparse_pattern pattern;
    double ratio;
    return da_sparse_profile_head(profile, head, &pattern, &ratio) == DA_OK
               ? json_pack("{s:s, s:f}", "pattern", da_sparse_pattern_name(pattern), "ratio", ratio)
               : NULL;
}

static int report(const profile_options *options, const profile_state *state) {
    da_sparse_profile_info info;
    da_sparse_profile_info_init(&info);
    if (da_sparse_profile_get_info(state->profile, &info) != DA_OK) {
        return cli_fail(COMMAND, "%s", da_last_error_message());
    }
    if (options->json) {
        json_t *heads = json_array();
        for (int64_t head = 0; head < info.heads; head++) {
            json_array_append_new(heads, json_head(state->profile, head));
        }
        return cli_print_json(COMMAND, json_pack("{s:s, s:I, s:f, s:o}", "out", options->out, "block_size",
                                                 (json_int_t)info.block_size, "quality_target", info.quality_target,
                                                 "heads", heads));
    }
    for (int64_t head = 0; head < info.heads && !options->quiet; head++) {
        da_sparse_pattern pattern;
        double ratio;
        if (da_sparse_profile_head(state->profile, head, &pattern, &ratio) == DA_OK) {
            printf("head %3" PRId64 "  %-14s %6.2f%% of the tiles\n", head, da_sparse_pattern_name(pattern),
                   100 * ratio);
        }
    }
    return CLI_OK;
}

static int find_and_save(const profile_options *options, profile_state *state) {
    da_call_options call;
    da_call_options_init(&call);
    call.key_lengths = options->lengths.count != 0 ? options->lengths.values : NULL;
    da_status status = da_sparse_profile_create(state->context, &state->config, &state->q.view, &state->k.view, &call,
                                                options->configuration.quality_target.value, &state->profile);
    if (status != DA_OK) {
        return cli_refused(COMMAND, status);
    }
    return da_sparse_profile_save(state->profile, options->out) == DA_OK
               ? report(options, state)
               : cli_fail(COMMAND, "--out: %s", da_last_error_message());
}

static int run_profile(const profile_options *options) {
    profile_state state = {.context = NULL};
    int code = check_options(options);
    if (code == CLI_CONTINUE) {
        code = configuration_finish(&options->configuration, COMMAND, &state.config);
    }
    if (code == CLI_CONTINUE) {
        code = machine_context(&options->machine, COMMAND, NULL, NULL, &state.context);
    }
    if (code == CLI_CONTINUE) {
        code = load(options, &state);
    }
    if (code == CLI_CONTINUE) {
        code = find_and_save(options, &state);
    }
    da_sparse_profile_free(state.profile);
    loaded_close(&state.q);
    loaded_close(&state.k);
    da_context_free(state.context);
    return code;
}

int command_profile(int argc, char **argv) {
    profile_options options = {.q = NULL};
    const cli_option files[] = {
        {"q", "FILE", "query: (batch, n, heads, head dim), or without batch", cli_read_text, &options.q, 0, 0},
        {"k", "FILE", "key: its heads divide those of the query", cli_read_text, &options.k, 0, 0},
        {"out", "FILE", "the profile, a text file", cli_read_text, &options.out, 0, 0},
        {"layout", "L", "order of the axes in the inputs: bnhd (default)\nor bhnd: (batch, heads, n, head dim)",
         read_axis_order, &options.order, 0, 0},
        {"lengths", "A,B,..", "of each sequence, the keys before this one exist", cli_read_list, &options.lengths, 0,
         INT64_MAX},
    };
    const cli_option other[] = {{"json", NULL, "report as JSON", cli_read_flag, &options.json, 0, 0},
                                {"quiet", NULL, "no report", cli_read_flag, &options.quiet, 0, 0}};
    cli_option shared[CONFIGURATION_OPTION_COUNT], computing[MACHINE_OPTION_COUNT];
    configuration_options(&options.configuration, shared);
    machine_options(&options.machine, computing);
    const cli_group groups[] = {{"files", files, CLI_COUNT(files)},
                                {"configuration (--dtype converts the inputs)", shared, CLI_COUNT(shared)},
                                {"computing", computing, CLI_COUNT(computing)},
                                {"other", other, CLI_COUNT(other)}};
    const cli_command command = {
        COMMAND,
        "--q FILE --k FILE --out FILE --quality-target X [OPTIONS]",
        "Finds for each head the pattern of tiles that keeps so much of the attention of these queries and keys with "
        "the\n"
        "fewest tiles. `run --impl block_sparse --sparse-profile FILE` computes by it.",
        "  dilated-attention profile --q q.npy --k k.npy --segments 32768 --rates 1 --quality-target 0.95 --out "
        "layer0.txt",
        groups,
        CLI_COUNT(groups)};
    int code = cli_parse(&command, argc, argv);
    return code == CLI_CONTINUE ? run_profile(&options) : code;
}
