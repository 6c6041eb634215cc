/* Made-up tensors, and the time that an implementation takes on them. */
#ifndef DA_PLANNER_TRIAL_H
#define DA_PLANNER_TRIAL_H

#include "dilated_attention.h"

typedef struct da_trial {
    const da_context *context;
    const da_implementation *implementation; /* one without a state */
    char *memory;
    da_tensor query, key, value, out, lse;
} da_trial;

/* Tensors of a problem's shape, the numbers of one batch row shared by all. Errors: DA_ERROR_OUT_OF_MEMORY. On error
 * nothing is held. */
da_status da_trial_create(const da_context *context, const da_problem *problem, da_trial *trial);
void da_trial_free(da_trial *trial);

/* Part of a trial's tensors. */
typedef struct da_trial_size {
    int64_t batch, n; /* rows, and tokens of each, from the first on */
    int64_t keys;     /* keys beyond these are padded; only with batch 1 */
} da_trial_size;

/* Runs one forward call, and times it. */
da_status da_trial_run(const da_trial *trial, const da_attention_config *config, da_trial_size size, double *seconds);

/* Seconds of a clock that does not jump, and of processor time that the calling thread has had. */
double da_trial_clock(void);
double da_trial_thread_clock(void);

#endif
