/* Time that only goes forward, and rests while something is polled. Needs POSIX's clock_gettime and nanosleep. */
#ifndef DA_COMM_CLOCK_H
#define DA_COMM_CLOCK_H

#include <sched.h>
#include <time.h>

#include "dilated_attention.h"

static inline double da_seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

/* Rests that grow: at first other threads of this core come first, then longer and longer sleeps, up to 1 ms, since ranks
 * that wait may share their cores with ranks that compute. Zero it to start. */
typedef struct da_rests {
    int count;
    long nanoseconds;
} da_rests;

static inline void da_rest(da_rests *rests) {
    enum { YIELDS = 50, SHORTEST = 10000, LONGEST = 1000000 };
    if (rests->count < YIELDS) {
        rests->count++;
        rests->nanoseconds = SHORTEST;
        sched_yield();
        return;
    }
    nanosleep(&(struct timespec){0, rests->nanoseconds}, NULL);
    rests->nanoseconds = rests->nanoseconds < LONGEST / 2 ? 2 * rests->nanoseconds : LONGEST;
}

/* For transports whose requests move on only when they are looked at: the `wait` of a da_comm by `look`, which says whether a
 * request has ended. */
static inline da_status da_wait_by_looking(da_status (*look)(void *user, void *request, bool *done), void *user,
                                           void *request, double seconds, bool *done) {
    da_rests rests = {0};
    double end = da_seconds() + seconds;
    da_status status = look(user, request, done);
    while (status == DA_OK && !*done && seconds > 0 && da_seconds() < end) {
        da_rest(&rests);
        status = look(user, request, done);
    }
    return status;
}

#endif
