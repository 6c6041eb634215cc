/* AVX-512 (F, BW, DQ, VL). Included by kernels/simd.h. */
#include <immintrin.h>

#ifndef TILE_ROWS /* products of their own may have their own tile */
#define TILE_ROWS 6
#define PANEL_VECS 4
#define OUTPUT_VECS 4
#endif
#define VEC_SPLITS_AT_FLOOR 1

#if DA_REAL_IS_DOUBLE
typedef __m512d vec;
#define VEC_LANES 8
static inline vec vec_load(const real *p) {
    return _mm512_loadu_pd(p);
}
static inline void vec_store(real *p, vec v) {
    _mm512_storeu_pd(p, v);
}
static inline vec vec_set1(real x) {
    return _mm512_set1_pd(x);
}
static inline vec vec_add(vec a, vec b) {
    return _mm512_add_pd(a, b);
}
static inline vec vec_sub(vec a, vec b) {
    return _mm512_sub_pd(a, b);
}
static inline vec vec_mul(vec a, vec b) {
    return _mm512_mul_pd(a, b);
}
static inline vec vec_mul_or_zero(vec a, vec b) {
    return _mm512_maskz_mul_pd(_mm512_cmp_pd_mask(a, _mm512_setzero_pd(), _CMP_NEQ_UQ), a, b);
}
static inline vec vec_max(vec a, vec b) {
    return _mm512_max_pd(a, b);
}
static inline vec vec_fma(vec a, vec b, vec c) {
    return _mm512_fmadd_pd(a, b, c);
}
static inline real vec_reduce_max(vec v) {
    return _mm512_reduce_max_pd(v);
}
static inline real vec_reduce_add(vec v) {
    return _mm512_reduce_add_pd(v);
}
static inline vec vec_split(vec x, vec *fraction) {
    *fraction = _mm512_reduce_pd(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    return x; /* scalef takes the floor itself */
}
static inline vec vec_scale_or_zero(vec power, vec whole, vec x) {
    __mmask8 keep = _mm512_cmp_pd_mask(x, _mm512_set1_pd(REAL_MIN_EXPONENT), _CMP_NLT_UQ);
    return _mm512_maskz_scalef_pd(keep, power, whole);
}
static inline vec vec_zip_low(vec a, vec b) {
    return _mm512_permutex2var_pd(a, _mm512_setr_epi64(0, 8, 1, 9, 2, 10, 3, 11), b);
}
static inline vec vec_zip_high(vec a, vec b) {
    return _mm512_permutex2var_pd(a, _mm512_setr_epi64(4, 12, 5, 13, 6, 14, 7, 15), b);
}
static inline vec vec_select_range(vec s, const int32_t *p, int32_t first, int32_t last) {
    __m256i position = _mm256_loadu_si256((const __m256i *)(const void *)p);
    __mmask8 keep = _mm256_cmpge_epi32_mask(position, _mm256_set1_epi32(first)) &
                    _mm256_cmple_epi32_mask(position, _mm256_set1_epi32(last));
    return _mm512_mask_blend_pd(keep, _mm512_set1_pd(-INFINITY), s);
}
#else
typedef __m512 vec;
#define VEC_LANES 16
static inline vec vec_load(const real *p) {
    return _mm512_loadu_ps(p);
}
static inline void vec_store(real *p, vec v) {
    _mm512_storeu_ps(p, v);
}
static inline vec vec_set1(real x) {
    return _mm512_set1_ps(x);
}
static inline vec vec_add(vec a, vec b) {
    return _mm512_add_ps(a, b);
}
static inline vec vec_sub(vec a, vec b) {
    return _mm512_sub_ps(a, b);
}
static inline vec vec_mul(vec a, vec b) {
    return _mm512_mul_ps(a, b);
}
static inline vec vec_mul_or_zero(vec a, vec b) {
    return _mm512_maskz_mul_ps(_mm512_cmp_ps_mask(a, _mm512_setzero_ps(), _CMP_NEQ_UQ), a, b);
}
static inline vec vec_max(vec a, vec b) {
    return _mm512_max_ps(a, b);
}
static inline vec vec_fma(vec a, vec b, vec c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline real vec_reduce_max(vec v) {
    return _mm512_reduce_max_ps(v);
}
static inline real vec_reduce_add(vec v) {
    return _mm512_reduce_add_ps(v);
}
static inline vec vec_split(vec x, vec *fraction) {
    *fraction = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    return x; /* scalef takes the floor itself */
}
static inline vec vec_scale_or_zero(vec power, vec whole, vec x) {
    __mmask16 keep = _mm512_cmp_ps_mask(x, _mm512_set1_ps(REAL_MIN_EXPONENT), _CMP_NLT_UQ);
    return _mm512_maskz_scalef_ps(keep, power, whole);
}
static inline vec vec_zip_low(vec a, vec b) {
    return _mm512_permutex2var_ps(a, _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23), b);
}
static inline vec vec_zip_high(vec a, vec b) {
    return _mm512_permutex2var_ps(a, _mm512_setr_epi32(8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31),
                                  b);
}
static inline vec vec_select_range(vec s, const int32_t *p, int32_t first, int32_t last) {
    __m512i position = _mm512_loadu_si512(p);
    __mmask16 keep = _mm512_cmpge_epi32_mask(position, _mm512_set1_epi32(first)) &
                     _mm512_cmple_epi32_mask(position, _mm512_set1_epi32(last));
    return _mm512_mask_blend_ps(keep, _mm512_set1_ps(-INFINITY), s);
}
static inline vec vec_load_f16(const uint16_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}
static inline vec vec_load_bf16(const uint16_t *p) {
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)(const void *)p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
}
static inline void vec_store_f16(uint16_t *p, vec v) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
#endif
