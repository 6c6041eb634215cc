/* What a backward pass works with, and the checks of its arguments. */
#ifndef DA_MULTIHEAD_BACKWARD_H
#define DA_MULTIHEAD_BACKWARD_H

#include "multihead/pass_gradients.h"
#include "multihead/real_parameters.h"
#include "multihead/rows.h"

/* Rows whose weights' gradients are added at once: a multiple of DA_ROW_BLOCK. */
#define DA_CHUNK_ROWS 2048

/* Rows that are in work; the arrays are in the real type. */
typedef struct da_backward_chunk {
    int64_t first, count;
    void *grad_joint;                    /* (count, E + 2 E'): gradients of the projections' results */
    void *grad_out, *normed, *inputs[3]; /* (count, E): copies, where callers' memory cannot be used */
    bool copied[3], grad_out_direct, normed_direct;
    da_matrix grad_out_rows, normed_rows, input_rows[3];
} da_backward_chunk;

typedef struct da_backward_work {
    const da_multihead *multihead;
    const da_multihead_saved *saved;
    da_module_inputs inputs;
    const da_tensor *grad_out;
    const da_tensor *grad_inputs[3];   /* or NULL */
    int slot_of[3];                    /* the first part whose gradient goes to the same tensor */
    int last_of[3];                    /* of a slot: the last such part */
    da_multihead_gradients *gradients; /* or NULL */
    da_call_options options;           /* key_mask_stride filled in */
    da_real_parameters parameters;
    da_pass_gradients targets; /* of `gradients` */
    da_rotary rotary;
    da_dtype real;
    int64_t rows; /* batch n */
    int threads;
    int part, end; /* parts in work, of query, key, value, output: all; or, while one weight alone is at hand, one */
    /* Memory. */
    void *grad_attended; /* like saved->attended */
    void
        *grad_heads[3]; /* of q, k and v, each for itself: da_attention_backward wants outputs that do not interleave */
    void *sums
        [3]; /* (rows, E) in the real type: of a slot whose parts come one by one and whose tensor cannot hold sums */
    da_backward_chunk chunk;
    void *norm_sums; /* (2 E): gradients of the norm's weight and bias */
    void *partials;  /* of the norms' gradients, one for each block of a chunk */
    int64_t partial_width;
    void *scratch;
    size_t thread_rows, bytes;
    int64_t first_block;
} da_backward_work;

/* Checks everything; fills all up to `threads`, parameters and rotary apart. */
da_status da_backward_prepare(const da_multihead *multihead, const da_multihead_saved *saved,
                              const da_multihead_backward_tensors *tensors, const da_call_options *options,
                              da_backward_work *out);

#endif
