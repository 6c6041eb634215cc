/* The language model against its reference over generated cases: the loss and the gradient of every parameter, in f32 and
 * f64, with each implementation; and that neither changes a bit with the number of threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "model/longnet_cases.h"
#include "multihead/dense_attention.h"
#include "support/case_file.h"
#include "support/environment.h"
#include "support/values.h"

/* A limit that is not derived: the largest error of a loss or gradient over its largest element. It holds where rounding may
 * make up at most ten times as much of it; a gradient that cancels, as that of k_proj.bias does without a position
 * encoding, has no such limit. */
static const double most_relative[] = {[DA_F32] = 1e-4, [DA_F64] = 1e-10};

typedef struct group {
    char name[64];
    const char *implementation;
    da_isa isa;
    da_dtype dtype;
    long compared, refused, limited, unlimited; /* cases; gradients with and without the limit */
    double largest, largest_relative;           /* error / tolerance; error / largest element */
} group;

static int64_t stride;

/* ---- one model --------------------------------------------------------------------------------------------------- */

typedef struct run {
    da_context *context;
    da_longnet *model;
    da_longnet_gradients *gradients;
    double loss;
} run;

static void set_parameters(const longnet_case *one, da_longnet *model) {
    assert_int_equal(da_longnet_parameter_count(model), one->parameter_count);
    for (int64_t k = 0; k < one->parameter_count; k++) {
        da_parameter view;
        assert_int_equal(da_longnet_parameter(model, one->parameters[k].name, &view), DA_OK);
        assert_int_equal(view.shape[0] * view.shape[1], one->parameters[k].values.count);
        for (int64_t e = 0; e < one->parameters[k].values.count; e++) {
            value_store(view.data, view.dtype, e, one->parameters[k].values.values[e]);
        }
    }
}

static void compute(const longnet_case *one, run *r) {
    size_t count = (size_t)(one->batch * one->n);
    int32_t *tokens = calloc(count, sizeof *tokens), *targets = calloc(count, sizeof *targets);
    assert_true(tokens && targets);
    for (size_t k = 0; k < count; k++) {
        tokens[k] = (int32_t)one->tokens.values[k];
        targets[k] = (int32_t)one->targets.values[k];
    }
    da_longnet_batch batch;
    da_longnet_batch_init(&batch);
    batch.tokens = tokens;
    batch.targets = targets;
    batch.batch = one->batch;
    batch.n = one->n;
    batch.training = one->attention.dropout > 0;
    batch.dropout_seed = one->seed;
    double alone = NAN;
    if (da_longnet_backward(r->model, &batch, r->gradients, &r->loss) != DA_OK ||
        da_longnet_loss(r->model, &batch, &alone) != DA_OK) {
        fail_msg("%s: %s", one->name, da_last_error_message());
    }
    assert_true(alone == r->loss);
    free(tokens);
    free(targets);
}

/* False if the implementation does not take the case. */
static bool open_run(const group *g, const longnet_case *one, int threads, run *r) {
    da_context_options options;
    da_context_options_init(&options);
    options.threads = threads;
    options.isa = g->isa;
    *r = (run){.context = NULL};
    assert_int_equal(da_context_create(&options, &r->context), DA_OK);
    da_status status =
        da_longnet_create(r->context, g->implementation, &one->config, &one->multihead, &one->attention, &r->model);
    if (status == DA_ERROR_UNSUPPORTED) {
        return false;
    }
    if (status != DA_OK) {
        fail_msg("%s: %s", one->name, da_last_error_message());
    }
    set_parameters(one, r->model);
    assert_int_equal(da_longnet_gradients_create(r->model, &r->gradients), DA_OK);
    return true;
}

static void close_run(run *r) {
    da_longnet_gradients_free(r->gradients);
    da_longnet_free(r->model);
    da_context_free(r->context);
}

/* ---- comparing --------------------------------------------------------------------------------------------------- */

static void check(group *g, const longnet_case *one, const char *what, double error, double tolerance) {
    if (!(error <= tolerance)) {
        fail_msg("%s, %s: %s is off by %g, allowed %g", g->name, one->name, what, error, tolerance);
    }
    g->largest = fmax(g->largest, error / tolerance);
}

static void check_relative(group *g, const longnet_case *one, const char *what, double error, double largest,
                           double tolerance) {
    bool limited = tolerance <= 10 * most_relative[g->dtype] * largest;
    g->limited += limited;
    g->unlimited += !limited;
    if (limited) {
        if (!(error <= most_relative[g->dtype] * largest)) {
            fail_msg("%s, %s: %s is off by %g of %g", g->name, one->name, what, error, largest);
        }
        g->largest_relative = fmax(g->largest_relative, error / largest);
    }
}

static void check_gradients(group *g, const longnet_case *one, const run *r) {
    check(g, one, "the loss", fabs(r->loss - one->loss), one->loss_tolerance);
    check_relative(g, one, "the loss", fabs(r->loss - one->loss), one->loss, one->loss_tolerance);
    for (int64_t k = 0; k < one->parameter_count; k++) {
        const char *name = one->parameters[k].name;
        const case_array *exact = &one->parameters[k].gradient;
        double error = 0, largest = 0, tolerance = one->parameters[k].tolerance.values[0];
        da_parameter view;
        assert_int_equal(da_longnet_gradient(r->gradients, name, &view), DA_OK);
        for (int64_t e = 0; e < exact->count; e++) {
            double off = fabs(value_load(view.data, view.dtype, e) - exact->values[e]);
            error = off <= error ? error : off; /* NaN, too */
            largest = fmax(largest, fabs(exact->values[e]));
        }
        check(g, one, name, error, tolerance);
        check_relative(g, one, name, error, largest, tolerance);
    }
}

static void check_same(const longnet_case *one, const run *a, const run *b) {
    assert_true(a->loss == b->loss);
    for (size_t k = 0; k < (size_t)one->parameter_count; k++) {
        da_parameter x, y;
        assert_int_equal(da_longnet_gradient_at(a->gradients, k, &x), DA_OK);
        assert_int_equal(da_longnet_gradient_at(b->gradients, k, &y), DA_OK);
        assert_memory_equal(x.data, y.data, (size_t)(x.shape[0] * x.shape[1]) * da_dtype_size(x.dtype));
    }
}

static void test_group(void **state) {
    group *g = *state;
    packed_file file = longnet_cases_open();
    longnet_case one;
    for (int number = 0; longnet_case_next(&file, &one); number++) {
        bool slow = one.n > 1000 && strcmp(g->implementation, "improved") != 0;
        if (one.multihead.dtype != g->dtype || number % stride != 0 || slow) {
            continue;
        }
        run runs[2];
        bool takes = open_run(g, &one, 1, &runs[0]) && open_run(g, &one, 3, &runs[1]);
        if (takes) {
            compute(&one, &runs[0]);
            compute(&one, &runs[1]);
            check_gradients(g, &one, &runs[0]);
            check_same(&one, &runs[0], &runs[1]);
            close_run(&runs[1]);
            g->compared++;
        }
        g->refused += !takes;
        close_run(&runs[0]);
    }
    assert_true((g->compared > 0 && g->limited > 4 * g->unlimited) || stride > 1);
    packed_file_close(&file);
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

#define MAX_GROUPS 8

static size_t list_groups(group groups[MAX_GROUPS]) {
    static const struct {
        const char *implementation;
        da_isa isa;
    } kinds[] = {{"dense", DA_ISA_PORTABLE},
                 {"standard", DA_ISA_PORTABLE},
                 {"improved", DA_ISA_PORTABLE},
                 {"improved", DA_ISA_AUTO}};
    size_t count = 0;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        for (da_dtype dtype = DA_F32; dtype <= DA_F64; dtype++) {
            group *g = &groups[count++];
            *g = (group){.implementation = kinds[k].implementation, .isa = kinds[k].isa, .dtype = dtype};
            snprintf(g->name, sizeof g->name, "%s %s %s", g->implementation, da_isa_name(g->isa), da_dtype_name(dtype));
        }
    }
    return count;
}

int main(void) {
    static group groups[MAX_GROUPS];
    struct CMUnitTest tests[MAX_GROUPS];
    size_t count = list_groups(groups);
    stride = comparison_stride();
    if (dense_attention_register() != DA_OK) {
        return 1;
    }
    for (size_t k = 0; k < count; k++) {
        tests[k] = (struct CMUnitTest){groups[k].name, test_group, NULL, NULL, &groups[k]};
    }
    int failed = _cmocka_run_group_tests("longnet_compare", tests, count, NULL, NULL);
    for (size_t k = 0; k < count; k++) {
        const group *g = &groups[k];
        printf(
            "%-28s %3ld cases, error / tolerance at most %.3g; %ld of %ld gradients, error / largest element at most "
            "%.3g; %ld cases refused\n",
            g->name, g->compared, g->largest, g->limited, g->limited + g->unlimited, g->largest_relative, g->refused);
    }
    return failed;
}
