#include <stdio.h>
#include <string.h>

#include "commands.h"
#include "options.h"

typedef struct command_entry {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} command_entry;

#ifdef DA_CLI_HAS_NN
#define NN_COMMANDS "train, plot, generate, "
#else
#define NN_COMMANDS ""
#endif

static const command_entry commands[] = {
    {"run", "compute attention on tensors in .npy or .safetensors files", command_run},
    {"explain", "say which implementation would be chosen for a problem, and why", command_explain},
    {"show", "draw which query sees which key", command_show},
    {"bench", "time the implementations against the machine's arithmetic peak", command_bench},
    {"profile", "find which tiles each head needs, on sample data", command_profile},
    {"plan", "say what many ranks would send, hold and take", command_plan},
#ifdef DA_CLI_HAS_NN
    {"train", "train a language model on plain text", command_train},
    {"plot", "draw the curves of trainings", command_plot},
    {"generate", "write text with a trained model", command_generate},
#endif
    {"info", "describe this machine and the implementations", command_info},
};

static void print_help(void) {
    printf("usage: dilated-attention COMMAND [OPTIONS]\n\n"
           "LongNet's dilated attention: exact attention over segments of several lengths, each kept at its own rate,\n"
           "mixed in one softmax.\n\ncommands:\n");
    for (size_t i = 0; i < CLI_COUNT(commands); i++) {
        printf("  %-10s%s\n", commands[i].name, commands[i].summary);
    }
    printf("\n  --help    print this; after a command: its options\n"
           "  --version print the version\n\n"
           "example:\n"
           "  dilated-attention run --q q.npy --k k.npy --v v.npy --segments 2048,4096,8192 --rates 1,2,4 --out "
           "out.npy\n\n"
           "exit codes: 0 done, 1 failed, 2 the command line is wrong\n");
}

static int dispatch(int argc, char **argv) {
    if (argc < 2) {
        return cli_usage("", "a command is missing; allowed: run, explain, show, bench, profile, plan, " NN_COMMANDS
                             "info, --help, --version");
    }
    const char *word = argv[1];
    if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0 || strcmp(word, "help") == 0) {
        print_help();
        return CLI_OK;
    }
    if (strcmp(word, "--version") == 0) {
        printf("dilated-attention %s\n", da_version());
        return CLI_OK;
    }
    for (size_t i = 0; i < CLI_COUNT(commands); i++) {
        if (strcmp(word, commands[i].name) == 0) {
            return commands[i].run(argc - 1, argv + 1);
        }
    }
    return cli_usage("",
                     "\"%s\": unknown command; allowed: run, explain, show, bench, profile, plan, " NN_COMMANDS
                     "info, --help, --version",
                     word);
}

int main(int argc, char **argv) {
    int code = dispatch(argc, argv);
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == CLI_OK) {
        return cli_fail(argv[1], "standard output could not be written");
    }
    return code;
}
