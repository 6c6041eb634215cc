/* Masks of tiles: both ways of making one, what they refuse, transposing, and short memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "drawn.h"
#include "pattern/tiles.h"
#include "support/counting_allocator.h"
#include "support/refusals.h"

#define BATCH 2
#define HEADS 3
#define BLOCKS 7
#define N (6 * 16 + 5)
#define ROWS (BATCH * HEADS * BLOCKS)

typedef uint8_t kept_table[ROWS][BLOCKS];

/* Of all densities, empty and full rows among them. */
static void draw_kept(kept_table kept) {
    for (int row = 0; row < ROWS; row++) {
        int64_t density = drawn_below(5);
        for (int block = 0; block < BLOCKS; block++) {
            kept[row][block] = drawn_below(4) < density ? 255 : 0;
        }
    }
}

static da_tile_mask *make_mask(kept_table kept) {
    da_tile_mask *mask = NULL;
    assert_int_equal(da_tile_mask_create(NULL, BATCH, HEADS, N, 16, &kept[0][0], &mask), DA_OK);
    return mask;
}

/* The rows hold what is kept, in ascending order; transposed: of tile (row, column) the table's (column, row). */
static void check_rows(const da_tiles *tiles, kept_table kept, bool transposed) {
    for (int64_t b = 0; b < BATCH; b++) {
        for (int64_t h = 0; h < HEADS; h++) {
            int64_t first = (b * HEADS + h) * BLOCKS;
            for (int64_t block = 0; block < BLOCKS; block++) {
                int64_t row = da_tiles_row(tiles, b, h, block), k = tiles->row_starts[row];
                assert_int_equal(row, first + block);
                for (int64_t other = 0; other < BLOCKS; other++) {
                    if (transposed ? kept[first + other][block] : kept[first + block][other]) {
                        assert_true(k < tiles->row_starts[row + 1]);
                        assert_int_equal(tiles->columns[k++], other);
                    }
                }
                assert_int_equal(k, tiles->row_starts[row + 1]);
            }
        }
    }
}

static void test_both_ways(void **state) {
    (void)state;
    for (int round = 0; round < 20; round++) {
        kept_table kept;
        draw_kept(kept);
        da_tile_mask *mask = make_mask(kept), *again = NULL;
        check_rows(da_tile_mask_tiles(mask), kept, false);
        da_tile_mask_info info;
        da_tile_mask_info_init(&info);
        assert_int_equal(da_tile_mask_get_info(mask, &info), DA_OK);
        assert_true(info.batch == BATCH && info.heads == HEADS && info.n == N && info.block_size == 16);
        assert_true(info.blocks == BLOCKS && info.tiles == info.row_starts[ROWS] && info.row_starts[0] == 0);
        assert_int_equal(da_tile_mask_create_csr(NULL, BATCH, HEADS, N, 16, info.row_starts, info.columns, &again),
                         DA_OK);
        da_tile_mask_free(mask);
        check_rows(da_tile_mask_tiles(again), kept, false);
        da_tile_mask_free(again);
    }
}

static void test_transposed(void **state) {
    (void)state;
    for (int round = 0; round < 20; round++) {
        kept_table kept;
        draw_kept(kept);
        da_tile_mask *mask = make_mask(kept);
        da_tiles turned;
        assert_int_equal(da_tiles_transpose(da_tile_mask_tiles(mask), NULL, 1 + round % 3, &turned), DA_OK);
        check_rows(&turned, kept, true);
        da_tiles_release(&turned, NULL);
        da_tile_mask_free(mask);
    }
}

static void test_one_for_all(void **state) {
    (void)state;
    const uint8_t kept[2][2] = {{1, 0}, {1, 1}};
    da_tile_mask *mask = NULL;
    assert_int_equal(da_tile_mask_create(NULL, 1, 1, 17, 16, &kept[0][0], &mask), DA_OK);
    const da_tiles *tiles = da_tile_mask_tiles(mask);
    assert_int_equal(da_tiles_row(tiles, 3, 5, 1), 1);
    assert_int_equal(da_tiles_count(tiles), 3);
    da_tile_mask_free(mask);
    da_tile_mask_free(NULL);
    assert_null(da_tile_mask_tiles(NULL));
}

static void test_no_tile(void **state) {
    (void)state;
    const int64_t starts[3] = {0, 0, 0};
    da_tile_mask *mask = NULL;
    assert_int_equal(da_tile_mask_create_csr(NULL, 1, 1, 32, 16, starts, NULL, &mask), DA_OK);
    assert_int_equal(da_tiles_count(da_tile_mask_tiles(mask)), 0);
    da_tile_mask_free(mask);
}

/* Whichever allocation fails, the call says so, and nothing is left. */
static void test_short_memory(void **state) {
    (void)state;
    kept_table kept;
    draw_kept(kept);
    da_tile_mask *whole = make_mask(kept), *mask = NULL;
    const da_tiles *tiles = da_tile_mask_tiles(whole);
    for (int way = 0; way < 3; way++) {
        da_status status = DA_ERROR_OUT_OF_MEMORY;
        for (long failing = 1; status != DA_OK; failing++) {
            counting_allocator counter = {.fail_from = failing, .fail_to = failing};
            const da_allocator allocator = counting_allocator_interface(&counter);
            da_tiles turned = {0};
            assert_true(failing < 10);
            switch (way) {
            case 0: status = da_tile_mask_create(&allocator, BATCH, HEADS, N, 16, &kept[0][0], &mask); break;
            case 1:
                status =
                    da_tile_mask_create_csr(&allocator, BATCH, HEADS, N, 16, tiles->row_starts, tiles->columns, &mask);
                break;
            default: status = da_tiles_transpose(tiles, &allocator, 1, &turned);
            }
            if (status != DA_OK) {
                assert_int_equal(status, DA_ERROR_OUT_OF_MEMORY);
                assert_null(mask);
                assert_int_equal(counter.live, 0);
            }
            da_tiles_release(&turned, &allocator);
            da_tile_mask_free(mask);
            mask = NULL;
            assert_int_equal(counter.live, 0);
        }
    }
    da_tile_mask_free(whole);
}

/* ---- what is refused --------------------------------------------------------------------------------------------- */

struct fixture {
    da_allocator allocator;
    int64_t batch, heads, n, block_size;
    uint8_t kept[4];
    int64_t row_starts[3];
    int32_t columns[4];
    da_tile_mask *mask;
    da_tile_mask_info info;
};

static da_status make(fixture *f) {
    f->mask = (da_tile_mask *)(void *)f;
    da_status status = da_tile_mask_create(&f->allocator, f->batch, f->heads, f->n, f->block_size, f->kept, &f->mask);
    return status != DA_OK && f->mask ? DA_OK : status; /* an error must leave NULL */
}

static da_status make_csr(fixture *f) {
    f->mask = (da_tile_mask *)(void *)f;
    da_status status = da_tile_mask_create_csr(&f->allocator, f->batch, f->heads, f->n, f->block_size, f->row_starts,
                                               f->columns, &f->mask);
    return status != DA_OK && f->mask ? DA_OK : status;
}

static da_status info_of_small(fixture *f) {
    static const uint8_t one = 1;
    assert_int_equal(da_tile_mask_create(NULL, 1, 1, 16, 16, &one, &f->mask), DA_OK);
    f->info.size = 8;
    da_status status = da_tile_mask_get_info(f->mask, &f->info);
    da_tile_mask_free(f->mask);
    return status;
}

#define REFUSED DA_ERROR_INVALID_ARGUMENT
#define MASK_ROWS(ROW)                                                                                                 \
    ROW(batch_zero, (f->batch = 0, make(f)), REFUSED, "batch is 0")                                                    \
    ROW(heads_negative, (f->heads = -2, make_csr(f)), REFUSED, "heads is -2")                                          \
    ROW(heads_huge, (f->heads = INT64_MAX, make(f)), REFUSED, "heads is 9")                                            \
    ROW(n_zero, (f->n = 0, make(f)), REFUSED, "n is 0")                                                                \
    ROW(n_huge, (f->n = INT64_MAX, make_csr(f)), REFUSED, "n is 9")                                                    \
    ROW(too_many_blocks, (f->n = (int64_t)1 << 48, make(f)), REFUSED, "blocks")                                        \
    ROW(block_size_small, (f->block_size = 8, make(f)), REFUSED, "block_size is 8")                                    \
    ROW(block_size_uneven, (f->block_size = 24, make_csr(f)), REFUSED, "block_size is 24")                             \
    ROW(block_size_large, (f->block_size = 2048, make(f)), REFUSED, "block_size is 2048")                              \
    ROW(kept_null, da_tile_mask_create(NULL, 1, 1, 32, 16, NULL, &f->mask), REFUSED, "kept is NULL")                   \
    ROW(out_null, da_tile_mask_create(NULL, 1, 1, 32, 16, f->kept, NULL), REFUSED, "out is NULL")                      \
    ROW(csr_out_null, da_tile_mask_create_csr(NULL, 1, 1, 32, 16, f->row_starts, f->columns, NULL), REFUSED,           \
        "out is NULL")                                                                                                 \
    ROW(release_missing, (f->allocator.release = NULL, make(f)), REFUSED, "allocator.release is NULL")                 \
    ROW(rows_null, da_tile_mask_create_csr(NULL, 1, 1, 32, 16, NULL, f->columns, &f->mask), REFUSED,                   \
        "row_starts is NULL")                                                                                          \
    ROW(columns_null, da_tile_mask_create_csr(NULL, 1, 1, 32, 16, f->row_starts, NULL, &f->mask), REFUSED,             \
        "columns is NULL")                                                                                             \
    ROW(first_row_late, (f->row_starts[0] = 1, make_csr(f)), REFUSED, "row_starts[0] is 1")                            \
    ROW(rows_descend, (f->row_starts[1] = 3, make_csr(f)), REFUSED, "row_starts[1] is 3")                              \
    ROW(row_too_long, (f->row_starts[2] = 400, make_csr(f)), REFUSED, "row_starts[2] is 400")                          \
    ROW(row_negative, (f->row_starts[1] = -1, make_csr(f)), REFUSED, "row_starts[1] is -1")                            \
    ROW(column_negative, (f->columns[0] = -1, make_csr(f)), REFUSED, "columns[0] is -1")                               \
    ROW(column_beyond, (f->columns[2] = 2, make_csr(f)), REFUSED, "columns[2] is 2")                                   \
    ROW(column_twice, (f->columns[1] = 0, make_csr(f)), REFUSED, "columns[1] is 0; allowed: 1 to 1")                   \
    ROW(info_mask_null, da_tile_mask_get_info(NULL, &f->info), REFUSED, "mask is NULL")                                \
    ROW(info_size, info_of_small(f), REFUSED, "info.size is 8")

MASK_ROWS(REFUSAL_FUNCTION)
static const refusal mask_rows[] = {MASK_ROWS(REFUSAL_ENTRY)};

static void run(void **state) {
    counting_allocator counter = {0};
    fixture f = {
        .allocator = counting_allocator_interface(&counter),
        .batch = 1,
        .heads = 1,
        .n = 32,
        .block_size = 16,
        .kept = {1, 1, 0, 1},
        .row_starts = {0, 2, 3},
        .columns = {0, 1, 1},
    };
    da_tile_mask_info_init(&f.info);
    refusal_check(*state, &f);
    assert_int_equal(counter.live, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways), cmocka_unit_test(test_transposed),   cmocka_unit_test(test_one_for_all),
        cmocka_unit_test(test_no_tile),   cmocka_unit_test(test_short_memory),
    };
    int failures = cmocka_run_group_tests_name("tiles", tests, NULL, NULL);
    return failures + refusal_run("masks", mask_rows, sizeof mask_rows / sizeof *mask_rows, run);
}
