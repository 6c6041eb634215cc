/* What the planner's tests share: problems, stores, files in a folder of their own. */
#ifndef DA_TESTS_PLAN_FIXTURES_H
#define DA_TESTS_PLAN_FIXTURES_H

#include "planner/plans.h"
#include "support/counting_allocator.h"

/* (64, 1), (128, 2). */
da_attention_config plan_config(void);
da_problem plan_problem(int64_t n);

/* A portable context of some threads; plans and counter may be NULL. */
da_context *plan_context(int threads, da_plans *plans, counting_allocator *counter);

/* Remembers a plan for plan_problem(n) in a context of two threads. */
void remember_plan(da_plans *plans, int64_t n, da_tuning tuning);

/* "FOLDER/name" in a folder that this process alone uses; a static string for each of a few calls. */
const char *temporary_path(const char *name);

/* Reads and writes whole files; reading ends with a zero, and the caller frees it. */
char *read_text(const char *path, size_t *length);
void write_text(const char *path, const char *text, size_t length);

/* Number of files in the folder. */
int files_in_folder(void);

/* cmocka group teardown: removes the folder. */
int remove_folder(void **state);

void assert_message_has(const char *part);

#endif
