/* The language model behind a handle: configuration, parameters, and how one finds them. */
#ifndef DA_MODEL_MODEL_H
#define DA_MODEL_MODEL_H

#include "core/memory.h"
#include "dilated_attention_nn.h"
#include "multihead/layer_norm.h"
#include "multihead/linear.h"

/* Parameters of a layer that are not its attention's; a bias follows its weight. */
typedef enum da_layer_parameter {
    DA_NORM1_WEIGHT,
    DA_NORM1_BIAS,
    DA_NORM2_WEIGHT,
    DA_NORM2_BIAS,
    DA_UP_WEIGHT,
    DA_UP_BIAS,
    DA_DOWN_WEIGHT,
    DA_DOWN_BIAS,
    DA_LAYER_PARAMETERS
} da_layer_parameter;

/* One parameter: in the model's own array, or in the module of a layer. */
typedef struct da_model_entry {
    char name[64];
    int rank;
    int64_t shape[2];
    int64_t count;
    int64_t offset;      /* in the model's own array; -1: it belongs to a module */
    int64_t layer;       /* whose module */
    size_t module_entry; /* its number there */
} da_model_entry;

/* Where the parameters stand in the array of the table's entries; -1: does not exist. */
typedef struct da_model_table {
    size_t count;
    da_model_entry *entries;
    int64_t elements; /* of the model's own array */
    int embed, norm_weight, norm_bias, out;
    int (*layers)[DA_LAYER_PARAMETERS];
} da_model_table;

struct da_longnet {
    const da_context *context;
    const da_allocator *allocator;
    da_longnet_config config; /* ffn_dim filled in */
    da_multihead_config multihead;
    da_attention_config attention;
    da_dtype real; /* the data type of everything */
    int threads;
    da_multihead **modules; /* one a layer */
    da_model_table table;
    void *values;
};

struct da_longnet_gradients {
    const da_longnet *model;
    da_multihead_gradients **modules;
    void *values;
};

/* The embedding's or the output's matrix, and so on: an element of the table in an array like `values`; NULL for -1. */
static inline void *da_model_value(const da_longnet *model, void *values, int entry) {
    return entry < 0 ? NULL : da_elements_on(values, model->table.entries[entry].offset, model->real);
}

static inline void *da_layer_value(const da_longnet *model, void *values, int64_t layer, da_layer_parameter which) {
    return da_model_value(model, values, model->table.layers[layer][which]);
}

/* The table, made from a validated configuration and the modules. The names of a failed table are freed, too. */
da_status da_model_table_make(da_longnet *model);
void da_model_table_free(da_longnet *model);

/* A norm whose weight and bias are these entries. */
da_layer_norm da_model_norm(const da_longnet *model, int weight, int bias);

/* Reads, checks and completes the three configurations. */
da_status da_longnet_configs_import(const da_longnet_config *config, const da_multihead_config *multihead,
                                    const da_attention_config *attention, da_longnet *out);

/* What a refusal of NULL says. */
da_status da_model_report_null(const char *argument, const char *allowed);

#endif
