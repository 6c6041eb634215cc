/* What every da_comm must do, whatever carries its messages: each check is run by all ranks at once. */
#ifndef DA_TESTS_COMM_CHECKS_H
#define DA_TESTS_COMM_CHECKS_H

#include "comm/comm.h"

typedef struct comm_check {
    const char *name;
    int fewest_ranks;
    bool last; /* the da_comm is of no further use after it */
    /* NULL if all is right, else what is not; the text lives until the next check on this thread. */
    const char *(*run)(const da_comm *comm);
} comm_check;

extern const comm_check comm_checks[];
extern const size_t comm_check_count;

#endif
