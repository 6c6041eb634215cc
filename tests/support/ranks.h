/* Threads as ranks. */
#ifndef DA_TESTS_RANKS_H
#define DA_TESTS_RANKS_H

#include "dilated_attention.h"

/* Calls body(comm, user) once for every rank of a group, each on a thread of its own, and returns when all have returned.
 * cmocka's assertions belong to the main thread: what a rank finds, it keeps. False: group or threads could not be made. */
bool ranks_run(int ranks, double timeout, const da_allocator *allocator, void (*body)(const da_comm *comm, void *user),
               void *user);

/* The two below are for tests that also run as processes of an MPI program (tests/mpi/ranks_mpi.c), where ranks_run calls
 * `body` in each process for the rank that this is. */

/* Number of ranks that there are; 0: as many as one likes. */
int ranks_given(void);

/* Gives all ranks what one of them has. Threads of a process have it. */
void ranks_share(int rank, void *bytes, size_t count);

#endif
