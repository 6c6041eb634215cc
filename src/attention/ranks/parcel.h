/* Rows that one rank sends another: of two tensors, those that the patterns keep and the other's rows see. Sender and
 * receiver find the same rows by the same function (pattern/kept.h), so that nothing else need be said. */
#ifndef DA_ATTENTION_RANKS_PARCEL_H
#define DA_ATTENTION_RANKS_PARCEL_H

#include "attention/ranks/meeting.h"
#include "attention/scope.h"

/* What columns are made of, in one direction of a pass: keys with their values, or queries with the gradient of their
 * outputs. */
typedef struct da_cargo {
    const da_tensor *first, *second;  /* this rank's */
    const da_backward_call *backward; /* NULL; where columns are queries, the call, for their terms */
    da_head_range query_heads;
    int tag;
    const char *name; /* for messages */
} da_cargo;

typedef struct da_parcel {
    int peer;
    const da_part *columns;   /* whose rows they are: the sender's part */
    int64_t heads;            /* of the tensors */
    da_kept *kept;            /* [heads] */
    int64_t *first_rows;      /* [heads] */
    char **kept_memory;       /* [heads]; of each kept */
    int64_t rows;             /* of each tensor, over all batch elements and heads; 0: there is no message */
    char *plan_memory, *data; /* of the three above; of the message */
    da_message message;
} da_parcel;

/* Does the rank that holds `rows` need any of the rows of the one that holds `columns`? */
bool da_parcel_is_needed(const da_meeting *meeting, const da_cargo *cargo, const da_part *rows, const da_part *columns);

/* Finds the rows that the rank which holds `rows` needs of the one that holds `columns`, one of which is this rank, the
 * other `peer`. Without any, no memory is taken. */
da_status da_parcel_plan(da_parcel *parcel, const da_meeting *meeting, const da_cargo *cargo, int peer,
                         const da_part *rows, const da_part *columns);

/* Begins to receive; packs and begins to send. Without rows nothing happens. */
da_status da_parcel_receive(da_parcel *parcel, const da_meeting *meeting, const da_cargo *cargo);
da_status da_parcel_send(da_parcel *parcel, const da_meeting *meeting, const da_cargo *cargo);

da_status da_parcel_wait(da_parcel *parcel, const da_meeting *meeting);

/* The rows that have arrived. */
da_source da_parcel_source(const da_parcel *parcel, const da_cargo *cargo);

/* Ends the message, if it is under way, and releases all memory that is safe to release. */
void da_parcel_free(da_parcel *parcel, const da_meeting *meeting);

/* ---- sizes, also for plans --------------------------------------------------------------------------------------- */

/* Bytes of a message of `rows` rows of each tensor; with_terms: as in the backward pass, where columns are queries. */
size_t da_parcel_message_bytes(int64_t rows, int64_t head_dim, da_dtype dtype, bool with_terms);

/* Bytes of a parcel's lists apart from da_kept_bytes of each head. */
size_t da_parcel_plan_bytes(int64_t heads);

/* Bytes that da_parcel_plan takes, and releases, to mark rows of a part of `length` rows. */
size_t da_parcel_marks_bytes(int64_t length);

#endif
