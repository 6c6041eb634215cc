#include <inttypes.h>

#include "config/validation.h"

void da_problem_init(da_problem *problem) {
    if (!problem) {
        return;
    }
    *problem = (da_problem){.size = sizeof *problem, .batch = 1, .heads = 1, .head_dim = 64, .dtype = DA_F32};
}

static da_status check_range(const char *name, int64_t value, int64_t lowest, int64_t highest) {
    if (value >= lowest && value <= highest) {
        return DA_OK;
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is %" PRId64 "; allowed: %" PRId64 " to %" PRId64, name, value,
                     lowest, highest);
}

da_status da_problem_import(const da_problem *theirs, da_problem *ours) {
    /* Bounds beyond any machine that keep later sums within a double's exact integers. */
    const int64_t longest = (int64_t)1 << 48, most = (int64_t)1 << 24;
    da_problem_init(ours);
    da_status status = da_copy_sized(ours, sizeof *ours, theirs, "problem");
    if (status == DA_OK) {
        status = check_range("problem.batch", ours->batch, 1, most);
    }
    if (status == DA_OK) {
        status = check_range("problem.n", ours->n, 0, longest);
    }
    if (status == DA_OK) {
        status = check_range("problem.heads", ours->heads, 1, most);
    }
    if (status == DA_OK) {
        status = check_range("problem.head_dim", ours->head_dim, 1, DA_MAX_HEAD_DIM);
    }
    if (status == DA_OK && (ours->kv_heads < 0 || (ours->kv_heads > 0 && ours->heads % ours->kv_heads != 0))) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT,
                           "problem.kv_heads is %" PRId64 "; allowed: 0 (as many as heads), or a divisor of heads, "
                           "which is %" PRId64,
                           ours->kv_heads, ours->heads);
    }
    if (status == DA_OK && da_dtype_size(ours->dtype) == 0) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "problem.dtype is %d; allowed: DA_F32, DA_F64, DA_BF16, DA_F16",
                           (int)ours->dtype);
    }
    if (status == DA_OK && ours->kv_heads == 0) {
        ours->kv_heads = ours->heads;
    }
    return status;
}
