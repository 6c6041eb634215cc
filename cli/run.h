/* What the parts of `run` share: its options, and all that a run holds. */
#ifndef DA_CLI_RUN_H
#define DA_CLI_RUN_H

#include "blocks.h"
#include "configuration.h"
#include "machine.h"
#include "planning.h"
#include "ranks.h"
#include "results.h"
#include "sparse.h"
#include "tensors.h"

#define RUN "run" /* the command, in messages */

typedef struct run_options {
    configuration configuration;
    sparse_files sparse;
    machine machine;
    network network;
    planning planning;
    blocks_wish blocks;
    const char *q, *k, *v, *out, *lse, *key_mask, *implementation;
    axis_order order;
    cli_list lengths;
    cli_number comm_timeout;
    bool json, quiet;
} run_options;

/* All that a run holds, so that one function can let go of it. */
typedef struct run_state {
    cli_ranks *ranks;
    da_attention_config config;
    da_context *context;
    da_attention *attention;
    loaded_tensor q, k, v;
    loaded_mask mask;
    results written;
    blocks blocks; /* of a run by blocks; no block: it has none */
    da_problem problem;
    char reason[512]; /* of the choice; "" if the user chose */
    double seconds;
    da_sparse_report sparse; /* of block_sparse */
    size_t workspace;
} run_state;

/* Checks the paths alone, before anything is opened. */
int run_check_paths(const run_options *options);

/* Opens the inputs, checks them against each other, and takes this rank's rows of them. */
int run_load(const run_options *options, run_state *state);

/* Computes the attention into files that appear under their names when all is done. */
int run_into_files(const run_options *options, run_state *state);

/* What was done, as JSON or as text. */
int run_report(const run_options *options, run_state *state);

#endif
