#include "attention/workspace.h"

void da_problem_of_tensors(const da_tensor *query, const da_tensor *key, da_problem *problem) {
    const int64_t *shape = query->shape;
    da_problem_init(problem);
    problem->batch = shape[0];
    problem->n = shape[1];
    problem->heads = shape[2];
    problem->kv_heads = key->shape[2];
    problem->head_dim = shape[3];
    problem->dtype = query->dtype;
}

int da_threads_for(const da_context *context, const da_tuning *tuning, int64_t work) {
    int threads = da_context_threads(context);
    if (tuning->threads > 0 && tuning->threads < threads) {
        threads = tuning->threads;
    }
    return (int)(threads < work ? threads : work);
}
