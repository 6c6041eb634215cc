/* The cost model: seconds of a forward call. */
#ifndef DA_PLANNER_ESTIMATE_H
#define DA_PLANNER_ESTIMATE_H

#include "dilated_attention.h"

/* Estimates a problem of known length with the configuration's tuning. *seconds is 0 where there is no model of the
 * implementation. Errors: DA_ERROR_OUT_OF_MEMORY. */
da_status da_estimate(const da_context *context, const da_implementation *implementation,
                      const da_attention_config *config, const da_problem *problem, double *seconds);

#endif
