/* How columns come to the rows that see them: one direction of a pass, over the ranks of a meeting. */
#ifndef DA_ATTENTION_RANKS_COLUMNS_H
#define DA_ATTENTION_RANKS_COLUMNS_H

#include "attention/ranks/parcel.h"

typedef struct da_direction {
    const da_meeting *meeting;
    const da_cargo *cargo;
    size_t carry_bytes; /* of this rank's rows */
    /* Computes this rank's rows against the columns of a scope. `options` are to be the call's. */
    da_status (*run)(const da_scope *scope, const da_call_options *options, void *user);
    void *user;
    int number, count; /* which direction of the pass this is, for reports of progress */
} da_direction;

/* Runs a direction. Collective. After an error the communicator is of no use any more, and the other ranks end, too. */
typedef da_status da_run_direction(const da_direction *direction);

/* One rank's columns after the other's: while rows meet those of one, the next ones' travel. Memory: two ranks' rows that
 * came and one's that go, and the carry. */
da_run_direction da_run_ring;

/* Rows meet this rank's own columns while all others are gathered, and then those at once. Memory: all rows that come and
 * go, and the carry if any come. */
da_run_direction da_run_gathered;

/* Bytes of the lists that da_run_gathered keeps of all ranks, apart from what travels. */
size_t da_gathered_bytes(int ranks);

#endif
