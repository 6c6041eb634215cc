/* Forward calls that must be refused before anything is written. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "support/refusals.h"

enum { BATCH = 2, N = 6, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 8, ROOM = 64 };

/* All memory of a call, inputs and outputs: whatever a refused call may have been told to write to. */
typedef struct call_memory {
    double query[BATCH * N * HEADS * HEAD_DIM + ROOM], key[BATCH * N * KV_HEADS * HEAD_DIM + ROOM];
    double value[BATCH * N * KV_HEADS * HEAD_DIM + ROOM], out[BATCH * N * HEADS * HEAD_DIM + ROOM];
    double lse[BATCH * N * HEADS + ROOM];
    uint8_t mask[BATCH * N];
    int64_t lengths[BATCH];
} call_memory;

/* A call that would succeed. */
struct fixture {
    call_memory memory;
    da_context *context;
    da_attention *attention;
    da_attention_config config;
    da_tensor q, k, v, o, l;
    const da_tensor *query, *key, *value, *out, *lse;
    da_call_options options;
    unsigned char longer[sizeof(da_call_options) + 8];
    const da_call_options *given_options;
};

static void make_tensors(fixture *f, da_dtype dtype) {
    call_memory *m = &f->memory;
    f->q = da_tensor_make(m->query, dtype, BATCH, N, HEADS, HEAD_DIM);
    f->k = da_tensor_make(m->key, dtype, BATCH, N, KV_HEADS, HEAD_DIM);
    f->v = da_tensor_make(m->value, dtype, BATCH, N, KV_HEADS, HEAD_DIM);
    f->o = da_tensor_make(m->out, dtype, BATCH, N, HEADS, HEAD_DIM);
    f->l = da_tensor_make(m->lse, DA_F64, BATCH, N, HEADS, 1);
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
    memset(&f->memory, 0, sizeof f->memory);
    f->memory.lengths[0] = f->memory.lengths[1] = N;
    make_tensors(f, DA_F32);
    da_call_options_init(&f->options);
    f->query = &f->q;
    f->key = &f->k;
    f->value = &f->v;
    f->out = &f->o;
    f->lse = &f->l;
    f->given_options = &f->options;
}

static void tear_down(fixture *f) {
    da_attention_free(f->attention);
    da_context_free(f->context);
}

static da_status forward(fixture *f) {
    return da_attention_forward(f->attention, f->query, f->key, f->value, f->out, f->lse, f->given_options);
}

static da_status forward_without_attention(fixture *f) {
    return da_attention_forward(NULL, f->query, f->key, f->value, f->out, f->lse, f->given_options);
}

static void *beyond(void *data, ptrdiff_t bytes) {
    return (char *)data + bytes;
}

/* A query of all one shape, with key, value, out and lse to match. */
static da_status forward_of_shape(fixture *f, int64_t batch, int64_t n, int64_t heads, int64_t head_dim) {
    da_tensor *const tensors[] = {&f->q, &f->k, &f->v, &f->o, &f->l};
    for (int t = 0; t < 5; t++) {
        *tensors[t] = da_tensor_make(tensors[t]->data, tensors[t]->dtype, batch, n, heads, t < 4 ? head_dim : 1);
    }
    return forward(f);
}

static da_status forward_with_lengths(fixture *f, int64_t first, int64_t second) {
    f->memory.lengths[0] = first;
    f->memory.lengths[1] = second;
    f->options.key_lengths = f->memory.lengths;
    return forward(f);
}

static da_status forward_with_mask_strides(fixture *f, int64_t batch, int64_t n) {
    f->options.key_mask = f->memory.mask;
    f->options.key_mask_stride[0] = batch;
    f->options.key_mask_stride[1] = n;
    return forward(f);
}

static da_status forward_of_range(fixture *f, int64_t first, int64_t end) {
    f->options.query_first = first;
    f->options.query_end = end;
    return forward(f);
}

static da_status forward_f64_with_f32_lse(fixture *f) {
    make_tensors(f, DA_F64);
    f->l.dtype = DA_F32;
    return forward(f);
}

static da_status forward_of_other_dtype(fixture *f) {
    f->config.dtype = DA_F64;
    make_attention(f);
    return forward(f);
}

/* Options of a newer version whose new field is set. */
static da_status forward_with_unknown_field(fixture *f) {
    f->options.size = sizeof f->longer;
    memcpy(f->longer, &f->options, sizeof f->options);
    f->longer[sizeof f->longer - 1] = 1;
    f->given_options = (const da_call_options *)(const void *)f->longer;
    return forward(f);
}

static da_status forward_with_kv_heads(fixture *f, int64_t key_heads, int64_t value_heads) {
    f->k = da_tensor_make(f->k.data, DA_F32, BATCH, N, key_heads, HEAD_DIM);
    f->v = da_tensor_make(f->v.data, DA_F32, BATCH, N, value_heads, HEAD_DIM);
    return forward(f);
}

#define REFUSED DA_ERROR_INVALID_ARGUMENT
#define HUGE_EXTENT ((int64_t)1 << 40)

/* clang-format off */
#define ROWS(ROW) \
    ROW(attention_null, forward_without_attention(f), REFUSED, "attention is NULL") \
    ROW(query_null, (f->query = NULL, forward(f)), REFUSED, "query is NULL") \
    ROW(key_null, (f->key = NULL, forward(f)), REFUSED, "key is NULL") \
    ROW(value_null, (f->value = NULL, forward(f)), REFUSED, "value is NULL") \
    ROW(out_null, (f->out = NULL, forward(f)), REFUSED, "out is NULL") \
    ROW(query_data_null, (f->q.data = NULL, forward(f)), REFUSED, "query.data is NULL") \
    ROW(key_data_null, (f->k.data = NULL, forward(f)), REFUSED, "key.data is NULL") \
    ROW(value_data_null, (f->v.data = NULL, forward(f)), REFUSED, "value.data is NULL") \
    ROW(out_data_null, (f->o.data = NULL, forward(f)), REFUSED, "out.data is NULL") \
    ROW(lse_data_null, (f->l.data = NULL, forward(f)), REFUSED, "lse.data is NULL") \
    ROW(query_dtype_any, (f->q.dtype = DA_DTYPE_ANY, forward(f)), REFUSED, "query.dtype") \
    ROW(query_dtype_unknown, (f->q.dtype = (da_dtype)5, forward(f)), REFUSED, "query.dtype is 5") \
    ROW(key_dtype_unknown, (f->k.dtype = (da_dtype)99, forward(f)), REFUSED, "key.dtype is 99") \
    ROW(key_dtype_differs, (f->k.dtype = DA_F64, forward(f)), REFUSED, "key.dtype is f64") \
    ROW(value_dtype_differs, (f->v.dtype = DA_BF16, forward(f)), REFUSED, "value.dtype is bf16") \
    ROW(out_dtype_differs, (f->o.dtype = DA_F16, forward(f)), REFUSED, "out.dtype is f16") \
    ROW(lse_dtype_bf16, (f->l.dtype = DA_BF16, forward(f)), REFUSED, "lse.dtype is bf16") \
    ROW(lse_dtype_f16, (f->l.dtype = DA_F16, forward(f)), REFUSED, "lse.dtype is f16") \
    ROW(lse_dtype_any, (f->l.dtype = DA_DTYPE_ANY, forward(f)), REFUSED, "lse.dtype") \
    ROW(lse_f32_of_f64, forward_f64_with_f32_lse(f), REFUSED, "lse.dtype is f32") \
    ROW(dtype_not_the_configured, forward_of_other_dtype(f), REFUSED, "query.dtype is f32") \
    ROW(batch_zero, (f->q.shape[0] = 0, forward(f)), REFUSED, "query.shape[0] (batch) is 0") \
    ROW(n_zero, (f->q.shape[1] = 0, forward(f)), REFUSED, "query.shape[1] (n) is 0") \
    ROW(heads_zero, (f->q.shape[2] = 0, forward(f)), REFUSED, "query.shape[2] (heads) is 0") \
    ROW(head_dim_zero, (f->q.shape[3] = 0, forward(f)), REFUSED, "query.shape[3] (head_dim) is 0") \
    ROW(n_negative, (f->q.shape[1] = -6, forward(f)), REFUSED, "query.shape[1] (n) is -6") \
    ROW(n_most_negative, (f->q.shape[1] = INT64_MIN, forward(f)), REFUSED, "query.shape[1] (n)") \
    ROW(key_heads_zero, (f->k.shape[2] = 0, forward(f)), REFUSED, "key.shape[2] (heads) is 0") \
    ROW(value_n_negative, (f->v.shape[1] = -1, forward(f)), REFUSED, "value.shape[1] (n) is -1") \
    ROW(out_head_dim_zero, (f->o.shape[3] = 0, forward(f)), REFUSED, "out.shape[3] (head_dim) is 0") \
    ROW(lse_batch_zero, (f->l.shape[0] = 0, forward(f)), REFUSED, "lse.shape[0] (batch) is 0") \
    ROW(head_dim_257, forward_of_shape(f, 1, 1, 1, 257), REFUSED, "257") \
    ROW(kv_heads_not_a_divisor, forward_with_kv_heads(f, 3, 3), REFUSED, "key.shape[2] (heads) is 3") \
    ROW(kv_heads_more_than_heads, forward_with_kv_heads(f, 8, 8), REFUSED, "key.shape[2] (heads) is 8") \
    ROW(value_heads_differ, forward_with_kv_heads(f, 2, 1), REFUSED, "value.shape") \
    ROW(key_batch_differs, (f->k.shape[0] = 1, forward(f)), REFUSED, "key.shape") \
    ROW(key_n_differs, (f->k.shape[1] = N - 1, forward(f)), REFUSED, "key.shape") \
    ROW(key_head_dim_differs, (f->k.shape[3] = HEAD_DIM - 1, forward(f)), REFUSED, "key.shape") \
    ROW(value_n_differs, (f->v.shape[1] = N - 1, forward(f)), REFUSED, "value.shape") \
    ROW(value_head_dim_differs, (f->v.shape[3] = HEAD_DIM - 1, forward(f)), REFUSED, "value.shape") \
    ROW(out_batch_differs, (f->o.shape[0] = 1, forward(f)), REFUSED, "out.shape") \
    ROW(out_n_differs, (f->o.shape[1] = N - 1, forward(f)), REFUSED, "out.shape") \
    ROW(out_heads_differ, (f->o.shape[2] = KV_HEADS, forward(f)), REFUSED, "out.shape") \
    ROW(lse_n_differs, (f->l.shape[1] = N - 1, forward(f)), REFUSED, "lse.shape") \
    ROW(lse_heads_differ, (f->l.shape[2] = KV_HEADS, forward(f)), REFUSED, "lse.shape") \
    ROW(lse_last_not_one, (f->l.shape[3] = 2, forward(f)), REFUSED, "lse.shape") \
    ROW(n_largest, forward_of_shape(f, 1, INT64_MAX, 1, 1), REFUSED, "query.shape") \
    ROW(product_overflows, forward_of_shape(f, 1, HUGE_EXTENT, HUGE_EXTENT, 8), REFUSED, "query.shape") \
    ROW(bytes_overflow, forward_of_shape(f, 2, (int64_t)1 << 57, 1, 64), REFUSED, "query.shape") \
    ROW(query_stride_overflows, (f->q.stride[0] = INT64_MAX, forward(f)), REFUSED, "query.stride") \
    ROW(key_stride_overflows, (f->k.stride[1] = INT64_MIN, forward(f)), REFUSED, "key.stride") \
    ROW(value_stride_overflows, (f->v.stride[3] = INT64_MAX / 4, forward(f)), REFUSED, "value.stride") \
    ROW(out_stride_overflows, (f->o.stride[2] = INT64_MIN, forward(f)), REFUSED, "out.stride") \
    ROW(lse_stride_overflows, (f->l.stride[1] = -INT64_MAX, forward(f)), REFUSED, "lse.stride") \
    ROW(out_is_query, (f->o.data = f->q.data, forward(f)), REFUSED, "query") \
    ROW(out_is_key, (f->o.data = f->k.data, forward(f)), REFUSED, "key") \
    ROW(out_is_value, (f->o.data = f->v.data, forward(f)), REFUSED, "value") \
    ROW(out_begins_in_query, (f->o.data = beyond(f->q.data, 64), forward(f)), REFUSED, "query") \
    ROW(out_ends_in_query, (f->q.data = beyond(f->o.data, 64), forward(f)), REFUSED, "query") \
    ROW(lse_is_query, (f->l.data = f->q.data, forward(f)), REFUSED, "query") \
    ROW(lse_is_key, (f->l.data = f->k.data, forward(f)), REFUSED, "key") \
    ROW(lse_is_value, (f->l.data = f->v.data, forward(f)), REFUSED, "value") \
    ROW(lse_is_out, (f->l.data = f->o.data, forward(f)), REFUSED, "lse") \
    ROW(out_repeats_batch, (f->o.stride[0] = 0, forward(f)), REFUSED, "out.stride[0] (batch) is 0") \
    ROW(out_repeats_n, (f->o.stride[1] = 0, forward(f)), REFUSED, "out.stride[1] (n) is 0") \
    ROW(out_repeats_channels, (f->o.stride[3] = 0, forward(f)), REFUSED, "out.stride[3] (head_dim) is 0") \
    ROW(out_rows_overlap, (f->o.stride[1] = HEAD_DIM, forward(f)), REFUSED, "out.stride") \
    ROW(out_rows_overlap_backwards, (f->o.stride[1] = -HEAD_DIM, forward(f)), REFUSED, "out.stride") \
    ROW(lse_repeats_heads, (f->l.stride[2] = 0, forward(f)), REFUSED, "lse.stride[2] (heads) is 0") \
    ROW(query_misaligned, (f->q.data = beyond(f->q.data, 1), forward(f)), REFUSED, "query.data") \
    ROW(out_misaligned, (f->o.data = beyond(f->o.data, 2), forward(f)), REFUSED, "out.data") \
    ROW(lse_misaligned, (f->l.data = beyond(f->l.data, 4), forward(f)), REFUSED, "lse.data") \
    ROW(length_negative, forward_with_lengths(f, N, -1), REFUSED, "key_lengths[1] is -1") \
    ROW(length_above_n, forward_with_lengths(f, N + 1, 0), REFUSED, "key_lengths[0] is 7") \
    ROW(mask_stride_overflows, forward_with_mask_strides(f, INT64_MAX, 1), REFUSED, "key_mask_stride[0]") \
    ROW(mask_stride_underflows, forward_with_mask_strides(f, N, INT64_MIN), REFUSED, "key_mask_stride[1]") \
    ROW(block_negative, (f->options.block = -1, forward(f)), REFUSED, "options.block is -1") \
    ROW(query_range_empty, forward_of_range(f, 3, 3), REFUSED, "query_first and query_end are 3 and 3") \
    ROW(query_range_backwards, forward_of_range(f, 3, 2), REFUSED, "query_first and query_end are 3 and 2") \
    ROW(query_range_without_end, forward_of_range(f, 3, 0), REFUSED, "query_first and query_end are 3 and 0") \
    ROW(query_range_negative, forward_of_range(f, -1, 2), REFUSED, "query_first and query_end are -1 and 2") \
    ROW(query_range_too_long, forward_of_range(f, 0, N + 1), REFUSED, "which is 6") \
    ROW(query_range_of_standard, forward_of_range(f, 0, N), DA_ERROR_UNSUPPORTED, "does not take query range") \
    ROW(options_size_zero, (f->options.size = 0, forward(f)), REFUSED, "options.size is 0") \
    ROW(options_size_small, (f->options.size = sizeof(size_t), forward(f)), REFUSED, "options.size is 8") \
    ROW(options_size_absurd, (f->options.size = SIZE_MAX, forward(f)), REFUSED, "options.size") \
    ROW(options_of_newer_version, forward_with_unknown_field(f), REFUSED, "options")
/* clang-format on */

ROWS(REFUSAL_FUNCTION)

static const refusal rows[] = {ROWS(REFUSAL_ENTRY)};

static void test_row(void **state) {
    static fixture f;
    static call_memory before;
    set_up(&f);
    before = f.memory;
    const refusal *row = *state;
    refusal_check(row, &f);
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
    assert_int_equal(forward(&f), DA_OK);
    tear_down(&f);
}

/* A dimension of one element is never stepped along: its stride may be anything. */
static void test_stride_of_single_element_is_free(void **state) {
    static fixture f;
    set_up(&f);
    int64_t extremes[] = {0, INT64_MAX, INT64_MIN};
    for (int e = 0; e < 3; e++) {
        make_tensors(&f, DA_F32);
        da_tensor *const tensors[] = {&f.q, &f.k, &f.v, &f.o, &f.l};
        for (int t = 0; t < 5; t++) {
            tensors[t]->shape[0] = 1;
            tensors[t]->stride[0] = extremes[e];
        }
        f.l.stride[3] = extremes[e];
        assert_int_equal(forward(&f), DA_OK);
    }
    tear_down(&f);
}

int main(void) {
    const struct CMUnitTest sound[] = {
        cmocka_unit_test(test_unspoiled_call_succeeds),
        cmocka_unit_test(test_stride_of_single_element_is_free),
    };
    return cmocka_run_group_tests_name("forward: sound calls", sound, NULL, NULL) +
           refusal_run("forward: refused calls", rows, sizeof rows / sizeof *rows, test_row);
}
