/* `distributed`: the sequence is divided among ranks, and the keys and values that segments across ranks keep are gathered
 * (LongNet, arXiv:2307.02486, section 3.1): how many depends on the patterns, and not on how long the sequence is. Or the
 * heads are divided. */
#include "attention/distributed/distributed.h"

#include <stdio.h>

#include "attention/improved/passes.h"
#include "attention/ranks/ranks.h"

static const da_ranks_way way = {.run_direction = da_run_gathered, .may_split_heads = true};

static bool available(const da_context *context, char *reason, size_t reason_size, void *user) {
    if (!da_has_ranks(context)) {
        snprintf(reason, reason_size, "the context has no communicator of several ranks");
    }
    return da_has_ranks(context);
}

static da_status create(const da_context *context, const da_attention_config *config, void *user, void **state) {
    return da_meeting_agree(context, "distributed", config);
}

static da_status forward(void *state, const da_forward_call *call, void *user) {
    return da_ranks_forward(call, &way);
}

static da_status backward(void *state, const da_backward_call *call, void *user) {
    return da_ranks_backward(call, &way);
}

const da_implementation da_distributed_implementation = {
    .size = sizeof(da_implementation),
    .name = "distributed",
    .description =
        "the sequence is divided among ranks, and the keys and values that segments across ranks keep are gathered; or "
        "the heads are divided",
    .best_for = "several machines or GPUs",
    .memory = "a fixed workspace a thread, and the kept keys and values of other ranks",
    .features = (DA_FEATURE_ALL & ~(uint32_t)DA_FEATURE_QUERY_RANGE) | DA_FEATURE_PARTS,
    .dtypes = DA_DTYPE_BITS_ALL,
    .available = available,
    .create = create,
    .forward = forward,
    .workspace = da_improved_workspace,
    .backward = backward,
    .backward_workspace = da_improved_backward_workspace,
};
