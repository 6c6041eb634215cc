/* A rank of a module with divided parameters:  mpirun -n P sharded_rank PASS SHARE. All ranks compute both passes; then they do so
 * again, and within PASS ("forward" or "backward"), after this share of what it sends, the last rank is killed. The others write one
 * line each, "rank R: PASS: STATUS after SECONDS s: message"; test_sharded.py starts it and reads that. */
#define _POSIX_C_SOURCE 200809L

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/clock.h"
#include "comm/counted.h"
#include "dilated_attention_mpi.h"
#include "multihead/rank_module.h"

static const double TIMEOUT = 1; /* seconds */

static const module_problem PROBLEM = SMALL_SHARDED(1);

/* A da_comm that counts what it sends, and the number at which this process ends. */
static da_counted counted;
static da_status (*send_counted)(const void *data, size_t bytes, int to, int tag, void **request, void *user);
static long sent, deadly = -1;

static da_status send_or_die(const void *data, size_t bytes, int to, int tag, void **request, void *user) {
    if (sent == deadly) {
        raise(SIGKILL);
    }
    sent++;
    return send_counted(data, bytes, to, tag, request, user);
}

/* Returns the messages that the pass sent. */
static long run_pass(rank_module *m, bool backward) {
    long before = sent;
    if (backward) {
        rank_module_backward(m);
    } else {
        rank_module_forward(m);
    }
    return sent - before;
}

/* The module, twice through both passes. */
static void run(const da_comm *comm, bool dies_backward, double share) {
    long messages[2];
    rank_module m;
    rank_module_open(&m, &PROBLEM, comm, NULL);
    for (int pass = 0; pass < 2; pass++) {
        messages[pass] = run_pass(&m, pass == 1);
    }
    da_multihead_saved_free(m.saved);
    m.saved = NULL;
    if (m.status != DA_OK) {
        printf("rank %d: before: %s: %s\n", comm->rank, da_status_name(m.status), da_last_error_message());
        fflush(stdout);
        _exit(1);
    }
    double begin = da_seconds();
    for (int pass = 0; pass < 2 && m.status == DA_OK; pass++) {
        bool is_deadly = comm->rank == comm->ranks - 1 && (pass == 1) == dies_backward;
        deadly = is_deadly ? sent + (long)(share * (double)messages[pass]) : -1;
        run_pass(&m, pass == 1);
    }
    printf("rank %d: %s: %s after %.2f s: %s\n", comm->rank, dies_backward ? "backward" : "forward",
           da_status_name(m.status), da_seconds() - begin, da_last_error_message());
    fflush(stdout);
    _exit(1); /* MPI_Finalize might wait for a rank that is gone */
}

int main(int argc, char **argv) {
    da_comm comm, ours;
    int provided;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    if (argc != 3 || da_comm_mpi_create(MPI_COMM_WORLD, TIMEOUT, &comm) != DA_OK) {
        return 3;
    }
    da_count_messages(&counted, &comm, &ours);
    send_counted = ours.send;
    ours.send = send_or_die;
    run(&ours, strcmp(argv[1], "backward") == 0, strtod(argv[2], NULL));
}
