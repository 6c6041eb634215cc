/* A row of a tensor, and the same without gaps, as it travels. */
#ifndef DA_ATTENTION_RANKS_PACKED_ROW_H
#define DA_ATTENTION_RANKS_PACKED_ROW_H

#include <string.h>

#include "core/tensor.h"

static inline size_t da_packed_row_bytes(const da_tensor *tensor) {
    return (size_t)tensor->shape[3] * da_dtype_size(tensor->dtype);
}

/* Copies a row into packed memory, or, with `unpack`, back. */
static inline void da_copy_packed_row(const da_tensor *tensor, int64_t batch, int64_t row, int64_t head, char *packed,
                                      bool unpack) {
    char *in_tensor = da_tensor_row(tensor, batch, row, head);
    int64_t runs = tensor->stride[3] == 1 ? 1 : tensor->shape[3]; /* of components without gaps */
    size_t size = da_dtype_size(tensor->dtype), bytes = runs == 1 ? da_packed_row_bytes(tensor) : size;
    for (int64_t run = 0; run < runs; run++) {
        char *gapped = in_tensor + run * tensor->stride[3] * (int64_t)size, *dense = packed + (size_t)run * bytes;
        memcpy(unpack ? gapped : dense, unpack ? dense : gapped, bytes);
    }
}

#endif
