/* Data types: sizes, and exact conversion between the half types and f32. */
#ifndef DA_CORE_DTYPE_H
#define DA_CORE_DTYPE_H

#include <string.h>

#include "dilated_attention.h"

static inline float da_float_from_bits(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t da_bits_from_float(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float da_float_from_bf16(uint16_t half) {
    return da_float_from_bits((uint32_t)half << 16);
}

/* Round to nearest, ties to even; NaN stays NaN. */
static inline uint16_t da_bf16_from_float(float value) {
    uint32_t bits = da_bits_from_float(value); /* no branch, so that loops over it become vectors */
    uint32_t rounded = (bits + 0x7fffu + (bits >> 16 & 1u)) >> 16, quiet_nan = bits >> 16 | 0x40u;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

static inline float da_float_from_f16(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t rest = half & 0x7fffu;
    if (rest >= 0x7c00u) { /* infinity and NaN */
        return da_float_from_bits(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
    }
    if (rest >= 0x400u) {
        return da_float_from_bits(sign | ((rest << 13) + 0x38000000u));
    }
    float magnitude = (float)rest * 0x1p-24f; /* zero and subnormal */
    return sign ? -magnitude : magnitude;
}

/* Round to nearest, ties to even; beyond 65504 by half a unit or more becomes infinity. */
static inline uint16_t da_f16_from_float(float value) {
    uint32_t bits = da_bits_from_float(value);
    uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t rest = bits & 0x7fffffffu;
    if (rest > 0x7f800000u) {
        return (uint16_t)(sign | 0x7e00u);
    }
    if (rest >= 0x477ff000u) {
        return (uint16_t)(sign | 0x7c00u);
    }
    if (rest < 0x38800000u) { /* subnormal result: the addition rounds at the place of 2^-24 */
        uint32_t shifted = da_bits_from_float(da_float_from_bits(rest) + 0.5f);
        return (uint16_t)(sign | (shifted - 0x3f000000u));
    }
    return (uint16_t)(sign | ((rest + 0xfffu + (rest >> 13 & 1u) - 0x38000000u) >> 13));
}

/* One element as double, and back (rounded once from double for f32 and f64, through f32 for the half types). */
double da_dtype_load(da_dtype dtype, const void *element);
void da_dtype_store(da_dtype dtype, void *element, double value);

#endif
