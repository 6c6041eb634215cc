#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "config/validation.h"

void da_attention_config_init(da_attention_config *config) {
    if (!config) {
        return;
    }
    *config = (da_attention_config){
        .size = sizeof *config,
        .use_tf32 = true,
        .window = DA_NO_WINDOW,
        .sparsity_ratio = 0.1,
        .block_size = 128,
        .quality_target = 1,
        .global_blocks = 1,
    };
}

static da_status check_patterns(const int64_t *segment_lengths, size_t segment_count, const int64_t *dilation_rates,
                                size_t rate_count) {
    if (segment_count == 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "segment_lengths is empty; allowed: 1 to %d patterns",
                         DA_MAX_PATTERNS);
    }
    if (segment_count != rate_count) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "dilation_rates has %zu values and segment_lengths %zu; allowed: equal numbers", rate_count,
                         segment_count);
    }
    if (segment_count > DA_MAX_PATTERNS) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "segment_lengths has %zu values; allowed: 1 to %d", segment_count,
                         DA_MAX_PATTERNS);
    }
    for (size_t p = 0; p < segment_count; p++) {
        if (segment_lengths[p] < 1) {
            return da_report(DA_ERROR_INVALID_ARGUMENT, "segment_lengths[%zu] is %" PRId64 "; allowed: 1 or more", p,
                             segment_lengths[p]);
        }
        if (dilation_rates[p] < 1 || dilation_rates[p] > segment_lengths[p]) {
            return da_report(DA_ERROR_INVALID_ARGUMENT,
                             "dilation_rates[%zu] is %" PRId64 "; allowed: 1 to its segment length, %" PRId64, p,
                             dilation_rates[p], segment_lengths[p]);
        }
    }
    return DA_OK;
}

da_status da_attention_config_set_patterns(da_attention_config *config, const int64_t *segment_lengths,
                                           size_t segment_count, const int64_t *dilation_rates, size_t rate_count) {
    if (!config || !segment_lengths || !dilation_rates) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is NULL; allowed: %s",
                         !config            ? "config"
                         : !segment_lengths ? "segment_lengths"
                                            : "dilation_rates",
                         !config ? "an initialised configuration" : "an array");
    }
    da_status status = check_patterns(segment_lengths, segment_count, dilation_rates, rate_count);
    if (status != DA_OK) {
        return status;
    }
    config->segment_count = segment_count;
    config->rate_count = rate_count;
    memmove(config->segment_lengths, segment_lengths, segment_count * sizeof *segment_lengths);
    memmove(config->dilation_rates, dilation_rates, rate_count * sizeof *dilation_rates);
    return DA_OK;
}

da_status da_attention_config_set_preset(da_attention_config *config, da_preset preset) {
    if (!config) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "config is NULL; allowed: an initialised configuration");
    }
    switch (preset) {
    case DA_PRESET_LONGNET:
        config->mixing = DA_MIXING_LONGNET;
        config->offset_rule = DA_OFFSET_MOD;
        config->tail_rule = DA_TAIL_MASK;
        return DA_OK;
    case DA_PRESET_TORCHSCALE:
        config->mixing = DA_MIXING_LONGNET;
        config->offset_rule = DA_OFFSET_BLOCK;
        config->tail_rule = DA_TAIL_ZERO_PAD;
        return DA_OK;
    case DA_PRESET_HEAD_GROUPS:
        config->mixing = DA_MIXING_HEAD_GROUPS;
        config->offset_rule = DA_OFFSET_MOD;
        config->tail_rule = DA_TAIL_MASK;
        return DA_OK;
    }
    return da_check_enum("preset", (int)preset, "?");
}

static da_status check_enums(const da_attention_config *config) {
    da_status status = da_check_enum("mixing", (int)config->mixing, da_mixing_name(config->mixing));
    if (status == DA_OK) {
        status = da_check_enum("offset_rule", (int)config->offset_rule, da_offset_rule_name(config->offset_rule));
    }
    if (status == DA_OK) {
        status = da_check_enum("tail_rule", (int)config->tail_rule, da_tail_rule_name(config->tail_rule));
    }
    if (status == DA_OK) {
        status = da_check_enum("overlap", (int)config->overlap, da_overlap_name(config->overlap));
    }
    if (status == DA_OK) {
        status = da_check_enum("partition", (int)config->partition, da_partition_name(config->partition));
    }
    if (status == DA_OK) {
        status = da_check_enum("split", (int)config->split, da_split_name(config->split));
    }
    if (status == DA_OK) {
        status = da_check_enum("dtype", (int)config->dtype, da_dtype_name(config->dtype));
    }
    if (status == DA_OK) {
        status = da_check_enum("device", (int)config->device, da_device_name(config->device));
    }
    return status;
}

static da_status check_numbers(const da_attention_config *config) {
    if (!(config->dropout >= 0 && config->dropout < 1)) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "dropout is %g; allowed: 0 <= dropout < 1", config->dropout);
    }
    if (config->scale_is_set && !isfinite(config->scale)) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "scale is %g; allowed: a finite number", config->scale);
    }
    if (config->window < DA_NO_WINDOW) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "window is %" PRId64 "; allowed: 0 or more, or DA_NO_WINDOW (-1)",
                         config->window);
    }
    if (config->sequence_length < 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "sequence_length is %" PRId64 "; allowed: 0 (unknown) or more",
                         config->sequence_length);
    }
    if (config->stripe < 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "stripe is %" PRId64 "; allowed: 0 (the library's choice) or more",
                         config->stripe);
    }
    return DA_OK;
}

static da_status check_tuning(const da_tuning *tuning) {
    if (tuning->unit < 0 || tuning->unit > DA_MAX_UNIT) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "tuning.unit is %" PRId64 "; allowed: 0 (automatic) to %d",
                         tuning->unit, DA_MAX_UNIT);
    }
    if (tuning->block_keys < 0 || tuning->block_keys > DA_MAX_BLOCK_KEYS || tuning->block_keys % 64 != 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "tuning.block_keys is %d; allowed: 0 (automatic), or a multiple of 64 up to %d",
                         tuning->block_keys, DA_MAX_BLOCK_KEYS);
    }
    if (tuning->threads < 0 || tuning->threads > DA_MAX_THREADS) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "tuning.threads is %d; allowed: 0 (automatic) to %d",
                         tuning->threads, DA_MAX_THREADS);
    }
    return DA_OK;
}

static da_status check_fraction(const char *name, double value) {
    if (value > 0 && value <= 1) {
        return DA_OK;
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is %g; allowed: 0 < %s <= 1", name, value, name);
}

static da_status check_sparse(const da_attention_config *config) {
    da_sparse_pattern pattern = config->sparse_pattern;
    da_status status = da_check_enum("sparse_pattern", (int)pattern, da_sparse_pattern_name(pattern));
    if (status == DA_OK) {
        status = check_fraction("sparsity_ratio", config->sparsity_ratio);
    }
    if (status == DA_OK) {
        status = check_fraction("quality_target", config->quality_target);
    }
    if (status == DA_OK) {
        status = da_check_tile_block("block_size", config->block_size);
    }
    if (status == DA_OK && config->global_blocks < 0) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "global_blocks is %" PRId64 "; allowed: 0 or more",
                           config->global_blocks);
    }
    if (status == DA_OK && pattern == DA_SPARSE_MASK && !config->tile_mask) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "tile_mask is NULL; allowed with sparse_pattern mask: a mask");
    }
    if (status == DA_OK && pattern == DA_SPARSE_PROFILE && !config->sparse_profile) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT,
                           "sparse_profile is NULL; allowed with sparse_pattern profile: a profile");
    }
    return status;
}

da_status da_attention_config_import(const da_attention_config *theirs, da_attention_config *ours) {
    da_attention_config_init(ours);
    da_status status = da_copy_sized(ours, sizeof *ours, theirs, "config");
    if (status == DA_OK) {
        status = check_patterns(ours->segment_lengths, ours->segment_count, ours->dilation_rates, ours->rate_count);
    }
    if (status == DA_OK) {
        status = check_enums(ours);
    }
    if (status == DA_OK) {
        status = check_numbers(ours);
    }
    if (status == DA_OK) {
        status = check_tuning(&ours->tuning);
    }
    if (status == DA_OK) {
        status = check_sparse(ours);
    }
    return status;
}

da_status da_attention_config_validate(const da_attention_config *config) {
    da_attention_config copy;
    return da_attention_config_import(config, &copy);
}

uint32_t da_attention_config_features(const da_attention_config *config) {
    uint32_t features = 0;
    features |= config->causal ? DA_FEATURE_CAUSAL : 0;
    features |= config->window != DA_NO_WINDOW ? DA_FEATURE_WINDOW : 0;
    features |= config->mixing == DA_MIXING_HEAD_GROUPS ? DA_FEATURE_HEAD_GROUPS : 0;
    features |= config->offset_rule == DA_OFFSET_BLOCK ? DA_FEATURE_BLOCK_OFFSETS : 0;
    features |= config->tail_rule == DA_TAIL_ZERO_PAD ? DA_FEATURE_ZERO_PAD : 0;
    features |= config->overlap == DA_OVERLAP_ONCE ? DA_FEATURE_OVERLAP_ONCE : 0;
    return features;
}
