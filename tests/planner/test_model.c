/* The model: work is counted exactly, least squares solved, and estimates follow from both. No time is asserted. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "attention/improved/improved.h"
#include "attention/standard/standard.h"
#include "pattern/schedule.h"
#include "planner/estimate.h"
#include "planner/fit.h"
#include "planner/plan_fixtures.h"
#include "planner/work.h"

static void test_fit_finds_the_solution(void **state) {
    const double truth[3] = {0.1, 0.8, 0.2}, rows[4][3] = {{2, 0, 4}, {0, 1, 1}, {1, 1, 0}, {0, 0, 3}};
    double matrix[12], found[3];
    for (int i = 0; i < 4; i++) {
        double right = 0;
        for (int j = 0; j < 3; j++) {
            right += rows[i][j] * truth[j];
        }
        for (int j = 0; j < 3; j++) {
            matrix[3 * i + j] = rows[i][j] / right;
        }
    }
    da_fit(matrix, 4, 3, found);
    for (int j = 0; j < 3; j++) {
        assert_true(fabs(found[j] - truth[j]) < 1e-9);
    }
}

static void test_fit_keeps_to_what_is_possible(void **state) {
    /* x + y = 1 and x + 2y = 0.5 would need y < 0; a column of zeros says nothing. */
    const double matrix[6] = {1, 1, 0, 2, 4, 0};
    double found[3];
    da_fit(matrix, 2, 3, found);
    assert_true(found[0] >= 0 && found[1] >= 0 && found[2] == 0);
    assert_true(found[1] == 0 || found[0] == 0);
}

static da_work total_work(const da_context *context, const da_implementation *implementation,
                          const da_attention_config *config, const da_problem *problem) {
    static da_work_list list;
    da_work total = {{0}};
    assert_true(da_work_count(context, implementation, config, problem, &list));
    assert_int_equal(list.units, list.units_seen);
    assert_int_equal(problem->heads, list.heads_seen);
    for (int64_t s = 0; s < list.sequences; s++) {
        for (int64_t unit = 0; unit < list.units; unit++) {
            const da_work *work = da_work_of_unit(&list, s % problem->heads, problem->heads, unit);
            for (int k = 0; k < DA_WORK_KINDS; k++) {
                total.amount[k] += work->amount[k];
            }
        }
    }
    return total;
}

/* One dense segment: everything can be counted by hand. */
static void test_dense_work(void **state) {
    da_context *context = plan_context(1, NULL, NULL);
    da_attention_config config = plan_config();
    da_problem problem = plan_problem(130);
    da_improved_cut cut;
    config.segment_count = config.rate_count = 1;
    config.segment_lengths[0] = 1000;
    config.tuning.unit = 100;
    config.tuning.block_keys = 64;
    da_improved_describe(context, &config, &problem, &cut);
    assert_int_equal(cut.unit, 100);
    assert_int_equal(cut.block_keys, 64);
    da_work work = total_work(context, &da_improved_implementation, &config, &problem);
    double tiles = ceil(100.0 / cut.tile_rows) + ceil(30.0 / cut.tile_rows);
    double panels = 2 * (64.0 / cut.panel_keys) + ceil(2.0 / cut.panel_keys);
    assert_true(work.amount[DA_WORK_SPANS] == 2 * 2);
    assert_true(work.amount[DA_WORK_ROWS] == 2 * 130);
    assert_true(work.amount[DA_WORK_KEYS] == 2 * 2 * 130);
    assert_true(work.amount[DA_WORK_TILE_BLOCKS] == 2 * tiles * 3);
    assert_true(work.amount[DA_WORK_TILE_PANELS] == 2 * tiles * panels);
    assert_true(work.amount[DA_WORK_MASKED] == 0);
    work = total_work(context, &da_standard_implementation, &config, &problem);
    assert_true(work.amount[DA_WORK_TILE_PANELS] == 2 * 130 * 130);
    assert_true(work.amount[DA_WORK_KEYS] == 2 * 5 * 130);
    da_context_free(context);
}

/* Tile panels of one unit, looked at one by one: does some row of the tile see some key of the panel? */
static void count_by_definition(const da_attention_config *config, const da_improved_cut *cut, int64_t n, double *some,
                                double *partly) {
    *some = *partly = 0;
    for (int64_t tile = 0; tile < n; tile += cut->tile_rows) {
        for (int64_t panel = 0; panel < n; panel += cut->panel_keys) {
            int64_t seen = 0, pairs = 0;
            for (int64_t i = tile; i < tile + cut->tile_rows && i < n; i++) {
                for (int64_t j = panel; j < panel + cut->panel_keys && j < n; j++) {
                    int64_t count;
                    assert_int_equal(da_pattern_multiplicity(config, n, 1, 0, i, j, &count), DA_OK);
                    seen += count > 0;
                    pairs++;
                }
            }
            *some += seen > 0;
            *partly += seen > 0 && seen < pairs;
        }
    }
}

/* Causality and windows hide tile panels, and mask some: the counts are those of the definition. */
static void test_hidden_work(void **state) {
    da_context *context = plan_context(1, NULL, NULL);
    for (int kind = 0; kind < 24; kind++) {
        static const int64_t windows[] = {DA_NO_WINDOW, 0, 5, 40};
        static const int64_t lengths[] = {150, 97, 8};
        da_attention_config config = plan_config();
        da_problem problem = plan_problem(lengths[kind / 8]);
        da_improved_cut cut;
        double some, partly;
        config.segment_count = config.rate_count = 1;
        config.segment_lengths[0] = problem.n;
        config.tuning.unit = DA_MAX_UNIT;
        config.causal = kind % 2 != 0;
        config.window = windows[kind / 2 % 4];
        problem.heads = problem.kv_heads = 1;
        da_improved_describe(context, &config, &problem, &cut);
        assert_int_equal(cut.unit, problem.n);
        da_work work = total_work(context, &da_improved_implementation, &config, &problem);
        count_by_definition(&config, &cut, problem.n, &some, &partly);
        assert_true(work.amount[DA_WORK_TILE_PANELS] == some);
        assert_true(work.amount[DA_WORK_MASKED] == partly);
    }
    da_context_free(context);
}

/* Dilated patterns: no pair is forgotten, and only padding is added. For `standard` the counted pairs, exactly. */
static void test_dilated_work(void **state) {
    da_context *context = plan_context(1, NULL, NULL);
    for (int kind = 0; kind < 4; kind++) {
        da_attention_config config = plan_config();
        da_problem problem = plan_problem(1400);
        da_improved_cut cut;
        da_cost cost;
        config.tuning.unit = DA_MAX_UNIT;
        config.segment_lengths[0] = 500;
        config.segment_lengths[1] = kind % 2 ? 1000 : 700;
        config.dilation_rates[1] = kind < 2 ? 2 : 3;
        da_cost_init(&cost);
        assert_int_equal(da_pattern_cost(&config, &problem, &cost), DA_OK);
        da_improved_describe(context, &config, &problem, &cut);
        da_work work = total_work(context, &da_improved_implementation, &config, &problem);
        double computed = work.amount[DA_WORK_TILE_PANELS] * cut.tile_rows * cut.panel_keys;
        assert_true(computed >= cost.distinct_pairs && computed < 1.35 * cost.distinct_pairs);
        work = total_work(context, &da_standard_implementation, &config, &problem);
        assert_true(work.amount[DA_WORK_TILE_PANELS] == cost.counted_pairs);
    }
    da_context_free(context);
}

static double estimate(const da_context *context, const da_attention_config *config, const da_problem *problem) {
    double seconds;
    assert_int_equal(da_estimate(context, &da_improved_implementation, config, problem, &seconds), DA_OK);
    assert_true(seconds > 0);
    return seconds;
}

/* Within one context the constants are fixed, so that what an estimate is made of shows. */
static void test_estimates_follow_the_work(void **state) {
    da_context *context = plan_context(1, NULL, NULL);
    da_attention_config config = plan_config();
    da_problem problem = plan_problem(4096);
    double once = estimate(context, &config, &problem);
    assert_true(estimate(context, &config, &problem) == once);
    problem.batch = 8;
    double more = estimate(context, &config, &problem);
    assert_true(more > 7 * once && more <= 8.001 * once);
    problem.batch = 1 << 20; /* the average in place of handing out */
    assert_true(fabs(estimate(context, &config, &problem) / more / (1 << 17) - 1) < 0.02);
    problem.batch = 1;
    config.segment_lengths[1] = 4096;
    assert_true(estimate(context, &config, &problem) > 2 * once);
    da_context_free(context);
}

static void test_unknown_implementations_have_no_estimate(void **state) {
    da_context *context = plan_context(1, NULL, NULL);
    const da_implementation unknown = {.size = sizeof unknown, .name = "unknown"};
    da_attention_config config = plan_config();
    da_problem problem = plan_problem(100);
    double seconds = 1;
    assert_int_equal(da_estimate(context, &unknown, &config, &problem, &seconds), DA_OK);
    assert_true(seconds == 0);
    da_context_free(context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_fit_finds_the_solution),
        cmocka_unit_test(test_fit_keeps_to_what_is_possible),
        cmocka_unit_test(test_dense_work),
        cmocka_unit_test(test_hidden_work),
        cmocka_unit_test(test_dilated_work),
        cmocka_unit_test(test_estimates_follow_the_work),
        cmocka_unit_test(test_unknown_implementations_have_no_estimate),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
