#include "comm/counted.h"

#include "comm/comm.h"

static da_status send_counted(const void *data, size_t bytes, int to, int tag, void **request, void *user) {
    da_counted *counted = user;
    if (tag == DA_TAG_COLLECTIVE) {
        counted->collective_bytes += (int64_t)bytes;
    } else {
        counted->messages++;
        counted->bytes += (int64_t)bytes;
    }
    return counted->inner.send(data, bytes, to, tag, request, counted->inner.user);
}

static da_status receive(void *data, size_t bytes, int from, int tag, void **request, void *user) {
    const da_comm *inner = &((da_counted *)user)->inner;
    return inner->receive(data, bytes, from, tag, request, inner->user);
}

static da_status wait_for(void *request, double seconds, bool *done, void *user) {
    const da_comm *inner = &((da_counted *)user)->inner;
    return inner->wait(request, seconds, done, inner->user);
}

static bool cancel(void *request, void *user) {
    const da_comm *inner = &((da_counted *)user)->inner;
    return inner->cancel(request, inner->user);
}

static void abandon(void *user) {
    da_comm_abandon(&((da_counted *)user)->inner);
}

void da_count_messages(da_counted *counted, const da_comm *inner, da_comm *out) {
    *counted = (da_counted){.inner = *inner};
    *out = *inner;
    out->user = counted;
    out->send = send_counted;
    out->receive = receive;
    out->wait = wait_for;
    out->cancel = cancel;
    out->abandon = abandon;
    out->gather = NULL;
    out->reduce = NULL;
}
