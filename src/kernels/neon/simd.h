/* NEON (Advanced SIMD) of 64-bit Arm. Included by kernels/simd.h. */
#include <arm_neon.h>

#define TILE_ROWS 6
#define PANEL_VECS 4
#define OUTPUT_VECS 4
#define VEC_SPLITS_AT_FLOOR 0

#if DA_REAL_IS_DOUBLE
typedef float64x2_t vec;
#define VEC_LANES 2
static inline vec vec_load(const real *p) {
    return vld1q_f64(p);
}
static inline void vec_store(real *p, vec v) {
    vst1q_f64(p, v);
}
static inline vec vec_set1(real x) {
    return vdupq_n_f64(x);
}
static inline vec vec_add(vec a, vec b) {
    return vaddq_f64(a, b);
}
static inline vec vec_sub(vec a, vec b) {
    return vsubq_f64(a, b);
}
static inline vec vec_mul(vec a, vec b) {
    return vmulq_f64(a, b);
}
static inline vec vec_mul_or_zero(vec a, vec b) {
    uint64x2_t product = vreinterpretq_u64_f64(vmulq_f64(a, b));
    return vreinterpretq_f64_u64(vbicq_u64(product, vceqq_f64(a, vdupq_n_f64(0))));
}
static inline vec vec_max(vec a, vec b) {
    return vmaxq_f64(a, b);
}
static inline vec vec_fma(vec a, vec b, vec c) {
    return vfmaq_f64(c, a, b);
}
static inline real vec_reduce_max(vec v) {
    return vmaxvq_f64(v);
}
static inline real vec_reduce_add(vec v) {
    return vaddvq_f64(v);
}
static inline vec vec_split(vec x, vec *fraction) {
    vec clamped = vec_max(vec_set1(REAL_MIN_EXPONENT), x); /* for the conversion to integers */
    vec whole = vrndnq_f64(clamped);
    *fraction = vec_sub(clamped, whole);
    return whole;
}
static inline vec vec_scale_or_zero(vec power, vec whole, vec x) {
    int64x2_t shifted = vshlq_n_s64(vcvtq_s64_f64(whole), 52);
    vec scaled = vreinterpretq_f64_s64(vaddq_s64(vreinterpretq_s64_f64(power), shifted));
    uint64x2_t is_below = vcltq_f64(x, vec_set1(REAL_MIN_EXPONENT)), is_number = vceqq_f64(x, x);
    scaled = vbslq_f64(is_below, vec_set1(0), scaled);
    return vbslq_f64(is_number, scaled, x);
}
static inline vec vec_zip_low(vec a, vec b) {
    return vzip1q_f64(a, b);
}
static inline vec vec_zip_high(vec a, vec b) {
    return vzip2q_f64(a, b);
}
static inline vec vec_select_range(vec s, const int32_t *p, int32_t first, int32_t last) {
    int64x2_t position = vmovl_s32(vld1_s32(p));
    uint64x2_t keep = vandq_u64(vcgeq_s64(position, vdupq_n_s64(first)), vcleq_s64(position, vdupq_n_s64(last)));
    return vbslq_f64(keep, s, vec_set1(-INFINITY));
}
#else
typedef float32x4_t vec;
#define VEC_LANES 4
static inline vec vec_load(const real *p) {
    return vld1q_f32(p);
}
static inline void vec_store(real *p, vec v) {
    vst1q_f32(p, v);
}
static inline vec vec_set1(real x) {
    return vdupq_n_f32(x);
}
static inline vec vec_add(vec a, vec b) {
    return vaddq_f32(a, b);
}
static inline vec vec_sub(vec a, vec b) {
    return vsubq_f32(a, b);
}
static inline vec vec_mul(vec a, vec b) {
    return vmulq_f32(a, b);
}
static inline vec vec_mul_or_zero(vec a, vec b) {
    uint32x4_t product = vreinterpretq_u32_f32(vmulq_f32(a, b));
    return vreinterpretq_f32_u32(vbicq_u32(product, vceqq_f32(a, vdupq_n_f32(0))));
}
static inline vec vec_max(vec a, vec b) {
    return vmaxq_f32(a, b);
}
static inline vec vec_fma(vec a, vec b, vec c) {
    return vfmaq_f32(c, a, b);
}
static inline real vec_reduce_max(vec v) {
    return vmaxvq_f32(v);
}
static inline real vec_reduce_add(vec v) {
    return vaddvq_f32(v);
}
static inline vec vec_split(vec x, vec *fraction) {
    vec clamped = vec_max(vec_set1(REAL_MIN_EXPONENT), x); /* for the conversion to integers */
    vec whole = vrndnq_f32(clamped);
    *fraction = vec_sub(clamped, whole);
    return whole;
}
static inline vec vec_scale_or_zero(vec power, vec whole, vec x) {
    int32x4_t shifted = vshlq_n_s32(vcvtq_s32_f32(whole), 23);
    vec scaled = vreinterpretq_f32_s32(vaddq_s32(vreinterpretq_s32_f32(power), shifted));
    uint32x4_t is_below = vcltq_f32(x, vec_set1(REAL_MIN_EXPONENT)), is_number = vceqq_f32(x, x);
    scaled = vbslq_f32(is_below, vec_set1(0), scaled);
    return vbslq_f32(is_number, scaled, x);
}
static inline vec vec_zip_low(vec a, vec b) {
    return vzip1q_f32(a, b);
}
static inline vec vec_zip_high(vec a, vec b) {
    return vzip2q_f32(a, b);
}
static inline vec vec_select_range(vec s, const int32_t *p, int32_t first, int32_t last) {
    int32x4_t position = vld1q_s32(p);
    uint32x4_t keep = vandq_u32(vcgeq_s32(position, vdupq_n_s32(first)), vcleq_s32(position, vdupq_n_s32(last)));
    return vbslq_f32(keep, s, vec_set1(-INFINITY));
}
static inline vec vec_load_f16(const uint16_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)));
}
static inline void vec_store_f16(uint16_t *p, vec v) {
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(v)));
}
static inline vec vec_load_bf16(const uint16_t *p) {
    return vreinterpretq_f32_u32(vshlq_n_u32(vmovl_u16(vld1_u16(p)), 16));
}
#endif
