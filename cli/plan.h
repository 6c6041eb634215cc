/* A plan over ranks for programs. */
#ifndef DA_CLI_PLAN_H
#define DA_CLI_PLAN_H

#include <jansson.h>

#include "dilated_attention.h"

/* The totals of "ring" or "distributed". */
json_t *plan_json_total(const da_ranks_plan *plan, const char *implementation);

#endif
