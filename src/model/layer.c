/* One layer, forward and backward. */
#include <string.h>

#include "model/pass.h"

/* Dropout differs from layer to layer. */
static da_call_options options_of(const da_pass *pass, int64_t layer) {
    da_call_options options;
    da_call_options_init(&options);
    options.training = pass->batch.training;
    options.dropout_seed = pass->batch.dropout_seed + 0x9E3779B97F4A7C15u * (uint64_t)(layer + 1);
    return options;
}

static da_tensor sequence(const da_pass *pass, void *data) {
    return da_sequence_make(data, pass->model->real, pass->batch.batch, pass->batch.n,
                            pass->model->multihead.embed_dim);
}

da_feed_forward da_layer_feed_forward(const da_longnet *model, int64_t layer, void *memory) {
    const int *at = model->table.layers[layer];
    return (da_feed_forward){
        .real = model->real,
        .threads = model->threads,
        .activation = model->config.activation,
        .width = model->multihead.embed_dim,
        .inner = model->config.ffn_dim,
        .norm = da_model_norm(model, at[DA_NORM2_WEIGHT], at[DA_NORM2_BIAS]),
        .up_weight = da_layer_value(model, model->values, layer, DA_UP_WEIGHT),
        .up_bias = da_layer_value(model, model->values, layer, DA_UP_BIAS),
        .down_weight = da_layer_value(model, model->values, layer, DA_DOWN_WEIGHT),
        .down_bias = da_layer_value(model, model->values, layer, DA_DOWN_BIAS),
        .memory = memory,
    };
}

static void norm_input(const da_pass *pass, int64_t layer) {
    const da_longnet *model = pass->model;
    const int *at = model->table.layers[layer];
    da_layer_norm norm = da_model_norm(model, at[DA_NORM1_WEIGHT], at[DA_NORM1_BIAS]);
    da_norm_rows(model->real, model->threads, &norm, pass->rows, pass->inputs[layer], pass->normed);
}

/* The attention's input into `normed` and its output into `branch`. */
static da_status attend(const da_pass *pass, int64_t layer, da_multihead_saved **saved) {
    const da_longnet *model = pass->model;
    const da_multihead *module = model->modules[layer];
    da_tensor normed = sequence(pass, pass->normed), branch = sequence(pass, pass->branch);
    da_call_options options = options_of(pass, layer);
    norm_input(pass, layer);
    return saved ? da_multihead_forward_training(module, &normed, NULL, NULL, &branch, &options, saved)
                 : da_multihead_forward(module, &normed, NULL, NULL, &branch, &options);
}

da_status da_layer_forward(const da_pass *pass, int64_t layer, da_multihead_saved **saved) {
    const da_longnet *model = pass->model;
    int64_t elements = pass->rows * model->multihead.embed_dim;
    void *x = pass->inputs[layer], *y = pass->inputs[layer + 1];
    da_feed_forward feed_forward = da_layer_feed_forward(model, layer, pass->memory[0]);
    da_status status = attend(pass, layer, saved);
    if (status != DA_OK) {
        return status;
    }
    if (x != y) {
        memcpy(y, x, (size_t)elements * da_dtype_size(model->real));
    }
    da_add_elements(model->real, y, pass->branch, elements);
    da_feed_forward_forward(&feed_forward, pass->rows, y);
    return DA_OK;
}

/* What da_layer_forward has before the feed-forward, in `branch`; *saved for the attention's backward pass. */
static da_status recompute(const da_pass *pass, int64_t layer, da_multihead_saved **saved) {
    const da_longnet *model = pass->model;
    da_status status = attend(pass, layer, saved);
    if (status == DA_OK) {
        da_add_elements(model->real, pass->branch, pass->inputs[layer], pass->rows * model->multihead.embed_dim);
    }
    return status;
}

static da_status attention_backward(const da_pass *pass, int64_t layer, const da_multihead_saved *saved,
                                    da_multihead_gradients *gradients) {
    da_tensor normed = sequence(pass, pass->normed), branch = sequence(pass, pass->branch);
    da_tensor grad = sequence(pass, pass->grad);
    da_call_options options = options_of(pass, layer);
    da_multihead_backward_tensors tensors;
    da_multihead_backward_tensors_init(&tensors);
    tensors.query = &normed;
    tensors.grad_out = &grad;
    tensors.grad_query = &branch;
    tensors.gradients = gradients;
    return da_multihead_backward(pass->model->modules[layer], saved, &tensors, &options);
}

static void feed_forward_backward(const da_pass *pass, int64_t layer, const da_longnet_gradients *gradients) {
    const da_longnet *model = pass->model;
    da_feed_forward feed_forward = da_layer_feed_forward(model, layer, pass->memory[0]);
    da_feed_forward_gradients sums = {
        .norm_weight = da_layer_value(model, gradients->values, layer, DA_NORM2_WEIGHT),
        .norm_bias = da_layer_value(model, gradients->values, layer, DA_NORM2_BIAS),
        .up_weight = da_layer_value(model, gradients->values, layer, DA_UP_WEIGHT),
        .up_bias = da_layer_value(model, gradients->values, layer, DA_UP_BIAS),
        .down_weight = da_layer_value(model, gradients->values, layer, DA_DOWN_WEIGHT),
        .down_bias = da_layer_value(model, gradients->values, layer, DA_DOWN_BIAS),
    };
    da_feed_forward_backward(&feed_forward, pass->rows, pass->branch, pass->grad, &sums);
}

static void norm_backward(const da_pass *pass, int64_t layer, const da_longnet_gradients *gradients) {
    const da_longnet *model = pass->model;
    const int *at = model->table.layers[layer];
    da_layer_norm norm = da_model_norm(model, at[DA_NORM1_WEIGHT], at[DA_NORM1_BIAS]);
    const da_norm_sums sums = {model->real, model->multihead.embed_dim, pass->memory[0]};
    da_norm_rows_backward(model->real, model->threads, &norm, pass->rows, pass->inputs[layer], pass->branch, pass->grad,
                          &sums, da_layer_value(model, gradients->values, layer, DA_NORM1_WEIGHT),
                          da_layer_value(model, gradients->values, layer, DA_NORM1_BIAS));
}

da_status da_layer_backward(const da_pass *pass, int64_t layer, da_longnet_gradients *gradients) {
    da_multihead_saved *saved;
    da_status status = recompute(pass, layer, &saved);
    if (status != DA_OK) {
        return status;
    }
    feed_forward_backward(pass, layer, gradients);
    status = attention_backward(pass, layer, saved, gradients->modules[layer]);
    da_multihead_saved_free(saved);
    if (status == DA_OK) {
        norm_backward(pass, layer, gradients);
    }
    return status;
}
