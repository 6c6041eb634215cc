/* plot: curves of trainings, from the logs that `train --log` wrote. */
#include "plot.h"

#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "drawing/curves.h"
#include "options.h"

#define COMMAND "plot"
#define MAX_TEXT 4096

/* Words between commas; count 0: the option was not given. */
typedef struct word_list {
    size_t count;
    const char *words[CURVES_MAX];
    char text[MAX_TEXT];
} word_list;

static bool read_words(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    word_list *list = option->target;
    bool fits = (size_t)snprintf(list->text, sizeof list->text, "%s", text) < sizeof list->text;
    char *rest = list->text, *word;
    for (list->count = 0; fits && (word = strsep(&rest, ",")); list->count++) {
        fits = *word != '\0' && list->count < CURVES_MAX;
        if (fits) {
            list->words[list->count] = word;
        }
    }
    if (!fits) {
        snprintf(allowed, allowed_size, "is not a list of 1 to %d words, such as a.jsonl,b.jsonl", CURVES_MAX);
    }
    return fits;
}

int plot_logs(const char *command, const char *out, const char *const *logs, const char *const *names, size_t count) {
    curves all = {.count = count};
    picture_size size;
    da_status status = DA_OK;
    for (size_t k = 0; k < count && status == DA_OK; k++) {
        all.names[k] = names[k];
        status = train_log_read(logs[k], &all.logs[k]);
    }
    if (status == DA_OK) {
        status = picture_write(out, curves_paint, &all, &size);
    }
    for (size_t k = 0; k < count; k++) {
        train_log_free(&all.logs[k]);
    }
    return status == DA_OK ? CLI_OK : cli_refused(command, status);
}

int command_plot(int argc, char **argv) {
    word_list logs = {0}, names = {0};
    const char *out = NULL;
    const cli_option options[] = {
        {"logs", "A,B,..", "logs of trainings, up to 6 (no comma in a path)", read_words, &logs, 0, 0},
        {"names", "A,B,..", "what to call them (default: the paths)", read_words, &names, 0, 0},
        {"out", "FILE", "the picture, .png or .svg", cli_read_text, &out, 0, 0},
    };
    const cli_group groups[] = {{"picture", options, CLI_COUNT(options)}};
    const cli_command command = {COMMAND,
                                 "--logs A,B,.. --out FILE [OPTIONS]",
                                 "Draws bits a byte over the bytes trained on, from logs that train --log wrote.",
                                 "  dilated-attention plot --logs a.jsonl,b.jsonl --names dilated,dense --out ab.png",
                                 groups,
                                 CLI_COUNT(groups)};
    int code = cli_parse(&command, argc, argv);
    if (code != CLI_CONTINUE) {
        return code;
    }
    if (logs.count == 0 || !out) {
        return cli_usage(COMMAND, "--%s: missing", logs.count == 0 ? "logs" : "out");
    }
    if (names.count != 0 && names.count != logs.count) {
        return cli_usage(COMMAND, "--names: %zu of them; allowed: %zu, one for each of --logs", names.count,
                         logs.count);
    }
    if (!picture_path_is_known(out)) {
        return cli_usage(COMMAND, "--out \"%s\": a picture's name ends in .png or .svg", out);
    }
    return plot_logs(COMMAND, out, logs.words, names.count ? names.words : logs.words, logs.count);
}
