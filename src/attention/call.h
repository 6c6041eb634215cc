/* The checks of forward and backward calls, the same for every implementation. */
#ifndef DA_ATTENTION_CALL_H
#define DA_ATTENTION_CALL_H

#include "dilated_attention.h"

/* What a call computes with, beside its tensors. */
typedef struct da_call_terms {
    da_call_options options; /* key_mask_stride filled in */
    double scale;
    double dropout; /* to apply */
} da_call_terms;

/* Check tensors and options (NULL: the defaults) as da_attention_forward, da_attention_tiles and da_attention_backward promise. is_part: the
 * tensors hold a part of the tokens, which may be none, and key_lengths go by all of them, of which the number is not known
 * here. */
da_status da_forward_check(const da_attention_config *config, bool is_part, const da_tensor *query,
                           const da_tensor *key, const da_tensor *value, const da_tensor *out, const da_tensor *lse,
                           const da_call_options *options, da_call_terms *terms);
da_status da_tiles_check(const da_attention_config *config, const da_tensor *query, const da_tensor *key,
                         const da_call_options *options, da_call_terms *terms); /* of whole tensors */
da_status da_backward_check(const da_attention_config *config, bool is_part, const da_backward_tensors *tensors,
                            const da_call_options *options, da_call_terms *terms);

#endif
