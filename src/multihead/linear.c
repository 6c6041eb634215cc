#include "multihead/linear.h"

#include "core/parallel.h"

void da_add_elements(da_dtype real, void *sum, const void *terms, int64_t count) {
    double *sum64 = sum;
    const double *terms64 = terms;
    float *sum32 = sum;
    const float *terms32 = terms;
    for (int64_t c = 0; real == DA_F64 && c < count; c++) {
        sum64[c] += terms64[c];
    }
    for (int64_t c = 0; real != DA_F64 && c < count; c++) {
        sum32[c] += terms32[c];
    }
}

void da_multiply_elements(da_dtype real, void *product, const void *factors, int64_t count) {
    double *product64 = product;
    const double *factors64 = factors;
    float *product32 = product;
    const float *factors32 = factors;
    for (int64_t c = 0; real == DA_F64 && c < count; c++) {
        product64[c] *= factors64[c];
    }
    for (int64_t c = 0; real != DA_F64 && c < count; c++) {
        product32[c] *= factors32[c];
    }
}

void da_add_bias(da_dtype real, const void *bias, int64_t width, int64_t count, void *rows, int64_t ld) {
    for (int64_t r = 0; bias && r < count; r++) {
        da_add_elements(real, da_elements_on(rows, r * ld, real), bias, width);
    }
}

/* bias[c] += the sum of column c, row after row; nothing where it is NULL. */
static void add_columns(da_dtype real, da_matrix rows, int64_t count, int64_t width, void *bias) {
    for (int64_t r = 0; bias && r < count; r++) {
        da_add_elements(real, bias, da_elements_on(rows.data, r * rows.ld, real), width);
    }
}

void da_linear_feature_gradient(da_dtype real, int64_t first, int64_t count, int64_t rows, int64_t width,
                                da_matrix gradient, da_matrix input, void *weight, void *bias) {
    gradient.data = da_elements_on(gradient.data, first, real);
    da_product(real, DA_PRODUCT_A_TRANSPOSED, count, width, rows, gradient, input, true,
               da_elements_on(weight, first * width, real), width);
    add_columns(real, gradient, rows, count, bias ? da_elements_on(bias, first, real) : NULL);
}

typedef struct gradient_work {
    da_dtype real;
    int64_t features, rows, width;
    da_matrix gradient, input;
    void *weight, *bias;
} gradient_work;

static void feature_block(int64_t block, int thread, void *user) {
    const gradient_work *w = user;
    int64_t first = block * DA_FEATURE_BLOCK, rest = w->features - first;
    da_linear_feature_gradient(w->real, first, rest < DA_FEATURE_BLOCK ? rest : DA_FEATURE_BLOCK, w->rows, w->width,
                               w->gradient, w->input, w->weight, w->bias);
}

void da_linear_gradient(da_dtype real, int threads, int64_t features, int64_t rows, int64_t width, da_matrix gradient,
                        da_matrix input, void *weight, void *bias) {
    gradient_work work = {real, features, rows, width, gradient, input, weight, bias};
    da_parallel_for(threads, da_feature_blocks(features), feature_block, &work);
}
