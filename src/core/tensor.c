#include "core/tensor.h"

da_tensor da_tensor_make(void *data, da_dtype dtype, int64_t batch, int64_t n, int64_t heads, int64_t head_dim) {
    /* Strides that overflow are noticed by the shape check of the call, which sees the same shape. */
    uint64_t row = (uint64_t)heads * (uint64_t)head_dim;
    return (da_tensor){
        data, dtype, {batch, n, heads, head_dim}, {(int64_t)(row * (uint64_t)n), (int64_t)row, head_dim, 1}};
}

da_tensor da_tensor_make_heads_first(void *data, da_dtype dtype, int64_t batch, int64_t heads, int64_t n,
                                     int64_t head_dim) {
    uint64_t plane = (uint64_t)n * (uint64_t)head_dim;
    return (da_tensor){
        data, dtype, {batch, n, heads, head_dim}, {(int64_t)(plane * (uint64_t)heads), head_dim, (int64_t)plane, 1}};
}
