#include "attention/ranks/ranks.h"

#include "attention/improved/passes.h"
#include "attention/ranks/choice.h"
#include "attention/ranks/heads.h"
#include "attention/workspace.h"

enum { TAG_KEYS = 0, TAG_QUERIES = 1 };

/* After an error other ranks would wait in vain. */
static da_status leave(da_meeting *meeting, da_status status) {
    if (status != DA_OK && !meeting->all_refuse) {
        da_comm_abandon(meeting->comm);
    }
    da_meeting_end(meeting);
    return status;
}

static da_cargo keys_and_values(const da_tensor *query, const da_tensor *key, const da_tensor *value) {
    return (da_cargo){
        .first = key, .second = value, .query_heads = da_all_heads(query), .tag = TAG_KEYS, .name = "keys and values"};
}

/* ---- forward ------------------------------------------------------------------------------------------------------ */

static da_status forward_scope(const da_scope *scope, const da_call_options *options, void *user) {
    da_forward_call call = *(const da_forward_call *)user;
    call.options = options;
    return da_improved_forward_scope(&call, scope);
}

static da_status forward_by_tokens(const da_forward_call *call, const da_meeting *meeting,
                                   da_run_direction *run_direction) {
    da_problem problem;
    da_cargo cargo = keys_and_values(call->query, call->key, call->value);
    da_forward_call ours = *call;
    da_problem_of_tensors(call->query, call->key, &problem);
    const da_direction direction = {.meeting = meeting,
                                    .cargo = &cargo,
                                    .carry_bytes =
                                        da_improved_forward_carry(call->context, call->dropout > 0, &problem),
                                    .run = forward_scope,
                                    .user = &ours,
                                    .count = 1};
    return run_direction(&direction);
}

static da_status choose(const da_ranks_way *way, const da_meeting *meeting, da_pass pass, const da_tensor *query,
                        const da_tensor *key, bool *by_heads) {
    *by_heads = false;
    return way->may_split_heads ? da_choose_split(meeting, pass, query, key, by_heads) : DA_OK;
}

da_status da_ranks_forward(const da_forward_call *call, const da_ranks_way *way) {
    da_meeting meeting;
    bool by_heads;
    const da_meeting_call common = {.pass = DA_PASS_FORWARD,
                                    .query = call->query,
                                    .key = call->key,
                                    .options = call->options,
                                    .dropout = call->dropout,
                                    .wants_lse = call->lse != NULL};
    da_status status = da_meeting_begin(&meeting, call->context, call->config, &common);
    if (status == DA_OK) {
        status = choose(way, &meeting, DA_PASS_FORWARD, call->query, call->key, &by_heads);
    }
    if (status == DA_OK) {
        status = by_heads ? da_heads_forward(&meeting, call) : forward_by_tokens(call, &meeting, way->run_direction);
    }
    return leave(&meeting, status);
}

/* ---- backward ----------------------------------------------------------------------------------------------------- */

static da_status backward_scope(const da_scope *scope, const da_call_options *options, void *user) {
    da_backward_call call = *(const da_backward_call *)user;
    call.options = options;
    return da_improved_backward_scope(&call, scope);
}

static int count_directions(const da_backward_tensors *t) {
    return t->grad_query && (t->grad_key || t->grad_value) ? 2 : 1;
}

/* The gradient of queries: keys and values travel. */
static da_status backward_queries(const da_backward_call *call, const da_meeting *meeting, const da_problem *problem,
                                  da_run_direction *run_direction) {
    const da_backward_tensors *t = call->tensors;
    da_cargo cargo = keys_and_values(t->query, t->key, t->value);
    da_backward_tensors tensors = *t;
    da_backward_call ours = *call;
    tensors.grad_key = tensors.grad_value = NULL;
    ours.tensors = &tensors;
    const da_direction direction = {
        .meeting = meeting,
        .cargo = &cargo,
        .carry_bytes = da_improved_backward_carry(call->context, call->dropout > 0, problem, problem->heads),
        .run = backward_scope,
        .user = &ours,
        .count = count_directions(t)};
    return run_direction(&direction);
}

/* The gradients of keys and values: queries and the gradients of their outputs travel, so that no sums do, and each
 * gradient is added up in one place. */
static da_status backward_keys(const da_backward_call *call, const da_meeting *meeting, const da_problem *problem,
                               da_run_direction *run_direction) {
    const da_backward_tensors *t = call->tensors;
    da_cargo cargo = {.first = t->query,
                      .second = t->grad_out,
                      .backward = call,
                      .query_heads = da_all_heads(t->query),
                      .tag = TAG_QUERIES,
                      .name = "queries and gradients of outputs"};
    da_backward_tensors tensors = *t;
    da_backward_call ours = *call;
    tensors.grad_query = NULL;
    ours.tensors = &tensors;
    const da_direction direction = {
        .meeting = meeting,
        .cargo = &cargo,
        .carry_bytes = 2 * da_improved_backward_carry(call->context, call->dropout > 0, problem, problem->kv_heads),
        .run = backward_scope,
        .user = &ours,
        .number = count_directions(t) - 1,
        .count = count_directions(t)};
    return run_direction(&direction);
}

static da_status backward_by_tokens(const da_backward_call *call, const da_meeting *meeting,
                                    da_run_direction *run_direction) {
    const da_backward_tensors *t = call->tensors;
    da_problem problem;
    da_problem_of_tensors(t->query, t->key, &problem);
    da_status status = t->grad_query ? backward_queries(call, meeting, &problem, run_direction) : DA_OK;
    if (status == DA_OK && (t->grad_key || t->grad_value)) {
        status = backward_keys(call, meeting, &problem, run_direction);
    }
    return status;
}

da_status da_ranks_backward(const da_backward_call *call, const da_ranks_way *way) {
    const da_backward_tensors *t = call->tensors;
    da_meeting meeting;
    bool by_heads;
    const da_meeting_call common = {.pass = DA_PASS_BACKWARD,
                                    .query = t->query,
                                    .key = t->key,
                                    .options = call->options,
                                    .dropout = call->dropout,
                                    .wants_lse = t->grad_lse != NULL,
                                    .wants_query = t->grad_query != NULL,
                                    .wants_key = t->grad_key != NULL,
                                    .wants_value = t->grad_value != NULL};
    da_status status = da_meeting_begin(&meeting, call->context, call->config, &common);
    if (status == DA_OK) {
        status = choose(way, &meeting, DA_PASS_BACKWARD, t->query, t->key, &by_heads);
    }
    if (status == DA_OK) {
        status = by_heads ? da_heads_backward(&meeting, call) : backward_by_tokens(call, &meeting, way->run_direction);
    }
    return leave(&meeting, status);
}
