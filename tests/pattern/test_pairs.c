/* Pairs between the tokens of two ranks: against da_pattern_multiplicity, pair by pair, over generated configurations; and
 * that no token is looked at. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pattern/drawn.h"
#include "pattern/pairs.h"

#define CONFIGURATIONS 500

static int64_t multiplicities[DRAWN_MAX_N][DRAWN_MAX_N];

static void fill_multiplicities(const drawn *d) {
    da_attention_config config = d->config;
    config.overlap = DA_OVERLAP_COUNT; /* a kernel computes a pair once either way */
    for (int64_t i = 0; i < d->n; i++) {
        for (int64_t j = 0; j < d->n; j++) {
            assert_int_equal(da_pattern_multiplicity(&config, d->n, d->heads, d->head, i, j, &multiplicities[i][j]),
                             DA_OK);
        }
    }
}

static void check_pair(const da_head_patterns *patterns, const da_part *queries, const da_part *keys, int number) {
    double counted = 0, distinct = 0;
    for (int64_t q = 0; q < queries->length; q++) {
        for (int64_t k = 0; k < keys->length; k++) {
            int64_t count = multiplicities[da_part_position(queries, q)][da_part_position(keys, k)];
            counted += (double)count;
            distinct += count > 0;
        }
    }
    da_pairs found = da_pairs_count(patterns, queries, keys);
    if (found.counted != counted || found.distinct != distinct) {
        fail_msg("configuration %d: %.0f pairs and %.0f distinct, counted as %.0f and %.0f", number, counted, distinct,
                 found.counted, found.distinct);
    }
}

static void test_pairs_are_those_that_are_seen(void **state) {
    int64_t checked = 0;
    for (int number = 0; number < CONFIGURATIONS; number++) {
        drawn d = drawn_next(number);
        da_head_patterns patterns;
        da_layout *layout = drawn_layout(&d);
        da_head_patterns_init(&patterns, &d.config, d.n, d.heads, d.head);
        fill_multiplicities(&d);
        for (int a = 0; a < d.ranks; a++) {
            for (int b = 0; b < d.ranks; b++) {
                check_pair(&patterns, da_layout_part(layout, a), da_layout_part(layout, b), number);
                checked++;
            }
        }
        da_layout_free(layout);
    }
    assert_true(checked > 5000);
}

/* 2^40 tokens over 64 ranks of 2^34, by hand: pattern 0 within a rank; pattern 1 keeps 1 in 2^10 in segments of two ranks,
 * pattern 2 1 in 2^20 in one segment of all, which pattern 1 keeps too. */
static void test_long_sequences(void **state) {
    const int64_t n = (int64_t)1 << 40, segments[] = {(int64_t)1 << 34, (int64_t)1 << 35, n},
                  rates[] = {1, 1 << 10, 1 << 20};
    da_attention_config config;
    da_head_patterns patterns;
    da_layout *layout;
    da_attention_config_init(&config);
    assert_int_equal(da_attention_config_set_patterns(&config, segments, 3, rates, 3), DA_OK);
    da_head_patterns_init(&patterns, &config, n, 16, 5);
    assert_int_equal(da_layout_create(NULL, DA_PARTITION_CONTIGUOUS, 0, n, 64, NULL, &layout), DA_OK);
    const da_part *two = da_layout_part(layout, 2);
    da_pairs own = da_pairs_count(&patterns, two, two);
    da_pairs beside = da_pairs_count(&patterns, two, da_layout_part(layout, 3));
    da_pairs far = da_pairs_count(&patterns, two, da_layout_part(layout, 40));
    assert_true(own.distinct == 0x1p68 && own.counted == 0x1p68 + 0x1p48 + 0x1p28);
    assert_true(beside.distinct == 0x1p48 && beside.counted == 0x1p48 + 0x1p28);
    assert_true(far.distinct == 0x1p28 && far.counted == 0x1p28);
    da_layout_free(layout);
}

/* Beyond the patterns that are told apart, both are the pairs of all patterns. */
static void test_many_patterns(void **state) {
    da_head_patterns patterns = {.n = 64, .count = DA_MAX_TOLD_APART + 1, .window = INT64_MAX};
    da_piece piece;
    da_part whole = da_part_whole(64, &piece);
    for (int p = 0; p < patterns.count; p++) {
        patterns.pattern[p] = (da_head_pattern){.segment = 64, .rate = 1};
    }
    da_pairs found = da_pairs_count(&patterns, &whole, &whole);
    assert_true(found.counted == 9 * 64 * 64 && found.distinct == found.counted);
    patterns.count--;
    found = da_pairs_count(&patterns, &whole, &whole);
    assert_true(found.counted == 8 * 64 * 64 && found.distinct == 64 * 64);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pairs_are_those_that_are_seen),
        cmocka_unit_test(test_long_sequences),
        cmocka_unit_test(test_many_patterns),
    };
    return cmocka_run_group_tests_name("pairs", tests, NULL, NULL);
}
