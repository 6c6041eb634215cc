#include "planner/rates.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "config/validation.h"
#include "core/hash.h"
#include "planner/calibrations.h"
#include "planner/plan_key.h"
#include "planner/prices.h"

/* ---- options ------------------------------------------------------------------------------------------------------- */

void da_ranks_options_init(da_ranks_options *options) {
    if (options) {
        *options = (da_ranks_options){
            .size = sizeof *options, .ranks = 1, .latency = 5e-6, .overhead = 1e-6, .bandwidth = 25e9};
    }
}

static da_status check_number(const char *options, const char *name, double value, bool zero_is_allowed) {
    if (isfinite(value) && (value > 0 || (zero_is_allowed && value == 0))) {
        return DA_OK;
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT, "%s.%s is %g; allowed: a finite number %s 0", options, name, value,
                     zero_is_allowed ? "of at least" : "above");
}

da_status da_ranks_options_import(const da_ranks_options *theirs, da_ranks_options *ours, const char *name) {
    da_ranks_options_init(ours);
    da_status status = da_copy_sized(ours, sizeof *ours, theirs, name);
    if (status == DA_OK && (ours->ranks < 1 || ours->ranks > DA_MAX_PLANNED_RANKS)) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "%s.ranks is %d; allowed: 1 to %d", name, ours->ranks,
                           DA_MAX_PLANNED_RANKS);
    }
    const struct {
        const char *name;
        double value;
        bool zero_is_allowed;
    } numbers[] = {{"latency", ours->latency, true},
                   {"overhead", ours->overhead, true},
                   {"bandwidth", ours->bandwidth, false},
                   {"forward_flops", ours->forward_flops, true},
                   {"backward_flops", ours->backward_flops, true}};
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers && status == DA_OK; k++) {
        status = check_number(name, numbers[k].name, numbers[k].value, numbers[k].zero_is_allowed);
    }
    return status;
}

/* ---- pairs --------------------------------------------------------------------------------------------------------- */

/* What the options say; 0 where they say nothing. */
static da_pair_seconds given(const da_ranks_options *options, const da_problem *problem) {
    double d = (double)problem->head_dim, forward = options->forward_flops;
    double backward = options->backward_flops > 0 ? options->backward_flops : forward;
    return (da_pair_seconds){.forward = forward > 0 ? DA_FLOPS_FORWARD * d / forward : 0,
                             .grad_query = backward > 0 ? DA_FLOPS_GRAD_QUERY * d / backward : 0,
                             .grad_keys = backward > 0 ? DA_FLOPS_GRAD_KEYS * d / backward : 0};
}

/* Puts `other` in where nothing is known. */
static void complete(da_pair_seconds *known, const da_pair_seconds *other) {
    known->forward = known->forward > 0 ? known->forward : other->forward;
    known->grad_query = known->grad_query > 0 ? known->grad_query : other->grad_query;
    known->grad_keys = known->grad_keys > 0 ? known->grad_keys : other->grad_keys;
}

static uint64_t key_of(const da_context *context, const da_attention_config *config, const da_problem *problem) {
    da_plan_subject subject;
    char key[DA_PLAN_KEY_SIZE];
    da_plan_subject_of(context, config, problem, &subject);
    da_plan_key_write(&subject, key);
    return da_hash(key, strlen(key));
}

static void begin(const da_context *context, const da_ranks_options *options, const da_attention_config *config,
                  const da_problem *problem, da_rates *rates) {
    *rates = (da_rates){.latency = options->latency,
                        .overhead = options->overhead,
                        .bandwidth = options->bandwidth,
                        .pair = given(options, problem)};
    if (rates->pair.forward == 0 || rates->pair.grad_query == 0) {
        da_pair_seconds remembered =
            da_calibrations_pair(da_context_calibrations(context), key_of(context, config, problem));
        complete(&rates->pair, &remembered);
    }
}

void da_rates_known(const da_context *context, const da_ranks_options *options, const da_attention_config *config,
                    const da_problem *problem, da_rates *rates) {
    const da_ranks_options assumed = {.forward_flops = DA_ASSUMED_FLOPS};
    begin(context, options, config, problem, rates);
    if (rates->pair.forward > 0) { /* gradients at the rate of the forward pass */
        const double of_flop = rates->pair.forward / DA_FLOPS_FORWARD;
        complete(&rates->pair, &(da_pair_seconds){0, of_flop * DA_FLOPS_GRAD_QUERY, of_flop * DA_FLOPS_GRAD_KEYS});
    } else {
        da_pair_seconds seconds = given(&assumed, problem);
        complete(&rates->pair, &seconds);
    }
}

da_status da_rates_measure(const da_context *context, const da_ranks_options *options,
                           const da_attention_config *config, const da_problem *problem, da_rates *rates) {
    da_status status = DA_OK;
    bool measured = false;
    begin(context, options, config, problem, rates);
    da_pair_seconds timed = {0};
    if (rates->pair.forward == 0) {
        status = da_price_forward(context, config, problem, &timed);
        measured = true;
    }
    if (options->backward && status == DA_OK && (rates->pair.grad_query == 0 || rates->pair.grad_keys == 0)) {
        status = da_price_backward(context, config, problem, &timed);
        measured = true;
    }
    if (status == DA_OK && measured) {
        complete(&rates->pair, &timed);
        da_calibrations_enter_pair(da_context_calibrations(context), key_of(context, config, problem), &timed);
    }
    return status;
}
