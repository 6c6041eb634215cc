/* A rank of a test over MPI:  mpirun -n P mpi_rank WHAT...  WHAT is the name of a check of checks.c, or one of those below. Each
 * rank writes one line per WHAT: "rank R: WHAT: passed", or what is wrong. test_mpi.py starts it and reads that. */
#define _POSIX_C_SOURCE 200809L

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/checks.h"
#include "comm/clock.h"
#include "dilated_attention_mpi.h"

static char text[2048];

/* All ranks agree again and again, until one of them is no longer there. */
static const char *until_it_fails(const da_comm *comm, double longest) {
    double begin = da_seconds(), last = begin;
    while (da_comm_agree(comm, NULL, "same", 4, "a word") == DA_OK) {
        last = da_seconds();
    }
    double waited = da_seconds() - last;
    bool bounded = waited < longest;
    snprintf(text, sizeof text, "after %.3f s: %s", waited, da_last_error_message());
    da_comm_abandon(comm);
    return bounded ? NULL : text;
}

/* The last rank is killed in the middle of things. */
static const char *killed(const da_comm *comm) {
    if (comm->rank == comm->ranks - 1) {
        for (int k = 0; k < 20; k++) {
            if (da_comm_agree(comm, NULL, "same", 4, "a word") != DA_OK) {
                return da_last_error_message();
            }
        }
        raise(SIGKILL);
    }
    return until_it_fails(comm, comm->timeout + 3);
}

/* The last rank is there and sends nothing any more. */
static const char *silent(const da_comm *comm) {
    if (comm->rank == comm->ranks - 1) {
        for (double end = da_seconds() + comm->timeout + 2; da_seconds() < end;) {
            nanosleep(&(struct timespec){0, 100000000}, NULL);
        }
        return NULL;
    }
    return until_it_fails(comm, comm->timeout + 3);
}

/* The last rank fails for a reason of its own. */
static const char *gives_up(const da_comm *comm) {
    if (comm->rank == comm->ranks - 1) {
        nanosleep(&(struct timespec){0, 100000000}, NULL);
        da_comm_abandon(comm);
        return NULL;
    }
    return until_it_fails(comm, comm->timeout / 2);
}

/* A message of more than 2 GiB. */
static const char *huge(const da_comm *comm) {
    const size_t bytes = ((size_t)1 << 31) + (1 << 20) + 12345;
    da_message message;
    char *data = comm->rank < 2 ? calloc(bytes, 1) : NULL;
    da_status status = DA_OK;
    bool arrived = true;
    if (comm->rank == 0) {
        data[0] = 1;
        data[bytes - 1] = 2;
        status = da_comm_send(comm, data, bytes, 1, 0, "very much", &message);
    } else if (comm->rank == 1) {
        status = da_comm_receive(comm, data, bytes, 0, 0, "very much", &message);
    }
    if (comm->rank < 2) {
        status = status == DA_OK ? da_comm_wait(comm, &message) : status;
        arrived = data[0] == 1 && data[bytes - 1] == 2;
    }
    free(data);
    return status != DA_OK ? da_last_error_message() : arrived ? NULL : "the bytes did not arrive";
}

/* A communicator of two groups: the even ranks and the odd ones. */
static bool intercommunicator_is_refused(int rank, int ranks) {
    MPI_Comm half, inter;
    da_comm comm;
    if (ranks < 2) {
        return true;
    }
    MPI_Comm_split(MPI_COMM_WORLD, rank % 2, rank, &half);
    MPI_Intercomm_create(half, 0, MPI_COMM_WORLD, 1 - rank % 2, 1, &inter);
    bool refused = da_comm_mpi_create(inter, 1, &comm) == DA_ERROR_INVALID_ARGUMENT;
    MPI_Comm_free(&inter);
    MPI_Comm_free(&half);
    return refused && strstr(da_last_error_message(), "communicator is an intercommunicator");
}

/* What da_comm_mpi_create and the functions of its table refuse. */
static const char *refusals(const da_comm *comm) {
    da_comm other;
    da_message message;
    char byte = 0;
    if (da_comm_mpi_create(MPI_COMM_WORLD, 1, NULL) != DA_ERROR_INVALID_ARGUMENT ||
        da_comm_mpi_create(MPI_COMM_NULL, 1, &other) != DA_ERROR_INVALID_ARGUMENT ||
        !strstr(da_last_error_message(), "communicator is MPI_COMM_NULL") ||
        da_comm_mpi_create(MPI_COMM_WORLD, 0, &other) != DA_ERROR_INVALID_ARGUMENT ||
        !strstr(da_last_error_message(), "timeout is 0")) {
        return "a bad argument was not refused";
    }
    if (da_comm_send(comm, &byte, 1, comm->ranks, 0, "a byte", &message) != DA_ERROR_INVALID_ARGUMENT ||
        da_comm_receive(comm, &byte, 1, -1, 0, "a byte", &message) != DA_ERROR_INVALID_ARGUMENT ||
        da_comm_send(comm, &byte, 1, 0, DA_COMM_TAGS, "a byte", &message) != DA_ERROR_INVALID_ARGUMENT ||
        da_comm_receive(comm, &byte, 1, 0, -1, "a byte", &message) != DA_ERROR_INVALID_ARGUMENT) {
        return "a bad rank or tag was not refused";
    }
    return intercommunicator_is_refused(comm->rank, comm->ranks) ? NULL : "an intercommunicator was not refused";
}

static const comm_check more_checks[] = {
    {"refusals", 1, false, refusals}, {"killed", 2, true, killed}, {"silent", 2, true, silent},
    {"gives_up", 2, true, gives_up},  {"huge", 2, false, huge},
};

static const comm_check *find(const char *name) {
    for (size_t k = 0; k < comm_check_count; k++) {
        if (strcmp(comm_checks[k].name, name) == 0) {
            return &comm_checks[k];
        }
    }
    for (size_t k = 0; k < sizeof more_checks / sizeof *more_checks; k++) {
        if (strcmp(more_checks[k].name, name) == 0) {
            return &more_checks[k];
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    da_comm comm;
    int provided, wrong = 0;
    bool last = false;
    if (da_comm_mpi_create(MPI_COMM_WORLD, 1, &comm) != DA_ERROR_INVALID_ARGUMENT) {
        return 3; /* before MPI_Init */
    }
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    const char *timeout = getenv("DA_TEST_TIMEOUT");
    da_status status = da_comm_mpi_create(MPI_COMM_WORLD, timeout ? atof(timeout) : 30, &comm);
    if (status != DA_OK) {
        printf("%s\n", da_last_error_message());
        return 4;
    }
    for (int k = 1; k < argc; k++) {
        const comm_check *check = find(argv[k]);
        if (!check) {
            return 5;
        }
        text[0] = 0;
        const char *failure = check->run(&comm);
        wrong += failure != NULL;
        last |= check->last;
        printf("rank %d: %s: %s%s\n", comm.rank, argv[k], failure ? failure : "passed, ", failure ? "" : text);
        fflush(stdout);
    }
    da_comm_mpi_free(&comm);
    da_comm_mpi_free(&comm);
    da_comm_mpi_free(NULL);
    if (last) {
        _exit(wrong != 0); /* MPI_Finalize might wait for a rank that is gone */
    }
    MPI_Finalize();
    return wrong != 0;
}
