#include "pattern/drawn.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

static uint64_t random_state = 1;

int64_t drawn_below(int64_t end) {
    random_state = random_state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (int64_t)((random_state >> 33) % (uint64_t)end);
}

static void draw_patterns(da_attention_config *config, int64_t n) {
    int64_t segments[4], rates[4];
    size_t count = (size_t)(1 + drawn_below(4));
    bool dividing = drawn_below(2);
    for (size_t p = 0; p < count; p++) {
        if (dividing) {
            rates[p] = (int64_t)1 << drawn_below(4);
            segments[p] = rates[p] * (1 + drawn_below(n / rates[p] + 2));
        } else {
            segments[p] = 1 + drawn_below(n + 20);
            rates[p] = 1 + drawn_below(segments[p] < 11 ? segments[p] : 11);
        }
    }
    if (drawn_below(20) == 0) {
        segments[0] = INT64_MAX;
    }
    assert_int_equal(da_attention_config_set_patterns(config, segments, count, rates, count), DA_OK);
}

drawn drawn_next(int number) {
    /* One after the other: the members of an initialiser are computed in any order. */
    drawn d = {.n = 1 + drawn_below(number % 8 == 0 ? DRAWN_MAX_N : 70)};
    d.heads = 1 + drawn_below(9);
    da_attention_config_init(&d.config);
    draw_patterns(&d.config, d.n);
    d.head = drawn_below(d.heads);
    d.ranks = (int)(1 + drawn_below(7));
    d.config.causal = drawn_below(2);
    d.config.window = drawn_below(2) ? drawn_below(drawn_below(2) ? 12 : d.n + 5) : DA_NO_WINDOW;
    if (drawn_below(20) == 0) {
        d.config.window = INT64_MAX;
    }
    d.config.mixing = drawn_below(4) == 0 ? DA_MIXING_HEAD_GROUPS : DA_MIXING_LONGNET;
    d.config.offset_rule = drawn_below(2) ? DA_OFFSET_BLOCK : DA_OFFSET_MOD;
    d.config.tail_rule = drawn_below(2) ? DA_TAIL_ZERO_PAD : DA_TAIL_MASK;
    d.config.overlap = drawn_below(2) ? DA_OVERLAP_ONCE : DA_OVERLAP_COUNT;
    return d;
}

da_layout *drawn_layout(const drawn *d) {
    da_layout *layout;
    int kind = (int)drawn_below(4);
    int64_t lengths[7] = {0}, left = d->n;
    for (int rank = 0; rank < d->ranks; rank++) { /* uneven, for kind 3 */
        lengths[rank] = rank == d->ranks - 1 ? left : drawn_below(left + 1);
        left -= lengths[rank];
    }
    da_partition partition = kind == 3 ? DA_PARTITION_CONTIGUOUS : (da_partition)kind;
    assert_int_equal(
        da_layout_create(NULL, partition, 1 + drawn_below(20), d->n, d->ranks, kind == 3 ? lengths : NULL, &layout),
        DA_OK);
    return layout;
}
