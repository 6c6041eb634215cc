/* Reports of progress, and cancelling, while tiles are chosen and while they are computed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "block_sparse/contexts.h"
#include "support/problem_data.h"

enum { BATCH = 2, N = 1500, HEADS = 3, KV_HEADS = 1, HEAD_DIM = 8, BLOCK = 16 };

static const struct way {
    da_sparse_pattern pattern;
    double target;
    int reports; /* while tiles are chosen on one thread, at least */
} ways[] = {
    {DA_SPARSE_CONTENT, 1, 2 * BATCH *HEADS},
    {DA_SPARSE_CONTENT, 0.9, 2 * BATCH *HEADS},
    {DA_SPARSE_LOCAL_WINDOW, 0.9, 2 * BATCH *HEADS},
    {DA_SPARSE_AXIAL, 1, 5},
    {DA_SPARSE_RANDOM, 1, 5},
};

typedef struct run {
    problem_data *data;
    int64_t calls, last, total, stop_after; /* stop_after 0: never */
    int64_t while_choosing;                 /* calls before there was any output */
    bool disorder;
} run;

static bool is_untouched(const void *memory, size_t bytes) {
    const unsigned char *all = memory;
    return all[0] == 0xFF && memcmp(all, all + 1, bytes - 1) == 0;
}

static bool has_no_output(const problem_data *data) {
    return is_untouched(data->outputs, data->out_bytes) && is_untouched(data->sums, data->lse_bytes);
}

static bool log_progress(int64_t finished, int64_t total, void *user) {
    run *r = user;
    r->disorder |= finished < r->last || finished < 0 || finished > total || (r->calls > 0 && total != r->total);
    r->last = finished;
    r->total = total;
    r->calls++;
    r->while_choosing += has_no_output(r->data);
    return r->calls != r->stop_after;
}

typedef struct handles {
    counting_allocator counter;
    da_context *context;
    da_attention *attention;
    problem_data data;
} handles;

static void open_handles(handles *h, const struct way *way, int threads) {
    da_attention_config config;
    *h = (handles){.data = problem_data_make(7, BATCH, N, HEADS, KV_HEADS, HEAD_DIM)};
    h->context = make_context(threads, DA_ISA_AUTO, &h->counter);
    da_attention_config_init(&config);
    assert_int_equal(da_attention_config_set_patterns(&config, (int64_t[]){256, 2048}, 2, (int64_t[]){1, 3}, 2), DA_OK);
    config.block_size = BLOCK;
    config.sparse_pattern = way->pattern;
    config.sparsity_ratio = 0.3;
    config.quality_target = way->target;
    assert_int_equal(da_attention_create(h->context, "block_sparse", &config, &h->attention), DA_OK);
}

static void close_handles(handles *h) {
    da_attention_free(h->attention);
    da_context_free(h->context);
    assert_int_equal(atomic_load(&h->counter.live), 0);
    problem_data_free(&h->data);
}

/* A forward call, stopped at its report number stop_after. */
static run forward(handles *h, int64_t stop_after, da_status expected) {
    run r = {.data = &h->data, .stop_after = stop_after};
    da_call_options options;
    da_call_options_init(&options);
    options.progress = log_progress;
    options.progress_user = &r;
    problem_data_clear(&h->data);
    assert_int_equal(problem_data_forward(&h->data, h->attention, &options), expected);
    assert_false(r.disorder);
    assert_in_range(r.calls, 1, 1000);
    assert_int_equal(r.calls, stop_after > 0 ? stop_after : r.calls); /* not asked again */
    return r;
}

static void test_reports_rise_to_their_total(void **state) {
    for (size_t k = 0; k < sizeof ways / sizeof *ways; k++) {
        for (int threads = 1; threads <= 3; threads += 2) {
            handles h;
            open_handles(&h, &ways[k], threads);
            run r = forward(&h, 0, DA_OK);
            assert_int_equal(r.last, r.total);
            assert_true(r.calls > r.while_choosing);
            assert_true(threads > 1 || r.while_choosing >= ways[k].reports);
            r = forward(&h, 0, DA_OK); /* lists of fixed patterns are at hand now */
            assert_int_equal(r.last, r.total);
            close_handles(&h);
        }
    }
}

/* Wherever the choice is stopped, nothing is computed, nothing is left, and the handle is as good as before. */
static void test_a_choice_can_be_stopped(void **state) {
    for (size_t k = 0; k < sizeof ways / sizeof *ways; k++) {
        handles h, fresh;
        open_handles(&h, &ways[k], 1);
        long live = atomic_load(&h.counter.live);
        for (int64_t stop_after = 1; stop_after <= ways[k].reports; stop_after++) {
            run r = forward(&h, stop_after, DA_ERROR_CANCELLED);
            assert_non_null(strstr(da_last_error_message(), "progress callback"));
            assert_int_equal(r.while_choosing, stop_after);
            assert_true(has_no_output(&h.data));
            assert_int_equal(atomic_load(&h.counter.live), live);
        }
        open_handles(&fresh, &ways[k], 1);
        forward(&h, 0, DA_OK);
        forward(&fresh, 0, DA_OK);
        assert_true(problem_data_equal(&h.data, &fresh.data));
        close_handles(&fresh);
        close_handles(&h);
    }
}

static void test_many_threads_can_be_stopped(void **state) {
    for (size_t k = 0; k < sizeof ways / sizeof *ways; k++) {
        handles h;
        open_handles(&h, &ways[k], 3);
        forward(&h, 1, DA_ERROR_CANCELLED);
        run r = forward(&h, 0, DA_OK);
        assert_int_equal(r.last, r.total);
        close_handles(&h);
    }
}

/* The backward pass chooses again, and tiles can be chosen alone. */
static void test_other_calls(void **state) {
    for (size_t k = 0; k < sizeof ways / sizeof *ways; k++) {
        handles h;
        da_tile_mask *mask = NULL;
        da_call_options options;
        run r = {.data = &h.data}, stopped = {.data = &h.data, .stop_after = 1}, tiles = stopped;
        open_handles(&h, &ways[k], 2);
        forward(&h, 0, DA_OK);
        da_call_options_init(&options);
        options.progress = log_progress;
        options.progress_user = &stopped;
        assert_int_equal(problem_data_backward(&h.data, h.attention, &options), DA_ERROR_CANCELLED);
        options.progress_user = &r;
        assert_int_equal(problem_data_backward(&h.data, h.attention, &options), DA_OK);
        assert_true(!r.disorder && r.last == r.total && r.calls <= 1000);
        options.progress_user = &tiles;
        da_status status = da_attention_tiles(h.attention, &h.data.query, &h.data.key, &options, &mask, NULL);
        bool is_kept = ways[k].target == 1 && ways[k].pattern != DA_SPARSE_CONTENT; /* of the forward pass */
        assert_int_equal(status, is_kept ? DA_OK : DA_ERROR_CANCELLED);
        assert_true((mask != NULL) == is_kept);
        da_tile_mask_free(mask);
        close_handles(&h);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reports_rise_to_their_total),
        cmocka_unit_test(test_a_choice_can_be_stopped),
        cmocka_unit_test(test_many_threads_can_be_stopped),
        cmocka_unit_test(test_other_calls),
    };
    return cmocka_run_group_tests_name("block_sparse_progress", tests, NULL, NULL);
}
