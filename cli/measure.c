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

da_status workload_create(workload *made, const da_problem *problem, int threads) {
    *made = (workload){.problem = *problem};
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
    };
    for (size_t i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        da_status status = make(parts[i].tensor, parts[i].dtype, problem, parts[i].heads, parts[i].head_dim);
        if (status != DA_OK) {
            workload_free(made);
            return status;
        }
        if (i < 3) {
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

da_status measure_forward(const da_attention *attention, workload *work, int repeats, bool show_progress,
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
        da_status status =
            da_attention_forward(attention, &work->q, &work->k, &work->v, &work->out, &work->lse, &options);
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
