/* Progress and cancellation of a call whose work several threads do in units. */
#ifndef DA_CORE_PROGRESS_H
#define DA_CORE_PROGRESS_H

#include <stdatomic.h>

#include "dilated_attention.h"

typedef struct da_progress_state {
    da_progress report; /* or NULL */
    void *user;
    int64_t total;
    int64_t reported; /* by thread 0 alone */
    atomic_llong finished;
    atomic_bool cancelled;
} da_progress_state;

void da_progress_begin(da_progress_state *state, const da_call_options *options, int64_t total);

/* After a unit of work. Only thread 0, which is the caller's, reports: a callback is never entered twice at once. */
void da_progress_step(da_progress_state *state, int thread);

static inline bool da_progress_cancelled(da_progress_state *state) {
    return atomic_load_explicit(&state->cancelled, memory_order_relaxed);
}

/* The last report, and the status of the call. */
da_status da_progress_end(da_progress_state *state);

#endif
