#include "multihead/convert.h"

#include "core/dtype.h"

/* A loop of its own for each pair of types: the compiler turns those with strides 1 into vector code. */

typedef struct span {
    const char *source;
    char *target;
    int64_t source_stride, target_stride, count; /* strides in bytes */
} span;

static double from_f64(const char *at) {
    double value;
    memcpy(&value, at, sizeof value);
    return value;
}

static float from_f32(const char *at) {
    float value;
    memcpy(&value, at, sizeof value);
    return value;
}

static uint16_t bits_at(const char *at) {
    uint16_t bits;
    memcpy(&bits, at, sizeof bits);
    return bits;
}

static float from_bf16(const char *at) {
    return da_float_from_bf16(bits_at(at));
}

static float from_f16(const char *at) {
    return da_float_from_f16(bits_at(at));
}

static void to_f64(char *at, double value) {
    memcpy(at, &value, sizeof value);
}

static void to_f32(char *at, float value) {
    memcpy(at, &value, sizeof value);
}

static void to_bf16(char *at, float value) {
    uint16_t bits = da_bf16_from_float(value);
    memcpy(at, &bits, sizeof bits);
}

static void to_f16(char *at, float value) {
    uint16_t bits = da_f16_from_float(value);
    memcpy(at, &bits, sizeof bits);
}

#define CONVERSION(source_type, target_type, source_size, target_size, real)                                           \
    static void source_type##_to_##target_type(const span *s) {                                                        \
        if (s->source_stride == (source_size) && s->target_stride == (target_size)) {                                  \
            for (int64_t i = 0; i < s->count; i++) {                                                                   \
                to_##target_type(s->target + i * (target_size),                                                        \
                                 (real)from_##source_type(s->source + i * (source_size)));                             \
            }                                                                                                          \
            return;                                                                                                    \
        }                                                                                                              \
        for (int64_t i = 0; i < s->count; i++) {                                                                       \
            to_##target_type(s->target + i * s->target_stride,                                                         \
                             (real)from_##source_type(s->source + i * s->source_stride));                              \
        }                                                                                                              \
    }

#define CONVERSIONS_FROM(source_type, source_size)                                                                     \
    CONVERSION(source_type, f32, source_size, 4, float)                                                                \
    CONVERSION(source_type, f64, source_size, 8, double)                                                               \
    CONVERSION(source_type, bf16, source_size, 2, float)                                                               \
    CONVERSION(source_type, f16, source_size, 2, float)

CONVERSIONS_FROM(f32, 4)
CONVERSIONS_FROM(f64, 8)
CONVERSIONS_FROM(bf16, 2)
CONVERSIONS_FROM(f16, 2)

static void (*const conversions[5][5])(const span *s) = {
    [DA_F32] = {NULL, f32_to_f32, f32_to_f64, f32_to_bf16, f32_to_f16},
    [DA_F64] = {NULL, f64_to_f32, f64_to_f64, f64_to_bf16, f64_to_f16},
    [DA_BF16] = {NULL, bf16_to_f32, bf16_to_f64, bf16_to_bf16, bf16_to_f16},
    [DA_F16] = {NULL, f16_to_f32, f16_to_f64, f16_to_bf16, f16_to_f16},
};

void da_convert(da_dtype source_dtype, const void *source, int64_t source_stride, da_dtype target_dtype, void *target,
                int64_t target_stride, int64_t count) {
    const span s = {source, target, source_stride * (int64_t)da_dtype_size(source_dtype),
                    target_stride * (int64_t)da_dtype_size(target_dtype), count};
    conversions[source_dtype][target_dtype](&s);
}
