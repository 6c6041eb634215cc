/* Seconds on a clock that only runs forward. */
#ifndef DA_CLI_CLOCK_H
#define DA_CLI_CLOCK_H

#include <time.h>

static inline double cli_now(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

#endif
