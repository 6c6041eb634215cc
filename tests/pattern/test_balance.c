/* Arithmetic of each rank for a long causal sequence, in pairs of a query and a key: who is dealt how much by a partition. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "pattern/pairs.h"

enum { N = 4000037, HEADS = 4, LONGEST = 4 };

static const int RANKS[] = {2, 3, 4, 7, 16};

/* Most and least pairs that a rank computes, as a ratio. */
static double imbalance(const da_attention_config *config, int ranks) {
    da_layout *layout;
    da_piece piece;
    da_part whole = da_part_whole(N, &piece);
    double most = 0, least = 0;
    assert_int_equal(da_layout_create(NULL, config->partition, config->stripe, N, ranks, NULL, &layout), DA_OK);
    for (int rank = 0; rank < ranks; rank++) {
        double pairs = 0;
        for (int64_t head = 0; head < HEADS; head++) {
            da_head_patterns patterns;
            da_head_patterns_init(&patterns, config, N, HEADS, head);
            pairs += da_pairs_count(&patterns, da_layout_part(layout, rank), &whole).distinct;
        }
        most = rank == 0 || pairs > most ? pairs : most;
        least = rank == 0 || pairs < least ? pairs : least;
    }
    da_layout_free(layout);
    return most / least;
}

static da_attention_config make_config(da_partition partition, int64_t longest) {
    const int64_t lengths[LONGEST] = {2048, 16384, 131072, longest}, rates[LONGEST] = {1, 4, 16, 64};
    da_attention_config config;
    da_attention_config_init(&config);
    assert_int_equal(da_attention_config_set_patterns(&config, lengths, LONGEST, rates, LONGEST), DA_OK);
    config.causal = true;
    config.partition = partition;
    return config;
}

static void check(da_partition partition, int64_t longest) {
    da_attention_config config = make_config(partition, longest);
    for (size_t k = 0; k < sizeof RANKS / sizeof *RANKS; k++) {
        double ratio = imbalance(&config, RANKS[k]);
        print_message("%s, longest segment %lld, %d ranks: %.4f\n", da_partition_name(partition), (long long)longest,
                      RANKS[k], ratio);
        assert_true(ratio <= 1.10);
    }
}

/* Whatever the longest segment, the sequence itself among them. */
static void test_striped(void **state) {
    check(DA_PARTITION_STRIPED, N);
    check(DA_PARTITION_STRIPED, 250000);
    /* Stripes that are a power of two, as segments are, have the same places in all of these. */
    da_attention_config together = make_config(DA_PARTITION_STRIPED, N);
    together.stripe = 2048;
    assert_true(imbalance(&together, 4) > 1.10);
}

static void test_zigzag(void **state) {
    check(DA_PARTITION_ZIGZAG, N);
    check(DA_PARTITION_ZIGZAG, 250000);
}

/* Of segments that ranks hold several of, contiguous parts have as much; of longer ones, those behind have more. */
static void test_contiguous(void **state) {
    da_attention_config whole = make_config(DA_PARTITION_CONTIGUOUS, N);
    check(DA_PARTITION_CONTIGUOUS, 131072 / 8);
    assert_true(imbalance(&whole, 4) > 1.10);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_zigzag), cmocka_unit_test(test_striped),
                                       cmocka_unit_test(test_contiguous)};
    return cmocka_run_group_tests_name("balance", tests, NULL, NULL);
}
