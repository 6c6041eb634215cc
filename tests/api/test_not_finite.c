/* NaN and infinity in one key reach the queries that see it, and no other, on every instruction set; and a call leaves the
 * caller's floating-point state and tile registers as they were. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "support/layouts.h"
#include "support/values.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

enum { N = 150, HEAD_DIM = 70, BAD_KEY = 67, BAD_COMPONENT = 65 };

/* More than rounding in any data type, less than what a NaN, an infinity or a missing key does. */
static const double CLOSE = 0.02;

/* What runs at the time: `improved`, or `ring` in blocks. */
static int64_t block;

static da_attention *create(const da_context *context, const da_attention_config *config) {
    da_attention *attention;
    assert_int_equal(da_attention_create(context, block > 0 ? "ring" : "improved", config, &attention), DA_OK);
    return attention;
}

typedef enum place { NOWHERE, IN_KEY, IN_VALUE } place;

static test_tensor make_input(da_dtype dtype, unsigned seed, bool bad, double what) {
    static float numbers[N * HEAD_DIM];
    test_tensor tensor = test_tensor_make(LAYOUT_DENSE, dtype, 1, N, 1, HEAD_DIM);
    for (int i = 0; i < N * HEAD_DIM; i++) {
        seed = seed * 1664525u + 1013904223u;
        numbers[i] = (float)(int)(seed >> 28) / 8 - 1; /* exact in all types */
    }
    if (bad) {
        numbers[BAD_KEY * HEAD_DIM + BAD_COMPONENT] = (float)what;
    }
    test_tensor_fill(&tensor, numbers, DA_F32);
    return tensor;
}

static test_tensor run(const da_context *context, da_dtype dtype, place bad, double what) {
    test_tensor query = make_input(dtype, 1, false, 0), key = make_input(dtype, 2, bad == IN_KEY, what);
    test_tensor value = make_input(dtype, 3, bad == IN_VALUE, what);
    test_tensor out = test_tensor_make(LAYOUT_DENSE, dtype, 1, N, 1, HEAD_DIM);
    da_attention_config config;
    da_call_options options;
    da_call_options_init(&options);
    options.block = block;
    da_attention_config_init(&config);
    assert_int_equal(da_attention_config_set_patterns(&config, (int64_t[]){N}, 1, (int64_t[]){1}, 1), DA_OK);
    config.causal = true;
    da_attention *attention = create(context, &config);
    assert_int_equal(da_attention_forward(attention, &query.view, &key.view, &value.view, &out.view, NULL, &options),
                     DA_OK);
    da_attention_free(attention);
    test_tensor_free(&query);
    test_tensor_free(&key);
    test_tensor_free(&value);
    return out;
}

static void check(const char *name, const test_tensor *clean, const test_tensor *got, place bad, double what) {
    for (int i = 0; i < N; i++) {
        for (int c = 0; c < HEAD_DIM; c++) {
            double x = test_tensor_get(got, 0, i, 0, c), exact = test_tensor_get(clean, 0, i, 0, c);
            bool hit = i >= BAD_KEY && (bad == IN_KEY || c == BAD_COMPONENT);
            bool right = !hit ? fabs(x - exact) <= CLOSE : isnan(what) || bad == IN_KEY ? isnan(x) : x == what;
            if (!right) {
                fail_msg("%s, %g in a %s: out[%d][%d] is %g, without it %g", name, what,
                         bad == IN_KEY ? "key" : "value", i, c, x, exact);
            }
        }
    }
}

static da_context *open_context(da_isa isa) {
    da_context *context;
    da_context_options options;
    da_context_options_init(&options);
    options.isa = isa;
    options.threads = 1;
    assert_int_equal(da_context_create(&options, &context), DA_OK);
    return context;
}

/* Calls check(context, dtype, name) for each instruction set that runs here and each data type. */
static void for_each_kernel(void (*check_kernel)(const da_context *context, da_dtype dtype, const char *name)) {
    for (da_isa isa = DA_ISA_PORTABLE; isa <= DA_ISA_NEON; isa++) {
        if (!da_isa_available(isa)) {
            continue;
        }
        da_context *context = open_context(isa);
        for (da_dtype dtype = DA_F32; dtype <= DA_F16; dtype++) {
            char name[64];
            for (block = 0; block <= 16; block += 16) {
                snprintf(name, sizeof name, "%s %s, block %d", da_isa_name(isa), da_dtype_name(dtype), (int)block);
                check_kernel(context, dtype, name);
            }
            block = 0;
        }
        da_context_free(context);
    }
}

static void check_reach(const da_context *context, da_dtype dtype, const char *name) {
    const double what[] = {(double)NAN, (double)INFINITY, -(double)INFINITY};
    test_tensor clean = run(context, dtype, NOWHERE, 0);
    for (int k = 0; k < 3; k++) {
        test_tensor in_value = run(context, dtype, IN_VALUE, what[k]);
        check(name, &clean, &in_value, IN_VALUE, what[k]);
        test_tensor_free(&in_value);
    }
    test_tensor in_key = run(context, dtype, IN_KEY, (double)NAN);
    check(name, &clean, &in_key, IN_KEY, (double)NAN);
    test_tensor_free(&in_key);
    test_tensor_free(&clean);
}

static void test_reach(void **state) {
    (void)state;
    for_each_kernel(check_reach);
}

/* A query of NaN whose only key is padded: it has no key, so that its output is 0. */
static void check_query_without_keys(const da_context *context, da_dtype dtype, const char *name) {
    enum { SHORT = 5 };
    const float ones[SHORT] = {1, 1, 1, 1, 1}, first_is_nan[SHORT] = {NAN, 1, 1, 1, 1};
    const uint8_t first_is_padded[SHORT] = {1};
    test_tensor query = test_tensor_make(LAYOUT_DENSE, dtype, 1, SHORT, 1, 1);
    test_tensor key = test_tensor_make(LAYOUT_DENSE, dtype, 1, SHORT, 1, 1);
    test_tensor out = test_tensor_make(LAYOUT_DENSE, dtype, 1, SHORT, 1, 1);
    da_attention_config config;
    da_call_options options;
    test_tensor_fill(&query, first_is_nan, DA_F32);
    test_tensor_fill(&key, ones, DA_F32);
    da_call_options_init(&options);
    options.key_mask = first_is_padded;
    options.block = block > 0 ? 2 : 0;
    da_attention_config_init(&config);
    assert_int_equal(da_attention_config_set_patterns(&config, (int64_t[]){SHORT}, 1, (int64_t[]){1}, 1), DA_OK);
    config.causal = true;
    da_attention *attention = create(context, &config);
    assert_int_equal(da_attention_forward(attention, &query.view, &key.view, &key.view, &out.view, NULL, &options),
                     DA_OK);
    for (int i = 0; i < SHORT; i++) {
        double x = test_tensor_get(&out, 0, i, 0, 0);
        if (!(fabs(x - (i > 0)) <= CLOSE)) {
            fail_msg("%s: out[%d] is %g", name, i, x);
        }
    }
    da_attention_free(attention);
    test_tensor_free(&query);
    test_tensor_free(&key);
    test_tensor_free(&out);
}

static void test_query_without_keys(void **state) {
    (void)state;
    for_each_kernel(check_query_without_keys);
}

#if defined(__x86_64__)
/* Which parts of the registers are in use, as XSAVE numbers them. */
static uint64_t state_in_use(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(1));
    return (uint64_t)high << 32 | low;
}
#endif

static void test_state_is_left_as_it_was(void **state) {
    (void)state;
#if defined(__x86_64__)
    const uint64_t tiles = 3u << 17;
    const unsigned flags = 0x3f; /* exceptions that happened */
    for (da_isa isa = DA_ISA_PORTABLE; isa <= DA_ISA_NEON; isa++) {
        if (da_isa_available(isa)) {
            da_context *context = open_context(isa);
            unsigned before = _mm_getcsr();
            test_tensor out = run(context, DA_BF16, NOWHERE, 0);
            assert_int_equal(_mm_getcsr() & ~flags, before & ~flags);
            if (isa == DA_ISA_AMX_BF16) {
                assert_int_equal(state_in_use() & tiles, 0);
            }
            test_tensor_free(&out);
            da_context_free(context);
        }
    }
#else
    skip();
#endif
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_state_is_left_as_it_was), /* before others could change it */
        cmocka_unit_test(test_reach),
        cmocka_unit_test(test_query_without_keys),
    };
    return cmocka_run_group_tests_name("not_finite", tests, NULL, NULL);
}
