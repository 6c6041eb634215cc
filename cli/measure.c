#include "measure.h"

#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "core/memory.h"
#include "generate.h"
#include "progress.h"

static da_status make(da_tensor *tensor, da_dtype dtype, const da_problem *problem, int64_t heads, int64_t head_dim) {
    size_t elements, rows;
    if (!da_multiply_sizes((size_t)problem->batch, (size_t)problem->n, &rows) ||
        !da_multiply_sizes(rows, (size_t)(heads * head_dim), &elements)) {
        return da_report(DA_ERROR_OUT_OF_MEMORY, "the tensors of this problem are larger than any memory");
    }
    void *data = da_allocate(NULL, elements, da_dtype_size(dtype));
    if (data == NULL) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *tensor = da_tensor_make(data, dtype, problem->batch, problem->n, heads, head_dim);
    return DA_OK;
}

da_status workload_create(workload *made, const da_problem *problem, bool backward, int threads) {
    *made = (workload){.problem = *problem, .backward = backward};
    int64_t kv_heads = problem->kv_heads != 0 ? problem->kv_heads : problem->heads;
    struct {
        da_tensor *tensor;
        da_dtype dtype;
        int64_t heads, head_dim;
    } parts[] = {
        {&made->q, problem->dtype, problem->heads, problem->head_dim},
        {&made->k, problem->dtype, kv_heads, problem->head_dim},
        {&made->v, problem->dtype, kv_heads, problem->head_dim},
        {&made->out, problem->dtype, problem->heads, problem->head_dim},
        {&made->lse, DA_F64, problem->heads, 1},
        {&made->grad_out, problem->dtype, problem->heads, problem->head_dim},
        {&made->gradients[0], problem->dtype, problem->heads, problem->head_dim},
        {&made->gradients[1], problem->dtype, kv_heads, problem->head_dim},
        {&made->gradients[2], problem->dtype, kv_heads, problem->head_dim},
    };
    const size_t inputs = 3, of_forward = 5, grad_out = 5;
    for (size_t i = 0; i < (backward ? sizeof(parts) / sizeof(parts[0]) : of_forward); i++) {
        da_status status = make(parts[i].tensor, parts[i].dtype, problem, parts[i].heads, parts[i].head_dim);
        if (status != DA_OK) {
            workload_free(made);
            return status;
        }
        if (i < inputs || i == grad_out) {
            generate_normal(parts[i].tensor, i + 1, threads);
        }
    }
    return DA_OK;
}

void workload_free(workload *made) {
    da_release(NULL, made->q.data);
    da_release(NULL, made->k.data);
    da_release(NULL, made->v.data);
    da_release(NULL, made->out.data);
    da_release(NULL, made->lse.data);
    da_release(NULL, made->grad_out.data);
    for (int i = 0; i < 3; i++) {
        da_release(NULL, made->gradients[i].data);
    }
    *made = (workload){0};
}

static bool on_progress(int64_t finished, int64_t total, void *user) {
    progress_update(user, finished, total);
    return true;
}

static int compare_seconds(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static da_status run_backward(const da_attention *attention, const workload *work) {
    da_backward_tensors tensors;
    da_backward_tensors_init(&tensors);
    tensors.query = &work->q;
    tensors.key = &work->k;
    tensors.value = &work->v;
    tensors.out = &work->out;
    tensors.lse = &work->lse;
    tensors.grad_out = &work->grad_out;
    tensors.grad_query = &work->gradients[0];
    tensors.grad_key = &work->gradients[1];
    tensors.grad_value = &work->gradients[2];
    return da_attention_backward(attention, &tensors, NULL);
}

da_status workload_run(const da_attention *attention, const workload *work, const da_call_options *options) {
    da_status status = da_attention_forward(attention, &work->q, &work->k, &work->v, &work->out, &work->lse, options);
    return status == DA_OK && work->backward ? run_backward(attention, work) : status;
}

da_status measure_passes(const da_attention *attention, workload *work, int repeats, bool show_progress,
                         timing *taken) {
    double seconds[MEASURE_MAX_REPEATS];
    for (int pass = -1; pass < repeats; pass++) {
        char label[96];
        snprintf(label, sizeof(label), "%s %d/%d", da_attention_implementation(attention), pass + 1, repeats);
        progress bar = progress_start(label, show_progress);
        da_call_options options;
        da_call_options_init(&options);
        options.progress = bar.shown ? on_progress : NULL;
        options.progress_user = &bar;
        double start = cli_now();
        da_status status = workload_run(attention, work, &options);
        double stop = cli_now();
        progress_end(&bar);
        if (status != DA_OK) {
            return status;
        }
        if (pass >= 0) {
            seconds[pass] = stop - start;
        }
    }
    qsort(seconds, (size_t)repeats, sizeof(seconds[0]), compare_seconds);
    double middle = repeats % 2 ? seconds[repeats / 2] : (seconds[repeats / 2 - 1] + seconds[repeats / 2]) / 2;
    *taken = (timing){.median = middle, .fastest = seconds[0], .slowest = seconds[repeats - 1]};
    return DA_OK;
}
