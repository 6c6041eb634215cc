/* The module's parts, each by itself: products, conversion, rows, layer norm, rotary encoding. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "multihead/convert.h"
#include "multihead/layer_norm.h"
#include "multihead/product_onednn.h"
#include "multihead/rotary.h"
#include "multihead/rows.h"
#include "support/layouts.h"
#include "support/values.h"

/* Numbers in -1..1, the same on every run; all are multiples of 2^-10, so that every type but bf16 holds them. */
static double draw(uint32_t *seed) {
    *seed = *seed * 1664525u + 1013904223u;
    return (double)(int32_t)(*seed >> 21) / 1024 - 1;
}

static void fill(double *values, int64_t count, uint32_t seed) {
    for (int64_t k = 0; k < count; k++) {
        values[k] = draw(&seed);
    }
}

static void to_f32(const double *values, float *out, int64_t count) {
    for (int64_t k = 0; k < count; k++) {
        out[k] = (float)values[k];
    }
}

static double largest_difference(const double *a, const double *b, int64_t count) {
    double largest = 0;
    for (int64_t k = 0; k < count; k++) {
        double difference = fabs(a[k] - b[k]);
        largest = difference <= largest ? largest : difference; /* NaN counts */
    }
    return largest;
}

/* ---- products ---------------------------------------------------------------------------------------------------- */

enum { SPACE = 8192 };

typedef struct operands {
    double a[SPACE], b[SPACE], c[SPACE];
    float a32[SPACE], b32[SPACE], c32[SPACE];
} operands;

static double exact_element(const operands *o, da_product_form form, const int64_t size[3], int64_t lda, int64_t ldb,
                            int64_t i, int64_t j) {
    double sum = 0;
    for (int64_t k = 0; k < size[2]; k++) {
        double a = form == DA_PRODUCT_A_TRANSPOSED ? o->a[k * lda + i] : o->a[i * lda + k];
        double b = form == DA_PRODUCT_B_TRANSPOSED ? o->b[j * ldb + k] : o->b[k * ldb + j];
        sum += a * b;
    }
    return sum;
}

/* All numbers are multiples of 2^-10 below 1, their products of 2^-20: sums of up to 16 are exact in f32, too. */
static void check_product(operands *o, da_product_form form, const int64_t size[3], int64_t gap, bool accumulate) {
    int64_t m = size[0], n = size[1], k = size[2], ldc = n + gap;
    int64_t lda = (form == DA_PRODUCT_A_TRANSPOSED ? m : k) + gap,
            ldb = (form == DA_PRODUCT_B_TRANSPOSED ? k : n) + gap;
    for (int64_t e = 0; e < SPACE; e++) {
        o->c[e] = accumulate ? 1 : (double)NAN; /* what must not be read */
        o->c32[e] = (float)o->c[e];
    }
    da_product(DA_F64, form, m, n, k, (da_matrix){o->a, lda}, (da_matrix){o->b, ldb}, accumulate, o->c, ldc);
    da_product(DA_F32, form, m, n, k, (da_matrix){o->a32, lda}, (da_matrix){o->b32, ldb}, accumulate, o->c32, ldc);
    for (int64_t e = 0; e < m * ldc; e++) {
        int64_t i = e / ldc, j = e % ldc;
        if (j >= n) { /* the gap */
            assert_true(accumulate ? o->c[e] == 1 && o->c32[e] == 1 : isnan(o->c[e]) && isnan(o->c32[e]));
            continue;
        }
        double exact = exact_element(o, form, size, lda, ldb, i, j) + (accumulate ? 1 : 0);
        assert_true(fabs(o->c[e] - exact) <= 1e-13);
        assert_true(fabs((double)o->c32[e] - exact) <= 1e-5);
    }
}

static void test_products(void **state) {
    static const int64_t sizes[][3] = {{1, 1, 1}, {3, 5, 7}, {17, 4, 33}, {40, 41, 8}, {2, 60, 60}};
    operands *o = malloc(sizeof *o);
    assert_non_null(o);
    fill(o->a, SPACE, 1);
    fill(o->b, SPACE, 2);
    to_f32(o->a, o->a32, SPACE);
    to_f32(o->b, o->b32, SPACE);
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        for (int variant = 0; variant < 12; variant++) {
            check_product(o, (da_product_form)(variant % 3), sizes[s], variant / 3 % 2 * 5, variant / 6 != 0);
        }
    }
    free(o);
}

/* Of bf16 operands with gaps; products and sums of these numbers are exact in f32. */
static void test_products_of_bf16(void **state) {
    enum { M = 37, K = 29, GAP = 3 };
    if (!da_onednn_takes_bf16()) {
        skip(); /* no oneDNN in this build, or no such instructions in this CPU */
    }
    for (int64_t n = 1; n < 80; n += 13) {
        double a[M * (K + GAP)], b[80 * (K + GAP)];
        uint16_t a16[M * (K + GAP)], b16[80 * (K + GAP)];
        float c[M * (80 + GAP)];
        fill(a, M * (K + GAP), 21);
        fill(b, n * (K + GAP), 22);
        for (int64_t e = 0; e < M * (K + GAP); e++) {
            a[e] = floor(a[e] * 64) / 64;
            value_store(a16, DA_BF16, e, a[e]);
        }
        for (int64_t e = 0; e < n * (K + GAP); e++) {
            b[e] = floor(b[e] * 64) / 64;
            value_store(b16, DA_BF16, e, b[e]);
        }
        memset(c, 0xFF, sizeof c);
        assert_true(da_onednn_bf16(M, n, K, (da_matrix){a16, K + GAP}, (da_matrix){b16, K + GAP}, c, n + GAP));
        for (int64_t e = 0; e < M * (n + GAP); e++) {
            int64_t i = e / (n + GAP), j = e % (n + GAP);
            double exact = 0;
            for (int64_t k = 0; j < n && k < K; k++) {
                exact += a[i * (K + GAP) + k] * b[j * (K + GAP) + k];
            }
            assert_true(j < n ? (double)c[e] == exact : isnan(c[e]));
        }
    }
}

/* ---- conversion -------------------------------------------------------------------------------------------------- */

/* From every 16-bit pattern, exactly, in the type and at a stride; and back. */
static void check_halves(da_dtype half, int64_t stride) {
    enum { ALL = 1 << 16 };
    uint16_t *source = calloc((size_t)(ALL * stride), 2), *back = malloc((size_t)(ALL * stride) * 2);
    double *wide = malloc(ALL * sizeof *wide);
    float *single = malloc(ALL * sizeof *single);
    assert_true(source && back && wide && single);
    for (int64_t k = 0; k < ALL; k++) {
        source[k * stride] = (uint16_t)k;
    }
    da_convert(half, source, stride, DA_F64, wide, 1, ALL);
    da_convert(half, source, stride, DA_F32, single, 1, ALL);
    da_convert(DA_F32, single, 1, half, back, stride, ALL);
    for (int64_t k = 0; k < ALL; k++) {
        double exact = value_load(source, half, k * stride);
        assert_true(isnan(exact) ? isnan(wide[k]) && isnan(single[k]) : wide[k] == exact && (double)single[k] == exact);
        assert_true(isnan(exact) || back[k * stride] == source[k * stride]);
    }
    free(source);
    free(back);
    free(wide);
    free(single);
}

static void test_conversion(void **state) {
    for (int64_t stride = 1; stride <= 3; stride++) {
        check_halves(DA_BF16, stride);
        check_halves(DA_F16, stride);
    }
    const double values[4] = {1.0 / 3, -2.5, 1e-3, 65504};
    float single[4];
    uint16_t half[8] = {0};
    double back[4];
    da_convert(DA_F64, values, 1, DA_F32, single, 1, 4);
    da_convert(DA_F64, values, 1, DA_F16, half, 2, 4);
    da_convert(DA_F16, half, 2, DA_F64, back, 1, 4);
    for (int k = 0; k < 4; k++) {
        assert_true(single[k] == (float)values[k]);
        assert_true(fabs(back[k] - values[k]) <= ldexp(fabs(values[k]), -11));
        assert_int_equal(half[2 * k + 1], 0);
    }
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static void check_rows(layout kind, da_dtype dtype, int64_t batch, int64_t n, int64_t first, int64_t count) {
    enum { WIDTH = 5 };
    double dense[400], scratch[400], target[400];
    test_tensor source = test_tensor_make(kind, dtype, batch, n, 1, WIDTH);
    test_tensor copy = test_tensor_make(kind, dtype, batch, n, 1, WIDTH);
    fill(dense, batch * n * WIDTH, 3);
    for (int64_t k = 0; k < batch * n * WIDTH; k++) {
        dense[k] = floor(dense[k] * 128) / 128; /* bf16, too, holds them */
    }
    test_tensor_fill(&source, dense, DA_F64);
    da_matrix rows = da_rows_load(&source.view, first, count, DA_F64, scratch);
    da_rows_copy(&source.view, first, count, DA_F64, target);
    const double *data = rows.data;
    for (int64_t k = 0; k < count * WIDTH; k++) {
        assert_true(data[k / WIDTH * rows.ld + k % WIDTH] == dense[first * WIDTH + k]);
        assert_true(target[k] == dense[first * WIDTH + k]);
    }
    da_rows_store(&copy.view, first, count, DA_F64, rows);
    assert_true(test_tensor_gaps_untouched(&copy));
    for (int64_t row = 0; row < batch * n; row++) {
        double value = test_tensor_get(&copy, row / n, row % n, 0, 0);
        bool inside = row >= first && row < first + count;
        assert_true(inside ? value == dense[row * WIDTH] : isnan(value));
    }
    test_tensor_free(&source);
    test_tensor_free(&copy);
}

static void test_rows(void **state) {
    for (int kind = 0; kind < LAYOUT_BROADCAST; kind++) {
        for (da_dtype dtype = DA_F32; dtype <= DA_F16; dtype++) {
            check_rows((layout)kind, dtype, 3, 7, 0, 21);
            check_rows((layout)kind, dtype, 3, 7, 5, 4); /* across batch rows */
            check_rows((layout)kind, dtype, 3, 7, 8, 5); /* within one */
            check_rows((layout)kind, dtype, 9, 1, 2, 6); /* sequences of one token */
            check_rows((layout)kind, dtype, 1, 7, 6, 1);
        }
    }
    double memory[40];
    da_tensor dense = da_tensor_make(memory, DA_F64, 2, 4, 1, 5);
    void *data;
    int64_t ld;
    assert_true(da_rows_direct(&dense, 3, 5, DA_F64, &data, &ld)); /* dense rows are used where they lie */
    assert_ptr_equal(data, memory + 15);
    assert_int_equal(ld, 5);
    assert_false(da_rows_direct(&dense, 3, 5, DA_F32, &data, &ld));
}

/* ---- layer norm -------------------------------------------------------------------------------------------------- */

enum { NORM_ROWS = 3, MOST = 200 };

static void naive_norm(const double *x, const double *weight, const double *bias, int64_t width, double eps,
                       double *y) {
    double mean = 0, variance = 0;
    for (int64_t c = 0; c < width; c++) {
        mean += x[c] / (double)width;
    }
    for (int64_t c = 0; c < width; c++) {
        variance += (x[c] - mean) * (x[c] - mean) / (double)width;
    }
    for (int64_t c = 0; c < width; c++) {
        y[c] = (x[c] - mean) / sqrt(variance + eps) * weight[c] + bias[c];
    }
}

typedef struct norm_data {
    double x[NORM_ROWS * MOST], weight[MOST], bias[MOST], grad[NORM_ROWS * MOST];
    int64_t width;
} norm_data;

static double norm_loss(const norm_data *d) {
    double loss = 0, y[MOST];
    for (int64_t r = 0; r < NORM_ROWS; r++) {
        naive_norm(d->x + r * d->width, d->weight, d->bias, d->width, 1e-3, y);
        for (int64_t c = 0; c < d->width; c++) {
            loss += y[c] * d->grad[r * d->width + c];
        }
    }
    return loss;
}

/* Central difference of the loss with respect to one number of d. */
static double slope(norm_data *d, double *number) {
    const double step = 1e-5, value = *number;
    *number = value + step;
    double above = norm_loss(d);
    *number = value - step;
    double below = norm_loss(d);
    *number = value;
    return (above - below) / (2 * step);
}

static void check_norm(int64_t width) {
    norm_data d = {.width = width};
    double y[NORM_ROWS * MOST], expected[NORM_ROWS * MOST], grad_weight[MOST], grad_bias[MOST];
    int64_t count = NORM_ROWS * width;
    fill(d.x, count, 5);
    fill(d.weight, width, 6);
    fill(d.bias, width, 7);
    fill(d.grad, count, 8);
    const da_layer_norm norm = {d.weight, d.bias, width, 1e-3};
    da_layer_norm_forward(DA_F64, &norm, NORM_ROWS, (da_matrix){d.x, width}, y, width);
    for (int64_t r = 0; r < NORM_ROWS; r++) {
        naive_norm(d.x + r * width, d.weight, d.bias, width, 1e-3, expected + r * width);
    }
    assert_true(largest_difference(y, expected, count) < 1e-12);
    for (int64_t c = 0; c < width; c++) {
        grad_weight[c] = 1; /* gradients are added */
        grad_bias[c] = -1;
    }
    memcpy(y, d.grad, sizeof y); /* in place */
    da_layer_norm_backward(DA_F64, &norm, NORM_ROWS, (da_matrix){d.x, width}, (da_matrix){y, width}, y, width,
                           grad_weight, grad_bias);
    for (int64_t k = 0; k < count; k++) {
        assert_true(fabs(y[k] - slope(&d, &d.x[k])) < 1e-6);
    }
    for (int64_t c = 0; c < width; c++) {
        assert_true(fabs(grad_weight[c] - 1 - slope(&d, &d.weight[c])) < 1e-8);
        assert_true(fabs(grad_bias[c] + 1 - slope(&d, &d.bias[c])) < 1e-8);
    }
}

/* f32 against f64, in place, with gaps between the rows. */
static void check_norm_f32(int64_t width) {
    enum { GAP = 3 };
    double x[NORM_ROWS * (MOST + GAP)], weight[MOST], bias[MOST], y[NORM_ROWS * (MOST + GAP)];
    float x32[NORM_ROWS * (MOST + GAP)], weight32[MOST], bias32[MOST];
    int64_t ld = width + GAP;
    fill(x, NORM_ROWS * ld, 9);
    fill(weight, width, 10);
    fill(bias, width, 11);
    to_f32(x, x32, NORM_ROWS * ld);
    to_f32(weight, weight32, width);
    to_f32(bias, bias32, width);
    da_layer_norm_forward(DA_F64, &(da_layer_norm){weight, bias, width, 1e-5}, NORM_ROWS, (da_matrix){x, ld}, y, ld);
    da_layer_norm_forward(DA_F32, &(da_layer_norm){weight32, bias32, width, 1e-5}, NORM_ROWS, (da_matrix){x32, ld}, x32,
                          ld);
    for (int64_t k = 0; k < NORM_ROWS * ld; k++) {
        assert_true(k % ld < width ? fabs((double)x32[k] - y[k]) < 2e-5 : x32[k] == (float)x[k]);
    }
}

static void test_layer_norm(void **state) {
    static const int64_t widths[] = {1, 2, 3, 15, 16, 17, 33, 64, 100};
    for (size_t w = 0; w < sizeof widths / sizeof *widths; w++) {
        check_norm(widths[w]);
        if (widths[w] > 2) { /* two numbers may be nearly equal: then f32 can say nothing */
            check_norm_f32(widths[w]);
        }
    }
}

/* ---- rotary encoding --------------------------------------------------------------------------------------------- */

static da_rotary make_rotary(da_position position, da_rotary_layout order, int64_t head_dim, int64_t n) {
    da_multihead_config config;
    da_rotary rotary;
    da_multihead_config_init(&config);
    config.embed_dim = head_dim;
    config.num_heads = 1;
    config.position = position;
    config.rotary_layout = order;
    config.xpos_scale_base = 16;
    const da_tokens tokens = da_tokens_whole(n);
    da_rotary_begin(&rotary, &config, &tokens);
    return rotary;
}

/* q and k at positions i and j, encoded; their dot product. */
static double score(const da_rotary *rotary, int64_t i, int64_t j) {
    double q[DA_MAX_HEAD_DIM], k[DA_MAX_HEAD_DIM], unused[DA_MAX_HEAD_DIM], sum = 0;
    fill(q, rotary->head_dim, 12);
    fill(k, rotary->head_dim, 13);
    memset(unused, 0, sizeof unused);
    da_rotary_apply(DA_F64, rotary, false, i, 1, &(da_rotary_rows){q, unused, 0, 1, 1});
    da_rotary_apply(DA_F64, rotary, false, j, 1, &(da_rotary_rows){unused, k, 0, 1, 1});
    for (int64_t c = 0; c < rotary->head_dim; c++) {
        sum += q[c] * k[c];
    }
    return sum;
}

static void test_rotary_depends_on_distance(void **state) {
    for (da_position position = DA_POSITION_ROPE; position <= DA_POSITION_XPOS; position++) {
        for (int order = 0; order < 2; order++) {
            da_rotary rotary = make_rotary(position, (da_rotary_layout)order, 12, 40);
            for (int64_t distance = 0; distance < 20; distance++) {
                double first = score(&rotary, distance, 0);
                for (int64_t j = 1; j + distance < 40; j++) {
                    assert_true(fabs(score(&rotary, j + distance, j) - first) < 1e-12);
                }
            }
            assert_true(fabs(score(&rotary, 9, 2) - score(&rotary, 2, 9)) > 1e-3); /* and on its sign */
        }
    }
}

/* By the header's formula, one pair. */
static void test_rotary_formula(void **state) {
    enum { D = 6, N = 11, I = 7 };
    for (int order = 0; order < 2; order++) {
        da_rotary rotary = make_rotary(DA_POSITION_XPOS, (da_rotary_layout)order, D, N);
        double q[D], k[D], x[D];
        fill(x, D, 14);
        memcpy(q, x, sizeof q);
        memcpy(k, x, sizeof k);
        da_rotary_apply(DA_F64, &rotary, false, 2 * N + I, 1,
                        &(da_rotary_rows){q, k, 0, 1, 1}); /* of the third batch row */
        for (int p = 0; p < D / 2; p++) {
            int a = order == DA_ROTARY_ADJACENT ? 2 * p : p, b = order == DA_ROTARY_ADJACENT ? 2 * p + 1 : p + D / 2;
            double angle = I * pow(10000, -2.0 * p / D), s = pow((2 * p + 0.4 * D) / (1.4 * D), (I - 6) / 16.0);
            assert_true(fabs(q[a] - s * (x[a] * cos(angle) - x[b] * sin(angle))) < 1e-14);
            assert_true(fabs(q[b] - s * (x[b] * cos(angle) + x[a] * sin(angle))) < 1e-14);
            assert_true(fabs(k[a] - (x[a] * cos(angle) - x[b] * sin(angle)) / s) < 1e-14);
            assert_true(fabs(k[b] - (x[b] * cos(angle) + x[a] * sin(angle)) / s) < 1e-14);
        }
    }
}

/* <R x, y> = <x, R^T y>: the backward pass is the transposed matrix. And f32 computes the same. */
static void test_rotary_backward(void **state) {
    enum { HEADS = 3, KEY_HEADS = 2, D = 8, LD = (HEADS + KEY_HEADS) * D + 2, ROWS = 5, COUNT = ROWS * LD };
    for (int variant = 0; variant < 4; variant++) {
        da_rotary rotary = make_rotary((da_position)(1 + variant / 2), (da_rotary_layout)(variant % 2), D, 4);
        double x[COUNT], y[COUNT], forward[COUNT], backward[COUNT], left = 0, right = 0;
        float single[COUNT];
        fill(x, COUNT, 15);
        fill(y, COUNT, 16);
        to_f32(x, single, COUNT);
        memcpy(forward, x, sizeof x);
        memcpy(backward, y, sizeof y);
        da_rotary_apply(DA_F64, &rotary, false, 3, ROWS,
                        &(da_rotary_rows){forward, forward + HEADS * D, LD, HEADS, KEY_HEADS});
        da_rotary_apply(DA_F64, &rotary, true, 3, ROWS,
                        &(da_rotary_rows){backward, backward + HEADS * D, LD, HEADS, KEY_HEADS});
        da_rotary_apply(DA_F32, &rotary, false, 3, ROWS,
                        &(da_rotary_rows){single, single + HEADS * D, LD, HEADS, KEY_HEADS});
        for (int e = 0; e < COUNT; e++) {
            bool between = e % LD >= LD - 2;
            assert_true(!between || forward[e] == x[e]);
            assert_true(fabs((double)single[e] - forward[e]) < 1e-6);
            left += forward[e] * y[e];
            right += x[e] * backward[e];
        }
        assert_true(fabs(left - right) < 1e-12);
    }
}

static void test_rotary_longest(void **state) {
    da_multihead_config config;
    da_multihead_config_init(&config);
    config.embed_dim = 64;
    config.num_heads = 1;
    assert_int_equal(da_rotary_longest(&config), INT64_MAX);
    config.position = DA_POSITION_ROPE;
    assert_int_equal(da_rotary_longest(&config), INT64_MAX);
    config.position = DA_POSITION_XPOS;
    int64_t longest = da_rotary_longest(&config);
    assert_true(longest > 50000 && longest < 60000);
    double factor = pow(0.4 / 1.4, -(double)(longest / 2) / 512); /* of the first pair at the first position */
    assert_true(factor <= ldexp(1, 100) && factor > ldexp(1, 99));
    config.dtype = DA_F16;
    assert_true(da_rotary_longest(&config) < longest / 10);
    config.dtype = DA_F64;
    assert_true(da_rotary_longest(&config) > longest * 9);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_products),
        cmocka_unit_test(test_products_of_bf16),
        cmocka_unit_test(test_conversion),
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_layer_norm),
        cmocka_unit_test(test_rotary_formula),
        cmocka_unit_test(test_rotary_depends_on_distance),
        cmocka_unit_test(test_rotary_backward),
        cmocka_unit_test(test_rotary_longest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
