/* Included with REAL, ERF, EXP and NAME(x) defined. */

static void NAME(apply)(da_activation activation, int64_t count, const REAL *z, REAL *y) {
    for (int64_t c = 0; activation == DA_ACTIVATION_GELU && c < count; c++) {
        y[c] = z[c] * ((REAL)0.5 * (1 + ERF(z[c] * (REAL)SQRT_HALF)));
    }
    for (int64_t c = 0; activation == DA_ACTIVATION_RELU && c < count; c++) {
        y[c] = z[c] > 0 ? z[c] : 0;
    }
}

/* The slope of gelu: Phi(z) + z phi(z), Phi and phi the normal distribution and its density. At 0 relu's is 0. */
static void NAME(apply_with_slope)(da_activation activation, int64_t count, REAL *restrict z, REAL *restrict y) {
    for (int64_t c = 0; activation == DA_ACTIVATION_GELU && c < count; c++) {
        REAL x = z[c], below = (REAL)0.5 * (1 + ERF(x * (REAL)SQRT_HALF));
        y[c] = x * below;
        z[c] = below + x * (REAL)SQRT_TWO_PI_INVERSE * EXP((REAL)-0.5 * x * x);
    }
    for (int64_t c = 0; activation == DA_ACTIVATION_RELU && c < count; c++) {
        y[c] = z[c] > 0 ? z[c] : 0;
        z[c] = z[c] > 0 ? 1 : 0;
    }
}
