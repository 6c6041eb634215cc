/* Every backward pass, on every instruction set of this machine, against the exact gradients of the generated cases. The
 * output and the logsumexp that it starts from are those of the implementation's own forward pass, which is compared too,
 * since these cases have dropout. Layouts, threads, types and the cut of the work vary with the case's number; one cmocka
 * test per implementation, instruction set and data type.
 *
 * DA_COMPARE_STRIDE=k in the environment runs every k-th case, for slow tools. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "compare/bounds.h"
#include "compare/groups.h"
#include "support/implementations.h"
#include "support/values.h"

enum { ALL_THREADS_EVERY = 5 };

static const char *const GRADIENT_NAMES[GRADIENTS] = {"grad_query", "grad_key", "grad_value"};

typedef struct group {
    kernel_group on;
    double worst_forward, worst[GRADIENTS]; /* error / bound */
    char worst_case[48];
} group;

static case_file cases;
static group groups[MAX_GROUPS];
static int group_count;

/* A case as one group runs it. */
typedef struct run {
    group *group;
    int64_t number;
    gradient_case one;
    choice how;
    test_tensor query, key, value, out, lse, grad_out, grad_lse;
    test_tensor gradients[GRADIENTS];
} run;

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

/* The layout of tensors whose batch rows are not one memory. */
static layout own_memory(const run *r, layout otherwise) {
    return r->how.layout == LAYOUT_BROADCAST ? otherwise : r->how.layout;
}

static test_tensor tensor(const run *r, layout kind, da_dtype dtype, int64_t heads, int64_t head_dim) {
    const test_case *c = r->one.forward;
    return test_tensor_make(kind, dtype, c->batch, c->n, heads, head_dim);
}

static test_tensor input(const run *r, layout kind, int64_t heads, const void *values) {
    test_tensor made = tensor(r, kind, r->group->on.dtype, heads, r->one.forward->head_dim);
    test_tensor_fill(&made, values, r->one.forward->dtype);
    return made;
}

static void make_inputs(run *r) {
    const test_case *c = r->one.forward;
    r->query = input(r, own_memory(r, LAYOUT_DENSE), c->heads, c->query);
    r->key = input(r, r->how.layout, c->kv_heads, c->key);
    r->value = input(r, r->how.layout, c->kv_heads, c->value);
    /* Another layout than the output's. */
    r->grad_out = input(r, own_memory(r, LAYOUT_GAPS) == LAYOUT_GAPS ? LAYOUT_HEADS_FIRST : LAYOUT_GAPS, c->heads,
                        r->one.grad_out);
    if (r->one.grad_lse) {
        r->grad_lse = tensor(r, own_memory(r, LAYOUT_NEGATIVE), r->how.lse_dtype, c->heads, 1);
        test_tensor_fill(&r->grad_lse, r->one.grad_lse, DA_F64);
    }
    r->out = tensor(r, own_memory(r, LAYOUT_HEADS_FIRST), r->group->on.dtype, c->heads, c->head_dim);
    r->lse = tensor(r, own_memory(r, LAYOUT_HEADS_FIRST), r->how.lse_dtype, c->heads, 1);
}

static void free_inputs(run *r) {
    test_tensor *all[] = {&r->query, &r->key, &r->value, &r->out, &r->lse, &r->grad_out, &r->grad_lse};
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        test_tensor_free(all[k]);
    }
}

static void make_gradients(run *r) {
    const test_case *c = r->one.forward;
    for (int g = 0; g < GRADIENTS; g++) {
        r->gradients[g] = tensor(r, own_memory(r, LAYOUT_HEADS_FIRST), r->group->on.dtype,
                                 g == GRAD_QUERY ? c->heads : c->kv_heads, c->head_dim);
    }
}

static void free_gradients(run *r) {
    for (int g = 0; g < GRADIENTS; g++) {
        test_tensor_free(&r->gradients[g]);
    }
}

/* Units that `improved` takes whole stretches of a sequence by, where it can, and units that it mostly cannot. */
static int64_t unit_of_case(const run *r) {
    const int64_t units[] = {0, DA_MAX_UNIT, 24};
    return units[(r->number + r->group->on.number) % (int64_t)(sizeof units / sizeof *units)];
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static da_status forward(const run *r, const da_attention *attention, da_call_options *options) {
    const forward_tensors tensors = {&r->query.view, &r->key.view, &r->value.view, &r->out.view, &r->lse.view};
    return forward_by_choice(attention, r->how, &tensors, options);
}

/* wanted: bit g asks for gradient g. */
static da_status backward(const run *r, const da_attention *attention, const da_call_options *options, int wanted) {
    da_backward_tensors t;
    da_backward_tensors_init(&t);
    t.query = &r->query.view;
    t.key = &r->key.view;
    t.value = &r->value.view;
    t.out = &r->out.view;
    t.lse = &r->lse.view;
    t.grad_out = &r->grad_out.view;
    t.grad_lse = r->grad_lse.memory ? &r->grad_lse.view : NULL;
    t.grad_query = wanted >> GRAD_QUERY & 1 ? &r->gradients[GRAD_QUERY].view : NULL;
    t.grad_key = wanted >> GRAD_KEY & 1 ? &r->gradients[GRAD_KEY].view : NULL;
    t.grad_value = wanted >> GRAD_VALUE & 1 ? &r->gradients[GRAD_VALUE].view : NULL;
    return da_attention_backward(attention, &t, options);
}

static const int ALL_GRADIENTS = (1 << GRADIENTS) - 1;

/* Runs the forward pass, if `both`, and the backward pass. */
static bool compute(run *r, bool both, int wanted) {
    const test_case *c = r->one.forward;
    const kernel_group *on = &r->group->on;
    da_attention_config config = c->config;
    da_attention *attention = NULL;
    config.dropout = r->one.dropout;
    config.tuning.unit = unit_of_case(r);
    da_call_options options;
    da_call_options_init(&options);
    da_tile_mask *tiles = set_tiles(on, c, r->number, &config, &options);
    da_status status = da_attention_create(on->contexts[r->how.threads], on->implementation, &config, &attention);
    if (status == DA_OK) {
        options.training = true;
        options.dropout_seed = r->one.seed;
        options.block = r->how.block;
        uint8_t *mask = set_padding(c, r->how.layout, &options);
        status = both ? forward(r, attention, &options) : DA_OK;
        if (status == DA_OK) {
            status = backward(r, attention, &options, wanted);
        }
        free(mask);
    }
    da_attention_free(attention);
    da_tile_mask_free(tiles);
    if (status != DA_OK) {
        complain(&r->group->on, c, r->how, "%s: %s", da_status_name(status), da_last_error_message());
    }
    return status == DA_OK;
}

/* ---- comparison -------------------------------------------------------------------------------------------------- */

static bool within(const run *r, double got, double exact, double limit, double *worst) {
    double error = fabs(got - exact);
    if (!(error <= limit)) {
        return false;
    }
    if (error > 0 && error / limit > *worst) {
        *worst = error / limit;
        snprintf(r->group->worst_case, sizeof r->group->worst_case, "%s", r->one.forward->name);
    }
    return true;
}

/* The largest magnitude among the values; padded ones may hold anything. */
static double largest_value(const run *r) {
    const int64_t *shape = r->value.view.shape;
    double largest = 0;
    for (int64_t row = 0; row < shape[0] * shape[1] * shape[2]; row++) {
        int64_t h = row % shape[2], i = row / shape[2] % shape[1], b = row / shape[2] / shape[1];
        for (int64_t k = 0; k < shape[3]; k++) {
            double value = fabs(test_tensor_get(&r->value, b, i, h, k));
            largest = isfinite(value) && value > largest ? value : largest;
        }
    }
    return largest;
}

/* One row of the output, with dropout. Weights below the normal range of sums may become 0; where dropout takes all larger
 * ones away, that shows. */
static void compare_forward(const run *r, const case_row *row, double value) {
    const test_case *c = r->one.forward;
    const kernel_group *on = &r->group->on;
    double flushed = (double)row->terms * value * value_tiny(on->dtype == DA_F64 ? DA_F64 : DA_F32);
    row_bound bound = bound_of_row(row, c->head_dim, on->dtype, kernel_group_rounds_weights(on), r->how.merges);
    for (int64_t k = 0; k < c->head_dim; k++) {
        double got = test_tensor_get(&r->out, row->b, row->i, row->h, k);
        double limit = bound_when_stored(bound.out + flushed / (1 - r->one.dropout), row->out[k], on->dtype);
        if (!within(r, got, row->out[k], limit, &r->group->worst_forward)) {
            complain(&r->group->on, c, r->how, "out[%lld][%lld][%lld][%lld] is %.17g; exact: %.17g, at most %.3g off",
                     (long long)row->b, (long long)row->i, (long long)row->h, (long long)k, got, row->out[k], limit);
            return;
        }
    }
}

static void compare_gradient(const run *r, int gradient, int64_t b, int64_t i, int64_t h) {
    const test_case *c = r->one.forward;
    const kernel_group *on = &r->group->on;
    const gradient_row *row = gradient_file_row(&r->one, gradient, b, i, h);
    double bound = bound_of_gradient(row, c->head_dim, on->dtype, r->how.lse_dtype, kernel_group_rounds_weights(on),
                                     r->how.merges);
    for (int64_t k = 0; k < c->head_dim; k++) {
        double got = test_tensor_get(&r->gradients[gradient], b, i, h, k);
        double limit = row->terms ? bound_when_stored(bound, row->exact[k], on->dtype) : 0; /* nothing: exactly 0 */
        if (!within(r, got, row->exact[k], limit, &r->group->worst[gradient])) {
            complain(&r->group->on, c, r->how, "%s[%lld][%lld][%lld][%lld] is %.17g; exact: %.17g, at most %.3g off",
                     GRADIENT_NAMES[gradient], (long long)b, (long long)i, (long long)h, (long long)k, got,
                     row->exact[k], limit);
            return;
        }
    }
}

static void compare_gradients(const run *r, int gradient) {
    const test_case *c = r->one.forward;
    const test_tensor *got = &r->gradients[gradient];
    if (!test_tensor_is_written(got)) {
        complain(&r->group->on, c, r->how, "an element of %s was not written, or is NaN", GRADIENT_NAMES[gradient]);
    }
    if (!test_tensor_gaps_untouched(got)) {
        complain(&r->group->on, c, r->how, "memory outside the elements of %s was written", GRADIENT_NAMES[gradient]);
    }
    for (int64_t b = 0; b < c->batch; b++) {
        for (int64_t i = 0; i < c->n; i++) {
            for (int64_t h = 0; h < got->view.shape[2]; h++) {
                compare_gradient(r, gradient, b, i, h);
            }
        }
    }
}

/* Another backward pass of the same inputs, for some of the gradients: they must have the same bits, the others none. */
static void check_again(const run *r, int threads, int wanted) {
    run again = *r;
    again.how.threads = threads;
    make_gradients(&again);
    if (compute(&again, false, wanted)) {
        for (int g = 0; g < GRADIENTS; g++) {
            if ((wanted >> g & 1) && !test_tensor_equal(&again.gradients[g], &r->gradients[g])) {
                complain(&r->group->on, r->one.forward, r->how, "%s with %d threads, gradients %d alone, differs",
                         GRADIENT_NAMES[g], GROUP_THREADS[threads], wanted);
            }
        }
    }
    free_gradients(&again);
}

static void run_case(void *of_group, int64_t number) {
    group *g = of_group;
    const test_case *c = &cases.cases[number];
    run r = {.group = g, .number = number, .one = gradient_file_case(&cases, number), .how = choose(&g->on, c, number)};
    if (r.how.lse_dtype == DA_DTYPE_ANY) { /* a backward pass needs one */
        r.how.lse_dtype = DA_F64;
    }
    make_inputs(&r);
    make_gradients(&r);
    if (compute(&r, true, ALL_GRADIENTS)) {
        double value = largest_value(&r);
        for (int64_t row = 0; row < c->row_count; row++) {
            compare_forward(&r, case_file_row(c, row), value);
        }
        for (int gradient = 0; gradient < GRADIENTS; gradient++) {
            compare_gradients(&r, gradient);
        }
        if (g->on.cases % ALL_THREADS_EVERY == 0) {
            for (int t = 0; t < THREAD_CHOICES; t++) {
                check_again(&r, t, t == r.how.threads ? 1 << (number % GRADIENTS) : ALL_GRADIENTS);
            }
            check_again(&r, r.how.threads, ALL_GRADIENTS & ~(1 << (number / 2 % GRADIENTS)));
        }
    }
    free_gradients(&r);
    free_inputs(&r);
}

static void print_summary(void) {
    printf("\nLargest error / bound (tests/tolerances.md)\n%-26s %6s %9s %10s %9s %10s  %s\n",
           "implementation, isa, type", "cases", "out", "grad_query", "grad_key", "grad_value", "nearest to its bound");
    for (int index = 0; index < group_count; index++) {
        const group *g = &groups[index];
        printf("%-26s %6lld %9.3f %10.3f %9.3f %10.3f  %s\n", g->on.name, (long long)g->on.cases, g->worst_forward,
               g->worst[GRAD_QUERY], g->worst[GRAD_KEY], g->worst[GRAD_VALUE], g->worst_case);
    }
}

/* The groups whose implementation has a backward pass. */
static void list_groups(void) {
    kernel_group listed[MAX_GROUPS];
    int count = kernel_groups_list(listed);
    for (int k = 0; k < count; k++) {
        if (implementation_has_backward(listed[k].implementation)) {
            groups[group_count++].on = listed[k];
        }
    }
}

int main(void) {
    cases = gradient_file_open();
    list_groups();
    int failed = kernel_groups_compare("gradient", &cases, groups, sizeof groups[0], group_count, run_case);
    print_summary();
    case_file_close(&cases);
    return failed;
}
