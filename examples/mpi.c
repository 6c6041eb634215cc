/* Attention over ranks:  mpirun -n 4 build/bin/mpi
 *
 * Each rank makes its own part of a sequence of 200,003 tokens (nobody has all of it), and gets its part of the output. */
#include "dilated_attention_mpi.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 1, N = 200003, HEADS = 2, HEAD_DIM = 32, ROW = HEADS * HEAD_DIM };

/* Numbers in -0.5..0.5 that depend on the token and not on who makes it. */
static void make_rows(float *rows, int64_t first, int64_t count, uint32_t which) {
    for (int64_t i = 0; i < count; i++) {
        uint32_t seed = (uint32_t)(first + i) * 2654435761u + which;
        for (int c = 0; c < ROW; c++) {
            seed = seed * 1664525u + 1013904223u;
            rows[i * ROW + c] = (float)(seed >> 8) / 16777216.0f - 0.5f;
        }
    }
}

static da_status attend(const da_context *context, float *parts[4], int64_t rows) {
    da_attention *attention;
    da_attention_config config;
    da_tensor views[4];
    da_attention_config_init(&config);
    config.sequence_length = N; /* of all ranks; "auto" takes ring for more than 100,000 tokens */
    da_attention_config_set_patterns(&config, (int64_t[]){2048, 16384, 131072}, 3, (int64_t[]){1, 8, 64}, 3);
    da_status status = da_attention_create(context, "auto", &config, &attention);
    if (status != DA_OK) {
        return status;
    }
    for (int k = 0; k < 4; k++) {
        views[k] = da_tensor_make(parts[k], DA_F32, BATCH, rows, HEADS, HEAD_DIM);
    }
    status = da_attention_forward(attention, &views[0], &views[1], &views[2], &views[3], NULL, NULL);
    da_attention_free(attention);
    return status;
}

/* This rank's part, from its first token on. */
static da_status run(const da_comm *comm) {
    int64_t rows, first = 0;
    da_context *context;
    da_context_options options;
    da_partition_length(DA_PARTITION_CONTIGUOUS, 0, N, comm->ranks, comm->rank, &rows);
    if (rows > 0) {
        da_partition_position(DA_PARTITION_CONTIGUOUS, 0, N, comm->ranks, comm->rank, 0, &first);
    }
    float *memory = malloc(4 * (size_t)(rows + 1) * ROW * sizeof(float)), *parts[4];
    if (!memory) {
        return da_report(DA_ERROR_OUT_OF_MEMORY, "no memory for %" PRId64 " tokens", rows);
    }
    for (int k = 0; k < 4; k++) {
        parts[k] = memory + (size_t)k * (size_t)rows * ROW;
        make_rows(parts[k], first, k < 3 ? rows : 0, (uint32_t)k);
    }
    da_context_options_init(&options);
    options.comm = comm;
    da_status status = da_context_create(&options, &context);
    if (status == DA_OK) {
        status = attend(context, parts, rows);
        da_context_free(context);
    }
    if (status == DA_OK) {
        printf("rank %d: tokens %" PRId64 " to %" PRId64 ", out[0] of the first %g\n", comm->rank, first,
               first + rows - 1, (double)parts[3][0]);
    }
    free(memory);
    return status;
}

int main(int argc, char **argv) {
    int threading;
    da_comm comm;
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &threading);
    da_status status = da_comm_mpi_create(MPI_COMM_WORLD, 60, &comm);
    if (status == DA_OK) {
        status = run(&comm);
    }
    if (status != DA_OK) {
        fprintf(stderr, "%s: %s\n", da_status_name(status), da_last_error_message());
        MPI_Abort(MPI_COMM_WORLD, 1);
    }
    da_comm_mpi_free(&comm);
    MPI_Finalize();
    return 0;
}
