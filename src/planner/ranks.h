/* The schedule of `ring` and `distributed` without data: what each rank sends, holds and takes. */
#ifndef DA_PLANNER_RANKS_H
#define DA_PLANNER_RANKS_H

#include "attention/ranks/choice.h"
#include "core/text.h"
#include "pattern/layout.h"
#include "planner/rates.h"

/* What is gone through. `distributed` divides each call as the call itself would. */
typedef enum da_scheme {
    DA_SCHEME_RING = 0,
    DA_SCHEME_DISTRIBUTED = 1,
    DA_SCHEME_TOKENS = 2, /* the same with tokens divided, whatever the configuration says */
    DA_SCHEME_HEADS = 3,  /* with heads divided */
    DA_SCHEMES = 4
} da_scheme;

struct da_ranks_plan {
    const da_allocator *allocator;
    da_attention_config config;
    da_problem problem;
    da_ranks_options options;
    da_rates rates;
    uint64_t memory;    /* of a rank's machine; 0: unknown */
    int count;          /* of ranks that were gone through */
    da_split split[2];  /* by da_pass: what the calls of `distributed` take, tokens or heads */
    bool split_is_open; /* it is the model that decides, by these times */
    da_split_seconds split_seconds[2];
    da_rank_share *shares[DA_SCHEMES];
    da_ranks_total totals[DA_SCHEMES];
    da_scheme choice;
    char reason[160];
    da_text text;
};

/* Fills in the ranks that are gone through, their shares and the totals (ranks.c). Errors: DA_ERROR_OUT_OF_MEMORY. */
da_status da_ranks_simulate(const da_context *context, da_ranks_plan *plan);

/* Writes text (ranks_text.c). Errors: DA_ERROR_OUT_OF_MEMORY. */
da_status da_ranks_write_text(da_ranks_plan *plan);

const char *da_scheme_name(da_scheme scheme);

#endif
