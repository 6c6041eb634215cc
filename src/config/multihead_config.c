#include <inttypes.h>
#include <math.h>

#include "config/validation.h"

void da_multihead_config_init(da_multihead_config *config) {
    if (!config) {
        return;
    }
    *config = (da_multihead_config){
        .size = sizeof *config,
        .bias = true,
        .layer_norm = true,
        .layer_norm_eps = 1e-5,
        .gamma_init = 1.0,
        .dtype = DA_F32,
        .rope_base = 10000,
        .xpos_scale_base = 512,
    };
}

static da_status check_sizes(const da_multihead_config *config) {
    if (config->embed_dim < 1) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "embed_dim is %" PRId64 "; allowed: 1 or more", config->embed_dim);
    }
    if (config->num_heads < 1) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "num_heads is %" PRId64 "; allowed: 1 or more", config->num_heads);
    }
    if (config->embed_dim % config->num_heads != 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "num_heads is %" PRId64 "; allowed: a divisor of embed_dim, which is %" PRId64,
                         config->num_heads, config->embed_dim);
    }
    if (config->embed_dim / config->num_heads > DA_MAX_HEAD_DIM) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "embed_dim / num_heads is %" PRId64 "; allowed: a head_dim of 1 to %d",
                         config->embed_dim / config->num_heads, DA_MAX_HEAD_DIM);
    }
    if (config->kv_heads < 0 || (config->kv_heads > 0 && config->num_heads % config->kv_heads != 0)) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "kv_heads is %" PRId64 "; allowed: 0 (as many as num_heads), or a divisor of num_heads, which "
                         "is %" PRId64,
                         config->kv_heads, config->num_heads);
    }
    return DA_OK;
}

static da_status check_positive(const char *name, double value) {
    if (isfinite(value) && value > 0) {
        return DA_OK;
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is %g; allowed: a finite number above 0", name, value);
}

static da_status check_position(const da_multihead_config *config) {
    da_status status = da_check_enum("position", (int)config->position, da_position_name(config->position));
    if (status == DA_OK) {
        status =
            da_check_enum("rotary_layout", (int)config->rotary_layout, da_rotary_layout_name(config->rotary_layout));
    }
    if (status == DA_OK && !(isfinite(config->rope_base) && config->rope_base > 1)) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "rope_base is %g; allowed: a finite number above 1",
                           config->rope_base);
    }
    if (status == DA_OK) {
        status = check_positive("xpos_scale_base", config->xpos_scale_base);
    }
    int64_t head_dim = config->embed_dim / config->num_heads;
    if (status == DA_OK && config->position != DA_POSITION_NONE && head_dim % 2 != 0) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT,
                           "embed_dim / num_heads is %" PRId64 "; allowed with position %s: an even head_dim", head_dim,
                           da_position_name(config->position));
    }
    return status;
}

da_status da_multihead_config_import(const da_multihead_config *theirs, da_multihead_config *ours) {
    da_multihead_config_init(ours);
    da_status status = da_copy_sized(ours, sizeof *ours, theirs, "multihead_config");
    if (status == DA_OK) {
        status = check_sizes(ours);
    }
    if (status == DA_OK) {
        status = check_positive("layer_norm_eps", ours->layer_norm_eps);
    }
    if (status == DA_OK) {
        status = check_positive("gamma_init", ours->gamma_init);
    }
    if (status == DA_OK && da_dtype_size(ours->dtype) == 0) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "dtype is %d; allowed: DA_F32, DA_F64, DA_BF16, DA_F16",
                           (int)ours->dtype);
    }
    if (status == DA_OK) {
        status = da_check_enum("device", (int)ours->device, da_device_name(ours->device));
    }
    if (status == DA_OK) {
        status = check_position(ours);
    }
    if (status == DA_OK && ours->kv_heads == 0) {
        ours->kv_heads = ours->num_heads;
    }
    return status;
}

da_status da_multihead_config_validate(const da_multihead_config *config, const da_attention_config *attention) {
    da_multihead_config ours;
    da_attention_config inner;
    da_status status = da_multihead_config_import(config, &ours);
    if (status != DA_OK || !attention) {
        return status;
    }
    status = da_attention_config_import(attention, &inner);
    if (status != DA_OK) {
        return status;
    }
    if (inner.dtype != DA_DTYPE_ANY && inner.dtype != ours.dtype) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "the attention's dtype is %s and the multihead's %s; allowed: the same, or any",
                         da_dtype_name(inner.dtype), da_dtype_name(ours.dtype));
    }
    if (inner.device != DA_DEVICE_AUTO && ours.device != DA_DEVICE_AUTO && inner.device != ours.device) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "the attention's device is %s and the multihead's %s; allowed: the same, or auto",
                         da_device_name(inner.device), da_device_name(ours.device));
    }
    return DA_OK;
}
