#include "multihead/tokens.h"

#include <inttypes.h>

#include "comm/comm.h"
#include "core/memory.h"

/* All but contiguous parts have the lengths that the partition gives them. */
static da_status check_lengths(const da_tokens *tokens, const int64_t *lengths) {
    for (int rank = 0; rank < tokens->ranks && tokens->partition != DA_PARTITION_CONTIGUOUS; rank++) {
        int64_t allowed;
        da_status status =
            da_partition_length(tokens->partition, tokens->stripe, tokens->n, tokens->ranks, rank, &allowed);
        if (status != DA_OK) {
            return status;
        }
        if (lengths[rank] != allowed) {
            return da_report(DA_ERROR_INVALID_ARGUMENT,
                             "query.shape[1] of rank %d is %" PRId64 "; allowed: %" PRId64 ", its part of %" PRId64
                             " tokens over %d ranks with the partition %s",
                             rank, lengths[rank], allowed, tokens->n, tokens->ranks,
                             da_partition_name(tokens->partition));
        }
    }
    return DA_OK;
}

da_status da_tokens_of_rank(da_tokens *out, const da_context *context, da_partition partition, int64_t stripe,
                            int64_t rows) {
    const da_comm *comm = da_context_comm(context);
    const da_allocator *allocator = da_context_allocator(context);
    int64_t *lengths = da_allocate(allocator, (size_t)comm->ranks, sizeof *lengths);
    *out =
        (da_tokens){.rows = rows, .partition = partition, .stripe = stripe, .rank = comm->rank, .ranks = comm->ranks};
    if (!lengths) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    da_status status = da_comm_gather(comm, allocator, &rows, sizeof rows, lengths);
    for (int rank = 0; status == DA_OK && rank < comm->ranks; rank++) {
        out->first += rank < comm->rank ? lengths[rank] : 0;
        out->n += lengths[rank];
    }
    if (status == DA_OK) {
        status = check_lengths(out, lengths);
    }
    da_release(allocator, lengths);
    return status;
}

int64_t da_tokens_position(const da_tokens *tokens, int64_t row) {
    int64_t i = row % tokens->rows, position = tokens->first + i;
    if (tokens->partition != DA_PARTITION_CONTIGUOUS) {
        da_partition_position(tokens->partition, tokens->stripe, tokens->n, tokens->ranks, tokens->rank, i, &position);
    }
    return position;
}
