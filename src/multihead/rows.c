#include "multihead/rows.h"

#include "core/tensor.h"
#include "multihead/convert.h"

static void *row_address(const da_tensor *tensor, int64_t row) {
    int64_t n = tensor->shape[1];
    return da_tensor_row(tensor, row / n, row % n, 0);
}

/* Elements between consecutive rows, where that is one number for all of them. */
static bool uniform_stride(const da_tensor *tensor, int64_t first, int64_t count, int64_t *stride) {
    int64_t n = tensor->shape[1];
    bool one_batch = first / n == (first + count - 1) / n;
    *stride = n > 1 ? tensor->stride[1] : tensor->stride[0];
    return one_batch || n == 1 || tensor->stride[0] == n * tensor->stride[1];
}

bool da_rows_direct(const da_tensor *tensor, int64_t first, int64_t count, da_dtype real, void **data, int64_t *ld) {
    int64_t width = tensor->shape[3], stride;
    if (tensor->dtype != real || (width > 1 && tensor->stride[3] != 1) ||
        !uniform_stride(tensor, first, count, &stride)) {
        return false;
    }
    *ld = count > 1 ? stride : width;
    *data = row_address(tensor, first);
    return *ld >= width && *ld <= DA_PRODUCT_MAX_SIZE;
}

void da_rows_copy(const da_tensor *tensor, int64_t first, int64_t count, da_dtype real, void *target) {
    int64_t width = tensor->shape[3];
    for (int64_t r = 0; r < count; r++) {
        da_convert(tensor->dtype, row_address(tensor, first + r), tensor->stride[3], real,
                   (char *)target + (size_t)(r * width) * da_dtype_size(real), 1, width);
    }
}

da_matrix da_rows_load(const da_tensor *tensor, int64_t first, int64_t count, da_dtype real, void *scratch) {
    int64_t ld;
    void *direct;
    if (da_rows_direct(tensor, first, count, real, &direct, &ld)) {
        return (da_matrix){direct, ld};
    }
    da_rows_copy(tensor, first, count, real, scratch);
    return (da_matrix){scratch, tensor->shape[3]};
}

void da_rows_store(const da_tensor *tensor, int64_t first, int64_t count, da_dtype real, da_matrix source) {
    for (int64_t r = 0; r < count; r++) {
        da_convert(real, (const char *)source.data + (size_t)(r * source.ld) * da_dtype_size(real), 1, tensor->dtype,
                   row_address(tensor, first + r), tensor->stride[3], tensor->shape[3]);
    }
}

bool da_rows_same(const da_tensor *a, const da_tensor *b) {
    bool same = a->data == b->data;
    for (int k = 0; k < 4; k++) {
        same = same && a->stride[k] == b->stride[k];
    }
    return same;
}
