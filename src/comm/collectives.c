/* What all ranks do together, made of send and receive where the table has nothing better. */
#include <string.h>

#include "comm/comm.h"
#include "core/dtype.h"
#include "core/hash.h"
#include "core/memory.h"

/* ---- gather ------------------------------------------------------------------------------------------------------ */

/* After an error a transport may still touch the memory: it is then never released. */
static void release_if(bool safe, const da_allocator *allocator, void *memory) {
    if (safe) {
        da_release(allocator, memory);
    }
}

/* Sends `bytes` bytes to one rank while as many arrive from another. */
static da_status exchange(const da_comm *comm, const void *out, int to, void *in, int from, size_t bytes,
                          const char *what, bool *safe) {
    da_message messages[2] = {{NULL, what, from, false}, {NULL, what, to, true}};
    da_status status = da_comm_receive(comm, in, bytes, from, DA_TAG_COLLECTIVE, what, &messages[0]);
    if (status == DA_OK) {
        status = da_comm_send(comm, out, bytes, to, DA_TAG_COLLECTIVE, what, &messages[1]);
    }
    if (status != DA_OK) {
        *safe = da_comm_give_up(comm, &messages[0]);
        return status;
    }
    return da_comm_wait_all(comm, messages, 2, safe);
}

/* Bruck et al., "Efficient algorithms for all-to-all communications", 1997: with `have` blocks, from this rank's own on,
 * a rank gets as many more from the rank that lies `have` after it. The number of steps is the logarithm of the ranks'. */
static da_status gather_blocks(const da_comm *comm, char *blocks, size_t bytes, bool *safe) {
    da_status status = DA_OK;
    for (int64_t have = 1; status == DA_OK && have < comm->ranks; have *= 2) {
        int64_t more = have < comm->ranks - have ? have : comm->ranks - have;
        int from = (int)((comm->rank + have) % comm->ranks);
        int to = (int)((comm->rank - have + comm->ranks) % comm->ranks);
        status = exchange(comm, blocks, to, blocks + (size_t)have * bytes, from, (size_t)more * bytes,
                          "what all ranks gather", safe);
    }
    return status;
}

da_status da_comm_gather(const da_comm *comm, const da_allocator *allocator, const void *mine, size_t bytes,
                         void *all) {
    if (comm->gather) {
        return comm->gather(mine, bytes, all, comm->user);
    }
    if (bytes == 0) {
        return DA_OK;
    }
    char *blocks = da_allocate(allocator, (size_t)comm->ranks, bytes);
    if (!blocks) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    bool safe = true;
    memcpy(blocks, mine, bytes);
    da_status status = gather_blocks(comm, blocks, bytes, &safe);
    if (status == DA_OK) {
        /* Block k is that of rank comm->rank + k. */
        size_t before = (size_t)comm->rank * bytes, after = (size_t)comm->ranks * bytes - before;
        memcpy((char *)all + before, blocks, after);
        memcpy(all, blocks + after, before);
    }
    release_if(safe, allocator, blocks);
    return status;
}

/* ---- reduce ------------------------------------------------------------------------------------------------------ */

/* Numbers are summed in slices, one per rank: each rank gets its slice from all others, adds, and all gather the sums.
 * So many numbers are taken at a time, that memory stays small. */
enum { REDUCED_AT_A_TIME = 1 << 20 };

typedef struct reduction {
    const da_comm *comm;
    const da_allocator *allocator;
    da_dtype dtype;
    size_t slice;      /* bytes */
    char *given, *got; /* comm->ranks slices each: this rank's numbers; its slice of every rank's */
    char *sum;         /* one slice */
    da_message *messages;
} reduction;

static da_status share_slices(const reduction *r, bool *safe) {
    const da_comm *comm = r->comm;
    const char *what = "numbers to add";
    da_status status = DA_OK;
    size_t count = 0;
    for (int step = 1; status == DA_OK && step < comm->ranks; step++) {
        int from = (int)(((int64_t)comm->rank - step + comm->ranks) % comm->ranks);
        status = da_comm_receive(comm, r->got + (size_t)from * r->slice, r->slice, from, DA_TAG_COLLECTIVE, what,
                                 &r->messages[count]);
        count += status == DA_OK;
    }
    for (int step = 1; status == DA_OK && step < comm->ranks; step++) {
        int to = (int)(((int64_t)comm->rank + step) % comm->ranks);
        status = da_comm_send(comm, r->given + (size_t)to * r->slice, r->slice, to, DA_TAG_COLLECTIVE, what,
                              &r->messages[count]);
        count += status == DA_OK;
    }
    if (status == DA_OK) {
        return da_comm_wait_all(comm, r->messages, count, safe);
    }
    for (size_t k = 0; k < count; k++) {
        *safe &= da_comm_give_up(comm, &r->messages[k]);
    }
    return status;
}

static void add_slices(const reduction *r) {
    size_t count = r->slice / da_dtype_size(r->dtype);
    for (size_t k = 0; k < count; k++) {
        double sum = 0;
        for (int rank = 0; rank < r->comm->ranks; rank++) {
            const char *slice = r->got + (size_t)rank * r->slice;
            sum += r->dtype == DA_F32 ? (double)((const float *)(const void *)slice)[k]
                                      : ((const double *)(const void *)slice)[k];
        }
        if (r->dtype == DA_F32) {
            ((float *)(void *)r->sum)[k] = (float)sum;
        } else {
            ((double *)(void *)r->sum)[k] = sum;
        }
    }
}

static da_status reduce_some(const reduction *r, char *data, size_t bytes, bool *safe) {
    size_t all = r->slice * (size_t)r->comm->ranks;
    memcpy(r->given, data, bytes);
    memset(r->given + bytes, 0, all - bytes);
    memcpy(r->got + (size_t)r->comm->rank * r->slice, r->given + (size_t)r->comm->rank * r->slice, r->slice);
    da_status status = share_slices(r, safe);
    if (status != DA_OK) {
        return status;
    }
    add_slices(r);
    status = da_comm_gather(r->comm, r->allocator, r->sum, r->slice, r->given);
    if (status == DA_OK) {
        memcpy(data, r->given, bytes);
    }
    return status;
}

da_status da_comm_reduce(const da_comm *comm, const da_allocator *allocator, void *data, int64_t count,
                         da_dtype dtype) {
    if (comm->reduce) {
        return comm->reduce(data, count, dtype, comm->user);
    }
    if (count == 0 || comm->ranks == 1) {
        return DA_OK;
    }
    size_t ranks = (size_t)comm->ranks, size = da_dtype_size(dtype);
    size_t most = count < REDUCED_AT_A_TIME ? (size_t)count : REDUCED_AT_A_TIME;
    size_t slice = (most + ranks - 1) / ranks;
    /* given, got, sum; then the messages, at an address fit for any type since every slice of f64 is, and f32's sizes are
     * rounded up. */
    slice = (slice + 1) / 2 * 2;
    most = slice * ranks;
    char *memory = da_allocate(allocator, (2 * ranks + 1) * slice * size + 2 * ranks * sizeof(da_message), 1);
    if (!memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    reduction r = {
        .comm = comm,
        .allocator = allocator,
        .dtype = dtype,
        .slice = slice * size,
        .given = memory,
        .got = memory + ranks * slice * size,
        .sum = memory + 2 * ranks * slice * size,
        .messages = (da_message *)(void *)(memory + (2 * ranks + 1) * slice * size),
    };
    bool safe = true;
    da_status status = DA_OK;
    for (size_t done = 0; status == DA_OK && done < (size_t)count; done += most) {
        size_t some = (size_t)count - done < most ? (size_t)count - done : most;
        status = reduce_some(&r, (char *)data + done * size, some * size, &safe);
    }
    release_if(safe, allocator, memory);
    return status;
}

/* ---- agree ------------------------------------------------------------------------------------------------------- */

da_status da_comm_agree(const da_comm *comm, const da_allocator *allocator, const void *bytes, size_t count,
                        const char *what) {
    uint64_t hash = da_hash(bytes, count);
    uint64_t *hashes = da_allocate(allocator, (size_t)comm->ranks, sizeof *hashes);
    if (!hashes) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    da_status status = da_comm_gather(comm, allocator, &hash, sizeof hash, hashes);
    for (int rank = 1; status == DA_OK && rank < comm->ranks; rank++) {
        if (hashes[rank] != hashes[0]) {
            status =
                da_report(DA_ERROR_COMMUNICATION,
                          "%s of rank %d differs from that of rank 0; allowed: the same on every rank", what, rank);
        }
    }
    da_release(allocator, hashes);
    return status;
}
