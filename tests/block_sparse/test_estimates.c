/* What content is chosen by, against sums in double over every pair: exact attention of sampled queries, and the estimates of
 * rows of tiles from pooled queries and keys. Over generated patterns, with padding, causality, windows and grouped queries. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "attention/block_sparse/estimate.h"
#include "attention/block_sparse/sample.h"
#include "attention/workspace.h"
#include "core/numbers.h"
#include "pattern/drawn.h"
#include "support/problem_data.h"

enum { HEAD_DIM = 7, BLOCK = 16, MAX_BLOCKS = DRAWN_MAX_N / BLOCK + 1 };

/* A drawn problem, whose tensors have the head looked at alone, as head 0 of heads that are the same. */
typedef struct subject {
    drawn d;
    problem_data data;
    da_context *context;
    da_call_options options;
    int64_t key_length;
    da_sparse_head head;
} subject;

static subject subject_make(int number, da_isa isa) {
    subject s = {.d = drawn_next(number)};
    da_context_options options;
    da_context_options_init(&options);
    options.isa = isa;
    options.threads = 2;
    assert_int_equal(da_context_create(&options, &s.context), DA_OK);
    s.d.config.block_size = BLOCK;
    s.data = problem_data_make((unsigned)number, 1, s.d.n, s.d.heads, 1, HEAD_DIM);
    da_call_options_init(&s.options);
    s.key_length = drawn_below(2) ? s.d.n : drawn_below(s.d.n + 1);
    return s;
}

static void subject_begin(subject *s) {
    s->options.key_lengths = &s->key_length;
    da_sparse_head_init(&s->head, s->context, &s->d.config, &s->data.query, &s->data.key, &s->options);
    da_sparse_head_at(&s->head, s->d.head);
}

static void subject_free(subject *s) {
    problem_data_free(&s->data);
    da_context_free(s->context);
}

static const float *row_of(const da_tensor *tensor, int64_t i, int64_t head) {
    return (const float *)tensor->data + i * tensor->stride[1] + head * tensor->stride[2];
}

static int multiplicity(const subject *s, int64_t i, int64_t j) {
    const da_head_patterns *patterns = &s->head.patterns;
    int count = 0;
    for (int p = 0; p < patterns->count; p++) {
        count += da_pattern_joins(&patterns->pattern[p], i, j);
    }
    bool hidden = (patterns->causal && j > i) || (j < i && i - j > patterns->window);
    return hidden ? 0 : patterns->once && count > 1 ? 1 : count;
}

/* ---- sampled queries ----------------------------------------------------------------------------------------------- */

/* The parts of a query's softmax by blocks of keys; returns what zero keys have, -1 if the query has no keys. */
static double exact_masses(const subject *s, int64_t i, double mass[MAX_BLOCKS]) {
    double total = 0, zero = 0;
    memset(mass, 0, MAX_BLOCKS * sizeof *mass);
    for (int64_t j = 0; j < s->key_length; j++) {
        double score = 0;
        for (int c = 0; c < HEAD_DIM; c++) {
            score += (double)row_of(&s->data.query, i, s->d.head)[c] * (double)row_of(&s->data.key, j, 0)[c];
        }
        double weight = multiplicity(s, i, j) * exp(score / sqrt(HEAD_DIM));
        mass[j / BLOCK] += weight;
        total += weight;
    }
    for (int p = 0; p < s->head.patterns.count; p++) {
        const da_head_pattern *pattern = &s->head.patterns.pattern[p];
        zero += da_pattern_keeps(pattern, i) ? (double)da_pattern_zero_keys(&s->head.patterns, pattern, i) : 0;
    }
    total += zero;
    for (int block = 0; block < MAX_BLOCKS; block++) {
        mass[block] /= total > 0 ? total : 1;
    }
    return total > 0 ? zero / total : -1;
}

static void check_sample(const subject *s, const da_sample *sample, unsigned purposes) {
    double mass[MAX_BLOCKS];
    assert_int_equal(sample->first_of[3], sample->count);
    for (int purpose = 0; purpose < 3; purpose++) {
        int count = sample->first_of[purpose + 1] - sample->first_of[purpose];
        assert_true(count <= (purposes >> purpose & 1 ? da_sample_size((da_sample_purpose)purpose, s->d.n) : 0));
    }
    for (int k = 0; k < sample->count; k++) {
        int64_t i = sample->queries[k].position;
        double zero = exact_masses(s, i, mass);
        assert_true(i >= 0 && i < s->d.n);
        assert_true(sample->queries[k].has_keys == (zero >= 0));
        for (int64_t block = 0; block < s->head.blocks; block++) {
            assert_true(fabs((double)sample->mass[k * s->head.blocks + block] - mass[block]) < 2e-5);
        }
        assert_true(zero < 0 || fabs(sample->queries[k].zero_keys - zero) < 2e-5);
    }
}

static void sample_with(int number, da_isa isa) {
    subject s = subject_make(number, isa);
    subject_begin(&s);
    unsigned purposes = (unsigned)(1 + drawn_below(7));
    da_sample sample;
    da_arena arena = {NULL, 0};
    da_sample_lay_out(&sample, &s.head, purposes, &arena);
    char *memory = malloc(arena.used), *scratch = malloc((size_t)s.head.threads * da_sample_scratch(&s.head));
    assert_true(memory && scratch);
    memset(memory, 0xFF, arena.used);
    arena = (da_arena){memory, 0};
    da_sample_lay_out(&sample, &s.head, purposes, &arena);
    da_sample_take(&sample, &s.head, purposes, scratch);
    check_sample(&s, &sample, purposes);
    free(memory);
    free(scratch);
    subject_free(&s);
}

static void test_samples(void **state) {
    (void)state;
    for (int number = 0; number < 120; number++) {
        sample_with(number, number % 3 == 0 ? DA_ISA_PORTABLE : DA_ISA_AUTO);
    }
}

/* ---- estimates ----------------------------------------------------------------------------------------------------- */

/* Sums of a group of tokens that a pattern keeps. */
typedef struct group {
    double count, squares, mean[HEAD_DIM];
} group;

static group group_of(const subject *s, const da_head_pattern *pattern, bool keys, int64_t first, int64_t end) {
    group g = {0};
    end = end < s->d.n ? end : s->d.n;
    for (int64_t i = first; i < end; i++) {
        if (!da_pattern_keeps(pattern, i) || (keys && i >= s->key_length)) {
            continue;
        }
        const float *row = keys ? row_of(&s->data.key, i, 0) : row_of(&s->data.query, i, s->d.head);
        g.count++;
        for (int c = 0; c < HEAD_DIM; c++) {
            g.mean[c] += (double)row[c];
            g.squares += (double)row[c] * (double)row[c];
        }
    }
    for (int c = 0; c < HEAD_DIM; c++) {
        g.mean[c] /= g.count > 0 ? g.count : 1;
    }
    g.squares /= g.count > 0 ? g.count : 1;
    return g;
}

/* The sum over a tile's groups of keys of their number times the exponential of the pooled score with its second-order term.
 * Blocks are of 16 tokens: all queries that a pattern keeps in one are one group. */
static double pooled_sum(const subject *s, const da_head_pattern *pattern, int64_t row, int64_t column) {
    group query = group_of(s, pattern, false, row * BLOCK, (row + 1) * BLOCK);
    int64_t span = pattern->rate < 4 ? 4 * pattern->rate : BLOCK;
    double sum = 0;
    for (int64_t first = column * BLOCK; first < (column + 1) * BLOCK; first += span) {
        int64_t end = first + span < (column + 1) * BLOCK ? first + span : (column + 1) * BLOCK;
        group key = group_of(s, pattern, true, first, end);
        double score = 0, query_squares = 0, key_squares = 0;
        for (int c = 0; c < HEAD_DIM; c++) {
            score += query.mean[c] * key.mean[c] / sqrt(HEAD_DIM);
            query_squares += query.mean[c] * query.mean[c] / HEAD_DIM;
            key_squares += key.mean[c] * key.mean[c];
        }
        sum += key.count * exp(score + (key.squares - key_squares) / HEAD_DIM * query_squares / 2);
    }
    return sum;
}

static void check_estimate(const subject *s, const da_strip *strip, int k) {
    double mass[MAX_BLOCKS], total = 0;
    for (int64_t column = 0; column < s->head.blocks; column++) {
        const da_head_pattern *pattern = &s->head.patterns.pattern[strip->rows[k].pattern[column]];
        double tokens = 0;
        for (int64_t j = column * BLOCK; j < (column + 1) * BLOCK && j < s->d.n; j++) {
            tokens += da_pattern_keeps(pattern, j);
        }
        mass[column] = 0;
        if (strip->rows[k].pairs[column] > 0) {
            mass[column] = strip->rows[k].pairs[column] / tokens * pooled_sum(s, pattern, strip->block[k], column);
        }
        total += mass[column];
    }
    for (int64_t column = 0; column < s->head.blocks; column++) {
        double expected = total > 0 ? mass[column] / total : 0;
        assert_true(fabs((double)strip->mass[k * s->head.blocks + column] - expected) < 2e-5);
    }
}

static void estimate_with(int number, da_isa isa) {
    subject s = subject_make(number, isa);
    da_pools pools;
    da_strip strip;
    subject_begin(&s);
    char *memory = NULL;
    size_t bytes = 0;
    for (int pass = 0; pass < 2; pass++) {
        da_arena arena = {memory, 0};
        da_pools_lay_out(&pools, &s.head, &arena);
        da_strip_lay_out(&strip, &s.head, &pools, &arena);
        bytes = arena.used;
        if (!memory) {
            memory = malloc(bytes);
            assert_non_null(memory);
            memset(memory, 0xFF, bytes);
        }
    }
    char *scratch = calloc(1, da_pools_scratch(&pools, &s.head));
    assert_non_null(scratch);
    for (int64_t first = 0, stretch = da_pools_stretch(&pools); first < s.head.blocks; first += stretch) {
        da_pools_fill(&pools, &s.head, first, da_smaller(first + stretch, s.head.blocks), scratch);
    }
    for (int64_t first = 0; first < s.head.blocks; first += strip.most_blocks) {
        int64_t left = s.head.blocks - first;
        strip.block_count = (int)(left < strip.most_blocks ? left : strip.most_blocks);
        for (int k = 0; k < strip.block_count; k++) {
            strip.block[k] = first + k;
        }
        da_strip_estimate(&strip, &s.head, &pools);
        for (int k = 0; k < strip.block_count; k++) {
            check_estimate(&s, &strip, k);
        }
    }
    free(memory);
    free(scratch);
    subject_free(&s);
}

static void test_estimates(void **state) {
    (void)state;
    for (int number = 0; number < 120; number++) {
        estimate_with(number, number % 3 == 0 ? DA_ISA_PORTABLE : DA_ISA_AUTO);
    }
}

/* ---- sums over groups ---------------------------------------------------------------------------------------------- */

/* Scores and biases between -8 and 8, some of which are -infinity. */
static void draw_scores(float scores[DA_BLOCK_KEYS], float bias[DA_BLOCK_KEYS]) {
    for (int key = 0; key < DA_BLOCK_KEYS; key++) {
        scores[key] = (float)drawn_below(1601) / 100 - 8;
        bias[key] = drawn_below(8) == 0 ? -INFINITY : (float)drawn_below(1601) / 100 - 8;
    }
}

static void check_groups(const da_kernels *kernels, int size, int groups, const float *scores, const float *bias) {
    float maximum[DA_BLOCK_KEYS], sum[DA_BLOCK_KEYS];
    kernels->reduce_groups(scores, bias, size, groups, maximum, sum);
    for (int g = 0; g < groups; g++) {
        double expected = 0;
        for (int key = g * size; key < (g + 1) * size; key++) {
            expected += exp2((double)scores[key] + (bias ? (double)bias[key] : 0));
        }
        double found = sum[g] == 0 ? 0 : (double)sum[g] * exp2((double)maximum[g]);
        assert_true(fabs(found - expected) <= 1e-5 * expected);
    }
}

/* Groups of any size, whole vectors or not, as many as vectors have lanes or not. */
static void test_groups(void **state) {
    static const da_isa isas[] = {DA_ISA_PORTABLE, DA_ISA_AVX2, DA_ISA_AVX512, DA_ISA_NEON};
    float scores[DA_BLOCK_KEYS], bias[DA_BLOCK_KEYS];
    (void)state;
    for (size_t k = 0; k < sizeof isas / sizeof *isas; k++) {
        da_context *context;
        da_context_options options;
        da_context_options_init(&options);
        options.isa = isas[k];
        if (da_context_create(&options, &context) != DA_OK) {
            continue; /* not of this machine */
        }
        for (int size = 1; size <= 64; size++) {
            for (int groups = 1; groups * size <= DA_BLOCK_KEYS; groups += groups < 5 ? 1 : 3) {
                draw_scores(scores, bias);
                check_groups(da_kernels_for(isas[k], DA_F32), size, groups, scores, groups % 2 == 0 ? bias : NULL);
            }
        }
        da_context_free(context);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_samples), cmocka_unit_test(test_estimates),
                                       cmocka_unit_test(test_groups)};
    return cmocka_run_group_tests_name("estimates", tests, NULL, NULL);
}
