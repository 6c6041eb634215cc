/* Portable C: a vector of one. The loops of attend.inc.h over PANEL_VECS and OUTPUT_VECS are what a compiler turns into
 * the baseline's vector instructions. Included by kernels/simd.h. */

#define TILE_ROWS 4
#define PANEL_VECS 8
#define OUTPUT_VECS 8
#define VEC_SPLITS_AT_FLOOR 0

typedef real vec;
#define VEC_LANES 1
static inline vec vec_load(const real *p) {
    return *p;
}
static inline void vec_store(real *p, vec v) {
    *p = v;
}
static inline vec vec_set1(real x) {
    return x;
}
static inline vec vec_add(vec a, vec b) {
    return a + b;
}
static inline vec vec_sub(vec a, vec b) {
    return a - b;
}
static inline vec vec_mul(vec a, vec b) {
    return a * b;
}
static inline vec vec_mul_or_zero(vec a, vec b) {
    return a == 0 ? 0 : a * b;
}
static inline vec vec_max(vec a, vec b) {
    return a > b ? a : b;
}
static inline vec vec_fma(vec a, vec b, vec c) {
    return a * b + c;
}
static inline real vec_reduce_max(vec v) {
    return v;
}
static inline real vec_reduce_add(vec v) {
    return v;
}
/* Adding and subtracting 1.5 * 2^(mantissa bits) rounds to the nearest integer. */
#if DA_REAL_IS_DOUBLE
#define ROUNDING_CONSTANT 0x1.8p52
#else
#define ROUNDING_CONSTANT 0x1.8p23f
#endif
static inline vec vec_split(vec x, vec *fraction) {
    vec clamped = vec_max((real)REAL_MIN_EXPONENT, x); /* for the constant to round it */
    vec whole = (clamped + ROUNDING_CONSTANT) - ROUNDING_CONSTANT;
    *fraction = clamped - whole;
    return whole;
}
static inline vec vec_scale_or_zero(vec power, vec whole, vec x) {
#if DA_REAL_IS_DOUBLE
    double biased = whole + ROUNDING_CONSTANT;
    uint64_t bits, exponent;
    memcpy(&bits, &power, sizeof bits);
    memcpy(&exponent, &biased, sizeof exponent);
    bits += exponent << 52;
#else
    float biased = whole + ROUNDING_CONSTANT;
    uint32_t bits, exponent;
    memcpy(&bits, &power, sizeof bits);
    memcpy(&exponent, &biased, sizeof exponent);
    bits += exponent << 23;
#endif
    memcpy(&power, &bits, sizeof power);
    power = x < (real)REAL_MIN_EXPONENT ? 0 : power;
    return x != x ? x : power;
}
static inline vec vec_zip_low(vec a, vec b) { /* of one lane: never called, since there is nothing to transpose */
    return a;
}
static inline vec vec_zip_high(vec a, vec b) {
    return b;
}
static inline vec vec_select_range(vec s, const int32_t *p, int32_t first, int32_t last) {
    return *p >= first && *p <= last ? s : (real)-INFINITY;
}
#if !DA_REAL_IS_DOUBLE
static inline vec vec_load_f16(const uint16_t *p) {
    return da_float_from_f16(*p);
}
static inline vec vec_load_bf16(const uint16_t *p) {
    return da_float_from_bf16(*p);
}
static inline void vec_store_f16(uint16_t *p, vec v) {
    *p = da_f16_from_float(v);
}
#endif
