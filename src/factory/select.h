/* The rules by which "auto" chooses: a table over facts, so that any machine can be made up and tried. */
#ifndef DA_FACTORY_SELECT_H
#define DA_FACTORY_SELECT_H

#include "factory/registry.h"

#define DA_FACTS_SIZE 192
#define DA_OUTCOME_SIZE (DA_REASON_SIZE + 32)
#define DA_NUMBER_SIZE 32

/* What the rules look at. */
typedef struct da_facts {
    const da_hardware *hardware;
    da_isa isa;            /* of the kernels that would run */
    int64_t length;        /* tokens of all ranks; 0: unknown */
    int ranks;             /* that compute together */
    double quality_target; /* 0 or 1: none */
} da_facts;

typedef struct da_selection_rule {
    const char *condition;
    bool (*holds)(const da_facts *facts);
    void (*describe)(const da_facts *facts, char text[DA_FACTS_SIZE]);
    const char *implementation;
} da_selection_rule;

enum { DA_RULE_COUNT = 6 };

/* In the order in which they are tried. */
extern const da_selection_rule da_selection_rules[DA_RULE_COUNT];

/* What the chosen implementation must take. */
typedef struct da_demand {
    int64_t length; /* tokens of all ranks; 0: unknown */
    da_dtype dtype;
    uint32_t features;
    double quality_target; /* 0 or 1: none */
} da_demand;

/* What became of a rule. */
typedef struct da_selection_step {
    bool holds, chosen;
    char facts[DA_FACTS_SIZE];
    char outcome[DA_OUTCOME_SIZE];
} da_selection_step;

/* Applies the rules. Over several ranks an implementation that takes tensors to be whole is passed over. Errors: DA_ERROR_UNSUPPORTED (no rule led to an implementation that runs here and takes what is
 * demanded), DA_ERROR_OUT_OF_MEMORY. */
da_status da_select(const da_context *context, const da_demand *demand, da_selection_step steps[DA_RULE_COUNT],
                    const da_entry **out);

/* Can the entry run here and take what is demanded? If not, why. */
bool da_entry_fits(const da_entry *entry, const da_context *context, const da_demand *demand,
                   char reason[DA_REASON_SIZE]);

/* This version computes on the CPU alone: DA_ERROR_UNAVAILABLE for a configuration that asks for another device. */
da_status da_check_device(const da_attention_config *config);

/* A validated copy of a problem, with what it leaves open taken from the configuration: all of it if it is NULL,
 * the length if it is 0. Errors: DA_ERROR_INVALID_ARGUMENT (its data type is not the one that the configuration
 * asks for). */
da_status da_complete_problem(const da_attention_config *config, const da_problem *theirs, da_problem *ours);

/* A whole number with thousands separators; with four digits and an exponent from 1e15 on. */
void da_format_number(double number, char text[DA_NUMBER_SIZE]);

#endif
