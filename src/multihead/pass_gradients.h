/* Where a backward pass adds gradients of parameters: to the gradients themselves, or, of a sharded module, to memory of its
 * own, from which they are summed over the ranks into each one's rows: weights one at a time, vectors at the end. */
#ifndef DA_MULTIHEAD_PASS_GRADIENTS_H
#define DA_MULTIHEAD_PASS_GRADIENTS_H

#include "multihead/module.h"

typedef struct da_pass_gradients {
    da_multihead_gradients *gradients; /* NULL: none are wanted */
    void *at[DA_PARAMETER_IDS];        /* in the real type; NULL: does not exist, or a weight that is not begun */
    void *memory;                      /* of a sharded module: all rows of the vectors and of one weight */
    void *packed, *matrix;             /* in it */
} da_pass_gradients;

/* gradients may be NULL: then there is nothing to do in all of these functions. */
da_status da_pass_gradients_make(const da_multihead *multihead, da_multihead_gradients *gradients,
                                 da_pass_gradients *out);
void da_pass_gradients_release(const da_multihead *multihead, da_pass_gradients *pass);

/* Before and after a weight's gradient is added up. The end is collective where the module is sharded. */
void da_pass_gradients_begin(const da_multihead *multihead, da_pass_gradients *pass, da_parameter_id weight);
da_status da_pass_gradients_end(const da_multihead *multihead, da_pass_gradients *pass, da_parameter_id weight);

/* When the vectors' are added up. Collective where the module is sharded. */
da_status da_pass_gradients_finish(const da_multihead *multihead, da_pass_gradients *pass);

#endif
