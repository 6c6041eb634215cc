/* Parts of the language model that its library hides: the activation's bounds (../tolerances.md), texts as training data. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>

#include <cmocka.h>

#include "model/activation.h"
#include "model/text_data.h"

#define POINTS 200001
#define U 0x1p-24

/* ---- activation -------------------------------------------------------------------------------------------------- */

static float points[POINTS], values[POINTS], slopes[POINTS];

/* From -12 to 12, and small numbers down to 2^-80. */
static void make_points(void) {
    for (int k = 0; k < POINTS; k++) {
        double sign = k % 2 ? -1 : 1, small = sign * ldexp(1 + (k % 977) / 977.0, -(k % 81));
        points[k] = (float)(k % 3 == 0 ? small : 24.0 * k / (POINTS - 1) - 12);
        slopes[k] = points[k];
    }
}

static void test_gelu_f32_is_within_its_bound(void **state) {
    double worst = 0, worst_slope = 0;
    make_points();
    da_activation_apply_with_slope(DA_F32, DA_ACTIVATION_GELU, POINTS, slopes, values);
    for (int k = 0; k < POINTS; k++) {
        double z = (double)points[k], below = 0.5 * erfc(-z / sqrt(2)), density = exp(-z * z / 2) / sqrt(2 * acos(-1));
        double allowed = (20 * fabs(erf(z / sqrt(2))) + 3) * U;
        double allowed_slope = allowed + fabs(z) * density * (34 + z * z) * U + 0x1p-120;
        double off = fabs((double)values[k] - z * below), off_slope = fabs((double)slopes[k] - (below + z * density));
        if (off > fabs(z) * allowed + 0x1p-120 || off_slope > allowed_slope) {
            fail_msg("gelu(%g) is off by %g, its slope by %g", z, off, off_slope);
        }
        worst = fmax(worst, off / (fabs(z) * allowed + 0x1p-120));
        worst_slope = fmax(worst_slope, off_slope / allowed_slope);
    }
    print_message("error / bound at most %.3g, of the slope %.3g\n", worst, worst_slope);
}

static void test_apply_is_the_same_to_the_bit(void **state) {
    static float alone[POINTS];
    for (int activation = DA_ACTIVATION_GELU; activation <= DA_ACTIVATION_RELU; activation++) {
        make_points();
        da_activation_apply(DA_F32, (da_activation)activation, POINTS, points, alone);
        da_activation_apply_with_slope(DA_F32, (da_activation)activation, POINTS, slopes, values);
        assert_memory_equal(alone, values, sizeof alone);
    }
    for (int k = 0; k < POINTS; k++) { /* relu's, of the last round */
        assert_true(values[k] == (points[k] > 0 ? points[k] : 0) && slopes[k] == (points[k] > 0 ? 1 : 0));
    }
}

static void test_f64_is_the_formula(void **state) {
    const double z[] = {-7, -0.5, 0, 1e-9, 2.25};
    double y[5], x[5];
    for (int k = 0; k < 5; k++) {
        x[k] = z[k];
    }
    da_activation_apply_with_slope(DA_F64, DA_ACTIVATION_GELU, 5, x, y);
    for (int k = 0; k < 5; k++) {
        double below = 0.5 * (1 + erf(z[k] / sqrt(2)));
        assert_true(fabs(y[k] - z[k] * below) < 1e-15);
        assert_true(fabs(x[k] - below - z[k] * exp(-z[k] * z[k] / 2) / sqrt(2 * acos(-1))) < 1e-15);
    }
}

static void test_nan_stays(void **state) {
    float z = NAN, y;
    da_activation_apply_with_slope(DA_F32, DA_ACTIVATION_GELU, 1, &z, &y);
    assert_true(isnan(z) && isnan(y));
}

/* ---- texts ------------------------------------------------------------------------------------------------------- */

static const char *write_text(const char *text, size_t bytes) {
    static char path[64];
    snprintf(path, sizeof path, "/tmp/test_model_parts.%ld.txt", (long)getpid());
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_true(fwrite(text, 1, bytes, file) == bytes);
    fclose(file);
    return path;
}

static void test_windows_of_a_text(void **state) {
    char text[200];
    int32_t tokens[30], targets[30];
    bool first = false, last = false;
    da_text_data data;
    for (int k = 0; k < 200; k++) {
        text[k] = (char)k;
    }
    const char *path = write_text(text, sizeof text);
    assert_int_equal(da_text_data_open(path, 0.05, 30, &data), DA_OK);
    assert_true(data.training == 190 && data.validation == 10);
    for (int64_t step = 0; step < 2000; step++) {
        da_text_data_sample(&data, 3, step, 3, 10, tokens, targets);
        for (int k = 0; k < 30; k++) {
            assert_true(targets[k] == tokens[k] + 1 && targets[k] < 190 &&
                        (k % 10 == 0 || tokens[k] == targets[k - 1]));
        }
        first |= tokens[0] == 0;
        last |= targets[9] == 189;
    }
    assert_true(first && last); /* 6,000 draws of 180 places */
    assert_int_equal(da_text_data_validation(&data, 0, 6, tokens, targets), 6);
    assert_true(tokens[0] == 190 && targets[5] == 196);
    assert_int_equal(da_text_data_validation(&data, 1, 6, tokens, targets), 3);
    assert_int_equal(da_text_data_validation(&data, 2, 6, tokens, targets), 0);
    da_text_data_close(&data);
    unlink(path);
}

static void test_hash_of_a_text(void **state) { /* FNV-1a's published values of "a" and "foobar" */
    const struct {
        const char *text;
        uint64_t hash;
    } known[] = {{"a", 0xaf63dc4c8601ec8cu}, {"foobar", 0x85944171f73967e8u}};
    for (int k = 0; k < 2; k++) {
        const unsigned char *bytes = (const unsigned char *)known[k].text;
        const da_text_data data = {.bytes = bytes, .training = k == 0 ? 1 : 4, .validation = k == 0 ? 0 : 2};
        assert_true(da_text_data_hash(&data) == known[k].hash);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_gelu_f32_is_within_its_bound),
        cmocka_unit_test(test_apply_is_the_same_to_the_bit),
        cmocka_unit_test(test_f64_is_the_formula),
        cmocka_unit_test(test_nan_stays),
        cmocka_unit_test(test_windows_of_a_text),
        cmocka_unit_test(test_hash_of_a_text),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
