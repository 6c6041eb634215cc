/* show: which query sees which key, as text for a short sequence, as a picture for any. */
#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "configuration.h"
#include "drawing/figure.h"
#include "drawing/reach.h"
#include "output.h"
#include "sparse.h"

#define TEXT_TOKENS 200
#define MAX_TOKENS INT64_C(1000000000000)
#define MAX_HEADS INT64_C(1000000)

typedef struct show_options {
    configuration configuration;
    int64_t n, heads, head, query;
    const char *out;
    bool text, json, side_by_side;
} show_options;

static int parse(int argc, char **argv, show_options *options) {
    const cli_option what[] = {
        {"n", "N", "tokens of the sequence", cli_read_integer, &options->n, 1, MAX_TOKENS},
        {"heads", "H", "attention heads (default: 1)", cli_read_integer, &options->heads, 1, MAX_HEADS},
        {"head", "h", "the head to show, from 0 (default: 0)", cli_read_integer, &options->head, 0, MAX_HEADS - 1},
        {"query", "I", "the query whose reach is listed (default: one that\nmany patterns keep)", cli_read_integer,
         &options->query, 0, MAX_TOKENS - 1},
    };
    const cli_option how[] = {
        {"out", "FILE", "write a picture, .png or .svg", cli_read_text, &options->out, 0, 0},
        {"text", NULL, "print the matrix (default without --out); up to 200 tokens", cli_read_flag, &options->text, 0,
         0},
        {"heads-strip", NULL, "in the picture, put up to 8 heads side by side", cli_read_flag, &options->side_by_side,
         0, 0},
        {"json", NULL, "print what is known of the patterns as JSON", cli_read_flag, &options->json, 0, 0},
    };
    cli_option shared[CONFIGURATION_OPTION_COUNT];
    configuration_options(&options->configuration, shared);
    const cli_group groups[] = {
        {"sequence", what, CLI_COUNT(what)},
        {"configuration", shared, CLI_COUNT(shared)},
        {"output", how, CLI_COUNT(how)},
    };
    const cli_command command = {
        "show",
        "--n N --segments A,B,.. --rates A,B,.. [--out FILE | --text] [OPTIONS]",
        "Draws which query (row) sees which key (column), for one head. In the text and in pictures of single\n"
        "pairs, a number or colour says how many patterns hold the pair; where a cell is a block of pairs, its\n"
        "shade says which part of them is seen.",
        "  dilated-attention show --n 64 --heads 4 --head 1 --segments 16,32,64 --rates 1,2,4 --text\n"
        "  dilated-attention show --n 1000000 --heads 12 --segments 2048,4096,8192 --rates 1,2,4 --out pattern.png",
        groups,
        CLI_COUNT(groups)};
    return cli_parse(&command, argc, argv);
}

/* What the options must fulfil together. */
static int check(const show_options *options) {
    if (options->n == 0) {
        return cli_usage("show", "--n is missing; allowed: 1 to %lld tokens", (long long)MAX_TOKENS);
    }
    if (options->head >= options->heads) {
        return cli_usage("show", "--head %lld: there are %lld heads; allowed: 0 to %lld", (long long)options->head,
                         (long long)options->heads, (long long)options->heads - 1);
    }
    if (options->query >= options->n) {
        return cli_usage("show", "--query %lld: there are %lld tokens; allowed: 0 to %lld", (long long)options->query,
                         (long long)options->n, (long long)options->n - 1);
    }
    if (options->out != NULL && options->text) {
        return cli_usage("show",
                         "--out and --text exclude each other: the matrix goes to a picture or to the terminal");
    }
    if (options->json && options->text) {
        return cli_usage("show", "--json and --text exclude each other: standard output holds one of them");
    }
    if (options->side_by_side && options->out == NULL) {
        return cli_usage("show", "--heads-strip is drawn in a picture: it needs --out FILE.png or FILE.svg");
    }
    if (options->out != NULL && !picture_path_is_known(options->out)) {
        return cli_usage("show", "--out \"%s\": a picture's name ends in .png or .svg", options->out);
    }
    if (options->out == NULL && !options->json && options->n > TEXT_TOKENS) {
        return cli_usage("show", "--n %lld: text shows up to %d tokens; draw a picture with --out FILE.png or FILE.svg",
                         (long long)options->n, TEXT_TOKENS);
    }
    return CLI_CONTINUE;
}

/* Column numbers, read downwards. */
static void print_ruler(int64_t n, int margin) {
    for (int64_t unit = 100; unit >= 1; unit /= 10) {
        if (unit > 1 && n <= unit) {
            continue;
        }
        printf("%*s", margin, "");
        for (int64_t j = 0; j < n; j++) {
            bool shown = unit == 1 || j % 10 == 0;
            bool leading = unit > 1 && j < unit;
            putchar(!shown || leading ? ' ' : (int)('0' + j / unit % 10));
        }
        putchar('\n');
    }
}

/* The tiles of block_sparse by a pattern that asks for no data, for which one number stands. */
static da_status find_tiles(const visibility *view, da_tile_mask **tiles, da_sparse_report *report) {
    float zero = 0;
    da_tensor any = {.data = &zero, .dtype = DA_F32, .shape = {1, view->n, view->heads, 1}, .stride = {0, 0, 0, 1}};
    da_context *context = NULL;
    da_attention *attention = NULL;
    da_status status = da_context_create(NULL, &context);
    if (status == DA_OK) {
        status = da_attention_create(context, "block_sparse", view->config, &attention);
    }
    if (status == DA_OK) {
        status = da_attention_tiles(attention, &any, &any, NULL, tiles, report);
    }
    da_attention_free(attention);
    da_context_free(context);
    return status;
}

/* tiles NULL: all. */
static da_status print_matrix(const visibility *view, const da_tile_mask *tiles) {
    const int label = 4, gap = 2;
    printf("rows: queries, columns: keys; . not seen, 1 to 9 patterns that hold the pair (+ more than 9)\n\n");
    print_ruler(view->n, label + gap);
    for (int64_t i = 0; i < view->n; i++) {
        char row[TEXT_TOKENS + 1] = "";
        for (int64_t j = 0; j < view->n; j++) {
            int64_t count;
            da_status status = da_pattern_multiplicity(view->config, view->n, view->heads, view->head, i, j, &count);
            if (status != DA_OK) {
                return status;
            }
            count = sparse_keeps(tiles, 0, view->head, i, j) ? count : 0;
            row[j] = (char)(count == 0 ? '.' : count > 9 ? '+' : '0' + count);
        }
        printf("%*lld%*s%s\n", label, (long long)i, gap, "", row);
    }
    putchar('\n');
    return DA_OK;
}

static void print_reach(const visibility *view, int64_t query) {
    char number[CLI_GROUPED_TEXT];
    printf("query %s\n", cli_grouped(query, number));
    printf("%16s %14s %14s %18s %18s %18s\n", "segment", "rate", "offset", "keys seen", "reach back", "reach ahead");
    for (size_t p = 0; p < view->pattern_count; p++) {
        const head_pattern *pattern = &view->patterns[p];
        pattern_reach reach = visibility_reach(view, pattern, query);
        printf("%16s", cli_grouped(pattern->segment, number));
        printf(" %14s", cli_grouped(pattern->rate, number));
        printf(" %14s", cli_grouped(pattern->offset, number));
        if (!reach.kept) {
            printf("  does not keep this query\n");
            continue;
        }
        printf(" %18s", cli_grouped(reach.keys, number));
        printf(" %18s", cli_grouped(reach.back, number));
        printf(" %18s", cli_grouped(reach.ahead, number));
        if (reach.zero_keys > 0) {
            printf("  and %s zero keys", cli_grouped(reach.zero_keys, number));
        }
        putchar('\n');
    }
    int64_t distinct = visibility_distinct_keys(view, query, (token_range){0, view->n});
    printf("%s keys in all, each counted once\n", cli_grouped(distinct, number));
}

static json_t *pattern_json(const visibility *view, const head_pattern *pattern, int64_t query) {
    pattern_reach reach = visibility_reach(view, pattern, query);
    token_range all = {0, view->n};
    return json_pack("{s:I, s:I, s:I, s:f, s:b, s:I, s:I, s:I, s:I}", "segment", (json_int_t)pattern->segment, "rate",
                     (json_int_t)pattern->rate, "offset", (json_int_t)pattern->offset, "pairs",
                     visibility_pattern_pairs(view, pattern, all, all), "keeps_query", reach.kept, "keys",
                     (json_int_t)reach.keys, "reach_back", (json_int_t)reach.back, "reach_ahead",
                     (json_int_t)reach.ahead, "zero_keys", (json_int_t)reach.zero_keys);
}

static json_t *panel_json(const panel *square) {
    return json_pack("{s:I, s:I, s:I, s:i, s:f}", "first", (json_int_t)square->range.first, "end",
                     (json_int_t)square->range.end, "block", (json_int_t)square->block, "cells", square->cells, "pairs",
                     square->pairs);
}

/* `drawing` NULL: no picture was made. */
static int print_json(const visibility *view, int64_t query, const figure *drawing, const char *path) {
    json_t *patterns = json_array(), *panels = json_array();
    int failed = 0;
    for (size_t p = 0; p < view->pattern_count; p++) {
        failed |= json_array_append_new(patterns, pattern_json(view, &view->patterns[p], query));
    }
    for (size_t p = 0; drawing != NULL && p < drawing->panel_count; p++) {
        failed |= json_array_append_new(panels, panel_json(&drawing->panels[p]));
    }
    int64_t distinct = visibility_distinct_keys(view, query, (token_range){0, view->n});
    json_t *object =
        json_pack("{s:I, s:I, s:I, s:I, s:I, s:o, s:o, s:s?}", "n", (json_int_t)view->n, "heads",
                  (json_int_t)view->heads, "head", (json_int_t)view->head, "query", (json_int_t)query, "distinct_keys",
                  (json_int_t)distinct, "patterns", patterns, "panels", panels, "out", path);
    if (failed) {
        json_decref(object);
        object = NULL;
    }
    return cli_print_json("show", object);
}

static int show_picture(const show_options *options, const visibility *view, int64_t query) {
    figure drawing;
    picture_size size;
    da_status status = figure_prepare(view, query, options->side_by_side, &drawing);
    if (status != DA_OK) {
        return cli_refused("show", status);
    }
    int code = CLI_OK;
    status = picture_write(options->out, figure_paint, &drawing, &size);
    if (status != DA_OK) {
        code = cli_refused("show", status);
    } else if (options->json) {
        code = print_json(view, query, &drawing, options->out);
    } else {
        print_reach(view, query);
        printf("%s: %.0f x %.0f points\n", options->out, size.width, size.height);
    }
    figure_free(&drawing);
    return code;
}

/* What block_sparse computes is shown as text, where pairs can be told apart. */
static int check_sparse(const show_options *options) {
    const configuration *chosen = &options->configuration;
    const char *option = configuration_sparse_option(chosen);
    if (option != NULL && (options->out != NULL || options->json)) {
        return cli_usage("show", "%s: tiles are shown as text; not with --out, --json", option);
    }
    if (option != NULL && (chosen->sparse_pattern == NULL || strcmp(chosen->sparse_pattern, "content") == 0 ||
                           chosen->quality_target.is_set)) {
        return cli_usage("show",
                         "%s: tiles that data decide cannot be shown; allowed: --sparse-pattern local_window, "
                         "global_local, dilated_sparse, axial, random, hybrid",
                         option);
    }
    return CLI_CONTINUE;
}

static int show_text(const show_options *options, const visibility *view, int64_t query) {
    da_tile_mask *tiles = NULL;
    da_sparse_report report;
    da_sparse_report_init(&report);
    da_status status = DA_OK;
    if (configuration_sparse_option(&options->configuration) != NULL) {
        status = find_tiles(view, &tiles, &report);
    }
    if (status == DA_OK) {
        status = print_matrix(view, tiles);
    }
    if (status == DA_OK) {
        sparse_print("block_sparse computes, of all heads: ", &report);
        print_reach(view, query);
    }
    da_tile_mask_free(tiles);
    return status == DA_OK ? CLI_OK : cli_refused("show", status);
}

int command_show(int argc, char **argv) {
    show_options options = {.heads = 1, .query = -1};
    da_attention_config config;
    int code = parse(argc, argv, &options);
    if (code == CLI_CONTINUE) {
        code = check(&options);
    }
    if (code == CLI_CONTINUE) {
        code = check_sparse(&options);
    }
    if (code == CLI_CONTINUE) {
        code = configuration_finish(&options.configuration, "show", &config);
    }
    if (code != CLI_CONTINUE) {
        return code;
    }
    visibility view = visibility_of(&config, options.n, options.heads, options.head);
    int64_t query = options.query >= 0 ? options.query : reach_query(&view);
    if (options.out != NULL) {
        return show_picture(&options, &view, query);
    }
    if (options.json) {
        return print_json(&view, query, NULL, NULL);
    }
    return show_text(&options, &view, query);
}
