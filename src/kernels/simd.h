/* The vector operations that attend.inc.h is written in, for one instruction set and one type of sums. Define
 * DA_SIMD_AVX512, DA_SIMD_AVX2 or DA_SIMD_NEON (none: portable C) and DA_REAL_IS_DOUBLE (0 or 1) before including this.
 *
 *   real, vec                      scalar and vector of sums; VEC_LANES reals in a vec
 *   TILE_ROWS, PANEL_VECS          register tile: rows of queries x vectors of keys
 *   OUTPUT_VECS                    vectors of the output that are accumulated in registers at once
 *   vec_load, vec_store, vec_set1, vec_add, vec_sub, vec_mul, vec_max, vec_fma(a, b, c) = a * b + c
 *   vec_mul_or_zero(a, b)          a * b; 0 where a is 0, whatever b is
 *   vec_max(a, b)                  is b where either is NaN, so that vec_max(constant, x) keeps a NaN in x
 *   vec_reduce_max, vec_reduce_add
 *   VEC_SPLITS_AT_FLOOR            whether vec_split leaves a fraction in [0, 1), or in [-1/2, 1/2]
 *   vec_split(x, &fraction)        x as whole and fraction, for x in the normal range of exponents, or NaN; what it makes
 *                                  of smaller x does not matter
 *   vec_scale_or_zero(p, whole, x) p * 2^whole; 0 if x is below the normal range; NaN if x is NaN
 *   vec_exp2(x)                    made of these: 2^x for x <= 0. The polynomial's relative error is 7.5e-8 for f32
 *                                  (degree 5) and 3.1e-18 for f64 (degree 11)
 *   vec_zip_low(a, b)              a[0], b[0], a[1], b[1], ... of the lower halves; vec_zip_high: of the upper ones
 *   vec_transpose(rows)            made of these: rows[i][j] and rows[j][i] change places
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

#if defined(DA_SIMD_AVX512)
#include "kernels/avx512/simd.h"
#elif defined(DA_SIMD_AVX2)
#include "kernels/avx2/simd.h"
#elif defined(DA_SIMD_NEON)
#include "kernels/neon/simd.h"
#else
#include "kernels/portable/simd.h"
#endif

/* Coefficients of 2^f with the smallest largest relative error (Remez) on [0, 1) where the instruction set splits
 * x = floor(x) + f, and else on [-1/2, 1/2], x = round(x) + f. */
#if DA_REAL_IS_DOUBLE && VEC_SPLITS_AT_FLOOR
static const real exp2_coefficients[] = {0x1.0000000000000p+0,  0x1.62e42fefa39f8p-1,  0x1.ebfbdff82bf15p-3,
                                         0x1.c6b08d706958ap-5,  0x1.3b2ab6f6c9580p-7,  0x1.5d87ff5b37bfdp-10,
                                         0x1.4308f8ee00c2dp-13, 0x1.ffcfe816500cbp-17, 0x1.628e03a5e5f0ep-20,
                                         0x1.b86cf476833b0p-24, 0x1.c26b3494ac9f5p-28, 0x1.58d4b3cb57076p-31};
#elif DA_REAL_IS_DOUBLE
static const real exp2_coefficients[] = {0x1.0000000000000p+0,  0x1.62e42fefa39efp-1,  0x1.ebfbdff82c5adp-3,
                                         0x1.c6b08d7049fd1p-5,  0x1.3b2ab6fb9f413p-7,  0x1.5d87fe78cf26dp-10,
                                         0x1.43091310bf6b0p-13, 0x1.ffcbfba7b89b6p-17, 0x1.62bfc3c1c8a7cp-20,
                                         0x1.b526788b3b73dp-24, 0x1.e620fb765be15p-28, 0x1.e7aa0f6005d3cp-32};
#elif VEC_SPLITS_AT_FLOOR
static const real exp2_coefficients[] = {0x1.fffffd7c4d772p-1f, 0x1.62e4f5a917be1p-1f, 0x1.ebd5a8d7a7bf6p-3f,
                                         0x1.c9544661f517fp-5f, 0x1.26900c642ce67p-7f, 0x1.ec320b37883c0p-10f};
#else
static const real exp2_coefficients[] = {0x1.00000133c11c9p+0f, 0x1.62e428c5bbda9p-1f, 0x1.ebf9174f9a813p-3f,
                                         0x1.c6b6e4f878a99p-5f, 0x1.3d0c52cb3e1e3p-7f, 0x1.5c08e581beb77p-10f};
#endif
#define EXP2_DEGREE ((int)(sizeof exp2_coefficients / sizeof *exp2_coefficients) - 1)

/* 2^f by Horner's rule. */
static inline vec vec_exp2_polynomial(vec f) {
    vec p = vec_set1(exp2_coefficients[EXP2_DEGREE]);
    for (int k = EXP2_DEGREE - 1; k >= 0; k--) {
        p = vec_fma(p, f, vec_set1(exp2_coefficients[k]));
    }
    return p;
}

/* A perfect shuffle of all numbers, row by row, moves each bit of (row, lane) one place on; after as many as a lane has
 * bits, row and lane have changed places. */
static inline void vec_transpose(vec rows[VEC_LANES]) {
    for (int reached = 1; reached < VEC_LANES; reached *= 2) {
        vec shuffled[VEC_LANES];
        for (int k = 0; k < VEC_LANES / 2; k++) {
            shuffled[2 * k] = vec_zip_low(rows[k], rows[k + VEC_LANES / 2]);
            shuffled[2 * k + 1] = vec_zip_high(rows[k], rows[k + VEC_LANES / 2]);
        }
        for (int k = 0; k < VEC_LANES; k++) {
            rows[k] = shuffled[k];
        }
    }
}

static inline vec vec_exp2(vec x) {
    vec fraction;
    vec whole = vec_split(x, &fraction);
    return vec_scale_or_zero(vec_exp2_polynomial(fraction), whole, x);
}

#endif
