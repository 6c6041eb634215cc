/* `ring`: keys and values arrive in blocks and are never whole in one place. In one process, the sequence in blocks
 * (stream.h), or, without blocks, what `improved` computes; over ranks, each rank's part is a block. */
#include "attention/ring/ring.h"

#include "attention/improved/passes.h"
#include "attention/ranks/ranks.h"
#include "attention/ring/stream.h"

static const da_ranks_way over_ranks = {.run_direction = da_run_ring};

static da_status create(const da_context *context, const da_attention_config *config, void *user, void **state) {
    return da_has_ranks(context) ? da_meeting_agree(context, "ring", config) : DA_OK;
}

static da_status forward(void *state, const da_forward_call *call, void *user) {
    if (da_has_ranks(call->context)) {
        return da_ranks_forward(call, &over_ranks);
    }
    return da_stream_is_asked_for(call->options, call->query->shape[1]) ? da_stream_forward(call)
                                                                        : da_improved_forward(state, call, user);
}

static da_status backward(void *state, const da_backward_call *call, void *user) {
    if (da_has_ranks(call->context)) {
        return da_ranks_backward(call, &over_ranks);
    }
    return da_stream_is_asked_for(call->options, call->tensors->query->shape[1])
               ? da_stream_backward(call)
               : da_improved_backward(state, call, user);
}

const da_implementation da_ring_implementation = {
    .size = sizeof(da_implementation),
    .name = "ring",
    .description =
        "The vector kernels, with the sequence in blocks where the call's options say so: of tensors in mapped files "
        "one block of queries and one of keys are in memory at a time; over ranks, one rank's kept keys after the "
        "other's, which travel while those at hand are computed with",
    .best_for = "very long sequences, also those that do not fit into memory",
    .memory = "that of improved, and what queries carry from one block of keys to the next; over ranks also two ranks' "
              "kept keys and values",
    .features = DA_FEATURE_ALL | DA_FEATURE_PARTS,
    .dtypes = DA_DTYPE_BITS_ALL,
    .create = create,
    .forward = forward,
    .workspace = da_improved_workspace,
    .backward = backward,
    .backward_workspace = da_improved_backward_workspace,
};
