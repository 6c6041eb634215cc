/* Out of memory at every allocation of the store, of planning and of its context: each call fails cleanly, keeps
 * nothing, and leaves the store usable. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "planner/plan_fixtures.h"

enum { MANY = 1000000, LENGTH = 96 };

typedef da_status (*session)(counting_allocator *counter);

/* Store: remember, save, load. */
static da_status use_store(counting_allocator *counter) {
    const da_allocator allocator = counting_allocator_interface(counter);
    const da_remembered plan = {"improved", {512, 0, 0}, 1e-3};
    da_plan_subject subject = {DA_ISA_PORTABLE, 2, plan_config(), plan_problem(1)};
    da_plans *plans;
    da_status status = da_plans_create(&allocator, &plans);
    for (int64_t n = 1; n <= 12 && status == DA_OK; n++) {
        char key[DA_PLAN_KEY_SIZE];
        subject.problem.n = n;
        da_plan_key_write(&subject, key);
        status = da_plans_remember(plans, key, &plan);
        assert_int_equal(da_plans_count(plans), status == DA_OK ? n : n - 1);
    }
    if (status == DA_OK) {
        status = da_plans_save(plans, temporary_path("saved"));
    }
    if (status == DA_OK) {
        status = da_plans_load(plans, temporary_path("saved"));
        assert_int_equal(da_plans_count(plans), 12);
    }
    da_plans_free(plans);
    return status;
}

/* Context, plan, explanation, by a store that is short of memory, too. */
static da_status make_plan(counting_allocator *counter, da_plan_mode mode) {
    const da_allocator allocator = counting_allocator_interface(counter);
    da_attention_config config = plan_config();
    da_problem problem = plan_problem(LENGTH);
    da_plans *plans;
    da_explanation *explanation = NULL;
    da_context *context = NULL;
    da_status status = da_plans_create(&allocator, &plans);
    if (status == DA_OK) {
        context = plan_context(1, plans, counter);
        status = context ? da_plan(context, &config, &problem, mode, NULL) : DA_ERROR_OUT_OF_MEMORY;
        assert_int_equal(da_plans_count(plans), status == DA_OK && mode == DA_PLAN_MEASURE ? 1 : 0);
    }
    if (status == DA_OK) {
        status = da_explain(context, &config, &problem, &explanation);
    }
    da_explanation_free(explanation);
    da_context_free(context);
    da_plans_free(plans);
    return status;
}

static da_status estimate(counting_allocator *counter) {
    return make_plan(counter, DA_PLAN_ESTIMATE);
}

static da_status measure(counting_allocator *counter) {
    return make_plan(counter, DA_PLAN_MEASURE);
}

/* Allocation `from` and, if `all`, those after it fail. False once there is none of that number. */
static bool fails_cleanly(session use, long from, bool all) {
    counting_allocator counter = {.fail_from = from, .fail_to = all ? MANY : from};
    da_status status = use(&counter);
    bool failed = counter.calls >= from;
    assert_int_equal(status, failed ? DA_ERROR_OUT_OF_MEMORY : DA_OK);
    assert_int_equal(counter.live, 0);
    return failed;
}

static void fail_at_every_allocation(session use, long least, long step) {
    long number = 1;
    while (fails_cleanly(use, number, false)) {
        /* Runs are timed as often as it takes to trust them, so this session may allocate less often and succeed. */
        (void)fails_cleanly(use, number, true);
        number += number < least ? 1 : step;
    }
    assert_true(number > least);
}

static void test_store(void **state) {
    fail_at_every_allocation(use_store, 20, 1);
}

/* The runs that a plan is timed by allocate hundreds of times, all at the same few places: beyond the first of them,
 * some are skipped, so that this stays short. */
static void test_estimate(void **state) {
    fail_at_every_allocation(estimate, 12, 41);
}

static void test_measure(void **state) {
    fail_at_every_allocation(measure, 12, 97);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_store),
        cmocka_unit_test(test_estimate),
        cmocka_unit_test(test_measure),
    };
    return cmocka_run_group_tests(tests, NULL, remove_folder);
}
