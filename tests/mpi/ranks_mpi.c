/* support/ranks.h where ranks are the processes of an MPI program: each process runs the whole test, and all make the same
 * calls. MPI is initialised by the first call and finalised when the program exits; rank 0 alone has a standard output. */
#include "support/ranks.h"

#include <stdio.h>
#include <stdlib.h>

#include "dilated_attention_mpi.h"

static da_comm comm;
static bool initialised;

static void finish(void) {
    da_comm_mpi_free(&comm);
    MPI_Finalize();
}

static void begin(double timeout) {
    int provided;
    if (initialised) {
        return;
    }
    initialised = true;
    MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided);
    if (da_comm_mpi_create(MPI_COMM_WORLD, timeout, &comm) != DA_OK) {
        fprintf(stderr, "%s\n", da_last_error_message());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    atexit(finish);
    if (comm.rank != 0 && !freopen("/dev/null", "w", stdout)) {
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
}

static const double TIMEOUT = 60; /* seconds */

int ranks_given(void) {
    begin(TIMEOUT);
    return comm.ranks;
}

bool ranks_run(int ranks, double timeout, const da_allocator *allocator, void (*body)(const da_comm *comm, void *user),
               void *user) {
    begin(TIMEOUT);
    if (ranks != comm.ranks) {
        return false;
    }
    body(&comm, user);
    return true;
}

void ranks_share(int rank, void *bytes, size_t count) {
    MPI_Bcast(bytes, (int)count, MPI_BYTE, rank, MPI_COMM_WORLD);
}
