/* Before each message goes another, of the same tag, with the time at which its last byte leaves. The receiver gets both, and
 * holds the message back until it is due. */
#define _POSIX_C_SOURCE 200809L

#include "comm/slow.h"

#include "comm/clock.h"
#include "core/memory.h"

typedef struct slow_message {
    void *announcement, *message; /* the inner requests; NULL: ended */
    double leaves;                /* when its last byte has left; of a receive, once the announcement is here */
    double after;                 /* so long after that it has ended */
} slow_message;

static bool cancel_inner(da_slow *slow, void **request) {
    bool safe = !*request || slow->inner.cancel(*request, slow->inner.user);
    *request = NULL;
    return safe;
}

/* After the inner calls that begin a message. */
static da_status begun(da_slow *slow, slow_message *mine, da_status status, void **request) {
    if (status != DA_OK) {
        if (cancel_inner(slow, &mine->announcement)) {
            da_release(NULL, mine);
        }
        return status;
    }
    *request = mine;
    return DA_OK;
}

static slow_message *make_message(double after) {
    slow_message *mine = da_allocate(NULL, 1, sizeof *mine);
    if (mine) {
        *mine = (slow_message){.after = after};
    }
    return mine;
}

static da_status begin_send(const void *data, size_t bytes, int to, int tag, void **request, void *user) {
    da_slow *slow = user;
    const da_comm *inner = &slow->inner;
    slow_message *mine = make_message(0);
    if (!mine) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    double now = da_seconds();
    slow->free_at = (slow->free_at > now ? slow->free_at : now) + (double)bytes / slow->bandwidth;
    mine->leaves = slow->free_at;
    da_status status = inner->send(&mine->leaves, sizeof mine->leaves, to, tag, &mine->announcement, inner->user);
    if (status == DA_OK) {
        status = inner->send(data, bytes, to, tag, &mine->message, inner->user);
    } else {
        mine->announcement = NULL;
    }
    return begun(slow, mine, status, request);
}

static da_status begin_receive(void *data, size_t bytes, int from, int tag, void **request, void *user) {
    da_slow *slow = user;
    const da_comm *inner = &slow->inner;
    slow_message *mine = make_message(slow->latency);
    if (!mine) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    da_status status = inner->receive(&mine->leaves, sizeof mine->leaves, from, tag, &mine->announcement, inner->user);
    if (status == DA_OK) {
        status = inner->receive(data, bytes, from, tag, &mine->message, inner->user);
    } else {
        mine->announcement = NULL;
    }
    return begun(slow, mine, status, request);
}

static da_status wait_inner(da_slow *slow, void **request, double end, bool *done) {
    double left = end - da_seconds();
    *done = *request == NULL;
    if (*done) {
        return DA_OK;
    }
    da_status status = slow->inner.wait(*request, left > 0 ? left : 0, done, slow->inner.user);
    if (status == DA_OK && *done) {
        *request = NULL;
    }
    return status;
}

static da_status wait_for(void *request, double seconds, bool *done, void *user) {
    slow_message *mine = request;
    double end = da_seconds() + seconds;
    da_status status = wait_inner(user, &mine->announcement, end, done);
    if (status == DA_OK && *done) {
        status = wait_inner(user, &mine->message, end, done);
    }
    if (status != DA_OK || !*done) {
        *done = false;
        return status;
    }
    double due = mine->leaves + mine->after;
    for (double now = da_seconds(); now < due; now = da_seconds()) {
        double rest = (due < end ? due : end) - now;
        if (rest <= 0) {
            *done = false;
            return DA_OK;
        }
        nanosleep(&(struct timespec){(time_t)rest, (long)((rest - (double)(time_t)rest) * 1e9)}, NULL);
    }
    da_release(NULL, mine);
    return DA_OK;
}

static bool cancel(void *request, void *user) {
    slow_message *mine = request;
    bool safe = cancel_inner(user, &mine->message);
    if (cancel_inner(user, &mine->announcement)) {
        da_release(NULL, mine);
    }
    return safe;
}

static void abandon(void *user) {
    da_slow *slow = user;
    if (slow->inner.abandon) {
        slow->inner.abandon(slow->inner.user);
    }
}

void da_slow_init(da_slow *slow, const da_comm *inner, double latency, double bandwidth, da_comm *out) {
    *slow = (da_slow){.inner = *inner, .latency = latency, .bandwidth = bandwidth};
    *out = *inner;
    out->user = slow;
    out->send = begin_send;
    out->receive = begin_receive;
    out->wait = wait_for;
    out->cancel = cancel;
    out->gather = NULL; /* made of messages, which are slowed */
    out->reduce = NULL;
    out->abandon = abandon;
}
