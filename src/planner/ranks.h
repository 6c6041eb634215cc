/* The schedule of `ring` and `distributed` without data: what each rank sends, holds and takes. */
#ifndef DA_PLANNER_RANKS_H
#define DA_PLANNER_RANKS_H

#include "core/text.h"
#include "pattern/layout.h"
#include "planner/traffic.h"

typedef enum da_scheme { DA_SCHEME_RING = 0, DA_SCHEME_DISTRIBUTED = 1, DA_SCHEMES = 2 } da_scheme;

/* Seconds of a pair in each direction of a pass. */
typedef struct da_pair_seconds {
    double forward, grad_query, grad_keys;
} da_pair_seconds;

struct da_ranks_plan {
    const da_allocator *allocator;
    da_attention_config config;
    da_problem problem;
    da_ranks_options options;
    da_pair_seconds pair_seconds;
    uint64_t memory; /* of a rank's machine; 0: unknown */
    int count;       /* of ranks that were gone through */
    da_rank_share *shares[DA_SCHEMES];
    da_ranks_total totals[DA_SCHEMES];
    da_scheme choice;
    char reason[160];
    da_text text;
};

/* Arithmetic of a pair in numbers of head_dim: the products of scores with values; of the gradient of queries (scores,
 * weights' gradients, sum of keys); of those of keys and values (the same two, and two sums). */
enum { DA_FLOPS_FORWARD = 4, DA_FLOPS_GRAD_QUERY = 6, DA_FLOPS_GRAD_KEYS = 8 };

/* Fills in pair_seconds from the options, or else from this machine's timings (prices.c). */
da_status da_ranks_price(const da_context *context, da_ranks_plan *plan);

/* Fills in the ranks that are gone through, their shares and the totals (ranks.c). Errors: DA_ERROR_OUT_OF_MEMORY. */
da_status da_ranks_simulate(const da_context *context, da_ranks_plan *plan);

/* Writes text (ranks_text.c). Errors: DA_ERROR_OUT_OF_MEMORY. */
da_status da_ranks_write_text(da_ranks_plan *plan);

const char *da_scheme_name(da_scheme scheme);

#endif
