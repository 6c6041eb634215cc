#include "ranks.h"

#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"
#include "core/memory.h"

#define MODULE "dilated-attention-mpi.so"

enum { TAG_BROADCAST = 0 };

/* ---- before MPI -------------------------------------------------------------------------------------------------- */

/* A number of the environment; -1: it is not there. */
static int environment_number(const char *name) {
    const char *text = getenv(name);
    return text != NULL && text[0] >= '0' && text[0] <= '9' ? atoi(text) : -1;
}

/* Number of processes that were launched, and which this is. PMIx does not say how many there are: MPI will. */
static int find_launcher(int *rank) {
    static const char *const launchers[][2] = {{"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"},
                                               {"PMI_SIZE", "PMI_RANK"}};
    for (size_t i = 0; i < CLI_COUNT(launchers); i++) {
        int size = environment_number(launchers[i][0]);
        *rank = environment_number(launchers[i][1]);
        if (size >= 1 && *rank >= 0) {
            return size;
        }
    }
    *rank = environment_number("PMIX_RANK");
    return *rank >= 0 && getenv("PMIX_NAMESPACE") != NULL ? INT32_MAX : 1;
}

void ranks_begin(cli_ranks *ranks, const char *command) {
    *ranks = (cli_ranks){.command = command, .ranks = 1};
    int rank = 0;
    ranks->launched = find_launcher(&rank);
    if (ranks->launched == 1) {
        return;
    }
    ranks->rank = rank;
    cli_keep_problems(ranks->mine.problem, sizeof(ranks->mine.problem));
    if (rank != 0 && freopen("/dev/null", "w", stdout) == NULL) {
        cli_fail(command, "/dev/null cannot be opened");
    }
}

/* ---- what went wrong --------------------------------------------------------------------------------------------- */

static bool is_told(const ranks_word *word, bool causes_only) {
    return word->code != CLI_CONTINUE && word->problem[0] != '\0' && !(causes_only && word->consequence);
}

/* The library's messages about messages begin so themselves. */
static bool names_rank(const char *problem) {
    return strncmp(problem, "rank ", 5) == 0;
}

/* Prints a message of rank `first` once, with who else has it. */
static void tell(const cli_ranks *ranks, int first, bool causes_only) {
    const ranks_word *words = ranks->words;
    int same = 0;
    for (int rank = 0; rank < ranks->ranks; rank++) {
        if (is_told(&words[rank], causes_only) && strcmp(words[rank].problem, words[first].problem) == 0) {
            if (rank < first) {
                return;
            }
            same++;
        }
    }
    if (same == ranks->ranks || names_rank(words[first].problem)) {
        cli_fail(ranks->command, "%s", words[first].problem);
    } else if (same == 1) {
        cli_fail(ranks->command, "rank %d: %s", first, words[first].problem);
    } else {
        cli_fail(ranks->command, "rank %d and %d more: %s", first, same - 1, words[first].problem);
    }
}

static void tell_all(const cli_ranks *ranks) {
    bool causes_only = false;
    for (int rank = 0; rank < ranks->ranks; rank++) {
        causes_only |= ranks->words[rank].code != CLI_CONTINUE && !ranks->words[rank].consequence;
    }
    for (int rank = 0; rank < ranks->ranks; rank++) {
        if (is_told(&ranks->words[rank], causes_only)) {
            tell(ranks, rank, causes_only);
        }
    }
}

/* Without the others: what this rank has to say. */
static int lose(cli_ranks *ranks, int code) {
    ranks->lost = true;
    cli_keep_problems(NULL, 0);
    const char *problem = ranks->mine.problem[0] != '\0' ? ranks->mine.problem : da_last_error_message();
    if (names_rank(problem)) {
        cli_fail(ranks->command, "%s", problem);
    } else {
        cli_fail(ranks->command, "rank %d: %s", ranks->rank, problem);
    }
    return code == CLI_CONTINUE ? CLI_FAILED : code;
}

void ranks_blame(cli_ranks *ranks, da_status status) {
    ranks->mine.consequence = status == DA_ERROR_COMMUNICATION;
    ranks->told = status != DA_OK;
}

int ranks_settle(cli_ranks *ranks, int code) {
    if (!ranks_several(ranks) || ranks->lost) {
        return code;
    }
    if (code != CLI_CONTINUE && !ranks->told) {
        da_comm_abandon(&ranks->transport.attention); /* others may wait there for this rank */
    }
    ranks->mine.code = code;
    ranks->mine.bytes_sent = ranks->counted.bytes + ranks->counted.collective_bytes;
    if (da_comm_gather(&ranks->transport.control, NULL, &ranks->mine, sizeof(ranks->mine), ranks->words) != DA_OK) {
        return lose(ranks, code);
    }
    for (int rank = 0; rank < ranks->ranks; rank++) {
        if (ranks->words[rank].code != CLI_CONTINUE) {
            cli_keep_problems(NULL, 0);
            if (ranks->rank == 0) {
                tell_all(ranks);
            }
            ranks->mine = (ranks_word){0};
            cli_keep_problems(ranks->mine.problem, sizeof(ranks->mine.problem));
            return ranks->words[rank].code;
        }
    }
    return CLI_CONTINUE;
}

/* ---- together ---------------------------------------------------------------------------------------------------- */

/* Loads the module that was built with MPI. */
static ranks_mpi_opener *load_module(cli_ranks *ranks) {
    void *module = dlopen(MODULE, RTLD_NOW | RTLD_GLOBAL); /* global: MPI libraries load modules that need them */
    if (module == NULL) {
        return NULL;
    }
    ranks_mpi_opener *open;
    *(void **)&open = dlsym(module, "ranks_mpi_open");
    *(void **)&ranks->close = dlsym(module, "ranks_mpi_close");
    return ranks->close != NULL ? open : NULL;
}

/* A process that cannot join the others: rank 0 speaks for all, since it is alike with each. */
static int refuse_alone(cli_ranks *ranks, const char *why) {
    cli_keep_problems(NULL, 0);
    return ranks->rank == 0 ? cli_fail(ranks->command, "%s", why) : CLI_FAILED;
}

static int join(cli_ranks *ranks, double timeout) {
    char why[512];
    ranks_mpi_opener *open = load_module(ranks);
    if (open == NULL) {
        const char *reason = dlerror();
        snprintf(why, sizeof(why),
                 "an MPI launcher started this, but ranks over MPI are not there: %s; allowed: one process, or a build "
                 "with MPI",
                 reason != NULL ? reason : MODULE " lacks a function");
        return refuse_alone(ranks, why);
    }
    if (open(timeout, &ranks->transport) != DA_OK) {
        return refuse_alone(ranks, da_last_error_message());
    }
    const da_comm *comm = &ranks->transport.control;
    if (ranks->launched != INT32_MAX && comm->ranks != ranks->launched) {
        snprintf(
            why, sizeof(why),
            "%d processes were launched, but MPI knows of %d; allowed: the launcher of the MPI that this was built "
            "with",
            ranks->launched, comm->ranks);
        return refuse_alone(ranks, why);
    }
    ranks->rank = comm->rank;
    ranks->ranks = comm->ranks;
    ranks->words = da_allocate(NULL, (size_t)comm->ranks, sizeof(*ranks->words));
    if (ranks->words == NULL) {
        return lose(ranks, CLI_FAILED);
    }
    da_count_messages(&ranks->counted, &ranks->transport.attention, &ranks->counting);
    ranks->comm = ranks_several(ranks) ? &ranks->counting : NULL;
    return CLI_CONTINUE;
}

int ranks_open(cli_ranks *ranks, double timeout, int code) {
    if (ranks->launched == 1) {
        return code;
    }
    int joined = join(ranks, timeout);
    return joined == CLI_CONTINUE ? ranks_settle(ranks, code) : joined;
}

int ranks_agree(cli_ranks *ranks, const void *bytes, size_t count, const char *what) {
    if (!ranks_several(ranks)) {
        return CLI_CONTINUE;
    }
    da_status status = da_comm_agree(&ranks->transport.control, NULL, bytes, count, what);
    return ranks_settle(ranks,
                        status == DA_OK ? CLI_CONTINUE : cli_fail(ranks->command, "%s", da_last_error_message()));
}

int ranks_broadcast(cli_ranks *ranks, void *bytes, size_t count) {
    const da_comm *comm = &ranks->transport.control;
    da_status status = DA_OK;
    da_message message;
    for (int rank = 1; ranks_several(ranks) && rank < ranks->ranks && status == DA_OK; rank++) {
        if (ranks->rank == 0) {
            status = da_comm_send(comm, bytes, count, rank, TAG_BROADCAST, "where the output is", &message);
        } else if (ranks->rank == rank) {
            status = da_comm_receive(comm, bytes, count, 0, TAG_BROADCAST, "where the output is", &message);
        } else {
            continue;
        }
        if (status == DA_OK) {
            status = da_comm_wait_all(comm, &message, 1, NULL);
        }
    }
    return status == DA_OK ? CLI_CONTINUE : lose(ranks, CLI_FAILED);
}

int ranks_divide(cli_ranks *ranks, const da_attention_config *config, int64_t n) {
    if (!ranks_several(ranks)) {
        return CLI_CONTINUE;
    }
    da_status status = da_layout_create(NULL, config->partition, config->stripe, n, ranks->ranks, NULL, &ranks->layout);
    if (status != DA_OK) {
        return cli_refused(ranks->command, status);
    }
    ranks->part = da_layout_part(ranks->layout, ranks->rank);
    return CLI_CONTINUE;
}

int64_t ranks_threads(const cli_ranks *ranks) {
    da_hardware hardware;
    da_hardware_init(&hardware);
    if (!ranks_several(ranks) || da_hardware_detect(&hardware) != DA_OK) {
        return 0;
    }
    int threads = hardware.cores / ranks->transport.cores_shared;
    return threads > 1 ? threads : 1;
}

int ranks_close(cli_ranks *ranks, int code) {
    if (ranks_several(ranks)) {
        int settled = ranks_settle(ranks, code == CLI_OK ? CLI_CONTINUE : code);
        code = settled == CLI_CONTINUE ? CLI_OK : settled;
    }
    if (ranks->close != NULL) {
        ranks->close(&ranks->transport, !ranks->lost, code);
    }
    cli_keep_problems(NULL, 0);
    da_layout_free(ranks->layout);
    da_release(NULL, ranks->words);
    return code;
}
