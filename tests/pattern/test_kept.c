/* Which tokens of one rank those of another need: against da_pattern_multiplicity, pair by pair, over generated
 * configurations; and that the time taken does not grow with tokens that need no look. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pattern/drawn.h"
#include "pattern/kept.h"

#define WORDS (DRAWN_MAX_N / 64 + 1)
#define CONFIGURATIONS 600

/* ---- pair by pair -------------------------------------------------------------------------------------------------- */

static bool sees[DRAWN_MAX_N][DRAWN_MAX_N]; /* query i sees key j */

static void fill_sees(const drawn *d) {
    for (int64_t i = 0; i < d->n; i++) {
        for (int64_t j = 0; j < d->n; j++) {
            int64_t count = 0;
            assert_int_equal(da_pattern_multiplicity(&d->config, d->n, d->heads, d->head, i, j, &count), DA_OK);
            sees[i][j] = count > 0;
        }
    }
}

/* The marks that da_kept_mark should make, by the matrix. */
static int64_t expected_marks(const da_part *rows, const da_part *columns, bool reversed, uint64_t bits[WORDS]) {
    int64_t marked = 0;
    memset(bits, 0, WORDS * sizeof *bits);
    for (int64_t c = 0; c < columns->length; c++) {
        int64_t column = da_part_position(columns, c);
        bool needed = false;
        for (int64_t r = 0; r < rows->length && !needed; r++) {
            int64_t row = da_part_position(rows, r);
            needed = reversed ? sees[column][row] : sees[row][column];
        }
        bits[c / 64] |= (uint64_t)needed << c % 64;
        marked += needed;
    }
    return marked;
}

static void check_pair(const drawn *d, const da_head_patterns *patterns, const da_part *rows, const da_part *columns,
                       bool reversed, int number) {
    uint64_t expected[WORDS], bits[WORDS] = {0};
    int64_t needed = expected_marks(rows, columns, reversed, expected);
    int64_t marked = da_kept_mark(patterns, rows, columns, reversed, bits);
    int64_t counted = da_kept_count(patterns, rows, columns, reversed);
    if (memcmp(bits, expected, sizeof bits) != 0 || marked != needed || counted != needed) {
        fail_msg(
            "configuration %d (n %lld, causal %d, window %lld, reversed %d): %lld needed, %lld marked, %lld counted",
            number, (long long)d->n, d->config.causal, (long long)d->config.window, reversed, (long long)needed,
            (long long)marked, (long long)counted);
    }
    assert_int_equal(da_kept_mark(patterns, rows, columns, reversed, bits), 0); /* nothing new */
    assert_memory_equal(bits, expected, sizeof bits);
}

static void test_marks_are_what_is_seen(void **state) {
    int64_t pairs = 0, nested = 0;
    for (int number = 0; number < CONFIGURATIONS; number++) {
        drawn d = drawn_next(number);
        da_head_patterns patterns;
        da_layout *layout = drawn_layout(&d);
        da_head_patterns_init(&patterns, &d.config, d.n, d.heads, d.head);
        fill_sees(&d);
        for (int a = 0; a < d.ranks; a++) {
            for (int b = 0; b < d.ranks; b++) {
                check_pair(&d, &patterns, da_layout_part(layout, a), da_layout_part(layout, b), false, number);
                check_pair(&d, &patterns, da_layout_part(layout, a), da_layout_part(layout, b), true, number);
                pairs += 2;
            }
        }
        nested += patterns.count > 1 && da_rates_divide(&patterns);
        da_layout_free(layout);
    }
    assert_true(pairs > 10000);
    assert_true(nested > CONFIGURATIONS / 8 && nested < CONFIGURATIONS * 7 / 8); /* both ways to count */
}

/* Marks of several heads add up, as those that read one key and value head do. */
static void test_heads_add_up(void **state) {
    da_attention_config config;
    uint64_t bits[WORDS] = {0}, each[WORDS], all[WORDS] = {0};
    int64_t marked = 0, n = 200;
    da_layout *layout;
    da_attention_config_init(&config);
    assert_int_equal(da_attention_config_set_patterns(&config, (int64_t[]){40, 200}, 2, (int64_t[]){4, 16}, 2), DA_OK);
    assert_int_equal(da_layout_create(NULL, DA_PARTITION_CONTIGUOUS, 0, n, 3, NULL, &layout), DA_OK);
    for (int64_t head = 0; head < 6; head++) {
        da_head_patterns patterns;
        da_head_patterns_init(&patterns, &config, n, 6, head);
        memset(each, 0, sizeof each);
        marked += da_kept_mark(&patterns, da_layout_part(layout, 0), da_layout_part(layout, 1), false, bits);
        da_kept_mark(&patterns, da_layout_part(layout, 0), da_layout_part(layout, 1), false, each);
        for (int w = 0; w < WORDS; w++) {
            all[w] |= each[w];
        }
    }
    assert_memory_equal(bits, all, sizeof all);
    int64_t total = 0;
    for (int w = 0; w < WORDS; w++) {
        total += da_count_bits(all[w]);
    }
    assert_int_equal(total, marked);
    da_layout_free(layout);
}

/* ---- numbers ------------------------------------------------------------------------------------------------------- */

/* A list or a bitmap, whichever is smaller. */
static void check_bytes(int64_t length, int64_t count) {
    size_t bytes = da_kept_bytes(length, count);
    assert_true(bytes <= (size_t)(length / 64 + 1) * 16 + 3 * 64);
    assert_true(bytes <= (size_t)count * 12 + 4 * 64);
    assert_int_equal(bytes == 0, count == 0);
}

static void check_numbers(int64_t length, const uint64_t *bits, int64_t count) {
    da_kept kept;
    da_arena arena = {aligned_alloc(64, da_kept_bytes(length, count) + 64), 0};
    assert_non_null(arena.base);
    da_kept_lay_out(&kept, &arena, length, count);
    assert_int_equal(arena.used, da_kept_bytes(length, count));
    da_kept_fill(&kept, bits);
    int64_t number = 0, before = -1;
    for (int64_t row = 0; row < length; row++) {
        bool marked = bits[row / 64] >> row % 64 & 1;
        assert_int_equal(da_kept_index(&kept, row), marked ? number : -1);
        if (marked) {
            assert_int_equal(da_kept_next(&kept, number, before), row);
            before = row;
            number++;
        }
    }
    assert_int_equal(number, count);
    free(arena.base);
}

/* Few and many, spread and in a heap. */
static void test_numbers_of_marked_rows(void **state) {
    for (int64_t length = 0; length < 2500; length += length < 400 ? 13 : 497) {
        for (int64_t one_in = 1; one_in < 5000; one_in *= 4) {
            uint64_t bits[40] = {0};
            int64_t count = 0, from = drawn_below(3) == 0 ? length / 2 : 0;
            assert_true(da_kept_words(length) <= 40);
            for (int64_t row = from; row < length; row++) {
                bool marked = drawn_below(one_in) == 0;
                bits[row / 64] |= (uint64_t)marked << row % 64;
                count += marked;
            }
            check_bytes(length, count);
            check_numbers(length, bits, count);
        }
    }
    assert_int_equal(da_count_bits(UINT64_MAX), 64);
}

/* A billion rows of which few are marked take no more memory than a thousand. */
static void test_few_of_many_rows(void **state) {
    assert_true(da_kept_bytes((int64_t)1 << 40, 100) <= da_kept_bytes(10000, 100) + 64);
    assert_true(da_kept_bytes(10000, 100) < 10000 / 4 && da_kept_bytes(10000, 10000) < 10000 / 4 + 200);
}

/* ---- long sequences: these would take hours if every token were looked at ------------------------------------------ */

static da_head_patterns long_patterns(const int64_t *segments, const int64_t *rates, size_t count, bool causal,
                                      int64_t n, int64_t head) {
    da_attention_config config;
    da_head_patterns patterns;
    da_attention_config_init(&config);
    assert_int_equal(da_attention_config_set_patterns(&config, segments, count, rates, count), DA_OK);
    config.causal = causal;
    da_head_patterns_init(&patterns, &config, n, 16, head);
    return patterns;
}

/* 2^40 tokens over 64 ranks of 2^34, by hand: pattern 0 within a rank, pattern 1 in segments of two ranks, pattern 2 in one
 * segment of all. Head 5 keeps 1 in 2^10 (residue 5) and 1 in 2^20 (5 too) of a neighbour; of the others 1 in 2^20. */
static void test_a_count_looks_at_no_token(void **state) {
    const int64_t n = (int64_t)1 << 40, segments[] = {(int64_t)1 << 34, (int64_t)1 << 35, n},
                  rates[] = {1, 1 << 10, 1 << 20};
    da_layout *layout;
    assert_int_equal(da_layout_create(NULL, DA_PARTITION_CONTIGUOUS, 0, n, 64, NULL, &layout), DA_OK);
    for (int causal = 0; causal < 2; causal++) {
        da_head_patterns patterns = long_patterns(segments, rates, 3, causal, n, 5);
        for (int b = 0; b < 64; b++) {
            int64_t expected = (int64_t)1 << (b == 2 ? 34 : b == 3 ? 24 : 14);
            expected = causal && b > 2 ? 0 : expected;
            assert_int_equal(da_kept_count(&patterns, da_layout_part(layout, 2), da_layout_part(layout, b), false),
                             expected);
            expected = (int64_t)1 << (b == 2 ? 34 : b == 3 ? 24 : 14);
            expected = causal && b < 2 ? 0 : expected;
            assert_int_equal(da_kept_count(&patterns, da_layout_part(layout, 2), da_layout_part(layout, b), true),
                             expected);
        }
    }
    da_layout_free(layout);
}

/* Short segments, a rank of 2^39 tokens, and one of 1000 in their middle: only what both touch is walked, both ways. */
static void test_marks_look_at_shared_segments_only(void **state) {
    const int64_t half = (int64_t)1 << 39, lengths[] = {half, 1000, half};
    const int64_t n = 2 * half + 1000;
    da_layout *layout;
    da_head_patterns patterns = long_patterns((int64_t[]){48, 300}, (int64_t[]){1, 3}, 2, false, n, 0);
    uint64_t bits[1000 / 64 + 1] = {0};
    assert_int_equal(da_layout_create(NULL, DA_PARTITION_CONTIGUOUS, 0, n, 3, lengths, &layout), DA_OK);
    const da_part *before = da_layout_part(layout, 0), *middle = da_layout_part(layout, 1);
    int64_t dense = 48 - half % 48, sparse = 300 - half % 300; /* of the middle, in the segments that begin before it */
    int64_t expected = 0;
    for (int64_t row = 0; row < 1000; row++) {
        expected += row < dense || (row < sparse && (half + row) % 300 % 3 == 0);
    }
    assert_int_equal(da_kept_mark(&patterns, before, middle, false, bits), expected);
    assert_int_equal(da_kept_count(&patterns, before, middle, false), expected);
    assert_int_equal(da_kept_count(&patterns, before, middle, true), expected);
    int64_t back = da_kept_count(&patterns, middle, before, false), by_hand = 0;
    for (int64_t i = half - 300; i < half; i++) {
        by_hand += i >= half - half % 48 || (i >= half - half % 300 && i % 300 % 3 == 0);
    }
    assert_int_equal(back, by_hand);
    assert_int_equal(da_kept_count(&patterns, before, da_layout_part(layout, 2), false), 0);
    da_layout_free(layout);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_marks_are_what_is_seen),    cmocka_unit_test(test_heads_add_up),
        cmocka_unit_test(test_numbers_of_marked_rows),    cmocka_unit_test(test_few_of_many_rows),
        cmocka_unit_test(test_a_count_looks_at_no_token), cmocka_unit_test(test_marks_look_at_shared_segments_only),
    };
    return cmocka_run_group_tests_name("kept", tests, NULL, NULL);
}
