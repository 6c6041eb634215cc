#define _POSIX_C_SOURCE 200809L

#include "planner/trial.h"

#include <math.h>
#include <string.h>
#include <time.h>

#include "core/dtype.h"
#include "core/memory.h"

static double read_clock(clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

double da_trial_clock(void) {
    return read_clock(CLOCK_MONOTONIC);
}

double da_trial_thread_clock(void) {
    return read_clock(CLOCK_THREAD_CPUTIME_ID);
}

/* Numbers in [-1, 1): what they are hardly matters, but a softmax of equal scores would never rescale. */
static void fill(char *memory, da_dtype dtype, size_t count) {
    uint32_t state = 1;
    size_t size = da_dtype_size(dtype);
    for (size_t k = 0; k < count; k++) {
        state = state * 1664525u + 1013904223u;
        da_dtype_store(dtype, memory + k * size, (double)(state >> 8) / (double)(1 << 23) - 1);
    }
}

da_status da_trial_create(const da_context *context, const da_problem *problem, da_trial *trial) {
    size_t size = da_dtype_size(problem->dtype), rows, elements, tokens, bytes;
    int64_t heads = problem->heads, kv_heads = problem->kv_heads, d = problem->head_dim, n = problem->n;
    *trial = (da_trial){.context = context};
    if (!da_multiply_sizes((size_t)n, (size_t)(heads + 2 * kv_heads), &rows) ||
        !da_multiply_sizes((size_t)problem->batch * (size_t)heads, (size_t)n, &tokens) ||
        !da_multiply_sizes(rows + tokens, (size_t)d, &elements) || !da_multiply_sizes(elements, size, &bytes) ||
        !da_add_sizes(bytes, tokens * sizeof(double), &bytes)) {
        return da_report(DA_ERROR_OUT_OF_MEMORY, "the tensors of this problem are larger than any memory");
    }
    char *memory = da_allocate(da_context_allocator(context), bytes, 1);
    if (!memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    trial->memory = memory;
    trial->lse = da_tensor_make(memory, DA_F64, problem->batch, n, heads, 1);
    memory += tokens * sizeof(double);
    trial->query = da_tensor_make(memory, problem->dtype, problem->batch, n, heads, d);
    trial->key =
        da_tensor_make(memory + (size_t)(n * heads * d) * size, problem->dtype, problem->batch, n, kv_heads, d);
    trial->value = da_tensor_make(memory + (size_t)(n * (heads + kv_heads) * d) * size, problem->dtype, problem->batch,
                                  n, kv_heads, d);
    trial->query.stride[0] = trial->key.stride[0] = trial->value.stride[0] = 0;
    memory += rows * (size_t)d * size;
    fill(trial->query.data, problem->dtype, rows * (size_t)d);
    trial->out = da_tensor_make(memory, problem->dtype, problem->batch, n, heads, d);
    memset(memory, 0, tokens * (size_t)d * size);
    return DA_OK;
}

void da_trial_free(da_trial *trial) {
    if (trial->context) {
        da_release(da_context_allocator(trial->context), trial->memory);
    }
    *trial = (da_trial){.memory = NULL};
}

da_status da_trial_run(const da_trial *trial, const da_attention_config *config, da_trial_size size, double *seconds) {
    da_tensor tensors[5] = {trial->query, trial->key, trial->value, trial->out, trial->lse};
    da_call_options options;
    da_call_options_init(&options);
    options.key_lengths = size.keys < size.n ? &size.keys : NULL;
    for (int k = 0; k < 5; k++) {
        tensors[k].shape[0] = size.batch;
        tensors[k].shape[1] = size.n;
    }
    const da_forward_call call = {
        .context = trial->context,
        .config = config,
        .query = &tensors[0],
        .key = &tensors[1],
        .value = &tensors[2],
        .out = &tensors[3],
        .lse = &tensors[4],
        .options = &options,
        .scale = config->scale_is_set ? config->scale : 1 / sqrt((double)trial->query.shape[3]),
    };
    double start = da_trial_clock();
    da_status status = trial->implementation->forward(NULL, &call, trial->implementation->user);
    *seconds = da_trial_clock() - start;
    return status;
}
