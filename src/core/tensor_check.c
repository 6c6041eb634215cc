/* Checks of tensor views. Apart from tensor.c, so that a library that builds on this one can hold them too. */
#include <inttypes.h>

#include "core/tensor.h"

static const char *const dimension_names[4] = {"batch", "n", "heads", "head_dim"};

/* Product in *total if it stays within +-limit. */
static bool multiply_within(int64_t a, int64_t b, int64_t limit, int64_t *total) {
    if (a == 0 || b == 0) {
        *total = 0;
        return true;
    }
    uint64_t magnitude = b < 0 ? 0 - (uint64_t)b : (uint64_t)b; /* a is never negative here */
    if ((uint64_t)a > (uint64_t)limit / magnitude) {
        return false;
    }
    *total = a * b;
    return true;
}

/* First and one-past-last element, relative to data; false where an address overflows. */
static bool element_span(const da_tensor *tensor, int64_t *first, int64_t *end) {
    const int64_t limit = INT64_MAX / 64;
    *first = 0;
    *end = 1;
    for (int k = 0; k < 4; k++) {
        int64_t reach;
        if (!multiply_within(tensor->shape[k] - 1, tensor->stride[k], limit, &reach)) {
            return false;
        }
        if (reach < 0) {
            *first += reach;
        } else {
            *end += reach;
        }
    }
    return *first > -limit && *end < limit;
}

da_status da_tensor_check(const da_tensor *tensor, const char *name) {
    if (!tensor) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is NULL; allowed: a tensor", name);
    }
    size_t size = da_dtype_size(tensor->dtype);
    if (size == 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s.dtype is %d; allowed: DA_F32, DA_F64, DA_BF16, DA_F16", name,
                         (int)tensor->dtype);
    }
    if (!tensor->data) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s.data is NULL; allowed: the tensor's memory", name);
    }
    if ((uintptr_t)tensor->data % size != 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s.data is %p; allowed: an address that is a multiple of %zu",
                         name, tensor->data, size);
    }
    int64_t elements = 1, first, end;
    for (int k = 0; k < 4; k++) {
        if (tensor->shape[k] < 1) {
            return da_report(DA_ERROR_INVALID_ARGUMENT, "%s.shape[%d] (%s) is %" PRId64 "; allowed: 1 or more", name, k,
                             dimension_names[k], tensor->shape[k]);
        }
        if (!multiply_within(elements, tensor->shape[k], INT64_MAX / 64, &elements)) {
            return da_report(DA_ERROR_INVALID_ARGUMENT,
                             "%s.shape is (%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                             "); allowed: fewer than 2^57 elements",
                             name, tensor->shape[0], tensor->shape[1], tensor->shape[2], tensor->shape[3]);
        }
    }
    if (!element_span(tensor, &first, &end)) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "%s.stride is (%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64
                         "); allowed: strides whose addresses stay below 2^57 elements",
                         name, tensor->stride[0], tensor->stride[1], tensor->stride[2], tensor->stride[3]);
    }
    return DA_OK;
}

static int64_t magnitude(int64_t value) {
    return value < 0 ? -value : value;
}

da_status da_tensor_check_output(const da_tensor *tensor, const char *name) {
    bool used[4] = {false, false, false, false};
    int64_t span = 0; /* of the dimensions with smaller strides */
    for (int step = 0; step < 4; step++) {
        int smallest = -1;
        for (int k = 0; k < 4; k++) {
            /* A dimension of one element has any stride, INT64_MIN too; da_tensor_check has bounded the others. */
            if (used[k] || tensor->shape[k] == 1) {
                continue;
            }
            if (smallest < 0 || magnitude(tensor->stride[k]) < magnitude(tensor->stride[smallest])) {
                smallest = k;
            }
        }
        if (smallest < 0) {
            break;
        }
        used[smallest] = true;
        int64_t stride = magnitude(tensor->stride[smallest]);
        if (stride <= span) {
            return da_report(DA_ERROR_INVALID_ARGUMENT,
                             "%s.stride[%d] (%s) is %" PRId64 "; allowed: beyond +-%" PRId64
                             ", so that no two elements of an output share memory",
                             name, smallest, dimension_names[smallest], tensor->stride[smallest], span);
        }
        span += stride * (tensor->shape[smallest] - 1);
    }
    return DA_OK;
}

static void byte_span(const da_tensor *tensor, uintptr_t *first, uintptr_t *end) {
    int64_t first_element = 0, end_element = 0, size = (int64_t)da_dtype_size(tensor->dtype);
    element_span(tensor, &first_element, &end_element);
    *first = (uintptr_t)tensor->data + (uintptr_t)(first_element * size);
    *end = (uintptr_t)tensor->data + (uintptr_t)(end_element * size);
}

bool da_tensors_meet(const da_tensor *a, const da_tensor *b) {
    uintptr_t a_first, a_end, b_first, b_end;
    byte_span(a, &a_first, &a_end);
    byte_span(b, &b_first, &b_end);
    return a_first < b_end && b_first < a_end;
}
