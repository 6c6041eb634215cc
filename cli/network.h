/* The options that describe a network between ranks. */
#ifndef DA_CLI_NETWORK_H
#define DA_CLI_NETWORK_H

#include "options.h"

#define NETWORK_OPTION_COUNT 3

typedef struct network {
    cli_number bandwidth, latency, overhead; /* bytes a second; seconds */
} network;

void network_options(network *chosen, cli_option table[NETWORK_OPTION_COUNT]);

/* Puts what was given into place of the library's defaults. */
void network_apply(const network *chosen, da_ranks_options *options);

/* Reads a number at least 0 that a unit's prefix may follow into a cli_number: 25G, 5u. */
cli_reader cli_read_prefixed;

#endif
