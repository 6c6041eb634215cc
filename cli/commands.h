/* The commands. Each gets its own name as argv[0], prints to stdout what was asked for and to stderr what went wrong,
 * and returns the exit code: CLI_OK, CLI_FAILED or CLI_USAGE (options.h); run, train: 128 + signal when interrupted. */
#ifndef DA_CLI_COMMANDS_H
#define DA_CLI_COMMANDS_H

int command_info(int argc, char **argv);
int command_explain(int argc, char **argv);
int command_run(int argc, char **argv);
int command_show(int argc, char **argv);
int command_bench(int argc, char **argv);
int command_plan(int argc, char **argv);
int command_profile(int argc, char **argv);
int command_train(int argc, char **argv);
int command_plot(int argc, char **argv);
int command_generate(int argc, char **argv);

#endif
