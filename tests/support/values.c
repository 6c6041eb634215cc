#include "support/values.h"

#include <math.h>
#include <string.h>

static double load_f16(uint16_t bits) {
    int exponent = bits >> 10 & 31;
    int fraction = bits & 1023;
    double magnitude = exponent == 31  ? (fraction ? (double)NAN : (double)INFINITY)
                       : exponent == 0 ? ldexp(fraction, -24)
                                       : ldexp(fraction + 1024, exponent - 25);
    return bits & 0x8000 ? -magnitude : magnitude;
}

static uint16_t store_f16(double value) {
    uint16_t sign = signbit(value) ? 0x8000 : 0;
    double magnitude = fabs(value);
    if (isnan(value)) {
        return 0x7E00;
    }
    if (isinf(value)) {
        return sign | 0x7C00;
    }
    if (magnitude < ldexp(1, -14)) {
        return (uint16_t)(sign | (int)ldexp(magnitude, 24));
    }
    int exponent;
    double fraction = frexp(magnitude, &exponent);
    return (uint16_t)(sign | (exponent + 14) << 10 | ((int)ldexp(fraction, 11) - 1024));
}

double value_load(const void *array, da_dtype dtype, int64_t index) {
    const unsigned char *at = (const unsigned char *)array + index * (int64_t)da_dtype_size(dtype);
    double wide;
    float single;
    uint32_t bits = 0;
    uint16_t half;
    switch (dtype) {
    case DA_F64: memcpy(&wide, at, sizeof wide); return wide;
    case DA_F32: memcpy(&single, at, sizeof single); return (double)single;
    case DA_BF16:
        memcpy(&half, at, sizeof half);
        bits = (uint32_t)half << 16;
        memcpy(&single, &bits, sizeof single);
        return (double)single;
    default: memcpy(&half, at, sizeof half); return load_f16(half);
    }
}

void value_store(void *array, da_dtype dtype, int64_t index, double value) {
    unsigned char *at = (unsigned char *)array + index * (int64_t)da_dtype_size(dtype);
    float single = (float)value;
    uint32_t bits;
    uint16_t half;
    switch (dtype) {
    case DA_F64: memcpy(at, &value, sizeof value); break;
    case DA_F32: memcpy(at, &single, sizeof single); break;
    case DA_BF16:
        memcpy(&bits, &single, sizeof bits);
        half = (uint16_t)(bits >> 16);
        memcpy(at, &half, sizeof half);
        break;
    default: half = store_f16(value); memcpy(at, &half, sizeof half);
    }
}

double value_roundoff(da_dtype dtype) {
    return dtype == DA_F64    ? ldexp(1, -53)
           : dtype == DA_F32  ? ldexp(1, -24)
           : dtype == DA_BF16 ? ldexp(1, -8)
                              : ldexp(1, -11);
}

double value_tiny(da_dtype dtype) {
    return dtype == DA_F64 ? ldexp(1, -1022) : dtype == DA_F16 ? ldexp(1, -24) : ldexp(1, -126);
}
