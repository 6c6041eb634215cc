/* Registration, the list of names, and what is told of each. */
#define _POSIX_C_SOURCE 200809L

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "fixtures.h"

static const char *const built_in_names[] = {"standard", "improved", "ring", "distributed", "block_sparse"};
enum { BUILT_IN_COUNT = sizeof built_in_names / sizeof *built_in_names };

enum { THREADS = 8, NAMES = 40 };

typedef struct registrant {
    pthread_t thread;
    int number;
    int shared_won, errors;
    call_counts counts;
} registrant;

static pthread_barrier_t start_line;

static void *register_many(void *argument) {
    registrant *self = argument;
    pthread_barrier_wait(&start_line);
    for (int k = 0; k < NAMES; k++) {
        char own[32], shared[32];
        snprintf(own, sizeof own, "thread-%d-%d", self->number, k);
        snprintf(shared, sizeof shared, "shared-%d", k);
        da_implementation table = counting_implementation(own, &self->counts);
        self->errors += da_register_implementation(&table) != DA_OK;
        table.name = shared;
        da_status status = da_register_implementation(&table);
        self->shared_won += status == DA_OK;
        self->errors += status != DA_OK && status != DA_ERROR_ALREADY_REGISTERED;
        self->errors += da_implementation_count() < (size_t)(BUILT_IN_COUNT + k + 1);
        self->errors += strcmp(da_implementation_name(0), "standard") != 0;
    }
    return NULL;
}

/* Runs first, so that the threads also race for the first use of the registry. */
static void test_registration_from_many_threads(void **state) {
    (void)state;
    static registrant registrants[THREADS];
    int won = 0;
    assert_int_equal(pthread_barrier_init(&start_line, NULL, THREADS), 0);
    for (int k = 0; k < THREADS; k++) {
        registrants[k].number = k;
        assert_int_equal(pthread_create(&registrants[k].thread, NULL, register_many, &registrants[k]), 0);
    }
    for (int k = 0; k < THREADS; k++) {
        assert_int_equal(pthread_join(registrants[k].thread, NULL), 0);
        assert_int_equal(registrants[k].errors, 0);
        won += registrants[k].shared_won;
    }
    pthread_barrier_destroy(&start_line);
    assert_int_equal(won, NAMES);
    assert_int_equal(da_implementation_count(), BUILT_IN_COUNT + THREADS * NAMES + NAMES);
    for (size_t k = 0; k < da_implementation_count(); k++) {
        for (size_t j = 0; j < k; j++) {
            assert_string_not_equal(da_implementation_name(j), da_implementation_name(k));
        }
    }
}

static void test_names(void **state) {
    (void)state;
    for (size_t k = 0; k < BUILT_IN_COUNT; k++) {
        assert_string_equal(da_implementation_name(k), built_in_names[k]);
    }
    size_t count = da_implementation_count();
    assert_non_null(da_implementation_name(count - 1));
    assert_null(da_implementation_name(count));
    assert_null(da_implementation_name(SIZE_MAX));
}

static void test_info_of_built_ins(void **state) {
    (void)state;
    da_context *context = make_context(NULL, DA_ISA_AUTO, NULL);
    for (int k = 0; k < BUILT_IN_COUNT; k++) {
        const uint32_t all = DA_FEATURE_ALL, but_range = all & ~(uint32_t)DA_FEATURE_QUERY_RANGE;
        const uint32_t features[BUILT_IN_COUNT] = {but_range, all, all | DA_FEATURE_PARTS, but_range | DA_FEATURE_PARTS,
                                                   all};
        const char *reasons[BUILT_IN_COUNT] = {"", "", "", "the context has no communicator of several ranks", ""};
        da_implementation_info info;
        da_implementation_info_init(&info);
        assert_int_equal(da_implementation_get_info(context, built_in_names[k], &info), DA_OK);
        assert_int_equal(info.size, sizeof info);
        assert_string_equal(info.name, built_in_names[k]);
        assert_true(info.description[0] && info.best_for[0] && info.memory[0]);
        assert_true(info.built_in);
        assert_int_equal(info.available, reasons[k][0] == 0);
        assert_int_equal(info.features, features[k]);
        assert_int_equal(info.dtypes, DA_DTYPE_BITS_ALL);
        assert_true(info.backward);
        assert_string_equal(info.reason, reasons[k]);
    }
    da_context_free(context);
}

static void test_info_of_a_users(void **state) {
    (void)state;
    da_context *context = make_context(NULL, DA_ISA_AUTO, NULL);
    call_counts counts = {.unavailable_because = "the moon is full"};
    char name[] = "told-of", description[] = "described";
    da_implementation table = counting_implementation(name, &counts);
    table.description = description;
    table.best_for = NULL;
    table.memory = NULL;
    table.features = DA_FEATURE_CAUSAL | DA_FEATURE_WINDOW;
    assert_int_equal(da_register_implementation(&table), DA_OK);
    /* The strings were copied. */
    memset(name, 'x', sizeof name - 1);
    memset(description, 'x', sizeof description - 1);
    da_implementation_info info;
    da_implementation_info_init(&info);
    assert_int_equal(da_implementation_get_info(context, "told-of", &info), DA_OK);
    assert_string_equal(info.name, "told-of");
    assert_string_equal(info.description, "described");
    assert_string_equal(info.best_for, "");
    assert_string_equal(info.memory, "");
    assert_int_equal(info.features, DA_FEATURE_CAUSAL | DA_FEATURE_WINDOW);
    assert_int_equal(info.dtypes, DA_DTYPE_BIT(DA_F32));
    assert_true(info.backward);
    assert_false(info.built_in);
    assert_false(info.available);
    assert_string_equal(info.reason, "the moon is full");
    counts.unavailable_because = "";
    assert_int_equal(da_implementation_get_info(context, "told-of", &info), DA_OK);
    assert_false(info.available);
    assert_string_equal(info.reason, "it says that it cannot run here, and not why");
    counts.unavailable_because = NULL;
    assert_int_equal(da_implementation_get_info(context, "told-of", &info), DA_OK);
    assert_true(info.available);
    assert_string_equal(info.reason, "");
    assert_int_equal(counts.available, 3);
    table.name = "always-available";
    table.available = NULL;
    assert_int_equal(da_register_implementation(&table), DA_OK);
    assert_int_equal(da_implementation_get_info(context, "always-available", &info), DA_OK);
    assert_true(info.available);
    da_context_free(context);
}

static void test_info_refusals(void **state) {
    (void)state;
    da_context *context = make_context(NULL, DA_ISA_AUTO, NULL);
    da_implementation_info info;
    da_implementation_info_init(&info);
    da_implementation_info_init(NULL);
    assert_int_equal(da_implementation_get_info(NULL, "standard", &info), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("context is NULL");
    assert_int_equal(da_implementation_get_info(context, NULL, &info), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("name is NULL");
    assert_int_equal(da_implementation_get_info(context, "standard", NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("info is NULL");
    assert_int_equal(da_implementation_get_info(context, "auto", &info), DA_ERROR_UNKNOWN_IMPLEMENTATION);
    assert_int_equal(da_implementation_get_info(context, "Standard", &info), DA_ERROR_UNKNOWN_IMPLEMENTATION);
    assert_message_contains("\"Standard\"; allowed: standard, improved, ring, distributed, block_sparse");
    info.size = 1;
    assert_int_equal(da_implementation_get_info(context, "standard", &info), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("info.size is 1");
    da_context_free(context);
}

static void test_name_rules(void **state) {
    (void)state;
    call_counts counts = {0};
    char longest[64], too_long[65];
    memset(longest, 'n', 63);
    memset(too_long, 'n', 64);
    longest[63] = too_long[64] = '\0';
    const char *refused[] = {"", "auto", "two words", "a.b", "a/b", "caf\xc3\xa9", "a\n", "\"", too_long};
    const char *taken[] = {longest, "a", "0", "_", "-", "Auto", "auto2", "A-z_09"};
    for (size_t k = 0; k < sizeof refused / sizeof *refused; k++) {
        size_t before = da_implementation_count();
        da_implementation table = counting_implementation(refused[k], &counts);
        assert_int_equal(da_register_implementation(&table), DA_ERROR_INVALID_ARGUMENT);
        assert_message_contains("implementation.name is \"");
        assert_int_equal(da_implementation_count(), before);
    }
    for (size_t k = 0; k < sizeof taken / sizeof *taken; k++) {
        da_implementation table = counting_implementation(taken[k], &counts);
        assert_int_equal(da_register_implementation(&table), DA_OK);
        assert_string_equal(da_implementation_name(da_implementation_count() - 1), taken[k]);
    }
}

static void test_registration_refusals(void **state) {
    (void)state;
    call_counts counts = {0};
    const da_implementation good = counting_implementation("refused", &counts);
    size_t before = da_implementation_count();
    assert_int_equal(da_register_implementation(NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("implementation is NULL");
    da_implementation table = good;
    table.size = 8;
    assert_int_equal(da_register_implementation(&table), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("implementation.size is 8");
    table = good;
    table.name = NULL;
    assert_int_equal(da_register_implementation(&table), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("implementation.name is NULL");
    table = good;
    table.forward = NULL;
    assert_int_equal(da_register_implementation(&table), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("implementation.forward is NULL");
    table = good;
    table.features = DA_FEATURE_PARTS << 1;
    assert_int_equal(da_register_implementation(&table), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("implementation.features is 0x1000");
    table = good;
    table.dtypes = 1u << 9;
    assert_int_equal(da_register_implementation(&table), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("implementation.dtypes is 0x200");
    for (int k = 0; k < BUILT_IN_COUNT; k++) {
        table = good;
        table.name = built_in_names[k];
        assert_int_equal(da_register_implementation(&table), DA_ERROR_ALREADY_REGISTERED);
        assert_message_contains(built_in_names[k]);
    }
    assert_int_equal(da_implementation_count(), before);
    assert_int_equal(da_register_implementation(&good), DA_OK);
    assert_int_equal(da_register_implementation(&good), DA_ERROR_ALREADY_REGISTERED);
    assert_int_equal(da_implementation_count(), before + 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_registration_from_many_threads),
        cmocka_unit_test(test_names),
        cmocka_unit_test(test_info_of_built_ins),
        cmocka_unit_test(test_info_of_a_users),
        cmocka_unit_test(test_info_refusals),
        cmocka_unit_test(test_name_rules),
        cmocka_unit_test(test_registration_refusals),
    };
    return cmocka_run_group_tests_name("registry", tests, NULL, NULL);
}
