/* The registry when memory is short, from its first use on. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "core/memory.h"
#include "fixtures.h"

void *__real_da_allocate(const da_allocator *allocator, size_t count, size_t size);
void *__wrap_da_allocate(const da_allocator *allocator, size_t count, size_t size);

/* Allocations of the C library's memory that still succeed; below zero: all. */
static int until_failure = -1;

void *__wrap_da_allocate(const da_allocator *allocator, size_t count, size_t size) {
    if (!allocator && until_failure == 0) {
        da_report(DA_ERROR_OUT_OF_MEMORY, "could not allocate, as the test wants");
        return NULL;
    }
    until_failure -= !allocator && until_failure > 0;
    return __real_da_allocate(allocator, count, size);
}

/* Each use finds the built-in implementations that were entered before, and enters those that fit. */
static void test_first_use(void **state) {
    (void)state;
    da_context *context = make_context(NULL, DA_ISA_PORTABLE, NULL);
    const da_attention_config config = make_config(0);
    da_attention *attention;
    da_explanation *explanation;
    da_implementation_info info;
    call_counts counts = {0};
    const da_implementation table = counting_implementation("mine", &counts);
    da_implementation_info_init(&info);
    until_failure = 0;
    assert_int_equal(da_implementation_count(), 0);
    assert_null(da_implementation_name(0));
    assert_int_equal(da_attention_create(context, "standard", &config, &attention), DA_ERROR_OUT_OF_MEMORY);
    assert_int_equal(da_attention_create(context, "auto", &config, &attention), DA_ERROR_OUT_OF_MEMORY);
    assert_int_equal(da_explain(context, &config, NULL, &explanation), DA_ERROR_OUT_OF_MEMORY);
    assert_int_equal(da_implementation_get_info(context, "standard", &info), DA_ERROR_OUT_OF_MEMORY);
    assert_int_equal(da_register_implementation(&table), DA_ERROR_OUT_OF_MEMORY);
    for (size_t k = 1; k < 5; k++) {
        until_failure = 1;
        assert_int_equal(da_implementation_count(), k);
    }
    until_failure = 1;
    assert_int_equal(da_register_implementation(&table), DA_ERROR_OUT_OF_MEMORY);
    until_failure = -1;
    assert_int_equal(da_implementation_count(), 5);
    assert_string_equal(da_implementation_name(4), "block_sparse");
    assert_int_equal(da_register_implementation(&table), DA_OK);
    assert_string_equal(da_implementation_name(5), "mine");
    da_context_free(context);
}

/* The list of known names needs memory; the message does without. */
static void test_unknown_name(void **state) {
    (void)state;
    da_context *context = make_context(NULL, DA_ISA_PORTABLE, NULL);
    const da_attention_config config = make_config(0);
    da_attention *attention;
    for (int k = 0; k < 3; k++) {
        until_failure = k;
        assert_int_equal(da_attention_create(context, "nobody", &config, &attention), DA_ERROR_UNKNOWN_IMPLEMENTATION);
        assert_message_contains("\"nobody\"; allowed: ");
    }
    until_failure = -1;
    da_context_free(context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_first_use),
        cmocka_unit_test(test_unknown_name),
    };
    return cmocka_run_group_tests_name("registry_memory", tests, NULL, NULL);
}
