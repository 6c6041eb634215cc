#include "compare/gradient_file.h"

#include <string.h>

static size_t row_bytes(const test_case *one) {
    return sizeof(gradient_row) + (size_t)one->head_dim * sizeof(double);
}

static int64_t heads_of(const test_case *one, int gradient) {
    return gradient == GRAD_QUERY ? one->heads : one->kv_heads;
}

case_file gradient_file_open(void) {
    return case_file_open_as("DA_GRADIENT_CASES_FILE", DA_DEFAULT_GRADIENT_CASES_FILE);
}

gradient_case gradient_file_case(const case_file *file, int64_t number) {
    const test_case *one = &file->cases[number];
    const unsigned char *at = (const unsigned char *)(const void *)case_file_row(one, one->row_count);
    int64_t tokens = one->batch * one->n, has_grad_lse;
    gradient_case out = {.forward = one};
    memcpy(&out.dropout, case_file_take(&at, 8), 8);
    memcpy(&out.seed, case_file_take(&at, 8), 8);
    memcpy(&has_grad_lse, case_file_take(&at, 8), 8);
    out.grad_out = case_file_take(&at, tokens * one->heads * one->head_dim * (int64_t)da_dtype_size(one->dtype));
    out.grad_lse = has_grad_lse ? case_file_take(&at, 8 * tokens * one->heads) : NULL;
    for (int g = 0; g < GRADIENTS; g++) {
        out.rows[g] = case_file_take(&at, tokens * heads_of(one, g) * (int64_t)row_bytes(one));
    }
    return out;
}

const gradient_row *gradient_file_row(const gradient_case *one, int gradient, int64_t b, int64_t i, int64_t h) {
    const test_case *c = one->forward;
    int64_t row = (b * c->n + i) * heads_of(c, gradient) + h;
    return (const gradient_row *)(const void *)(one->rows[gradient] + (size_t)row * row_bytes(c));
}
