/* Many threads on one context and one attention; the progress callback; messages that belong to a thread. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "support/environment.h"
#include "support/implementations.h"
#include "support/problem_data.h"

enum { CALLERS = 8, N = 200, HEADS = 4, HEAD_DIM = 24 };

static const char *const IMPLEMENTATIONS[] = {"standard", "improved", "ring"};

typedef struct handles {
    da_context *context;
    da_attention *attention;
    bool has_backward;
} handles;

static handles open_handles(const char *name, int threads) {
    handles h;
    da_context_options options;
    da_attention_config config;
    da_context_options_init(&options);
    options.threads = threads;
    assert_int_equal(da_context_create(&options, &h.context), DA_OK);
    assert_int_equal(da_context_threads(h.context), threads);
    da_attention_config_init(&config);
    assert_int_equal(da_attention_config_set_patterns(&config, (int64_t[]){32, 64, 128}, 3, (int64_t[]){1, 2, 4}, 3),
                     DA_OK);
    assert_int_equal(da_attention_create(h.context, name, &config, &h.attention), DA_OK);
    h.has_backward = implementation_has_backward(name);
    return h;
}

static void close_handles(handles *h) {
    da_attention_free(h->attention);
    da_context_free(h->context);
}

/* The forward pass, and the backward one where there is one. */
static da_status both_passes(const handles *h, problem_data *data) {
    da_status status = problem_data_forward(data, h->attention, NULL);
    return status == DA_OK && h->has_backward ? problem_data_backward(data, h->attention, NULL) : status;
}

/* ---- one attention, many callers --------------------------------------------------------------------------------- */

/* What a caller finds is kept for the main thread: cmocka's assertions belong there. */
typedef struct caller {
    const handles *shared;
    problem_data mine;
    const problem_data *serial;
    int wrong_statuses, wrong_results, wrong_messages;
    int number;
} caller;

static void *call_repeatedly(void *argument) {
    caller *c = argument;
    for (int round = 0; round < (is_slow_tool() ? 2 : 6); round++) {
        /* A refused call before each: its message must be this thread's, and must not disturb the next call. */
        char expected[64];
        da_tensor wrong = c->mine.query;
        wrong.shape[1] = -1 - c->number;
        snprintf(expected, sizeof expected, "is %d;", -1 - c->number);
        problem_data_clear(&c->mine);
        da_status refused =
            da_attention_forward(c->shared->attention, &wrong, &c->mine.key, &c->mine.value, &c->mine.out, NULL, NULL);
        da_status status = both_passes(c->shared, &c->mine);
        c->wrong_statuses += refused != DA_ERROR_INVALID_ARGUMENT || status != DA_OK;
        c->wrong_results += !problem_data_equal(&c->mine, c->serial);
        c->wrong_messages += strstr(da_last_error_message(), expected) == NULL;
    }
    return NULL;
}

static void test_shared_by_many_callers(void **state) {
    handles serial = open_handles(*state, 1), shared = open_handles(*state, 3);
    caller callers[CALLERS];
    problem_data expected[CALLERS];
    pthread_t threads[CALLERS];
    for (int c = 0; c < CALLERS; c++) {
        int64_t n = N + 17 * c;
        expected[c] = problem_data_make((unsigned)c, 1, n, HEADS, HEADS, HEAD_DIM);
        callers[c] = (caller){.shared = &shared, .serial = &expected[c], .number = c};
        callers[c].mine = problem_data_make((unsigned)c, 1, n, HEADS, HEADS, HEAD_DIM);
        assert_int_equal(both_passes(&serial, &expected[c]), DA_OK);
    }
    for (int c = 0; c < CALLERS; c++) {
        assert_int_equal(pthread_create(&threads[c], NULL, call_repeatedly, &callers[c]), 0);
    }
    for (int c = 0; c < CALLERS; c++) {
        assert_int_equal(pthread_join(threads[c], NULL), 0);
    }
    for (int c = 0; c < CALLERS; c++) {
        assert_int_equal(callers[c].wrong_statuses, 0);
        assert_int_equal(callers[c].wrong_results, 0);
        assert_int_equal(callers[c].wrong_messages, 0);
        problem_data_free(&callers[c].mine);
        problem_data_free(&expected[c]);
    }
    close_handles(&shared);
    close_handles(&serial);
}

/* ---- progress ---------------------------------------------------------------------------------------------------- */

/* Tokens that take several parts of work. */
static int64_t long_n(void) {
    return is_slow_tool() ? 2500 : 6000;
}

typedef struct progress_log {
    int64_t calls, last, total, stop_after; /* stop_after 0: never */
    bool disorder;
} progress_log;

static bool log_progress(int64_t finished, int64_t total, void *user) {
    progress_log *log = user;
    bool first = log->calls == 0;
    log->disorder |= finished < log->last || finished > total || total < 1 || (!first && total != log->total);
    log->last = finished;
    log->total = total;
    log->calls++;
    return log->stop_after == 0 || log->calls < log->stop_after;
}

typedef da_status (*pass_function)(problem_data *data, const da_attention *attention, const da_call_options *options);

static da_status run_logged(const handles *h, pass_function pass, problem_data *data, progress_log *log) {
    da_call_options options;
    da_call_options_init(&options);
    options.progress = log_progress;
    options.progress_user = log;
    return pass(data, h->attention, &options);
}

static void check_progress(const char *name, pass_function pass) {
    const int64_t lengths[] = {1, 50, 1500, long_n()};
    for (int threads = 1; threads <= 3; threads += 2) {
        handles h = open_handles(name, threads);
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
            problem_data silent = problem_data_make(5, 1, lengths[l], HEADS, 2, 8);
            problem_data logged = problem_data_make(5, 1, lengths[l], HEADS, 2, 8);
            progress_log log = {0};
            assert_int_equal(problem_data_forward(&silent, h.attention, NULL), DA_OK);
            assert_int_equal(problem_data_forward(&logged, h.attention, NULL), DA_OK);
            assert_int_equal(pass(&silent, h.attention, NULL), DA_OK);
            assert_int_equal(run_logged(&h, pass, &logged, &log), DA_OK);
            assert_true(problem_data_equal(&silent, &logged));
            assert_false(log.disorder);
            assert_in_range(log.calls, 1, 1000);
            assert_int_equal(log.last, log.total);
            problem_data_free(&silent);
            problem_data_free(&logged);
        }
        close_handles(&h);
    }
}

static void test_progress_rises_to_its_total(void **state) {
    check_progress(*state, problem_data_forward);
    if (implementation_has_backward(*state)) {
        check_progress(*state, problem_data_backward);
    }
}

/* With one thread there is a report after each part of the work; with more, how many come early is a matter of
 * timing. */
static void check_stopping(const char *name, pass_function pass) {
    problem_data data = problem_data_make(6, 1, long_n(), HEADS, HEADS, 8);
    for (int threads = 1; threads <= 3; threads += 2) {
        handles h = open_handles(name, threads);
        assert_int_equal(problem_data_forward(&data, h.attention, NULL), DA_OK);
        for (int64_t stop_after = 1; stop_after <= (threads == 1 ? 3 : 1); stop_after++) {
            progress_log log = {.stop_after = stop_after};
            assert_int_equal(run_logged(&h, pass, &data, &log), DA_ERROR_CANCELLED);
            assert_non_null(strstr(da_last_error_message(), "progress callback"));
            assert_int_equal(log.calls, stop_after); /* not asked again */
            if (threads == 1) {
                assert_true(log.last < log.total); /* stopped before the end */
            }
        }
        /* The handle is as good as before. */
        progress_log log = {0};
        assert_int_equal(run_logged(&h, pass, &data, &log), DA_OK);
        assert_int_equal(log.last, log.total);
        close_handles(&h);
    }
    problem_data_free(&data);
}

static void test_progress_can_stop_the_call(void **state) {
    check_stopping(*state, problem_data_forward);
    if (implementation_has_backward(*state)) {
        check_stopping(*state, problem_data_backward);
    }
}

int main(void) {
    struct CMUnitTest tests[9];
    size_t count = 0;
    for (size_t k = 0; k < sizeof IMPLEMENTATIONS / sizeof *IMPLEMENTATIONS; k++) {
        char *name = (char *)(uintptr_t)IMPLEMENTATIONS[k]; /* cmocka's state is not const */
        tests[count++] = (struct CMUnitTest){"shared_by_many_callers", test_shared_by_many_callers, NULL, NULL, name};
        tests[count++] =
            (struct CMUnitTest){"progress_rises_to_its_total", test_progress_rises_to_its_total, NULL, NULL, name};
        tests[count++] =
            (struct CMUnitTest){"progress_can_stop_the_call", test_progress_can_stop_the_call, NULL, NULL, name};
    }
    return _cmocka_run_group_tests("threads", tests, count, NULL, NULL);
}
