/* `ring`: the sequence in blocks (stream.h); without blocks, what `improved` computes. */
#include "attention/ring/ring.h"

#include "attention/improved/passes.h"
#include "attention/ring/stream.h"

static da_status forward(void *state, const da_forward_call *call, void *user) {
    return da_stream_is_asked_for(call->options, call->query->shape[1]) ? da_stream_forward(call)
                                                                        : da_improved_forward(state, call, user);
}

static da_status backward(void *state, const da_backward_call *call, void *user) {
    return da_stream_is_asked_for(call->options, call->tensors->query->shape[1])
               ? da_stream_backward(call)
               : da_improved_backward(state, call, user);
}

const da_implementation da_ring_implementation = {
    .size = sizeof(da_implementation),
    .name = "ring",
    .description =
        "The vector kernels, with the sequence in blocks where the call's options say so: of tensors in mapped "
        "files one block of queries and one of keys are in memory at a time",
    .best_for = "very long sequences, also those that do not fit into memory",
    .memory = "that of improved, and for a block of queries what they carry from one block of keys to the next",
    .features = DA_FEATURE_ALL,
    .dtypes = DA_DTYPE_BITS_ALL,
    .forward = forward,
    .workspace = da_improved_workspace,
    .backward = backward,
    .backward_workspace = da_improved_backward_workspace,
};
