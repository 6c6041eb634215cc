/* A model and its gradients: creation, and access to parameters. */
#include <math.h>
#include <string.h>

#include "attention/dropout.h"
#include "config/validation.h"
#include "model/model.h"
#include "multihead/convert.h"
#include "multihead/parameters.h"

/* ---- creation ---------------------------------------------------------------------------------------------------- */

static void reset(da_longnet *model) {
    const da_model_table *table = &model->table;
    const float one = 1;
    memset(model->values, 0, (size_t)table->elements * da_dtype_size(model->real));
    for (size_t k = 0; k < table->count; k++) {
        const da_model_entry *entry = &table->entries[k];
        if (entry->offset >= 0 && strstr(entry->name, "norm") && strstr(entry->name, "weight")) {
            da_convert(DA_F32, &one, 0, model->real, da_model_value(model, model->values, (int)k), 1, entry->count);
        }
    }
}

static da_status make_modules(da_longnet *model, const char *name) {
    size_t layers = (size_t)model->config.layers;
    model->modules = da_allocate(model->allocator, layers, sizeof(da_multihead *));
    if (!model->modules) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    memset(model->modules, 0, layers * sizeof(da_multihead *));
    da_status status = DA_OK;
    for (size_t k = 0; k < layers && status == DA_OK; k++) {
        status = da_multihead_create(model->context, name, &model->multihead, &model->attention, &model->modules[k]);
    }
    return status;
}

static da_status fill(da_longnet *model, const char *name) {
    int threads = da_context_threads(model->context), wanted = model->attention.tuning.threads;
    model->threads = wanted > 0 && wanted < threads ? wanted : threads;
    model->real = model->multihead.dtype;
    model->attention.dtype = model->real;
    da_status status = make_modules(model, name);
    if (status == DA_OK) {
        status = da_model_table_make(model);
    }
    if (status != DA_OK) {
        return status;
    }
    model->values = da_allocate(model->allocator, (size_t)model->table.elements, da_dtype_size(model->real));
    if (!model->values) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    reset(model);
    return DA_OK;
}

da_status da_longnet_create(const da_context *context, const char *name, const da_longnet_config *config,
                            const da_multihead_config *multihead, const da_attention_config *attention,
                            da_longnet **out) {
    if (!out) {
        return da_model_report_null("out", "a place for the model");
    }
    *out = NULL;
    if (!context || !name) {
        return da_model_report_null(context ? "name" : "context",
                                    context ? "\"auto\" or a registered name" : "a context");
    }
    const da_comm *comm = da_context_comm(context);
    if (comm && comm->ranks > 1) {
        return da_report(
            DA_ERROR_UNSUPPORTED,
            "the context has %d ranks; allowed: a context without a communicator, since the language model "
            "takes whole sequences",
            comm->ranks);
    }
    da_longnet ours = {.context = context, .allocator = da_context_allocator(context)};
    da_status status = da_longnet_configs_import(config, multihead, attention, &ours);
    if (status != DA_OK) {
        return status;
    }
    da_longnet *model = da_allocate(ours.allocator, 1, sizeof *model);
    if (!model) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *model = ours;
    status = fill(model, name);
    if (status != DA_OK) {
        da_longnet_free(model);
        return status;
    }
    *out = model;
    return DA_OK;
}

void da_longnet_free(da_longnet *model) {
    if (!model) {
        return;
    }
    for (int64_t k = 0; model->modules && k < model->config.layers; k++) {
        da_multihead_free(model->modules[k]);
    }
    da_release(model->allocator, model->modules);
    da_model_table_free(model);
    da_release(model->allocator, model->values);
    da_release(model->allocator, model);
}

/* A caller's struct receives ours, as far as it reaches. */
static da_status give(void *theirs, const void *ours, size_t size, const char *name) {
    size_t their_size;
    da_status status = da_check_result(theirs, size, name);
    if (status == DA_OK) {
        memcpy(&their_size, theirs, sizeof their_size);
        memcpy(theirs, ours, size);
        memcpy(theirs, &their_size, sizeof their_size);
    }
    return status;
}

da_status da_longnet_get_config(const da_longnet *model, da_longnet_config *config, da_multihead_config *multihead,
                                da_attention_config *attention) {
    if (!model) {
        return da_model_report_null("model", "what da_longnet_create made");
    }
    da_status status = config ? give(config, &model->config, sizeof model->config, "config") : DA_OK;
    if (status == DA_OK && multihead) {
        status = give(multihead, &model->multihead, sizeof model->multihead, "multihead");
    }
    if (status == DA_OK && attention) {
        status = give(attention, &model->attention, sizeof model->attention, "attention");
    }
    return status;
}

const char *da_longnet_implementation(const da_longnet *model) {
    return model ? da_multihead_implementation(model->modules[0]) : NULL;
}

/* ---- parameters -------------------------------------------------------------------------------------------------- */

/* The entry of a number; refuses what is none. */
static da_status check_index(const da_longnet *model, size_t index, const da_parameter *out) {
    if (!out) {
        return da_model_report_null("out", "a place for the parameter");
    }
    if (index >= model->table.count) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "index is %zu; allowed: 0 to %zu", index, model->table.count - 1);
    }
    return DA_OK;
}

static da_status find(const da_longnet *model, const char *name, size_t *index) {
    for (*index = 0; name && *index < model->table.count; ++*index) {
        if (strcmp(name, model->table.entries[*index].name) == 0) {
            return DA_OK;
        }
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT,
                     "name is %s%.64s%s; allowed: embed.weight, layers.K.norm1.weight and the like, up to K = %d; the "
                     "header lists them",
                     name ? "\"" : "", name ? name : "NULL", name ? "\"" : "", (int)model->config.layers - 1);
}

/* An entry of the model's own array as callers see it. */
static da_parameter own_view(const da_longnet *model, void *values, size_t index) {
    const da_model_entry *entry = &model->table.entries[index];
    return (da_parameter){
        .name = entry->name,
        .data = da_model_value(model, values, (int)index),
        .dtype = model->real,
        .rank = entry->rank,
        .shape = {entry->shape[0], entry->shape[1]},
        .whole_rows = entry->shape[0],
    };
}

size_t da_longnet_parameter_count(const da_longnet *model) {
    return model ? model->table.count : 0;
}

da_status da_longnet_parameter_at(da_longnet *model, size_t index, da_parameter *out) {
    da_status status =
        model ? check_index(model, index, out) : da_model_report_null("model", "what da_longnet_create made");
    if (status != DA_OK) {
        return status;
    }
    const da_model_entry *entry = &model->table.entries[index];
    if (entry->offset >= 0) {
        *out = own_view(model, model->values, index);
        return DA_OK;
    }
    status = da_multihead_parameter_at(model->modules[entry->layer], entry->module_entry, out);
    out->name = entry->name;
    return status;
}

da_status da_longnet_parameter(da_longnet *model, const char *name, da_parameter *out) {
    size_t index = 0;
    da_status status = model ? find(model, name, &index) : da_model_report_null("model", "what da_longnet_create made");
    return status == DA_OK ? da_longnet_parameter_at(model, index, out) : status;
}

/* ---- initialisation ---------------------------------------------------------------------------------------------- */

#define EMBEDDING_DEVIATION 0.02
#define FIRST_STREAM 0x10000u /* beyond those of a module */

/* A seed of its own for each layer's module. */
static uint64_t seed_of_layer(uint64_t seed, int64_t layer) {
    uint32_t key = (uint32_t)layer, low = (uint32_t)seed, high = (uint32_t)(seed >> 32);
    return (uint64_t)da_philox_2x32(2 * key, low, high) << 32 | da_philox_2x32(2 * key + 1, low, high);
}

static void draw(da_longnet *model, int entry, double deviation, uint64_t seed) {
    da_draw_normal(model->real, da_model_value(model, model->values, entry), 0, model->table.entries[entry].count,
                   deviation, seed, FIRST_STREAM + (uint32_t)entry);
}

da_status da_longnet_initialise(da_longnet *model, uint64_t seed) {
    if (!model) {
        return da_model_report_null("model", "what da_longnet_create made");
    }
    const da_model_table *table = &model->table;
    double sum = (double)model->multihead.embed_dim + (double)model->config.ffn_dim;
    double deviation = model->multihead.gamma_init * sqrt(2 / sum);
    reset(model);
    draw(model, table->embed, EMBEDDING_DEVIATION, seed);
    if (!model->config.tied_output) {
        draw(model, table->out, EMBEDDING_DEVIATION, seed);
    }
    da_status status = DA_OK;
    for (int64_t layer = 0; layer < model->config.layers && status == DA_OK; layer++) {
        draw(model, table->layers[layer][DA_UP_WEIGHT], deviation, seed);
        draw(model, table->layers[layer][DA_DOWN_WEIGHT], deviation, seed);
        status = da_multihead_initialise(model->modules[layer], seed_of_layer(seed, layer));
    }
    return status;
}

/* ---- gradients --------------------------------------------------------------------------------------------------- */

static da_status fill_gradients(da_longnet_gradients *gradients) {
    const da_longnet *model = gradients->model;
    size_t layers = (size_t)model->config.layers;
    gradients->modules = da_allocate(model->allocator, layers, sizeof(da_multihead_gradients *));
    if (!gradients->modules) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    memset(gradients->modules, 0, layers * sizeof(da_multihead_gradients *));
    da_status status = DA_OK;
    for (size_t k = 0; k < layers && status == DA_OK; k++) {
        status = da_multihead_gradients_create(model->modules[k], &gradients->modules[k]);
    }
    if (status == DA_OK) {
        gradients->values = da_allocate(model->allocator, (size_t)model->table.elements, da_dtype_size(model->real));
        status = gradients->values ? DA_OK : DA_ERROR_OUT_OF_MEMORY;
    }
    return status;
}

da_status da_longnet_gradients_create(const da_longnet *model, da_longnet_gradients **out) {
    if (!out) {
        return da_model_report_null("out", "a place for the gradients");
    }
    *out = NULL;
    if (!model) {
        return da_model_report_null("model", "what da_longnet_create made");
    }
    da_longnet_gradients *gradients = da_allocate(model->allocator, 1, sizeof *gradients);
    if (!gradients) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *gradients = (da_longnet_gradients){.model = model};
    da_status status = fill_gradients(gradients);
    if (status != DA_OK) {
        da_longnet_gradients_free(gradients);
        return status;
    }
    da_longnet_gradients_zero(gradients);
    *out = gradients;
    return DA_OK;
}

void da_longnet_gradients_free(da_longnet_gradients *gradients) {
    if (!gradients) {
        return;
    }
    const da_longnet *model = gradients->model;
    for (int64_t k = 0; gradients->modules && k < model->config.layers; k++) {
        da_multihead_gradients_free(gradients->modules[k]);
    }
    da_release(model->allocator, gradients->modules);
    da_release(model->allocator, gradients->values);
    da_release(model->allocator, gradients);
}

void da_longnet_gradients_zero(da_longnet_gradients *gradients) {
    if (!gradients) {
        return;
    }
    const da_longnet *model = gradients->model;
    memset(gradients->values, 0, (size_t)model->table.elements * da_dtype_size(model->real));
    for (int64_t k = 0; k < model->config.layers; k++) {
        da_multihead_gradients_zero(gradients->modules[k]);
    }
}

da_status da_longnet_gradient_at(da_longnet_gradients *gradients, size_t index, da_parameter *out) {
    if (!gradients) {
        return da_model_report_null("gradients", "what da_longnet_gradients_create made");
    }
    const da_longnet *model = gradients->model;
    da_status status = check_index(model, index, out);
    if (status != DA_OK) {
        return status;
    }
    const da_model_entry *entry = &model->table.entries[index];
    if (entry->offset >= 0) {
        *out = own_view(model, gradients->values, index);
        return DA_OK;
    }
    status = da_multihead_gradient_at(gradients->modules[entry->layer], entry->module_entry, out);
    out->name = entry->name;
    return status;
}

da_status da_longnet_gradient(da_longnet_gradients *gradients, const char *name, da_parameter *out) {
    size_t index = 0;
    da_status status = gradients ? find(gradients->model, name, &index)
                                 : da_model_report_null("gradients", "what da_longnet_gradients_create made");
    return status == DA_OK ? da_longnet_gradient_at(gradients, index, out) : status;
}
