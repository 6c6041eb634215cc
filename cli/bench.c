/* bench: how fast the implementations are, beside what the machine's arithmetic units could do. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "bench_ranks.h"
#include "check.h"
#include "commands.h"
#include "configuration.h"
#include "machine.h"
#include "measure.h"
#include "output.h"
#include "peak.h"
#include "planning.h"
#include "sparse.h"

#define COMMAND "bench"
#define BACKWARD 2.5 /* products of the backward pass to those of the forward pass, as FlashAttention counts them */
#define MAX_NAMES 16
#define MAX_NAME 64

typedef struct name_list {
    size_t count;
    char names[MAX_NAMES][MAX_NAME];
} name_list;

typedef struct bench_options {
    configuration configuration;
    sparse_files sparse;
    machine machine;
    planning planning;
    network network;
    int64_t ranks; /* 0: none */
    name_list implementations;
    cli_list n;
    da_problem problem;
    int64_t repeats;
    bool backward, check, json;
} bench_options;

typedef struct bench_row {
    const char *implementation;
    int64_t n;
    timing taken;
    double estimate; /* seconds by the library's model; 0: it has none */
    da_tuning tuning;
    da_cost cost;
    double distinct_flops;
    size_t workspace;
    da_sparse_report sparse;            /* of block_sparse */
    check_result check, gradient_check; /* gradient_check: with --backward */
} bench_row;

/* What all rows share. */
typedef struct bench {
    bench_options *options;
    da_context *context;
    da_attention_config config;
    peak peak;
    json_t *rows; /* NULL: text */
    bool check_failed;
} bench;

static bool read_names(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    name_list list = {0};
    for (const char *rest = text;;) {
        size_t length = strcspn(rest, ",");
        if (length == 0 || length >= MAX_NAME || list.count == MAX_NAMES) {
            snprintf(allowed, allowed_size, "is not a list of at most %d names, such as standard,improved", MAX_NAMES);
            return false;
        }
        memcpy(list.names[list.count++], rest, length);
        if (rest[length] == '\0') {
            *(name_list *)option->target = list;
            return true;
        }
        rest += length + 1;
    }
}

/* ------------------------------------------------------------------------------------------------------------------ */

static json_t *json_check(const check_result *check) {
    return json_pack("{s:i, s:f, s:f, s:f, s:b}", "queries", check->queries, "largest_error", check->largest_error,
                     "largest_lse_error", check->largest_lse_error, "largest_error_over_allowed", check->worst,
                     "passed", check->passed);
}

static json_t *json_row(const bench *run, const bench_row *row) {
    double tokens = (double)run->options->problem.batch * (double)row->n;
    double counted = row->cost.counted_flops / row->taken.median, distinct = row->distinct_flops / row->taken.median;
    return json_pack(
        "{s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:f, s:I, s:f,"
        " s:o, s:o*, s:o*, s:o*}",
        "implementation", row->implementation, "n", (json_int_t)row->n, "median_seconds", row->taken.median,
        "fastest_seconds", row->taken.fastest, "slowest_seconds", row->taken.slowest, "tokens_per_second",
        tokens / row->taken.median, "counted_flops", row->cost.counted_flops, "distinct_flops", row->distinct_flops,
        "counted_flops_per_second", counted, "distinct_flops_per_second", distinct, "counted_fraction_of_peak",
        counted / run->peak.best, "distinct_fraction_of_peak", distinct / run->peak.best, "workspace_bytes",
        (json_int_t)row->workspace, "estimated_seconds", row->estimate, "tuning", planning_json_tuning(&row->tuning),
        "check", run->options->check ? json_check(&row->check) : NULL, "gradient_check",
        run->options->check && run->options->backward ? json_check(&row->gradient_check) : NULL, "sparse",
        sparse_json(&row->sparse));
}

static void print_heading(const bench *run) {
    const da_problem *problem = &run->options->problem;
    printf("%s, %s, %d threads; batch %" PRId64 ", %" PRId64 " heads x %" PRId64 ", %s\n",
           da_context_hardware(run->context)->cpu_name, da_isa_name(da_context_isa(run->context)),
           da_context_threads(run->context), problem->batch, problem->heads, problem->head_dim,
           da_dtype_name(problem->dtype));
    if (run->options->backward) {
        printf("forward and backward pass; flops are 3.5 times those of the forward pass\n");
    }
    printf("multiply-add peak of this machine: %.1f GF/s (median %.1f of %d rounds)\n\n", run->peak.best * 1e-9,
           run->peak.median * 1e-9, run->peak.rounds);
    printf("%-14s %12s %10s %21s %10s %8s %12s %14s %8s %14s %8s\n", "implementation", "n", "median s",
           "fastest..slowest s", "estimate s", "off by", "tokens/s", "counted GF/s", "of peak", "distinct GF/s",
           "of peak");
}

static void print_row(const bench *run, const bench_row *row) {
    char n[CLI_GROUPED_TEXT], rate[CLI_GROUPED_TEXT], range[48], estimate[16] = "-", off[16] = "-";
    double tokens = (double)run->options->problem.batch * (double)row->n;
    double counted = row->cost.counted_flops / row->taken.median, distinct = row->distinct_flops / row->taken.median;
    snprintf(range, sizeof(range), "%.4f..%.4f", row->taken.fastest, row->taken.slowest);
    if (row->estimate > 0) {
        snprintf(estimate, sizeof(estimate), "%.4f", row->estimate);
        snprintf(off, sizeof(off), "%+.0f%%", 100 * (row->estimate / row->taken.median - 1));
    }
    printf("%-14s %12s %10.4f %21s %10s %8s %12s %14.1f %7.1f%% %14.1f %7.1f%%\n", row->implementation,
           cli_grouped(row->n, n), row->taken.median, range, estimate, off,
           cli_grouped((int64_t)(tokens / row->taken.median), rate), counted * 1e-9, 100 * counted / run->peak.best,
           distinct * 1e-9, 100 * distinct / run->peak.best);
    sparse_print("               computes ", &row->sparse);
    if (run->options->check) {
        printf("%-14s %d queries against f64: largest error %.2g, of the logsumexp %.2g; %.2g of what is allowed: %s\n",
               "", row->check.queries, row->check.largest_error, row->check.largest_lse_error, row->check.worst,
               row->check.passed ? "right" : "WRONG");
    }
    if (run->options->check && run->options->backward) {
        const check_result *found = &row->gradient_check;
        printf("%-14s %d rows of gradients against f64: largest error %.2g; %.2g of what is allowed: %s\n", "",
               found->queries, found->largest_error, found->worst, found->passed ? "right" : "WRONG");
    }
    fflush(stdout);
}

/* ------------------------------------------------------------------------------------------------------------------ */

/* What the model says of an implementation as it is configured. */
static da_status estimate_row(const bench *run, const da_problem *problem, bench_row *row) {
    da_explanation *explanation;
    da_status status = da_explain(run->context, &run->config, problem, &explanation);
    for (size_t i = 0; status == DA_OK && i < da_explanation_alternative_count(explanation); i++) {
        da_alternative other;
        if (da_explanation_alternative(explanation, i, &other) == DA_OK &&
            strcmp(other.name, row->implementation) == 0) {
            row->estimate = other.estimated_seconds;
        }
    }
    da_explanation_free(explanation);
    return status;
}

/* What the tiles that are computed hold of the pattern's pairs, and the row's figures of them alone. */
static da_status find_tiles(const da_attention *attention, const workload *work, bench_row *row, da_tile_mask **tiles) {
    da_status status = sparse_tiles(attention, &work->q, &work->k, NULL, tiles, &row->sparse);
    if (status == DA_OK && row->sparse.pairs_all > 0) {
        row->cost.counted_flops *= row->sparse.pairs_kept / row->sparse.pairs_all;
        row->distinct_flops *= row->sparse.pairs_kept / row->sparse.pairs_all;
    }
    return status;
}

static da_status check_row(const bench *run, const workload *work, const da_tile_mask *tiles, bench_row *row) {
    int threads = da_context_threads(run->context);
    da_status status = check_sample(&run->config, work, tiles, threads, &row->check);
    return status == DA_OK && work->backward
               ? check_gradient_sample(&run->config, work, tiles, threads, &row->gradient_check)
               : status;
}

static da_status measure_row(bench *run, const da_attention *attention, workload *work, bench_row *row) {
    const bench_options *options = run->options;
    da_tile_mask *tiles = NULL;
    row->cost.size = sizeof(row->cost);
    da_status status = da_pattern_cost(&run->config, &work->problem, &row->cost);
    row->distinct_flops = 4.0 * (double)work->problem.head_dim * row->cost.distinct_pairs;
    if (status == DA_OK) {
        status = da_attention_workspace(attention, &work->problem, &row->workspace);
    }
    if (status == DA_OK && !work->backward) {
        status = estimate_row(run, &work->problem, row);
    }
    if (work->backward) {
        row->cost.counted_flops *= 1 + BACKWARD;
        row->distinct_flops *= 1 + BACKWARD;
    }
    if (status == DA_OK) {
        status = measure_passes(attention, work, (int)options->repeats, true, &row->taken);
    }
    if (status == DA_OK) {
        status = find_tiles(attention, work, row, &tiles);
    }
    if (status == DA_OK && options->check) {
        status = check_row(run, work, tiles, row);
    }
    da_tile_mask_free(tiles);
    return status;
}

static int bench_one(bench *run, const char *name, workload *work) {
    da_attention *attention;
    run->config.sequence_length = work->problem.n;
    int code = planning_tune(&run->options->planning, COMMAND, run->context, name, &work->problem, &run->config, NULL);
    if (code != CLI_CONTINUE) {
        return code;
    }
    da_status status = da_attention_create(run->context, name, &run->config, &attention);
    if (status != DA_OK) {
        return cli_refused(COMMAND, status);
    }
    bench_row row = {.implementation = da_attention_implementation(attention), .n = work->problem.n};
    row.tuning = run->config.tuning;
    status = measure_row(run, attention, work, &row);
    code = status == DA_OK ? CLI_CONTINUE : cli_refused(COMMAND, status);
    if (code == CLI_CONTINUE && run->rows != NULL) {
        json_array_append_new(run->rows, json_row(run, &row));
    } else if (code == CLI_CONTINUE) {
        print_row(run, &row);
    }
    double worst = row.check.worst > row.gradient_check.worst ? row.check.worst : row.gradient_check.worst;
    if (code == CLI_CONTINUE && run->options->check && worst > 1) {
        run->check_failed = true;
        cli_fail(COMMAND, "--check: %s at n = %" PRId64 " is wrong: its largest error is %.2g times what is allowed",
                 row.implementation, row.n, worst);
    }
    da_attention_free(attention);
    return code;
}

static int bench_length(bench *run, int64_t n) {
    const bench_options *options = run->options;
    da_problem problem = options->problem;
    problem.n = n;
    workload work;
    int code = sparse_open(&run->options->sparse, &options->configuration, COMMAND, n, &run->config);
    if (code != CLI_CONTINUE) {
        return code;
    }
    da_status status = workload_create(&work, &problem, options->backward, da_context_threads(run->context));
    if (status != DA_OK) {
        return cli_refused(COMMAND, status);
    }
    for (size_t i = 0; i < options->implementations.count && code == CLI_CONTINUE; i++) {
        code = bench_one(run, options->implementations.names[i], &work);
    }
    workload_free(&work);
    return code;
}

/* ---- over ranks ---------------------------------------------------------------------------------------------------- */

static void print_ranks_heading(const bench *run, const ranks_bench *over) {
    const da_problem *problem = &over->problem;
    da_ranks_options limits;
    da_ranks_options_init(&limits);
    network_apply(over->network, &limits);
    printf("%s, %s, %d ranks of %d thread%s; batch %" PRId64 ", %" PRId64 " heads x %" PRId64 ", %s, %s\n",
           da_context_hardware(run->context)->cpu_name, da_isa_name(over->isa), over->ranks, over->threads,
           over->threads == 1 ? "" : "s", problem->batch, problem->heads, problem->head_dim,
           da_dtype_name(problem->dtype), over->backward ? "forward and backward" : "forward");
    printf("network: %.3g bytes a second, %.3g s\n\n%-14s %12s %10s %10s %10s %8s %10s %8s %12s\n", limits.bandwidth,
           limits.latency, "implementation", "n", "single s", "free s", "limited s", "overlap", "plan s", "off by",
           "messages s");
}

static json_t *json_ranks_row(const char *implementation, int64_t n, const ranks_row *row) {
    return json_pack("{s:s, s:I, s:f, s:f, s:f, s:f, s:f, s:f}", "implementation", implementation, "n", (json_int_t)n,
                     "single_seconds", row->single, "free_seconds", row->computing, "limited_seconds", row->limited,
                     "overlap", row->computing / row->limited, "predicted_seconds", row->predicted, "transfer_seconds",
                     row->transfer);
}

static int bench_ranks_one(bench *run, ranks_bench *over, const char *implementation) {
    char n[CLI_GROUPED_TEXT];
    ranks_row row;
    int code = ranks_bench_run(over, COMMAND, implementation, &row);
    if (code == CLI_CONTINUE && run->rows != NULL) {
        json_array_append_new(run->rows, json_ranks_row(implementation, over->problem.n, &row));
    } else if (code == CLI_CONTINUE) {
        printf("%-14s %12s %10.4f %10.4f %10.4f %7.1f%% %10.4f %+7.0f%% %12.4f\n", implementation,
               cli_grouped(over->problem.n, n), row.single, row.computing, row.limited,
               100 * row.computing / row.limited, row.predicted, 100 * (row.predicted / row.limited - 1), row.transfer);
        fflush(stdout);
    }
    return code;
}

static json_t *json_over_ranks(const bench *run, const ranks_bench *over) {
    da_ranks_options limits;
    da_ranks_options_init(&limits);
    network_apply(over->network, &limits);
    return json_pack("{s:s, s:i, s:i, s:f, s:f, s:b, s:O}", "cpu", da_context_hardware(run->context)->cpu_name, "ranks",
                     over->ranks, "threads_of_a_rank", over->threads, "bandwidth", limits.bandwidth, "latency",
                     limits.latency, "backward", over->backward, "results", run->rows);
}

static int bench_over_ranks(bench *run) {
    const bench_options *options = run->options;
    int ranks = (int)options->ranks, threads = da_context_threads(run->context);
    ranks_bench over = {.config = &run->config,
                        .problem = options->problem,
                        .ranks = ranks,
                        .threads = options->machine.threads != 0 ? threads
                                   : threads / ranks > 1         ? threads / ranks
                                                                 : 1,
                        .isa = da_context_isa(run->context),
                        .network = &options->network,
                        .repeats = (int)options->repeats,
                        .backward = options->backward};
    int code = CLI_CONTINUE;
    if (options->json) {
        run->rows = json_array();
    } else {
        print_ranks_heading(run, &over);
    }
    for (size_t i = 0; i < options->n.count && code == CLI_CONTINUE; i++) {
        over.problem.n = options->n.values[i];
        over.rank_flops[0] = 0;
        code = over.problem.n < ranks ? cli_usage(COMMAND, "--n: %" PRId64 " is less than --ranks", over.problem.n)
                                      : CLI_CONTINUE;
        for (size_t k = 0; k < options->implementations.count && code == CLI_CONTINUE; k++) {
            code = bench_ranks_one(run, &over, options->implementations.names[k]);
        }
    }
    if (code == CLI_CONTINUE) {
        code = options->json ? cli_print_json(COMMAND, json_over_ranks(run, &over)) : CLI_OK;
    }
    json_decref(run->rows);
    return code;
}

/* Only these two take parts of a sequence. */
static int check_names_over_ranks(const bench_options *options) {
    for (size_t i = 0; i < options->implementations.count; i++) {
        const char *name = options->implementations.names[i];
        if (strcmp(name, "ring") != 0 && strcmp(name, "distributed") != 0) {
            return cli_usage(
                COMMAND, "--impl: \"%s\" does not compute over ranks; allowed with --ranks: ring, distributed", name);
        }
    }
    return options->check ? cli_usage(COMMAND, "--check: not with --ranks") : CLI_CONTINUE;
}

static json_t *json_bench(const bench *run) {
    const da_problem *problem = &run->options->problem;
    json_t *peak_found = json_pack("{s:f, s:f, s:i}", "best_flops_per_second", run->peak.best,
                                   "median_flops_per_second", run->peak.median, "rounds", run->peak.rounds);
    return json_pack("{s:s, s:s, s:i, s:I, s:I, s:I, s:I, s:s, s:b, s:o, s:o, s:I, s:o, s:O}", "cpu",
                     da_context_hardware(run->context)->cpu_name, "instruction_set",
                     da_isa_name(da_context_isa(run->context)), "threads", da_context_threads(run->context), "batch",
                     (json_int_t)problem->batch, "heads", (json_int_t)problem->heads, "kv_heads",
                     (json_int_t)(problem->kv_heads != 0 ? problem->kv_heads : problem->heads), "head_dim",
                     (json_int_t)problem->head_dim, "dtype", da_dtype_name(problem->dtype), "backward",
                     run->options->backward, "segment_lengths",
                     cli_json_integers(run->config.segment_lengths, run->config.segment_count), "dilation_rates",
                     cli_json_integers(run->config.dilation_rates, run->config.rate_count), "repeats",
                     (json_int_t)run->options->repeats, "peak", peak_found, "results", run->rows);
}

/* Options of block_sparse are of effect on that alone, and on "auto", which may choose it. */
static int check_sparse(const bench_options *options) {
    bool takes_notice = false;
    for (size_t i = 0; i < options->implementations.count; i++) {
        const char *name = options->implementations.names[i];
        takes_notice = takes_notice || strcmp(name, "block_sparse") == 0 ||
                       (strcmp(name, "auto") == 0 && options->configuration.quality_target.is_set);
    }
    return sparse_check(&options->sparse, &options->configuration, COMMAND, "the implementations of --impl",
                        takes_notice);
}

/* Names, configuration and shapes are refused before anything is measured. */
static int check_request(const bench *run) {
    const bench_options *options = run->options;
    for (size_t i = 0; i < options->implementations.count; i++) {
        da_attention *attention;
        da_status status =
            da_attention_create(run->context, options->implementations.names[i], &run->config, &attention);
        if (status != DA_OK) {
            return status == DA_ERROR_UNKNOWN_IMPLEMENTATION ? cli_usage(COMMAND, "--impl: %s", da_last_error_message())
                                                             : cli_refused(COMMAND, status);
        }
        da_attention_free(attention);
    }
    int code = check_sparse(options);
    if (code != CLI_CONTINUE) {
        return code;
    }
    int64_t kv_heads = options->problem.kv_heads;
    if (kv_heads != 0 && options->problem.heads % kv_heads != 0) {
        return cli_usage(COMMAND, "--kv-heads: %" PRId64 " does not divide --heads, which is %" PRId64, kv_heads,
                         options->problem.heads);
    }
    return CLI_CONTINUE;
}

static int bench_all(bench *run) {
    const bench_options *options = run->options;
    int code = check_request(run);
    if (code != CLI_CONTINUE) {
        return code;
    }
    run->peak = peak_measure(run->context, options->problem.dtype, PEAK_MAX_ROUNDS);
    if (options->json) {
        run->rows = json_array();
    } else {
        print_heading(run);
    }
    for (size_t i = 0; i < options->n.count && code == CLI_CONTINUE; i++) {
        code = bench_length(run, options->n.values[i]);
    }
    if (code == CLI_CONTINUE) {
        code = options->json ? cli_print_json(COMMAND, json_bench(run)) : CLI_OK;
    }
    json_decref(run->rows);
    return code == CLI_OK && run->check_failed ? CLI_FAILED : code;
}

static int run_bench(bench_options *options) {
    bench run = {.options = options};
    configuration_default_patterns(&options->configuration, (int64_t[]){2048, 4096, 8192}, (int64_t[]){1, 2, 4}, 3);
    int code = configuration_finish(&options->configuration, COMMAND, &run.config);
    if (code == CLI_CONTINUE) {
        code = planning_open(&options->planning, COMMAND);
    }
    if (code == CLI_CONTINUE) {
        code = machine_context(&options->machine, COMMAND, NULL, options->planning.plans, &run.context);
    }
    if (code == CLI_CONTINUE) {
        if (run.config.dtype != DA_DTYPE_ANY) {
            options->problem.dtype = run.config.dtype;
        }
        code = options->ranks == 0 ? bench_all(&run) : check_names_over_ranks(options);
        code = code == CLI_CONTINUE ? bench_over_ranks(&run) : code;
    }
    da_context_free(run.context);
    sparse_close(&options->sparse);
    planning_close(&options->planning);
    return code;
}

int command_bench(int argc, char **argv) {
    bench_options options = {.n = {1, {8192}}, .repeats = 5};
    da_problem_init(&options.problem);
    options.problem.heads = 12;
    const cli_option own[] = {
        {"impl", "A,B,..", "implementations (improved,standard; over ranks\nring,distributed)", read_names,
         &options.implementations, 0, 0},
        {"n", "A,B,..", "tokens (8192)", cli_read_list, &options.n, 1, INT64_MAX},
        {"batch", "B", "sequences (1)", cli_read_integer, &options.problem.batch, 1, 1 << 20},
        {"heads", "H", "heads of the query (12)", cli_read_integer, &options.problem.heads, 1, 1 << 20},
        {"kv-heads", "H", "heads of key and value (as many as of the query)", cli_read_integer,
         &options.problem.kv_heads, 1, 1 << 20},
        {"head-dim", "D", "numbers of a head (64)", cli_read_integer, &options.problem.head_dim, 1, DA_MAX_HEAD_DIM},
        {"repeats", "R", "passes that are timed, after one to warm up (5)", cli_read_integer, &options.repeats, 1,
         MEASURE_MAX_REPEATS},
        {"backward", NULL, "time forward and backward pass together; flops count 1 + 2.5\nforward passes",
         cli_read_flag, &options.backward, 0, 0},
        {"check", NULL, "compare sampled queries with the definition in f64,\nand fail if one is off", cli_read_flag,
         &options.check, 0, 0},
        {"json", NULL, "write JSON", cli_read_flag, &options.json, 0, 0},
    };
    cli_option shared[CONFIGURATION_OPTION_COUNT], computing[MACHINE_OPTION_COUNT], tuning[PLANNING_OPTION_COUNT];
    cli_option tiling[SPARSE_OPTION_COUNT];
    cli_option networking[NETWORK_OPTION_COUNT + 1] = {{"ranks", "P",
                                                        "bench ring and distributed over P threads as ranks: in "
                                                        "one\nprocess, over a free network, over the limited one",
                                                        cli_read_integer, &options.ranks, 2, 64}};
    network_options(&options.network, &networking[1]);
    configuration_options(&options.configuration, shared);
    sparse_options(&options.sparse, tiling);
    machine_options(&options.machine, computing);
    planning_options(&options.planning, tuning);
    const cli_group groups[] = {
        {"problem", own, CLI_COUNT(own)},
        {"configuration (default: segments 2048,4096,8192, rates 1,2,4)", shared, CLI_COUNT(shared)},
        {"tiles (--impl block_sparse)", tiling, CLI_COUNT(tiling)},
        {"computing", computing, CLI_COUNT(computing)},
        {"tuning", tuning, CLI_COUNT(tuning)},
        {"ranks", networking, CLI_COUNT(networking)}};
    const cli_command command = {
        COMMAND,
        "[OPTIONS]",
        "Times the forward pass (with --backward both) on generated data, beside the multiply-add peak that it\n"
        "measures first, and beside the time that the library's model of the cost estimates. \"counted\" counts a\n"
        "pair of query and key once per pattern that holds it, \"distinct\" once.",
        "  dilated-attention bench --n 8192,32768 --check\n"
        "  dilated-attention bench --impl improved --dtype bf16 --n 131072 --repeats 3 --json\n"
        "  dilated-attention bench --ranks 2 --n 32768 --network-bandwidth 1G --network-latency 1m",
        groups,
        CLI_COUNT(groups)};
    int code = cli_parse(&command, argc, argv);
    if (options.implementations.count == 0) {
        options.implementations =
            options.ranks == 0 ? (name_list){2, {"improved", "standard"}} : (name_list){2, {"ring", "distributed"}};
    }
    return code == CLI_CONTINUE ? run_bench(&options) : code;
}
