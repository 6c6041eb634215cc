/* The options that make up an attention configuration, the same for every command that takes one.
 *
 *     configuration chosen = {0};
 *     cli_option shared[CONFIGURATION_OPTION_COUNT];
 *     configuration_options(&chosen, shared);
 *     ... put {"Configuration", shared, CLI_COUNT(shared)} among the command's groups, and after cli_parse():
 *     da_attention_config config;
 *     int code = configuration_finish(&chosen, "show", &config);
 *     if (code != CLI_CONTINUE) return code;
 */
#ifndef DA_CLI_CONFIGURATION_H
#define DA_CLI_CONFIGURATION_H

#include "options.h"

#define CONFIGURATION_OPTION_COUNT 20

/* An integer that may not have been given. */
typedef struct cli_count {
    bool is_set;
    int64_t value;
} cli_count;

/* What the user gave. Names are kept as text until all options are read, so that an explicit rule overrides the preset
 * whatever their order; NULL: not given. */
typedef struct configuration {
    cli_list segments, rates;
    const char *preset, *mixing, *offset_rule, *tail_rule, *overlap, *dtype, *partition, *split;
    bool causal;
    int64_t window; /* read only if window_is_set */
    bool window_is_set;
    cli_number scale;
    int64_t stripe;
    /* of block_sparse */
    const char *sparse_pattern;
    cli_number sparsity_ratio, quality_target;
    cli_count block_size, global_blocks, sparse_seed;
} configuration;

/* Writes the table of shared options, whose targets lie in `chosen`. */
void configuration_options(configuration *chosen, cli_option table[CONFIGURATION_OPTION_COUNT]);

/* The first of the options of block_sparse that was given, as "--name"; NULL: none was. */
const char *configuration_sparse_option(const configuration *chosen);

/* Takes these patterns if neither --segments nor --rates was given. Between parsing and configuration_finish. */
void configuration_default_patterns(configuration *chosen, const int64_t *segments, const int64_t *rates, size_t count);

/* Turns what was given into a validated configuration; config->dtype is DA_DTYPE_ANY without --dtype. Returns
 * CLI_CONTINUE, or CLI_USAGE after a message. */
int configuration_finish(const configuration *chosen, const char *command, da_attention_config *config);

#endif
