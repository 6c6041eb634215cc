/* A da_comm around another, as over a slower network, in real time: so that a test or a benchmark can see whether messages
 * travel while ranks compute. */
#ifndef DA_COMM_SLOW_H
#define DA_COMM_SLOW_H

#include "dilated_attention.h"

typedef struct da_slow {
    da_comm inner;
    double latency;   /* seconds that a message is under way once its last byte has left */
    double bandwidth; /* bytes that leave this rank in a second, whoever they go to; INFINITY: no limit */
    double free_at;   /* when the last byte so far will have left, by da_seconds() */
} da_slow;

/* Makes the da_comm `out` around `inner`. A send that is begun at a time t ends once all bytes begun before and its own could
 * have left since, and is received `latency` after that at the earliest; nothing waits for it. All ranks of the group must do
 * so, and have one clock: they run on one machine. `slow` lives as long as `out` is used; there is nothing to free. */
void da_slow_init(da_slow *slow, const da_comm *inner, double latency, double bandwidth, da_comm *out);

#endif
