#include "core/progress.h"

#define REPORTS 200 /* a call, at most */

void da_progress_begin(da_progress_state *state, const da_call_options *options, int64_t total) {
    state->report = options->progress;
    state->user = options->progress_user;
    state->total = total;
    state->reported = 0;
    atomic_init(&state->finished, 0);
    atomic_init(&state->cancelled, false);
}

void da_progress_step(da_progress_state *state, int thread) {
    if (!state->report) {
        return;
    }
    int64_t finished = (int64_t)atomic_fetch_add_explicit(&state->finished, 1, memory_order_relaxed) + 1;
    if (thread != 0 || finished == state->total || finished - state->reported < state->total / REPORTS + 1) {
        return;
    }
    state->reported = finished;
    if (!state->report(finished, state->total, state->user)) {
        atomic_store_explicit(&state->cancelled, true, memory_order_relaxed);
    }
}

da_status da_progress_end(da_progress_state *state) {
    if (state->report && !da_progress_cancelled(state) && state->report(state->total, state->total, state->user)) {
        return DA_OK;
    }
    if (!state->report) {
        return DA_OK;
    }
    return da_report(DA_ERROR_CANCELLED, "the call was cancelled: its progress callback returned false");
}
