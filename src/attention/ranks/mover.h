/* Messages that move while a rank computes. Transports move them only when they are called: every report of progress of a
 * pass is an occasion. */
#ifndef DA_ATTENTION_RANKS_MOVER_H
#define DA_ATTENTION_RANKS_MOVER_H

#include <stddef.h>

#include "attention/ranks/meeting.h"

/* Messages under way, each a member of one struct of an array. A transport that is asked for one message moves all of them,
 * so that only the first that is still under way is looked at. */
typedef struct da_moving {
    da_message *first;
    size_t stride;      /* bytes from one to the next */
    int count, arrived; /* the first ones, which need not be looked at any more */
} da_moving;

/* One run of a pass, which is the `step`-th of the `steps` of one of the call's directions. */
typedef struct da_mover {
    const da_meeting *meeting;
    da_moving moving[2];
    int step, steps, direction, directions;
    bool failed;
    char failure[256]; /* the message then, which the cancelled run replaces by its own */
} da_mover;

/* The call's options for the run: it moves messages, and reports its part of the call. */
da_call_options da_mover_options(da_mover *mover);

/* The status of a run that returned `status`. */
da_status da_mover_end(const da_mover *mover, da_status status);

#endif
