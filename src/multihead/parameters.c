#include "multihead/parameters.h"

#include <inttypes.h>
#include <string.h>

#include "multihead/convert.h"
#include "pattern/layout.h"

static const char *const own_names[DA_PARAMETER_IDS] = {
    [DA_Q_WEIGHT] = "q_proj.weight",     [DA_Q_BIAS] = "q_proj.bias",      [DA_K_WEIGHT] = "k_proj.weight",
    [DA_K_BIAS] = "k_proj.bias",         [DA_V_WEIGHT] = "v_proj.weight",  [DA_V_BIAS] = "v_proj.bias",
    [DA_Q_LN_WEIGHT] = "q_ln.weight",    [DA_Q_LN_BIAS] = "q_ln.bias",     [DA_K_LN_WEIGHT] = "k_ln.weight",
    [DA_K_LN_BIAS] = "k_ln.bias",        [DA_NORM_WEIGHT] = "norm.weight", [DA_NORM_BIAS] = "norm.bias",
    [DA_OUT_WEIGHT] = "out_proj.weight", [DA_OUT_BIAS] = "out_proj.bias",
};

const char *da_parameter_id_name(da_parameter_id id, da_parameter_names names) {
    if (names == DA_NAMES_TORCHSCALE && (id == DA_NORM_WEIGHT || id == DA_NORM_BIAS)) {
        return id == DA_NORM_WEIGHT ? "inner_attn_ln.weight" : "inner_attn_ln.bias";
    }
    return own_names[id];
}

static bool exists(da_parameter_id id, const da_multihead_config *config) {
    switch (id) {
    case DA_Q_BIAS:
    case DA_K_BIAS:
    case DA_V_BIAS:
    case DA_OUT_BIAS: return config->bias;
    case DA_Q_LN_WEIGHT:
    case DA_Q_LN_BIAS:
    case DA_K_LN_WEIGHT:
    case DA_K_LN_BIAS: return config->qk_layer_norm;
    case DA_NORM_WEIGHT:
    case DA_NORM_BIAS: return config->layer_norm;
    default: return true;
    }
}

static bool is_matrix(da_parameter_id id) {
    return id == DA_Q_WEIGHT || id == DA_K_WEIGHT || id == DA_V_WEIGHT || id == DA_OUT_WEIGHT;
}

static bool belongs_to_keys(da_parameter_id id) {
    return id == DA_K_WEIGHT || id == DA_K_BIAS || id == DA_V_WEIGHT || id == DA_V_BIAS || id == DA_K_LN_WEIGHT ||
           id == DA_K_LN_BIAS;
}

void da_parameter_table_make(da_parameter_table *out, const da_multihead_config *config, int rank, int ranks) {
    int64_t width = config->embed_dim, key_width = config->kv_heads * (width / config->num_heads);
    *out = (da_parameter_table){0};
    for (int k = 0; k < DA_PARAMETER_IDS; k++) {
        da_parameter_id id = (da_parameter_id)k;
        out->index[id] = -1;
        if (!exists(id, config)) {
            continue;
        }
        da_parameter_shape *entry = &out->entries[out->count];
        *entry = (da_parameter_shape){.id = id, .rank = is_matrix(id) ? 2 : 1, .offset = out->elements};
        entry->whole_rows = belongs_to_keys(id) ? key_width : width;
        entry->first_row = da_even_end(entry->whole_rows, rank, ranks);
        entry->shape[0] = da_even_end(entry->whole_rows, (int64_t)rank + 1, ranks) - entry->first_row;
        entry->shape[1] = is_matrix(id) ? width : 1;
        entry->count = entry->shape[0] * entry->shape[1];
        out->index[id] = (int)out->count++;
        out->elements += entry->count;
    }
}

void *da_parameter_address(const da_parameter_table *table, void *base, da_dtype dtype, da_parameter_id id) {
    if (table->index[id] < 0) {
        return NULL;
    }
    return da_elements_on(base, table->entries[table->index[id]].offset, dtype);
}

da_status da_parameter_view(const da_parameter_table *table, void *base, da_dtype dtype, size_t index,
                            da_parameter *out) {
    if (!out) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "out is NULL; allowed: a place for the parameter");
    }
    if (index >= table->count) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "index is %zu; allowed: 0 to %zu", index, table->count - 1);
    }
    const da_parameter_shape *entry = &table->entries[index];
    *out = (da_parameter){
        .name = own_names[entry->id],
        .data = da_parameter_address(table, base, dtype, entry->id),
        .dtype = dtype,
        .rank = entry->rank,
        .shape = {entry->shape[0], entry->shape[1]},
        .first_row = entry->first_row,
        .whole_rows = entry->whole_rows,
    };
    return DA_OK;
}

da_status da_parameter_number(const da_parameter_table *table, const char *name, size_t *number) {
    char allowed[512] = "";
    for (size_t k = 0; k < table->count; k++) {
        const char *known = own_names[table->entries[k].id];
        if (name && strcmp(known, name) == 0) {
            *number = k;
            return DA_OK;
        }
        strcat(allowed, k > 0 ? ", " : ""); /* 14 names of at most 15 characters */
        strcat(allowed, known);
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT, "name is %s%.64s%s; allowed: %s", name ? "\"" : "",
                     name ? name : "NULL", name ? "\"" : "", allowed);
}

da_status da_parameter_find(const da_parameter_table *table, void *base, da_dtype dtype, const char *name,
                            da_parameter *out) {
    size_t number;
    da_status status = da_parameter_number(table, name, &number);
    return status == DA_OK ? da_parameter_view(table, base, dtype, number, out) : status;
}

void da_parameters_reset(const da_parameter_table *table, void *base, da_dtype dtype) {
    const float one = 1;
    memset(base, 0, (size_t)table->elements * da_dtype_size(dtype));
    for (size_t k = 0; k < table->count; k++) {
        const da_parameter_shape *entry = &table->entries[k];
        if (entry->id == DA_Q_LN_WEIGHT || entry->id == DA_K_LN_WEIGHT || entry->id == DA_NORM_WEIGHT) {
            da_convert(DA_F32, &one, 0, dtype, da_parameter_address(table, base, dtype, entry->id), 1, entry->count);
        }
    }
}
