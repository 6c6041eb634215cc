/* The factory's choice for a problem, kept with all that led to it, and written out for people. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "attention/improved/improved.h"
#include "config/validation.h"
#include "core/quantities.h"
#include "core/text.h"
#include "factory/builtin.h"
#include "factory/select.h"
#include "planner/estimate.h"
#include "planner/plans.h"
#include "planner/rates.h"
#include "planner/work.h"

typedef struct candidate {
    const da_entry *entry;
    bool available;
    char reason[DA_REASON_SIZE];
    size_t workspace;
    double seconds; /* estimated; 0: unknown */
} candidate;

struct da_explanation {
    const da_allocator *allocator;
    const da_entry *choice;
    da_selection_step steps[DA_RULE_COUNT];
    candidate candidates[DA_BUILT_IN_COUNT];
    da_problem problem;
    da_cost cost;
    da_tuning tuning;
    bool has_plan; /* the tuning is a remembered plan's */
    double measured_seconds;
    da_text text;
};

static void widen(int *width, const char *text) {
    int length = (int)strlen(text);
    *width = length > *width ? length : *width;
}

static void append_number(da_text *text, const char *label, double number, const char *remark) {
    char digits[DA_NUMBER_SIZE];
    da_format_number(number, digits);
    da_text_append(text, "  %-16s %24s  %s\n", label, digits, remark);
}

/* Bytes, and in the unit in which people think of them. */
static void append_bytes(da_text *text, const char *label, double bytes, const char *remark) {
    char digits[DA_NUMBER_SIZE], size[DA_QUANTITY_SIZE], in_brackets[DA_QUANTITY_SIZE + 2];
    da_format_number(bytes, digits);
    snprintf(in_brackets, sizeof in_brackets, "(%s)", da_format_bytes(bytes, size));
    da_text_append(text, "  %-16s %24s  bytes %-12s %s\n", label, digits, in_brackets, remark);
}

static void append_choice(da_text *text, const da_explanation *explanation) {
    for (int k = 0; k < DA_RULE_COUNT; k++) {
        if (explanation->steps[k].chosen) {
            da_text_append(text, "choice: %s\nwhy:    rule %d, %s: %s\n\n", explanation->choice->table.name, k + 1,
                           da_selection_rules[k].condition, explanation->steps[k].facts);
        }
    }
}

static void append_rules(da_text *text, const da_explanation *explanation) {
    int conditions = 0, names = 0, facts = 0;
    for (int k = 0; k < DA_RULE_COUNT; k++) {
        widen(&conditions, da_selection_rules[k].condition);
        widen(&names, da_selection_rules[k].implementation);
        widen(&facts, explanation->steps[k].facts);
    }
    da_text_append(text, "rules, the first that holds and whose implementation fits decides\n");
    for (int k = 0; k < DA_RULE_COUNT; k++) {
        const da_selection_rule *rule = &da_selection_rules[k];
        const da_selection_step *step = &explanation->steps[k];
        da_text_append(text, "  %d  %-*s  -> %-*s  %-3s  %-*s  %s\n", k + 1, conditions, rule->condition, names,
                       rule->implementation, step->holds ? "yes" : "no", facts, step->facts, step->outcome);
    }
}

static void append_cost(da_text *text, const da_explanation *explanation) {
    const da_problem *problem = &explanation->problem;
    const da_cost *cost = &explanation->cost;
    char tokens[DA_NUMBER_SIZE];
    da_format_number((double)problem->n, tokens);
    da_text_append(text, "\ncost of batch %" PRId64 ", %s token%s, ", problem->batch,
                   problem->n ? tokens : "an unknown number of", problem->n == 1 ? "" : "s");
    da_text_append(text, "%" PRId64 " query and %" PRId64 " key head%s, head_dim %" PRId64 ", %s\n", problem->heads,
                   problem->kv_heads, problem->kv_heads == 1 ? "" : "s", problem->head_dim,
                   da_dtype_name(problem->dtype));
    if (problem->n == 0) {
        da_text_append(text, "  unknown, as the number of tokens is\n");
        return;
    }
    append_number(text, "counted pairs", cost->counted_pairs, "of query and key, once per pattern that holds them");
    append_number(text, "distinct pairs", cost->distinct_pairs, "each once: what a kernel must compute");
    append_number(text, "dense pairs", cost->dense_pairs, "that dense attention would compute");
    append_number(text, "arithmetic", cost->counted_flops, "floating-point operations for the counted pairs");
    append_number(text, "", 4.0 * (double)problem->head_dim * cost->distinct_pairs, "for the distinct pairs");
    append_bytes(text, "tensors", cost->tensor_bytes, "of query, key, value, out and logsumexp");
}

static void append_candidates(da_text *text, const da_explanation *explanation) {
    da_text_append(text, "\nworkspace of each implementation, beyond the tensors\n");
    for (int k = 0; k < DA_BUILT_IN_COUNT; k++) {
        const candidate *option = &explanation->candidates[k];
        const da_implementation *table = &option->entry->table;
        if (option->available) {
            append_bytes(text, table->name, (double)option->workspace, table->best_for);
        } else {
            da_text_append(text, "  %-16s %24s  %s\n", table->name, "-", option->reason);
        }
    }
}

static void append_seconds(da_text *text, const char *label, double seconds, const char *remark) {
    static const char *const units[] = {"s", "ms", "us"};
    int unit = seconds >= 1 ? 0 : seconds >= 1e-3 ? 1 : 2;
    double number = seconds * (unit == 0 ? 1 : unit == 1 ? 1e3 : 1e6);
    da_text_append(text, "  %-16s %24.3g  %-6s %s\n", label, number, units[unit], remark);
}

static void append_times(da_text *text, const da_explanation *explanation) {
    da_text_append(text, "\nestimated time of one call, each on the threads that it uses\n");
    for (int k = 0; k < DA_BUILT_IN_COUNT; k++) {
        const candidate *option = &explanation->candidates[k];
        if (option->seconds > 0) {
            append_seconds(text, option->entry->table.name, option->seconds, "");
        }
    }
    if (explanation->has_plan) {
        append_seconds(text, "measured", explanation->measured_seconds, "by the plan");
    }
}

static void append_tuning(da_text *text, const da_explanation *explanation) {
    const da_tuning *tuning = &explanation->tuning;
    da_text_append(text, "\ntuning, %s\n",
                   explanation->has_plan ? "of a remembered plan" : "as configured, or else the library's choice");
    if (tuning->unit > 0) {
        append_number(text, "unit", (double)tuning->unit, "queries that a thread takes at a time");
    }
    if (tuning->block_keys > 0) {
        append_number(text, "block", tuning->block_keys, "keys that are packed at a time");
    }
    if (tuning->threads > 0) {
        append_number(text, "threads", tuning->threads, "");
    }
}

/* Over ranks, what the ways to share the sequence would take, by the context's rates. */
static da_status append_ranks(da_explanation *explanation, const da_context *context,
                              const da_attention_config *config) {
    da_ranks_options options = *da_context_rates(context);
    da_ranks_plan *plan;
    options.ranks = da_context_comm(context)->ranks;
    options.backward = false;
    da_status status = da_plan_ranks(context, config, &explanation->problem, &options, &plan);
    if (status == DA_OK) {
        da_text_append(&explanation->text, "\n%s", da_ranks_plan_text(plan));
        da_ranks_plan_free(plan);
    }
    return status == DA_OK && explanation->text.failed ? DA_ERROR_OUT_OF_MEMORY : status;
}

/* Is there a plan over the context's ranks? */
static bool can_plan_ranks(const da_context *context, const da_problem *problem) {
    const da_comm *comm = da_context_comm(context);
    return comm && comm->ranks > 1 && comm->ranks <= DA_MAX_PLANNED_RANKS && problem->n > 0 &&
           problem->heads <= DA_MAX_PLANNED_HEADS;
}

static da_status write_text(da_explanation *explanation) {
    append_choice(&explanation->text, explanation);
    append_rules(&explanation->text, explanation);
    append_cost(&explanation->text, explanation);
    append_candidates(&explanation->text, explanation);
    if (explanation->problem.n > 0) {
        append_times(&explanation->text, explanation);
        append_tuning(&explanation->text, explanation);
    }
    return explanation->text.failed ? DA_ERROR_OUT_OF_MEMORY : DA_OK;
}

static da_status weigh_candidate(const da_context *context, const da_attention_config *config,
                                 const da_problem *problem, const da_demand *demand, const char *name,
                                 candidate *option) {
    da_status status = da_registry_find(name, &option->entry);
    if (status != DA_OK) {
        return status;
    }
    const da_implementation *table = &option->entry->table;
    option->available = da_entry_fits(option->entry, context, demand, option->reason);
    if (option->available && table->workspace) {
        option->workspace = table->workspace(context, config, problem, table->user);
    }
    if (option->available && problem->n > 0) {
        status = da_estimate(context, table, config, problem, &option->seconds);
    }
    return status;
}

/* The tuning that the choice would run by, in full where that is known. */
static void settle_tuning(da_explanation *explanation, const da_context *context, const da_attention_config *config) {
    explanation->tuning = config->tuning;
    if (explanation->problem.n > 0 &&
        da_work_model(&explanation->choice->table)->forward == da_improved_implementation.forward) {
        da_improved_cut cut;
        da_improved_describe(context, config, &explanation->problem, &cut);
        explanation->tuning = (da_tuning){cut.unit, cut.block_keys, cut.threads};
    }
}

/* The configuration with the tuning of a plan, if one is remembered for the choice. */
static void apply_plan(da_explanation *explanation, const da_context *context, da_attention_config *config) {
    da_remembered plan;
    if (explanation->problem.n > 0 && da_tuning_is_open(&config->tuning) &&
        da_plans_find(context, config, &explanation->problem, &plan) &&
        strcmp(plan.implementation, explanation->choice->table.name) == 0) {
        config->tuning = plan.tuning;
        explanation->has_plan = true;
        explanation->measured_seconds = plan.seconds;
    }
}

static da_status fill(da_explanation *explanation, const da_context *context, da_attention_config *config,
                      const da_problem *theirs) {
    da_problem *problem = &explanation->problem;
    da_status status = da_complete_problem(config, theirs, problem);
    if (status != DA_OK) {
        return status;
    }
    da_demand demand = {problem->n, problem->dtype, da_attention_config_features(config), config->quality_target};
    demand.features |= problem->kv_heads != problem->heads ? DA_FEATURE_GROUPED_QUERIES : 0;
    status = da_select(context, &demand, explanation->steps, &explanation->choice);
    if (status == DA_OK) {
        apply_plan(explanation, context, config);
        settle_tuning(explanation, context, config);
    }
    for (int k = 0; k < DA_BUILT_IN_COUNT && status == DA_OK; k++) {
        status = weigh_candidate(context, config, problem, &demand, da_built_ins[k]->name, &explanation->candidates[k]);
    }
    if (status == DA_OK && problem->n > 0) {
        status = da_pattern_cost(config, problem, &explanation->cost);
    }
    if (status == DA_OK) {
        status = write_text(explanation);
    }
    return status == DA_OK && can_plan_ranks(context, problem) ? append_ranks(explanation, context, config) : status;
}

static da_status report_null(const char *argument, const char *allowed) {
    return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is NULL; allowed: %s", argument, allowed);
}

da_status da_explain(const da_context *context, const da_attention_config *config, const da_problem *problem,
                     da_explanation **out) {
    da_attention_config ours;
    if (!out) {
        return report_null("out", "a place for the explanation");
    }
    *out = NULL;
    if (!context) {
        return report_null("context", "a context");
    }
    da_status status = da_attention_config_import(config, &ours);
    if (status == DA_OK) {
        status = da_check_device(&ours);
    }
    if (status != DA_OK) {
        return status;
    }
    const da_allocator *allocator = da_context_allocator(context);
    da_explanation *explanation = da_allocate(allocator, 1, sizeof *explanation);
    if (!explanation) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *explanation = (da_explanation){.allocator = allocator, .text.allocator = allocator, .cost.size = sizeof(da_cost)};
    status = fill(explanation, context, &ours, problem);
    if (status != DA_OK) {
        da_explanation_free(explanation);
        return status;
    }
    *out = explanation;
    return DA_OK;
}

void da_explanation_free(da_explanation *explanation) {
    if (explanation) {
        da_text_free(&explanation->text);
        da_release(explanation->allocator, explanation);
    }
}

const char *da_explanation_choice(const da_explanation *explanation) {
    return explanation ? explanation->choice->table.name : NULL;
}

size_t da_explanation_rule_count(const da_explanation *explanation) {
    return explanation ? DA_RULE_COUNT : 0;
}

size_t da_explanation_alternative_count(const da_explanation *explanation) {
    return explanation ? DA_BUILT_IN_COUNT : 0;
}

/* What the getters refuse: NULL, and an index at or beyond `count`. */
static da_status check_getter(const da_explanation *explanation, const void *out, size_t index, size_t count) {
    if (!explanation) {
        return report_null("explanation", "what da_explain made");
    }
    if (!out) {
        return report_null("out", "a place for the answer");
    }
    if (index >= count) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "index is %zu; allowed: 0 to %zu", index, count - 1);
    }
    return DA_OK;
}

da_status da_explanation_rule(const da_explanation *explanation, size_t index, da_rule *out) {
    da_status status = check_getter(explanation, out, index, DA_RULE_COUNT);
    if (status == DA_OK) {
        const da_selection_step *step = &explanation->steps[index];
        *out = (da_rule){
            .condition = da_selection_rules[index].condition,
            .facts = step->facts,
            .holds = step->holds,
            .implementation = da_selection_rules[index].implementation,
            .chosen = step->chosen,
            .outcome = step->outcome,
        };
    }
    return status;
}

da_status da_explanation_alternative(const da_explanation *explanation, size_t index, da_alternative *out) {
    da_status status = check_getter(explanation, out, index, DA_BUILT_IN_COUNT);
    if (status == DA_OK) {
        const candidate *option = &explanation->candidates[index];
        *out = (da_alternative){
            .name = option->entry->table.name,
            .available = option->available,
            .note = option->available ? option->entry->table.best_for : option->reason,
            .workspace_bytes = option->workspace,
            .estimated_seconds = option->seconds,
        };
    }
    return status;
}

da_status da_explanation_cost(const da_explanation *explanation, da_cost *out) {
    da_status status = check_getter(explanation, out, 0, 1);
    if (status == DA_OK) {
        status = da_check_result(out, sizeof *out, "out");
    }
    if (status == DA_OK) {
        size_t size = out->size;
        *out = explanation->cost;
        out->size = size;
    }
    return status;
}

da_status da_explanation_tuning(const da_explanation *explanation, da_tuning *out, bool *remembered) {
    da_status status = check_getter(explanation, out, 0, 1);
    if (status == DA_OK) {
        *out = explanation->tuning;
        if (remembered) {
            *remembered = explanation->has_plan;
        }
    }
    return status;
}

const char *da_explanation_text(const da_explanation *explanation) {
    return explanation ? explanation->text.data : NULL;
}
