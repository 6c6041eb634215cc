/* Ranks that are processes of an MPI program. Nothing here blocks in MPI: requests are begun, and polled with rests. */
#define _POSIX_C_SOURCE 200809L

#include "dilated_attention_mpi.h"

#include <limits.h>
#include <stdlib.h>

#include "comm/clock.h"
#include "comm/comm.h"

enum { SIGNAL_TAG = DA_COMM_TAGS }; /* "I have given up"; MPI allows tags up to 32767 at least */

typedef struct mpi_group {
    MPI_Comm communicator;
    int rank, ranks;
    int gave_up;          /* the first rank known to have given up; -1: none */
    int word;             /* what is sent when this rank gives up: the rank that did so first */
    MPI_Request *signals; /* one per rank, of `word`; MPI_REQUEST_NULL before and after */
    bool broken;          /* a message was lost: no call is made any more for which MPI would wait for all ranks */
} mpi_group;

typedef struct mpi_message {
    MPI_Request request;
    MPI_Datatype type;
    int count; /* of elements of this type */
    size_t bytes;
    int peer, tag;
    bool sends;
} mpi_message;

static da_status failed(int error, const char *call) {
    char text[MPI_MAX_ERROR_STRING + 1] = "unknown error";
    int length;
    if (error == MPI_SUCCESS) {
        return DA_OK;
    }
    MPI_Error_string(error, text, &length);
    return da_report(DA_ERROR_COMMUNICATION, "%s: %s", call, text);
}

/* ---- beginning --------------------------------------------------------------------------------------------------- */

/* MPI counts in int. Longer messages are one element of a type that is blocks and a rest. */
enum { LONGEST_PLAIN = 1 << 26, BLOCK = 1 << 20 };

static int make_type(size_t bytes, MPI_Datatype *type, int *count) {
    MPI_Datatype block;
    *type = MPI_BYTE;
    *count = (int)bytes;
    if (bytes <= LONGEST_PLAIN) {
        return MPI_SUCCESS;
    }
    if (bytes / BLOCK > INT_MAX) {
        return MPI_ERR_COUNT;
    }
    int error = MPI_Type_contiguous(BLOCK, MPI_BYTE, &block);
    if (error != MPI_SUCCESS) {
        return error;
    }
    int lengths[2] = {(int)(bytes / BLOCK), (int)(bytes % BLOCK)};
    MPI_Aint places[2] = {0, (MPI_Aint)(bytes / BLOCK * BLOCK)};
    MPI_Datatype parts[2] = {block, MPI_BYTE};
    *count = 1;
    error = MPI_Type_create_struct(2, lengths, places, parts, type);
    MPI_Type_free(&block);
    return error == MPI_SUCCESS ? MPI_Type_commit(type) : error;
}

static void release(mpi_message *message) {
    if (message->type != MPI_BYTE) {
        MPI_Type_free(&message->type);
    }
    free(message);
}

static da_status prepare(const mpi_group *group, mpi_message wanted, mpi_message **out) {
    if (wanted.peer < 0 || wanted.peer >= group->ranks) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is %d; allowed: 0 to %d", wanted.sends ? "to" : "from",
                         wanted.peer, group->ranks - 1);
    }
    if (wanted.tag < 0 || wanted.tag >= DA_COMM_TAGS) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "tag is %d; allowed: 0 to %d", wanted.tag, DA_COMM_TAGS - 1);
    }
    mpi_message *message = malloc(sizeof *message);
    if (!message) {
        return da_report(DA_ERROR_OUT_OF_MEMORY, "could not allocate %zu bytes", sizeof *message);
    }
    *message = wanted;
    int error = make_type(message->bytes, &message->type, &message->count);
    if (error != MPI_SUCCESS) {
        free(message);
        return failed(error, "making an MPI data type");
    }
    *out = message;
    return DA_OK;
}

/* After the MPI call that begins a message. */
static da_status begun(mpi_group *group, mpi_message *message, int error, void **request) {
    if (error != MPI_SUCCESS) {
        group->broken = true;
        const char *call = message->sends ? "MPI_Isend" : "MPI_Irecv";
        release(message);
        return failed(error, call);
    }
    *request = message;
    return DA_OK;
}

static da_status begin_send(const void *data, size_t bytes, int to, int tag, void **request, void *user) {
    mpi_group *group = user;
    mpi_message *m = NULL;
    da_status status = prepare(group, (mpi_message){.bytes = bytes, .peer = to, .tag = tag, .sends = true}, &m);
    if (status != DA_OK) {
        return status;
    }
    int error = MPI_Isend(data, m->count, m->type, to, tag, group->communicator, &m->request);
    return begun(group, m, error, request);
}

static da_status begin_receive(void *data, size_t bytes, int from, int tag, void **request, void *user) {
    mpi_group *group = user;
    mpi_message *m = NULL;
    da_status status = prepare(group, (mpi_message){.bytes = bytes, .peer = from, .tag = tag, .sends = false}, &m);
    if (status != DA_OK) {
        return status;
    }
    int error = MPI_Irecv(data, m->count, m->type, from, tag, group->communicator, &m->request);
    return begun(group, m, error, request);
}

/* ---- ending ------------------------------------------------------------------------------------------------------ */

static da_status check_length(const mpi_message *message, int rank, const MPI_Status *got) {
    MPI_Count bytes = 0;
    if (message->sends) {
        return DA_OK;
    }
    MPI_Get_elements_x(got, message->type, &bytes);
    if (bytes == (MPI_Count)message->bytes) {
        return DA_OK;
    }
    return da_report(DA_ERROR_COMMUNICATION, "rank %d expects %zu bytes with tag %d, and rank %d sends %lld", rank,
                     message->bytes, message->tag, message->peer, (long long)bytes);
}

/* Whether a rank has sent word that it, or another, has given up. */
static da_status look_for_signal(mpi_group *group) {
    int there = 0;
    if (group->gave_up < 0) {
        MPI_Status from;
        int error = MPI_Iprobe(MPI_ANY_SOURCE, SIGNAL_TAG, group->communicator, &there, &from);
        if (error == MPI_SUCCESS && there) {
            int word = -1;
            error = MPI_Recv(&word, 1, MPI_INT, from.MPI_SOURCE, SIGNAL_TAG, group->communicator, MPI_STATUS_IGNORE);
            group->gave_up = error == MPI_SUCCESS && word >= 0 && word < group->ranks ? word : from.MPI_SOURCE;
            group->broken = true;
        } else if (error != MPI_SUCCESS) {
            group->broken = true;
            return failed(error, "MPI_Iprobe");
        }
    }
    if (group->gave_up >= 0) {
        return da_report(DA_ERROR_COMMUNICATION, "rank %d has given up", group->gave_up);
    }
    return DA_OK;
}

static da_status look(void *user, void *request, bool *done) {
    mpi_group *group = user;
    mpi_message *message = request;
    MPI_Status got;
    int flag = 0;
    *done = false;
    int error = MPI_Test(&message->request, &flag, &got);
    if (error != MPI_SUCCESS) {
        group->broken = true;
        return failed(error, "MPI_Test");
    }
    if (!flag) {
        return look_for_signal(group);
    }
    da_status status = check_length(message, group->rank, &got);
    if (status == DA_OK) {
        *done = true;
        release(message);
    }
    return status;
}

static da_status wait_for(void *request, double seconds, bool *done, void *user) {
    return da_wait_by_looking(look, user, request, seconds, done);
}

/* True if the request ends within so short a time that it must have been about to. */
static bool ends_now(MPI_Request *request) {
    da_rests rests = {0};
    int flag = 0;
    for (double end = da_seconds() + 0.02; !flag && da_seconds() < end; da_rest(&rests)) {
        if (MPI_Test(request, &flag, MPI_STATUS_IGNORE) != MPI_SUCCESS) {
            break;
        }
    }
    return *request == MPI_REQUEST_NULL;
}

/* A receive that no message has met can be cancelled; not so one whose message is arriving, nor, in most MPI libraries, a
 * send. */
static bool cancel(void *request, void *user) {
    mpi_group *group = user;
    mpi_message *message = request;
    bool ended = message->request == MPI_REQUEST_NULL;
    if (!ended) {
        group->broken = true;
        if (!message->sends) {
            MPI_Cancel(&message->request);
        }
        ended = ends_now(&message->request);
    }
    if (!ended) {
        MPI_Request_free(&message->request);
    }
    release(message);
    return ended;
}

static void abandon(void *user) {
    mpi_group *group = user;
    da_rests rests = {0};
    int sent = 0;
    if (group->word >= 0) {
        return; /* they know */
    }
    group->broken = true;
    group->gave_up = group->gave_up < 0 ? group->rank : group->gave_up;
    group->word = group->gave_up;
    for (int rank = 0; rank < group->ranks; rank++) {
        if (rank != group->rank) {
            MPI_Isend(&group->word, 1, MPI_INT, rank, SIGNAL_TAG, group->communicator, &group->signals[rank]);
        }
    }
    /* Some MPI libraries connect two processes when they first exchange a message, and send only while they are called. */
    for (double end = da_seconds() + 0.2; !sent && da_seconds() < end; da_rest(&rests)) {
        if (MPI_Testall(group->ranks, group->signals, &sent, MPI_STATUSES_IGNORE) != MPI_SUCCESS) {
            break;
        }
    }
}

/* ---- the group --------------------------------------------------------------------------------------------------- */

static da_status check(MPI_Comm communicator, double timeout) {
    int initialised = 0, finalised = 0, inter = 0;
    MPI_Initialized(&initialised);
    MPI_Finalized(&finalised);
    if (!initialised || finalised) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "MPI is %s; allowed: between MPI_Init and MPI_Finalize",
                         initialised ? "finalised" : "not initialised");
    }
    if (communicator == MPI_COMM_NULL) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "communicator is MPI_COMM_NULL; allowed: a group of processes");
    }
    if (MPI_Comm_test_inter(communicator, &inter) != MPI_SUCCESS || inter) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "communicator is an intercommunicator; allowed: one group of processes");
    }
    return da_comm_check_timeout("timeout", timeout);
}

static mpi_group *make_group(int rank, int ranks) {
    mpi_group *group = malloc(sizeof *group);
    MPI_Request *signals = group ? malloc((size_t)ranks * sizeof *signals) : NULL;
    if (!signals) {
        free(group);
        return NULL;
    }
    for (int k = 0; k < ranks; k++) {
        signals[k] = MPI_REQUEST_NULL;
    }
    *group = (mpi_group){.rank = rank, .ranks = ranks, .gave_up = -1, .word = -1, .signals = signals};
    return group;
}

static void free_group(mpi_group *group) {
    free(group->signals);
    free(group);
}

da_status da_comm_mpi_create(MPI_Comm communicator, double timeout, da_comm *out) {
    int rank, ranks;
    if (!out) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "out is NULL; allowed: a place for the da_comm");
    }
    da_comm_init(out);
    da_status status = check(communicator, timeout);
    if (status != DA_OK) {
        return status;
    }
    MPI_Comm_rank(communicator, &rank);
    MPI_Comm_size(communicator, &ranks);
    mpi_group *group = make_group(rank, ranks);
    if (!group) {
        return da_report(DA_ERROR_OUT_OF_MEMORY, "could not allocate what %d ranks need", ranks);
    }
    int error = MPI_Comm_dup(communicator, &group->communicator);
    if (error != MPI_SUCCESS) {
        free_group(group);
        return failed(error, "MPI_Comm_dup");
    }
    MPI_Comm_set_errhandler(group->communicator, MPI_ERRORS_RETURN);
    out->rank = rank;
    out->ranks = ranks;
    out->timeout = timeout;
    out->user = group;
    out->send = begin_send;
    out->receive = begin_receive;
    out->wait = wait_for;
    out->cancel = cancel;
    out->abandon = abandon;
    return DA_OK;
}

void da_comm_mpi_free(da_comm *comm) {
    int finalised = 0;
    if (!comm || !comm->user) {
        return;
    }
    mpi_group *group = comm->user;
    bool under_way = false; /* MPI may still read group->word */
    for (int rank = 0; rank < group->ranks; rank++) {
        under_way |= group->signals[rank] != MPI_REQUEST_NULL;
    }
    MPI_Finalized(&finalised);
    if (!group->broken && !finalised) {
        MPI_Comm_free(&group->communicator);
    }
    if (!under_way) {
        free_group(group);
    }
    da_comm_init(comm);
}
