/* How `distributed` divides the work of a call: by tokens, or by heads. */
#ifndef DA_ATTENTION_RANKS_CHOICE_H
#define DA_ATTENTION_RANKS_CHOICE_H

#include "attention/ranks/meeting.h"

/* What a rank is thought to compute in a second, and to send: a ratio that decides between few bytes and even work. */
#define DA_ASSUMED_FLOPS 1e11
#define DA_ASSUMED_BYTES 1e9

/* Sets *by_heads, the same on every rank. By tokens, kept keys and values travel, as many as the patterns say; by heads, all
 * tensors of the call do, and heads that do not divide evenly leave ranks idle. Collective. Errors:
 * DA_ERROR_COMMUNICATION, DA_ERROR_OUT_OF_MEMORY. */
da_status da_choose_split(const da_meeting *meeting, const da_tensor *query, const da_tensor *key, bool *by_heads);

#endif
