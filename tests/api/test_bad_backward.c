/* Backward calls that must be refused before anything is written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "support/refusals.h"

enum { BATCH = 2, N = 6, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 8, ROOM = BATCH * N * HEADS * HEAD_DIM + 64 };

/* The tensors of a call, in the order in which the fields of da_backward_tensors stand. */
enum { QUERY, KEY, VALUE, OUT, LSE, GRAD_OUT, GRAD_LSE, GRAD_QUERY, GRAD_KEY, GRAD_VALUE, TENSORS };

typedef struct call_memory {
    double of[TENSORS][ROOM];
    uint8_t mask[BATCH * N];
    int64_t lengths[BATCH];
} call_memory;

/* A call that would succeed. */
struct fixture {
    call_memory memory;
    da_context *context;
    da_attention *attention;
    da_attention_config config;
    da_tensor t[TENSORS];
    da_backward_tensors given;
    unsigned char longer[sizeof(da_backward_tensors) + 8];
    da_call_options options;
};

static void make_tensors(fixture *f, da_dtype dtype) {
    for (int k = 0; k < TENSORS; k++) {
        bool of_lse = k == LSE || k == GRAD_LSE;
        bool of_key = k == KEY || k == VALUE || k == GRAD_KEY || k == GRAD_VALUE;
        f->t[k] = da_tensor_make(f->memory.of[k], of_lse ? DA_F64 : dtype, BATCH, N, of_key ? KV_HEADS : HEADS,
                                 of_lse ? 1 : HEAD_DIM);
    }
}

static void make_attention(fixture *f) {
    da_attention_free(f->attention);
    assert_int_equal(da_attention_create(f->context, "standard", &f->config, &f->attention), DA_OK);
}

static void set_up(fixture *f) {
    memset(f, 0, sizeof *f);
    assert_int_equal(da_context_create(NULL, &f->context), DA_OK);
    da_attention_config_init(&f->config);
    assert_int_equal(da_attention_config_set_patterns(&f->config, (int64_t[]){2, 6}, 2, (int64_t[]){1, 2}, 2), DA_OK);
    make_attention(f);
    f->memory.lengths[0] = f->memory.lengths[1] = N;
    make_tensors(f, DA_F32);
    da_call_options_init(&f->options);
    da_backward_tensors_init(&f->given);
    f->given.query = &f->t[QUERY];
    f->given.key = &f->t[KEY];
    f->given.value = &f->t[VALUE];
    f->given.out = &f->t[OUT];
    f->given.lse = &f->t[LSE];
    f->given.grad_out = &f->t[GRAD_OUT];
    f->given.grad_lse = &f->t[GRAD_LSE];
    f->given.grad_query = &f->t[GRAD_QUERY];
    f->given.grad_key = &f->t[GRAD_KEY];
    f->given.grad_value = &f->t[GRAD_VALUE];
}

static void tear_down(fixture *f) {
    da_attention_free(f->attention);
    da_context_free(f->context);
}

static da_status backward(fixture *f) {
    return da_attention_backward(f->attention, &f->given, &f->options);
}

static void *beyond(void *data, ptrdiff_t bytes) {
    return (char *)data + bytes;
}

/* Tensor a lies where tensor b does. */
static da_status backward_meeting(fixture *f, int a, int b) {
    f->t[a].data = f->t[b].data;
    return backward(f);
}

static da_status backward_of_dtype(fixture *f, int tensor, da_dtype dtype) {
    f->t[tensor].dtype = dtype;
    return backward(f);
}

static da_status backward_of_extent(fixture *f, int tensor, int dimension, int64_t extent) {
    f->t[tensor].shape[dimension] = extent;
    return backward(f);
}

static da_status backward_of_stride(fixture *f, int tensor, int dimension, int64_t stride) {
    f->t[tensor].stride[dimension] = stride;
    return backward(f);
}

static da_status backward_of_no_data(fixture *f, int tensor) {
    f->t[tensor].data = NULL;
    return backward(f);
}

static da_status backward_f64_with_f32(fixture *f, int tensor) {
    make_tensors(f, DA_F64);
    return backward_of_dtype(f, tensor, DA_F32);
}

static da_status backward_of_other_dtype(fixture *f) {
    f->config.dtype = DA_F64;
    make_attention(f);
    return backward(f);
}

/* A struct of a newer version whose new field is set. */
static da_status backward_with_unknown_field(fixture *f) {
    f->given.size = sizeof f->longer;
    memcpy(f->longer, &f->given, sizeof f->given);
    f->longer[sizeof f->longer - 1] = 1;
    return da_attention_backward(f->attention, (const da_backward_tensors *)(const void *)f->longer, &f->options);
}

static da_status backward_with_lengths(fixture *f, int64_t first) {
    f->memory.lengths[0] = first;
    f->options.key_lengths = f->memory.lengths;
    return backward(f);
}

/* Tensors far apart at addresses that nobody has: too long for dropout, they must not be touched. */
static da_status backward_too_long_for_dropout(fixture *f) {
    for (int k = 0; k < TENSORS; k++) {
        void *nowhere = (void *)(uintptr_t)((uint64_t)(k + 1) << 40);
        f->t[k] = da_tensor_make(nowhere, f->t[k].dtype, 1, ((int64_t)1 << 32) + 1, 1, 1);
    }
    f->config.dropout = 0.5;
    make_attention(f);
    f->options.training = true;
    return backward(f);
}

static da_status forward_too_long_for_dropout(fixture *f) {
    backward_too_long_for_dropout(f);
    return da_attention_forward(f->attention, &f->t[QUERY], &f->t[KEY], &f->t[VALUE], &f->t[OUT], &f->t[LSE],
                                &f->options);
}

static da_status workspace(fixture *f, int64_t heads, int64_t kv_heads) {
    da_problem problem;
    size_t bytes;
    da_problem_init(&problem);
    problem.heads = heads;
    problem.kv_heads = kv_heads;
    return da_attention_backward_workspace(f->attention, &problem, &bytes);
}

#define REFUSED DA_ERROR_INVALID_ARGUMENT

/* clang-format off */
#define ROWS(ROW) \
    ROW(attention_null, da_attention_backward(NULL, &f->given, NULL), REFUSED, "attention is NULL") \
    ROW(tensors_null, da_attention_backward(f->attention, NULL, NULL), REFUSED, "tensors is NULL") \
    ROW(size_zero, (f->given.size = 0, backward(f)), REFUSED, "tensors.size is 0") \
    ROW(size_small, (f->given.size = sizeof(size_t) - 1, backward(f)), REFUSED, "tensors.size is 7") \
    ROW(size_of_older_version, (f->given.size = offsetof(da_backward_tensors, grad_value), backward(f)), REFUSED, \
        "tensors.size is 80") \
    ROW(size_absurd, (f->given.size = SIZE_MAX, backward(f)), REFUSED, "tensors.size") \
    ROW(newer_version, backward_with_unknown_field(f), REFUSED, "tensors") \
    ROW(size_of_options_zero, (f->options.size = 0, backward(f)), REFUSED, "options.size is 0") \
    ROW(query_null, (f->given.query = NULL, backward(f)), REFUSED, "query is NULL") \
    ROW(key_null, (f->given.key = NULL, backward(f)), REFUSED, "key is NULL") \
    ROW(value_null, (f->given.value = NULL, backward(f)), REFUSED, "value is NULL") \
    ROW(out_null, (f->given.out = NULL, backward(f)), REFUSED, "out is NULL") \
    ROW(lse_null, (f->given.lse = NULL, backward(f)), REFUSED, "lse is NULL") \
    ROW(grad_out_null, (f->given.grad_out = NULL, backward(f)), REFUSED, "grad_out is NULL") \
    ROW(query_without_data, backward_of_no_data(f, QUERY), REFUSED, "query.data is NULL") \
    ROW(key_without_data, backward_of_no_data(f, KEY), REFUSED, "key.data is NULL") \
    ROW(value_without_data, backward_of_no_data(f, VALUE), REFUSED, "value.data is NULL") \
    ROW(out_without_data, backward_of_no_data(f, OUT), REFUSED, "out.data is NULL") \
    ROW(lse_without_data, backward_of_no_data(f, LSE), REFUSED, "lse.data is NULL") \
    ROW(grad_out_without_data, backward_of_no_data(f, GRAD_OUT), REFUSED, "grad_out.data is NULL") \
    ROW(grad_lse_without_data, backward_of_no_data(f, GRAD_LSE), REFUSED, "grad_lse.data is NULL") \
    ROW(grad_query_without_data, backward_of_no_data(f, GRAD_QUERY), REFUSED, "grad_query.data is NULL") \
    ROW(grad_key_without_data, backward_of_no_data(f, GRAD_KEY), REFUSED, "grad_key.data is NULL") \
    ROW(grad_value_without_data, backward_of_no_data(f, GRAD_VALUE), REFUSED, "grad_value.data is NULL") \
    ROW(query_dtype_unknown, backward_of_dtype(f, QUERY, (da_dtype)5), REFUSED, "query.dtype is 5") \
    ROW(key_dtype_differs, backward_of_dtype(f, KEY, DA_BF16), REFUSED, "key.dtype is bf16") \
    ROW(value_dtype_differs, backward_of_dtype(f, VALUE, DA_F64), REFUSED, "value.dtype is f64") \
    ROW(out_dtype_differs, backward_of_dtype(f, OUT, DA_F16), REFUSED, "out.dtype is f16") \
    ROW(lse_dtype_bf16, backward_of_dtype(f, LSE, DA_BF16), REFUSED, "lse.dtype is bf16") \
    ROW(lse_f32_of_f64, backward_f64_with_f32(f, LSE), REFUSED, "lse.dtype is f32") \
    ROW(grad_out_dtype_differs, backward_of_dtype(f, GRAD_OUT, DA_F64), REFUSED, "grad_out.dtype is f64") \
    ROW(grad_out_dtype_any, backward_of_dtype(f, GRAD_OUT, DA_DTYPE_ANY), REFUSED, "grad_out.dtype") \
    ROW(grad_lse_dtype_f16, backward_of_dtype(f, GRAD_LSE, DA_F16), REFUSED, "grad_lse.dtype is f16") \
    ROW(grad_lse_f32_of_f64, backward_f64_with_f32(f, GRAD_LSE), REFUSED, "grad_lse.dtype is f32") \
    ROW(grad_query_dtype_differs, backward_of_dtype(f, GRAD_QUERY, DA_F64), REFUSED, "grad_query.dtype is f64") \
    ROW(grad_key_dtype_differs, backward_of_dtype(f, GRAD_KEY, DA_BF16), REFUSED, "grad_key.dtype is bf16") \
    ROW(grad_value_dtype_differs, backward_of_dtype(f, GRAD_VALUE, DA_F16), REFUSED, "grad_value.dtype is f16") \
    ROW(dtype_not_the_configured, backward_of_other_dtype(f), REFUSED, "query.dtype is f32") \
    ROW(n_zero, backward_of_extent(f, QUERY, 1, 0), REFUSED, "query.shape[1] (n) is 0") \
    ROW(head_dim_257, backward_of_extent(f, QUERY, 3, 257), REFUSED, "257") \
    ROW(kv_heads_not_a_divisor, backward_of_extent(f, KEY, 2, 3), REFUSED, "key.shape[2] (heads) is 3") \
    ROW(key_n_differs, backward_of_extent(f, KEY, 1, N - 1), REFUSED, "key.shape") \
    ROW(value_heads_differ, backward_of_extent(f, VALUE, 2, 1), REFUSED, "value.shape") \
    ROW(out_heads_differ, backward_of_extent(f, OUT, 2, KV_HEADS), REFUSED, "out.shape") \
    ROW(lse_last_not_one, backward_of_extent(f, LSE, 3, 2), REFUSED, "lse.shape") \
    ROW(lse_n_differs, backward_of_extent(f, LSE, 1, N - 1), REFUSED, "lse.shape") \
    ROW(grad_out_batch_differs, backward_of_extent(f, GRAD_OUT, 0, 1), REFUSED, "grad_out.shape") \
    ROW(grad_out_head_dim_zero, backward_of_extent(f, GRAD_OUT, 3, 0), REFUSED, "grad_out.shape[3] (head_dim) is 0") \
    ROW(grad_lse_heads_differ, backward_of_extent(f, GRAD_LSE, 2, KV_HEADS), REFUSED, "grad_lse.shape") \
    ROW(grad_query_heads_differ, backward_of_extent(f, GRAD_QUERY, 2, KV_HEADS), REFUSED, "grad_query.shape") \
    ROW(grad_key_has_heads_of_query, backward_of_extent(f, GRAD_KEY, 2, HEADS), REFUSED, "grad_key.shape") \
    ROW(grad_value_n_differs, backward_of_extent(f, GRAD_VALUE, 1, N + 1), REFUSED, "grad_value.shape") \
    ROW(lse_stride_overflows, backward_of_stride(f, LSE, 1, INT64_MAX), REFUSED, "lse.stride") \
    ROW(grad_out_stride_overflows, backward_of_stride(f, GRAD_OUT, 0, INT64_MIN), REFUSED, "grad_out.stride") \
    ROW(grad_query_repeats_n, backward_of_stride(f, GRAD_QUERY, 1, 0), REFUSED, "grad_query.stride[1] (n) is 0") \
    ROW(grad_key_repeats_batch, backward_of_stride(f, GRAD_KEY, 0, 0), REFUSED, "grad_key.stride[0] (batch) is 0") \
    ROW(grad_value_rows_overlap, backward_of_stride(f, GRAD_VALUE, 1, HEAD_DIM), REFUSED, "grad_value.stride") \
    ROW(grad_query_misaligned, (f->t[GRAD_QUERY].data = beyond(f->t[GRAD_QUERY].data, 2), backward(f)), REFUSED, \
        "grad_query.data") \
    ROW(lse_misaligned, (f->t[LSE].data = beyond(f->t[LSE].data, 4), backward(f)), REFUSED, "lse.data") \
    ROW(grad_query_is_query, backward_meeting(f, GRAD_QUERY, QUERY), REFUSED, "meets query's memory") \
    ROW(grad_query_is_key, backward_meeting(f, GRAD_QUERY, KEY), REFUSED, "meets key's memory") \
    ROW(grad_query_is_value, backward_meeting(f, GRAD_QUERY, VALUE), REFUSED, "meets value's memory") \
    ROW(grad_query_is_out, backward_meeting(f, GRAD_QUERY, OUT), REFUSED, "meets out's memory") \
    ROW(grad_query_is_lse, backward_meeting(f, GRAD_QUERY, LSE), REFUSED, "meets lse's memory") \
    ROW(grad_query_is_grad_out, backward_meeting(f, GRAD_QUERY, GRAD_OUT), REFUSED, "meets grad_out's memory") \
    ROW(grad_query_is_grad_lse, backward_meeting(f, GRAD_QUERY, GRAD_LSE), REFUSED, "meets grad_lse's memory") \
    ROW(grad_key_is_query, backward_meeting(f, GRAD_KEY, QUERY), REFUSED, "meets query's memory") \
    ROW(grad_key_is_key, backward_meeting(f, GRAD_KEY, KEY), REFUSED, "meets key's memory") \
    ROW(grad_key_is_value, backward_meeting(f, GRAD_KEY, VALUE), REFUSED, "meets value's memory") \
    ROW(grad_key_is_out, backward_meeting(f, GRAD_KEY, OUT), REFUSED, "meets out's memory") \
    ROW(grad_key_is_lse, backward_meeting(f, GRAD_KEY, LSE), REFUSED, "meets lse's memory") \
    ROW(grad_key_is_grad_out, backward_meeting(f, GRAD_KEY, GRAD_OUT), REFUSED, "meets grad_out's memory") \
    ROW(grad_key_is_grad_lse, backward_meeting(f, GRAD_KEY, GRAD_LSE), REFUSED, "meets grad_lse's memory") \
    ROW(grad_key_is_grad_query, backward_meeting(f, GRAD_KEY, GRAD_QUERY), REFUSED, "meets grad_query's memory") \
    ROW(grad_value_is_query, backward_meeting(f, GRAD_VALUE, QUERY), REFUSED, "meets query's memory") \
    ROW(grad_value_is_key, backward_meeting(f, GRAD_VALUE, KEY), REFUSED, "meets key's memory") \
    ROW(grad_value_is_value, backward_meeting(f, GRAD_VALUE, VALUE), REFUSED, "meets value's memory") \
    ROW(grad_value_is_out, backward_meeting(f, GRAD_VALUE, OUT), REFUSED, "meets out's memory") \
    ROW(grad_value_is_lse, backward_meeting(f, GRAD_VALUE, LSE), REFUSED, "meets lse's memory") \
    ROW(grad_value_is_grad_out, backward_meeting(f, GRAD_VALUE, GRAD_OUT), REFUSED, "meets grad_out's memory") \
    ROW(grad_value_is_grad_lse, backward_meeting(f, GRAD_VALUE, GRAD_LSE), REFUSED, "meets grad_lse's memory") \
    ROW(grad_value_is_grad_query, backward_meeting(f, GRAD_VALUE, GRAD_QUERY), REFUSED, "meets grad_query's memory") \
    ROW(grad_value_is_grad_key, backward_meeting(f, GRAD_VALUE, GRAD_KEY), REFUSED, "meets grad_key's memory") \
    ROW(grad_value_begins_in_grad_key, \
        (f->t[GRAD_VALUE].data = beyond(f->t[GRAD_KEY].data, 64), backward(f)), REFUSED, "meets grad_key's memory") \
    ROW(length_above_n, backward_with_lengths(f, N + 1), REFUSED, "key_lengths[0] is 7") \
    ROW(too_long_for_dropout, backward_too_long_for_dropout(f), REFUSED, "query.shape[1] (n) is 4294967297") \
    ROW(forward_too_long, forward_too_long_for_dropout(f), REFUSED, "query.shape[1] (n) is 4294967297") \
    ROW(workspace_heads_zero, workspace(f, 0, 1), REFUSED, "problem.heads is 0") \
    ROW(workspace_kv_heads_not_a_divisor, workspace(f, 4, 3), REFUSED, "problem.kv_heads is 3")
/* clang-format on */

ROWS(REFUSAL_FUNCTION)

static const refusal rows[] = {ROWS(REFUSAL_ENTRY)};

static void test_row(void **state) {
    static fixture f;
    static call_memory before;
    set_up(&f);
    before = f.memory;
    refusal_check(*state, &f);
    memcpy(before.lengths, f.memory.lengths, sizeof before.lengths);
    assert_memory_equal(&before, &f.memory, sizeof before);
    tear_down(&f);
}

/* The table means nothing if the call that its rows spoil would not succeed. */
static void test_unspoiled_call_succeeds(void **state) {
    static fixture f;
    set_up(&f);
    f.options.key_lengths = f.memory.lengths;
    f.options.key_mask = f.memory.mask;
    f.options.training = true;
    f.config.dropout = 0.5;
    make_attention(&f);
    assert_int_equal(backward(&f), DA_OK);
    f.given.grad_lse = NULL;
    assert_int_equal(da_attention_backward(f.attention, &f.given, NULL), DA_OK);
    tear_down(&f);
}

/* A newer program's fields are no harm where they are not set. */
static void test_struct_of_newer_version(void **state) {
    static fixture f;
    set_up(&f);
    f.given.size = sizeof f.longer;
    memcpy(f.longer, &f.given, sizeof f.given);
    assert_int_equal(da_attention_backward(f.attention, (const da_backward_tensors *)(const void *)f.longer, NULL),
                     DA_OK);
    tear_down(&f);
}

/* Inputs may share memory with one another: only outputs must not. */
static void test_inputs_may_meet(void **state) {
    static fixture f;
    set_up(&f);
    f.t[VALUE].data = f.t[KEY].data;
    f.t[GRAD_OUT].data = f.t[OUT].data;
    f.t[GRAD_LSE].data = f.t[LSE].data;
    assert_int_equal(backward(&f), DA_OK);
    tear_down(&f);
}

static void test_nothing_wanted(void **state) {
    static fixture f;
    set_up(&f);
    static call_memory before;
    before = f.memory;
    f.given.grad_query = f.given.grad_key = f.given.grad_value = NULL;
    assert_int_equal(backward(&f), DA_OK);
    assert_memory_equal(&before, &f.memory, sizeof before);
    tear_down(&f);
}

int main(void) {
    const struct CMUnitTest sound[] = {
        cmocka_unit_test(test_unspoiled_call_succeeds),
        cmocka_unit_test(test_struct_of_newer_version),
        cmocka_unit_test(test_inputs_may_meet),
        cmocka_unit_test(test_nothing_wanted),
    };
    return cmocka_run_group_tests_name("backward: sound calls", sound, NULL, NULL) +
           refusal_run("backward: refused calls", rows, sizeof rows / sizeof *rows, test_row);
}
