/* Memory: out of it at every single allocation, nothing kept afterwards, and as much used as was announced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "support/counting_allocator.h"
#include "support/implementations.h"
#include "support/problem_data.h"

enum { N = 150, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 20, MANY = 10000 };

static const char *const IMPLEMENTATIONS[] = {"standard", "improved", "ring"};

typedef struct session {
    counting_allocator counter;
    da_context *context;
    da_attention *attention;
    da_explanation *explanation;
    problem_data data;
} session;

static da_attention_config make_config(void) {
    da_attention_config config;
    da_attention_config_init(&config);
    assert_int_equal(da_attention_config_set_patterns(&config, (int64_t[]){16, 64, 128}, 3, (int64_t[]){1, 2, 4}, 3),
                     DA_OK);
    config.causal = true;
    return config;
}

static da_status open_context(session *s, int threads) {
    da_context_options options;
    da_context_options_init(&options);
    options.threads = threads;
    options.allocator = counting_allocator_interface(&s->counter);
    return da_context_create(&options, &s->context);
}

/* The forward pass, and the backward one where there is one. */
static da_status both_passes(problem_data *data, const da_attention *attention) {
    da_status status = problem_data_forward(data, attention, NULL);
    if (status == DA_OK && implementation_has_backward(da_attention_implementation(attention))) {
        status = problem_data_backward(data, attention, NULL);
    }
    return status;
}

/* Everything that allocates, up to the first failure. */
static da_status run(session *s, const char *name, int threads) {
    da_attention_config config = make_config();
    da_problem problem;
    da_problem_init(&problem); /* of unknown length: what a known one allocates for its estimate is tested in planner */
    da_status status = open_context(s, threads);
    if (status == DA_OK) {
        status = da_attention_create(s->context, name, &config, &s->attention);
    }
    if (status == DA_OK) {
        status = both_passes(&s->data, s->attention);
    }
    if (status == DA_OK) {
        status = da_explain(s->context, &config, &problem, &s->explanation);
    }
    return status;
}

static void close_session(session *s) {
    da_explanation_free(s->explanation);
    da_attention_free(s->attention);
    da_context_free(s->context);
    s->explanation = NULL;
    s->attention = NULL;
    s->context = NULL;
    assert_int_equal(s->counter.live, 0);
    assert_int_equal(s->counter.live_bytes, 0);
}

/* Runs with allocations `from`..`to` failing; false once there is no allocation with the number `from`. */
static bool fails_cleanly(session *s, const problem_data *expected, const char *name, int threads, long from, long to) {
    s->counter = (counting_allocator){.fail_from = from, .fail_to = to};
    problem_data_clear(&s->data);
    da_status status = run(s, name, threads);
    bool failed = s->counter.calls >= from;
    assert_int_equal(status, failed ? DA_ERROR_OUT_OF_MEMORY : DA_OK);
    assert_true(!failed || da_last_error_message()[0] != '\0');
    assert_true(!failed || !s->context || !s->attention || !s->explanation);
    if (s->attention) {
        /* With memory again, the same handles work. */
        s->counter.fail_to = 0;
        problem_data_clear(&s->data);
        assert_int_equal(both_passes(&s->data, s->attention), DA_OK);
        assert_true(problem_data_equal(&s->data, expected));
    }
    close_session(s);
    return failed;
}

static void check_every_allocation(const char *name, int threads) {
    session s = {.data = problem_data_make(1, 2, N, HEADS, KV_HEADS, HEAD_DIM)};
    problem_data expected = problem_data_make(1, 2, N, HEADS, KV_HEADS, HEAD_DIM);
    da_attention *attention;
    da_attention_config config = make_config();
    assert_int_equal(open_context(&s, threads), DA_OK);
    assert_int_equal(da_attention_create(s.context, name, &config, &attention), DA_OK);
    assert_int_equal(both_passes(&expected, attention), DA_OK);
    da_attention_free(attention);
    close_session(&s);

    long once = 1, from = 1;
    while (fails_cleanly(&s, &expected, name, threads, once, once)) {
        once++;
    }
    while (fails_cleanly(&s, &expected, name, threads, from, MANY)) {
        from++;
    }
    assert_true(once > 4); /* context, attention, workspace, explanation: the loop has met them */
    assert_true(from > 4);
    problem_data_free(&s.data);
    problem_data_free(&expected);
}

static void test_out_of_memory_on_one_thread(void **state) {
    check_every_allocation(*state, 1);
}

static void test_out_of_memory_on_three_threads(void **state) {
    check_every_allocation(*state, 3);
}

typedef da_status (*workspace_function)(const da_attention *attention, const da_problem *problem, size_t *bytes);
typedef da_status (*pass_function)(problem_data *data, const da_attention *attention, const da_call_options *options);

static size_t announced(workspace_function workspace, const da_attention *attention, const problem_data *data) {
    da_problem problem;
    size_t bytes;
    da_problem_init(&problem);
    problem.batch = data->query.shape[0];
    problem.n = data->query.shape[1];
    problem.heads = data->query.shape[2];
    problem.kv_heads = data->key.shape[2];
    problem.head_dim = data->query.shape[3];
    assert_int_equal(workspace(attention, &problem, &bytes), DA_OK);
    return bytes;
}

/* What a call allocates is what its workspace function says, for short and long problems. */
static void check_announced(const char *name, pass_function pass, workspace_function workspace) {
    static const int64_t lengths[] = {1, 33, 1000, 5000};
    for (int threads = 1; threads <= 3; threads++) {
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
            session s = {.data = problem_data_make(2, 1, lengths[l], HEADS, KV_HEADS, HEAD_DIM)};
            da_attention_config config = make_config();
            assert_int_equal(open_context(&s, threads), DA_OK);
            assert_int_equal(da_attention_create(s.context, name, &config, &s.attention), DA_OK);
            long before = s.counter.live_bytes;
            s.counter.peak_bytes = before;
            assert_int_equal(pass(&s.data, s.attention, NULL), DA_OK);
            assert_int_equal(s.counter.live_bytes, before);
            assert_int_equal((size_t)(s.counter.peak_bytes - before), announced(workspace, s.attention, &s.data));
            close_session(&s);
            problem_data_free(&s.data);
        }
    }
}

static void test_forward_allocates_what_is_announced(void **state) {
    check_announced(*state, problem_data_forward, da_attention_workspace);
}

static void test_backward_allocates_what_is_announced(void **state) {
    if (!implementation_has_backward(*state)) {
        skip();
    }
    check_announced(*state, problem_data_backward, da_attention_backward_workspace);
}

/* Linear memory, and no more: beyond some length the workspace no longer grows, and it is a few MiB a thread. */
static void check_growth(const char *name, workspace_function workspace) {
    session s = {{0}, NULL, NULL, NULL, {.lse_bytes = 0}};
    da_attention_config config = make_config();
    da_problem problem;
    size_t bytes_4k, bytes_1m, bytes_1g;
    assert_int_equal(
        da_attention_config_set_patterns(&config, (int64_t[]){2048, 4096, 1 << 20}, 3, (int64_t[]){1, 2, 512}, 3),
        DA_OK);
    assert_int_equal(open_context(&s, 2), DA_OK);
    assert_int_equal(da_attention_create(s.context, name, &config, &s.attention), DA_OK);
    da_problem_init(&problem);
    problem.n = 4096;
    assert_int_equal(workspace(s.attention, &problem, &bytes_4k), DA_OK);
    problem.n = 1 << 20;
    assert_int_equal(workspace(s.attention, &problem, &bytes_1m), DA_OK);
    problem.n = 1 << 30;
    assert_int_equal(workspace(s.attention, &problem, &bytes_1g), DA_OK);
    assert_true(bytes_4k > 0 && bytes_4k <= bytes_1m);
    assert_int_equal(bytes_1g, bytes_1m);
    assert_true(bytes_1g <= (size_t)da_context_threads(s.context) * (4 << 20));
    close_session(&s);
}

static void test_workspace_does_not_grow_with_n(void **state) {
    check_growth(*state, da_attention_workspace);
    if (implementation_has_backward(*state)) {
        check_growth(*state, da_attention_backward_workspace);
    }
}

int main(void) {
    struct CMUnitTest tests[15];
    size_t count = 0;
    for (size_t k = 0; k < sizeof IMPLEMENTATIONS / sizeof *IMPLEMENTATIONS; k++) {
        char *name = (char *)(uintptr_t)IMPLEMENTATIONS[k]; /* cmocka's state is not const */
        tests[count++] =
            (struct CMUnitTest){"out_of_memory_on_one_thread", test_out_of_memory_on_one_thread, NULL, NULL, name};
        tests[count++] = (struct CMUnitTest){"out_of_memory_on_three_threads", test_out_of_memory_on_three_threads,
                                             NULL, NULL, name};
        tests[count++] = (struct CMUnitTest){"forward_allocates_what_is_announced",
                                             test_forward_allocates_what_is_announced, NULL, NULL, name};
        tests[count++] = (struct CMUnitTest){"backward_allocates_what_is_announced",
                                             test_backward_allocates_what_is_announced, NULL, NULL, name};
        tests[count++] = (struct CMUnitTest){"workspace_does_not_grow_with_n", test_workspace_does_not_grow_with_n,
                                             NULL, NULL, name};
    }
    return _cmocka_run_group_tests("memory", tests, count, NULL, NULL);
}
