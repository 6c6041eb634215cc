#include "model/pass.h"

#include <inttypes.h>
#include <string.h>

#include "config/validation.h"
#include "core/parallel.h"
#include "model/embedding.h"

void da_longnet_batch_init(da_longnet_batch *batch) {
    if (batch) {
        *batch = (da_longnet_batch){.size = sizeof *batch, .batch = 1};
    }
}

/* ---- checks ------------------------------------------------------------------------------------------------------ */

static da_status check_words(const da_longnet *model, const char *name, const int32_t *words, int64_t batch, int64_t n,
                             int64_t least) {
    for (int64_t r = 0; r < batch * n; r++) {
        if (words[r] < least || words[r] >= model->config.vocab_size) {
            return da_report(DA_ERROR_INVALID_ARGUMENT,
                             "%s[%" PRId64 "][%" PRId64 "] is %" PRId32 "; allowed: %sbelow vocab_size, %" PRId64, name,
                             r / n, r % n, words[r], least == 0 ? "from 0 and " : "", model->config.vocab_size);
        }
    }
    return DA_OK;
}

static da_status check_targets(const da_longnet *model, const da_longnet_batch *batch) {
    if (!batch->targets) {
        return da_model_report_null("batch.targets", "(batch, n) targets");
    }
    for (int64_t r = 0; r < batch->batch * batch->n; r++) {
        if (batch->targets[r] >= 0) {
            return check_words(model, "targets", batch->targets, batch->batch, batch->n, INT32_MIN);
        }
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT, "batch.targets are all negative; allowed: at least one that is not");
}

static da_status check_batch(const da_longnet *model, const da_longnet_batch *theirs, bool targets,
                             da_longnet_batch *ours) {
    if (!model) {
        return da_model_report_null("model", "what da_longnet_create made");
    }
    da_status status = da_copy_sized(ours, sizeof *ours, theirs, "batch");
    if (status != DA_OK) {
        return status;
    }
    if (!ours->tokens) {
        return da_model_report_null("batch.tokens", "(batch, n) tokens");
    }
    if (ours->batch < 1 || ours->n < 1) {
        bool is_batch = ours->batch < 1;
        return da_report(DA_ERROR_INVALID_ARGUMENT, "batch.%s is %" PRId64 "; allowed: 1 or more",
                         is_batch ? "batch" : "n", is_batch ? ours->batch : ours->n);
    }
    if (ours->n > INT64_MAX / 4096 / model->multihead.embed_dim / ours->batch) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "batch.n is %" PRId64 " and batch.batch %" PRId64 "; allowed: what memory can hold", ours->n,
                         ours->batch);
    }
    status = check_words(model, "tokens", ours->tokens, ours->batch, ours->n, 0);
    return status == DA_OK && targets ? check_targets(model, ours) : status;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* The arrays of (rows, E), in one piece behind inputs[0]. */
static da_status make_arrays(da_pass *pass, bool backward) {
    const da_longnet *model = pass->model;
    int64_t layers = model->config.layers, elements = pass->rows * model->multihead.embed_dim;
    size_t count = backward ? (size_t)layers + 4 : 3;
    pass->inputs = da_allocate(model->allocator, (size_t)layers + 1, sizeof(void *));
    if (!pass->inputs) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    pass->inputs[0] = da_allocate(model->allocator, count, (size_t)elements * da_dtype_size(model->real));
    if (!pass->inputs[0]) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    int64_t used = 1;
    for (int64_t k = 1; k <= layers; k++) {
        pass->inputs[k] = backward ? da_elements_on(pass->inputs[0], used++ * elements, model->real) : pass->inputs[0];
    }
    pass->normed = da_elements_on(pass->inputs[0], used++ * elements, model->real);
    pass->branch = da_elements_on(pass->inputs[0], used++ * elements, model->real);
    pass->grad = backward ? da_elements_on(pass->inputs[0], used * elements, model->real) : NULL;
    return DA_OK;
}

static da_status make_memory(da_pass *pass, bool backward) {
    const da_longnet *model = pass->model;
    int64_t width = model->multihead.embed_dim, norm = da_norm_sums_elements(width);
    int64_t inner = da_feed_forward_elements(model->threads, pass->rows, width, model->config.ffn_dim, backward);
    da_status status = make_arrays(pass, backward);
    if (status == DA_OK) {
        pass->memory[0] =
            da_allocate(model->allocator, (size_t)(inner > norm ? inner : norm), da_dtype_size(model->real));
        status = pass->memory[0] ? DA_OK : DA_ERROR_OUT_OF_MEMORY;
    }
    if (status == DA_OK) {
        size_t bytes = da_head_bytes(model->real, model->threads, pass->rows, model->config.vocab_size, width);
        pass->memory[1] = da_allocate(model->allocator, 1, bytes);
        status = pass->memory[1] ? DA_OK : DA_ERROR_OUT_OF_MEMORY;
    }
    return status;
}

static void release(da_pass *pass) {
    const da_allocator *allocator = pass->model->allocator;
    if (pass->inputs) {
        da_release(allocator, pass->inputs[0]);
    }
    da_release(allocator, pass->inputs);
    da_release(allocator, pass->memory[0]);
    da_release(allocator, pass->memory[1]);
}

da_status da_pass_begin(da_pass *pass, const da_longnet *model, const da_longnet_batch *batch, bool targets,
                        bool backward) {
    *pass = (da_pass){.model = model};
    da_status status = check_batch(model, batch, targets, &pass->batch);
    if (status != DA_OK) {
        return status;
    }
    pass->rows = pass->batch.batch * pass->batch.n;
    pass->steps = (backward ? 2 : 1) * model->config.layers;
    status = make_memory(pass, backward);
    if (status != DA_OK) {
        release(pass);
        return status;
    }
    pass->foreign_threads = da_limit_foreign_threads(1);
    return DA_OK;
}

void da_pass_end(da_pass *pass) {
    da_limit_foreign_threads(pass->foreign_threads);
    release(pass);
}

/* ---- passes ------------------------------------------------------------------------------------------------------ */

/* Reports a finished layer; DA_ERROR_CANCELLED if the caller wants to stop. */
static da_status report(da_pass *pass) {
    pass->reports++;
    if (pass->batch.progress && !pass->batch.progress(pass->reports, pass->steps, pass->batch.progress_user)) {
        return da_report(DA_ERROR_CANCELLED, "cancelled by the progress callback");
    }
    return DA_OK;
}

/* Embedding and all layers, up to inputs[layers]. */
static da_status run_forward(da_pass *pass) {
    const da_longnet *model = pass->model;
    da_status status = DA_OK;
    da_embedding_forward(model->real, model->threads, model->multihead.embed_dim,
                         da_model_value(model, model->values, model->table.embed), pass->rows, pass->batch.tokens,
                         pass->inputs[0]);
    for (int64_t layer = 0; layer < model->config.layers && status == DA_OK; layer++) {
        status = da_layer_forward(pass, layer, NULL);
        if (status == DA_OK) {
            status = report(pass);
        }
    }
    return status;
}

da_head da_model_head(const da_longnet *model, void *memory) {
    return (da_head){
        .real = model->real,
        .threads = model->threads,
        .words = model->config.vocab_size,
        .width = model->multihead.embed_dim,
        .norm = da_model_norm(model, model->table.norm_weight, model->table.norm_bias),
        .weight = da_model_value(model, model->values, model->table.out),
        .memory = memory,
    };
}

da_status da_longnet_loss(const da_longnet *model, const da_longnet_batch *batch, double *loss) {
    da_pass pass;
    if (!loss) {
        return da_model_report_null("loss", "a place for the loss");
    }
    da_status status = da_pass_begin(&pass, model, batch, true, false);
    if (status != DA_OK) {
        return status;
    }
    status = run_forward(&pass);
    if (status == DA_OK) {
        da_head head = da_model_head(model, pass.memory[1]);
        *loss = da_head_loss(&head, pass.rows, pass.inputs[model->config.layers], pass.batch.targets);
    }
    da_pass_end(&pass);
    return status;
}

static da_status check_range(const da_longnet_batch *batch, int64_t first, int64_t count) {
    if (first < 0 || count < 1 || first > batch->n - count) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "first is %" PRId64 " and count %" PRId64 "; allowed: tokens within 0 to batch.n, %" PRId64,
                         first, count, batch->n);
    }
    return DA_OK;
}

da_status da_longnet_logits(const da_longnet *model, const da_longnet_batch *batch, int64_t first, int64_t count,
                            void *logits) {
    da_pass pass;
    if (!logits) {
        return da_model_report_null("logits", "memory for (batch, count, vocab_size) elements");
    }
    da_status status = da_pass_begin(&pass, model, batch, false, false);
    if (status != DA_OK) {
        return status;
    }
    status = check_range(&pass.batch, first, count);
    if (status == DA_OK) {
        status = run_forward(&pass);
    }
    da_head head = da_model_head(model, pass.memory[1]);
    for (int64_t b = 0; b < pass.batch.batch && status == DA_OK; b++) {
        void *x = da_elements_on(pass.inputs[model->config.layers], (b * pass.batch.n + first) * head.width, head.real);
        da_head_logits(&head, count, x, da_elements_on(logits, b * count * head.words, head.real));
    }
    da_pass_end(&pass);
    return status;
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

static da_status backward(da_pass *pass, da_longnet_gradients *gradients, double *loss) {
    const da_longnet *model = pass->model;
    const da_model_table *table = &model->table;
    da_head head = da_model_head(model, pass->memory[1]);
    const da_head_gradients sums = {
        .norm_weight = da_model_value(model, gradients->values, table->norm_weight),
        .norm_bias = da_model_value(model, gradients->values, table->norm_bias),
        .weight = da_model_value(model, gradients->values, table->out),
    };
    int64_t layers = model->config.layers;
    double result = da_head_backward(&head, pass->rows, pass->inputs[layers], pass->batch.targets, pass->grad, &sums);
    da_status status = DA_OK;
    for (int64_t layer = layers - 1; layer >= 0 && status == DA_OK; layer--) {
        status = da_layer_backward(pass, layer, gradients);
        if (status == DA_OK) {
            status = report(pass);
        }
    }
    if (status == DA_OK) {
        da_embedding_backward(model->real, model->threads, head.width, pass->grad, pass->rows, pass->batch.tokens,
                              da_model_value(model, gradients->values, table->embed));
        *loss = result;
    }
    return status;
}

da_status da_longnet_backward(const da_longnet *model, const da_longnet_batch *batch, da_longnet_gradients *gradients,
                              double *loss) {
    da_pass pass;
    if (!gradients || !loss) {
        return da_model_report_null(gradients ? "loss" : "gradients", "a place for it");
    }
    if (gradients->model != model) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "gradients are another model's; allowed: those made from this one");
    }
    da_status status = da_pass_begin(&pass, model, batch, true, true);
    if (status != DA_OK) {
        return status;
    }
    status = run_forward(&pass);
    if (status == DA_OK) {
        status = backward(&pass, gradients, loss);
    }
    da_pass_end(&pass);
    return status;
}
