/* Options of a command as tables: one entry gives an option its name, its help and the function that reads its value,
 * so that parsing, messages and --help cannot disagree. */
#ifndef DA_CLI_OPTIONS_H
#define DA_CLI_OPTIONS_H

#include "dilated_attention.h"

enum {
    CLI_CONTINUE = -1, /* not an exit code: parsing succeeded, the command goes on */
    CLI_OK = 0,
    CLI_FAILED = 1, /* the command was understood, but could not be done */
    CLI_USAGE = 2   /* the command line asks for something that does not exist or is not allowed */
};

#define CLI_MAX_LIST 256
#define CLI_MAX_ALLOWED 512

/* A comma-separated list of integers; count 0: the option was not given. */
typedef struct cli_list {
    size_t count;
    int64_t values[CLI_MAX_LIST];
} cli_list;

typedef struct cli_option cli_option;

/* Reads `text` (NULL for a flag) into option->target. On false it has written what is allowed into `allowed`, as it
 * goes after "--name: \"text\"", for example "is not a whole number from 1 to 8". */
typedef bool cli_reader(const cli_option *option, const char *text, char *allowed, size_t allowed_size);

struct cli_option {
    const char *name;     /* without the dashes */
    const char *argument; /* placeholder in the help; NULL: a flag */
    const char *help;     /* may hold '\n' */
    cli_reader *read;
    void *target;
    int64_t minimum, maximum; /* of integers, and of the members of a list */
};

typedef struct cli_group {
    const char *title;
    const cli_option *options;
    size_t count;
} cli_group;

typedef struct cli_command {
    const char *name;     /* "run" */
    const char *usage;    /* what stands after "dilated-attention run " in the first line of the help */
    const char *summary;  /* what the command does; may hold '\n' */
    const char *examples; /* lines of examples, each indented by two blanks; NULL: none */
    const cli_group *groups;
    size_t group_count;
} cli_command;

#define CLI_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Parses argv with getopt_long; --help is added to every command. Returns CLI_CONTINUE, CLI_OK after --help, or
 * CLI_USAGE after a message. Arguments that are not options are refused. */
int cli_parse(const cli_command *command, int argc, char **argv);

/* Readers, and the type that the target points to. */
cli_reader cli_read_flag;    /* bool, set to true */
cli_reader cli_read_integer; /* int64_t, within minimum..maximum */
cli_reader cli_read_number;  /* cli_number; finite */
cli_reader cli_read_list;    /* cli_list, each within minimum..maximum */
cli_reader cli_read_text;    /* const char *; not empty */

/* For readers of a name that the library knows: keeps `text` in a const char * if `status`, that of a da_..._from_name
 * call, is DA_OK; otherwise passes on the library's list of names. */
bool cli_keep_name(const cli_option *option, const char *text, da_status status, char *allowed, size_t allowed_size);

#define CLI_NAME_READER(reader, type, from_name)                                                                       \
    static bool reader(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {               \
        type value;                                                                                                    \
        return cli_keep_name(option, text, from_name(text, &value), allowed, allowed_size);                            \
    }

typedef struct cli_number {
    bool is_set;
    double value;
} cli_number;

/* Prints "dilated-attention COMMAND: MESSAGE" as one line on stderr and returns CLI_USAGE or CLI_FAILED. */
int cli_usage(const char *command, const char *format, ...) DA_PRINTF(2, 3);
int cli_fail(const char *command, const char *format, ...) DA_PRINTF(2, 3);

/* From now on these put their message into `text`, if it is still empty, for somebody else to print; NULL: they print. */
void cli_keep_problems(char *text, size_t size);

/* The library refused a call: prints its message. Returns CLI_USAGE where the status blames an argument, an option or a
 * name, CLI_FAILED otherwise. */
int cli_refused(const char *command, da_status status);

#endif
