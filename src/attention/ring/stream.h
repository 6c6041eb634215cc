/* A sequence in blocks: blocks of rows one after the other, and for each the blocks of columns that it meets. Each pair is
 * a scope of the passes of `improved`; a row's softmax, or the sums of its gradients, are carried from pair to pair. Rows are
 * queries and columns keys; for the gradients of keys and values the other way round. */
#ifndef DA_ATTENTION_STREAM_H
#define DA_ATTENTION_STREAM_H

#include <stddef.h>

#include "dilated_attention.h"

/* Tokens of a block where `release` is given alone. */
#define DA_STREAM_BLOCK 65536

/* Do the options ask for more than one block, or for release? */
static inline bool da_stream_is_asked_for(const da_call_options *options, int64_t n) {
    return options->release || (options->block > 0 && options->block < n);
}

da_status da_stream_forward(const da_forward_call *call);
da_status da_stream_backward(const da_backward_call *call);

/* Bytes that a forward pass takes in blocks of `block` tokens: workspace, and what is carried. */
size_t da_stream_forward_bytes(const da_context *context, const da_attention_config *config, const da_problem *problem,
                               int64_t block);

#endif
