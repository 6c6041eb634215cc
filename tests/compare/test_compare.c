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
#include "support/layouts.h"
#include "support/values.h"

static const int THREADS[] = {1, 2, 3, 7};
enum { THREAD_CHOICES = sizeof THREADS / sizeof *THREADS, MAX_GROUPS = 64, ALL_THREADS_EVERY = 10 };

typedef struct group {
    char name[64];
    const char *implementation;
    da_isa isa;
    da_dtype dtype;
    int number;
    da_context *contexts[THREAD_CHOICES];
    int64_t cases, rows;
    double worst_out, worst_lse; /* absolute errors; of out where the values are of ordinary size */
    double worst_out_ratio, worst_lse_ratio;
    char worst_case[48];
    int64_t failures;
} group;

/* Values of up to 2^100 are compared like all others, but say little in a largest absolute error: it is taken over the
 * queries whose values have an average magnitude of at most this. */
static const double ORDINARY_VALUE = 4;

static case_file cases;
static int64_t stride;
static group groups[MAX_GROUPS];
static int group_count;

/* A case as one group runs it. */
typedef struct run {
    group *group;
    const test_case *one;
    layout layout;
    int threads;        /* index in THREADS */
    da_dtype lse_dtype; /* DA_DTYPE_ANY: no logsumexp */
    test_tensor query, key, value, out, lse;
} run;

static void choose(run *r, group *g, int64_t number) {
    int64_t mixed = number + 7 * g->number;
    *r = (run){.group = g, .one = &cases.cases[number]};
    r->threads = (int)(mixed % THREAD_CHOICES);
    r->layout = (layout)(mixed / THREAD_CHOICES % LAYOUT_COUNT);
    if (r->layout == LAYOUT_BROADCAST && !r->one->shared_kv) {
        r->layout = LAYOUT_GAPS;
    }
    static const da_dtype forms[] = {DA_F64, DA_F32, DA_DTYPE_ANY};
    r->lse_dtype = forms[mixed / (THREAD_CHOICES * LAYOUT_COUNT) % 3];
    if (r->lse_dtype == DA_F32 && g->dtype == DA_F64) {
        r->lse_dtype = DA_F64;
    }
}

static test_tensor input(const run *r, layout kind, int64_t heads, const void *values) {
    const test_case *c = r->one;
    test_tensor tensor = test_tensor_make(kind, r->group->dtype, c->batch, c->n, heads, c->head_dim);
    test_tensor_fill(&tensor, values, c->dtype);
    return tensor;
}

static void make_inputs(run *r) {
    const test_case *c = r->one;
    r->query = input(r, r->layout == LAYOUT_BROADCAST ? LAYOUT_DENSE : r->layout, c->heads, c->query);
    r->key = input(r, r->layout, c->kv_heads, c->key);
    r->value = input(r, r->layout, c->kv_heads, c->value);
}

static void make_outputs(run *r) {
    const test_case *c = r->one;
    layout kind = r->layout == LAYOUT_BROADCAST ? LAYOUT_HEADS_FIRST : r->layout;
    r->out = test_tensor_make(kind, r->group->dtype, c->batch, c->n, c->heads, c->head_dim);
    if (r->lse_dtype != DA_DTYPE_ANY) {
        r->lse = test_tensor_make(kind, r->lse_dtype, c->batch, c->n, c->heads, 1);
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

static void complain(const run *r, const char *format, ...) DA_PRINTF(2, 3);

/* Prints the first failures of a group in full; all are counted. */
static void complain(const run *r, const char *format, ...) {
    if (r->group->failures++ >= 5) {
        return;
    }
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    print_error("%s, case %td (%s), layout %s, %d threads: %s\n", r->group->name, (ptrdiff_t)(r->one - cases.cases),
                r->one->name, layout_name(r->layout), THREADS[r->threads], text);
}

/* The mask as the case stores it, or with its two dimensions exchanged in memory; the caller frees it. */
static uint8_t *set_mask(const run *r, da_call_options *options) {
    const test_case *c = r->one;
    uint8_t *transposed = NULL;
    options->key_mask = c->key_mask;
    if (c->key_mask && r->layout != LAYOUT_DENSE) {
        transposed = malloc((size_t)(c->batch * c->n));
        assert_non_null(transposed);
        for (int64_t b = 0; b < c->batch; b++) {
            for (int64_t i = 0; i < c->n; i++) {
                transposed[i * c->batch + b] = c->key_mask[b * c->n + i];
            }
        }
        options->key_mask = transposed;
        options->key_mask_stride[0] = 1;
        options->key_mask_stride[1] = c->batch;
    }
    return transposed;
}

static bool forward(run *r) {
    da_attention *attention = NULL;
    da_status status =
        da_attention_create(r->group->contexts[r->threads], r->group->implementation, &r->one->config, &attention);
    if (status == DA_OK) {
        da_call_options options;
        da_call_options_init(&options);
        options.key_lengths = r->one->key_lengths;
        uint8_t *mask = set_mask(r, &options);
        status = da_attention_forward(attention, &r->query.view, &r->key.view, &r->value.view, &r->out.view,
                                      r->lse.memory ? &r->lse.view : NULL, &options);
        free(mask);
    }
    da_attention_free(attention);
    if (status != DA_OK) {
        complain(r, "%s: %s", da_status_name(status), da_last_error_message());
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
    row_bound bound = bound_of_row(row, head_dim, g->dtype, rounds_weights(g->isa, g->dtype));
    double *worst_out = row->mean_value <= ORDINARY_VALUE ? &g->worst_out : NULL;
    for (int64_t c = 0; c < head_dim; c++) {
        double got = test_tensor_get(&r->out, row->b, row->i, row->h, c);
        double limit = row->terms ? bound_when_stored(bound.out, row->out[c], g->dtype) : 0;
        if (row->terms ? !compare(r, got, row->out[c], limit, worst_out, &g->worst_out_ratio) : got != 0) {
            complain(r, "out[%lld][%lld][%lld][%lld] is %.17g; exact: %.17g, at most %.3g off", (long long)row->b,
                     (long long)row->i, (long long)row->h, (long long)c, got, row->out[c], limit);
            return;
        }
    }
    if (r->lse.memory) {
        double got = test_tensor_get(&r->lse, row->b, row->i, row->h, 0);
        double limit = bound_when_stored(bound.lse, row->lse, r->lse_dtype);
        if (!compare(r, got, row->lse, limit, &g->worst_lse, &g->worst_lse_ratio)) {
            complain(r, "lse[%lld][%lld][%lld] is %.17g; exact: %.17g, at most %.3g off", (long long)row->b,
                     (long long)row->i, (long long)row->h, got, row->lse, limit);
        }
    }
}

static void check_outputs(const run *r) {
    if (!test_tensor_is_written(&r->out) || (r->lse.memory && !test_tensor_is_written(&r->lse))) {
        complain(r, "an element was not written, or is NaN");
    }
    if (!test_tensor_gaps_untouched(&r->out) || (r->lse.memory && !test_tensor_gaps_untouched(&r->lse))) {
        complain(r, "memory outside the elements was written");
    }
    for (int64_t row = 0; row < r->one->row_count; row++) {
        compare_row(r, case_file_row(r->one, row));
    }
    r->group->rows += r->one->row_count;
}

/* The same call with every other number of threads must give the same bits. */
static void check_threads(const run *r) {
    for (int t = 0; t < THREAD_CHOICES; t++) {
        if (t != r->threads) {
            run again = *r;
            again.threads = t;
            make_outputs(&again);
            if (forward(&again) && (!test_tensor_equal(&again.out, &r->out) ||
                                    (r->lse.memory && !test_tensor_equal(&again.lse, &r->lse)))) {
                complain(r, "the result with %d threads differs", THREADS[t]);
            }
            free_outputs(&again);
        }
    }
}

static bool takes_part(const group *g, const test_case *one) {
    return one->dtype == g->dtype || (g->dtype == DA_F64 && one->dtype == DA_F32);
}

static void test_group(void **state) {
    group *g = *state;
    int64_t taking_part = 0;
    for (int64_t number = 0; number < cases.count; number++) {
        if (!takes_part(g, &cases.cases[number]) || taking_part++ % stride != 0) {
            continue;
        }
        run r;
        choose(&r, g, number);
        make_inputs(&r);
        make_outputs(&r);
        if (forward(&r)) {
            check_outputs(&r);
            if (g->cases % ALL_THREADS_EVERY == 0) {
                check_threads(&r);
            }
        }
        free_outputs(&r);
        free_inputs(&r);
        g->cases++;
    }
    assert_int_not_equal(g->cases, 0);
    assert_int_equal(g->failures, 0);
}

static int open_contexts(void **state) {
    group *g = *state;
    for (int t = 0; t < THREAD_CHOICES; t++) {
        da_context_options options;
        da_context_options_init(&options);
        options.threads = THREADS[t];
        options.isa = g->isa;
        if (da_context_create(&options, &g->contexts[t]) != DA_OK) {
            print_error("%s\n", da_last_error_message());
            return -1;
        }
    }
    return 0;
}

static int close_contexts(void **state) {
    group *g = *state;
    for (int t = 0; t < THREAD_CHOICES; t++) {
        da_context_free(g->contexts[t]);
    }
    return 0;
}

static void add_groups(const char *implementation, da_isa isa) {
    for (da_dtype dtype = DA_F32; dtype <= DA_F16; dtype++) {
        group *g = &groups[group_count];
        *g = (group){.implementation = implementation, .isa = isa, .dtype = dtype, .number = group_count++};
        snprintf(g->name, sizeof g->name, "%s %s %s", implementation, da_isa_name(isa), da_dtype_name(dtype));
    }
}

static void print_summary(void) {
    printf("\n%-26s %6s %8s  %10s %10s  %9s %9s  %s\n", "implementation, isa, type", "cases", "queries", "out error",
           "lse error", "out/bound", "lse/bound", "nearest to its bound");
    for (int index = 0; index < group_count; index++) {
        const group *g = &groups[index];
        printf("%-26s %6lld %8lld  %10.2e %10.2e  %9.3f %9.3f  %s\n", g->name, (long long)g->cases, (long long)g->rows,
               g->worst_out, g->worst_lse, g->worst_out_ratio, g->worst_lse_ratio, g->worst_case);
    }
    printf("errors are absolute, that of out where values average %g or less; bounds: tests/tolerances.md\n",
           ORDINARY_VALUE);
}

int main(void) {
    cases = case_file_open();
    stride = environment_integer("DA_COMPARE_STRIDE", 1);
    add_groups("standard", DA_ISA_PORTABLE);
    for (da_isa isa = DA_ISA_PORTABLE; isa <= DA_ISA_NEON; isa++) {
        if (da_isa_available(isa)) {
            add_groups("improved", isa);
        } else {
            printf("skipped: improved %s, which this machine or build lacks\n", da_isa_name(isa));
        }
    }
    struct CMUnitTest tests[MAX_GROUPS];
    for (int g = 0; g < group_count; g++) {
        tests[g] = (struct CMUnitTest){groups[g].name, test_group, open_contexts, close_contexts, &groups[g]};
    }
    int failed = _cmocka_run_group_tests("compare", tests, (size_t)group_count, NULL, NULL);
    print_summary();
    case_file_close(&cases);
    return failed;
}
