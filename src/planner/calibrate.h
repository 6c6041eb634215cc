/* The constants of the cost model: the implementation itself is timed on a few short problems that stress one part of the
 * work each, and the time of each part is solved for. Nothing need be known of the kernels, and what they become later is
 * timed as it then is. */
#ifndef DA_PLANNER_CALIBRATE_H
#define DA_PLANNER_CALIBRATE_H

#include "planner/calibrations.h"

/* A timing that the context knows already, or one taken now: some tens of milliseconds, other calls of this function
 * waiting. *bytes_per_second: what all threads together read from memory. Errors: DA_ERROR_OUT_OF_MEMORY. */
da_status da_calibrate(const da_context *context, const da_implementation *implementation, da_dtype dtype,
                       int64_t head_dim, da_calibration *timing, double *bytes_per_second);

#endif
