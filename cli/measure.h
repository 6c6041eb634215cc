/* One problem with generated tensors, and the time that an implementation takes for it. */
#ifndef DA_CLI_MEASURE_H
#define DA_CLI_MEASURE_H

#include "dilated_attention.h"

#define MEASURE_MAX_REPEATS 1000

typedef struct workload {
    da_problem problem;
    da_tensor q, k, v, out, lse; /* dense; lse is f64 */
    bool backward;
    da_tensor grad_out, gradients[3]; /* of q, k and v; only for a backward pass */
} workload;

/* Allocates and fills the tensors; the same numbers for a problem every time. On error nothing is held. */
da_status workload_create(workload *made, const da_problem *problem, bool backward, int threads);
void workload_free(workload *made);

typedef struct timing {
    double median, fastest, slowest; /* seconds of one forward pass, with the backward pass if the workload has it */
} timing;

/* One forward call, and the backward call if the workload has it. options: of the forward call; may be NULL. */
da_status workload_run(const da_attention *attention, const workload *work, const da_call_options *options);

/* Runs once to warm up, then `repeats` times. The results of the last pass stay in the workload. */
da_status measure_passes(const da_attention *attention, workload *work, int repeats, bool show_progress, timing *taken);

#endif
