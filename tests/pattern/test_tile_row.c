/* The pairs in each tile of a row, against every pair looked at; and the universe of tiles, which is where there are some. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "drawn.h"
#include "pattern/tile_row.h"
#include "pattern/tile_universe.h"

enum { MAX_BLOCKS = DRAWN_MAX_N };

static bool sees(const da_head_patterns *patterns, int p, int64_t i, int64_t j) {
    return da_pattern_joins(&patterns->pattern[p], i, j) && !(patterns->causal && j > i) &&
           !(j < i && i - j > patterns->window);
}

static void check_row(const da_head_patterns *patterns, int64_t block_size, int64_t block, const da_tile_row *row) {
    int64_t blocks = (patterns->n - 1) / block_size + 1;
    double pairs[MAX_BLOCKS] = {0};
    bool has_pattern[MAX_BLOCKS] = {false};
    uint8_t marks[MAX_BLOCKS] = {0};
    int32_t columns[MAX_BLOCKS];
    for (int64_t i = block * block_size; i < (block + 1) * block_size && i < patterns->n; i++) {
        for (int64_t j = 0; j < patterns->n; j++) {
            for (int p = 0; p < patterns->count; p++) {
                bool seen = sees(patterns, p, i, j);
                pairs[j / block_size] += seen;
                has_pattern[j / block_size] |= seen && p == row->pattern[j / block_size];
            }
        }
    }
    int64_t universe = da_tile_universe(patterns, block_size, block, marks, columns), at = 0;
    for (int64_t column = 0; column < blocks; column++) {
        assert_true(row->pairs[column] == pairs[column]);
        assert_true(pairs[column] == 0 || has_pattern[column]);
        if (pairs[column] > 0) {
            assert_true(at < universe && columns[at++] == column);
        }
    }
    assert_int_equal(at, universe);
}

static void test_drawn(void **state) {
    double pairs[MAX_BLOCKS];
    uint8_t pattern[MAX_BLOCKS];
    (void)state;
    for (int number = 0; number < 400; number++) {
        drawn d = drawn_next(number);
        int64_t block_size = 1 + drawn_below(40), blocks = (d.n - 1) / block_size + 1;
        da_head_patterns patterns;
        da_head_patterns_init(&patterns, &d.config, d.n, d.heads, d.head);
        int64_t block = drawn_below(blocks);
        da_tile_row row = {pairs, pattern};
        da_tile_row_count(&patterns, block_size, block, &row);
        check_row(&patterns, block_size, block, &row);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_drawn)};
    return cmocka_run_group_tests_name("tile_row", tests, NULL, NULL);
}
