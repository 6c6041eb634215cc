/* Included with REAL, SQRT and NAME(x) defined. */

static double NAME(squares)(int64_t count, const REAL *gradient) {
    double sum = 0;
    for (int64_t c = 0; c < count; c++) {
        sum += (double)gradient[c] * (double)gradient[c];
    }
    return sum;
}

static void NAME(update)(const coefficients *with, int64_t count, const REAL *gradient, REAL *data, REAL *first,
                         REAL *second) {
    const REAL beta1 = (REAL)with->beta1, beta2 = (REAL)with->beta2, clip = (REAL)with->clip, eps = (REAL)with->eps;
    const REAL keep = (REAL)(1 - with->rate * with->decay), rate = (REAL)(with->rate / with->correction1);
    const REAL other1 = (REAL)(1 - with->beta1), other2 = (REAL)(1 - with->beta2);
    const REAL inverse2 = (REAL)(1 / with->correction2);
    for (int64_t c = 0; c < count; c++) {
        REAL g = clip * gradient[c];
        first[c] = beta1 * first[c] + other1 * g;
        second[c] = beta2 * second[c] + other2 * g * g;
        data[c] = keep * data[c] - rate * first[c] / (SQRT(second[c] * inverse2) + eps);
    }
}
