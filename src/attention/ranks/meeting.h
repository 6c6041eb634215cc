/* What the ranks of a call have in common. At the beginning of a call every rank says how many tokens it holds and what it
 * calls for; all must call for the same. */
#ifndef DA_ATTENTION_RANKS_MEETING_H
#define DA_ATTENTION_RANKS_MEETING_H

#include "comm/comm.h"
#include "pattern/layout.h"

/* What each rank calls for. */
typedef enum da_pass { DA_PASS_FORWARD = 0, DA_PASS_BACKWARD = 1 } da_pass;

typedef struct da_meeting {
    const da_context *context;
    const da_comm *comm;
    const da_attention_config *config;
    da_layout *layout;
    const da_part *part;     /* this rank's */
    da_call_options options; /* the call's; the mask, if there is one, of all tokens */
    uint8_t *mask;
    bool all_refuse; /* da_meeting_begin failed, as on every rank: nobody waits for another */
} da_meeting;

/* A call as far as ranks must agree on it. */
typedef struct da_meeting_call {
    da_pass pass;
    const da_tensor *query, *key;
    const da_call_options *options;
    double dropout;
    bool wants_lse;                           /* or, backward, has its gradient */
    bool wants_query, wants_key, wants_value; /* gradients */
} da_meeting_call;

/* Collective. Errors, on every rank: DA_ERROR_COMMUNICATION (a rank calls for something else), DA_ERROR_INVALID_ARGUMENT
 * (the lengths are not those of the configuration's partition; key_lengths beyond n), DA_ERROR_OUT_OF_MEMORY. */
da_status da_meeting_begin(da_meeting *meeting, const da_context *context, const da_attention_config *config,
                           const da_meeting_call *call);
void da_meeting_end(da_meeting *meeting);

/* Bytes that each rank says of itself at the beginning of a call. */
size_t da_meeting_bytes(void);

/* Collective: all ranks must have created the same implementation with the same configuration. */
da_status da_meeting_agree(const da_context *context, const char *implementation, const da_attention_config *config);

/* What a rank does in place of da_meeting_agree, if its arguments were refused with this status: the others hear that it
 * differs, at once. Where all ranks are refused, none does, and the communicator serves on. */
void da_meeting_refuse(const da_context *context, da_status status);

#endif
