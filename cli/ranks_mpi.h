/* What the command line needs of MPI. It is a module of its own, which is loaded only when an MPI launcher has started the
 * program: so that everybody else needs no MPI. */
#ifndef DA_CLI_RANKS_MPI_H
#define DA_CLI_RANKS_MPI_H

#include "dilated_attention.h"

typedef struct ranks_transport {
    da_comm attention; /* what the library sends */
    da_comm control;   /* what the command says besides, whatever has become of the other */
    int cores_shared;  /* ranks, this one among them, that may run on this rank's cores */
} ranks_transport;

/* Initialises MPI and joins all processes that were launched. Collective. Errors: those of da_comm_mpi_create. */
DA_API da_status ranks_mpi_open(double timeout, ranks_transport *out);

/* together: all ranks call it, and MPI ends as it should. Otherwise a rank may be gone, and all others are ended with this
 * exit code. */
DA_API void ranks_mpi_close(ranks_transport *transport, bool together, int code);

typedef da_status ranks_mpi_opener(double timeout, ranks_transport *out);
typedef void ranks_mpi_closer(ranks_transport *transport, bool together, int code);

#endif
