/* A profile: for each head a pattern and its ratio. */
#ifndef DA_BLOCK_SPARSE_PROFILE_H
#define DA_BLOCK_SPARSE_PROFILE_H

#include "attention/block_sparse/patterns.h"

#define DA_MAX_PROFILE_HEADS 65536

struct da_sparse_profile {
    da_allocator allocator;
    int64_t heads, block_size;
    double quality_target;
    da_sparse_rule rules[]; /* of each head; the pattern may be content */
};

/* One without rules yet. Errors: DA_ERROR_OUT_OF_MEMORY. */
da_status da_sparse_profile_allocate(const da_allocator *allocator, int64_t heads, da_sparse_profile **out);

/* DA_ERROR_INVALID_ARGUMENT if a configuration's profile, if it has one, is not of so many heads. */
da_status da_sparse_profile_check(const da_attention_config *config, int64_t heads);

#endif
