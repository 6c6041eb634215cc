/* What a pair of a query and a key takes on this machine, with the context's threads: timed. */
#ifndef DA_PLANNER_PRICES_H
#define DA_PLANNER_PRICES_H

#include "planner/rates.h"

/* By the model that da_plan has of a call. Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_OUT_OF_MEMORY. */
da_status da_price_forward(const da_context *context, const da_attention_config *config, const da_problem *problem,
                           da_pair_seconds *seconds);

/* From backward calls of the problem, shortened. Errors: those of a call. */
da_status da_price_backward(const da_context *context, const da_attention_config *config, const da_problem *problem,
                            da_pair_seconds *seconds);

#endif
