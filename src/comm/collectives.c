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

/* ---- slices ------------------------------------------------------------------------------------------------------- */

/* Bytes that go to one rank, or come from it. */
typedef struct block {
    char *data;
    size_t bytes;
} block;

/* What a rank trades with all others: in[r] comes from rank r, out[r] goes to it; nothing where there are no bytes. */
typedef struct trade {
    const char *what;
    block *in, *out;
    da_message *messages; /* 2 for each rank */
} trade;

/* Memory of a trade among `ranks` ranks, at an address fit for pointers. */
static size_t trade_bytes(int ranks) {
    return (size_t)ranks * 2 * (sizeof(block) + sizeof(da_message));
}

static trade trade_in(void *memory, int ranks, const char *what) {
    trade t = {.what = what, .messages = memory};
    t.in = (block *)(void *)(t.messages + 2 * ranks);
    t.out = t.in + ranks;
    return t;
}

/* Every rank begins with its neighbours, so that not all turn to one rank first. */
static da_status run_trade(const da_comm *comm, const trade *t, bool *safe) {
    da_status status = DA_OK;
    size_t count = 0;
    for (int step = 1; status == DA_OK && step < comm->ranks; step++) {
        int from = (int)(((int64_t)comm->rank - step + comm->ranks) % comm->ranks);
        if (t->in[from].bytes > 0) {
            status = da_comm_receive(comm, t->in[from].data, t->in[from].bytes, from, DA_TAG_COLLECTIVE, t->what,
                                     &t->messages[count]);
            count += status == DA_OK;
        }
    }
    for (int step = 1; status == DA_OK && step < comm->ranks; step++) {
        int to = (int)(((int64_t)comm->rank + step) % comm->ranks);
        if (t->out[to].bytes > 0) {
            status = da_comm_send(comm, t->out[to].data, t->out[to].bytes, to, DA_TAG_COLLECTIVE, t->what,
                                  &t->messages[count]);
            count += status == DA_OK;
        }
    }
    if (status == DA_OK) {
        return da_comm_wait_all(comm, t->messages, count, safe);
    }
    for (size_t k = 0; k < count; k++) {
        *safe &= da_comm_give_up(comm, &t->messages[k]);
    }
    return status;
}

da_status da_comm_gather_slices(const da_comm *comm, const da_allocator *allocator, const size_t *bytes, void *all,
                                const char *what, bool *safe) {
    *safe = true;
    void *memory = da_allocate(allocator, 1, trade_bytes(comm->ranks));
    if (!memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    trade t = trade_in(memory, comm->ranks, what);
    size_t place = 0;
    for (int rank = 0; rank < comm->ranks; rank++) {
        t.in[rank] = (block){(char *)all + place, bytes[rank]};
        place += bytes[rank];
    }
    for (int rank = 0; rank < comm->ranks; rank++) {
        t.out[rank] = t.in[comm->rank];
    }
    da_status status = run_trade(comm, &t, safe);
    da_release(allocator, memory);
    return status;
}

/* ---- reduce ------------------------------------------------------------------------------------------------------ */

/* Numbers are summed in slices, one per rank: each rank gets its slice from all others, and adds. So many numbers are taken
 * at a time, that memory stays small. */
enum { REDUCED_AT_A_TIME = 1 << 20 };

typedef struct reduction {
    const da_comm *comm;
    const da_allocator *allocator;
    da_dtype dtype;
    size_t slice;      /* bytes, at most, of each rank's at a time */
    char *given, *got; /* comm->ranks slices each: this rank's numbers; its slice of every rank's */
    char *sum;         /* one slice */
    trade trade;
    void *memory;
    bool safe; /* to release it */
} reduction;

/* With slices of up to `longest` numbers. */
static da_status begin_reduction(reduction *r, const da_comm *comm, const da_allocator *allocator, da_dtype dtype,
                                 size_t longest) {
    size_t ranks = (size_t)comm->ranks, at_a_time = (REDUCED_AT_A_TIME + ranks - 1) / ranks;
    size_t count = longest < at_a_time ? longest : at_a_time;
    /* given, got, sum; then the trade, at an address fit for any type since every slice of f64 is, and f32's sizes are
     * rounded up. */
    count = (count + 1) / 2 * 2;
    size_t slice = count * da_dtype_size(dtype);
    char *memory = da_allocate(allocator, (2 * ranks + 1) * slice + trade_bytes(comm->ranks), 1);
    if (!memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *r = (reduction){
        .comm = comm,
        .allocator = allocator,
        .dtype = dtype,
        .slice = slice,
        .given = memory,
        .got = memory + ranks * slice,
        .sum = memory + 2 * ranks * slice,
        .trade = trade_in(memory + (2 * ranks + 1) * slice, comm->ranks, "numbers to add"),
        .memory = memory,
        .safe = true,
    };
    for (int rank = 0; rank < comm->ranks; rank++) {
        r->trade.out[rank].data = r->given + (size_t)rank * slice;
        r->trade.in[rank].data = r->got + (size_t)rank * slice;
    }
    return DA_OK;
}

static void end_reduction(reduction *r) {
    release_if(r->safe, r->allocator, r->memory);
}

/* Of this rank's slice. */
static void add_slices(const reduction *r) {
    size_t count = r->trade.out[r->comm->rank].bytes / da_dtype_size(r->dtype);
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

/* The slices of this rank's numbers are in `given`, and their bytes in trade.out: the sum of all ranks' slices for this one. */
static da_status reduce_given(reduction *r) {
    const block *mine = &r->trade.out[r->comm->rank];
    for (int rank = 0; rank < r->comm->ranks; rank++) {
        r->trade.in[rank].bytes = mine->bytes;
    }
    memcpy(r->trade.in[r->comm->rank].data, mine->data, mine->bytes);
    da_status status = run_trade(r->comm, &r->trade, &r->safe);
    if (status == DA_OK) {
        add_slices(r);
    }
    return status;
}

/* Up to comm->ranks slices of numbers, of which all ranks get all sums. */
static da_status reduce_some(reduction *r, char *data, size_t bytes) {
    size_t all = r->slice * (size_t)r->comm->ranks;
    memcpy(r->given, data, bytes);
    memset(r->given + bytes, 0, all - bytes);
    for (int rank = 0; rank < r->comm->ranks; rank++) {
        r->trade.out[rank].bytes = r->slice;
    }
    da_status status = reduce_given(r);
    if (status == DA_OK) {
        status = da_comm_gather(r->comm, r->allocator, r->sum, r->slice, r->given);
    }
    if (status == DA_OK) {
        memcpy(data, r->given, bytes);
    }
    return status;
}

da_status da_comm_reduce(const da_comm *comm, const da_allocator *allocator, void *data, int64_t count,
                         da_dtype dtype) {
    reduction r;
    if (comm->reduce) {
        return comm->reduce(data, count, dtype, comm->user);
    }
    if (count == 0 || comm->ranks == 1) {
        return DA_OK;
    }
    size_t ranks = (size_t)comm->ranks, bytes = (size_t)count * da_dtype_size(dtype);
    da_status status = begin_reduction(&r, comm, allocator, dtype, ((size_t)count + ranks - 1) / ranks);
    if (status != DA_OK) {
        return status;
    }
    size_t most = r.slice * ranks;
    for (size_t done = 0; status == DA_OK && done < bytes; done += most) {
        status = reduce_some(&r, (char *)data + done, bytes - done < most ? bytes - done : most);
    }
    end_reduction(&r);
    return status;
}

/* From number `done` of each slice on, one reduction's worth. */
static da_status reduce_part(reduction *r, const char *data, const int64_t *counts, size_t done, char *sum) {
    size_t size = da_dtype_size(r->dtype), most = r->slice / size;
    for (int rank = 0; rank < r->comm->ranks; rank++) {
        size_t count = (size_t)counts[rank], rest = count > done ? count - done : 0;
        r->trade.out[rank].bytes = (rest < most ? rest : most) * size;
        if (rest > 0) {
            memcpy(r->trade.out[rank].data, data + done * size, r->trade.out[rank].bytes);
        }
        data += count * size;
    }
    da_status status = reduce_given(r);
    size_t bytes = r->trade.out[r->comm->rank].bytes;
    if (status == DA_OK && bytes > 0) {
        memcpy(sum + done * size, r->sum, bytes);
    }
    return status;
}

da_status da_comm_reduce_slices(const da_comm *comm, const da_allocator *allocator, const void *data,
                                const int64_t *counts, da_dtype dtype, void *sum) {
    reduction r;
    size_t longest = 0;
    for (int rank = 0; rank < comm->ranks; rank++) {
        longest = (size_t)counts[rank] > longest ? (size_t)counts[rank] : longest;
    }
    da_status status = begin_reduction(&r, comm, allocator, dtype, longest);
    if (status != DA_OK) {
        return status;
    }
    for (size_t done = 0; status == DA_OK && done < longest; done += r.slice / da_dtype_size(dtype)) {
        status = reduce_part(&r, data, counts, done, sum);
    }
    end_reduction(&r);
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
