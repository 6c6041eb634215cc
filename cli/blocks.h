/* `run` by blocks: how large they are, what of mapped files stays resident, and where a run can be stopped and resumed. */
#ifndef DA_CLI_BLOCKS_H
#define DA_CLI_BLOCKS_H

#include "partial.h"

#define BLOCKS_OPTION_COUNT 3

typedef struct blocks_wish {
    int64_t block;  /* 0: not given */
    int64_t memory; /* bytes; 0: not given */
    bool resume;
} blocks_wish;

void blocks_options(blocks_wish *wish, cli_option table[BLOCKS_OPTION_COUNT]);

static inline bool blocks_are_wished(const blocks_wish *wish) {
    return wish->block > 0 || wish->memory > 0 || wish->resume;
}

/* A run by blocks. */
typedef struct blocks {
    const char *command;
    const da_attention_config *config;
    const da_context *context;
    const da_problem *problem;
    const da_attention *attention;
    loaded_tensor *q, *k, *v;
    const loaded_mask *mask;
    results *written;
    partial state;
    int64_t resumed_from; /* tokens that were finished before */
    size_t workspace;     /* beyond inputs and outputs */
} blocks;

/* Sets *block to the tokens of a block: as wished, or as many as fit into the memory. Returns CLI_CONTINUE, or an exit code
 * after a message. */
int blocks_choose(const blocks *b, const blocks_wish *wish, bool has_lse, int64_t *block);

/* A run is resumed with the blocks that it had: refuses where something else is wished, or the memory too small. */
int blocks_check_resumed(const blocks *b, const blocks_wish *wish, bool has_lse);

/* Computes block after block, from where the state says; `forward` has all options but those of blocks, and its progress
 * is that of one call. Returns CLI_CONTINUE when all is finished. Where the run stops before, the state says how far it is. */
int blocks_run(blocks *b, da_call_options *forward);

#endif
