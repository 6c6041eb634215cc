/* A program outside the project whose processes are ranks: the last sends its number to the first. */
#include <dilated_attention_mpi.h>
#include <stdbool.h>
#include <stdio.h>

static int failed(const char *call) {
    fprintf(stderr, "%s: %s\n", call, da_last_error_message());
    return 1;
}

int main(int argc, char **argv) {
    int provided, number;
    da_comm comm;
    da_context *context;
    da_context_options options;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    if (da_comm_mpi_create(MPI_COMM_WORLD, 30, &comm) != DA_OK) {
        return failed("da_comm_mpi_create");
    }
    da_context_options_init(&options);
    options.comm = &comm;
    if (da_context_create(&options, &context) != DA_OK) {
        return failed("da_context_create");
    }
    number = comm.rank;
    if (comm.rank == 0 || comm.rank == comm.ranks - 1) {
        void *request;
        bool ended = false;
        da_status status = comm.rank == 0 ? comm.receive(&number, sizeof number, comm.ranks - 1, 0, &request, comm.user)
                                          : comm.send(&number, sizeof number, 0, 0, &request, comm.user);
        if (status != DA_OK || comm.wait(request, comm.timeout, &ended, comm.user) != DA_OK || !ended) {
            return failed("da_comm");
        }
    }
    if (comm.rank == 0) {
        printf("%s %d %d\n", da_version(), da_context_comm(context)->ranks, number);
    }
    da_context_free(context);
    da_comm_mpi_free(&comm);
    MPI_Finalize();
    return 0;
}
