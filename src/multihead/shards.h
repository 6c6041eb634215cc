/* Parameters of a sharded module, gathered from all ranks, and gradients, summed over them. What travels at once is a bundle:
 * one parameter, or all vectors. In a packed array of a bundle lie first the rows of all its parameters that rank 0 holds, then
 * those of rank 1, and so on; so one parameter is packed as it is. */
#ifndef DA_MULTIHEAD_SHARDS_H
#define DA_MULTIHEAD_SHARDS_H

#include "multihead/module.h"

typedef struct da_bundle {
    int count;
    da_parameter_id ids[DA_PARAMETER_IDS]; /* that exist */
} da_bundle;

da_bundle da_bundle_of(da_parameter_id id);
da_bundle da_bundle_of_vectors(const da_parameter_table *table);

/* Elements of a packed array: of all ranks. */
int64_t da_bundle_elements(const da_parameter_table *table, const da_bundle *bundle);

/* Gives each whole parameter of a bundle its place in `elements`, one after the other. NULL: none. */
void da_bundle_place(const da_parameter_table *table, const da_bundle *bundle, da_dtype dtype, void *elements,
                     void *at[DA_PARAMETER_IDS]);

/* Collective: the bundle's parameters, packed, in the module's data type. After an error *safe says whether the memory of
 * `packed` may be released. */
da_status da_shards_gather(const da_multihead *multihead, const da_bundle *bundle, void *packed, bool *safe);

/* Between a packed array and one for each parameter, of all rows: whole[id], in the data type `to`. */
void da_shards_unpack(const da_multihead *multihead, const da_bundle *bundle, const void *packed, da_dtype dtype,
                      void *const whole[DA_PARAMETER_IDS], da_dtype to);
void da_shards_pack(const da_multihead *multihead, const da_bundle *bundle, void *const whole[DA_PARAMETER_IDS],
                    da_dtype dtype, void *packed);

/* Collective: adds to this rank's rows of `gradients` what all ranks have of them in their packed arrays, in the real type. */
da_status da_shards_reduce(const da_multihead *multihead, const da_bundle *bundle, const void *packed,
                           da_multihead_gradients *gradients);

/* What decides which of these collective functions a pass calls. */
typedef struct da_sharded_call {
    bool backward, of_parameters; /* gradients of parameters are wanted */
    int of_inputs;                /* those of inputs: 1: query, 2: key, 4: value */
} da_sharded_call;

/* Collective: do all ranks call for the same? Errors: DA_ERROR_COMMUNICATION; *alike if every rank gets it. */
da_status da_shards_agree(const da_multihead *multihead, const da_sharded_call *call, bool *alike);

/* Collective: DA_OK if every rank brings that. Otherwise this rank's own status, its message as it is, or that of the first
 * rank that has another, with a message that names it and what it could not do. */
da_status da_shards_share_status(const da_multihead *multihead, da_status status, const char *what);

#endif
