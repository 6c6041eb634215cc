/* The store of remembered plans behind da_plans. */
#ifndef DA_PLANNER_PLANS_H
#define DA_PLANNER_PLANS_H

#include "planner/plan_key.h"

/* What is remembered of a problem. */
typedef struct da_remembered {
    const char *implementation; /* a built-in one's own string */
    da_tuning tuning;
    double seconds; /* measured; a whole number of nanoseconds, at least 1 */
} da_remembered;

/* The context's store, or NULL. */
da_plans *da_context_plans(const da_context *context);

/* Looks a problem of known length up in the context's store, if it has one. */
bool da_plans_find(const da_context *context, const da_attention_config *config, const da_problem *problem,
                   da_remembered *out);

/* Remembers a plan under a key, in place of an older one. Errors: DA_ERROR_OUT_OF_MEMORY. */
da_status da_plans_remember(da_plans *plans, const char *key, const da_remembered *plan);

/* The built-in implementation's own string for a name, NULL if there is none that a plan could name. */
const char *da_plans_implementation(const char *name);

/* ---- for the file (plan_file.c) ---------------------------------------------------------------------------------- */

typedef struct da_plan_entry {
    char *key;
    da_remembered plan;
} da_plan_entry;

typedef struct da_plan_list {
    const da_allocator *allocator;
    size_t count, capacity;
    da_plan_entry *entries;
} da_plan_list;

/* Adds a copy of a plan. Errors: DA_ERROR_OUT_OF_MEMORY. */
da_status da_plan_list_add(da_plan_list *list, const char *key, const da_remembered *plan);

/* Index of a key; -1 if it is not there. */
int64_t da_plan_list_find(const da_plan_list *list, const char *key);
void da_plan_list_free(da_plan_list *list);

/* Copies the store's plans, sorted by key; and takes all of a list's in, or none. Errors: DA_ERROR_OUT_OF_MEMORY. */
da_status da_plans_copy(const da_plans *plans, da_plan_list *out);
da_status da_plans_merge(da_plans *plans, const da_plan_list *list);

const da_allocator *da_plans_allocator(const da_plans *plans);

#endif
