/* Ranks that are threads of one process. A message is copied once, from the sender's memory to the receiver's, by the
 * thread that comes second; who comes first leaves its request in a list of the rank that the message goes to. */
#define _POSIX_C_SOURCE 200809L

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#include "comm/comm.h"
#include "core/memory.h"

typedef enum state { WAITING, COPYING, DONE, MISMATCHED } state;

typedef struct request {
    struct request *next; /* of those that wait for their other half */
    da_comm_group *group;
    int owner, peer, tag;
    bool sends;
    state state;
    size_t bytes, other_bytes; /* as this side says, and, where MISMATCHED, as the other does */
    const void *source;
    void *target;
} request;

typedef struct rank_state {
    da_comm_group *group;
    int rank;
    pthread_cond_t changed; /* a request of this rank has moved on, or somebody has given up */
    request *unmatched;     /* messages to this rank that so far only one side has begun, oldest first */
} rank_state;

struct da_comm_group {
    da_allocator allocator;
    double timeout;
    int ranks;
    int gave_up; /* the first rank that did; -1: none */
    pthread_mutex_t lock;
    rank_state *states;
};

/* ---- beginning --------------------------------------------------------------------------------------------------- */

/* Takes the oldest request that is the other half of this one out of its list; NULL, and this one is put there. */
static request *match(request *mine) {
    request **place = &mine->group->states[mine->sends ? mine->peer : mine->owner].unmatched;
    for (; *place; place = &(*place)->next) {
        request *other = *place;
        if (other->sends != mine->sends && other->tag == mine->tag && other->owner == mine->peer &&
            other->peer == mine->owner) {
            *place = other->next;
            return other;
        }
    }
    *place = mine;
    return NULL;
}

/* With the lock held, which is let go while bytes are copied. */
static void transfer(request *mine, request *other) {
    request *from = mine->sends ? mine : other, *to = mine->sends ? other : mine;
    state end = DONE;
    mine->other_bytes = other->bytes;
    other->other_bytes = mine->bytes;
    if (from->bytes != to->bytes) {
        end = MISMATCHED;
    } else if (from->bytes > 0) {
        mine->state = other->state = COPYING;
        pthread_mutex_unlock(&mine->group->lock);
        memcpy(to->target, from->source, from->bytes);
        pthread_mutex_lock(&mine->group->lock);
    }
    mine->state = other->state = end;
    pthread_cond_signal(&mine->group->states[other->owner].changed);
}

static da_status begin(rank_state *rank, request wanted, void **out) {
    da_comm_group *group = rank->group;
    if (wanted.peer < 0 || wanted.peer >= group->ranks) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is %d; allowed: 0 to %d", wanted.sends ? "to" : "from",
                         wanted.peer, group->ranks - 1);
    }
    if (wanted.tag < 0 || wanted.tag >= DA_COMM_TAGS) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "tag is %d; allowed: 0 to %d", wanted.tag, DA_COMM_TAGS - 1);
    }
    request *mine = da_allocate(&group->allocator, 1, sizeof *mine);
    if (!mine) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *mine = wanted;
    mine->group = group;
    mine->owner = rank->rank;
    *out = mine;
    pthread_mutex_lock(&group->lock);
    request *other = match(mine);
    if (other) {
        transfer(mine, other);
    }
    pthread_mutex_unlock(&group->lock);
    return DA_OK;
}

static da_status begin_send(const void *data, size_t bytes, int to, int tag, void **out, void *user) {
    return begin(user, (request){.source = data, .bytes = bytes, .peer = to, .tag = tag, .sends = true}, out);
}

static da_status begin_receive(void *data, size_t bytes, int from, int tag, void **out, void *user) {
    return begin(user, (request){.target = data, .bytes = bytes, .peer = from, .tag = tag, .sends = false}, out);
}

/* ---- ending ------------------------------------------------------------------------------------------------------ */

static struct timespec later(double seconds) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    long long whole = (long long)seconds;
    long nanoseconds = time.tv_nsec + (long)((seconds - (double)whole) * 1e9);
    time.tv_sec += (time_t)(whole + nanoseconds / 1000000000);
    time.tv_nsec = nanoseconds % 1000000000;
    return time;
}

/* How things stand, with the lock held. A message that is being copied arrives, whoever has given up. */
static da_status look(const request *mine, bool *done) {
    *done = mine->state == DONE;
    if (mine->state == MISMATCHED) {
        return da_report(DA_ERROR_COMMUNICATION, "rank %d %s %zu bytes with tag %d, and rank %d %s %zu", mine->owner,
                         mine->sends ? "sends" : "expects", mine->bytes, mine->tag, mine->peer,
                         mine->sends ? "expects" : "sends", mine->other_bytes);
    }
    if (mine->state == WAITING && mine->group->gave_up >= 0) {
        return da_report(DA_ERROR_COMMUNICATION, "rank %d has given up", mine->group->gave_up);
    }
    return DA_OK;
}

static da_status wait_for(void *of_mine, double seconds, bool *done, void *user) {
    request *mine = of_mine;
    rank_state *rank = user;
    struct timespec end = later(seconds);
    pthread_mutex_lock(&rank->group->lock);
    da_status status = look(mine, done);
    int waited = seconds > 0 ? 0 : ETIMEDOUT;
    while (status == DA_OK && !*done && waited == 0) {
        waited = pthread_cond_timedwait(&rank->changed, &rank->group->lock, &end);
        status = look(mine, done);
    }
    pthread_mutex_unlock(&rank->group->lock);
    if (*done) {
        da_release(&rank->group->allocator, mine);
    }
    return status;
}

static bool cancel(void *of_mine, void *user) {
    request *mine = of_mine;
    rank_state *rank = user;
    pthread_mutex_lock(&rank->group->lock);
    while (mine->state == COPYING) {
        pthread_cond_wait(&rank->changed, &rank->group->lock);
    }
    if (mine->state == WAITING) {
        request **place = &rank->group->states[mine->sends ? mine->peer : mine->owner].unmatched;
        while (*place != mine) {
            place = &(*place)->next;
        }
        *place = mine->next;
    }
    pthread_mutex_unlock(&rank->group->lock);
    da_release(&rank->group->allocator, mine);
    return true;
}

static void abandon(void *user) {
    rank_state *rank = user;
    da_comm_group *group = rank->group;
    pthread_mutex_lock(&group->lock);
    if (group->gave_up < 0) {
        group->gave_up = rank->rank;
    }
    for (int k = 0; k < group->ranks; k++) {
        pthread_cond_signal(&group->states[k].changed);
    }
    pthread_mutex_unlock(&group->lock);
}

/* ---- the group --------------------------------------------------------------------------------------------------- */

static da_status check(int ranks, double timeout, const da_allocator *allocator) {
    if (ranks < 1 || ranks > DA_MAX_THREADS) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "ranks is %d; allowed: 1 to %d", ranks, DA_MAX_THREADS);
    }
    da_status status = da_comm_check_timeout("timeout", timeout);
    return status == DA_OK ? da_check_allocator(allocator) : status;
}

static void set_up(da_comm_group *group) {
    pthread_condattr_t steady; /* waits are measured by a clock that nobody sets */
    pthread_condattr_init(&steady);
    pthread_condattr_setclock(&steady, CLOCK_MONOTONIC);
    pthread_mutex_init(&group->lock, NULL);
    for (int k = 0; k < group->ranks; k++) {
        group->states[k] = (rank_state){.group = group, .rank = k};
        pthread_cond_init(&group->states[k].changed, &steady);
    }
    pthread_condattr_destroy(&steady);
}

da_status da_comm_group_create(int ranks, double timeout, const da_allocator *allocator, da_comm_group **out) {
    if (!out) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "out is NULL; allowed: a place for the group");
    }
    *out = NULL;
    da_status status = check(ranks, timeout, allocator);
    if (status != DA_OK) {
        return status;
    }
    da_comm_group *group = da_allocate(allocator, 1, sizeof *group);
    rank_state *states = group ? da_allocate(allocator, (size_t)ranks, sizeof *states) : NULL;
    if (!states) {
        da_release(allocator, group);
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *group = (da_comm_group){.timeout = timeout, .ranks = ranks, .gave_up = -1, .states = states};
    if (allocator) {
        group->allocator = *allocator;
    }
    set_up(group);
    *out = group;
    return DA_OK;
}

da_status da_comm_group_rank(da_comm_group *group, int rank, da_comm *out) {
    if (!group || !out) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is NULL; allowed: %s", group ? "out" : "group",
                         group ? "a place for the rank's da_comm" : "a group");
    }
    if (rank < 0 || rank >= group->ranks) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "rank is %d; allowed: 0 to %d", rank, group->ranks - 1);
    }
    da_comm_init(out);
    out->rank = rank;
    out->ranks = group->ranks;
    out->timeout = group->timeout;
    out->user = &group->states[rank];
    out->send = begin_send;
    out->receive = begin_receive;
    out->wait = wait_for;
    out->cancel = cancel;
    out->abandon = abandon;
    return DA_OK;
}

void da_comm_group_free(da_comm_group *group) {
    if (!group) {
        return;
    }
    da_allocator allocator = group->allocator;
    for (int k = 0; k < group->ranks; k++) {
        for (request *left = group->states[k].unmatched, *next; left; left = next) {
            next = left->next;
            da_release(&allocator, left);
        }
        pthread_cond_destroy(&group->states[k].changed);
    }
    pthread_mutex_destroy(&group->lock);
    da_release(&allocator, group->states);
    da_release(&allocator, group);
}
