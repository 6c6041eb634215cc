/* Passes through the model: what loss, logits and gradients share. */
#ifndef DA_MODEL_PASS_H
#define DA_MODEL_PASS_H

#include "model/feed_forward.h"
#include "model/head.h"
#include "model/model.h"

typedef struct da_pass {
    const da_longnet *model;
    da_longnet_batch batch; /* checked */
    int64_t rows;           /* batch n */
    int64_t reports, steps; /* of progress: made so far, and all */
    int foreign_threads;
    /* Arrays of (rows, E) in the real type. */
    void **inputs; /* of layers, and behind them what the last puts out: all the same array without `backward` */
    void *normed, *branch, *grad;
    void *memory[2]; /* of the feed-forward, and of the head */
} da_pass;

/* Checks the batch and makes the memory. A pass whose begin failed needs no end. */
da_status da_pass_begin(da_pass *pass, const da_longnet *model, const da_longnet_batch *batch, bool targets,
                        bool backward);
void da_pass_end(da_pass *pass);

/* One layer, from inputs[layer] to inputs[layer + 1]; saved: NULL, or a place for what the attention leaves. */
da_status da_layer_forward(const da_pass *pass, int64_t layer, da_multihead_saved **saved);

/* Computes the layer again from its input, up to the feed-forward; then grad, the gradient of its result, becomes that of
 * its input. */
da_status da_layer_backward(const da_pass *pass, int64_t layer, da_longnet_gradients *gradients);

/* Parts of the model that work in this memory. */
da_feed_forward da_layer_feed_forward(const da_longnet *model, int64_t layer, void *memory);
da_head da_model_head(const da_longnet *model, void *memory);

#endif
