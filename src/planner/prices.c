/* What a pair of a query and a key takes on a rank. */
#include <math.h>

#include "attention/improved/improved.h"
#include "attention/improved/passes.h"
#include "planner/estimate.h"
#include "planner/ranks.h"
#include "planner/trial.h"

/* Floating-point operations of a timed backward call, and its tokens at most. */
#define TIMED_FLOPS 1.5e9
#define TIMED_TOKENS 8192
#define FLOPS_BACKWARD (DA_FLOPS_GRAD_QUERY + DA_FLOPS_GRAD_KEYS)
enum { REPEATS = 3 };

static da_status pairs_of(const da_attention_config *config, const da_problem *problem, double *pairs) {
    da_cost cost;
    da_cost_init(&cost);
    da_status status = da_pattern_cost(config, problem, &cost);
    *pairs = cost.distinct_pairs;
    return status;
}

/* By the model that da_plan has of a call. */
static da_status price_forward(const da_context *context, da_ranks_plan *plan) {
    double seconds = 0, pairs = 1;
    da_status status = da_estimate(context, &da_improved_implementation, &plan->config, &plan->problem, &seconds);
    if (status == DA_OK) {
        status = pairs_of(&plan->config, &plan->problem, &pairs);
    }
    plan->pair_seconds.forward = pairs > 0 ? seconds / pairs : 0;
    return status;
}

/* The problem, shortened: one sequence with a head for each thread, and as many tokens as take little time. */
static da_status shorten(const da_context *context, const da_ranks_plan *plan, da_problem *problem, double *pairs) {
    int64_t threads = da_context_threads(context);
    *problem = plan->problem;
    problem->batch = 1;
    problem->heads = problem->heads < threads ? problem->heads : threads;
    problem->kv_heads = problem->heads;
    problem->n = problem->n < TIMED_TOKENS ? problem->n : TIMED_TOKENS;
    for (;; problem->n = (problem->n + 1) / 2) {
        da_status status = pairs_of(&plan->config, problem, pairs);
        double flops = *pairs * FLOPS_BACKWARD * (double)problem->head_dim;
        if (status != DA_OK || flops <= TIMED_FLOPS * (double)problem->heads || problem->n == 1) {
            return status;
        }
    }
}

/* The fastest of some backward calls, as ranks make them. */
static da_status time_backward(const da_backward_call *call, const da_tensor *first, const da_tensor *second,
                               double *fastest) {
    da_whole whole;
    const da_head_range heads = da_all_heads(call->tensors->query);
    const da_scope *scope = da_scope_whole(&whole, first->shape[1], &heads, first, second);
    da_status status = DA_OK;
    *fastest = INFINITY;
    for (int repeat = 0; repeat < REPEATS && status == DA_OK; repeat++) {
        double start = da_trial_clock();
        status = da_improved_backward_scope(call, scope);
        double seconds = da_trial_clock() - start;
        *fastest = seconds < *fastest ? seconds : *fastest;
    }
    return status;
}

/* The gradient of queries alone, then those of keys and values, as they are computed over ranks. */
static da_status time_directions(const da_trial *trial, da_trial *gradients, da_ranks_plan *plan, double pairs) {
    da_backward_tensors tensors;
    da_call_options options;
    double seconds[2] = {0};
    da_backward_tensors_init(&tensors);
    da_call_options_init(&options);
    tensors.query = tensors.grad_out = &trial->query;
    tensors.key = &trial->key;
    tensors.value = &trial->value;
    tensors.out = &trial->out;
    tensors.lse = &trial->lse;
    const da_backward_call call = {.context = trial->context,
                                   .config = &plan->config,
                                   .tensors = &tensors,
                                   .options = &options,
                                   .scale = 1 / sqrt((double)trial->query.shape[3])};
    tensors.grad_query = &gradients->out;
    da_status status = time_backward(&call, &trial->key, &trial->value, &seconds[0]);
    tensors.grad_query = NULL;
    tensors.grad_key = &gradients->key;
    tensors.grad_value = &gradients->value;
    if (status == DA_OK) {
        status = time_backward(&call, &trial->query, &trial->query, &seconds[1]);
    }
    plan->pair_seconds.grad_query = pairs > 0 ? seconds[0] / pairs : 0;
    plan->pair_seconds.grad_keys = pairs > 0 ? seconds[1] / pairs : 0;
    return status;
}

static da_status price_backward(const da_context *context, da_ranks_plan *plan) {
    da_problem problem;
    da_trial trial, gradients = {0};
    double pairs, seconds;
    da_status status = shorten(context, plan, &problem, &pairs);
    if (status == DA_OK) {
        status = da_trial_create(context, &problem, &trial);
    }
    if (status != DA_OK) {
        return status;
    }
    status = da_trial_create(context, &problem, &gradients);
    trial.implementation = &da_improved_implementation;
    if (status == DA_OK) {
        status = da_trial_run(&trial, &plan->config, (da_trial_size){problem.batch, problem.n, problem.n}, &seconds);
    }
    if (status == DA_OK) {
        status = time_directions(&trial, &gradients, plan, pairs);
    }
    da_trial_free(&trial);
    da_trial_free(&gradients);
    return status;
}

da_status da_ranks_price(const da_context *context, da_ranks_plan *plan) {
    const da_ranks_options *options = &plan->options;
    da_pair_seconds *seconds = &plan->pair_seconds;
    double d = (double)plan->problem.head_dim;
    double backward_flops = options->backward_flops > 0 ? options->backward_flops : options->forward_flops;
    da_status status = DA_OK;
    if (options->forward_flops > 0) {
        seconds->forward = DA_FLOPS_FORWARD * d / options->forward_flops;
    } else {
        status = price_forward(context, plan);
    }
    if (backward_flops > 0) {
        seconds->grad_query = DA_FLOPS_GRAD_QUERY * d / backward_flops;
        seconds->grad_keys = DA_FLOPS_GRAD_KEYS * d / backward_flops;
    } else if (options->backward && status == DA_OK) {
        status = price_backward(context, plan);
    }
    return status;
}
