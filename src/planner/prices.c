#include "planner/prices.h"

#include <math.h>

#include "attention/improved/improved.h"
#include "attention/improved/passes.h"
#include "planner/estimate.h"
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

da_status da_price_forward(const da_context *context, const da_attention_config *config, const da_problem *problem,
                           da_pair_seconds *seconds) {
    double of_call = 0, pairs = 1;
    da_status status = da_estimate(context, &da_improved_implementation, config, problem, &of_call);
    if (status == DA_OK) {
        status = pairs_of(config, problem, &pairs);
    }
    seconds->forward = pairs > 0 ? of_call / pairs : 0;
    return status;
}

/* The problem, shortened: one sequence with a head for each thread, and as many tokens as take little time. */
static da_status shorten(const da_context *context, const da_attention_config *config, const da_problem *whole,
                         da_problem *problem, double *pairs) {
    int64_t threads = da_context_threads(context);
    *problem = *whole;
    problem->batch = 1;
    problem->heads = problem->heads < threads ? problem->heads : threads;
    problem->kv_heads = problem->heads;
    problem->n = problem->n < TIMED_TOKENS ? problem->n : TIMED_TOKENS;
    for (;; problem->n = (problem->n + 1) / 2) {
        da_status status = pairs_of(config, problem, pairs);
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
static da_status time_directions(const da_trial *trial, da_trial *gradients, const da_attention_config *config,
                                 double pairs, da_pair_seconds *found) {
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
                                   .config = config,
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
    found->grad_query = pairs > 0 ? seconds[0] / pairs : 0;
    found->grad_keys = pairs > 0 ? seconds[1] / pairs : 0;
    return status;
}

da_status da_price_backward(const da_context *context, const da_attention_config *config, const da_problem *problem,
                            da_pair_seconds *found) {
    da_problem shortened;
    da_trial trial, gradients = {0};
    double pairs, seconds;
    da_status status = shorten(context, config, problem, &shortened, &pairs);
    if (status == DA_OK) {
        status = da_trial_create(context, &shortened, &trial);
    }
    if (status != DA_OK) {
        return status;
    }
    status = da_trial_create(context, &shortened, &gradients);
    trial.implementation = &da_improved_implementation;
    if (status == DA_OK) {
        status = da_trial_run(&trial, config, (da_trial_size){shortened.batch, shortened.n, shortened.n}, &seconds);
    }
    if (status == DA_OK) {
        status = time_directions(&trial, &gradients, config, pairs, found);
    }
    da_trial_free(&trial);
    da_trial_free(&gradients);
    return status;
}
