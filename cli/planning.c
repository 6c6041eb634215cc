#include "planning.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static bool read_mode(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    if (strcmp(text, "estimate") != 0 && strcmp(text, "measure") != 0) {
        snprintf(allowed, allowed_size, "is unknown; allowed: estimate, measure");
        return false;
    }
    *(const char **)option->target = text;
    return true;
}

void planning_options(planning *chosen, cli_option table[PLANNING_OPTION_COUNT]) {
    const cli_option options[PLANNING_OPTION_COUNT] = {
        {"plans", "FILE", "plans measured earlier on this machine; with\n--plan measure, new ones are added to it",
         cli_read_text, &chosen->file, 0, 0},
        {"plan", "HOW",
         "how to cut the work: estimate by a model of the cost,\nor measure the candidates (default: a plan of "
         "--plans, "
         "or\nelse the library's choice)",
         read_mode, &chosen->mode, 0, 0},
    };
    memcpy(table, options, sizeof(options));
}

int planning_open(planning *chosen, const char *command) {
    da_status status = da_plans_create(NULL, &chosen->plans);
    if (status == DA_OK && chosen->file != NULL && (access(chosen->file, F_OK) == 0 || errno != ENOENT)) {
        status = da_plans_load(chosen->plans, chosen->file);
    }
    if (status == DA_OK) {
        return CLI_CONTINUE;
    }
    int code = cli_fail(command, "--plans: %s", da_last_error_message());
    planning_close(chosen);
    return code;
}

void planning_close(planning *chosen) {
    da_plans_free(chosen->plans);
    chosen->plans = NULL;
}

int planning_tune(planning *chosen, const char *command, const da_context *context, const char *implementation,
                  const da_problem *problem, da_attention_config *config, da_plan_result *found) {
    da_plan_result plan;
    bool measures = chosen->mode != NULL && strcmp(chosen->mode, "measure") == 0;
    da_plan_result_init(&plan);
    config->tuning = (da_tuning){0, 0, 0};
    if (chosen->mode != NULL || da_plans_count(chosen->plans) > 0) {
        da_status status = da_plan(context, config, problem, measures ? DA_PLAN_MEASURE : DA_PLAN_ESTIMATE, &plan);
        if (status == DA_OK && measures && !plan.remembered && chosen->file != NULL) {
            status = da_plans_save(chosen->plans, chosen->file);
        }
        if (status != DA_OK) {
            return cli_refused(command, status);
        }
    }
    bool applies = chosen->mode != NULL || plan.remembered;
    bool any = strcmp(implementation, "auto") == 0;
    if (applies && (any || strcmp(plan.choice.implementation, implementation) == 0)) {
        config->tuning = plan.choice.tuning;
    }
    if (found != NULL) {
        *found = plan;
    }
    return CLI_CONTINUE;
}

/* ------------------------------------------------------------------------------------------------------------------ */

static void print_choice_of_library(int64_t value) {
    if (value == 0) {
        printf(" %10s", "auto");
    } else {
        printf(" %10" PRId64, value);
    }
}

static void print_candidate(const da_plan_candidate *candidate) {
    printf("  %-14s", candidate->implementation);
    print_choice_of_library(candidate->tuning.unit);
    print_choice_of_library(candidate->tuning.block_keys);
    print_choice_of_library(candidate->tuning.threads);
    printf(" %14.6f", candidate->estimated_seconds);
    if (candidate->measured_seconds > 0) {
        printf(" %14.6f", candidate->measured_seconds);
    }
    printf("\n");
}

void planning_print(const da_plan_result *found) {
    printf("\nplan%s\n  %-14s %10s %10s %10s %14s %14s\n", found->remembered ? ", remembered" : "", "implementation",
           "unit", "block", "threads", "estimated s", "measured s");
    print_candidate(&found->choice);
    if (found->candidate_count > 0) {
        printf("considered\n");
    }
    for (size_t k = 0; k < found->candidate_count; k++) {
        print_candidate(&found->candidates[k]);
    }
}

json_t *planning_json_tuning(const da_tuning *tuning) {
    return json_pack("{s:I, s:i, s:i}", "unit", (json_int_t)tuning->unit, "block_keys", tuning->block_keys, "threads",
                     tuning->threads);
}

static json_t *json_candidate(const da_plan_candidate *candidate) {
    return json_pack("{s:s, s:o, s:f, s:f}", "implementation", candidate->implementation, "tuning",
                     planning_json_tuning(&candidate->tuning), "estimated_seconds", candidate->estimated_seconds,
                     "measured_seconds", candidate->measured_seconds);
}

json_t *planning_json(const da_plan_result *found) {
    json_t *candidates = json_array();
    for (size_t k = 0; k < found->candidate_count; k++) {
        json_array_append_new(candidates, json_candidate(&found->candidates[k]));
    }
    return json_pack("{s:b, s:o, s:o}", "remembered", found->remembered, "choice", json_candidate(&found->choice),
                     "candidates", candidates);
}
