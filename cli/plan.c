/* plan: what ring and distributed would send, hold and take over many ranks, without data. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "configuration.h"
#include "drawing/scaling.h"
#include "machine.h"
#include "network.h"
#include "output.h"
#include "plan.h"

#define COMMAND "plan"

/* In the text, too, or only if asked for. */
static const struct {
    const char *name, *label;
    bool in_text;
} implementations[] = {{"ring", "ring", true},
                       {"distributed", "distributed", true},
                       {"distributed_tokens", "distributed by tokens", false},
                       {"distributed_heads", "distributed by heads", false}};

enum { RING, DISTRIBUTED };

typedef struct plan_options {
    configuration configuration;
    machine machine;
    network network;
    da_problem problem;
    int64_t ranks;
    const char *implementation, *plot;
    cli_number rate, backward_rate;
    cli_list scaling;
    bool backward, json;
} plan_options;

/* What one number of all ranks is at the least, on the average, and at the most. */
typedef struct spread {
    double least, mean, most;
} spread;

typedef double share_number(const da_rank_share *share);

static double tokens_of(const da_rank_share *s) {
    return (double)s->tokens;
}

static double messages_of(const da_rank_share *s) {
    return (double)s->messages_received;
}

static double received_of(const da_rank_share *s) {
    return s->bytes_received;
}

static double sent_of(const da_rank_share *s) {
    return s->bytes_sent;
}

static double pairs_of(const da_rank_share *s) {
    return s->pairs;
}

static double flops_of(const da_rank_share *s) {
    return s->flops;
}

static double tensors_of(const da_rank_share *s) {
    return s->tensor_bytes;
}

static double memory_of(const da_rank_share *s) {
    return s->memory_bytes;
}

static double computing_of(const da_rank_share *s) {
    return s->compute_seconds;
}

static double transfer_of(const da_rank_share *s) {
    return s->transfer_seconds;
}

static double seconds_of(const da_rank_share *s) {
    return s->seconds;
}

typedef enum quantity { PLAIN, BYTES, SECONDS } quantity;

/* The lines of a table, and the fields of JSON. */
static const struct {
    const char *name, *label;
    share_number *number;
    quantity unit;
} lines[] = {
    {"tokens", "tokens", tokens_of, PLAIN},
    {"messages_received", "messages received", messages_of, PLAIN},
    {"bytes_received", "bytes received", received_of, BYTES},
    {"bytes_sent", "bytes sent", sent_of, BYTES},
    {"distinct_pairs", "distinct pairs", pairs_of, PLAIN},
    {"flops", "arithmetic", flops_of, PLAIN},
    {"tensor_bytes", "tensors", tensors_of, BYTES},
    {"memory_bytes", "memory beyond them", memory_of, BYTES},
    {"compute_seconds", "computing", computing_of, SECONDS},
    {"transfer_seconds", "messages", transfer_of, SECONDS},
    {"seconds", "until done", seconds_of, SECONDS},
};

static spread spread_of(const da_ranks_plan *plan, const char *implementation, share_number *number) {
    spread found = {INFINITY, 0, -INFINITY};
    size_t count = da_ranks_plan_count(plan);
    for (size_t k = 0; k < count; k++) {
        da_rank_share share;
        da_rank_share_init(&share);
        if (da_ranks_plan_share(plan, implementation, k, &share) == DA_OK) {
            double value = number(&share);
            found.least = fmin(found.least, value);
            found.most = fmax(found.most, value);
            found.mean += value / (double)count;
        }
    }
    return found;
}

static const char *format(double value, quantity unit, char text[CLI_GROUPED_TEXT]) {
    if (unit == BYTES) {
        return cli_bytes(value, text);
    }
    if (unit == PLAIN && value < 1e12) {
        return cli_grouped((int64_t)llround(value), text);
    }
    snprintf(text, CLI_GROUPED_TEXT, unit == SECONDS ? "%.4g s" : "%.4g", value);
    return text;
}

/* ---- one number of ranks ------------------------------------------------------------------------------------------- */

static bool is_wanted(const plan_options *options, const char *implementation) {
    return options->implementation == NULL || strcmp(options->implementation, implementation) == 0;
}

static void print_implementation(const da_ranks_plan *plan, const char *implementation, const char *label) {
    da_ranks_total total;
    da_ranks_total_init(&total);
    da_ranks_plan_total(plan, implementation, &total);
    printf("\n%s, of each rank\n  %-22s %18s %18s %18s\n", label, "", "least", "mean", "most");
    for (size_t k = 0; k < CLI_COUNT(lines); k++) {
        char least[CLI_GROUPED_TEXT], mean[CLI_GROUPED_TEXT], most[CLI_GROUPED_TEXT];
        spread s = spread_of(plan, implementation, lines[k].number);
        printf("  %-22s %18s %18s %18s\n", lines[k].label, format(s.least, lines[k].unit, least),
               format(s.mean, lines[k].unit, mean), format(s.most, lines[k].unit, most));
    }
    char bytes[CLI_BYTES_TEXT];
    printf("  in all %s sent; arithmetic of the rank with the most: %.3f times the mean; %.1f%% of the speed of ranks "
           "that\n"
           "  need not wait\n",
           cli_bytes(total.bytes, bytes), total.balance,
           100 * spread_of(plan, implementation, computing_of).mean / total.seconds);
}

json_t *plan_json_total(const da_ranks_plan *plan, const char *implementation) {
    da_ranks_total total;
    da_ranks_total_init(&total);
    da_ranks_plan_total(plan, implementation, &total);
    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f}", "seconds", total.seconds, "single_seconds", total.single_seconds,
                     "bytes", total.bytes, "bytes_most", total.bytes_most, "memory_most", total.memory_most, "balance",
                     total.balance);
}

json_t *plan_json_split(const da_ranks_plan *plan) {
    json_t *object = json_pack("{s:s}", "forward", da_split_name(da_ranks_plan_split(plan, false)));
    if (da_ranks_plan_split(plan, true) != DA_SPLIT_AUTO) {
        json_object_set_new(object, "backward", json_string(da_split_name(da_ranks_plan_split(plan, true))));
    }
    return object;
}

static json_t *json_implementation(const da_ranks_plan *plan, const char *implementation) {
    json_t *object = plan_json_total(plan, implementation);
    for (size_t k = 0; k < CLI_COUNT(lines); k++) {
        spread s = spread_of(plan, implementation, lines[k].number);
        char name[64];
        snprintf(name, sizeof(name), "rank_%s", lines[k].name);
        json_object_set_new(object, name,
                            json_pack("{s:f, s:f, s:f}", "least", s.least, "mean", s.mean, "most", s.most));
    }
    return object;
}

static json_t *json_plan(const plan_options *options, const da_ranks_plan *plan) {
    json_t *object = json_pack("{s:s, s:o, s:i}", "choice", da_ranks_plan_choice(plan), "split", plan_json_split(plan),
                               "ranks_gone_through", (int)da_ranks_plan_count(plan));
    for (size_t k = 0; k < CLI_COUNT(implementations); k++) {
        const char *name = implementations[k].name;
        if (is_wanted(options, name)) {
            json_object_set_new(object, name, json_implementation(plan, name));
        }
    }
    return object;
}

/* ---- scaling ------------------------------------------------------------------------------------------------------- */

/* As many tokens for each rank as the command line says, over another number of ranks. A pattern whose segment is the
 * whole sequence follows it and keeps as many tokens of it. */
static void scale_problem(const plan_options *options, const da_attention_config *config, int64_t ranks,
                          da_problem *problem, da_attention_config *scaled) {
    int64_t n = options->problem.n;
    *problem = options->problem;
    *scaled = *config;
    problem->n = (int64_t)llround((double)n / (double)options->ranks * (double)ranks);
    problem->n = problem->n > 0 ? problem->n : 1;
    for (size_t p = 0; p < config->segment_count; p++) {
        if (config->segment_lengths[p] >= n) {
            double rate = (double)config->dilation_rates[p] * (double)problem->n / (double)n;
            scaled->segment_lengths[p] = problem->n;
            scaled->dilation_rates[p] = rate > 1 ? (int64_t)llround(rate) : 1;
        }
    }
}

static da_status scale_point(const plan_options *options, const da_context *context, const da_attention_config *config,
                             const da_ranks_options *rates, int64_t ranks, scaling_point *point) {
    da_problem problem;
    da_attention_config scaled;
    da_ranks_options own = *rates;
    da_ranks_plan *plan;
    da_cost cost;
    da_cost_init(&cost);
    own.ranks = (int)ranks;
    scale_problem(options, config, ranks, &problem, &scaled);
    da_status status = da_plan_ranks(context, &scaled, &problem, &own, &plan);
    if (status != DA_OK) {
        return status;
    }
    *point = (scaling_point){.ranks = ranks, .tokens = problem.n};
    for (size_t k = RING; k <= DISTRIBUTED; k++) {
        da_ranks_total total;
        da_ranks_total_init(&total);
        da_ranks_plan_total(plan, implementations[k].name, &total);
        point->seconds[k] = total.seconds;
        point->bytes[k] = total.bytes_most;
        point->memory[k] = total.memory_most;
    }
    status = da_pattern_cost(&scaled, &problem, &cost);
    spread pairs = spread_of(plan, "ring", pairs_of), computing = spread_of(plan, "ring", computing_of);
    point->dense_seconds = cost.dense_pairs / (double)ranks / pairs.mean * computing.mean;
    da_ranks_plan_free(plan);
    return status;
}

static void print_scaling(const scaling *all) {
    printf("\nscaling, as many tokens for each rank\n  %8s %16s %12s %14s %14s %14s %14s %16s\n", "ranks", "tokens",
           "ring", "distributed", "dense", "ring received", "distr. received", "distr. memory");
    for (size_t k = 0; k < all->count; k++) {
        const scaling_point *p = &all->points[k];
        char ranks[CLI_GROUPED_TEXT], tokens[CLI_GROUPED_TEXT], ring[CLI_BYTES_TEXT], all_bytes[CLI_BYTES_TEXT],
            memory[CLI_BYTES_TEXT];
        printf("  %8s %16s %10.4g s %12.4g s %12.4g s %14s %15s %15s\n", cli_grouped(p->ranks, ranks),
               cli_grouped(p->tokens, tokens), p->seconds[0], p->seconds[1], p->dense_seconds,
               cli_bytes(p->bytes[0], ring), cli_bytes(p->bytes[1], all_bytes), cli_bytes(p->memory[1], memory));
    }
}

static json_t *json_scaling(const scaling *all) {
    json_t *array = json_array();
    for (size_t k = 0; k < all->count; k++) {
        const scaling_point *p = &all->points[k];
        json_array_append_new(array,
                              json_pack("{s:I, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f}", "ranks", (json_int_t)p->ranks,
                                        "tokens", (json_int_t)p->tokens, "ring_seconds", p->seconds[0],
                                        "distributed_seconds", p->seconds[1], "dense_seconds", p->dense_seconds,
                                        "ring_bytes_most", p->bytes[0], "distributed_bytes_most", p->bytes[1],
                                        "ring_memory_most", p->memory[0], "distributed_memory_most", p->memory[1]));
    }
    return array;
}

static int make_scaling(const plan_options *options, const da_context *context, const da_attention_config *config,
                        const da_ranks_options *rates, scaling *all) {
    for (size_t k = 0; k < options->scaling.count; k++) {
        da_status status =
            scale_point(options, context, config, rates, options->scaling.values[k], &all->points[all->count]);
        if (status != DA_OK) {
            return cli_refused(COMMAND, status);
        }
        all->count++;
    }
    if (options->plot != NULL) {
        picture_size size;
        da_status status = picture_write(options->plot, scaling_paint, all, &size);
        return status == DA_OK ? CLI_CONTINUE : cli_refused(COMMAND, status);
    }
    return CLI_CONTINUE;
}

/* ---- the command --------------------------------------------------------------------------------------------------- */

static int show(const plan_options *options, const da_ranks_plan *plan, const scaling *all) {
    if (options->json) {
        json_t *object = json_plan(options, plan);
        if (all->count > 0) {
            json_object_set_new(object, "scaling", json_scaling(all));
        }
        return cli_print_json(COMMAND, object);
    }
    printf("%s", da_ranks_plan_text(plan));
    for (size_t k = 0; k < CLI_COUNT(implementations); k++) {
        if (is_wanted(options, implementations[k].name) &&
            (implementations[k].in_text || options->implementation != NULL)) {
            print_implementation(plan, implementations[k].name, implementations[k].label);
        }
    }
    if (all->count > 0) {
        print_scaling(all);
    }
    return CLI_OK;
}

/* Rates that were measured for the plan serve the scaling, too: the machine is timed once. */
static void keep_rates(const da_ranks_plan *plan, da_ranks_options *rates) {
    spread flops = spread_of(plan, "ring", flops_of), computing = spread_of(plan, "ring", computing_of);
    if (rates->forward_flops == 0 && !rates->backward && computing.mean > 0) {
        rates->forward_flops = flops.mean / computing.mean;
    }
}

static int plan_in(const plan_options *options, const da_context *context, const da_attention_config *config) {
    da_ranks_options rates;
    da_ranks_plan *plan;
    scaling all = {.count = 0};
    da_ranks_options_init(&rates);
    network_apply(&options->network, &rates);
    rates.ranks = (int)options->ranks;
    rates.backward = options->backward;
    rates.forward_flops = options->rate.value;
    rates.backward_flops = options->backward_rate.value;
    da_status status = da_plan_ranks(context, config, &options->problem, &rates, &plan);
    if (status != DA_OK) {
        return cli_refused(COMMAND, status);
    }
    keep_rates(plan, &rates);
    int code = make_scaling(options, context, config, &rates, &all);
    code = code == CLI_CONTINUE ? show(options, plan, &all) : code;
    da_ranks_plan_free(plan);
    return code;
}

static int check_options(const plan_options *options) {
    if (options->problem.n == 0) {
        return cli_usage(COMMAND, "--tokens: missing; give the length of the whole sequence");
    }
    bool is_known = options->implementation == NULL;
    for (size_t k = 0; k < CLI_COUNT(implementations); k++) {
        is_known |= is_wanted(options, implementations[k].name);
    }
    if (!is_known) {
        return cli_usage(COMMAND,
                         "--impl: \"%s\" is unknown; allowed: ring, distributed, distributed_tokens, distributed_heads",
                         options->implementation);
    }
    if (options->plot != NULL && !picture_path_is_known(options->plot)) {
        return cli_usage(COMMAND, "--plot \"%s\": a picture's name ends in .png or .svg", options->plot);
    }
    if (options->plot != NULL && options->scaling.count < 2) {
        return cli_usage(COMMAND, "--plot: there is nothing to draw without two numbers of --scaling");
    }
    if (options->scaling.count > SCALING_MAX) {
        return cli_usage(COMMAND, "--scaling: %zu numbers; allowed: up to %d", options->scaling.count, SCALING_MAX);
    }
    return CLI_CONTINUE;
}

static int run_plan(plan_options *options) {
    da_attention_config config;
    da_context *context = NULL;
    int code = check_options(options);
    if (code == CLI_CONTINUE) {
        code = configuration_finish(&options->configuration, COMMAND, &config);
    }
    if (code == CLI_CONTINUE) {
        code = machine_context(&options->machine, COMMAND, NULL, NULL, &context);
    }
    if (code != CLI_CONTINUE) {
        return code;
    }
    if (config.dtype != DA_DTYPE_ANY) {
        options->problem.dtype = config.dtype;
    }
    code = plan_in(options, context, &config);
    da_context_free(context);
    return code;
}

int command_plan(int argc, char **argv) {
    plan_options options = {.ranks = 1};
    da_problem_init(&options.problem);
    da_problem *problem = &options.problem;
    const cli_option own[] = {
        {"ranks", "P", "ranks that share the sequence (1)", cli_read_integer, &options.ranks, 1, DA_MAX_PLANNED_RANKS},
        {"tokens", "N", "tokens of the whole sequence", cli_read_integer, &problem->n, 1, INT64_MAX},
        {"batch", "B", "sequences (1)", cli_read_integer, &problem->batch, 1, INT64_MAX},
        {"heads", "H", "heads of the query (1)", cli_read_integer, &problem->heads, 1, DA_MAX_PLANNED_HEADS},
        {"kv-heads", "H", "heads of key and value (as many as of the query)", cli_read_integer, &problem->kv_heads, 1,
         DA_MAX_PLANNED_HEADS},
        {"head-dim", "D", "numbers of a head (64)", cli_read_integer, &problem->head_dim, 1, DA_MAX_HEAD_DIM},
        {"impl", "NAME", "ring, distributed, distributed_tokens or distributed_heads\nalone", cli_read_text,
         &options.implementation, 0, 0},
        {"backward", NULL, "a forward and a backward call", cli_read_flag, &options.backward, 0, 0},
        {"scaling", "A,B,..", "also for these numbers of ranks, each with as many tokens\nas one of P has",
         cli_read_list, &options.scaling, 1, DA_MAX_PLANNED_RANKS},
        {"plot", "FILE", "draws the time over --scaling, .png or .svg", cli_read_text, &options.plot, 0, 0},
        {"json", NULL, "write JSON", cli_read_flag, &options.json, 0, 0},
    };
    cli_option networking[NETWORK_OPTION_COUNT], shared[CONFIGURATION_OPTION_COUNT],
        computing[MACHINE_OPTION_COUNT + 2];
    network_options(&options.network, networking);
    configuration_options(&options.configuration, shared);
    machine_options(&options.machine, computing);
    computing[MACHINE_OPTION_COUNT] = (cli_option){"rate",
                                                   "F",
                                                   "floating-point operations a second that a rank does for\ndistinct "
                                                   "pairs, forward (default: timings of this machine)",
                                                   cli_read_prefixed,
                                                   &options.rate,
                                                   0,
                                                   0};
    computing[MACHINE_OPTION_COUNT + 1] = (cli_option){"backward-rate",
                                                       "F",
                                                       "the same for the backward pass (with --rate, as that)",
                                                       cli_read_prefixed,
                                                       &options.backward_rate,
                                                       0,
                                                       0};
    const cli_group groups[] = {{"problem", own, CLI_COUNT(own)},
                                {"network", networking, CLI_COUNT(networking)},
                                {"configuration", shared, CLI_COUNT(shared)},
                                {"a rank", computing, CLI_COUNT(computing)}};
    const cli_command command = {
        COMMAND,
        "--ranks P --tokens N --segments A,B,.. --rates A,B,.. [OPTIONS]",
        "Goes through the schedule of ring and distributed over P ranks without data: messages, bytes, memory and "
        "time\n"
        "of each rank, from the rate at which this machine computes (or --rate) and a network that you describe.",
        "  dilated-attention plan --ranks 4 --tokens 1000000 --heads 12 --segments 2048,65536 --rates 1,32\n"
        "  dilated-attention plan --ranks 8192 --tokens 1073741824 --segments 2048,131072,1073741824 \\\n"
        "    --rates 1,64,524288 --rate 100T --scaling 1,16,256,4096,8192 --plot scaling.png",
        groups,
        CLI_COUNT(groups)};
    int code = cli_parse(&command, argc, argv);
    return code == CLI_CONTINUE ? run_plan(&options) : code;
}
