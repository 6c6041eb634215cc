/* Single messages, whose waits end in bounded time. */
#define _POSIX_C_SOURCE 200809L

#include "comm/comm.h"

#include <stdio.h>

#include "comm/clock.h"

/* What the transport said, after what was to be done. Statuses that say nothing of ranks, as when memory is short, stay. */
static da_status failed(da_status status, const da_message *message, int rank) {
    if (status == DA_OK) {
        return DA_OK;
    }
    char reason[256];
    snprintf(reason, sizeof reason, "%s", da_last_error_message());
    return da_report(status, "rank %d could not %s %s %s rank %d: %s", rank, message->sends ? "send" : "receive",
                     message->what, message->sends ? "to" : "from", message->peer, reason);
}

da_status da_comm_send(const da_comm *comm, const void *data, size_t bytes, int to, int tag, const char *what,
                       da_message *message) {
    *message = (da_message){.what = what, .peer = to, .sends = true};
    da_status status = comm->send(data, bytes, to, tag, &message->request, comm->user);
    if (status != DA_OK) {
        message->request = NULL;
    }
    return failed(status, message, comm->rank);
}

da_status da_comm_receive(const da_comm *comm, void *data, size_t bytes, int from, int tag, const char *what,
                          da_message *message) {
    *message = (da_message){.what = what, .peer = from, .sends = false};
    da_status status = comm->receive(data, bytes, from, tag, &message->request, comm->user);
    if (status != DA_OK) {
        message->request = NULL;
    }
    return failed(status, message, comm->rank);
}

static da_status wait_at_most(const da_comm *comm, da_message *message, double seconds, bool *done) {
    *done = message->request == NULL;
    if (*done) {
        return DA_OK;
    }
    da_status status = comm->wait(message->request, seconds, done, comm->user);
    if (status != DA_OK) {
        *done = false;
    } else if (*done) {
        message->request = NULL;
    }
    return failed(status, message, comm->rank);
}

da_status da_comm_look(const da_comm *comm, da_message *message, bool *done) {
    return wait_at_most(comm, message, 0, done);
}

da_status da_comm_wait(const da_comm *comm, da_message *message) {
    bool done = false;
    double end = da_seconds() + comm->timeout;
    for (double left = comm->timeout; left > 0; left = end - da_seconds()) {
        da_status status = wait_at_most(comm, message, left, &done);
        if (status != DA_OK || done) {
            return status;
        }
        sched_yield(); /* for a wait that only looks */
    }
    return da_report(DA_ERROR_COMMUNICATION,
                     "rank %d waited %g s %s %s %s rank %d, without an answer (comm.timeout is the longest wait)",
                     comm->rank, comm->timeout, message->sends ? "to send" : "for", message->what,
                     message->sends ? "to" : "from", message->peer);
}

bool da_comm_give_up(const da_comm *comm, da_message *message) {
    bool safe = !message->request || comm->cancel(message->request, comm->user);
    message->request = NULL;
    return safe;
}

da_status da_comm_wait_all(const da_comm *comm, da_message *messages, size_t count, bool *safe) {
    da_status status = DA_OK;
    bool all_safe = true;
    for (size_t k = 0; status == DA_OK && k < count; k++) {
        status = da_comm_wait(comm, &messages[k]);
    }
    for (size_t k = 0; k < count; k++) {
        all_safe &= da_comm_give_up(comm, &messages[k]);
    }
    if (safe) {
        *safe = all_safe;
    }
    return status;
}

void da_comm_abandon(const da_comm *comm) {
    if (comm->abandon) {
        comm->abandon(comm->user);
    }
}
