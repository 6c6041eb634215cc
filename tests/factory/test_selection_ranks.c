/* The rules of "auto" in contexts of one and of several ranks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "factory/select.h"
#include "fixtures.h"

enum { RANKS = 3 };

typedef struct fixture {
    da_comm_group *group;
    da_context *context;
    da_explanation *explanation;
} fixture;

/* What "auto" chooses for n tokens over `ranks` ranks, on a machine with an H100 and flash attention 3 or with no GPU. */
static const char *choose(fixture *f, int ranks, bool has_h100, int64_t n) {
    da_hardware hardware;
    da_comm comm;
    da_context_options options;
    da_attention_config config = make_config(n);
    da_hardware_detect(&hardware);
    hardware.gpu_count = has_h100;
    hardware.flash_attention_3 = has_h100;
    hardware.gpus[0] = (da_gpu){"NVIDIA H100", 9, 0, 80000000000};
    da_context_options_init(&options);
    options.hardware = &hardware;
    options.threads = 1;
    options.comm = &comm;
    assert_int_equal(da_comm_group_create(ranks, 1, NULL, &f->group), DA_OK);
    assert_int_equal(da_comm_group_rank(f->group, 0, &comm), DA_OK);
    assert_int_equal(da_context_create(&options, &f->context), DA_OK);
    assert_int_equal(da_explain(f->context, &config, NULL, &f->explanation), DA_OK);
    return da_explanation_choice(f->explanation);
}

static void release(fixture *f) {
    da_explanation_free(f->explanation);
    da_context_free(f->context);
    da_comm_group_free(f->group);
    *f = (fixture){0};
}

static void test_choices(void **state) {
    static const struct {
        int ranks;
        bool has_h100;
        int64_t n;
        const char *choice;
    } rows[] = {
        {1, true, 1000, "improved"},          {1, true, 100001, "improved"},  {RANKS, false, 1000, "distributed"},
        {RANKS, false, 0, "distributed"},     {RANKS, false, 100001, "ring"}, {RANKS, true, 1000, "distributed"},
        {RANKS, true, 100000, "distributed"}, {RANKS, true, 100001, "ring"},
    };
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        fixture f = {0};
        assert_string_equal(choose(&f, rows[k].ranks, rows[k].has_h100, rows[k].n), rows[k].choice);
        release(&f);
    }
}

static void test_the_reasons(void **state) {
    fixture f = {0};
    da_rule rule;
    choose(&f, RANKS, true, 1000);
    assert_int_equal(da_explanation_rule(f.explanation, 1, &rule), DA_OK);
    assert_true(rule.holds && !rule.chosen);
    assert_string_equal(rule.outcome, "passed over: takes tensors to be whole, not a part for each of 3 ranks");
    assert_int_equal(da_explanation_rule(f.explanation, 3, &rule), DA_OK);
    assert_true(rule.holds && rule.chosen);
    assert_string_equal(rule.facts, "3 ranks; 1 GPU; 1,000 tokens");
    release(&f);
}

static void test_distributed_needs_ranks(void **state) {
    fixture f = {0};
    da_attention *attention;
    da_attention_config config = make_config(1000);
    choose(&f, 1, false, 1000);
    assert_int_equal(da_attention_create(f.context, "distributed", &config, &attention), DA_ERROR_UNAVAILABLE);
    assert_message_contains("no communicator of several ranks");
    assert_null(attention);
    release(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_choices),
        cmocka_unit_test(test_the_reasons),
        cmocka_unit_test(test_distributed_needs_ranks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
