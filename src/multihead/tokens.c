#include "multihead/tokens.h"

#include "comm/comm.h"
#include "core/memory.h"

da_status da_tokens_of_rank(da_tokens *out, const da_context *context, da_partition partition, int64_t stripe,
                            int64_t rows) {
    const da_comm *comm = da_context_comm(context);
    const da_allocator *allocator = da_context_allocator(context);
    int64_t *lengths = da_allocate(allocator, (size_t)comm->ranks, sizeof *lengths);
    *out = da_tokens_whole(rows);
    if (!lengths) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    da_status status = da_comm_gather(comm, allocator, &rows, sizeof rows, lengths);
    if (status == DA_OK) {
        out->n = 0;
        for (int rank = 0; rank < comm->ranks; rank++) {
            out->n += lengths[rank];
        }
        status = da_layout_create(allocator, partition, stripe, out->n, comm->ranks, lengths, &out->layout);
    }
    if (status == DA_OK) {
        out->part = da_layout_part(out->layout, comm->rank);
    }
    da_release(allocator, lengths);
    return status;
}

void da_tokens_end(da_tokens *tokens) {
    da_layout_free(tokens->layout);
    *tokens = (da_tokens){0};
}
