#include "attention/ranks/mover.h"

#include <stdio.h>

#define PARTS 1000 /* of a direction, in reports: as many whatever its steps */

static da_status look_at(const da_comm *comm, da_moving *m) {
    da_status status = DA_OK;
    bool done = true;
    while (m->arrived < m->count && done && status == DA_OK) {
        da_message *message = (da_message *)(void *)((char *)m->first + (size_t)m->arrived * m->stride);
        status = da_comm_look(comm, message, &done);
        m->arrived += status == DA_OK && done;
    }
    return status;
}

static bool move_messages(int64_t finished, int64_t total, void *user) {
    da_mover *m = user;
    const da_comm *comm = m->meeting->comm;
    const da_call_options *options = &m->meeting->options;
    if (look_at(comm, &m->moving[0]) != DA_OK || look_at(comm, &m->moving[1]) != DA_OK) {
        m->failed = true;
        snprintf(m->failure, sizeof m->failure, "%s", da_last_error_message());
        return false;
    }
    int64_t of_direction = (m->step * PARTS + finished * PARTS / total) / m->steps;
    return !options->progress || options->progress((int64_t)m->direction * PARTS + of_direction,
                                                   (int64_t)m->directions * PARTS, options->progress_user);
}

da_call_options da_mover_options(da_mover *mover) {
    da_call_options options = mover->meeting->options;
    options.progress = move_messages;
    options.progress_user = mover;
    return options;
}

da_status da_mover_end(const da_mover *mover, da_status status) {
    return mover->failed ? da_report(DA_ERROR_COMMUNICATION, "%s", mover->failure) : status;
}
