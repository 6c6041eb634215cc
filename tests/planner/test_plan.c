/* da_plan, and what follows from a remembered plan: "auto", the workspace, the explanation. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "planner/plan_fixtures.h"

enum { LENGTH = 300, HEADS = 2, HEAD_DIM = 8, NUMBERS = LENGTH * HEADS * HEAD_DIM };

typedef struct fixture {
    da_plans *plans;
    da_context *context; /* two threads */
    da_attention_config config;
    da_problem problem;
    da_plan_result result;
} fixture;

static fixture make_fixture(void) {
    fixture f = {.config = plan_config(), .problem = plan_problem(LENGTH)};
    assert_int_equal(da_plans_create(NULL, &f.plans), DA_OK);
    f.context = plan_context(2, f.plans, NULL);
    assert_non_null(f.context);
    da_plan_result_init(&f.result);
    return f;
}

static void free_fixture(fixture *f) {
    da_context_free(f->context);
    da_plans_free(f->plans);
}

static da_status plan(fixture *f, da_plan_mode mode) {
    return da_plan(f->context, &f->config, &f->problem, mode, &f->result);
}

static void test_refusals(void **state) {
#define REFUSED(change, status, message)                                                                               \
    do {                                                                                                               \
        fixture f = make_fixture();                                                                                    \
        change;                                                                                                        \
        assert_int_equal(plan(&f, DA_PLAN_MEASURE), status);                                                           \
        assert_message_has(message);                                                                                   \
        assert_int_equal(da_plans_count(f.plans), 0);                                                                  \
        free_fixture(&f);                                                                                              \
    } while (0)
    REFUSED(f.problem.n = 0, DA_ERROR_INVALID_ARGUMENT, "problem.n is 0");
    REFUSED(f.problem.heads = 0, DA_ERROR_INVALID_ARGUMENT, "problem.heads is 0");
    REFUSED(f.problem.size = 1, DA_ERROR_INVALID_ARGUMENT, "problem.size is 1");
    REFUSED(f.config.segment_count = 0, DA_ERROR_INVALID_ARGUMENT, "segment_lengths");
    REFUSED(f.config.dtype = DA_F64, DA_ERROR_INVALID_ARGUMENT, "problem.dtype is f32");
    REFUSED(f.config.device = DA_DEVICE_CUDA, DA_ERROR_UNAVAILABLE, "cuda");
    REFUSED(f.result.size = 8, DA_ERROR_INVALID_ARGUMENT, "result.size is 8");
    REFUSED(f.config.tuning.unit = -1, DA_ERROR_INVALID_ARGUMENT, "tuning.unit is -1; allowed: 0 (automatic) to 8192");
    REFUSED(f.config.tuning.unit = DA_MAX_UNIT + 1, DA_ERROR_INVALID_ARGUMENT, "tuning.unit is 8193");
    REFUSED(f.config.tuning.block_keys = 100, DA_ERROR_INVALID_ARGUMENT, "tuning.block_keys is 100; allowed");
    REFUSED(f.config.tuning.block_keys = -64, DA_ERROR_INVALID_ARGUMENT, "tuning.block_keys is -64; allowed");
    REFUSED(f.config.tuning.block_keys = 320, DA_ERROR_INVALID_ARGUMENT, "tuning.block_keys is 320; allowed");
    REFUSED(f.config.tuning.threads = -1, DA_ERROR_INVALID_ARGUMENT, "tuning.threads is -1; allowed");
    REFUSED(f.config.tuning.threads = 1025, DA_ERROR_INVALID_ARGUMENT, "tuning.threads is 1025; allowed");
    fixture f = make_fixture();
    assert_int_equal(da_plan(NULL, &f.config, &f.problem, DA_PLAN_ESTIMATE, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_message_has("context is NULL; allowed");
    assert_int_equal(da_plan(f.context, NULL, &f.problem, DA_PLAN_ESTIMATE, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_message_has("config is NULL; allowed");
    assert_int_equal(plan(&f, (da_plan_mode)2), DA_ERROR_INVALID_ARGUMENT);
    assert_message_has("mode is 2; allowed");
    assert_int_equal(da_plan(f.context, &f.config, NULL, DA_PLAN_ESTIMATE, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_message_has("sequence_length");
    f.config.sequence_length = 100;
    assert_int_equal(da_plan(f.context, &f.config, NULL, DA_PLAN_ESTIMATE, NULL), DA_OK);
    free_fixture(&f);
}

/* The choice is one of the candidates, and none of them is clearly better. */
static void check_choice(const da_plan_result *result, bool measured) {
    bool found = false;
    double best = 1e300, choice = measured ? result->choice.measured_seconds : result->choice.estimated_seconds;
    for (size_t k = 0; k < result->candidate_count; k++) {
        const da_plan_candidate *one = &result->candidates[k];
        double seconds = measured ? one->measured_seconds : one->estimated_seconds;
        assert_true(one->estimated_seconds > 0);
        assert_true(measured || one->measured_seconds == 0);
        best = seconds > 0 && seconds < best ? seconds : best;
        found = found || memcmp(one, &result->choice, sizeof *one) == 0;
    }
    assert_true(found);
    assert_true(choice <= best / 0.97);
}

static void test_estimate(void **state) {
    fixture f = make_fixture();
    assert_int_equal(plan(&f, DA_PLAN_ESTIMATE), DA_OK);
    assert_false(f.result.remembered);
    assert_true(f.result.candidate_count >= 2 + 3);
    const da_plan_candidate *first = &f.result.candidates[0];
    assert_true(first->tuning.unit == 0 && first->tuning.block_keys == 0 && first->tuning.threads == 0);
    check_choice(&f.result, false);
    assert_int_equal(da_plans_count(f.plans), 0);
    free_fixture(&f);
}

static void test_measure_is_remembered(void **state) {
    fixture f = make_fixture();
    assert_int_equal(plan(&f, DA_PLAN_MEASURE), DA_OK);
    assert_false(f.result.remembered);
    assert_true(f.result.choice.measured_seconds > 0);
    check_choice(&f.result, true);
    assert_int_equal(da_plans_count(f.plans), 1);
    da_plan_candidate choice = f.result.choice;
    for (int mode = DA_PLAN_ESTIMATE; mode <= DA_PLAN_MEASURE; mode++) {
        assert_int_equal(plan(&f, (da_plan_mode)mode), DA_OK);
        assert_true(f.result.remembered && f.result.candidate_count == 0);
        assert_ptr_equal(f.result.choice.implementation, choice.implementation);
        assert_memory_equal(&f.result.choice.tuning, &choice.tuning, sizeof choice.tuning);
    }
    free_fixture(&f);
}

/* What the configuration sets is kept, and such a plan is not remembered for those that leave it open. */
static void test_wishes_are_kept(void **state) {
    fixture f = make_fixture();
    f.config.tuning = (da_tuning){0, 128, 1};
    assert_int_equal(plan(&f, DA_PLAN_MEASURE), DA_OK);
    for (size_t k = 0; k < f.result.candidate_count; k++) {
        assert_int_equal(f.result.candidates[k].tuning.block_keys, 128);
        assert_int_equal(f.result.candidates[k].tuning.threads, 1);
    }
    assert_int_equal(da_plans_count(f.plans), 0);
    remember_plan(f.plans, LENGTH, (da_tuning){100, 64, 2});
    assert_int_equal(plan(&f, DA_PLAN_ESTIMATE), DA_OK);
    assert_false(f.result.remembered);
    free_fixture(&f);
}

/* A problem that could never be run here as it is: it is shortened, and its arithmetic estimated. */
static void test_huge_problem(void **state) {
    fixture f = make_fixture();
    f.problem.n = (int64_t)1 << 40;
    f.problem.batch = 1000;
    assert_int_equal(plan(&f, DA_PLAN_ESTIMATE), DA_OK);
    double small = f.result.choice.estimated_seconds;
    f.config.segment_lengths[1] = (int64_t)1 << 40;
    assert_int_equal(plan(&f, DA_PLAN_ESTIMATE), DA_OK);
    assert_true(small > 1e3 && f.result.choice.estimated_seconds > 1e3 * small);
    free_fixture(&f);
}

/* ---- what follows from a plan ------------------------------------------------------------------------------------ */

static float query[NUMBERS], key[NUMBERS], value[NUMBERS];

static void run(const fixture *f, const char *name, float out[NUMBERS], size_t *bytes) {
    da_tensor tensors[4];
    float *memory[4] = {query, key, value, out};
    da_attention *attention;
    uint32_t state = 7;
    for (int k = 0; k < NUMBERS; k++) {
        for (int t = 0; t < 3; t++) {
            state = state * 1664525u + 1013904223u;
            memory[t][k] = (float)(state >> 8) / (float)(1 << 22) - 2.0f;
        }
    }
    for (int t = 0; t < 4; t++) {
        tensors[t] = da_tensor_make(memory[t], DA_F32, 1, LENGTH, HEADS, HEAD_DIM);
    }
    assert_int_equal(da_attention_create(f->context, name, &f->config, &attention), DA_OK);
    assert_int_equal(da_attention_workspace(attention, &f->problem, bytes), DA_OK);
    assert_int_equal(da_attention_forward(attention, &tensors[0], &tensors[1], &tensors[2], &tensors[3], NULL, NULL),
                     DA_OK);
    da_attention_free(attention);
}

/* The portable kernels are chosen by rule 6 as "standard"; so the rules are shown a vector unit where there is one. */
static void test_auto_follows_plans(void **state) {
    fixture f = make_fixture();
    static float planned[NUMBERS], followed[NUMBERS], before[NUMBERS];
    size_t bytes_planned, bytes_followed, bytes_before;
    da_context_options options;
    da_context_options_init(&options);
    options.threads = 2;
    options.plans = f.plans;
    da_context_free(f.context);
    assert_int_equal(da_context_create(&options, &f.context), DA_OK);
    if (da_context_isa(f.context) == DA_ISA_PORTABLE) {
        free_fixture(&f);
        skip();
    }
    f.config.causal = true; /* so that the cut shows in the rounding, too */
    run(&f, "auto", before, &bytes_before);
    da_plan_subject subject;
    char text[DA_PLAN_KEY_SIZE];
    const da_tuning tuning = {17, 64, 1};
    const da_remembered remembered = {da_plans_implementation("improved"), tuning, 1e-3};
    da_plan_subject_of(f.context, &f.config, &f.problem, &subject);
    da_plan_key_write(&subject, text);
    assert_int_equal(da_plans_remember(f.plans, text, &remembered), DA_OK);
    run(&f, "auto", followed, &bytes_followed);
    da_explanation *explanation;
    da_tuning found;
    bool has_plan;
    assert_int_equal(da_explain(f.context, &f.config, &f.problem, &explanation), DA_OK);
    assert_int_equal(da_explanation_tuning(explanation, &found, &has_plan), DA_OK);
    assert_true(has_plan && found.unit == 17 && found.block_keys == 64 && found.threads == 1);
    assert_non_null(strstr(da_explanation_text(explanation), "tuning, of a remembered plan"));
    da_explanation_free(explanation);
    f.config.tuning = tuning;
    run(&f, "improved", planned, &bytes_planned);
    assert_int_equal(bytes_planned, bytes_followed);
    assert_true(bytes_followed < bytes_before);
    assert_memory_equal(planned, followed, sizeof planned);
    free_fixture(&f);
}

static void test_explanation(void **state) {
    fixture f = make_fixture();
    da_explanation *explanation;
    da_tuning tuning;
    bool remembered = true;
    assert_int_equal(da_explain(f.context, &f.config, &f.problem, &explanation), DA_OK);
    assert_int_equal(da_explanation_tuning(explanation, &tuning, &remembered), DA_OK);
    assert_false(remembered);
    assert_int_equal(da_explanation_tuning(explanation, &tuning, NULL), DA_OK);
    assert_int_equal(da_explanation_tuning(NULL, &tuning, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_int_equal(da_explanation_tuning(explanation, NULL, NULL), DA_ERROR_INVALID_ARGUMENT);
    for (size_t k = 0; k < da_explanation_alternative_count(explanation); k++) {
        da_alternative other;
        assert_int_equal(da_explanation_alternative(explanation, k, &other), DA_OK);
        bool modelled = other.available && strcmp(other.name, "block_sparse") != 0;
        assert_true((other.estimated_seconds > 0) == modelled);
    }
    assert_non_null(strstr(da_explanation_text(explanation), "estimated time"));
    da_explanation_free(explanation);
    f.problem.n = 0; /* nothing can be said of an unknown length */
    assert_int_equal(da_explain(f.context, &f.config, &f.problem, &explanation), DA_OK);
    assert_null(strstr(da_explanation_text(explanation), "estimated time"));
    da_explanation_free(explanation);
    free_fixture(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_estimate),
        cmocka_unit_test(test_measure_is_remembered),
        cmocka_unit_test(test_wishes_are_kept),
        cmocka_unit_test(test_huge_problem),
        cmocka_unit_test(test_auto_follows_plans),
        cmocka_unit_test(test_explanation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
