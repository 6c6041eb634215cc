#include "support/layouts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "support/values.h"

enum { GUARD = 19 }; /* elements before and after; odd, so that the data is not aligned to more than an element */

const char *layout_name(layout kind) {
    static const char *const names[] = {"dense", "heads first", "gaps", "negative", "broadcast"};
    return names[kind];
}

/* Lays the dimensions out, innermost last in `order`, `gap` elements apart; returns the extent in elements. */
static int64_t set_strides(da_tensor *view, const int order[4], int64_t step, int64_t gap) {
    int64_t next = step;
    for (int level = 3; level >= 0; level--) {
        view->stride[order[level]] = next;
        next = next * view->shape[order[level]] + gap;
    }
    return next;
}

test_tensor test_tensor_make(layout kind, da_dtype dtype, int64_t batch, int64_t n, int64_t heads, int64_t head_dim) {
    static const int orders[LAYOUT_COUNT][4] = {{0, 1, 2, 3}, {0, 2, 1, 3}, {1, 0, 2, 3}, {2, 0, 1, 3}, {0, 1, 2, 3}};
    test_tensor tensor = {.view = {.dtype = dtype, .shape = {batch, n, heads, head_dim}}};
    int64_t extent = set_strides(&tensor.view, orders[kind], kind == LAYOUT_GAPS ? 3 : 1, kind == LAYOUT_GAPS ? 5 : 0);
    int64_t first = GUARD;
    if (kind == LAYOUT_NEGATIVE) {
        for (int d = 0; d < 4; d++) {
            first += tensor.view.stride[d] * (tensor.view.shape[d] - 1);
            tensor.view.stride[d] = -tensor.view.stride[d];
        }
    } else if (kind == LAYOUT_BROADCAST) {
        tensor.view.stride[0] = 0;
    }
    size_t element = da_dtype_size(dtype);
    tensor.bytes = (size_t)(extent + 2 * GUARD) * element;
    tensor.memory = malloc(tensor.bytes);
    if (!tensor.memory) {
        abort();
    }
    memset(tensor.memory, 0xFF, tensor.bytes);
    tensor.view.data = tensor.memory + (size_t)first * element;
    return tensor;
}

void test_tensor_free(test_tensor *tensor) {
    free(tensor->memory);
    memset(tensor, 0, sizeof *tensor);
}

static int64_t offset(const da_tensor *view, int64_t b, int64_t i, int64_t h, int64_t c) {
    return b * view->stride[0] + i * view->stride[1] + h * view->stride[2] + c * view->stride[3];
}

/* Calls visit(view, place in the dense order, offset, user) for each element; stops when it returns false. */
static bool each(const da_tensor *view, bool (*visit)(const da_tensor *, int64_t, int64_t, void *), void *user) {
    int64_t dense = 0;
    for (int64_t b = 0; b < view->shape[0]; b++) {
        for (int64_t i = 0; i < view->shape[1]; i++) {
            for (int64_t h = 0; h < view->shape[2]; h++) {
                for (int64_t c = 0; c < view->shape[3]; c++) {
                    if (!visit(view, dense++, offset(view, b, i, h, c), user)) {
                        return false;
                    }
                }
            }
        }
    }
    return true;
}

typedef struct dense_array {
    const void *data;
    da_dtype dtype;
} dense_array;

static bool copy_element(const da_tensor *view, int64_t dense, int64_t at, void *user) {
    const dense_array *source = user;
    value_store(view->data, view->dtype, at, value_load(source->data, source->dtype, dense));
    return true;
}

void test_tensor_fill(test_tensor *tensor, const void *dense, da_dtype dtype) {
    each(&tensor->view, copy_element, &(dense_array){dense, dtype});
}

double test_tensor_get(const test_tensor *tensor, int64_t b, int64_t i, int64_t h, int64_t c) {
    return value_load(tensor->view.data, tensor->view.dtype, offset(&tensor->view, b, i, h, c));
}

static bool is_written(const da_tensor *view, int64_t dense, int64_t at, void *user) {
    return !isnan(value_load(view->data, view->dtype, at));
}

bool test_tensor_is_written(const test_tensor *tensor) {
    return each(&tensor->view, is_written, NULL);
}

static bool mark_element(const da_tensor *view, int64_t dense, int64_t at, void *user) {
    size_t element = da_dtype_size(view->dtype);
    memset((unsigned char *)view->data + at * (int64_t)element, 0xFF, element);
    return true;
}

bool test_tensor_gaps_untouched(const test_tensor *tensor) {
    /* On a copy, the elements are made 0xFF again; what is not 0xFF then lies outside them. */
    test_tensor copy = *tensor;
    copy.memory = malloc(copy.bytes);
    if (!copy.memory) {
        abort();
    }
    memcpy(copy.memory, tensor->memory, copy.bytes);
    copy.view.data = copy.memory + ((unsigned char *)tensor->view.data - tensor->memory);
    each(&copy.view, mark_element, NULL);
    bool untouched = true;
    for (size_t at = 0; at < copy.bytes && untouched; at++) {
        untouched = copy.memory[at] == 0xFF;
    }
    free(copy.memory);
    return untouched;
}

static bool same_bits(const da_tensor *view, int64_t dense, int64_t at, void *user) {
    const da_tensor *other = user;
    int64_t place[4];
    for (int d = 3; d >= 0; d--) {
        place[d] = dense % view->shape[d];
        dense /= view->shape[d];
    }
    int64_t there = offset(other, place[0], place[1], place[2], place[3]);
    size_t element = da_dtype_size(view->dtype);
    return memcmp((unsigned char *)view->data + at * (int64_t)element,
                  (unsigned char *)other->data + there * (int64_t)element, element) == 0;
}

bool test_tensor_equal(const test_tensor *a, const test_tensor *b) {
    da_tensor other = b->view;
    return each(&a->view, same_bits, &other);
}
