/* Tensor views: addresses, extents, and whether two of them may share memory. */
#ifndef DA_CORE_TENSOR_H
#define DA_CORE_TENSOR_H

#include "dilated_attention.h"

/* Address of element (batch, i, head, 0). */
static inline void *da_tensor_row(const da_tensor *tensor, int64_t batch, int64_t i, int64_t head) {
    int64_t offset = batch * tensor->stride[0] + i * tensor->stride[1] + head * tensor->stride[2];
    return (char *)tensor->data + offset * (int64_t)da_dtype_size(tensor->dtype);
}

/* Checks data, data type, that every extent is >= 1 and that no address overflows. `name` is used in the message. */
da_status da_tensor_check(const da_tensor *tensor, const char *name);

/* Checks that no two elements of an output can share memory: in order of stride, each dimension steps beyond all that
 * the smaller ones span. */
da_status da_tensor_check_output(const da_tensor *tensor, const char *name);

/* True if the memory spanned by a and by b has a byte in common. */
bool da_tensors_meet(const da_tensor *a, const da_tensor *b);

#endif
