/* In f32 erf and exp are polynomials that the compiler turns into vector code; the C library's would take as long as the
 * products. tests/tolerances.md bounds their error. */
#include "model/activation.h"

#include <math.h>

#include "core/dtype.h"

#define SQRT_HALF 0.70710678118654752440
#define SQRT_TWO_PI_INVERSE 0.39894228040143267794

/* erf by the rational minimax approximation of Eigen's and XLA's vector code: x p(x^2) / q(x^2) on [-4, 4], beyond which
 * the result is 1 in f32. */
static inline float erf_f32(float x) {
    x = x > 4.0F ? 4.0F : x < -4.0F ? -4.0F : x;
    float s = x * x;
    float p = -2.72614225801306e-10F;
    p = p * s + 2.77068142495902e-08F;
    p = p * s + -2.10102402082508e-06F;
    p = p * s + -5.69250639462346e-05F;
    p = p * s + -7.34990630326855e-04F;
    p = p * s + -2.95459980854025e-03F;
    p = p * s + -1.60960333262415e-02F;
    float q = -1.45660718464996e-05F;
    q = q * s + -2.13374055278905e-04F;
    q = q * s + -1.68282697438203e-03F;
    q = q * s + -7.37332916720468e-03F;
    q = q * s + -1.42647390514189e-02F;
    return x * p / q;
}

/* exp for x <= 0: 2^k e^r with |r| <= ln(2) / 2, e^r by its Taylor sum. Below 2^-126 it is 2^-126, or so. */
static inline float exp_f32(float x) {
    const float round = 12582912.0F; /* 1.5 2^23: adding it rounds to an integer */
    x = x < -87.0F ? -87.0F : x;
    float k = (x * 1.44269504F + round) - round;
    float r = (x - k * 0.693359375F) - k * -2.12194440e-4F;
    float e = 1.0F / 5040;
    e = e * r + 1.0F / 720;
    e = e * r + 1.0F / 120;
    e = e * r + 1.0F / 24;
    e = e * r + 1.0F / 6;
    e = e * r + 0.5F;
    e = e * r + 1.0F;
    e = e * r + 1.0F;
    return e * da_float_from_bits((uint32_t)((int32_t)k + 127) << 23);
}

#define REAL float
#define ERF erf_f32
#define EXP exp_f32
#define NAME(name) name##_f32
#include "model/activation.inc.h"
#undef REAL
#undef ERF
#undef EXP
#undef NAME

#define REAL double
#define ERF erf
#define EXP exp
#define NAME(name) name##_f64
#include "model/activation.inc.h"

void da_activation_apply(da_dtype real, da_activation activation, int64_t count, const void *z, void *y) {
    if (real == DA_F64) {
        apply_f64(activation, count, z, y);
    } else {
        apply_f32(activation, count, z, y);
    }
}

void da_activation_apply_with_slope(da_dtype real, da_activation activation, int64_t count, void *z, void *y) {
    if (real == DA_F64) {
        apply_with_slope_f64(activation, count, z, y);
    } else {
        apply_with_slope_f32(activation, count, z, y);
    }
}
