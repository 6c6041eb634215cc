#include "options.h"

#include <ctype.h>
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_OPTIONS 64
#define HELP_COLUMN 28
#define FIRST_OPTION 1000 /* getopt_long's value of option i is FIRST_OPTION + i: never a character */

static struct {
    char *text; /* NULL: messages are printed */
    size_t size;
} keeper;

void cli_keep_problems(char *text, size_t size) {
    keeper.text = text;
    keeper.size = size;
}

/* A message is one line, whatever the words that it quotes hold. */
static void print_problem(const char *command, const char *format, va_list arguments) {
    char message[4096];
    vsnprintf(message, sizeof(message), format, arguments);
    for (char *c = message; *c != '\0'; c++) {
        if (iscntrl((unsigned char)*c)) {
            *c = '?';
        }
    }
    if (keeper.text != NULL) {
        if (keeper.text[0] == '\0') {
            snprintf(keeper.text, keeper.size, "%s", message);
        }
        return;
    }
    fprintf(stderr, "dilated-attention%s%s: %s\n", command[0] != '\0' ? " " : "", command, message);
}

int cli_usage(const char *command, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_problem(command, format, arguments);
    va_end(arguments);
    return CLI_USAGE;
}

int cli_fail(const char *command, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    print_problem(command, format, arguments);
    va_end(arguments);
    return CLI_FAILED;
}

int cli_refused(const char *command, da_status status) {
    if (status == DA_ERROR_INVALID_ARGUMENT || status == DA_ERROR_UNKNOWN_IMPLEMENTATION ||
        status == DA_ERROR_UNSUPPORTED) {
        return cli_usage(command, "%s", da_last_error_message());
    }
    return cli_fail(command, "%s", da_last_error_message());
}

/* ------------------------------------------------------------------------------------------------------------------ */

bool cli_read_flag(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    *(bool *)option->target = true;
    return true;
}

bool cli_read_text(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    if (text[0] == '\0') {
        snprintf(allowed, allowed_size, "is empty");
        return false;
    }
    *(const char **)option->target = text;
    return true;
}

bool cli_keep_name(const cli_option *option, const char *text, da_status status, char *allowed, size_t allowed_size) {
    if (status != DA_OK) {
        const char *names = strstr(da_last_error_message(), "; allowed");
        snprintf(allowed, allowed_size, "is unknown%s", names != NULL ? names : "");
        return false;
    }
    *(const char **)option->target = text;
    return true;
}

/* The whole of text[0..length) must be a number: no blanks, no sign but '-', no rest. */
static bool parse_integer(const char *text, size_t length, const cli_option *option, int64_t *value) {
    char digits[32];
    if (length == 0 || length >= sizeof(digits) || !(isdigit((unsigned char)text[0]) || text[0] == '-')) {
        return false;
    }
    memcpy(digits, text, length);
    digits[length] = '\0';
    char *end;
    errno = 0;
    long long number = strtoll(digits, &end, 10);
    if (errno != 0 || *end != '\0' || end == digits || number < option->minimum || number > option->maximum) {
        return false;
    }
    *value = number;
    return true;
}

static void describe_range(const cli_option *option, char *text, size_t size) {
    if (option->maximum == INT64_MAX) {
        snprintf(text, size, "from %" PRId64 " on", option->minimum);
    } else {
        snprintf(text, size, "from %" PRId64 " to %" PRId64, option->minimum, option->maximum);
    }
}

bool cli_read_integer(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    int64_t value;
    if (!parse_integer(text, strlen(text), option, &value)) {
        char range[64];
        describe_range(option, range, sizeof(range));
        snprintf(allowed, allowed_size, "is not a whole number %s", range);
        return false;
    }
    *(int64_t *)option->target = value;
    return true;
}

bool cli_read_list(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    cli_list list = {0};
    char range[64];
    describe_range(option, range, sizeof(range));
    for (const char *rest = text;;) {
        size_t length = strcspn(rest, ",");
        if (list.count == CLI_MAX_LIST) {
            snprintf(allowed, allowed_size, "has more than %d members", CLI_MAX_LIST);
            return false;
        }
        if (!parse_integer(rest, length, option, &list.values[list.count])) {
            snprintf(allowed, allowed_size,
                     "is not a list of whole numbers %s, such as 2048,4096,8192; its member %zu is "
                     "\"%.*s\"",
                     range, list.count + 1, (int)(length < 40 ? length : 40), rest);
            return false;
        }
        list.count++;
        if (rest[length] == '\0') {
            break;
        }
        rest += length + 1;
    }
    *(cli_list *)option->target = list;
    return true;
}

bool cli_read_number(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end != '\0' || isspace((unsigned char)text[0]) || !isfinite(value)) {
        snprintf(allowed, allowed_size, "is not a finite number");
        return false;
    }
    *(cli_number *)option->target = (cli_number){.is_set = true, .value = value};
    return true;
}

/* ------------------------------------------------------------------------------------------------------------------ */

/* Prints help text with its further lines under the first. */
static void print_help_lines(const char *help) {
    for (const char *line = help;;) {
        size_t length = strcspn(line, "\n");
        printf("%.*s\n", (int)length, line);
        if (line[length] == '\0') {
            return;
        }
        line += length + 1;
        printf("%*s", HELP_COLUMN, "");
    }
}

static void print_option(const char *name, const char *argument, const char *help) {
    int width = argument != NULL ? printf("  --%s %s", name, argument) : printf("  --%s", name);
    if (width > HELP_COLUMN - 2) {
        printf("\n%*s", HELP_COLUMN, "");
    } else {
        printf("%*s", HELP_COLUMN - width, "");
    }
    print_help_lines(help);
}

static void print_help(const cli_command *command) {
    printf("usage: dilated-attention %s %s\n\n%s\n", command->name, command->usage, command->summary);
    for (size_t g = 0; g < command->group_count; g++) {
        printf("\n%s:\n", command->groups[g].title);
        for (size_t i = 0; i < command->groups[g].count; i++) {
            const cli_option *option = &command->groups[g].options[i];
            print_option(option->name, option->argument, option->help);
        }
    }
    printf("\n");
    print_option("help", NULL, "print this and stop");
    if (command->examples != NULL) {
        printf("\nexamples:\n%s\n", command->examples);
    }
    printf("\nexit codes: 0 done, 1 failed, 2 the command line is wrong\n");
}

static int read_value(const cli_command *command, const cli_option *option, const char *text) {
    char allowed[CLI_MAX_ALLOWED];
    if (option->read(option, text, allowed, sizeof(allowed))) {
        return CLI_CONTINUE;
    }
    return cli_usage(command->name, "--%s: \"%s\" %s", option->name, text, allowed);
}

/* What getopt_long refused: `returned` is ':' or '?', and argv[optind - 1] the word that it stopped at. */
static int refuse_word(const cli_command *command, int returned, char **argv, const cli_option *const *flat) {
    const char *word = argv[optind - 1];
    if (returned == ':' && optopt >= FIRST_OPTION) {
        const cli_option *option = flat[optopt - FIRST_OPTION];
        return cli_usage(command->name, "--%s: a value is missing; it takes %s", option->name, option->argument);
    }
    if (optopt >= FIRST_OPTION) {
        return cli_usage(command->name, "--%s: takes no value (\"%s\")", flat[optopt - FIRST_OPTION]->name, word);
    }
    if (optopt != 0) {
        return cli_usage(command->name,
                         "-%c: unknown option; options begin with two dashes, see \"dilated-attention %s "
                         "--help\"",
                         optopt, command->name);
    }
    return cli_usage(command->name, "%s: unknown or ambiguous option; see \"dilated-attention %s --help\"", word,
                     command->name);
}

int cli_parse(const cli_command *command, int argc, char **argv) {
    struct option table[MAX_OPTIONS + 2] = {{.name = "help", .val = 'h'}};
    const cli_option *flat[MAX_OPTIONS];
    size_t count = 0;
    for (size_t g = 0; g < command->group_count; g++) {
        for (size_t i = 0; i < command->groups[g].count && count < MAX_OPTIONS; i++, count++) {
            const cli_option *option = &command->groups[g].options[i];
            flat[count] = option;
            table[count + 1] = (struct option){.name = option->name,
                                               .has_arg = option->argument != NULL ? required_argument : no_argument,
                                               .val = FIRST_OPTION + (int)count};
        }
    }
    opterr = 0;
    optind = 1;
    int returned;
    while ((returned = getopt_long(argc, argv, ":", table, NULL)) != -1) {
        if (returned == 'h') {
            print_help(command);
            return CLI_OK;
        }
        int code = returned >= FIRST_OPTION ? read_value(command, flat[returned - FIRST_OPTION], optarg)
                                            : refuse_word(command, returned, argv, flat);
        if (code != CLI_CONTINUE) {
            return code;
        }
    }
    if (optind < argc) {
        return cli_usage(command->name, "\"%s\": not an option; every argument is given as --name value", argv[optind]);
    }
    return CLI_CONTINUE;
}
