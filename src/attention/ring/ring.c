/* `ring`: keys and values arrive in blocks and are never whole in one place. Over ranks, each rank's are a block. */
#include "attention/ring/ring.h"

#include "attention/improved/passes.h"
#include "attention/ranks/ranks.h"

static const da_ranks_way over_ranks = {.run_direction = da_run_ring};

static da_status create(const da_context *context, const da_attention_config *config, void *user, void **state) {
    return da_has_ranks(context) ? da_meeting_agree(context, "ring", config) : DA_OK;
}

static da_status forward(void *state, const da_forward_call *call, void *user) {
    return da_has_ranks(call->context) ? da_ranks_forward(call, &over_ranks) : da_improved_forward(state, call, user);
}

static da_status backward(void *state, const da_backward_call *call, void *user) {
    return da_has_ranks(call->context) ? da_ranks_backward(call, &over_ranks) : da_improved_backward(state, call, user);
}

const da_implementation da_ring_implementation = {
    .size = sizeof(da_implementation),
    .name = "ring",
    .description =
        "keys and values arrive in blocks and are never whole in one place; over ranks, one rank's after the "
        "other's, while those at hand are computed with",
    .best_for = "very long sequences",
    .memory = "a fixed workspace a thread; over ranks also two ranks' kept rows, and what queries carry between them",
    .features = DA_FEATURE_ALL | DA_FEATURE_PARTS,
    .dtypes = DA_DTYPE_BITS_ALL,
    .create = create,
    .forward = forward,
    .workspace = da_improved_workspace,
    .backward = backward,
    .backward_workspace = da_improved_backward_workspace,
};
