/* The passes of an attention whose sequence is divided among ranks: `ring` and `distributed` differ in how columns come to
 * rows, and in nothing else. Every rank calls with tensors that hold its part. */
#ifndef DA_ATTENTION_RANKS_RANKS_H
#define DA_ATTENTION_RANKS_RANKS_H

#include "attention/ranks/columns.h"

da_status da_ranks_forward(const da_forward_call *call, da_run_direction *run_direction);
da_status da_ranks_backward(const da_backward_call *call, da_run_direction *run_direction);

/* True if a context has several ranks. */
static inline bool da_has_ranks(const da_context *context) {
    const da_comm *comm = da_context_comm(context);
    return comm && comm->ranks > 1;
}

#endif
