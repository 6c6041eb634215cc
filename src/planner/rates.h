/* What a network and a machine take: the numbers by which plans over ranks, and calls that choose between ways to divide
 * their work, reckon. */
#ifndef DA_PLANNER_RATES_H
#define DA_PLANNER_RATES_H

#include "dilated_attention.h"

/* Seconds of a pair in each direction of a pass; 0: unknown. */
typedef struct da_pair_seconds {
    double forward, grad_query, grad_keys;
} da_pair_seconds;

typedef struct da_rates {
    double latency, overhead, bandwidth; /* as da_ranks_options has them */
    da_pair_seconds pair;
} da_rates;

/* What a transfer of so many bytes takes; of none, nothing. */
static inline double da_transfer_seconds(const da_rates *rates, double bytes) {
    return bytes > 0 ? rates->latency + bytes / rates->bandwidth : 0;
}

/* Arithmetic of a pair in numbers of head_dim: the products of scores with values; of the gradient of queries (scores,
 * weights' gradients, sum of keys); of those of keys and values (the same two, and two sums). */
enum { DA_FLOPS_FORWARD = 4, DA_FLOPS_GRAD_QUERY = 6, DA_FLOPS_GRAD_KEYS = 8 };

/* Operations a second of a rank of which nothing is known. */
#define DA_ASSUMED_FLOPS 1e11

/* A validated copy of a caller's options. */
da_status da_ranks_options_import(const da_ranks_options *theirs, da_ranks_options *ours, const char *name);

/* The context's `rates`; those of da_ranks_options_init, if it was given none. */
const da_ranks_options *da_context_rates(const da_context *context);

/* What one knows without timing anything: what the options say, then what the context has measured for this very problem
 * (n and kv_heads put in), then DA_ASSUMED_FLOPS. Options with other rates than the context's may be given by a plan. */
void da_rates_known(const da_context *context, const da_ranks_options *options, const da_attention_config *config,
                    const da_problem *problem, da_rates *rates);

/* The same, but what neither the options nor the context knows is timed, and known to the context from then on; the
 * gradients' only if options->backward. Errors: those of a call. */
da_status da_rates_measure(const da_context *context, const da_ranks_options *options,
                           const da_attention_config *config, const da_problem *problem, da_rates *rates);

#endif
