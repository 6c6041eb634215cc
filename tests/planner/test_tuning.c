/* Tunings change no result beyond rounding: sampled cases of the comparison, with many tunings, are held to the same
 * bounds as without; and with one tuning the number of threads does not change a bit. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "compare/bounds.h"
#include "support/environment.h"
#include "support/layouts.h"

static const da_tuning tunings[] = {{0, 0, 0},     {1, 0, 0},      {7, 64, 0},   {64, 128, 0},
                                    {100, 192, 0}, {1000, 256, 0}, {8192, 0, 0}, {0, 64, 0}};
enum { TUNINGS = sizeof tunings / sizeof *tunings, THREADS = 3, EVERY = 31 };

static case_file cases;

typedef struct outputs {
    test_tensor out, lse;
} outputs;

static outputs make_outputs(const test_case *c) {
    return (outputs){test_tensor_make(LAYOUT_DENSE, c->dtype, c->batch, c->n, c->heads, c->head_dim),
                     test_tensor_make(LAYOUT_DENSE, DA_F64, c->batch, c->n, c->heads, 1)};
}

static void free_outputs(outputs *results) {
    test_tensor_free(&results->out);
    test_tensor_free(&results->lse);
}

static test_tensor input(const test_case *c, int64_t heads, const void *values) {
    test_tensor tensor = test_tensor_make(LAYOUT_DENSE, c->dtype, c->batch, c->n, heads, c->head_dim);
    test_tensor_fill(&tensor, values, c->dtype);
    return tensor;
}

static void forward(const da_context *context, const char *name, const test_case *c, da_tuning tuning,
                    outputs *results) {
    test_tensor query = input(c, c->heads, c->query), key = input(c, c->kv_heads, c->key);
    test_tensor value = input(c, c->kv_heads, c->value);
    da_attention_config config = c->config;
    da_call_options options;
    da_attention *attention;
    config.tuning = tuning;
    da_call_options_init(&options);
    options.key_lengths = c->key_lengths;
    options.key_mask = c->key_mask;
    assert_int_equal(da_attention_create(context, name, &config, &attention), DA_OK);
    assert_int_equal(da_attention_forward(attention, &query.view, &key.view, &value.view, &results->out.view,
                                          &results->lse.view, &options),
                     DA_OK);
    da_attention_free(attention);
    test_tensor_free(&query);
    test_tensor_free(&key);
    test_tensor_free(&value);
}

static bool is_close(double got, double exact, double bound) {
    return isinf(exact) ? got == exact : fabs(got - exact) <= bound;
}

static void check_rows(const da_context *context, const test_case *c, const outputs *results, da_tuning tuning) {
    bool bf16_weights = rounds_weights(da_context_isa(context), c->dtype);
    for (int64_t r = 0; r < c->row_count; r++) {
        const case_row *row = case_file_row(c, r);
        row_bound bound = bound_of_row(row, c->head_dim, c->dtype, bf16_weights, 0);
        bool close = is_close(test_tensor_get(&results->lse, row->b, row->i, row->h, 0), row->lse,
                              bound_when_stored(bound.lse, row->lse, DA_F64));
        for (int64_t d = 0; d < c->head_dim; d++) {
            double limit = row->terms ? bound_when_stored(bound.out, row->out[d], c->dtype) : 0;
            close = close && is_close(test_tensor_get(&results->out, row->b, row->i, row->h, d), row->out[d], limit);
        }
        if (!close) {
            fail_msg("%s with unit %lld, blocks of %d: row %lld is off", c->name, (long long)tuning.unit,
                     tuning.block_keys, (long long)r);
        }
    }
}

static void check_case(const da_context *context, const char *name, const test_case *c, int64_t number) {
    for (int choice = 0; choice < 3; choice++) {
        da_tuning tuning = tunings[(number + 3 * choice) % TUNINGS];
        outputs reference = make_outputs(c);
        forward(context, name, c, tuning, &reference);
        check_rows(context, c, &reference, tuning);
        for (tuning.threads = 1; tuning.threads < THREADS; tuning.threads++) {
            outputs again = make_outputs(c);
            forward(context, name, c, tuning, &again);
            assert_true(test_tensor_equal(&again.out, &reference.out));
            assert_true(test_tensor_equal(&again.lse, &reference.lse));
            free_outputs(&again);
        }
        free_outputs(&reference);
    }
}

static void test_implementation(void **state) {
    da_context_options options;
    da_context *context;
    da_context_options_init(&options);
    options.threads = THREADS;
    assert_int_equal(da_context_create(&options, &context), DA_OK);
    int64_t every = EVERY * comparison_stride(), checked = 0;
    for (int64_t number = 0; number < cases.count; number += every) {
        if (cases.cases[number].tile_block == 0) {
            check_case(context, *state, &cases.cases[number], number / every);
            checked++;
        }
    }
    assert_true(checked > 0);
    da_context_free(context);
}

int main(void) {
    static char improved[] = "improved", standard[] = "standard";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_implementation, improved),
        cmocka_unit_test_prestate(test_implementation, standard),
    };
    cases = case_file_open();
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    case_file_close(&cases);
    return failed;
}
