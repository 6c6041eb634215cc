/* Configurations of the language model. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "config/validation.h"
#include "model/model.h"

#define MAX_VOCABULARY (1 << 24)
#define MAX_LAYERS 1024
#define MAX_FFN_DIM (DA_PRODUCT_MAX_SIZE / 4)

static const char *const activation_names[] = {[DA_ACTIVATION_GELU] = "gelu", [DA_ACTIVATION_RELU] = "relu"};

const char *da_activation_name(da_activation value) {
    return value == DA_ACTIVATION_GELU || value == DA_ACTIVATION_RELU ? activation_names[value] : "?";
}

da_status da_activation_from_name(const char *name, da_activation *out) {
    if (!out) {
        return da_model_report_null("out", "a place for the value");
    }
    for (int value = 0; name && value < 2; value++) {
        if (strcmp(name, activation_names[value]) == 0) {
            *out = (da_activation)value;
            return DA_OK;
        }
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT, "activation is %s%.64s%s; allowed: gelu, relu", name ? "\"" : "",
                     name ? name : "NULL", name ? "\"" : "");
}

da_status da_model_report_null(const char *argument, const char *allowed) {
    return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is NULL; allowed: %s", argument, allowed);
}

void da_longnet_config_init(da_longnet_config *config) {
    if (config) {
        *config = (da_longnet_config){
            .size = sizeof *config, .vocab_size = 256, .layers = 4, .tied_output = true, .norm_eps = 1e-5};
    }
}

static da_status check_range(const char *name, int64_t value, int64_t least, int64_t most) {
    if (value < least || value > most) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is %" PRId64 "; allowed: %" PRId64 " to %" PRId64, name, value,
                         least, most);
    }
    return DA_OK;
}

static da_status check_config(const da_longnet_config *config) {
    da_status status = check_range("vocab_size", config->vocab_size, 1, MAX_VOCABULARY);
    if (status == DA_OK) {
        status = check_range("layers", config->layers, 1, MAX_LAYERS);
    }
    if (status == DA_OK) {
        status = check_range("ffn_dim", config->ffn_dim, 0, MAX_FFN_DIM);
    }
    if (status == DA_OK && config->activation != DA_ACTIVATION_GELU && config->activation != DA_ACTIVATION_RELU) {
        status =
            da_report(DA_ERROR_INVALID_ARGUMENT, "activation is %d; allowed: DA_ACTIVATION_GELU, DA_ACTIVATION_RELU",
                      (int)config->activation);
    }
    if (status == DA_OK && (!(config->norm_eps > 0) || !isfinite(config->norm_eps))) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "norm_eps is %g; allowed: above 0 and finite", config->norm_eps);
    }
    return status;
}

/* What the model asks of its attention. */
static da_status check_attention(const da_multihead_config *multihead, const da_attention_config *attention) {
    if (multihead->dtype != DA_F32 && multihead->dtype != DA_F64) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "dtype is %s; allowed: f32, f64", da_dtype_name(multihead->dtype));
    }
    if (!attention->causal) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "causal is false; allowed: true, for no token may see what it is to predict");
    }
    return DA_OK;
}

da_status da_longnet_configs_import(const da_longnet_config *config, const da_multihead_config *multihead,
                                    const da_attention_config *attention, da_longnet *out) {
    if (!multihead || !attention) {
        return da_model_report_null(multihead ? "attention" : "multihead", "an initialised configuration");
    }
    da_status status = da_copy_sized(&out->config, sizeof out->config, config, "config");
    if (status == DA_OK) {
        status = check_config(&out->config);
    }
    if (status == DA_OK) {
        status = da_multihead_config_validate(multihead, attention);
    }
    if (status == DA_OK) {
        status = da_copy_sized(&out->multihead, sizeof out->multihead, multihead, "multihead");
    }
    if (status == DA_OK) {
        status = da_copy_sized(&out->attention, sizeof out->attention, attention, "attention");
    }
    if (status == DA_OK) {
        status = check_attention(&out->multihead, &out->attention);
    }
    if (status == DA_OK && out->config.ffn_dim == 0) {
        status = check_range("embed_dim", out->multihead.embed_dim, 1, MAX_FFN_DIM / 4);
        out->config.ffn_dim = 4 * out->multihead.embed_dim;
    }
    if (out->multihead.kv_heads == 0) {
        out->multihead.kv_heads = out->multihead.num_heads;
    }
    return status;
}
