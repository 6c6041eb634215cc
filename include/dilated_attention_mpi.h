/* dilated_attention_mpi.h - ranks of dilated_attention.h that are the processes of an MPI program. A library of its own,
 * dilated_attention_mpi, so that the core library needs no MPI.
 *
 *     MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
 *     da_comm comm;
 *     if (da_comm_mpi_create(MPI_COMM_WORLD, 60, &comm) != DA_OK) { puts(da_last_error_message()); MPI_Abort(MPI_COMM_WORLD, 1); }
 *     options.comm = &comm;                              // of da_context_create
 *     ...
 *     da_context_free(context);
 *     da_comm_mpi_free(&comm);
 *     MPI_Finalize();
 *
 * The library calls MPI from the thread that called the library, and from no other: MPI_THREAD_FUNNELED is enough if that is
 * the thread that initialised MPI.
 *
 * After DA_ERROR_COMMUNICATION a rank may be gone, and MPI_Finalize, like every call that all ranks make together, may wait
 * for it for ever: end such a program by MPI_Abort.
 */
#ifndef DILATED_ATTENTION_MPI_H
#define DILATED_ATTENTION_MPI_H

#include <mpi.h>

#include "dilated_attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Makes the da_comm of this process in `communicator`, which all its processes call together. The communicator is
 * duplicated, so that no message meets one of the program's own; MPI's errors on the duplicate are returned, as
 * DA_ERROR_COMMUNICATION, and do not end the program. Messages may be longer than 2 GiB. timeout: seconds that a rank waits
 * for another before it gives up. A rank that gives up sends word to all others. Free it by da_comm_mpi_free, before
 * MPI_Finalize.
 * Errors: DA_ERROR_INVALID_ARGUMENT (out; timeout; communicator is MPI_COMM_NULL or an intercommunicator; MPI is not
 * initialised, or finalised), DA_ERROR_COMMUNICATION (MPI could not), DA_ERROR_OUT_OF_MEMORY. */
DA_API da_status da_comm_mpi_create(MPI_Comm communicator, double timeout, da_comm *out);

/* Frees what da_comm_mpi_create made, with no context using it any more, and leaves what da_comm_init leaves; NULL is
 * allowed. All ranks call it; but after an error the duplicate is left to the end of the process, and nobody is waited for. */
DA_API void da_comm_mpi_free(da_comm *comm);

#ifdef __cplusplus
}
#endif

#endif
