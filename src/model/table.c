/* The table of a model's parameters. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "model/model.h"

static int add_entry(da_model_table *table, const char *name, int64_t rows, int64_t columns) {
    da_model_entry *entry = &table->entries[table->count];
    *entry = (da_model_entry){.rank = columns ? 2 : 1, .shape = {rows, columns ? columns : 1}};
    entry->count = entry->shape[0] * entry->shape[1];
    entry->offset = table->elements;
    snprintf(entry->name, sizeof entry->name, "%s", name);
    table->elements += entry->count;
    return (int)table->count++;
}

static int add_layer_entry(da_model_table *table, int64_t layer, const char *name, int64_t rows, int64_t columns) {
    char full[64];
    snprintf(full, sizeof full, "layers.%" PRId64 ".%s", layer, name);
    return add_entry(table, full, rows, columns);
}

static void add_module(da_longnet *model, int64_t layer) {
    da_model_table *table = &model->table;
    for (size_t k = 0; k < da_multihead_parameter_count(model->modules[layer]); k++) {
        da_parameter parameter;
        (void)da_multihead_parameter_at(model->modules[layer], k, &parameter); /* k is in range */
        da_model_entry *entry = &table->entries[table->count++];
        *entry = (da_model_entry){.rank = parameter.rank, .offset = -1, .layer = layer, .module_entry = k};
        memcpy(entry->shape, parameter.shape, sizeof entry->shape);
        entry->count = entry->shape[0] * entry->shape[1];
        snprintf(entry->name, sizeof entry->name, "layers.%" PRId64 ".attention.%s", layer, parameter.name);
    }
}

static void add_layer(da_longnet *model, int64_t layer) {
    da_model_table *table = &model->table;
    int64_t width = model->multihead.embed_dim, inner = model->config.ffn_dim;
    bool bias = model->multihead.bias;
    int *at = table->layers[layer];
    at[DA_NORM1_WEIGHT] = add_layer_entry(table, layer, "norm1.weight", width, 0);
    at[DA_NORM1_BIAS] = add_layer_entry(table, layer, "norm1.bias", width, 0);
    add_module(model, layer);
    at[DA_NORM2_WEIGHT] = add_layer_entry(table, layer, "norm2.weight", width, 0);
    at[DA_NORM2_BIAS] = add_layer_entry(table, layer, "norm2.bias", width, 0);
    at[DA_UP_WEIGHT] = add_layer_entry(table, layer, "ffn.up.weight", inner, width);
    at[DA_UP_BIAS] = bias ? add_layer_entry(table, layer, "ffn.up.bias", inner, 0) : -1;
    at[DA_DOWN_WEIGHT] = add_layer_entry(table, layer, "ffn.down.weight", width, inner);
    at[DA_DOWN_BIAS] = bias ? add_layer_entry(table, layer, "ffn.down.bias", width, 0) : -1;
}

da_status da_model_table_make(da_longnet *model) {
    da_model_table *table = &model->table;
    size_t layers = (size_t)model->config.layers, in_module = da_multihead_parameter_count(model->modules[0]);
    table->entries =
        da_allocate(model->allocator, 4 + layers * (DA_LAYER_PARAMETERS + in_module), sizeof *table->entries);
    table->layers = table->entries ? da_allocate(model->allocator, layers, sizeof *table->layers) : NULL;
    if (!table->layers) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    int64_t width = model->multihead.embed_dim, words = model->config.vocab_size;
    table->embed = add_entry(table, "embed.weight", words, width);
    for (int64_t layer = 0; layer < model->config.layers; layer++) {
        add_layer(model, layer);
    }
    table->norm_weight = add_entry(table, "norm.weight", width, 0);
    table->norm_bias = add_entry(table, "norm.bias", width, 0);
    table->out = model->config.tied_output ? table->embed : add_entry(table, "out.weight", words, width);
    return DA_OK;
}

void da_model_table_free(da_longnet *model) {
    da_release(model->allocator, model->table.entries);
    da_release(model->allocator, model->table.layers);
}

da_layer_norm da_model_norm(const da_longnet *model, int weight, int bias) {
    return (da_layer_norm){
        .weight = da_model_value(model, model->values, weight),
        .bias = da_model_value(model, model->values, bias),
        .width = model->multihead.embed_dim,
        .eps = model->config.norm_eps,
    };
}
