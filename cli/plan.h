/* A plan over ranks for programs. */
#ifndef DA_CLI_PLAN_H
#define DA_CLI_PLAN_H

#include <jansson.h>

#include "dilated_attention.h"

/* The totals of "ring", "distributed" and the like. */
json_t *plan_json_total(const da_ranks_plan *plan, const char *implementation);

/* How `distributed` divides the forward call and, if it is planned, the backward call. */
json_t *plan_json_split(const da_ranks_plan *plan);

#endif
