/* The checks of a forward call, the same for every implementation. */
#ifndef DA_ATTENTION_CALL_H
#define DA_ATTENTION_CALL_H

#include "dilated_attention.h"

/* Checks tensors and options as da_attention_forward promises. On success *ours holds the options with key_mask_stride
 * filled in, and *scale the scale to use. query..value, out are required, lse and theirs may be NULL. */
da_status da_forward_check(const da_attention_config *config, const da_tensor *query, const da_tensor *key,
                           const da_tensor *value, const da_tensor *out, const da_tensor *lse,
                           const da_forward_options *theirs, da_forward_options *ours, double *scale);

#endif
