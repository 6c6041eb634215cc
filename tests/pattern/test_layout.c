/* Who holds which tokens: layouts, parts, and the public functions beside them, against the definition of each partition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pattern/layout.h"
#include "support/counting_allocator.h"
#include "support/refusals.h"

#define MAX_N 200
#define MAX_RANKS 9

/* The rank that holds token i, from the header's definition. */
static int holder(da_partition partition, int64_t stripe, int64_t n, int ranks, int64_t i) {
    int64_t parts = partition == DA_PARTITION_ZIGZAG ? 2 * ranks : ranks;
    if (partition == DA_PARTITION_STRIPED) {
        return (int)(i / (stripe == 0 ? 2039 : stripe) % ranks);
    }
    int64_t chunk = 0;
    while ((chunk + 1) * n / parts <= i) {
        chunk++;
    }
    return (int)(chunk < ranks ? chunk : 2 * ranks - 1 - chunk);
}

static void check_pieces(const da_part *part) {
    int64_t rows = 0, end = -1;
    for (int64_t k = 0; k < part->piece_count; k++) {
        const da_piece *piece = &part->pieces[k];
        assert_true(piece->first > end && piece->end > piece->first);
        assert_int_equal(piece->row, rows);
        rows += piece->end - piece->first;
        end = piece->end;
    }
    assert_int_equal(part->length, rows);
}

/* Every token has one holder, as holders[] says; rows and positions are each other's inverse. */
static void check_layout(const da_layout *layout, int64_t n, int ranks, const int *holders) {
    int64_t rows[MAX_RANKS] = {0};
    assert_true(layout->n == n && layout->ranks == ranks);
    for (int64_t i = 0; i < n; i++) {
        for (int rank = 0; rank < ranks; rank++) {
            const da_part *part = da_layout_part(layout, rank);
            int64_t row = da_part_row(part, i);
            if (rank != holders[i]) {
                assert_int_equal(row, -1);
                continue;
            }
            assert_int_equal(row, rows[rank]);
            assert_int_equal(da_part_position(part, row), i);
            assert_int_equal(da_layout_find(layout, i, &row), rank);
            assert_int_equal(row, rows[rank]++);
        }
    }
    for (int rank = 0; rank < ranks; rank++) {
        const da_part *part = da_layout_part(layout, rank);
        assert_int_equal(part->length, rows[rank]);
        assert_int_equal(da_part_row(part, n), -1);
        check_pieces(part);
    }
}

static void check_public(da_partition partition, int64_t stripe, const da_layout *layout) {
    for (int rank = 0; rank < layout->ranks; rank++) {
        const da_part *part = da_layout_part(layout, rank);
        int64_t length = -1, position = -1;
        assert_int_equal(da_partition_length(partition, stripe, layout->n, layout->ranks, rank, &length), DA_OK);
        assert_int_equal(length, part->length);
        for (int64_t row = 0; row < length; row++) {
            assert_int_equal(da_partition_position(partition, stripe, layout->n, layout->ranks, rank, row, &position),
                             DA_OK);
            assert_int_equal(position, da_part_position(part, row));
        }
    }
}

static void test_every_token_has_one_holder(void **state) {
    static const int64_t stripes[] = {0, 1, 3, 7, 64, 200, INT64_MAX};
    int holders[MAX_N];
    for (int64_t n = 0; n <= MAX_N; n++) {
        for (int ranks = 1; ranks <= MAX_RANKS; ranks++) {
            for (int partition = 0; partition < 3; partition++) {
                int stripe_count = partition == DA_PARTITION_STRIPED ? 7 : 1;
                for (int s = 0; s < stripe_count; s++) {
                    da_layout *layout;
                    assert_int_equal(
                        da_layout_create(NULL, (da_partition)partition, stripes[s], n, ranks, NULL, &layout), DA_OK);
                    for (int64_t i = 0; i < n; i++) {
                        holders[i] = holder((da_partition)partition, stripes[s], n, ranks, i);
                    }
                    check_layout(layout, n, ranks, holders);
                    check_public((da_partition)partition, stripes[s], layout);
                    da_layout_free(layout);
                }
            }
        }
    }
}

static void test_lengths_of_the_ranks(void **state) {
    static const int64_t lengths[][MAX_RANKS] = {
        {0, 0, 7, 0, 1, 40, 0}, {5, 0}, {0, 5}, {1, 1, 1, 1, 1, 1, 1, 1, 1}, {100, 3, 0, 0, 60, 2, 0, 0, 35}, {0},
    };
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        int holders[MAX_N];
        int64_t n = 0;
        for (int rank = 0; rank < MAX_RANKS; rank++) {
            for (int64_t row = 0; row < lengths[k][rank]; row++) {
                holders[n++] = rank;
            }
        }
        da_layout *layout;
        assert_int_equal(da_layout_create(NULL, DA_PARTITION_CONTIGUOUS, 0, n, MAX_RANKS, lengths[k], &layout), DA_OK);
        check_layout(layout, n, MAX_RANKS, holders);
        da_layout_free(layout);
    }
}

/* 2^40 tokens: ends by the definition's formula in exact arithmetic, and rows far out. */
static void test_long_sequences(void **state) {
    const int64_t n = ((int64_t)1 << 40) + 12345;
    const int ranks = 8191;
    da_layout *layout;
    int64_t position = -1, length = -1;
    assert_int_equal(da_layout_create(NULL, DA_PARTITION_CONTIGUOUS, 0, n, ranks, NULL, &layout), DA_OK);
    for (int rank = 0; rank < ranks; rank += 1365) {
        const da_part *part = da_layout_part(layout, rank);
        assert_int_equal(part->pieces[0].first, rank * n / ranks);
        assert_int_equal(part->pieces[0].end, (rank + 1) * n / ranks);
        assert_int_equal(da_part_row(part, part->pieces[0].end - 1), part->length - 1);
    }
    da_layout_free(layout);
    assert_int_equal(da_layout_create(NULL, DA_PARTITION_ZIGZAG, 0, n, ranks, NULL, &layout), DA_OK);
    const da_part *part = da_layout_part(layout, 17);
    assert_int_equal(part->pieces[1].first, (2 * ranks - 18) * n / (2 * ranks));
    assert_int_equal(part->pieces[1].end, (2 * ranks - 17) * n / (2 * ranks));
    da_layout_free(layout);
    /* Block 2^29 of 2048 tokens is rank 2^29 mod 8191's, as its row (2^29 / 8191) * 2048; the last block has 57 tokens. */
    const int64_t block = (int64_t)1 << 29;
    assert_int_equal(da_partition_position(DA_PARTITION_STRIPED, 2048, n, ranks, (int)(block % ranks),
                                           block / ranks * 2048 + 5, &position),
                     DA_OK);
    assert_int_equal(position, block * 2048 + 5);
    assert_int_equal(da_partition_length(DA_PARTITION_STRIPED, 2048, n, ranks, (int)((block + 6) % ranks), &length),
                     DA_OK);
    assert_int_equal(length, (block + 6) / ranks * 2048 + 57);
    /* The most tokens and ranks that are allowed. */
    const int64_t most = (int64_t)1 << 48;
    assert_int_equal(da_partition_length(DA_PARTITION_ZIGZAG, 0, most, 1 << 24, (1 << 24) - 1, &length), DA_OK);
    assert_int_equal(length, 1 << 24);
    assert_int_equal(da_partition_position(DA_PARTITION_ZIGZAG, 0, most, 1 << 24, 0, length - 1, &position), DA_OK);
    assert_int_equal(position, most - 1);
}

static void test_one_process(void **state) {
    da_piece piece;
    for (int64_t n = 0; n < 5; n++) {
        da_part part = da_part_whole(n, &piece);
        check_pieces(&part);
        for (int64_t i = 0; i < n; i++) {
            assert_true(da_part_row(&part, i) == i && da_part_position(&part, i) == i);
        }
        assert_int_equal(da_part_row(&part, n), -1);
    }
    for (int partition = 0; partition < 3; partition++) { /* one piece, however it is cut */
        da_layout *layout;
        assert_int_equal(da_layout_create(NULL, (da_partition)partition, 1, 1000, 1, NULL, &layout), DA_OK);
        assert_int_equal(da_layout_part(layout, 0)->piece_count, 1);
        da_layout_free(layout);
    }
}

static void test_memory_is_the_callers(void **state) {
    counting_allocator counter = {0};
    da_allocator allocator = counting_allocator_interface(&counter);
    da_layout *layout;
    assert_int_equal(da_layout_create(&allocator, DA_PARTITION_STRIPED, 1, 100000, 7, NULL, &layout), DA_OK);
    assert_true(counter.live == 1);
    assert_true(counter.live_bytes <=
                100000 * (long)(sizeof(da_piece) + sizeof(da_held_piece)) + 7 * (long)sizeof(da_part) + 512);
    da_layout_free(layout);
    assert_true(counter.live == 0);
    counter.fail_from = counter.fail_to = counter.calls + 1;
    assert_int_equal(da_layout_create(&allocator, DA_PARTITION_ZIGZAG, 0, 100, 7, NULL, &layout),
                     DA_ERROR_OUT_OF_MEMORY);
    assert_null(layout);
    da_layout_free(NULL);
}

/* ---- refusals ------------------------------------------------------------------------------------------------------ */

struct fixture {
    int64_t number;
    da_layout *layout;
};

static da_status layout_of(fixture *f, da_partition partition, int64_t stripe, int64_t n, int ranks,
                           const int64_t *lengths) {
    return da_layout_create(NULL, partition, stripe, n, ranks, lengths, &f->layout);
}

/* clang-format off */
#define REFUSED DA_ERROR_INVALID_ARGUMENT
#define LENGTHS(...) ((const int64_t[]){__VA_ARGS__})
#define ROWS(ROW) \
    ROW(partition_unknown, layout_of(f, (da_partition)3, 0, 8, 2, NULL), REFUSED, "partition is 3") \
    ROW(stripe_negative, layout_of(f, DA_PARTITION_STRIPED, -1, 8, 2, NULL), REFUSED, "stripe is -1") \
    ROW(n_negative, layout_of(f, DA_PARTITION_ZIGZAG, 0, -1, 2, NULL), REFUSED, "n is -1") \
    ROW(n_beyond, layout_of(f, DA_PARTITION_ZIGZAG, 0, ((int64_t)1 << 48) + 1, 2, NULL), REFUSED, "n is 281474976710657") \
    ROW(ranks_zero, layout_of(f, DA_PARTITION_ZIGZAG, 0, 8, 0, NULL), REFUSED, "ranks is 0; allowed: 1 to 16777216") \
    ROW(ranks_beyond, layout_of(f, DA_PARTITION_ZIGZAG, 0, 8, (1 << 24) + 1, NULL), REFUSED, "ranks is 16777217") \
    ROW(lengths_zigzag, layout_of(f, DA_PARTITION_ZIGZAG, 0, 8, 2, LENGTHS(5, 3)), REFUSED, "rank 0 brings 5 tokens; allowed: 4") \
    ROW(lengths_short, layout_of(f, DA_PARTITION_CONTIGUOUS, 0, 8, 2, LENGTHS(4, 3)), REFUSED, "the ranks bring 7") \
    ROW(lengths_long, layout_of(f, DA_PARTITION_CONTIGUOUS, 0, 8, 2, LENGTHS(4, 5)), REFUSED, "rank 1 brings 5") \
    ROW(lengths_overflow, layout_of(f, DA_PARTITION_CONTIGUOUS, 0, 8, 2, LENGTHS(4, INT64_MAX)), REFUSED, "rank 1 brings") \
    ROW(lengths_negative, layout_of(f, DA_PARTITION_CONTIGUOUS, 0, 8, 2, LENGTHS(-1, 9)), REFUSED, "rank 0 brings -1") \
    ROW(rank_negative, da_partition_length(DA_PARTITION_ZIGZAG, 0, 8, 2, -1, &f->number), REFUSED, "rank is -1") \
    ROW(rank_beyond, da_partition_length(DA_PARTITION_ZIGZAG, 0, 8, 2, 2, &f->number), REFUSED, "which is 1") \
    ROW(length_null, da_partition_length(DA_PARTITION_ZIGZAG, 0, 8, 2, 1, NULL), REFUSED, "length is NULL") \
    ROW(length_partition, da_partition_length((da_partition)-1, 0, 8, 2, 1, &f->number), REFUSED, "partition is -1") \
    ROW(row_negative, da_partition_position(DA_PARTITION_STRIPED, 4, 8, 2, 1, -1, &f->number), REFUSED, "row is -1") \
    ROW(row_beyond, da_partition_position(DA_PARTITION_STRIPED, 4, 8, 2, 1, 4, &f->number), REFUSED, \
        "row is 4; allowed: 0 to 3") \
    ROW(row_of_nothing, da_partition_position(DA_PARTITION_STRIPED, 4, 8, 3, 2, 0, &f->number), REFUSED, \
        "rank 2 holds no rows") \
    ROW(position_null, da_partition_position(DA_PARTITION_STRIPED, 4, 8, 2, 1, 0, NULL), REFUSED, "position is NULL")
/* clang-format on */
ROWS(REFUSAL_FUNCTION)

static void run_refusal(void **state) {
    fixture f = {.layout = (da_layout *)&f};
    const refusal *row = *state;
    refusal_check(row, &f);
    assert_true(f.number == 0);
    assert_true(f.layout == NULL || f.layout == (da_layout *)&f);
}

int main(void) {
    const refusal refusals[] = {ROWS(REFUSAL_ENTRY)};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_token_has_one_holder),
        cmocka_unit_test(test_lengths_of_the_ranks),
        cmocka_unit_test(test_long_sequences),
        cmocka_unit_test(test_one_process),
        cmocka_unit_test(test_memory_is_the_callers),
    };
    return cmocka_run_group_tests_name("layout", tests, NULL, NULL) +
           refusal_run("layout refusals", refusals, sizeof refusals / sizeof *refusals, run_refusal);
}
