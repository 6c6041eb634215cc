/* Working memory of a call: one piece per thread, laid out once. */
#ifndef DA_ATTENTION_WORKSPACE_H
#define DA_ATTENTION_WORKSPACE_H

#include "core/arena.h"
#include "core/memory.h"

/* The size of a call. */
void da_problem_of_tensors(const da_tensor *query, const da_tensor *key, da_problem *problem);

/* Length of a problem; where it is unknown, one beyond which workspaces no longer grow. */
static inline int64_t da_problem_length(const da_problem *problem) {
    return problem->n > 0 ? problem->n : (int64_t)1 << 30;
}

/* Threads for `work` parts: as many as the context has and the tuning allows, no more than parts. */
int da_threads_for(const da_context *context, const da_tuning *tuning, int64_t work);

/* Is key j of a batch row padded? Options as the checks of call.h leave them. */
static inline bool da_key_is_padded(const da_call_options *options, int64_t batch, int64_t j) {
    return (options->key_lengths && j >= options->key_lengths[batch]) ||
           (options->key_mask &&
            options->key_mask[batch * options->key_mask_stride[0] + j * options->key_mask_stride[1]] != 0);
}

/* May any be? */
static inline bool da_keys_may_be_padded(const da_call_options *options) {
    return options->key_lengths || options->key_mask;
}

#endif
