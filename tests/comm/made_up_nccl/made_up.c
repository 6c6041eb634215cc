#include "comm/made_up_nccl/made_up.h"

#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"

enum { MOST_IN_A_GROUP = 1024, CALLS_IN_PROGRESS = 3, DEVICE = 0 };

struct ncclComm {
    da_comm comm;
    int in_progress; /* so many more answers */
    ncclResult_t error;
};

typedef struct part {
    da_message message;
    void *target;
    const void *source;
    size_t bytes;
    int peer;
} part;

typedef struct op {
    struct op *next;
    enum { COPY, EVENT, GROUP } kind;
    void *to;
    const void *from;
    size_t bytes;
    cudaEvent_t event;
    ncclComm_t comm;
    bool begun;
    int count;
    part *parts;
} op;

struct CUstream_st {
    op *first;
};

struct CUevent_st {
    cudaStream_t stream;
    bool done;
};

atomic_int made_up_offences;
_Thread_local int made_up_failing_call;
static _Thread_local cudaStream_t stream_of_thread; /* tests have one at a time */
static _Thread_local op *group;                     /* between ncclGroupStart and ncclGroupEnd */
static _Thread_local cudaStream_t stream_of_group;

static void offend_if(bool offence) {
    atomic_fetch_add(&made_up_offences, offence);
}

static bool fails(void) {
    return made_up_failing_call > 0 && --made_up_failing_call == 0;
}

/* ---- streams ----------------------------------------------------------------------------------------------------- */

static void append(cudaStream_t stream, op new_op) {
    op **place = &stream->first, *added = malloc(sizeof *added);
    while (*place) {
        place = &(*place)->next;
    }
    *added = new_op;
    *place = added;
}

/* True once all parts have ended; an error is the communicator's, and stays. */
static bool group_ends(op *work) {
    da_status status = work->comm->error == ncclSuccess ? DA_OK : DA_ERROR_COMMUNICATION;
    bool all = true;
    for (int k = 0; k < work->count && !work->begun && status == DA_OK; k++) {
        part *p = &work->parts[k];
        status = p->source ? da_comm_send(&work->comm->comm, p->source, p->bytes, p->peer, 0, "a part", &p->message)
                           : da_comm_receive(&work->comm->comm, p->target, p->bytes, p->peer, 0, "a part", &p->message);
    }
    work->begun = true;
    for (int k = 0; k < work->count && status == DA_OK; k++) {
        bool done;
        status = da_comm_look(&work->comm->comm, &work->parts[k].message, &done);
        all &= done;
    }
    if (status != DA_OK) {
        work->comm->error = ncclRemoteError;
    }
    return status == DA_OK && all;
}

static void drop_group(op *work) {
    for (int k = 0; k < work->count; k++) {
        da_comm_give_up(&work->comm->comm, &work->parts[k].message);
    }
    free(work->parts);
}

static void move_on(cudaStream_t stream) {
    while (stream->first) {
        op *work = stream->first;
        if (work->kind == GROUP && !group_ends(work)) {
            return;
        }
        switch (work->kind) {
        case COPY: memcpy(work->to, work->from, work->bytes); break;
        case EVENT: work->event->done = true; break;
        case GROUP: drop_group(work); break;
        }
        stream->first = work->next;
        free(work);
    }
}

static bool at_work(void) {
    if (stream_of_thread) {
        move_on(stream_of_thread);
    }
    return stream_of_thread && stream_of_thread->first;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *stream, unsigned int flags) {
    *stream = stream_of_thread = calloc(1, sizeof **stream);
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
    move_on(stream);
    return stream->first ? cudaErrorNotReady : cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    offend_if(stream->first);
    stream_of_thread = NULL;
    free(stream);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t bytes, enum cudaMemcpyKind kind, cudaStream_t stream) {
    append(stream, (op){.kind = COPY, .to = to, .from = from, .bytes = bytes});
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned int flags) {
    *event = calloc(1, sizeof **event);
    (*event)->done = true;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    event->stream = stream;
    event->done = false;
    append(stream, (op){.kind = EVENT, .event = event});
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
    if (!event->done) {
        move_on(event->stream);
    }
    return event->done ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    free(event);
    return cudaSuccess;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static cudaError_t allocate(void **memory, size_t bytes) {
    offend_if(at_work());
    *memory = fails() ? NULL : malloc(bytes);
    return *memory ? cudaSuccess : cudaErrorMemoryAllocation;
}

static cudaError_t release(void *memory) {
    offend_if(at_work());
    free(memory);
    return cudaSuccess;
}

cudaError_t cudaMalloc(void **memory, size_t bytes) {
    return allocate(memory, bytes);
}

cudaError_t cudaMallocHost(void **memory, size_t bytes) {
    return allocate(memory, bytes);
}

cudaError_t cudaFree(void *memory) {
    return release(memory);
}

cudaError_t cudaFreeHost(void *memory) {
    return release(memory);
}

cudaError_t cudaSetDevice(int device) {
    return device == DEVICE ? cudaSuccess : cudaErrorInvalidValue;
}

const char *cudaGetErrorString(cudaError_t error) {
    return error == cudaErrorMemoryAllocation ? "out of memory" : "an error";
}

/* ---- communicators ----------------------------------------------------------------------------------------------- */

ncclComm_t made_up_communicator(const da_comm *comm) {
    ncclComm_t made = calloc(1, sizeof *made);
    made->comm = *comm;
    return made;
}

const char *ncclGetErrorString(ncclResult_t result) {
    return result == ncclRemoteError ? "a remote error" : "an error";
}

ncclResult_t ncclCommUserRank(const ncclComm_t comm, int *rank) {
    *rank = comm->comm.rank;
    return ncclSuccess;
}

ncclResult_t ncclCommCount(const ncclComm_t comm, int *ranks) {
    *ranks = comm->comm.ranks;
    return ncclSuccess;
}

ncclResult_t ncclCommCuDevice(const ncclComm_t comm, int *device) {
    *device = DEVICE;
    return ncclSuccess;
}

ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *made, ncclConfig_t *config) {
    if (fails()) {
        return ncclSystemError;
    }
    offend_if(config->blocking || color != 0 || key != comm->comm.rank);
    *made = made_up_communicator(&comm->comm);
    (*made)->in_progress = comm->in_progress = CALLS_IN_PROGRESS;
    return ncclInProgress;
}

ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t *result) {
    *result = comm->error != ncclSuccess ? comm->error : comm->in_progress-- > 0 ? ncclInProgress : ncclSuccess;
    return ncclSuccess;
}

ncclResult_t ncclCommFinalize(ncclComm_t comm) {
    offend_if(comm->in_progress > 0);
    comm->in_progress = CALLS_IN_PROGRESS;
    return ncclInProgress;
}

ncclResult_t ncclCommDestroy(ncclComm_t comm) {
    free(comm);
    return ncclSuccess;
}

/* What is on the stream ends undone, and the others are told. */
ncclResult_t ncclCommAbort(ncclComm_t comm) {
    cudaStream_t stream = stream_of_thread;
    for (op **place = stream ? &stream->first : NULL; place && *place;) {
        op *work = *place;
        if (work->kind == GROUP && work->comm == comm) {
            *place = work->next;
            drop_group(work);
            free(work);
        } else {
            place = &work->next;
        }
    }
    da_comm_abandon(&comm->comm);
    free(comm);
    return ncclSuccess;
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

ncclResult_t ncclGroupStart(void) {
    offend_if(group != NULL);
    group = calloc(1, sizeof *group);
    group->kind = GROUP;
    group->parts = calloc(MOST_IN_A_GROUP, sizeof *group->parts);
    return ncclSuccess;
}

static ncclResult_t add(part new_part, ncclComm_t comm, cudaStream_t stream) {
    if (!group || group->count == MOST_IN_A_GROUP || comm->in_progress > 0) {
        offend_if(true);
        return ncclInvalidArgument;
    }
    group->comm = comm;
    group->parts[group->count++] = new_part;
    stream_of_group = stream;
    return ncclInProgress;
}

ncclResult_t ncclSend(const void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm,
                      cudaStream_t stream) {
    return add((part){.source = data, .bytes = count, .peer = peer}, comm, stream);
}

ncclResult_t ncclRecv(void *data, size_t count, ncclDataType_t type, int peer, ncclComm_t comm, cudaStream_t stream) {
    return add((part){.target = data, .bytes = count, .peer = peer}, comm, stream);
}

/* The group is on the stream at once; a caller that puts something after it before NCCL says so is found out. */
ncclResult_t ncclGroupEnd(void) {
    op ended = *group;
    free(group);
    group = NULL;
    if (ended.count == 0) {
        free(ended.parts);
        return ncclSuccess;
    }
    append(stream_of_group, ended);
    ended.comm->in_progress = CALLS_IN_PROGRESS;
    return ncclInProgress;
}
