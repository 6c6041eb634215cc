/* run: attention over tensors in files. */
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "output.h"
#include "run.h"

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
        return cli_usage(RUN, "--impl: \"%s\" computes in one process; allowed over %d ranks: auto, ring, distributed",
                         name, state->ranks->ranks);
    }
    if (options->planning.mode != NULL && strcmp(options->planning.mode, "measure") == 0) {
        return cli_usage(RUN, "--plan: \"measure\" is for one process; allowed over %d ranks: estimate",
                         state->ranks->ranks);
    }
    return CLI_CONTINUE;
}

static int check_sparse(const run_options *options) {
    const char *name = options->implementation;
    bool takes_notice = strcmp(name, "block_sparse") == 0 ||
                        (strcmp(name, "auto") == 0 && options->configuration.quality_target.is_set);
    return sparse_check(&options->sparse, &options->configuration, RUN, name, takes_notice);
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
    int opened = sparse_open(&options->sparse, &options->configuration, RUN, state->problem.n, &state->config);
    if (opened != CLI_CONTINUE) {
        return opened;
    }
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
        code = planning_tune(&options->planning, RUN, state->context, name, &state->problem, &state->config, NULL);
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
        return cli_usage(RUN, "--impl: %s", da_last_error_message());
    }
    return status == DA_OK ? CLI_CONTINUE : cli_refused(RUN, status);
}

/* All but the attention itself: what may fail on one rank alone. */
static int prepare(run_options *options, run_state *state) {
    machine chosen = options->machine;
    int code = run_check_paths(options);
    if (code == CLI_CONTINUE) {
        code = configuration_finish(&options->configuration, RUN, &state->config);
    }
    if (code == CLI_CONTINUE) {
        code = planning_open(&options->planning, RUN);
    }
    if (code == CLI_CONTINUE) {
        chosen.comm = state->ranks->comm;
        chosen.network = &options->network;
        chosen.threads = chosen.threads != 0 ? chosen.threads : ranks_threads(state->ranks);
        code = machine_context(&chosen, RUN, NULL, options->planning.plans, &state->context);
    }
    if (code == CLI_CONTINUE) {
        code = check_ranks(options, state);
    }
    if (code == CLI_CONTINUE) {
        code = check_sparse(options);
    }
    return code == CLI_CONTINUE ? run_load(options, state) : code;
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
        code = run_into_files(options, &state);
    }
    if (code == CLI_CONTINUE) {
        code = ranks->rank == 0 ? run_report(options, &state) : CLI_OK;
    }
    loaded_close(&state.q);
    loaded_close(&state.k);
    loaded_close(&state.v);
    mask_close(&state.mask);
    partial_free(&state.blocks.state);
    da_attention_free(state.attention);
    da_context_free(state.context);
    sparse_close(&options->sparse);
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
    cli_option tiling[SPARSE_OPTION_COUNT], by_blocks[BLOCKS_OPTION_COUNT], networking[NETWORK_OPTION_COUNT];
    configuration_options(&options.configuration, shared);
    sparse_options(&options.sparse, tiling);
    machine_options(&options.machine, computing);
    planning_options(&options.planning, tuning);
    blocks_options(&options.blocks, by_blocks);
    network_options(&options.network, networking);
    const cli_group groups[] = {{"files (.npy, or .safetensors with an optional \":name\")", files, CLI_COUNT(files)},
                                {"configuration (--dtype converts the inputs)", shared, CLI_COUNT(shared)},
                                {"tiles (--impl block_sparse)", tiling, CLI_COUNT(tiling)},
                                {"computing", computing, CLI_COUNT(computing)},
                                {"tuning", tuning, CLI_COUNT(tuning)},
                                {"more than memory (--impl ring)", by_blocks, CLI_COUNT(by_blocks)},
                                {"network (mpirun, for --split auto)", networking, CLI_COUNT(networking)},
                                {"other", other, CLI_COUNT(other)}};
    const cli_command command = {
        RUN,
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
        "      --impl ring --memory 512M\n"
        "  dilated-attention run --q q.npy --k k.npy --v v.npy --segments 32768 --rates 1 --out out.npy \\\n"
        "      --impl block_sparse --sparsity-ratio 0.1 --block-size 64",
        groups,
        CLI_COUNT(groups)};
    ranks_begin(&ranks, RUN);
    int code = cli_parse(&command, argc, argv);
    code = ranks_open(&ranks, options.comm_timeout.value, code);
    return ranks_close(&ranks, code == CLI_CONTINUE ? run(&options, &ranks) : code);
}
