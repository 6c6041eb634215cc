/* The vector operations that attend.inc.h is written in, for one instruction set and one type of sums. Define
 * DA_SIMD_AVX512 or DA_SIMD_AVX2 (neither: portable C) and DA_REAL_IS_DOUBLE (0 or 1) before including this.
 *
 *   real, vec                      scalar and vector of sums; VEC_LANES reals in a vec
 *   TILE_ROWS, PANEL_VECS          register tile: rows of queries x vectors of keys
 *   OUTPUT_VECS                    vectors of the output that are accumulated in registers at once
 *   vec_load, vec_store, vec_set1, vec_add, vec_sub, vec_mul, vec_max, vec_fma(a, b, c) = a * b + c
 *   vec_max(a, b)                  is b where either is NaN, so that vec_max(constant, x) keeps a NaN in x
 *   vec_reduce_max, vec_reduce_add
 *   vec_exp2(x)                    2^x for x <= 0; 0 below the normal range; NaN for NaN. Relative error below 2 units
 *                                  in the last place (degree 6 polynomial for f32, error 1.9e-9; 11 for f64, 3.1e-18)
 *   vec_select_range(s, p, a, b)   s where a <= p[lane] <= b, else -infinity
 *   vec_load_f16, vec_load_bf16, vec_store_f16   VEC_LANES halves (f32 only) */
#ifndef DA_KERNELS_SIMD_H
#define DA_KERNELS_SIMD_H

#include <math.h>
#include <stdint.h>

#include "core/compiler.h"
#include "core/dtype.h"

#if DA_REAL_IS_DOUBLE
typedef double real;
#define REAL_MIN_EXPONENT (-1022)
#else
typedef float real;
#define REAL_MIN_EXPONENT (-126)
#endif

/* Coefficients of 2^f on [-1/2, 1/2], smallest relative error (Remez). */
#if DA_REAL_IS_DOUBLE
#define EXP2_DEGREE 11
static const real exp2_coefficients[EXP2_DEGREE + 1] = {
    0x1.0000000000000p+0,  0x1.62e42fefa39efp-1,  0x1.ebfbdff82c5adp-3,  0x1.c6b08d7049fd1p-5,
    0x1.3b2ab6fb9f413p-7,  0x1.5d87fe78cf26dp-10, 0x1.43091310bf6b0p-13, 0x1.ffcbfba7b89b6p-17,
    0x1.62bfc3c1c8a7cp-20, 0x1.b526788b3b73dp-24, 0x1.e620fb765be15p-28, 0x1.e7aa0f6005d3cp-32};
#else
#define EXP2_DEGREE 6
static const real exp2_coefficients[EXP2_DEGREE + 1] = {
    0x1.00000002614ffp+0f, 0x1.62e430c7e91afp-1f,  0x1.ebfbdadcb136fp-3f, 0x1.c6aed4b95c606p-5f,
    0x1.3b2dbbc0aa7a3p-7f, 0x1.5f456a867c735p-10f, 0x1.41d333a1fbff9p-13f};
#endif

#if defined(DA_SIMD_AVX512)
#include "kernels/avx512/simd.h"
#elif defined(DA_SIMD_AVX2)
#include "kernels/avx2/simd.h"
#else
#include "kernels/portable/simd.h"
#endif

/* Horner's rule, common to all instruction sets. */
static inline vec vec_exp2_polynomial(vec f) {
    vec p = vec_set1(exp2_coefficients[EXP2_DEGREE]);
    for (int k = EXP2_DEGREE - 1; k >= 0; k--) {
        p = vec_fma(p, f, vec_set1(exp2_coefficients[k]));
    }
    return p;
}

static inline vec vec_exp2(vec x) {
    vec clamped = vec_max(vec_set1((real)REAL_MIN_EXPONENT), x);
    vec whole = vec_round(clamped);
    vec power = vec_exp2_polynomial(vec_sub(clamped, whole));
    return vec_scale_or_zero(power, whole, x);
}

#endif
