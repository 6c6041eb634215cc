#include "ranks_mpi.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dilated_attention_mpi.h"

/* The longest that MPI's own ending may take. */
enum { SECONDS_TO_END = 20 };

/* Launchers bind ranks to cores of their own, or to none. How many ranks of this machine share a core with this one, at
 * most: all of them where MPI cannot say. */
static int count_sharers(void) {
    enum { BYTES = sizeof(cpu_set_t) };
    MPI_Comm machine;
    int ranks, sharers = 0;
    cpu_set_t mine, both;
    if (MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &machine) != MPI_SUCCESS) {
        MPI_Comm_size(MPI_COMM_WORLD, &ranks);
        return ranks;
    }
    MPI_Comm_size(machine, &ranks);
    if (sched_getaffinity(0, sizeof mine, &mine) != 0) {
        memset(&mine, 0xff, sizeof mine);
    }
    cpu_set_t *all = malloc((size_t)ranks * sizeof *all);
    if (all != NULL) {
        MPI_Allgather(&mine, BYTES, MPI_BYTE, all, BYTES, MPI_BYTE, machine);
    }
    for (int rank = 0; all != NULL && rank < ranks; rank++) {
        CPU_AND(&both, &mine, &all[rank]);
        sharers += CPU_COUNT(&both) > 0;
    }
    free(all);
    MPI_Comm_free(&machine);
    return sharers > 0 ? sharers : ranks;
}

da_status ranks_mpi_open(double timeout, ranks_transport *out) {
    int provided;
    *out = (ranks_transport){0};
    if (MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &provided) != MPI_SUCCESS) {
        return da_report(DA_ERROR_COMMUNICATION, "MPI could not be initialised");
    }
    da_status status = da_comm_mpi_create(MPI_COMM_WORLD, timeout, &out->control);
    if (status == DA_OK) {
        status = da_comm_mpi_create(MPI_COMM_WORLD, timeout, &out->attention);
    }
    out->cores_shared = count_sharers();
    return status;
}

void ranks_mpi_close(ranks_transport *transport, bool together, int code) {
    alarm(SECONDS_TO_END); /* MPI waits for ranks that are gone */
    if (!together) {
        MPI_Abort(MPI_COMM_WORLD, code);
    }
    da_comm_mpi_free(&transport->attention);
    da_comm_mpi_free(&transport->control);
    MPI_Finalize();
    alarm(0);
}
