/* Ranks over NCCL. Nothing here blocks: NCCL's communicator does not, and events on one stream are polled with rests. The
 * caller's memory is copied to and from buffers of ours, so that NCCL and CUDA never touch it. */
#define _POSIX_C_SOURCE 200809L

#include "dilated_attention_nccl.h"

#include <cuda_runtime_api.h>
#include <stdlib.h>
#include <string.h>

#include "comm/clock.h"
#include "comm/comm.h"

/* What goes before the bytes of a message, to notice ranks that are not in the same phase. */
typedef struct header {
    uint64_t tag, bytes;
} header;

/* Memory for one message, its header included, on both sides of the bus. Buffers are kept, since to allocate some, or to
 * release it, waits for the device. */
typedef struct buffer {
    struct buffer *next; /* of all */
    bool in_use;
    size_t capacity;
    void *host, *device;
    cudaEvent_t ended; /* what was to be done with it */
} buffer;

typedef enum state { QUEUED, LAUNCHED, RUNNING } state;

typedef struct nccl_message {
    struct nccl_message *next; /* of those that are queued, or launched */
    state state;
    buffer *buffer;
    void *target;
    size_t bytes;
    int peer, tag;
    bool sends;
} nccl_message;

typedef struct nccl_group {
    ncclComm_t communicator;
    cudaStream_t stream;
    int device, rank, ranks;
    double timeout;
    bool broken; /* the communicator has been aborted */
    buffer *buffers;
    nccl_message *queued;   /* the phase that has begun, in the order of the tags */
    nccl_message *launched; /* the phase that NCCL is putting on the stream; NULL: none */
} nccl_group;

static da_status nccl_failed(ncclResult_t result, const char *call) {
    if (result == ncclSuccess || result == ncclInProgress) {
        return DA_OK;
    }
    return da_report(DA_ERROR_COMMUNICATION, "%s: %s", call, ncclGetErrorString(result));
}

static da_status cuda_failed(cudaError_t error, const char *call) {
    if (error == cudaSuccess) {
        return DA_OK;
    }
    return da_report(error == cudaErrorMemoryAllocation ? DA_ERROR_OUT_OF_MEMORY : DA_ERROR_COMMUNICATION, "%s: %s",
                     call, cudaGetErrorString(error));
}

static void break_off(nccl_group *group) {
    if (!group->broken) {
        group->broken = true;
        group->launched = NULL;
        ncclCommAbort(group->communicator);
    }
}

/* ---- phases ------------------------------------------------------------------------------------------------------ */

/* Puts the queued phase on the stream. All of it is one group, so that its messages run side by side; of two to the same
 * rank the one with the lower tag comes first, on both sides. */
static da_status launch(nccl_group *group) {
    da_status status = DA_OK;
    for (nccl_message *m = group->queued; m && status == DA_OK; m = m->next) {
        if (m->sends) {
            status = cuda_failed(cudaMemcpyAsync(m->buffer->device, m->buffer->host, sizeof(header) + m->bytes,
                                                 cudaMemcpyHostToDevice, group->stream),
                                 "cudaMemcpyAsync");
        }
    }
    if (status == DA_OK) {
        status = nccl_failed(ncclGroupStart(), "ncclGroupStart");
    }
    if (status != DA_OK) {
        return status;
    }
    for (nccl_message *m = group->queued; m && status == DA_OK; m = m->next) {
        size_t bytes = sizeof(header) + m->bytes;
        ncclResult_t result =
            m->sends ? ncclSend(m->buffer->device, bytes, ncclUint8, m->peer, group->communicator, group->stream)
                     : ncclRecv(m->buffer->device, bytes, ncclUint8, m->peer, group->communicator, group->stream);
        status = nccl_failed(result, m->sends ? "ncclSend" : "ncclRecv");
    }
    da_status ended = nccl_failed(ncclGroupEnd(), "ncclGroupEnd");
    for (nccl_message *m = group->queued; m; m = m->next) {
        m->state = LAUNCHED;
    }
    group->launched = group->queued;
    group->queued = NULL;
    return status == DA_OK ? ended : status;
}

/* Once NCCL has put the phase on the stream: what comes after it there. */
static da_status follow(nccl_group *group) {
    da_status status = DA_OK;
    for (nccl_message *m = group->launched; m && status == DA_OK; m = m->next) {
        if (!m->sends) {
            status = cuda_failed(cudaMemcpyAsync(m->buffer->host, m->buffer->device, sizeof(header) + m->bytes,
                                                 cudaMemcpyDeviceToHost, group->stream),
                                 "cudaMemcpyAsync");
        }
        if (status == DA_OK) {
            status = cuda_failed(cudaEventRecord(m->buffer->ended, group->stream), "cudaEventRecord");
        }
        m->state = RUNNING;
    }
    group->launched = NULL;
    return status;
}

/* Moves things on; `wanted` (or NULL) is looked at, which ends its phase. */
static da_status advance(nccl_group *group, const nccl_message *wanted) {
    ncclResult_t result = ncclSuccess;
    if (group->broken) {
        return da_report(DA_ERROR_COMMUNICATION, "this rank has given up, and its NCCL communicator was aborted");
    }
    da_status status = cuda_failed(cudaSetDevice(group->device), "cudaSetDevice");
    for (int step = 0; status == DA_OK && step < 2; step++) {
        status = nccl_failed(ncclCommGetAsyncError(group->communicator, &result), "ncclCommGetAsyncError");
        if (status == DA_OK) {
            status = nccl_failed(result, "NCCL");
        }
        if (status != DA_OK || result == ncclInProgress) {
            return status;
        }
        if (group->launched) {
            status = follow(group);
        }
        if (status == DA_OK && wanted && wanted->state == QUEUED) {
            status = launch(group); /* the next step looks whether that is done */
        }
    }
    return status;
}

/* ---- beginning --------------------------------------------------------------------------------------------------- */

/* Waits, in bounded time, for all that is on the stream: the phases before this one. */
static da_status settle(nccl_group *group) {
    da_rests rests = {0};
    for (double end = da_seconds() + group->timeout;; da_rest(&rests)) {
        da_status status = advance(group, NULL);
        cudaError_t error = status == DA_OK && !group->launched ? cudaStreamQuery(group->stream) : cudaErrorNotReady;
        if (status != DA_OK || error != cudaErrorNotReady) {
            return status == DA_OK ? cuda_failed(error, "cudaStreamQuery") : status;
        }
        if (da_seconds() >= end) {
            return da_report(DA_ERROR_COMMUNICATION, "waited %g s for earlier messages", group->timeout);
        }
    }
}

static void free_buffer(buffer *memory) {
    if (memory->ended) {
        cudaEventDestroy(memory->ended);
    }
    if (memory->device) {
        cudaFree(memory->device);
    }
    if (memory->host) {
        cudaFreeHost(memory->host);
    }
    free(memory);
}

static da_status make_buffer(nccl_group *group, size_t bytes, buffer **out) {
    size_t capacity = 1 << 16;
    while (capacity < bytes && capacity <= SIZE_MAX / 2) {
        capacity *= 2;
    }
    da_status status = settle(group);
    if (status != DA_OK) {
        return status;
    }
    buffer *made = calloc(1, sizeof *made);
    if (!made || capacity < bytes) {
        free(made);
        return da_report(DA_ERROR_OUT_OF_MEMORY, "could not allocate a buffer of %zu bytes", bytes);
    }
    made->capacity = capacity;
    status = cuda_failed(cudaMallocHost(&made->host, capacity), "cudaMallocHost");
    if (status == DA_OK) {
        status = cuda_failed(cudaMalloc(&made->device, capacity), "cudaMalloc");
    }
    if (status == DA_OK) {
        status = cuda_failed(cudaEventCreateWithFlags(&made->ended, cudaEventDisableTiming), "cudaEventCreate");
    }
    if (status != DA_OK) {
        free_buffer(made);
        return status;
    }
    made->next = group->buffers;
    group->buffers = made;
    *out = made;
    return DA_OK;
}

static da_status take_buffer(nccl_group *group, size_t bytes, buffer **out) {
    buffer *best = NULL;
    for (buffer *b = group->buffers; b; b = b->next) {
        if (!b->in_use && b->capacity >= bytes && (!best || b->capacity < best->capacity)) {
            best = b;
        }
    }
    da_status status = best ? DA_OK : make_buffer(group, bytes, &best);
    if (status == DA_OK) {
        best->in_use = true;
        *out = best;
    }
    return status;
}

/* After those of the same and of lower tags. */
static void enqueue(nccl_group *group, nccl_message *message) {
    nccl_message **place = &group->queued;
    while (*place && (*place)->tag <= message->tag) {
        place = &(*place)->next;
    }
    message->next = *place;
    *place = message;
}

static da_status begin(nccl_group *group, const void *source, nccl_message wanted, void **request) {
    if (wanted.peer < 0 || wanted.peer >= group->ranks) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is %d; allowed: 0 to %d", wanted.sends ? "to" : "from",
                         wanted.peer, group->ranks - 1);
    }
    if (wanted.tag < 0 || wanted.tag >= DA_COMM_TAGS) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "tag is %d; allowed: 0 to %d", wanted.tag, DA_COMM_TAGS - 1);
    }
    nccl_message *message = malloc(sizeof *message);
    if (!message || wanted.bytes > SIZE_MAX / 2) {
        free(message);
        return da_report(DA_ERROR_OUT_OF_MEMORY, "could not allocate a message of %zu bytes", wanted.bytes);
    }
    *message = wanted;
    da_status status = take_buffer(group, sizeof(header) + wanted.bytes, &message->buffer);
    if (status != DA_OK) {
        free(message);
        return status;
    }
    header first = {wanted.sends ? (uint64_t)wanted.tag : DA_COMM_TAGS, wanted.bytes};
    memcpy(message->buffer->host, &first, sizeof first); /* nothing that is received looks like this */
    if (source && wanted.bytes > 0) {
        memcpy((char *)message->buffer->host + sizeof first, source, wanted.bytes);
    }
    enqueue(group, message);
    *request = message;
    return DA_OK;
}

static da_status begin_send(const void *data, size_t bytes, int to, int tag, void **request, void *user) {
    return begin(user, data, (nccl_message){.bytes = bytes, .peer = to, .tag = tag, .sends = true}, request);
}

static da_status begin_receive(void *data, size_t bytes, int from, int tag, void **request, void *user) {
    return begin(user, NULL, (nccl_message){.target = data, .bytes = bytes, .peer = from, .tag = tag}, request);
}

/* ---- ending ------------------------------------------------------------------------------------------------------ */

static da_status deliver(const nccl_group *group, const nccl_message *message) {
    header first;
    memcpy(&first, message->buffer->host, sizeof first);
    if (first.tag != (uint64_t)message->tag || first.bytes != message->bytes) {
        return da_report(DA_ERROR_COMMUNICATION,
                         "rank %d expects %zu bytes with tag %d, and rank %d sends %llu with tag %llu", group->rank,
                         message->bytes, message->tag, message->peer, (unsigned long long)first.bytes,
                         (unsigned long long)first.tag);
    }
    if (message->bytes > 0) {
        memcpy(message->target, (const char *)message->buffer->host + sizeof first, message->bytes);
    }
    return DA_OK;
}

static da_status look(void *user, void *request, bool *done) {
    nccl_group *group = user;
    nccl_message *message = request;
    *done = false;
    da_status status = advance(group, message);
    if (status != DA_OK || message->state != RUNNING) {
        return status;
    }
    cudaError_t error = cudaEventQuery(message->buffer->ended);
    if (error == cudaErrorNotReady) {
        return DA_OK;
    }
    status = cuda_failed(error, "cudaEventQuery");
    if (status == DA_OK && !message->sends) {
        status = deliver(group, message);
    }
    if (status == DA_OK) {
        *done = true;
        message->buffer->in_use = false;
        free(message);
    }
    return status;
}

static da_status wait_for(void *request, double seconds, bool *done, void *user) {
    return da_wait_by_looking(look, user, request, seconds, done);
}

/* A message that is under way ends with the communicator alone; its buffer is then not used again. */
static bool cancel(void *request, void *user) {
    nccl_group *group = user;
    nccl_message *message = request;
    for (nccl_message **place = &group->queued; *place; place = &(*place)->next) {
        if (*place == message) {
            *place = message->next;
            break;
        }
    }
    bool ended = message->state == RUNNING && cudaEventQuery(message->buffer->ended) == cudaSuccess;
    if (!ended && message->state != QUEUED) {
        break_off(group);
    }
    message->buffer->in_use = !ended && message->state != QUEUED;
    free(message);
    return true;
}

static void abandon(void *user) {
    break_off(user);
}

/* ---- the group --------------------------------------------------------------------------------------------------- */

/* Waits, in bounded time, for what a communicator that does not block was told to do. */
static da_status finish(ncclComm_t communicator, double timeout, const char *call) {
    da_rests rests = {0};
    ncclResult_t result = ncclInProgress;
    for (double end = da_seconds() + timeout;; da_rest(&rests)) {
        da_status status = nccl_failed(ncclCommGetAsyncError(communicator, &result), "ncclCommGetAsyncError");
        if (status != DA_OK || result != ncclInProgress) {
            return status == DA_OK ? nccl_failed(result, call) : status;
        }
        if (da_seconds() >= end) {
            return da_report(DA_ERROR_COMMUNICATION, "waited %g s for %s", timeout, call);
        }
    }
}

static da_status split(nccl_group *group, ncclComm_t communicator) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    da_status status = nccl_failed(ncclCommUserRank(communicator, &group->rank), "ncclCommUserRank");
    if (status == DA_OK) {
        status = nccl_failed(ncclCommCount(communicator, &group->ranks), "ncclCommCount");
    }
    if (status == DA_OK) {
        status = nccl_failed(ncclCommCuDevice(communicator, &group->device), "ncclCommCuDevice");
    }
    if (status == DA_OK) {
        status = cuda_failed(cudaSetDevice(group->device), "cudaSetDevice");
    }
    if (status == DA_OK) {
        status =
            nccl_failed(ncclCommSplit(communicator, 0, group->rank, &group->communicator, &config), "ncclCommSplit");
    }
    if (status == DA_OK) {
        status = finish(communicator, group->timeout, "ncclCommSplit");
    }
    if (status == DA_OK) {
        status = finish(group->communicator, group->timeout, "ncclCommSplit");
    }
    if (status == DA_OK) {
        status = cuda_failed(cudaStreamCreateWithFlags(&group->stream, cudaStreamNonBlocking), "cudaStreamCreate");
    }
    return status;
}

da_status da_comm_nccl_create(ncclComm_t communicator, double timeout, da_comm *out) {
    if (!out) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "out is NULL; allowed: a place for the da_comm");
    }
    da_comm_init(out);
    if (!communicator) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "communicator is NULL; allowed: a communicator of NCCL");
    }
    da_status status = da_comm_check_timeout("timeout", timeout);
    if (status != DA_OK) {
        return status;
    }
    nccl_group *group = calloc(1, sizeof *group);
    if (!group) {
        return da_report(DA_ERROR_OUT_OF_MEMORY, "could not allocate %zu bytes", sizeof *group);
    }
    group->timeout = timeout;
    status = split(group, communicator);
    if (status != DA_OK) {
        if (group->communicator) {
            ncclCommAbort(group->communicator);
        }
        free(group);
        return status;
    }
    out->rank = group->rank;
    out->ranks = group->ranks;
    out->timeout = timeout;
    out->user = group;
    out->send = begin_send;
    out->receive = begin_receive;
    out->wait = wait_for;
    out->cancel = cancel;
    out->abandon = abandon;
    return DA_OK;
}

/* True once the stream has ended, as it does soon after the communicator was aborted. */
static bool stream_ends(const nccl_group *group) {
    da_rests rests = {0};
    cudaError_t error = cudaErrorNotReady;
    for (double end = da_seconds() + 1; error == cudaErrorNotReady && da_seconds() < end; da_rest(&rests)) {
        error = cudaStreamQuery(group->stream);
    }
    return error != cudaErrorNotReady;
}

void da_comm_nccl_free(da_comm *comm) {
    if (!comm || !comm->user) {
        return;
    }
    nccl_group *group = comm->user;
    cudaSetDevice(group->device);
    if (!group->broken) {
        if (nccl_failed(ncclCommFinalize(group->communicator), "ncclCommFinalize") == DA_OK &&
            finish(group->communicator, group->timeout, "ncclCommFinalize") == DA_OK) {
            ncclCommDestroy(group->communicator);
        } else {
            break_off(group);
        }
    }
    if (stream_ends(group)) { /* otherwise the device still uses the buffers */
        for (buffer *b = group->buffers, *next; b; b = next) {
            next = b->next;
            free_buffer(b);
        }
        cudaStreamDestroy(group->stream);
        free(group);
    }
    da_comm_init(comm);
}
