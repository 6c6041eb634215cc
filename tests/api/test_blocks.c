/* `ring` in blocks: which blocks it takes, what it lets go of, ranges of queries, memory, progress. That results are right
 * is tested in ../compare, where blocks of all sizes run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "support/counting_allocator.h"
#include "support/problem_data.h"

enum { N = 150, BATCH = 2, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 20, BLOCK = 40, THREADS = 2 };

typedef struct session {
    counting_allocator counter;
    da_context *context;
    da_attention_config config;
    da_attention *ring, *improved;
    problem_data data, other;
    da_call_options options;
} session;

static da_attention *create(session *s, const char *name) {
    da_attention *attention = NULL;
    assert_int_equal(da_attention_create(s->context, name, &s->config, &attention), DA_OK);
    return attention;
}

static void set_patterns(session *s, const int64_t *segments, const int64_t *rates, size_t count) {
    assert_int_equal(da_attention_config_set_patterns(&s->config, segments, count, rates, count), DA_OK);
    da_attention_free(s->ring);
    da_attention_free(s->improved);
    s->ring = create(s, "ring");
    s->improved = create(s, "improved");
}

static int set_up(void **state) {
    static session s;
    da_context_options options;
    s = (session){.data = problem_data_make(1, BATCH, N, HEADS, KV_HEADS, HEAD_DIM),
                  .other = problem_data_make(1, BATCH, N, HEADS, KV_HEADS, HEAD_DIM)};
    da_context_options_init(&options);
    options.threads = THREADS;
    options.allocator = counting_allocator_interface(&s.counter);
    assert_int_equal(da_context_create(&options, &s.context), DA_OK);
    da_attention_config_init(&s.config);
    set_patterns(&s, (int64_t[]){16, 64, 128}, (int64_t[]){1, 2, 4}, 3);
    da_call_options_init(&s.options);
    problem_data_clear(&s.data);
    problem_data_clear(&s.other);
    *state = &s;
    return 0;
}

static int tear_down(void **state) {
    session *s = *state;
    da_attention_free(s->ring);
    da_attention_free(s->improved);
    da_context_free(s->context);
    problem_data_free(&s->data);
    problem_data_free(&s->other);
    return s->counter.live == 0 ? 0 : -1;
}

static void both_passes(session *s, problem_data *data, const da_attention *attention) {
    assert_int_equal(problem_data_forward(data, attention, &s->options), DA_OK);
    assert_int_equal(problem_data_backward(data, attention, &s->options), DA_OK);
}

/* Without blocks, or with one that holds all, and the pages let go: the bits of `improved`. */
static void test_one_block_is_improved(void **state) {
    session *s = *state;
    const int64_t blocks[] = {0, N, N + 1, INT64_MAX};
    both_passes(s, &s->other, s->improved);
    for (int k = 0; k < 4; k++) {
        problem_data_clear(&s->data);
        s->options.block = blocks[k];
        both_passes(s, &s->data, s->ring);
        assert_true(problem_data_equal(&s->data, &s->other));
    }
}

/* ---- which blocks ------------------------------------------------------------------------------------------------ */

typedef struct released {
    const session *s;
    int calls[9];   /* by tensor */
    int rows[9][N]; /* how often each row was let go */
    int64_t longest;
    bool out_was_written; /* as it is in the end, whenever rows of it were let go */
} released;

static int number_of(const session *s, const da_tensor *tensor) {
    const problem_data *d = &s->data;
    const da_tensor *all[] = {&d->query,    &d->key,        &d->value,    &d->out,       &d->lse,
                              &d->grad_out, &d->grad_query, &d->grad_key, &d->grad_value};
    for (int k = 0; k < 9; k++) {
        if (all[k] == tensor) {
            return k;
        }
    }
    fail_msg("a tensor that was not given to the call");
    return -1;
}

static void on_release(const da_tensor *tensor, int64_t first, int64_t end, void *user) {
    released *seen = user;
    int number = number_of(seen->s, tensor);
    assert_true(first >= 0 && first < end && end <= N);
    seen->calls[number]++;
    seen->longest = end - first > seen->longest ? end - first : seen->longest;
    for (int64_t i = first; i < end; i++) {
        seen->rows[number][i]++;
    }
    if (tensor == &seen->s->data.out) {
        size_t row = (size_t)HEADS * HEAD_DIM * sizeof(float);
        const char *now = tensor->data, *then = seen->s->other.out.data;
        seen->out_was_written = seen->out_was_written && memcmp(now + (size_t)first * row, then + (size_t)first * row,
                                                                (size_t)(end - first) * row) == 0;
    }
}

static released forward_released(session *s) {
    released seen = {.s = s, .out_was_written = true};
    s->options.release = NULL;
    assert_int_equal(problem_data_forward(&s->other, s->ring, &s->options), DA_OK);
    s->options.release = on_release;
    s->options.release_user = &seen;
    assert_int_equal(problem_data_forward(&s->data, s->ring, &s->options), DA_OK);
    assert_memory_equal(s->data.outputs, s->other.outputs, s->data.out_bytes);
    return seen;
}

static void test_release_of_forward(void **state) {
    session *s = *state;
    s->options.block = BLOCK;
    released seen = forward_released(s);
    assert_int_equal(seen.longest, BLOCK);
    assert_true(seen.out_was_written);
    for (int64_t i = 0; i < N; i++) {
        assert_true(seen.rows[0][i] == 1 && seen.rows[3][i] == 1 && seen.rows[4][i] == 1); /* query, out, lse */
        assert_true(seen.rows[1][i] >= 1 && seen.rows[1][i] == seen.rows[2][i]);           /* key, value */
    }
}

static void test_release_of_backward(void **state) {
    session *s = *state;
    released seen = {.s = s, .out_was_written = true};
    s->options.block = BLOCK;
    both_passes(s, &s->other, s->ring);
    assert_int_equal(problem_data_forward(&s->data, s->ring, &s->options), DA_OK);
    s->options.release = on_release;
    s->options.release_user = &seen;
    assert_int_equal(problem_data_backward(&s->data, s->ring, &s->options), DA_OK);
    assert_true(problem_data_equal(&s->data, &s->other));
    assert_int_equal(seen.longest, BLOCK);
    for (int64_t i = 0; i < N; i++) {
        for (int k = 0; k < 9; k++) {
            assert_true(k < 6 ? seen.rows[k][i] >= 2 : seen.rows[k][i] == 1); /* outputs once, each in one direction */
        }
    }
}

/* Blocks of keys that no query of a block sees are not taken. */
static void test_blocks_that_meet(void **state) {
    session *s = *state;
    const struct {
        int64_t segments[2], rates[2], window;
        size_t patterns;
        bool causal;
        int key_blocks; /* over all blocks of queries; of 10 tokens each, 15 blocks */
    } cases[] = {
        {{10}, {1}, DA_NO_WINDOW, 1, false, 15},
        {{20}, {1}, DA_NO_WINDOW, 1, false, 29},                /* pairs, and a last one alone */
        {{20}, {1}, DA_NO_WINDOW, 1, true, 22},                 /* of each pair the earlier one sees only itself */
        {{15}, {1}, DA_NO_WINDOW, 1, false, 35},                /* block 1 of three meets both others */
        {{150}, {1}, DA_NO_WINDOW, 1, false, 225},              /* all */
        {{150}, {1}, 5, 1, true, 29},                           /* its own, and the one before */
        {{150}, {1}, 10, 1, true, 29},                          /* query 10 k sees key 10 k - 10 */
        {{150}, {1}, 11, 1, true, 42},                          /* and 10 k - 11 */
        {{10, 150}, {1, 50}, DA_NO_WINDOW, 2, false, 15 + 6},   /* tokens 0..3 + {0, 50, 100}: blocks 0, 5, 10 */
        {{10, 75}, {1, 25}, DA_NO_WINDOW, 2, false, 15 + 6 + 6} /* tokens 0..3 + {0, 25, 50} and {75, 100, 125} */
    };
    s->options.block = 10;
    for (size_t k = 0; k < sizeof cases / sizeof *cases; k++) {
        s->config.causal = cases[k].causal;
        s->config.window = cases[k].window;
        set_patterns(s, cases[k].segments, cases[k].rates, cases[k].patterns);
        released seen = forward_released(s);
        if (seen.calls[1] != cases[k].key_blocks) {
            fail_msg("case %zu: %d blocks of keys, not %d", k, seen.calls[1], cases[k].key_blocks);
        }
    }
}

/* ---- ranges of queries ------------------------------------------------------------------------------------------- */

static bool is_untouched(const problem_data *data, int64_t first, int64_t end) {
    for (int64_t b = 0; b < BATCH; b++) {
        const unsigned char *row = (const unsigned char *)data->outputs + (b * N + first) * HEADS * HEAD_DIM * 4;
        for (int64_t k = 0; k < (end - first) * HEADS * HEAD_DIM * 4; k++) {
            if (row[k] != 0xFF) {
                return false;
            }
        }
    }
    return true;
}

static void forward_range(session *s, const da_attention *attention, int64_t first, int64_t end) {
    s->options.query_first = first;
    s->options.query_end = end;
    assert_int_equal(problem_data_forward(&s->data, attention, &s->options), DA_OK);
}

/* In any order; each writes its rows alone, and all together give the whole call's bits. */
static void test_ranges_of_blocks(void **state) {
    session *s = *state;
    s->options.block = BLOCK;
    assert_int_equal(problem_data_forward(&s->other, s->ring, &s->options), DA_OK);
    forward_range(s, s->ring, BLOCK, 3 * BLOCK);
    assert_true(is_untouched(&s->data, 0, BLOCK) && is_untouched(&s->data, 3 * BLOCK, N));
    forward_range(s, s->ring, 3 * BLOCK, N);
    assert_true(is_untouched(&s->data, 0, BLOCK));
    forward_range(s, s->ring, 0, BLOCK);
    assert_memory_equal(s->data.outputs, s->other.outputs, s->data.out_bytes);
    assert_memory_equal(s->data.sums, s->other.sums, s->data.lse_bytes);
}

static void test_range_of_improved(void **state) {
    session *s = *state;
    forward_range(s, s->improved, 17, 18);
    assert_true(is_untouched(&s->data, 0, 17) && is_untouched(&s->data, 18, N) && !is_untouched(&s->data, 17, 18));
}

static void test_range_is_refused(void **state) {
    session *s = *state;
    da_attention *standard = create(s, "standard");
    s->options.query_end = 10;
    assert_int_equal(problem_data_forward(&s->data, standard, &s->options), DA_ERROR_UNSUPPORTED);
    assert_non_null(strstr(da_last_error_message(), "does not take query range"));
    assert_int_equal(problem_data_backward(&s->data, s->ring, &s->options), DA_ERROR_INVALID_ARGUMENT);
    assert_non_null(strstr(da_last_error_message(), "options.query_end is 10; allowed in a backward pass: 0"));
    assert_true(is_untouched(&s->data, 0, N));
    da_attention_free(standard);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* What blocks carry takes no more than the header says. */
static void test_memory_of_blocks(void **state) {
    session *s = *state;
    const int64_t padded = (HEAD_DIM + 31) / 32 * 32, rows = BATCH * BLOCK;
    const long context = s->counter.live_bytes;
    size_t workspace, backward_workspace;
    da_problem problem;
    da_problem_init(&problem);
    problem.batch = BATCH;
    problem.n = N;
    problem.heads = HEADS;
    problem.kv_heads = KV_HEADS;
    problem.head_dim = HEAD_DIM;
    assert_int_equal(da_attention_workspace(s->ring, &problem, &workspace), DA_OK);
    assert_int_equal(da_attention_backward_workspace(s->ring, &problem, &backward_workspace), DA_OK);
    s->options.block = BLOCK;
    s->counter.peak_bytes = 0;
    assert_int_equal(problem_data_forward(&s->data, s->ring, &s->options), DA_OK);
    assert_true(s->counter.peak_bytes - context <= (long)workspace + rows * HEADS * (padded + 2) * 4);
    s->counter.peak_bytes = 0;
    assert_int_equal(problem_data_backward(&s->data, s->ring, &s->options), DA_OK);
    assert_true(s->counter.peak_bytes - context <= (long)backward_workspace + rows * padded * HEADS * 4);
    assert_int_equal(s->counter.live_bytes, context);
}

static void test_out_of_memory(void **state) {
    session *s = *state;
    long calls = 0;
    s->options.block = BLOCK;
    both_passes(s, &s->other, s->ring);
    for (da_status status = DA_ERROR_OUT_OF_MEMORY; status != DA_OK; calls++) {
        const long live = s->counter.live;
        s->counter.calls = 0;
        s->counter.fail_from = s->counter.fail_to = calls + 1;
        status = problem_data_forward(&s->data, s->ring, &s->options);
        if (status == DA_OK) {
            status = problem_data_backward(&s->data, s->ring, &s->options);
        }
        assert_true(status == DA_OK || status == DA_ERROR_OUT_OF_MEMORY);
        assert_int_equal(s->counter.live, live);
    }
    assert_true(calls > 20); /* a piece of memory for each pair of blocks, and what is carried */
    assert_true(problem_data_equal(&s->data, &s->other));
}

/* ---- progress ---------------------------------------------------------------------------------------------------- */

typedef struct reports {
    int count, stop_after; /* 0: never */
    int64_t last, total;
} reports;

static bool on_progress(int64_t finished, int64_t total, void *user) {
    reports *seen = user;
    assert_true(finished >= seen->last && finished <= total && (seen->count == 0 || total == seen->total));
    seen->last = finished;
    seen->total = total;
    return ++seen->count != seen->stop_after;
}

static void test_progress(void **state) {
    session *s = *state;
    s->options.block = 5;
    s->options.progress = on_progress;
    for (int pass = 0; pass < 2; pass++) {
        da_status (*const run)(problem_data *, const da_attention *, const da_call_options *) =
            pass == 0 ? problem_data_forward : problem_data_backward;
        reports all = {0}, some = {.stop_after = 3};
        s->options.progress_user = &all;
        assert_int_equal(run(&s->data, s->ring, &s->options), DA_OK);
        assert_true(all.count > 10 && all.count <= 201);
        assert_true(all.last == all.total && all.total == (pass == 0 ? N : 2 * N));
        s->options.progress_user = &some;
        assert_int_equal(run(&s->data, s->ring, &s->options), DA_ERROR_CANCELLED);
        assert_int_equal(some.count, 3);
        some = (reports){.stop_after = all.count};
        assert_int_equal(run(&s->data, s->ring, &s->options), DA_ERROR_CANCELLED);
    }
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_one_block_is_improved), TEST(test_release_of_forward),
        TEST(test_release_of_backward),   TEST(test_blocks_that_meet),
        TEST(test_ranges_of_blocks),      TEST(test_range_of_improved),
        TEST(test_range_is_refused),      TEST(test_memory_of_blocks),
        TEST(test_out_of_memory),         TEST(test_progress),
    };
    return cmocka_run_group_tests_name("blocks", tests, NULL, NULL);
}
