/* The passes of an attention whose sequence is divided among ranks: every rank calls with tensors that hold its part. By
 * tokens, ways differ in how columns come to rows, and in nothing else. */
#ifndef DA_ATTENTION_RANKS_RANKS_H
#define DA_ATTENTION_RANKS_RANKS_H

#include "attention/ranks/columns.h"

/* A way to compute over ranks. */
typedef struct da_ranks_way {
    da_run_direction *run_direction;
    bool may_split_heads; /* as the configuration's `split` says */
} da_ranks_way;

da_status da_ranks_forward(const da_forward_call *call, const da_ranks_way *way);
da_status da_ranks_backward(const da_backward_call *call, const da_ranks_way *way);

/* True if a context has several ranks. */
static inline bool da_has_ranks(const da_context *context) {
    const da_comm *comm = da_context_comm(context);
    return comm && comm->ranks > 1;
}

#endif
