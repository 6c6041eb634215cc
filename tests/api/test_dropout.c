/* Dropout: the random numbers, their statistics, and that both passes drop what da_dropout_keeps says. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "attention/dropout.h"
#include "dilated_attention.h"
#include "support/implementations.h"

/* ---- the generators ---------------------------------------------------------------------------------------------- */

/* kat_vectors of the generator's authors (Random123), philox2x32 with 10 rounds: counter, key, first word. */
static void test_known_answers(void **state) {
    static const struct {
        uint32_t counter[2], key, first;
    } rows[] = {
        {{0, 0}, 0, 0xFF1DAE59u},
        {{0xFFFFFFFFu, 0xFFFFFFFFu}, 0xFFFFFFFFu, 0x2C3F628Bu},
        {{0x243F6A88u, 0x85A308D3u}, 0x13198A2Eu, 0xDD7CE038u},
    };
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        assert_int_equal(da_philox_2x32(rows[k].key, rows[k].counter[0], rows[k].counter[1]), rows[k].first);
    }
    /* philox4x32: the vector of zeros is the key of seed, batch and head 0. */
    da_dropout dropout;
    da_dropout_begin(&dropout, 0.5, 0, 0, 0);
    assert_int_equal(dropout.key, 0x6627E8D5u);
}

/* The number behind a pair, computed by tests/reference/dilated_attention_gradient.py: the pair is kept by the dropout
 * that is the number over 2^32, and by none that is larger. */
static void test_numbers_of_pairs(void **state) {
    static const struct {
        uint64_t seed;
        int64_t batch, head, query, key;
        uint32_t number;
    } rows[] = {
        {0, 0, 0, 0, 0, 0x3EA818AFu},
        {1, 0, 0, 0, 0, 0x17C8B685u},
        {UINT64_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX, 0x9182C8D4u},
        {0x0123456789ABCDEFu, 2, 5, 1000, 7, 0x56188E71u},
        {0x0123456789ABCDEFu, 2, 5, 7, 1000, 0xC6F34A2Au},
        {0x0123456789ABCDEFu, 5, 2, 1000, 7, 0xFBE5BD87u},
        {(uint64_t)1 << 32, 0, 1, 3, 2, 0x35B5DC1Bu},
    };
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        double number = rows[k].number, unit = ldexp(1, -32);
        assert_true(
            da_dropout_keeps(number * unit, rows[k].seed, rows[k].batch, rows[k].head, rows[k].query, rows[k].key));
        assert_false(da_dropout_keeps((number + 1) * unit, rows[k].seed, rows[k].batch, rows[k].head, rows[k].query,
                                      rows[k].key));
    }
}

/* ---- statistics -------------------------------------------------------------------------------------------------- */

enum { SIDE = 1024 }; /* 2^20 pairs */

/* `hits` of `trials` with this probability, to five standard deviations. */
static void assert_as_likely(int64_t hits, int64_t trials, double probability) {
    double deviation = sqrt((double)trials * probability * (1 - probability));
    assert_true(fabs((double)hits - (double)trials * probability) <= 5 * deviation);
}

static void test_share_that_is_kept(void **state) {
    static const double dropouts[] = {0.01, 0.1, 0.25, 0.5, 0.9, 0.999};
    for (size_t d = 0; d < sizeof dropouts / sizeof *dropouts; d++) {
        int64_t kept = 0;
        for (int64_t i = 0; i < SIDE; i++) {
            for (int64_t j = 0; j < SIDE; j++) {
                kept += da_dropout_keeps(dropouts[d], 20230705 + d, 1, 2, i, j);
            }
        }
        assert_as_likely(kept, (int64_t)SIDE * SIDE, 1 - dropouts[d]);
    }
    assert_true(da_dropout_keeps(0, 1, 0, 0, 5, 6));
}

/* Two sets of pairs, told apart by a shift of one thing alone, agree as often as independent ones. */
static void check_independent(uint64_t seed, int64_t batch, int64_t head, int64_t query, int64_t key) {
    const double dropout = 0.3;
    int64_t both = 0, same = 0;
    for (int64_t i = 0; i < SIDE; i++) {
        for (int64_t j = 0; j < SIDE; j++) {
            bool first = da_dropout_keeps(dropout, 7, 0, 0, i, j);
            bool second = da_dropout_keeps(dropout, 7 + seed, batch, head, i + query, j + key);
            both += first && second;
            same += first == second;
        }
    }
    assert_as_likely(both, (int64_t)SIDE * SIDE, (1 - dropout) * (1 - dropout));
    assert_as_likely(same, (int64_t)SIDE * SIDE, (1 - dropout) * (1 - dropout) + dropout * dropout);
}

static void test_independence(void **state) {
    check_independent(1, 0, 0, 0, 0);
    check_independent((uint64_t)1 << 32, 0, 0, 0, 0);
    check_independent(0, 1, 0, 0, 0);
    check_independent(0, 0, 1, 0, 0);
    check_independent(0, 0, 0, 1, 0);
    check_independent(0, 0, 0, 0, 1);
    check_independent(0, 1, 1, 1, 1);
}

/* The numbers of one row, and of one column, are spread evenly: chi-squared over 64 cells. */
static void test_evenness(void **state) {
    int64_t cells[64] = {0};
    da_dropout dropout;
    da_dropout_begin(&dropout, 0.5, 3, 0, 0);
    for (int64_t k = 0; k < SIDE * 64; k++) {
        cells[da_philox_2x32(dropout.key, (uint32_t)k, 5) >> 26]++;
        cells[da_philox_2x32(dropout.key, 5, (uint32_t)k) >> 26]++;
    }
    double expected = 2.0 * SIDE, chi_squared = 0;
    for (int c = 0; c < 64; c++) {
        chi_squared += ((double)cells[c] - expected) * ((double)cells[c] - expected) / expected;
    }
    assert_true(chi_squared > 63 - 5 * sqrt(2 * 63.0) && chi_squared < 63 + 5 * sqrt(2 * 63.0));
}

/* ---- the passes -------------------------------------------------------------------------------------------------- */

/* With the identity for values and for grad_out, the output is the matrix of weights and grad_value its transpose. */
enum { BATCH = 2, N = 48, HEADS = 4, KV_HEADS = 2, HEAD_DIM = N, OF_QUERY = BATCH * N * HEADS * HEAD_DIM };

typedef struct passes {
    float query[OF_QUERY], key[OF_QUERY], value[OF_QUERY], grad_out[OF_QUERY];
    float out[OF_QUERY], grad_value[OF_QUERY];
    double lse[BATCH * N * HEADS];
} passes;

static float *element(float *array, int64_t heads, int64_t b, int64_t i, int64_t h, int64_t c) {
    return &array[((b * N + i) * heads + h) * HEAD_DIM + c];
}

static void fill(passes *p) {
    uint32_t state = 5;
    memset(p, 0, sizeof *p);
    for (int64_t k = 0; k < OF_QUERY; k++) {
        state = state * 1664525u + 1013904223u;
        p->query[k] = (float)(state >> 8) / (float)(1 << 24) - 0.5f;
        state = state * 1664525u + 1013904223u;
        p->key[k] = (float)(state >> 8) / (float)(1 << 24) - 0.5f;
    }
    for (int64_t b = 0; b < BATCH; b++) {
        for (int64_t i = 0; i < N; i++) {
            for (int64_t h = 0; h < HEADS; h++) {
                *element(p->grad_out, HEADS, b, i, h, i) = 1;
                *element(p->value, KV_HEADS, b, i, h / (HEADS / KV_HEADS), i) = 1;
            }
        }
    }
}

static void run_passes(passes *p, const char *implementation, double dropout, bool training, uint64_t seed) {
    da_context *context;
    da_attention *attention;
    da_attention_config config;
    da_call_options options;
    da_backward_tensors t;
    da_tensor query = da_tensor_make(p->query, DA_F32, BATCH, N, HEADS, HEAD_DIM);
    da_tensor key = da_tensor_make(p->key, DA_F32, BATCH, N, KV_HEADS, HEAD_DIM);
    da_tensor value = da_tensor_make(p->value, DA_F32, BATCH, N, KV_HEADS, HEAD_DIM);
    da_tensor out = da_tensor_make(p->out, DA_F32, BATCH, N, HEADS, HEAD_DIM);
    da_tensor lse = da_tensor_make(p->lse, DA_F64, BATCH, N, HEADS, 1);
    da_tensor grad_out = da_tensor_make(p->grad_out, DA_F32, BATCH, N, HEADS, HEAD_DIM);
    da_tensor grad_value = da_tensor_make(p->grad_value, DA_F32, BATCH, N, KV_HEADS, HEAD_DIM);
    fill(p);
    da_attention_config_init(&config);
    config.dropout = dropout;
    assert_int_equal(da_attention_config_set_patterns(&config, (int64_t[]){8, 48}, 2, (int64_t[]){1, 2}, 2), DA_OK);
    assert_int_equal(da_context_create(NULL, &context), DA_OK);
    assert_int_equal(da_attention_create(context, implementation, &config, &attention), DA_OK);
    da_call_options_init(&options);
    options.training = training;
    options.dropout_seed = seed;
    da_backward_tensors_init(&t);
    t.query = &query;
    t.key = &key;
    t.value = &value;
    t.out = &out;
    t.lse = &lse;
    t.grad_out = &grad_out;
    t.grad_value = &grad_value;
    assert_int_equal(da_attention_forward(attention, &query, &key, &value, &out, &lse, &options), DA_OK);
    assert_int_equal(da_attention_backward(attention, &t, &options), DA_OK);
    da_attention_free(attention);
    da_context_free(context);
}

static void check_pair(passes *plain, passes *dropped, double dropout, bool kept, const int64_t at[4]) {
    int64_t b = at[0], h = at[1], i = at[2], j = at[3];
    float weight = *element(plain->out, HEADS, b, i, h, j);
    float out = *element(dropped->out, HEADS, b, i, h, j);
    if (!kept) {
        assert_true(out == 0);
    } else {
        assert_true(fabs((double)out - (double)weight / (1 - dropout)) <= 1e-6);
    }
}

/* A column of grad_value sums over the heads that share a kv head. */
static double expected_grad_value(passes *plain, double dropout, uint64_t seed, int64_t b, int64_t kv, int64_t i,
                                  int64_t j) {
    double sum = 0;
    for (int64_t h = kv * (HEADS / KV_HEADS); h < (kv + 1) * (HEADS / KV_HEADS); h++) {
        if (da_dropout_keeps(dropout, seed, b, h, i, j)) {
            sum += (double)*element(plain->out, HEADS, b, i, h, j) / (1 - dropout);
        }
    }
    return sum;
}

static void test_passes_drop_what_is_said(void **state) {
    static passes plain, dropped;
    const double dropout = 0.375;
    const uint64_t seed = 0xFEDCBA9876543210u;
    if (!implementation_has_backward(*state)) {
        skip();
    }
    run_passes(&plain, *state, 0, false, 0);
    run_passes(&dropped, *state, dropout, true, seed);
    assert_memory_equal(plain.lse, dropped.lse, sizeof plain.lse); /* does not see it */
    for (int64_t b = 0; b < BATCH; b++) {
        for (int64_t i = 0; i < N; i++) {
            for (int64_t j = 0; j < N; j++) {
                for (int64_t h = 0; h < HEADS; h++) {
                    bool kept = da_dropout_keeps(dropout, seed, b, h, i, j);
                    check_pair(&plain, &dropped, dropout, kept, (int64_t[]){b, h, i, j});
                }
                for (int64_t kv = 0; kv < KV_HEADS; kv++) {
                    double exact = expected_grad_value(&plain, dropout, seed, b, kv, i, j);
                    double got = (double)*element(dropped.grad_value, KV_HEADS, b, j, kv, i);
                    assert_true(exact == 0 ? got == 0 : fabs(got - exact) <= 2e-6);
                }
            }
        }
    }
}

static void test_none_unless_training(void **state) {
    static passes plain, configured, training;
    if (!implementation_has_backward(*state)) {
        skip();
    }
    run_passes(&plain, *state, 0, false, 0);
    run_passes(&configured, *state, 0.5, false, 9);
    run_passes(&training, *state, 0, true, 9);
    assert_memory_equal(&plain, &configured, sizeof plain);
    assert_memory_equal(&plain, &training, sizeof plain);
}

int main(void) {
    static char standard[] = "standard", improved[] = "improved";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known_answers),
        cmocka_unit_test(test_numbers_of_pairs),
        cmocka_unit_test(test_share_that_is_kept),
        cmocka_unit_test(test_independence),
        cmocka_unit_test(test_evenness),
        cmocka_unit_test_prestate(test_passes_drop_what_is_said, standard),
        cmocka_unit_test_prestate(test_passes_drop_what_is_said, improved),
        cmocka_unit_test_prestate(test_none_unless_training, standard),
        cmocka_unit_test_prestate(test_none_unless_training, improved),
    };
    return cmocka_run_group_tests_name("dropout", tests, NULL, NULL);
}
