/* One problem with generated tensors, and the time that an implementation takes for it. */
#ifndef DA_CLI_MEASURE_H
#define DA_CLI_MEASURE_H

#include "dilated_attention.h"

#define MEASURE_MAX_REPEATS 1000

typedef struct workload {
    da_problem problem;
    da_tensor q, k, v, out, lse; /* dense; lse is f64 */
} workload;

/* Allocates and fills the tensors; the same numbers for a problem every time. On error nothing is held. */
da_status workload_create(workload *made, const da_problem *problem, int threads);
void workload_free(workload *made);

typedef struct timing {
    double median, fastest, slowest; /* seconds of one forward pass */
} timing;

/* Runs once to warm up, then `repeats` times. The output and logsumexp of the last pass stay in the workload. */
da_status measure_forward(const da_attention *attention, workload *work, int repeats, bool show_progress,
                          timing *taken);

#endif
