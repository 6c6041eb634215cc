/* bench over ranks: threads as ranks, whose messages may be slowed down as by a network. */
#ifndef DA_CLI_BENCH_RANKS_H
#define DA_CLI_BENCH_RANKS_H

#include "measure.h"
#include "network.h"

typedef struct ranks_bench {
    const da_attention_config *config;
    da_problem problem; /* of the whole sequence */
    int ranks, threads; /* threads: of each rank */
    da_isa isa;
    const network *network;
    int repeats;
    bool backward;
    double rank_flops[2]; /* of a rank beside the others: forward, backward; 0: to be found by ranks_bench_run */
} ranks_bench;

/* Medians of seconds until the last rank is done. */
typedef struct ranks_row {
    double single;    /* one process with all threads */
    double computing; /* over ranks, messages being copies in memory */
    double limited;   /* over ranks, through the network */
    double predicted; /* the last one, by da_plan_ranks */
    double transfer;  /* seconds of messages, by the same, of the rank that transfers longest */
} ranks_row;

/* Measures one implementation, all three kinds of run by turns. Returns CLI_CONTINUE, or an exit code after a message. */
int ranks_bench_run(ranks_bench *bench, const char *command, const char *implementation, ranks_row *row);

#endif
