/* AVX2 with FMA and F16C. Included by kernels/simd.h. */
#include <immintrin.h>

#define TILE_ROWS 6
#define PANEL_VECS 2
#define OUTPUT_VECS 2
#define VEC_SPLITS_AT_FLOOR 0

#if DA_REAL_IS_DOUBLE
typedef __m256d vec;
#define VEC_LANES 4
static inline vec vec_load(const real *p) {
    return _mm256_loadu_pd(p);
}
static inline void vec_store(real *p, vec v) {
    _mm256_storeu_pd(p, v);
}
static inline vec vec_set1(real x) {
    return _mm256_set1_pd(x);
}
static inline vec vec_add(vec a, vec b) {
    return _mm256_add_pd(a, b);
}
static inline vec vec_sub(vec a, vec b) {
    return _mm256_sub_pd(a, b);
}
static inline vec vec_mul(vec a, vec b) {
    return _mm256_mul_pd(a, b);
}
static inline vec vec_mul_or_zero(vec a, vec b) {
    return _mm256_and_pd(_mm256_mul_pd(a, b), _mm256_cmp_pd(a, _mm256_setzero_pd(), _CMP_NEQ_UQ));
}
static inline vec vec_max(vec a, vec b) {
    return _mm256_max_pd(a, b);
}
static inline vec vec_fma(vec a, vec b, vec c) {
    return _mm256_fmadd_pd(a, b, c);
}
static inline real vec_reduce_max(vec v) {
    __m128d m = _mm_max_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_max_sd(m, _mm_unpackhi_pd(m, m)));
}
static inline real vec_reduce_add(vec v) {
    __m128d s = _mm_add_pd(_mm256_castpd256_pd128(v), _mm256_extractf128_pd(v, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s, _mm_unpackhi_pd(s, s)));
}
static inline vec vec_split(vec x, vec *fraction) {
    vec clamped = vec_max(vec_set1(REAL_MIN_EXPONENT), x); /* for the conversion to integers */
    vec whole = _mm256_round_pd(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    *fraction = vec_sub(clamped, whole);
    return whole;
}
static inline vec vec_scale_or_zero(vec power, vec whole, vec x) {
    /* Adding 1.5 * 2^52 leaves the integer in the low bits; from there it is added to the exponent. */
    __m256i bits = _mm256_castpd_si256(_mm256_add_pd(whole, _mm256_set1_pd(0x1.8p52)));
    __m256i scaled = _mm256_add_epi64(_mm256_castpd_si256(power), _mm256_slli_epi64(bits, 52));
    vec result = _mm256_castsi256_pd(scaled);
    vec keep = _mm256_cmp_pd(x, _mm256_set1_pd(REAL_MIN_EXPONENT), _CMP_NLT_UQ);
    vec is_nan = _mm256_cmp_pd(x, x, _CMP_UNORD_Q);
    return _mm256_blendv_pd(_mm256_and_pd(result, keep), x, is_nan);
}
static inline vec vec_zip_low(vec a, vec b) {
    return _mm256_permute2f128_pd(_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b), 0x20);
}
static inline vec vec_zip_high(vec a, vec b) {
    return _mm256_permute2f128_pd(_mm256_unpacklo_pd(a, b), _mm256_unpackhi_pd(a, b), 0x31);
}
static inline vec vec_select_range(vec s, const int32_t *p, int32_t first, int32_t last) {
    __m128i position = _mm_loadu_si128((const __m128i *)(const void *)p);
    __m128i outside =
        _mm_or_si128(_mm_cmplt_epi32(position, _mm_set1_epi32(first)), _mm_cmpgt_epi32(position, _mm_set1_epi32(last)));
    return _mm256_blendv_pd(s, _mm256_set1_pd(-INFINITY), _mm256_castsi256_pd(_mm256_cvtepi32_epi64(outside)));
}
#else
typedef __m256 vec;
#define VEC_LANES 8
static inline vec vec_load(const real *p) {
    return _mm256_loadu_ps(p);
}
static inline void vec_store(real *p, vec v) {
    _mm256_storeu_ps(p, v);
}
static inline vec vec_set1(real x) {
    return _mm256_set1_ps(x);
}
static inline vec vec_add(vec a, vec b) {
    return _mm256_add_ps(a, b);
}
static inline vec vec_sub(vec a, vec b) {
    return _mm256_sub_ps(a, b);
}
static inline vec vec_mul(vec a, vec b) {
    return _mm256_mul_ps(a, b);
}
static inline vec vec_mul_or_zero(vec a, vec b) {
    return _mm256_and_ps(_mm256_mul_ps(a, b), _mm256_cmp_ps(a, _mm256_setzero_ps(), _CMP_NEQ_UQ));
}
static inline vec vec_max(vec a, vec b) {
    return _mm256_max_ps(a, b);
}
static inline vec vec_fma(vec a, vec b, vec c) {
    return _mm256_fmadd_ps(a, b, c);
}
static inline real vec_reduce_max(vec v) {
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_movehdup_ps(m)));
}
static inline real vec_reduce_add(vec v) {
    __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    s = _mm_add_ps(s, _mm_movehl_ps(s, s));
    return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}
static inline vec vec_split(vec x, vec *fraction) {
    vec clamped = vec_max(vec_set1(REAL_MIN_EXPONENT), x); /* for the conversion to integers */
    vec whole = _mm256_round_ps(clamped, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    *fraction = vec_sub(clamped, whole);
    return whole;
}
static inline vec vec_scale_or_zero(vec power, vec whole, vec x) {
    __m256i shifted = _mm256_slli_epi32(_mm256_cvtps_epi32(whole), 23);
    vec result = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(power), shifted));
    vec keep = _mm256_cmp_ps(x, _mm256_set1_ps(REAL_MIN_EXPONENT), _CMP_NLT_UQ);
    vec is_nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
    return _mm256_blendv_ps(_mm256_and_ps(result, keep), x, is_nan);
}
static inline vec vec_zip_low(vec a, vec b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x20);
}
static inline vec vec_zip_high(vec a, vec b) {
    return _mm256_permute2f128_ps(_mm256_unpacklo_ps(a, b), _mm256_unpackhi_ps(a, b), 0x31);
}
static inline vec vec_select_range(vec s, const int32_t *p, int32_t first, int32_t last) {
    __m256i position = _mm256_loadu_si256((const __m256i *)(const void *)p);
    __m256i outside = _mm256_or_si256(_mm256_cmpgt_epi32(_mm256_set1_epi32(first), position),
                                      _mm256_cmpgt_epi32(position, _mm256_set1_epi32(last)));
    return _mm256_blendv_ps(s, _mm256_set1_ps(-INFINITY), _mm256_castsi256_ps(outside));
}
static inline vec vec_load_f16(const uint16_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)p));
}
static inline vec vec_load_bf16(const uint16_t *p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)(const void *)p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
}
static inline void vec_store_f16(uint16_t *p, vec v) {
    _mm_storeu_si128((__m128i *)(void *)p, _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
}
#endif
