/* What the library does with a da_comm: messages whose waits end in bounded time, and what all ranks do together. Every
 * error that another rank has to do with is DA_ERROR_COMMUNICATION, and its message names that rank and what was to come. */
#ifndef DA_COMM_COMM_H
#define DA_COMM_COMM_H

#include "dilated_attention.h"

enum { DA_COMM_TAGS = 1024 };      /* 0..DA_COMM_TAGS-1 */
enum { DA_TAG_COLLECTIVE = 1023 }; /* of what all ranks do together; the others are free for messages */

#define DA_MAX_TIMEOUT 1e9 /* seconds */

static inline da_status da_comm_check_timeout(const char *argument, double timeout) {
    if (!(timeout > 0 && timeout <= DA_MAX_TIMEOUT)) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is %g; allowed: above 0, at most %g seconds", argument, timeout,
                         DA_MAX_TIMEOUT);
    }
    return DA_OK;
}

/* A validated copy of a caller's table. */
da_status da_comm_import(const da_comm *theirs, da_comm *ours);

/* A message on its way. */
typedef struct da_message {
    void *request;    /* NULL: not begun, or ended */
    const char *what; /* for messages to people, "keys and values" say; lives as long as the message */
    int peer;
    bool sends;
} da_message;

/* Begin to send or receive; the memory stays as it is until the message has ended. */
da_status da_comm_send(const da_comm *comm, const void *data, size_t bytes, int to, int tag, const char *what,
                       da_message *message);
da_status da_comm_receive(const da_comm *comm, void *data, size_t bytes, int from, int tag, const char *what,
                          da_message *message);

/* Looks whether a message has ended, and lets messages move on; *done is true for one that is not under way. After an
 * error the message is still to be given up. */
da_status da_comm_look(const da_comm *comm, da_message *message, bool *done);

/* Waits until a message has ended, for comm->timeout seconds at most. After an error it is still to be given up. */
da_status da_comm_wait(const da_comm *comm, da_message *message);

/* Ends a message, if it is under way. False: the transport may still touch its memory, which must never be released. */
bool da_comm_give_up(const da_comm *comm, da_message *message);

/* The same for `count` messages: all are waited for, or the first error is returned and all are given up. *safe (may be
 * NULL) says whether their memory may be released. */
da_status da_comm_wait_all(const da_comm *comm, da_message *messages, size_t count, bool *safe);

/* What all ranks do together, in the same order. The caller's memory may be released after an error, too: what the
 * transport could still touch is a copy, from `allocator`. */

/* `bytes` bytes of each rank, in the order of the ranks, into `all`. */
da_status da_comm_gather(const da_comm *comm, const da_allocator *allocator, const void *mine, size_t bytes, void *all);

/* data[k] becomes the sum over all ranks: added in f64 in the order of the ranks, and rounded once, so that every rank has
 * the same bits. dtype is DA_F32 or DA_F64. */
da_status da_comm_reduce(const da_comm *comm, const da_allocator *allocator, void *data, int64_t count, da_dtype dtype);

/* An array is made of one slice for each rank, in the order of the ranks, of any lengths that all ranks know, 0 too.
 *
 * gather: `all` is such an array, slice r of bytes[r] bytes; each rank has its own slice there, and gets the others'. After an
 * error *safe says whether the memory of `all` may be released. what: as of messages.
 *
 * reduce: `data` is such an array, slice r of counts[r] numbers; `sum`, of counts[comm->rank] numbers, becomes the sum over all
 * ranks of this rank's slice: to the bit as da_comm_reduce's. */
da_status da_comm_gather_slices(const da_comm *comm, const da_allocator *allocator, const size_t *bytes, void *all,
                                const char *what, bool *safe);
da_status da_comm_reduce_slices(const da_comm *comm, const da_allocator *allocator, const void *data,
                                const int64_t *counts, da_dtype dtype, void *sum);

/* All ranks must give the same bytes, of which a 64-bit hash is compared. Otherwise every rank gets DA_ERROR_COMMUNICATION,
 * which names the first rank that differs from rank 0; `what` says in what. */
da_status da_comm_agree(const da_comm *comm, const da_allocator *allocator, const void *bytes, size_t count,
                        const char *what);

/* This rank gives up: the others' waits end soon, where the transport can tell them. */
void da_comm_abandon(const da_comm *comm);

#endif
