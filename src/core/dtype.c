#include "core/dtype.h"

size_t da_dtype_size(da_dtype dtype) {
    switch (dtype) {
    case DA_F32: return 4;
    case DA_F64: return 8;
    case DA_BF16:
    case DA_F16: return 2;
    case DA_DTYPE_ANY: break;
    }
    return 0;
}

double da_dtype_load(da_dtype dtype, const void *element) {
    float single;
    uint16_t half;
    double value = 0;
    switch (dtype) {
    case DA_F32: memcpy(&single, element, sizeof single); return (double)single;
    case DA_F64: memcpy(&value, element, sizeof value); break;
    case DA_BF16: memcpy(&half, element, sizeof half); return (double)da_float_from_bf16(half);
    case DA_F16: memcpy(&half, element, sizeof half); return (double)da_float_from_f16(half);
    case DA_DTYPE_ANY: break;
    }
    return value;
}

void da_dtype_store(da_dtype dtype, void *element, double value) {
    float single = (float)value;
    uint16_t half;
    switch (dtype) {
    case DA_F32: memcpy(element, &single, sizeof single); break;
    case DA_F64: memcpy(element, &value, sizeof value); break;
    case DA_BF16:
        half = da_bf16_from_float(single);
        memcpy(element, &half, sizeof half);
        break;
    case DA_F16:
        half = da_f16_from_float(single);
        memcpy(element, &half, sizeof half);
        break;
    case DA_DTYPE_ANY: break;
    }
}
