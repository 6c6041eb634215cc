#include "support/problem_data.h"

#include <stdlib.h>
#include <string.h>

static void *checked(void *memory) {
    if (!memory) {
        abort();
    }
    return memory;
}

/* Uniform in [-2, 2). */
static void draw(float *values, int64_t count, unsigned seed) {
    uint32_t state = seed * 2654435761u + 1u;
    for (int64_t k = 0; k < count; k++) {
        state = state * 1664525u + 1013904223u;
        values[k] = (float)(state >> 8) / (float)(1 << 22) - 2.0f;
    }
}

problem_data problem_data_make(unsigned seed, int64_t batch, int64_t n, int64_t heads, int64_t kv_heads,
                               int64_t head_dim) {
    int64_t of_query = batch * n * heads * head_dim, of_key = batch * n * kv_heads * head_dim;
    problem_data data = {
        .inputs = checked(malloc((size_t)(2 * of_query + 2 * of_key) * sizeof(float))),
        .outputs = checked(malloc((size_t)of_query * sizeof(float))),
        .gradients = checked(malloc((size_t)(of_query + 2 * of_key) * sizeof(float))),
        .sums = checked(malloc((size_t)(batch * n * heads) * sizeof(double))),
        .out_bytes = (size_t)of_query * sizeof(float),
        .lse_bytes = (size_t)(batch * n * heads) * sizeof(double),
        .gradient_bytes = (size_t)(of_query + 2 * of_key) * sizeof(float),
    };
    draw(data.inputs, 2 * of_query + 2 * of_key, seed);
    data.query = da_tensor_make(data.inputs, DA_F32, batch, n, heads, head_dim);
    data.key = da_tensor_make(data.inputs + of_query, DA_F32, batch, n, kv_heads, head_dim);
    data.value = da_tensor_make(data.inputs + of_query + of_key, DA_F32, batch, n, kv_heads, head_dim);
    data.out = da_tensor_make(data.outputs, DA_F32, batch, n, heads, head_dim);
    data.lse = da_tensor_make(data.sums, DA_F64, batch, n, heads, 1);
    data.grad_out = da_tensor_make(data.inputs + of_query + 2 * of_key, DA_F32, batch, n, heads, head_dim);
    data.grad_query = da_tensor_make(data.gradients, DA_F32, batch, n, heads, head_dim);
    data.grad_key = da_tensor_make(data.gradients + of_query, DA_F32, batch, n, kv_heads, head_dim);
    data.grad_value = da_tensor_make(data.gradients + of_query + of_key, DA_F32, batch, n, kv_heads, head_dim);
    problem_data_clear(&data);
    return data;
}

void problem_data_free(problem_data *data) {
    free(data->inputs);
    free(data->outputs);
    free(data->gradients);
    free(data->sums);
    memset(data, 0, sizeof *data);
}

void problem_data_clear(problem_data *data) {
    memset(data->outputs, 0xFF, data->out_bytes);
    memset(data->sums, 0xFF, data->lse_bytes);
    memset(data->gradients, 0xFF, data->gradient_bytes);
}

bool problem_data_equal(const problem_data *a, const problem_data *b) {
    return a->out_bytes == b->out_bytes && a->lse_bytes == b->lse_bytes &&
           memcmp(a->outputs, b->outputs, a->out_bytes) == 0 && memcmp(a->sums, b->sums, a->lse_bytes) == 0 &&
           memcmp(a->gradients, b->gradients, a->gradient_bytes) == 0;
}

da_status problem_data_forward(problem_data *data, const da_attention *attention, const da_call_options *options) {
    return da_attention_forward(attention, &data->query, &data->key, &data->value, &data->out, &data->lse, options);
}

da_status problem_data_backward(problem_data *data, const da_attention *attention, const da_call_options *options) {
    da_backward_tensors t;
    da_backward_tensors_init(&t);
    t.query = &data->query;
    t.key = &data->key;
    t.value = &data->value;
    t.out = &data->out;
    t.lse = &data->lse;
    t.grad_out = &data->grad_out;
    t.grad_query = &data->grad_query;
    t.grad_key = &data->grad_key;
    t.grad_value = &data->grad_value;
    return da_attention_backward(attention, &t, options);
}
