/* da_pattern_multiplicity and da_pattern_cost against the reference's key sets, and against each other. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/case_file.h"
#include "support/environment.h"

static case_file cases;
static int64_t stride;

static int64_t multiplicity(const da_attention_config *config, int64_t n, int64_t heads, int64_t h, int64_t i,
                            int64_t j) {
    int64_t count = -1;
    assert_int_equal(da_pattern_multiplicity(config, n, heads, h, i, j, &count), DA_OK);
    return count;
}

static void check_row(const test_case *one, const case_row *row) {
    int64_t counted = 0, distinct = 0, positions = 0, squares = 0;
    for (int64_t j = 0; j < one->n; j++) {
        int64_t count = multiplicity(&one->config, one->n, one->heads, row->h, row->i, j);
        assert_true(count >= 0);
        counted += count;
        distinct += count > 0;
        positions += count * (j + 1);
        squares += count * (j + 1) * (j + 1);
    }
    if (counted != row->counted || distinct != row->distinct || positions != row->positions ||
        squares != row->squares) {
        fail_msg("%s: query %lld of head %lld sees %lld keys, %lld distinct; the reference: %lld, %lld", one->name,
                 (long long)row->i, (long long)row->h, (long long)counted, (long long)distinct, (long long)row->counted,
                 (long long)row->distinct);
    }
}

/* The multiplicities of a query's keys have the reference's count, sum of positions and sum of squared positions. */
static void test_multiplicity_is_the_references(void **state) {
    for (int64_t c = 0; c < cases.count; c += stride) {
        const test_case *one = &cases.cases[c];
        for (int64_t row = 0; row < one->row_count; row++) {
            const case_row *r = case_file_row(one, row);
            if (r->b == 0) {
                check_row(one, r);
            }
        }
    }
}

/* Counts are exact; what is derived from them by a factor is rounded. */
static bool nearly_equal(double a, double b) {
    return fabs(a - b) <= 1e-12 * fabs(b);
}

static da_cost cost_of(const da_attention_config *config, const test_case *one) {
    da_problem problem;
    da_cost cost = {.size = sizeof cost};
    da_problem_init(&problem);
    problem.batch = one->batch;
    problem.n = one->n;
    problem.heads = one->heads;
    problem.kv_heads = one->kv_heads;
    problem.head_dim = one->head_dim;
    problem.dtype = one->dtype;
    assert_int_equal(da_pattern_cost(config, &problem, &cost), DA_OK);
    return cost;
}

static double dense_pairs(const da_attention_config *config, const test_case *one) {
    double n = (double)one->n;
    return (double)(one->batch * one->heads) * (config->causal ? n * (n + 1) / 2 : n * n);
}

static double tensor_bytes(const test_case *one) {
    double element = (double)da_dtype_size(one->dtype);
    double rows = (double)(one->batch * one->n);
    double of_query = rows * (double)(one->heads * one->head_dim),
           of_key = rows * (double)(one->kv_heads * one->head_dim);
    double lse = one->dtype == DA_F64 ? 8 : 4;
    return element * (2 * of_query + 2 * of_key) + lse * rows * (double)one->heads;
}

/* The small cases hold every query, so that their rows add up to the cost. */
static void test_cost_is_the_references(void **state) {
    int64_t compared = 0;
    for (int64_t c = 0; c < cases.count; c += stride) {
        const test_case *one = &cases.cases[c];
        if (one->row_count != one->batch * one->n * one->heads) {
            continue;
        }
        double counted = 0, distinct = 0;
        for (int64_t row = 0; row < one->row_count; row++) {
            counted += (double)case_file_row(one, row)->counted;
            distinct += (double)case_file_row(one, row)->distinct;
        }
        da_cost cost = cost_of(&one->config, one);
        if (one->config.overlap == DA_OVERLAP_COUNT && !nearly_equal(cost.counted_pairs, counted)) {
            fail_msg("%s: counted_pairs is %.17g, not %.17g", one->name, cost.counted_pairs, counted);
        }
        if (!nearly_equal(cost.distinct_pairs, distinct)) {
            fail_msg("%s: distinct_pairs is %.17g, not %.17g", one->name, cost.distinct_pairs, distinct);
        }
        assert_true(cost.counted_pairs >= cost.distinct_pairs);
        assert_true(nearly_equal(cost.counted_flops, 4 * (double)one->head_dim * cost.counted_pairs));
        assert_true(nearly_equal(cost.dense_pairs, dense_pairs(&one->config, one)));
        assert_true(nearly_equal(cost.tensor_bytes, tensor_bytes(one)));
        compared++;
    }
    assert_true(compared > 2000 / stride);
}

/* Costs of problems too long to store, by adding up multiplicities. */
static void test_cost_is_the_sum_of_multiplicities(void **state) {
    static const struct {
        int64_t n, segments[2], rates[2];
    } patterns[] = {
        {64, {16, 64}, {1, 4}},
        {97, {10, 33}, {3, 5}},
        {130, {1, 130}, {1, 13}},
        {111, {64, 1 << 30}, {7, 50}},
    };
    for (int p = 0; p < 4; p++) {
        for (int options = 0; options < 32; options++) {
            test_case one = {.dtype = DA_F32, .batch = 2, .heads = 3, .kv_heads = 1, .head_dim = 5};
            one.n = patterns[p].n;
            da_attention_config_init(&one.config);
            assert_int_equal(
                da_attention_config_set_patterns(&one.config, patterns[p].segments, 2, patterns[p].rates, 2), DA_OK);
            one.config.causal = options & 1;
            one.config.window = options & 2 ? 9 : DA_NO_WINDOW;
            one.config.offset_rule = options & 4 ? DA_OFFSET_BLOCK : DA_OFFSET_MOD;
            one.config.tail_rule = options & 8 ? DA_TAIL_ZERO_PAD : DA_TAIL_MASK;
            one.config.mixing = options & 16 ? DA_MIXING_HEAD_GROUPS : DA_MIXING_LONGNET;
            double counted = 0, distinct = 0;
            for (int64_t at = 0; at < one.heads * one.n * one.n; at++) {
                int64_t count =
                    multiplicity(&one.config, one.n, one.heads, at / (one.n * one.n), at / one.n % one.n, at % one.n);
                counted += (double)count;
                distinct += count > 0;
            }
            da_cost cost = cost_of(&one.config, &one);
            assert_true(nearly_equal(cost.counted_pairs, 2 * counted));
            assert_true(nearly_equal(cost.distinct_pairs, 2 * distinct));
        }
    }
}

/* Beyond n = 65536 a middle period is scaled: exact where the longest segment divides n. */
static void test_cost_of_long_sequences_is_proportional(void **state) {
    test_case one = {.dtype = DA_BF16, .batch = 1, .n = 65536, .heads = 4, .kv_heads = 4, .head_dim = 64};
    da_attention_config_init(&one.config);
    assert_int_equal(
        da_attention_config_set_patterns(&one.config, (int64_t[]){2048, 4096, 8192}, 3, (int64_t[]){1, 2, 4}, 3),
        DA_OK);
    for (int causal = 0; causal < 2; causal++) {
        one.config.causal = causal;
        one.n = 65536;
        da_cost exact = cost_of(&one.config, &one);
        one.n = 65536 * 16;
        da_cost scaled = cost_of(&one.config, &one);
        assert_true(nearly_equal(scaled.counted_pairs, 16 * exact.counted_pairs));
        assert_true(nearly_equal(scaled.distinct_pairs, 16 * exact.distinct_pairs));
        if (!causal) { /* one query in r is kept, and sees w / r keys */
            assert_true(nearly_equal(exact.counted_pairs, 4.0 * 65536 * (2048 + 4096 / 4 + 8192 / 16)));
        }
    }
}

int main(void) {
    cases = case_file_open();
    stride = comparison_stride();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_multiplicity_is_the_references),
        cmocka_unit_test(test_cost_is_the_references),
        cmocka_unit_test(test_cost_is_the_sum_of_multiplicities),
        cmocka_unit_test(test_cost_of_long_sequences_is_proportional),
    };
    int failed = cmocka_run_group_tests_name("pattern", tests, NULL, NULL);
    case_file_close(&cases);
    return failed;
}
