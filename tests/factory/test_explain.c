/* The explanation of a choice: its rules, its cost, its alternatives, its text. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fixtures.h"

enum { RULES = 6, ALTERNATIVES = 5 };

static da_hardware machine_with_two_cards(void) {
    da_hardware hardware;
    da_hardware_init(&hardware);
    hardware.gpu_count = 2;
    for (int k = 0; k < 2; k++) {
        hardware.gpus[k] = (da_gpu){"NVIDIA A100-SXM4-40GB", 8, 0, 40000000000};
    }
    return hardware;
}

static da_explanation *explain(const da_context *context, const da_attention_config *config,
                               const da_problem *problem) {
    da_explanation *explanation = NULL;
    assert_int_equal(da_explain(context, config, problem, &explanation), DA_OK);
    assert_non_null(explanation);
    return explanation;
}

static void test_rules(void **state) {
    (void)state;
    static const da_rule expected[RULES] = {
        {"a quality target below 1", "none", false, "block_sparse", false, "does not apply"},
        {"flash attention 3 and an H100", "no flash attention 3; 2 GPUs, no H100", false, "improved", false,
         "does not apply"},
        {"more than 100,000 tokens", "99,999 tokens", false, "ring", false, "does not apply"},
        {"several ranks, or several GPUs and more than 50,000 tokens", "1 rank; 2 GPUs; 99,999 tokens", true,
         "distributed", false, "passed over: the context has no communicator of several ranks"},
        {"a flash kernel is available", "no flash attention on a GPU; no vector kernels on the CPU", false, "improved",
         false, "does not apply"},
        {"otherwise", "needs nothing", true, "standard", true, "chosen"},
    };
    const da_hardware hardware = machine_with_two_cards();
    da_context *context = make_context(&hardware, DA_ISA_PORTABLE, NULL);
    const da_attention_config config = make_config(99999);
    da_explanation *explanation = explain(context, &config, NULL);
    assert_string_equal(da_explanation_choice(explanation), "standard");
    assert_int_equal(da_explanation_rule_count(explanation), RULES);
    for (size_t k = 0; k < RULES; k++) {
        da_rule rule;
        assert_int_equal(da_explanation_rule(explanation, k, &rule), DA_OK);
        assert_string_equal(rule.condition, expected[k].condition);
        assert_string_equal(rule.facts, expected[k].facts);
        assert_int_equal(rule.holds, expected[k].holds);
        assert_string_equal(rule.implementation, expected[k].implementation);
        assert_int_equal(rule.chosen, expected[k].chosen);
        assert_string_equal(rule.outcome, expected[k].outcome);
    }
    da_explanation_free(explanation);
    da_context_free(context);
}

static void assert_contains(const char *text, const char *part) {
    if (!strstr(text, part)) {
        fail_msg("\"%s\" is missing in:\n%s", part, text);
    }
}

static void test_text(void **state) {
    (void)state;
    const da_hardware hardware = machine_with_two_cards();
    da_context *context = make_context(&hardware, DA_ISA_PORTABLE, NULL);
    const da_attention_config config = make_config(99999);
    da_explanation *explanation = explain(context, &config, NULL);
    const char *text = da_explanation_text(explanation);
    assert_ptr_equal(strstr(text, "choice: standard\nwhy:    rule 6, otherwise: needs nothing\n"), text);
    for (size_t k = 0; k < RULES; k++) {
        da_rule rule;
        assert_int_equal(da_explanation_rule(explanation, k, &rule), DA_OK);
        assert_contains(text, rule.condition);
        assert_contains(text, rule.facts);
        assert_contains(text, rule.outcome);
    }
    for (size_t k = 0; k < ALTERNATIVES; k++) {
        da_alternative alternative;
        assert_int_equal(da_explanation_alternative(explanation, k, &alternative), DA_OK);
        assert_contains(text, alternative.name);
        assert_contains(text, alternative.note);
    }
    assert_contains(text, "\ncost of batch 1, 99,999 tokens, 1 query and 1 key head, head_dim 64, f32\n");
    assert_contains(text, "counted pairs");
    assert_contains(text, "distinct pairs");
    assert_contains(text, "dense pairs");
    assert_int_equal(text[strlen(text) - 1], '\n');
    da_explanation_free(explanation);
    da_context_free(context);
}

/* The rules of the text begin and end their columns at the same places. */
static void test_table_is_aligned(void **state) {
    (void)state;
    da_context *context = make_context(NULL, DA_ISA_PORTABLE, NULL);
    const da_attention_config config = make_config(60000);
    da_explanation *explanation = explain(context, &config, NULL);
    const char *line = strstr(da_explanation_text(explanation), "\n  1  ");
    ptrdiff_t arrow = -1, outcome = -1;
    for (size_t k = 0; k < RULES; k++) {
        da_rule rule;
        assert_non_null(line);
        assert_int_equal(da_explanation_rule(explanation, k, &rule), DA_OK);
        ptrdiff_t arrow_here = strstr(line, "-> ") - line, outcome_here = strstr(line, rule.outcome) - line;
        assert_true(k == 0 || (arrow_here == arrow && outcome_here == outcome));
        arrow = arrow_here;
        outcome = outcome_here;
        line = strchr(line + 1, '\n');
    }
    da_explanation_free(explanation);
    da_context_free(context);
}

static void test_cost(void **state) {
    (void)state;
    da_context *context = make_context(NULL, DA_ISA_PORTABLE, NULL);
    da_attention_config config = make_config(0);
    da_problem problem;
    da_cost cost = {.size = sizeof cost}, expected = {.size = sizeof expected};
    da_problem_init(&problem);
    problem.n = 512;
    problem.heads = 4;
    problem.head_dim = 32;
    da_explanation *explanation = explain(context, &config, &problem);
    assert_int_equal(da_explanation_cost(explanation, &cost), DA_OK);
    assert_int_equal(da_pattern_cost(&config, &problem, &expected), DA_OK);
    assert_true(cost.counted_pairs > 0);
    assert_true(cost.counted_pairs == expected.counted_pairs && cost.distinct_pairs == expected.distinct_pairs);
    assert_true(cost.dense_pairs == expected.dense_pairs && cost.counted_flops == expected.counted_flops);
    assert_true(cost.tensor_bytes == expected.tensor_bytes);
    da_explanation_free(explanation);

    problem.n = 0;
    explanation = explain(context, &config, &problem);
    assert_int_equal(da_explanation_cost(explanation, &cost), DA_OK);
    assert_true(cost.counted_pairs == 0 && cost.distinct_pairs == 0 && cost.dense_pairs == 0);
    assert_true(cost.counted_flops == 0 && cost.tensor_bytes == 0);
    assert_contains(da_explanation_text(explanation), "unknown, as the number of tokens is");
    da_explanation_free(explanation);
    da_context_free(context);
}

static void test_alternatives(void **state) {
    (void)state;
    static const char *const names[ALTERNATIVES] = {"standard", "improved", "ring", "distributed", "block_sparse"};
    da_context *context = make_context(NULL, DA_ISA_AUTO, NULL);
    const da_attention_config config = make_config(0);
    da_problem problem;
    da_problem_init(&problem);
    problem.n = 4096;
    problem.heads = 8;
    da_explanation *explanation = explain(context, &config, &problem);
    assert_int_equal(da_explanation_alternative_count(explanation), ALTERNATIVES);
    for (size_t k = 0; k < ALTERNATIVES; k++) {
        da_alternative alternative;
        size_t bytes = 0;
        assert_int_equal(da_explanation_alternative(explanation, k, &alternative), DA_OK);
        assert_string_equal(alternative.name, names[k]);
        assert_int_equal(alternative.available, k != 3);
        if (alternative.available) {
            da_attention *attention;
            assert_int_equal(da_attention_create(context, names[k], &config, &attention), DA_OK);
            assert_int_equal(da_attention_workspace(attention, &problem, &bytes), DA_OK);
            assert_true(bytes > 0);
            da_attention_free(attention);
        } else {
            assert_string_equal(alternative.note, "the context has no communicator of several ranks");
        }
        assert_int_equal(alternative.workspace_bytes, bytes);
    }
    da_explanation_free(explanation);
    da_context_free(context);
}

/* What is explained is what is done. */
static void test_same_choice_as_creation(void **state) {
    (void)state;
    const da_isa isas[] = {DA_ISA_PORTABLE, DA_ISA_AUTO};
    for (int k = 0; k < 2; k++) {
        for (int64_t n = 0; n <= 150003; n += 50001) {
            da_context *context = make_context(NULL, isas[k], NULL);
            const da_attention_config config = make_config(n);
            da_explanation *explanation = explain(context, &config, NULL);
            da_attention *attention;
            assert_int_equal(da_attention_create(context, "auto", &config, &attention), DA_OK);
            assert_string_equal(da_explanation_choice(explanation), da_attention_implementation(attention));
            da_attention_free(attention);
            da_explanation_free(explanation);
            da_context_free(context);
        }
    }
}

static void test_length_of_the_problem_comes_first(void **state) {
    (void)state;
    da_context *context = make_context(NULL, DA_ISA_PORTABLE, NULL);
    const da_attention_config config = make_config(4096);
    da_problem problem;
    da_rule rule;
    da_problem_init(&problem);
    problem.n = 100001;
    da_explanation *explanation = explain(context, &config, &problem);
    assert_int_equal(da_explanation_rule(explanation, 2, &rule), DA_OK);
    assert_string_equal(rule.facts, "100,001 tokens");
    da_explanation_free(explanation);
    problem.n = 0;
    explanation = explain(context, &config, &problem);
    assert_int_equal(da_explanation_rule(explanation, 2, &rule), DA_OK);
    assert_string_equal(rule.facts, "4,096 tokens");
    da_explanation_free(explanation);
    da_context_free(context);
}

static void test_refusals(void **state) {
    (void)state;
    da_explanation *const unset = (da_explanation *)(uintptr_t)64;
    da_context *context = make_context(NULL, DA_ISA_PORTABLE, NULL);
    da_attention_config config = make_config(0);
    da_explanation *explanation = unset;
    da_problem problem;
    da_problem_init(&problem);
    assert_int_equal(da_explain(context, &config, NULL, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("out is NULL");
    assert_int_equal(da_explain(NULL, &config, NULL, &explanation), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("context is NULL");
    assert_null(explanation);
    explanation = unset;
    assert_int_equal(da_explain(context, NULL, NULL, &explanation), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("config is NULL");
    assert_null(explanation);
    problem.n = -1;
    explanation = unset;
    assert_int_equal(da_explain(context, &config, &problem, &explanation), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("problem.n is -1");
    assert_null(explanation);
    problem.n = 1;
    config.dtype = DA_F16;
    assert_int_equal(da_explain(context, &config, &problem, &explanation), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("problem.dtype is f32; allowed: f16");
    config.device = DA_DEVICE_CUDA;
    assert_int_equal(da_explain(context, &config, NULL, &explanation), DA_ERROR_UNAVAILABLE);
    assert_message_contains("config.device is cuda");
    da_context_free(context);
}

static void test_getters_refuse(void **state) {
    (void)state;
    da_context *context = make_context(NULL, DA_ISA_PORTABLE, NULL);
    const da_attention_config config = make_config(10);
    da_explanation *explanation = explain(context, &config, NULL);
    da_rule rule;
    da_alternative alternative;
    da_cost cost = {.size = sizeof cost};
    assert_int_equal(da_explanation_rule(explanation, RULES, &rule), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("index is 6; allowed: 0 to 5");
    assert_int_equal(da_explanation_rule(explanation, SIZE_MAX, &rule), DA_ERROR_INVALID_ARGUMENT);
    assert_int_equal(da_explanation_rule(explanation, 0, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("out is NULL");
    assert_int_equal(da_explanation_rule(NULL, 0, &rule), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("explanation is NULL");
    assert_int_equal(da_explanation_alternative(explanation, ALTERNATIVES, &alternative), DA_ERROR_INVALID_ARGUMENT);
    assert_int_equal(da_explanation_alternative(explanation, 0, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_int_equal(da_explanation_alternative(NULL, 0, &alternative), DA_ERROR_INVALID_ARGUMENT);
    assert_int_equal(da_explanation_cost(explanation, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_int_equal(da_explanation_cost(NULL, &cost), DA_ERROR_INVALID_ARGUMENT);
    assert_null(da_explanation_choice(NULL));
    assert_null(da_explanation_text(NULL));
    assert_int_equal(da_explanation_rule_count(NULL), 0);
    assert_int_equal(da_explanation_alternative_count(NULL), 0);
    da_explanation_free(NULL);
    da_explanation_free(explanation);
    da_context_free(context);
}

/* At every allocation: the status says so, nothing is returned, nothing leaks. */
static void test_short_memory(void **state) {
    (void)state;
    short_memory budget = {.until_failure = -1};
    da_context *context = make_context(NULL, DA_ISA_AUTO, &budget);
    /* Of unknown length: what a known one allocates for its estimate is the planner's, and tested there. */
    const da_attention_config config = make_config(0);
    int of_context = budget.live, failures = 0;
    da_status status = DA_ERROR_OUT_OF_MEMORY;
    while (status != DA_OK) {
        da_explanation *explanation = (da_explanation *)(uintptr_t)64;
        budget.until_failure = failures;
        status = da_explain(context, &config, NULL, &explanation);
        if (status == DA_OK) {
            da_explanation_free(explanation);
        } else {
            assert_int_equal(status, DA_ERROR_OUT_OF_MEMORY);
            assert_null(explanation);
            failures++;
        }
        assert_int_equal(budget.live, of_context);
    }
    assert_true(failures >= 2);
    da_context_free(context);
    assert_int_equal(budget.live, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rules),
        cmocka_unit_test(test_text),
        cmocka_unit_test(test_table_is_aligned),
        cmocka_unit_test(test_cost),
        cmocka_unit_test(test_alternatives),
        cmocka_unit_test(test_same_choice_as_creation),
        cmocka_unit_test(test_length_of_the_problem_comes_first),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_getters_refuse),
        cmocka_unit_test(test_short_memory),
    };
    return cmocka_run_group_tests_name("explain", tests, NULL, NULL);
}
