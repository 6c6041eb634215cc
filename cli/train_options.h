/* What `train` is told. */
#ifndef DA_CLI_TRAIN_OPTIONS_H
#define DA_CLI_TRAIN_OPTIONS_H

#include "configuration.h"
#include "dilated_attention_nn.h"
#include "machine.h"

typedef struct train_options {
    configuration configuration;
    machine machine;
    const char *text, *out, *log, *plot;
    int64_t steps, sequence, batch, seed, warmup, validate_every, checkpoint_every;
    int64_t embed_dim, ffn_dim, layers, heads;
    const char *position, *activation; /* NULL: not given */
    cli_number rate, weight_decay, clip, dropout;
    bool untied, resume, quiet;
} train_options;

/* Everything that a model and its optimiser are made from. */
typedef struct train_configs {
    da_longnet_config model;
    da_multihead_config multihead;
    da_attention_config attention;
    da_adamw_config adamw;
} train_configs;

/* Each returns CLI_CONTINUE, or an exit code after a message. */
int train_options_parse(int argc, char **argv, train_options *options);
int train_options_configs(const train_options *options, train_configs *configs);

#endif
