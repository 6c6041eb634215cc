/* Included with REAL, SQRT and NAME(x) defined. Sums are kept in LANES parts, which the compiler makes a vector of; the
 * order of summation is the same everywhere. */

static REAL NAME(sum)(const REAL *lanes, REAL rest) {
    for (int l = 0; l < LANES; l++) {
        rest += lanes[l];
    }
    return rest;
}

static REAL NAME(mean)(const REAL *x, int64_t width) {
    REAL lanes[LANES] = {0}, rest = 0;
    int64_t c = 0;
    for (; c + LANES <= width; c += LANES) {
        for (int l = 0; l < LANES; l++) {
            lanes[l] += x[c + l];
        }
    }
    for (; c < width; c++) {
        rest += x[c];
    }
    return NAME(sum)(lanes, rest) / (REAL)width;
}

/* 1 / sqrt(variance + eps) */
static REAL NAME(reciprocal_deviation)(const REAL *x, int64_t width, REAL mean, double eps) {
    REAL lanes[LANES] = {0}, rest = 0;
    int64_t c = 0;
    for (; c + LANES <= width; c += LANES) {
        for (int l = 0; l < LANES; l++) {
            lanes[l] += (x[c + l] - mean) * (x[c + l] - mean);
        }
    }
    for (; c < width; c++) {
        rest += (x[c] - mean) * (x[c] - mean);
    }
    return 1 / SQRT(NAME(sum)(lanes, rest) / (REAL)width + (REAL)eps);
}

static void NAME(forward)(const da_layer_norm *norm, int64_t rows, const REAL *x, int64_t ldx, REAL *y, int64_t ldy) {
    const REAL *weight = norm->weight, *bias = norm->bias;
    for (int64_t r = 0; r < rows; r++, x += ldx, y += ldy) {
        REAL mean = NAME(mean)(x, norm->width);
        REAL scale = NAME(reciprocal_deviation)(x, norm->width, mean, norm->eps);
        for (int64_t c = 0; c < norm->width; c++) {
            y[c] = (x[c] - mean) * scale * weight[c] + bias[c];
        }
    }
}

/* Means of e and of e (x - mean) scale, e = grad_y weight. */
static void NAME(moments)(const REAL *x, const REAL *grad_y, const REAL *weight, int64_t width, REAL mean, REAL scale,
                          REAL *of_e, REAL *of_product) {
    REAL lanes[LANES] = {0}, product_lanes[LANES] = {0}, rest = 0, product_rest = 0;
    int64_t c = 0;
    for (; c + LANES <= width; c += LANES) {
        for (int l = 0; l < LANES; l++) {
            REAL e = grad_y[c + l] * weight[c + l];
            lanes[l] += e;
            product_lanes[l] += e * ((x[c + l] - mean) * scale);
        }
    }
    for (; c < width; c++) {
        REAL e = grad_y[c] * weight[c];
        rest += e;
        product_rest += e * ((x[c] - mean) * scale);
    }
    *of_e = NAME(sum)(lanes, rest) / (REAL)width;
    *of_product = NAME(sum)(product_lanes, product_rest) / (REAL)width;
}

static void NAME(backward)(const da_layer_norm *norm, int64_t rows, const REAL *x, int64_t ldx, const REAL *grad_y,
                           int64_t ldy, REAL *grad_x, int64_t ldg, REAL *grad_weight, REAL *grad_bias) {
    const REAL *weight = norm->weight;
    for (int64_t r = 0; r < rows; r++, x += ldx, grad_y += ldy, grad_x += ldg) {
        REAL mean = NAME(mean)(x, norm->width), of_e, of_product;
        REAL scale = NAME(reciprocal_deviation)(x, norm->width, mean, norm->eps);
        NAME(moments)(x, grad_y, weight, norm->width, mean, scale, &of_e, &of_product);
        for (int64_t c = 0; c < norm->width; c++) {
            REAL standardised = (x[c] - mean) * scale, gradient = grad_y[c];
            grad_weight[c] += gradient * standardised;
            grad_bias[c] += gradient;
            grad_x[c] = scale * (gradient * weight[c] - of_e - standardised * of_product);
        }
    }
}
