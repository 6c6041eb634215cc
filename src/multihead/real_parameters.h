/* Parameters as a pass computes with them: in the real type, and, of a sharded module, gathered from all ranks. Its vectors are
 * at hand during the whole pass, its weights one at a time. */
#ifndef DA_MULTIHEAD_REAL_PARAMETERS_H
#define DA_MULTIHEAD_REAL_PARAMETERS_H

#include "multihead/module.h"

typedef struct da_real_parameters {
    const void *at[DA_PARAMETER_IDS];     /* NULL: does not exist, or a weight that is not at hand */
    const void *stored[DA_PARAMETER_IDS]; /* weights in the module's data type; NULL as above */
    void *memory;                         /* NULL: none, all is the module's own */
    void *matrix, *real_matrix; /* in it, of a sharded module: place for a weight; one where the types are one */
    bool safe;                  /* to release it */
} da_real_parameters;

/* Collective where the module is sharded, as is fetch; to be released after an error of fetch, too. */
da_status da_real_parameters_make(const da_multihead *multihead, da_real_parameters *out);
void da_real_parameters_release(const da_multihead *multihead, da_real_parameters *parameters);

/* The weight is at hand until the next is fetched. Those of a module that is not sharded always are. */
da_status da_real_parameters_fetch(const da_multihead *multihead, da_real_parameters *parameters,
                                   da_parameter_id weight);

da_layer_norm da_real_norm(const da_multihead *multihead, const da_real_parameters *parameters, da_parameter_id weight);

#endif
