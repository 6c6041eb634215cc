/* The options that say how a command tunes what it computes: a file of remembered plans, and whether to make new ones. */
#ifndef DA_CLI_PLANNING_H
#define DA_CLI_PLANNING_H

#include <jansson.h>

#include "options.h"

#define PLANNING_OPTION_COUNT 2

typedef struct planning {
    const char *file; /* NULL: none */
    const char *mode; /* "estimate" or "measure"; NULL: only what is remembered */
    da_plans *plans;
} planning;

void planning_options(planning *chosen, cli_option table[PLANNING_OPTION_COUNT]);

/* Makes the store that the context is to have, with the file's plans if there is such a file. Returns CLI_CONTINUE, or an
 * exit code after a message. */
int planning_open(planning *chosen, const char *command);
void planning_close(planning *chosen);

/* Puts the tuning of a plan for the implementation into a configuration, if there is a plan or the user asked for one;
 * measured plans are saved at once. `found` (may be NULL) gets the plan, with an empty choice if there was none to look
 * for. Returns CLI_CONTINUE, or an exit code after a message. */
int planning_tune(planning *chosen, const char *command, const da_context *context, const char *implementation,
                  const da_problem *problem, da_attention_config *config, da_plan_result *found);

/* For people and for programs: what was considered. */
void planning_print(const da_plan_result *found);
json_t *planning_json(const da_plan_result *found);

json_t *planning_json_tuning(const da_tuning *tuning);

#endif
