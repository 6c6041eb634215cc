/* The store: arguments, saving and loading, and many threads at once. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "planner/plan_fixtures.h"

static da_plans *make_plans(void) {
    da_plans *plans;
    assert_int_equal(da_plans_create(NULL, &plans), DA_OK);
    return plans;
}

static void *allocate_nothing(size_t bytes, void *user) {
    return NULL;
}

static void test_arguments(void **state) {
    da_plans *plans = make_plans(), *other = plans;
    const da_allocator half = {allocate_nothing, NULL, NULL};
    assert_int_equal(da_plans_create(NULL, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_message_has("out is NULL; allowed");
    assert_int_equal(da_plans_create(&half, &other), DA_ERROR_INVALID_ARGUMENT);
    assert_message_has("allocator.release is NULL; allowed");
    assert_null(other);
    assert_int_equal(da_plans_save(NULL, "x"), DA_ERROR_INVALID_ARGUMENT);
    assert_message_has("plans is NULL; allowed");
    assert_int_equal(da_plans_save(plans, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_message_has("path is NULL; allowed");
    assert_int_equal(da_plans_save(plans, ""), DA_ERROR_INVALID_ARGUMENT);
    assert_message_has("path is empty; allowed");
    assert_int_equal(da_plans_load(NULL, "x"), DA_ERROR_INVALID_ARGUMENT);
    assert_int_equal(da_plans_load(plans, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_int_equal(da_plans_load(plans, ""), DA_ERROR_INVALID_ARGUMENT);
    assert_int_equal(da_plans_count(NULL), 0);
    da_plans_free(NULL);
    da_plans_free(plans);
}

static void test_files_that_cannot_be_used(void **state) {
    da_plans *plans = make_plans();
    remember_plan(plans, 10, (da_tuning){1, 0, 0});
    assert_int_equal(da_plans_load(plans, temporary_path("absent")), DA_ERROR_IO);
    assert_message_has("absent");
    assert_int_equal(da_plans_load(plans, temporary_path("")), DA_ERROR_IO);
    assert_int_equal(da_plans_save(plans, temporary_path("no/folder")), DA_ERROR_IO);
    assert_message_has("no/folder");
    assert_int_equal(da_plans_save(plans, temporary_path("")), DA_ERROR_IO);
    assert_int_equal(da_plans_save(plans, "/dev/null"), DA_ERROR_IO);
    assert_message_has("/dev/null");
    assert_int_equal(files_in_folder(), 0);
    assert_int_equal(da_plans_count(plans), 1);
    da_plans_free(plans);
}

static void test_round_trip(void **state) {
    da_plans *first = make_plans(), *second = make_plans();
    for (int k = 0; k < 200; k++) {
        remember_plan(first, 1 + 37 * k % 200, (da_tuning){k % 5 * 100, k % 5 * 64, k % 3});
    }
    assert_int_equal(da_plans_count(first), 200);
    assert_int_equal(da_plans_save(first, temporary_path("first")), DA_OK);
    assert_int_equal(da_plans_load(second, temporary_path("first")), DA_OK);
    assert_int_equal(da_plans_count(second), 200);
    assert_int_equal(da_plans_save(second, temporary_path("second")), DA_OK);
    size_t lengths[2];
    char *texts[2] = {read_text(temporary_path("first"), &lengths[0]),
                      read_text(temporary_path("second"), &lengths[1])};
    assert_int_equal(lengths[0], lengths[1]);
    assert_memory_equal(texts[0], texts[1], lengths[0]);
    assert_int_equal(files_in_folder(), 2); /* no temporary file is left */
    free(texts[0]);
    free(texts[1]);
    da_plans_free(first);
    da_plans_free(second);
}

/* The key of everything that a plan depends on differs, and the plan comes back as it was. */
static void test_keys_tell_problems_apart(void **state) {
    da_plans *plans = make_plans();
    da_context *context = plan_context(2, plans, NULL), *other = plan_context(3, plans, NULL);
    da_attention_config config = plan_config();
    da_problem problem = plan_problem(100);
    da_remembered plan;
    remember_plan(plans, 100, (da_tuning){300, 192, 1});
    assert_true(da_plans_find(context, &config, &problem, &plan));
    assert_string_equal(plan.implementation, "improved");
    assert_true(plan.tuning.unit == 300 && plan.tuning.block_keys == 192 && plan.tuning.threads == 1);
    assert_true(plan.seconds == 1.5e-3);
    assert_false(da_plans_find(other, &config, &problem, &plan));
#define DIFFERS(change)                                                                                                \
    do {                                                                                                               \
        config = plan_config();                                                                                        \
        problem = plan_problem(100);                                                                                   \
        change;                                                                                                        \
        assert_false(da_plans_find(context, &config, &problem, &plan));                                                \
    } while (0)
    DIFFERS(problem.n = 101);
    DIFFERS(problem.batch = 2);
    DIFFERS(problem.heads = 4);
    DIFFERS(problem.kv_heads = 1);
    DIFFERS(problem.head_dim = 9);
    DIFFERS(problem.dtype = DA_BF16);
    DIFFERS(config.causal = true);
    DIFFERS(config.window = 5);
    DIFFERS(config.mixing = DA_MIXING_HEAD_GROUPS);
    DIFFERS(config.offset_rule = DA_OFFSET_BLOCK);
    DIFFERS(config.tail_rule = DA_TAIL_ZERO_PAD);
    DIFFERS(config.overlap = DA_OVERLAP_ONCE);
    DIFFERS(config.segment_lengths[1] = 129);
    DIFFERS(config.dilation_rates[1] = 3);
    DIFFERS((config.segment_count = 1, config.rate_count = 1));
    config = plan_config();
    problem = plan_problem(100);
    config.scale_is_set = true; /* and what does not bear on speed is left out */
    config.scale = 3;
    config.dropout = 0.5;
    assert_true(da_plans_find(context, &config, &problem, &plan));
    da_context_free(context);
    da_context_free(other);
    da_plans_free(plans);
}

static void test_of_two_plans_the_files_stays(void **state) {
    da_plans *plans = make_plans();
    da_context *context = plan_context(2, plans, NULL);
    da_attention_config config = plan_config();
    da_problem problem = plan_problem(50);
    da_remembered plan;
    remember_plan(plans, 50, (da_tuning){11, 0, 0});
    assert_int_equal(da_plans_save(plans, temporary_path("eleven")), DA_OK);
    remember_plan(plans, 50, (da_tuning){22, 0, 0});
    remember_plan(plans, 60, (da_tuning){33, 0, 0});
    assert_int_equal(da_plans_count(plans), 2);
    assert_int_equal(da_plans_load(plans, temporary_path("eleven")), DA_OK);
    assert_int_equal(da_plans_count(plans), 2);
    assert_true(da_plans_find(context, &config, &problem, &plan));
    assert_int_equal(plan.tuning.unit, 11);
    problem.n = 60;
    assert_true(da_plans_find(context, &config, &problem, &plan));
    assert_int_equal(plan.tuning.unit, 33);
    da_context_free(context);
    da_plans_free(plans);
}

enum { THREADS = 4, ROUNDS = 60 };

typedef struct user {
    da_plans *plans;
    const da_context *context;
    int number;
    const char *path;
    int failures;
} user;

/* Remembers and finds, saves and loads. A plan for n always has the unit n. */
static void *use_store(void *argument) {
    user *own = argument;
    for (int round = 0; round < ROUNDS; round++) {
        int64_t n = 1 + (round * 7 + own->number * 13) % 40;
        da_plan_subject subject = {DA_ISA_PORTABLE, 2, {0}, plan_problem(n)};
        da_remembered plan = {"improved", {n, 0, 0}, 1e-3};
        char key[DA_PLAN_KEY_SIZE];
        da_attention_config_init(&subject.config);
        subject.config.segment_count = subject.config.rate_count = 1;
        subject.config.segment_lengths[0] = subject.config.dilation_rates[0] = 1;
        da_plan_key_write(&subject, key);
        own->failures += da_plans_remember(own->plans, key, &plan) != DA_OK;
        plan.tuning.unit = 0;
        own->failures +=
            !da_plans_find(own->context, &subject.config, &subject.problem, &plan) || plan.tuning.unit != n;
        if (round % 8 == own->number) {
            own->failures += da_plans_save(own->plans, own->path) != DA_OK;
            own->failures += da_plans_load(own->plans, own->path) != DA_OK;
        }
        own->failures += da_plans_count(own->plans) < 1;
    }
    return NULL;
}

/* All threads share the store; each other one shares a file with a neighbour, whole at every moment. */
static void test_many_threads(void **state) {
    static const char *const names[] = {"even", "odd"};
    pthread_t threads[THREADS];
    user users[THREADS];
    da_plans *plans = make_plans();
    da_context *context = plan_context(2, plans, NULL);
    for (int t = 0; t < THREADS; t++) {
        users[t] = (user){plans, context, t, temporary_path(names[t % 2]), 0};
        assert_int_equal(pthread_create(&threads[t], NULL, use_store, &users[t]), 0);
    }
    for (int t = 0; t < THREADS; t++) {
        pthread_join(threads[t], NULL);
        assert_int_equal(users[t].failures, 0);
    }
    assert_int_equal(da_plans_count(plans), 40);
    da_context_free(context);
    da_plans_free(plans);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_arguments),
        cmocka_unit_test(test_files_that_cannot_be_used),
        cmocka_unit_test(test_round_trip),
        cmocka_unit_test(test_keys_tell_problems_apart),
        cmocka_unit_test(test_of_two_plans_the_files_stays),
        cmocka_unit_test(test_many_threads),
    };
    return cmocka_run_group_tests(tests, NULL, remove_folder);
}
