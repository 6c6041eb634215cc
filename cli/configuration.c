#include "configuration.h"

#include <stdio.h>
#include <string.h>

CLI_NAME_READER(read_preset, da_preset, da_preset_from_name)
CLI_NAME_READER(read_mixing, da_mixing, da_mixing_from_name)
CLI_NAME_READER(read_offset_rule, da_offset_rule, da_offset_rule_from_name)
CLI_NAME_READER(read_tail_rule, da_tail_rule, da_tail_rule_from_name)
CLI_NAME_READER(read_overlap, da_overlap, da_overlap_from_name)
CLI_NAME_READER(read_partition, da_partition, da_partition_from_name)
CLI_NAME_READER(read_split, da_split, da_split_from_name)
CLI_NAME_READER(read_dtype, da_dtype, da_dtype_from_name)

static bool read_window(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    configuration *chosen = option->target;
    cli_option number = *option;
    number.target = &chosen->window;
    chosen->window_is_set = cli_read_integer(&number, text, allowed, allowed_size);
    return chosen->window_is_set;
}

/* Tiles that files describe have options of their own, in sparse.c. */
static bool read_sparse_pattern(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    da_sparse_pattern pattern = DA_SPARSE_CONTENT;
    da_status status = da_sparse_pattern_from_name(text, &pattern);
    if (status == DA_OK && (pattern == DA_SPARSE_MASK || pattern == DA_SPARSE_PROFILE)) {
        snprintf(allowed, allowed_size, "is said by its file: %s FILE",
                 pattern == DA_SPARSE_MASK ? "--tile-mask" : "--sparse-profile");
        return false;
    }
    return cli_keep_name(option, text, status, allowed, allowed_size);
}

static bool read_fraction(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    cli_option number = *option;
    cli_number fraction;
    number.target = &fraction;
    if (!cli_read_number(&number, text, allowed, allowed_size) || !(fraction.value > 0 && fraction.value <= 1)) {
        snprintf(allowed, allowed_size, "is not a number above 0, at most 1");
        return false;
    }
    *(cli_number *)option->target = fraction;
    return true;
}

static bool read_count(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    cli_count *count = option->target;
    cli_option number = *option;
    number.target = &count->value;
    count->is_set = cli_read_integer(&number, text, allowed, allowed_size);
    return count->is_set;
}

static bool read_block_size(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    cli_count *count = option->target;
    if (!read_count(option, text, allowed, allowed_size) || count->value % DA_MIN_TILE_BLOCK != 0) {
        snprintf(allowed, allowed_size, "is not a multiple of %d up to %d", DA_MIN_TILE_BLOCK, DA_MAX_TILE_BLOCK);
        return false;
    }
    return true;
}

void configuration_options(configuration *chosen, cli_option table[CONFIGURATION_OPTION_COUNT]) {
    const cli_option options[CONFIGURATION_OPTION_COUNT] = {
        {"segments", "A,B,..", "segment length of each pattern, in tokens", cli_read_list, &chosen->segments, 1,
         INT64_MAX},
        {"rates", "A,B,..", "dilation rate of each pattern: as many as segments,\neach at most its segment length",
         cli_read_list, &chosen->rates, 1, INT64_MAX},
        {"preset", "P", "mixing, offset rule and tail rule at once:\nlongnet (default), torchscale or head_groups",
         read_preset, &chosen->preset, 0, 0},
        {"mixing", "M", "longnet: every head runs every pattern;\nhead_groups: one group of heads per pattern",
         read_mixing, &chosen->mixing, 0, 0},
        {"offset-rule", "R",
         "first token that head h keeps of a segment:\nmod: h mod rate; block: h / ceil(heads / rate)",
         read_offset_rule, &chosen->offset_rule, 0, 0},
        {"tail-rule", "R", "mask: no token beyond the end; zero_pad: as torchscale", read_tail_rule, &chosen->tail_rule,
         0, 0},
        {"overlap", "O", "a key that c patterns hold has weight c (count)\nor 1 (once)", read_overlap, &chosen->overlap,
         0, 0},
        {"causal", NULL, "a query sees no later key", cli_read_flag, &chosen->causal, 0, 0},
        {"window", "W", "a query sees no key more than W tokens before it", read_window, chosen, 0, INT64_MAX},
        {"scale", "X", "factor of the scores (default: 1 / sqrt(head dim))", cli_read_number, &chosen->scale, 0, 0},
        {"dtype", "T", "f32, f64, bf16 or f16", read_dtype, &chosen->dtype, 0, 0},
        {"partition", "P", "which tokens each of several ranks holds:\ncontiguous (default), zigzag or striped",
         read_partition, &chosen->partition, 0, 0},
        {"split", "S", "what `distributed` divides among ranks:\nauto (default), tokens or heads", read_split,
         &chosen->split, 0, 0},
        {"stripe", "T", "tokens in a block of the striped partition\n(0: the library's choice)", cli_read_integer,
         &chosen->stripe, 0, INT64_MAX},
        {"sparse-pattern", "P",
         "which tiles block_sparse computes: content (default),\nlocal_window, global_local, dilated_sparse, axial, "
         "random,"
         "\nhybrid",
         read_sparse_pattern, &chosen->sparse_pattern, 0, 0},
        {"sparsity-ratio", "X", "the part of the tiles that block_sparse computes (0.1)", read_fraction,
         &chosen->sparsity_ratio, 0, 0},
        {"block-size", "B", "tokens of a side of a tile, a multiple of 16 (128)", read_block_size, &chosen->block_size,
         DA_MIN_TILE_BLOCK, DA_MAX_TILE_BLOCK},
        {"quality-target", "X",
         "below 1: so much of the attention is kept, by as many tiles\nas that takes; lets auto choose block_sparse",
         read_fraction, &chosen->quality_target, 0, 0},
        {"global-blocks", "G", "blocks that see and are seen by all, of global_local (1)", read_count,
         &chosen->global_blocks, 0, INT64_MAX},
        {"sparse-seed", "S", "of tiles that are drawn, and of sampled queries (0)", read_count, &chosen->sparse_seed, 0,
         INT64_MAX},
    };
    memcpy(table, options, sizeof(options));
}

void configuration_default_patterns(configuration *chosen, const int64_t *segments, const int64_t *rates,
                                    size_t count) {
    if (chosen->segments.count != 0 || chosen->rates.count != 0) {
        return;
    }
    chosen->segments.count = chosen->rates.count = count;
    memcpy(chosen->segments.values, segments, count * sizeof(*segments));
    memcpy(chosen->rates.values, rates, count * sizeof(*rates));
}

/* The names were checked when they were read, so that these calls succeed. */
static void apply_rules(const configuration *chosen, da_attention_config *config) {
    da_preset preset;
    if (chosen->preset != NULL && da_preset_from_name(chosen->preset, &preset) == DA_OK) {
        da_attention_config_set_preset(config, preset);
    }
    if (chosen->mixing != NULL) {
        da_mixing_from_name(chosen->mixing, &config->mixing);
    }
    if (chosen->offset_rule != NULL) {
        da_offset_rule_from_name(chosen->offset_rule, &config->offset_rule);
    }
    if (chosen->tail_rule != NULL) {
        da_tail_rule_from_name(chosen->tail_rule, &config->tail_rule);
    }
    if (chosen->overlap != NULL) {
        da_overlap_from_name(chosen->overlap, &config->overlap);
    }
    if (chosen->partition != NULL) {
        da_partition_from_name(chosen->partition, &config->partition);
    }
    if (chosen->dtype != NULL) {
        da_dtype_from_name(chosen->dtype, &config->dtype);
    }
}

const char *configuration_sparse_option(const configuration *chosen) {
    const struct {
        const char *name;
        bool given;
    } options[] = {
        {"--sparse-pattern", chosen->sparse_pattern != NULL}, {"--sparsity-ratio", chosen->sparsity_ratio.is_set},
        {"--block-size", chosen->block_size.is_set},          {"--quality-target", chosen->quality_target.is_set},
        {"--global-blocks", chosen->global_blocks.is_set},    {"--sparse-seed", chosen->sparse_seed.is_set}};
    for (size_t i = 0; i < CLI_COUNT(options); i++) {
        if (options[i].given) {
            return options[i].name;
        }
    }
    return NULL;
}

static void apply_sparse(const configuration *chosen, da_attention_config *config) {
    if (chosen->sparse_pattern != NULL) {
        da_sparse_pattern_from_name(chosen->sparse_pattern, &config->sparse_pattern);
    }
    if (chosen->sparsity_ratio.is_set) {
        config->sparsity_ratio = chosen->sparsity_ratio.value;
    }
    if (chosen->quality_target.is_set) {
        config->quality_target = chosen->quality_target.value;
    }
    if (chosen->block_size.is_set) {
        config->block_size = chosen->block_size.value;
    }
    if (chosen->global_blocks.is_set) {
        config->global_blocks = chosen->global_blocks.value;
    }
    if (chosen->sparse_seed.is_set) {
        config->sparse_seed = (uint64_t)chosen->sparse_seed.value;
    }
}

int configuration_finish(const configuration *chosen, const char *command, da_attention_config *config) {
    if (chosen->segments.count == 0) {
        return cli_usage(command, "--segments: missing; give the segment lengths, such as 2048,4096,8192");
    }
    if (chosen->rates.count == 0) {
        return cli_usage(command, "--rates: missing; give one dilation rate per segment length, such as 1,2,4");
    }
    da_attention_config_init(config);
    da_status status = da_attention_config_set_patterns(config, chosen->segments.values, chosen->segments.count,
                                                        chosen->rates.values, chosen->rates.count);
    if (status != DA_OK) {
        return cli_usage(command, "--segments, --rates: %s", da_last_error_message());
    }
    apply_rules(chosen, config);
    apply_sparse(chosen, config);
    config->causal = chosen->causal;
    config->window = chosen->window_is_set ? chosen->window : DA_NO_WINDOW;
    config->scale_is_set = chosen->scale.is_set;
    config->scale = chosen->scale.value;
    if (chosen->split != NULL) {
        da_split_from_name(chosen->split, &config->split);
    }
    config->stripe = chosen->stripe;
    status = da_attention_config_validate(config);
    return status == DA_OK ? CLI_CONTINUE : cli_refused(command, status);
}
