/* Several processes that an MPI launcher has started as one `dilated-attention`: ranks. They meet after each step, so that
 * all go on or none does; rank 0 alone prints, and says what others could not do.
 *
 *     cli_ranks ranks;
 *     ranks_begin(&ranks, "run");                            // before the first message
 *     code = ranks_open(&ranks, timeout, cli_parse(...));
 *     code = ranks_settle(&ranks, code);                     // after each step that may fail on one rank alone
 *     return ranks_close(&ranks, code);
 *
 * In a process that was not launched so, there is one rank, and nothing of this happens. */
#ifndef DA_CLI_RANKS_H
#define DA_CLI_RANKS_H

#include "comm/counted.h"
#include "options.h"
#include "pattern/layout.h"
#include "ranks_mpi.h"

#define RANKS_TIMEOUT 600 /* seconds, by default */

/* What a rank tells the others when they meet. */
typedef struct ranks_word {
    int32_t code;        /* CLI_CONTINUE, or an exit code */
    int32_t consequence; /* it failed only because another did */
    int64_t bytes_sent;
    double seconds; /* that it has computed */
    char problem[1024];
} ranks_word;

typedef struct cli_ranks {
    const char *command;
    int rank, ranks;     /* 0, 1: alone */
    const da_comm *comm; /* for the context; NULL: alone */
    da_layout *layout;   /* after ranks_divide */
    const da_part *part; /* this rank's; NULL: all */
    ranks_word mine, *words;
    bool told; /* the library has told the others that a call failed, or it failed on all of them */
    bool lost; /* a rank is gone: there will be no meeting any more */
    int launched;
    da_comm counting;
    da_counted counted;
    ranks_transport transport;
    ranks_mpi_closer *close;
} cli_ranks;

/* Looks whether a launcher has started several processes (by the environment of Open MPI, of MPICH, Intel MPI and others
 * with PMI, of PMIx, Slurm's too); if so, messages are kept from now on, and rank 0 alone has a standard output. */
void ranks_begin(cli_ranks *ranks, const char *command);

/* Joins them. `code` is what parsing the command line came to. Returns the code of all ranks. */
int ranks_open(cli_ranks *ranks, double timeout, int code);

/* Collective: if all have CLI_CONTINUE, so does this return. Otherwise rank 0 prints what went wrong, each message once,
 * and all get the code of the first rank that failed. A rank that does not come in time is one that failed. */
int ranks_settle(cli_ranks *ranks, int code);

/* This rank failed because another one did, if `status` says so. */
void ranks_blame(cli_ranks *ranks, da_status status);

/* Collective: all ranks must give the same bytes; `what` says of what. */
int ranks_agree(cli_ranks *ranks, const void *bytes, size_t count, const char *what);

/* Collective: rank 0's bytes to all. */
int ranks_broadcast(cli_ranks *ranks, void *bytes, size_t count);

/* Says which of n tokens each rank holds. */
int ranks_divide(cli_ranks *ranks, const da_attention_config *config, int64_t n);

/* Threads of this rank, where the user gave no number: its cores, shared with the ranks beside it. 0: alone. */
int64_t ranks_threads(const cli_ranks *ranks);

/* Settles once more, and ends MPI. Returns the exit code. */
int ranks_close(cli_ranks *ranks, int code);

static inline bool ranks_several(const cli_ranks *ranks) {
    return ranks->ranks > 1;
}

#endif
