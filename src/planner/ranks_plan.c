/* da_plan_ranks and what is asked of its result. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "config/validation.h"
#include "core/memory.h"
#include "planner/ranks.h"

/* Times of both schemes that differ by less are taken to be equal. */
#define NEAR 1.02

/* ---- arguments ---------------------------------------------------------------------------------------------------- */

void da_rank_share_init(da_rank_share *share) {
    if (share) {
        *share = (da_rank_share){.size = sizeof *share};
    }
}

void da_ranks_total_init(da_ranks_total *total) {
    if (total) {
        *total = (da_ranks_total){.size = sizeof *total};
    }
}

static da_status import_problem(const da_problem *theirs, da_problem *ours) {
    da_status status = da_problem_import(theirs, ours);
    if (status == DA_OK && ours->n < 1) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "problem.n is 0; allowed: 1 or more");
    }
    if (status == DA_OK && ours->heads > DA_MAX_PLANNED_HEADS) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "problem.heads is %lld; allowed over ranks: 1 to %d",
                           (long long)ours->heads, DA_MAX_PLANNED_HEADS);
    }
    return status;
}

/* ---- the choice ---------------------------------------------------------------------------------------------------- */

static void choose(da_ranks_plan *plan) {
    const da_ranks_total *ring = &plan->totals[DA_SCHEME_RING], *all = &plan->totals[DA_SCHEME_DISTRIBUTED];
    double memory = plan->memory > 0 ? (double)plan->memory : INFINITY;
    da_scheme smaller = ring->memory_most <= all->memory_most ? DA_SCHEME_RING : DA_SCHEME_DISTRIBUTED;
    da_scheme quicker = ring->seconds <= all->seconds ? DA_SCHEME_RING : DA_SCHEME_DISTRIBUTED;
    const char *why = "it is the quicker";
    plan->choice = quicker;
    if (plan->totals[quicker].memory_most > memory) {
        plan->choice = smaller;
        why = plan->totals[smaller].memory_most > memory ? "neither fits into memory, and it needs less"
                                                         : "the other does not fit into memory";
    } else if (fmax(ring->seconds, all->seconds) <= NEAR * plan->totals[quicker].seconds) {
        plan->choice = smaller;
        why = "both take the same time, and it needs less memory";
    }
    snprintf(plan->reason, sizeof plan->reason, "%s", why);
}

/* ---- the plan ---------------------------------------------------------------------------------------------------- */

da_status da_plan_ranks(const da_context *context, const da_attention_config *config, const da_problem *problem,
                        const da_ranks_options *options, da_ranks_plan **out) {
    da_ranks_plan given;
    if (!out || !context) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is NULL; allowed: %s", out ? "context" : "out",
                         out ? "a context" : "a place for the plan");
    }
    *out = NULL;
    memset(&given, 0, sizeof given);
    da_status status = da_attention_config_import(config, &given.config);
    if (status == DA_OK) {
        status = import_problem(problem, &given.problem);
    }
    if (status == DA_OK) {
        status = da_ranks_options_import(options, &given.options, "options");
    }
    if (status != DA_OK) {
        return status;
    }
    given.allocator = given.text.allocator = da_context_allocator(context);
    given.memory = da_context_hardware(context)->memory;
    da_ranks_plan *plan = da_allocate(given.allocator, 1, sizeof *plan);
    if (!plan) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *plan = given;
    status = da_rates_measure(context, &plan->options, &plan->config, &plan->problem, &plan->rates);
    if (status == DA_OK) {
        status = da_ranks_simulate(context, plan);
    }
    if (status == DA_OK) {
        choose(plan);
        status = da_ranks_write_text(plan);
    }
    if (status != DA_OK) {
        da_ranks_plan_free(plan);
        return status;
    }
    *out = plan;
    return DA_OK;
}

void da_ranks_plan_free(da_ranks_plan *plan) {
    if (plan) {
        da_text_free(&plan->text);
        for (int scheme = 0; scheme < DA_SCHEMES; scheme++) {
            da_release(plan->allocator, plan->shares[scheme]);
        }
        da_release(plan->allocator, plan);
    }
}

/* ---- getters ---------------------------------------------------------------------------------------------------- */

const char *da_scheme_name(da_scheme scheme) {
    static const char *const names[DA_SCHEMES] = {"ring", "distributed", "distributed_tokens", "distributed_heads"};
    return names[scheme];
}

da_split da_ranks_plan_split(const da_ranks_plan *plan, bool backward) {
    return plan && (!backward || plan->options.backward) ? plan->split[backward] : DA_SPLIT_AUTO;
}

const char *da_ranks_plan_choice(const da_ranks_plan *plan) {
    return plan ? da_scheme_name(plan->choice) : NULL;
}

size_t da_ranks_plan_count(const da_ranks_plan *plan) {
    return plan ? (size_t)plan->count : 0;
}

const char *da_ranks_plan_text(const da_ranks_plan *plan) {
    return plan ? plan->text.data : NULL;
}

static da_status find_scheme(const da_ranks_plan *plan, const char *implementation, da_scheme *scheme) {
    if (!plan) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "plan is NULL; allowed: what da_plan_ranks made");
    }
    for (int k = 0; k < DA_SCHEMES && implementation; k++) {
        *scheme = (da_scheme)k;
        if (strcmp(implementation, da_scheme_name(*scheme)) == 0) {
            return DA_OK;
        }
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT,
                     "implementation is \"%s\"; allowed: ring, distributed, distributed_tokens, distributed_heads",
                     implementation ? implementation : "");
}

da_status da_ranks_plan_share(const da_ranks_plan *plan, const char *implementation, size_t index, da_rank_share *out) {
    da_scheme scheme;
    da_status status = find_scheme(plan, implementation, &scheme);
    if (status == DA_OK) {
        status = da_check_result(out, sizeof *out, "out");
    }
    if (status == DA_OK && index >= (size_t)plan->count) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "index is %zu; allowed: 0 to %d", index, plan->count - 1);
    }
    if (status == DA_OK) {
        size_t size = out->size;
        *out = plan->shares[scheme][index];
        out->size = size;
    }
    return status;
}

da_status da_ranks_plan_total(const da_ranks_plan *plan, const char *implementation, da_ranks_total *out) {
    da_scheme scheme;
    da_status status = find_scheme(plan, implementation, &scheme);
    if (status == DA_OK) {
        status = da_check_result(out, sizeof *out, "out");
    }
    if (status == DA_OK) {
        size_t size = out->size;
        *out = plan->totals[scheme];
        out->size = size;
    }
    return status;
}
