/* Every implementation, on every instruction set of this machine, against the reference: the generated and the golden
 * cases, each in some memory layout, with some number of threads and some form of the logsumexp, chosen by the case's
 * number so that all of them meet. One cmocka test per implementation, instruction set and data type.
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
#include "support/layouts.h"
#include "support/values.h"

enum { ALL_THREADS_EVERY = 10 };

typedef struct group {
    kernel_group on;
    int64_t rows;
    double worst_out, worst_lse; /* absolute errors; of out where the values are of ordinary size */
    double worst_out_ratio, worst_lse_ratio;
    char worst_case[48];
} group;

/* Values of up to 2^100 are compared like all others, but say little in a largest absolute error: it is taken over the
 * queries whose values have an average magnitude of at most this. */
static const double ORDINARY_VALUE = 4;

static case_file cases;
static group groups[MAX_GROUPS];
static int group_count;

/* A case as one group runs it. */
typedef struct run {
    group *group;
    const test_case *one;
    int64_t number;
    choice how;
    test_tensor query, key, value, out, lse;
} run;

static test_tensor input(const run *r, layout kind, int64_t heads, const void *values) {
    const test_case *c = r->one;
    test_tensor tensor = test_tensor_make(kind, r->group->on.dtype, c->batch, c->n, heads, c->head_dim);
    test_tensor_fill(&tensor, values, c->dtype);
    return tensor;
}

static void make_inputs(run *r) {
    const test_case *c = r->one;
    r->query = input(r, r->how.layout == LAYOUT_BROADCAST ? LAYOUT_DENSE : r->how.layout, c->heads, c->query);
    r->key = input(r, r->how.layout, c->kv_heads, c->key);
    r->value = input(r, r->how.layout, c->kv_heads, c->value);
}

static void make_outputs(run *r) {
    const test_case *c = r->one;
    layout kind = r->how.layout == LAYOUT_BROADCAST ? LAYOUT_HEADS_FIRST : r->how.layout;
    r->out = test_tensor_make(kind, r->group->on.dtype, c->batch, c->n, c->heads, c->head_dim);
    if (r->how.lse_dtype != DA_DTYPE_ANY) {
        r->lse = test_tensor_make(kind, r->how.lse_dtype, c->batch, c->n, c->heads, 1);
    }
}

static void free_outputs(run *r) {
    test_tensor_free(&r->out);
    test_tensor_free(&r->lse);
}

static void free_inputs(run *r) {
    test_tensor_free(&r->query);
    test_tensor_free(&r->key);
    test_tensor_free(&r->value);
}

static bool forward(run *r) {
    da_attention *attention = NULL;
    da_attention_config config = r->one->config;
    da_call_options options;
    da_call_options_init(&options);
    da_tile_mask *tiles = set_tiles(&r->group->on, r->one, r->number, &config, &options);
    da_status status =
        da_attention_create(r->group->on.contexts[r->how.threads], r->group->on.implementation, &config, &attention);
    if (status == DA_OK) {
        uint8_t *mask = set_padding(r->one, r->how.layout, &options);
        const forward_tensors tensors = {&r->query.view, &r->key.view, &r->value.view, &r->out.view,
                                         r->lse.memory ? &r->lse.view : NULL};
        status = forward_by_choice(attention, r->how, &tensors, &options);
        free(mask);
    }
    da_attention_free(attention);
    da_tile_mask_free(tiles);
    if (status != DA_OK) {
        complain(&r->group->on, r->one, r->how, "%s: %s", da_status_name(status), da_last_error_message());
    }
    return status == DA_OK;
}

/* Compares one number; an exact -infinity must be one. Keeps the largest error (where wanted) and error / bound. */
static bool compare(const run *r, double got, double exact, double bound, double *worst, double *worst_ratio) {
    if (isinf(exact)) {
        return got == exact;
    }
    double error = fabs(got - exact);
    if (!(error <= bound)) {
        return false;
    }
    if (worst) {
        *worst = fmax(*worst, error);
    }
    if (error / bound > *worst_ratio) {
        *worst_ratio = error / bound;
        snprintf(r->group->worst_case, sizeof r->group->worst_case, "%s", r->one->name);
    }
    return true;
}

static void compare_row(const run *r, const case_row *row) {
    group *g = r->group;
    int64_t head_dim = r->one->head_dim;
    row_bound bound = bound_of_row(row, head_dim, g->on.dtype, kernel_group_rounds_weights(&g->on), r->how.merges);
    double *worst_out = row->mean_value <= ORDINARY_VALUE ? &g->worst_out : NULL;
    for (int64_t c = 0; c < head_dim; c++) {
        double got = test_tensor_get(&r->out, row->b, row->i, row->h, c);
        double limit = row->terms ? bound_when_stored(bound.out, row->out[c], g->on.dtype) : 0;
        if (row->terms ? !compare(r, got, row->out[c], limit, worst_out, &g->worst_out_ratio) : got != 0) {
            complain(&r->group->on, r->one, r->how,
                     "out[%lld][%lld][%lld][%lld] is %.17g; exact: %.17g, at most %.3g off", (long long)row->b,
                     (long long)row->i, (long long)row->h, (long long)c, got, row->out[c], limit);
            return;
        }
    }
    if (r->lse.memory) {
        double got = test_tensor_get(&r->lse, row->b, row->i, row->h, 0);
        double limit = bound_when_stored(bound.lse, row->lse, r->how.lse_dtype);
        if (!compare(r, got, row->lse, limit, &g->worst_lse, &g->worst_lse_ratio)) {
            complain(&r->group->on, r->one, r->how, "lse[%lld][%lld][%lld] is %.17g; exact: %.17g, at most %.3g off",
                     (long long)row->b, (long long)row->i, (long long)row->h, got, row->lse, limit);
        }
    }
}

static void check_outputs(const run *r) {
    if (!test_tensor_is_written(&r->out) || (r->lse.memory && !test_tensor_is_written(&r->lse))) {
        complain(&r->group->on, r->one, r->how, "an element was not written, or is NaN");
    }
    if (!test_tensor_gaps_untouched(&r->out) || (r->lse.memory && !test_tensor_gaps_untouched(&r->lse))) {
        complain(&r->group->on, r->one, r->how, "memory outside the elements was written");
    }
    for (int64_t row = 0; row < r->one->row_count; row++) {
        compare_row(r, case_file_row(r->one, row));
    }
    r->group->rows += r->one->row_count;
}

/* The same call with every other number of threads must give the same bits. */
static void check_threads(const run *r) {
    for (int t = 0; t < THREAD_CHOICES; t++) {
        if (t != r->how.threads) {
            run again = *r;
            again.how.threads = t;
            make_outputs(&again);
            if (forward(&again) && (!test_tensor_equal(&again.out, &r->out) ||
                                    (r->lse.memory && !test_tensor_equal(&again.lse, &r->lse)))) {
                complain(&r->group->on, r->one, r->how, "the result with %d threads differs", GROUP_THREADS[t]);
            }
            free_outputs(&again);
        }
    }
}

static void run_case(void *of_group, int64_t number) {
    group *g = of_group;
    const test_case *one = &cases.cases[number];
    run r = {.group = g, .one = one, .number = number, .how = choose(&g->on, one, number)};
    make_inputs(&r);
    make_outputs(&r);
    if (forward(&r)) {
        check_outputs(&r);
        if (g->on.cases % ALL_THREADS_EVERY == 0) {
            check_threads(&r);
        }
    }
    free_outputs(&r);
    free_inputs(&r);
}

static void print_summary(void) {
    printf("\n%-26s %6s %8s  %10s %10s  %9s %9s  %s\n", "implementation, isa, type", "cases", "queries", "out error",
           "lse error", "out/bound", "lse/bound", "nearest to its bound");
    for (int index = 0; index < group_count; index++) {
        const group *g = &groups[index];
        printf("%-26s %6lld %8lld  %10.2e %10.2e  %9.3f %9.3f  %s\n", g->on.name, (long long)g->on.cases,
               (long long)g->rows, g->worst_out, g->worst_lse, g->worst_out_ratio, g->worst_lse_ratio, g->worst_case);
    }
    printf("errors are absolute, that of out where values average %g or less; bounds: tests/tolerances.md\n",
           ORDINARY_VALUE);
}

int main(void) {
    kernel_group listed[MAX_GROUPS];
    cases = case_file_open();
    group_count = kernel_groups_list(listed);
    for (int g = 0; g < group_count; g++) {
        groups[g].on = listed[g];
    }
    int failed = kernel_groups_compare("compare", &cases, groups, sizeof groups[0], group_count, run_case);
    print_summary();
    case_file_close(&cases);
    return failed;
}
