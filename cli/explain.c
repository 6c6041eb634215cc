/* explain: what "auto" would choose for a problem, here or on other hardware. */
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "configuration.h"
#include "machine.h"
#include "network.h"
#include "output.h"
#include "plan.h"
#include "planning.h"
#include "sparse.h"

typedef struct explain_options {
    configuration configuration;
    sparse_files sparse;
    machine machine;
    planning planning;
    da_problem problem;
    bool gpus_given;
    int gpu_count;
    da_gpu gpus[DA_MAX_GPUS];
    int64_t flash_attention; /* 0: none */
    int64_t ranks;           /* 0: not asked for */
    network network;
    bool json;
} explain_options;

/* "H100:9.0:80": name, compute capability, GiB. */
static bool parse_gpu(const char *text, size_t length, da_gpu *gpu) {
    char copy[160], rest;
    double gib;
    if (length >= sizeof(copy)) {
        return false;
    }
    memcpy(copy, text, length);
    copy[length] = '\0';
    char *capability = strchr(copy, ':');
    if (capability == NULL || capability == copy || (size_t)(capability - copy) >= sizeof(gpu->name)) {
        return false;
    }
    *capability++ = '\0';
    if (sscanf(capability, "%3d.%3d:%lf%c", &gpu->compute_major, &gpu->compute_minor, &gib, &rest) != 3) {
        return false;
    }
    if (gpu->compute_major < 1 || gpu->compute_minor < 0 || !(gib > 0 && gib <= 1 << 20)) {
        return false;
    }
    memcpy(gpu->name, copy, strlen(copy) + 1);
    gpu->memory = (uint64_t)(gib * 0x1p30);
    return true;
}

static bool read_gpus(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    explain_options *options = option->target;
    options->gpus_given = true;
    options->gpu_count = 0;
    if (strcmp(text, "none") == 0) {
        return true;
    }
    for (const char *rest = text;;) {
        size_t length = strcspn(rest, ",");
        if (options->gpu_count == DA_MAX_GPUS || !parse_gpu(rest, length, &options->gpus[options->gpu_count])) {
            snprintf(allowed, allowed_size, "is not \"none\" or a list of at most %d NAME:CC:GIB, such as H100:9.0:80",
                     DA_MAX_GPUS);
            return false;
        }
        options->gpu_count++;
        if (rest[length] == '\0') {
            return true;
        }
        rest += length + 1;
    }
}

/* This machine, with the GPUs and kernels that the user wishes it had. */
static da_status imagine_hardware(const explain_options *options, da_hardware *hardware) {
    da_status status = da_hardware_detect(hardware);
    if (status == DA_OK && options->gpus_given) {
        hardware->gpu_count = options->gpu_count;
        memset(hardware->gpus, 0, sizeof(hardware->gpus));
        memcpy(hardware->gpus, options->gpus, sizeof(*options->gpus) * (size_t)options->gpu_count);
        snprintf(hardware->gpu_note, sizeof(hardware->gpu_note), "given by --hardware-gpus");
    }
    hardware->flash_attention_2 = options->flash_attention == 2;
    hardware->flash_attention_3 = options->flash_attention == 3;
    return status;
}

/* ------------------------------------------------------------------------------------------------------------------ */

static json_t *json_rules(const da_explanation *explanation) {
    json_t *rules = json_array();
    for (size_t i = 0; i < da_explanation_rule_count(explanation); i++) {
        da_rule rule;
        if (da_explanation_rule(explanation, i, &rule) == DA_OK) {
            json_array_append_new(rules,
                                  json_pack("{s:s, s:s, s:b, s:s, s:b, s:s}", "condition", rule.condition, "facts",
                                            rule.facts, "holds", rule.holds, "implementation", rule.implementation,
                                            "chosen", rule.chosen, "outcome", rule.outcome));
        }
    }
    return rules;
}

static json_t *json_alternatives(const da_explanation *explanation) {
    json_t *alternatives = json_array();
    for (size_t i = 0; i < da_explanation_alternative_count(explanation); i++) {
        da_alternative other;
        if (da_explanation_alternative(explanation, i, &other) == DA_OK) {
            json_array_append_new(alternatives, json_pack("{s:s, s:b, s:s, s:I, s:f}", "name", other.name, "available",
                                                          other.available, "note", other.note, "workspace_bytes",
                                                          (json_int_t)other.workspace_bytes, "estimated_seconds",
                                                          other.estimated_seconds));
        }
    }
    return alternatives;
}

static json_t *json_cost(const da_explanation *explanation, const da_problem *problem) {
    da_cost cost = {.size = sizeof(cost)};
    if (problem->n == 0 || da_explanation_cost(explanation, &cost) != DA_OK) {
        return json_null();
    }
    return json_pack("{s:f, s:f, s:f, s:f, s:f}", "counted_pairs", cost.counted_pairs, "distinct_pairs",
                     cost.distinct_pairs, "dense_pairs", cost.dense_pairs, "counted_flops", cost.counted_flops,
                     "tensor_bytes", cost.tensor_bytes);
}

static json_t *json_tuning(const da_explanation *explanation) {
    da_tuning tuning = {0, 0, 0};
    bool remembered = false;
    da_explanation_tuning(explanation, &tuning, &remembered);
    json_t *described = planning_json_tuning(&tuning);
    json_object_set_new(described, "remembered", json_boolean(remembered));
    return described;
}

static json_t *json_ranks(const da_ranks_plan *plan) {
    return json_pack(
        "{s:s, s:o, s:o, s:o, s:o, s:o}", "choice", da_ranks_plan_choice(plan), "split", plan_json_split(plan), "ring",
        plan_json_total(plan, "ring"), "distributed", plan_json_total(plan, "distributed"), "distributed_tokens",
        plan_json_total(plan, "distributed_tokens"), "distributed_heads", plan_json_total(plan, "distributed_heads"));
}

static json_t *json_explanation(const da_explanation *explanation, const da_problem *problem,
                                const da_plan_result *plan, const da_ranks_plan *ranks) {
    json_t *described = json_pack("{s:I, s:I, s:I, s:I, s:I, s:s}", "batch", (json_int_t)problem->batch, "n",
                                  (json_int_t)problem->n, "heads", (json_int_t)problem->heads, "kv_heads",
                                  (json_int_t)(problem->kv_heads != 0 ? problem->kv_heads : problem->heads), "head_dim",
                                  (json_int_t)problem->head_dim, "dtype", da_dtype_name(problem->dtype));
    return json_pack("{s:s, s:o, s:o, s:o, s:o, s:o, s:o*, s:o*}", "choice", da_explanation_choice(explanation),
                     "problem", described, "rules", json_rules(explanation), "alternatives",
                     json_alternatives(explanation), "cost", json_cost(explanation, problem), "tuning",
                     json_tuning(explanation), "plan", plan->choice.implementation != NULL ? planning_json(plan) : NULL,
                     "ranks", ranks != NULL ? json_ranks(ranks) : NULL);
}

static void print_explanation(const da_explanation *explanation, const da_plan_result *plan,
                              const da_ranks_plan *ranks) {
    const char *text = da_explanation_text(explanation);
    size_t length = strlen(text);
    printf("%s%s", text, length > 0 && text[length - 1] == '\n' ? "" : "\n");
    if (plan->choice.implementation != NULL) {
        planning_print(plan);
    }
    if (ranks != NULL) {
        printf("\n%s", da_ranks_plan_text(ranks));
    }
}

/* With --ranks, what ring and distributed would take. */
static da_status plan_ranks(const explain_options *options, const da_context *context,
                            const da_attention_config *config, da_ranks_plan **plan) {
    da_ranks_options ranks;
    da_ranks_options_init(&ranks);
    network_apply(&options->network, &ranks);
    ranks.ranks = (int)options->ranks;
    *plan = NULL;
    return options->ranks > 0 ? da_plan_ranks(context, config, &options->problem, &ranks, plan) : DA_OK;
}

/* With --plan, a plan is made first, so that the explanation shows the choice and the tuning that would follow. */
static int explain_in(explain_options *options, const da_context *context, da_attention_config *config) {
    da_plan_result plan;
    da_explanation *explanation = NULL;
    da_ranks_plan *ranks = NULL;
    da_plan_result_init(&plan);
    if (options->planning.mode != NULL) {
        da_attention_config planned = *config;
        int code = planning_tune(&options->planning, "explain", context, "", &options->problem, &planned, &plan);
        if (code != CLI_CONTINUE) {
            return code;
        }
    }
    da_status status = da_explain(context, config, &options->problem, &explanation);
    if (status == DA_OK) {
        status = plan_ranks(options, context, config, &ranks);
    }
    if (status != DA_OK) {
        da_explanation_free(explanation);
        return cli_refused("explain", status);
    }
    int code = CLI_OK;
    if (options->json) {
        code = cli_print_json("explain", json_explanation(explanation, &options->problem, &plan, ranks));
    } else {
        print_explanation(explanation, &plan, ranks);
    }
    da_explanation_free(explanation);
    da_ranks_plan_free(ranks);
    return code;
}

/* The tiles that files say. */
static int open_sparse(explain_options *options, da_attention_config *config) {
    if (options->sparse.mask_path != NULL && options->problem.n == 0) {
        return cli_usage("explain", "--tile-mask: is of so many tokens; allowed with --n");
    }
    return sparse_open(&options->sparse, &options->configuration, "explain", options->problem.n, config);
}

static int explain(explain_options *options, da_attention_config *config) {
    da_hardware hardware;
    da_context *context = NULL;
    da_hardware_init(&hardware);
    da_status status = imagine_hardware(options, &hardware);
    if (status != DA_OK) {
        return cli_refused("explain", status);
    }
    int code = open_sparse(options, config);
    if (code == CLI_CONTINUE) {
        code = planning_open(&options->planning, "explain");
    }
    if (code == CLI_CONTINUE) {
        code = machine_context(&options->machine, "explain", &hardware, options->planning.plans, &context);
    }
    if (code == CLI_CONTINUE) {
        code = explain_in(options, context, config);
    }
    da_context_free(context);
    planning_close(&options->planning);
    sparse_close(&options->sparse);
    return code;
}

int command_explain(int argc, char **argv) {
    explain_options options = {0};
    da_problem_init(&options.problem);
    da_problem *problem = &options.problem;
    const cli_option own[] = {
        {"n", "N", "tokens (default: unknown)", cli_read_integer, &problem->n, 1, INT64_MAX},
        {"batch", "B", "sequences (1)", cli_read_integer, &problem->batch, 1, INT64_MAX},
        {"heads", "H", "heads of the query (1)", cli_read_integer, &problem->heads, 1, INT64_MAX},
        {"kv-heads", "H", "heads of key and value (as many as of the query)", cli_read_integer, &problem->kv_heads, 1,
         INT64_MAX},
        {"head-dim", "D", "numbers of a head (64)", cli_read_integer, &problem->head_dim, 1, DA_MAX_HEAD_DIM},
        {"hardware-gpus", "LIST", "decide as if this machine had these GPUs:\nNAME:CC:GIB,.. or none", read_gpus,
         &options, 0, 0},
        {"flash-attention", "V",
         "decide as if the host program had this version (2 or 3)\nof the flash-attention kernels", cli_read_integer,
         &options.flash_attention, 2, 3},
        {"json", NULL, "write JSON", cli_read_flag, &options.json, 0, 0},
    };
    cli_option shared[CONFIGURATION_OPTION_COUNT], computing[MACHINE_OPTION_COUNT], tuning[PLANNING_OPTION_COUNT];
    cli_option tiling[SPARSE_OPTION_COUNT];
    cli_option networking[NETWORK_OPTION_COUNT + 1] = {
        {"ranks", "P", "also what ring and distributed would take over P ranks,\neach a machine like this one",
         cli_read_integer, &options.ranks, 1, DA_MAX_PLANNED_RANKS}};
    network_options(&options.network, &networking[1]);
    configuration_options(&options.configuration, shared);
    sparse_options(&options.sparse, tiling);
    machine_options(&options.machine, computing);
    planning_options(&options.planning, tuning);
    const cli_group groups[] = {{"problem", own, CLI_COUNT(own)},
                                {"configuration", shared, CLI_COUNT(shared)},
                                {"tiles (of block_sparse)", tiling, CLI_COUNT(tiling)},
                                {"computing", computing, CLI_COUNT(computing)},
                                {"tuning", tuning, CLI_COUNT(tuning)},
                                {"ranks", networking, CLI_COUNT(networking)}};
    const cli_command command = {
        "explain",
        "--segments A,B,.. --rates A,B,.. [OPTIONS]",
        "Says which implementation \"auto\" chooses for a problem: each rule with the facts that it saw, the "
        "arithmetic\n"
        "and memory to expect, and the alternatives with the time that a model, set by timings of this machine, "
        "expects.",
        "  dilated-attention explain --segments 2048,4096,8192 --rates 1,2,4 --n 131072 --heads 12\n"
        "  dilated-attention explain --segments 2048 --rates 1 --n 60000 --hardware-gpus A100:8.0:80,A100:8.0:80\n"
        "  dilated-attention explain --segments 2048,65536 --rates 1,32 --n 65536 --ranks 4 --network-bandwidth 1G",
        groups,
        CLI_COUNT(groups)};
    da_attention_config config;
    int code = cli_parse(&command, argc, argv);
    if (code == CLI_CONTINUE) {
        code = configuration_finish(&options.configuration, "explain", &config);
    }
    if (code != CLI_CONTINUE) {
        return code;
    }
    if (config.dtype != DA_DTYPE_ANY) {
        problem->dtype = config.dtype;
    }
    config.sequence_length = problem->n;
    return explain(&options, &config);
}
