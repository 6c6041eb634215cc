/* The module's calls: parameters and their initialisation, memory, threads, states between calls. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <pthread.h>

#include "multihead/dense_attention.h"
#include "multihead/fixtures.h"
#include "support/counting_allocator.h"

/* ---- parameters -------------------------------------------------------------------------------------------------- */

static void test_parameter_table(void **state) {
    static const struct {
        const char *name;
        int rank;
        int64_t rows, columns;
    } expected[] = {
        {"q_proj.weight", 2, 24, 24},   {"k_proj.weight", 2, 12, 24}, {"v_proj.weight", 2, 12, 24},
        {"q_proj.bias", 1, 24, 1},      {"k_proj.bias", 1, 12, 1},    {"v_proj.bias", 1, 12, 1},
        {"q_ln.weight", 1, 24, 1},      {"q_ln.bias", 1, 24, 1},      {"k_ln.weight", 1, 12, 1},
        {"k_ln.bias", 1, 12, 1},        {"norm.weight", 1, 24, 1},    {"norm.bias", 1, 24, 1},
        {"out_proj.weight", 2, 24, 24}, {"out_proj.bias", 1, 24, 1},
    };
    module_fixture f;
    module_fixture_init(&f);
    assert_int_equal(module_fixture_open(&f, "standard"), DA_OK);
    assert_string_equal(da_multihead_implementation(f.multihead), "standard");
    assert_int_equal(da_multihead_parameter_count(f.multihead), sizeof expected / sizeof *expected);
    for (size_t k = 0; k < sizeof expected / sizeof *expected; k++) {
        da_parameter by_name, by_index, gradient;
        assert_int_equal(da_multihead_parameter(f.multihead, expected[k].name, &by_name), DA_OK);
        assert_int_equal(da_multihead_parameter_at(f.multihead, k, &by_index), DA_OK);
        assert_int_equal(da_multihead_gradient(f.gradients, expected[k].name, &gradient), DA_OK);
        assert_string_equal(by_index.name, expected[k].name);
        assert_ptr_equal(by_index.data, by_name.data);
        assert_int_equal(by_name.rank, expected[k].rank);
        assert_true(by_name.shape[0] == expected[k].rows && by_name.shape[1] == expected[k].columns);
        assert_memory_equal(gradient.shape, by_name.shape, sizeof gradient.shape);
        assert_ptr_not_equal(gradient.data, by_name.data);
    }
    module_fixture_close(&f);
}

static void test_only_what_exists(void **state) {
    module_fixture f;
    da_parameter view;
    module_fixture_init(&f);
    f.config.bias = f.config.qk_layer_norm = f.config.layer_norm = false;
    assert_int_equal(module_fixture_open(&f, "auto"), DA_OK);
    assert_int_equal(da_multihead_parameter_count(f.multihead), 4);
    assert_int_equal(da_multihead_parameter(f.multihead, "norm.weight", &view), DA_ERROR_INVALID_ARGUMENT);
    module_fixture_close(&f);
}

/* ---- initialisation ---------------------------------------------------------------------------------------------- */

typedef struct moments {
    double mean, variance, fourth;
    int64_t count;
} moments;

static moments moments_of(da_multihead *multihead, const char *name) {
    da_parameter view;
    assert_int_equal(da_multihead_parameter(multihead, name, &view), DA_OK);
    const double *data = view.data;
    moments m = {.count = view.shape[0] * view.shape[1]};
    for (int64_t k = 0; k < m.count; k++) {
        m.mean += data[k] / (double)m.count;
    }
    for (int64_t k = 0; k < m.count; k++) {
        double square = (data[k] - m.mean) * (data[k] - m.mean);
        m.variance += square / (double)m.count;
        m.fourth += square * square / (double)m.count;
    }
    return m;
}

/* Each within five standard deviations of what normal numbers give: the mean's is s / sqrt(n), the variance's
 * s^2 sqrt(2 / n), the fourth moment's s^4 sqrt(96 / n). */
static void check_normal(da_multihead *multihead, const char *name, double deviation) {
    moments m = moments_of(multihead, name);
    double n = (double)m.count, square = deviation * deviation;
    assert_true(fabs(m.mean) < 5 * deviation / sqrt(n));
    assert_true(fabs(m.variance - square) < 5 * square * sqrt(2 / n));
    assert_true(fabs(m.fourth - 3 * square * square) < 5 * square * square * sqrt(96 / n));
}

static void check_constant(da_multihead *multihead, const char *name, double value) {
    da_parameter view;
    assert_int_equal(da_multihead_parameter(multihead, name, &view), DA_OK);
    for (int64_t k = 0; k < view.shape[0] * view.shape[1]; k++) {
        assert_true(((const double *)view.data)[k] == value);
    }
}

static void test_initialisation(void **state) {
    static const struct {
        const char *name;
        double value;
    } constants[] = {{"q_proj.bias", 0}, {"k_proj.bias", 0}, {"v_proj.bias", 0}, {"out_proj.bias", 0},
                     {"q_ln.weight", 1}, {"q_ln.bias", 0},   {"k_ln.weight", 1}, {"k_ln.bias", 0},
                     {"norm.weight", 1}, {"norm.bias", 0}};
    module_fixture f;
    module_fixture_init(&f);
    f.config.embed_dim = 384;
    f.config.num_heads = 6;
    f.config.kv_heads = 2;
    f.config.gamma_init = 0.3;
    f.config.dtype = DA_F64;
    for (uint64_t seed = 0; seed < 3; seed++) {
        assert_int_equal(module_fixture_open(&f, "standard"), DA_OK);
        assert_int_equal(da_multihead_initialise(f.multihead, seed << 31), DA_OK);
        check_normal(f.multihead, "q_proj.weight", sqrt(2.0 / (384 + 384)));
        check_normal(f.multihead, "k_proj.weight", sqrt(2.0 / (384 + 128)));
        check_normal(f.multihead, "v_proj.weight", 0.3 * sqrt(2.0 / (384 + 128)));
        check_normal(f.multihead, "out_proj.weight", 0.3 * sqrt(2.0 / (384 + 384)));
        for (size_t k = 0; k < sizeof constants / sizeof *constants; k++) {
            check_constant(f.multihead, constants[k].name, constants[k].value);
        }
        module_fixture_close(&f);
    }
}

static double correlation(const double *a, const double *b, int64_t count, int64_t shift) {
    double ab = 0, aa = 0, bb = 0;
    for (int64_t k = 0; k + shift < count; k++) {
        ab += a[k] * b[k + shift];
        aa += a[k] * a[k];
        bb += b[k + shift] * b[k + shift];
    }
    return ab / sqrt(aa * bb);
}

/* One seed gives the same numbers twice; other seeds, parameters and places give unrelated ones. */
static void test_seeds(void **state) {
    enum { COUNT = 384 * 384 };
    module_fixture f;
    da_parameter q, out;
    double *first = malloc(COUNT * sizeof *first);
    assert_non_null(first);
    module_fixture_init(&f);
    f.config.embed_dim = 384;
    f.config.dtype = DA_F64;
    assert_int_equal(module_fixture_open(&f, "standard"), DA_OK);
    assert_int_equal(da_multihead_parameter(f.multihead, "q_proj.weight", &q), DA_OK);
    assert_int_equal(da_multihead_parameter(f.multihead, "out_proj.weight", &out), DA_OK);
    memcpy(first, q.data, COUNT * sizeof *first);
    const double limit = 5 / sqrt(COUNT);
    assert_true(fabs(correlation(q.data, out.data, COUNT, 0)) < limit);
    assert_true(fabs(correlation(q.data, q.data, COUNT, 1)) < limit);
    assert_int_equal(da_multihead_initialise(f.multihead, 1), DA_OK);
    assert_memory_equal(first, q.data, COUNT * sizeof *first);
    assert_int_equal(da_multihead_initialise(f.multihead, 2), DA_OK);
    assert_true(fabs(correlation(first, q.data, COUNT, 0)) < limit);
    assert_int_equal(da_multihead_initialise(f.multihead, (uint64_t)1 << 32 | 1), DA_OK);
    assert_true(fabs(correlation(first, q.data, COUNT, 0)) < limit);
    module_fixture_close(&f);
    free(first);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static da_status whole_session(module_fixture *f, const char *implementation, bool backward) {
    da_status status = module_fixture_open(f, implementation);
    if (status == DA_OK) {
        status = da_multihead_forward(f->multihead, &f->x, &f->z, NULL, &f->y, &f->options);
    }
    if (status == DA_OK) {
        status = module_fixture_forward(f);
    }
    if (status == DA_OK && backward) {
        status = module_fixture_backward(f);
    }
    return status;
}

/* Every allocation fails once, and all from each on: the session ends with that error, and nothing is left. */
static void check_memory(const char *implementation, da_dtype dtype, bool backward, long to) {
    bool failed = true;
    for (long from = 1; failed; from++) {
        module_fixture f;
        counting_allocator counter = {.fail_from = from, .fail_to = to ? to : from};
        module_fixture_init(&f);
        f.config.dtype = dtype;
        f.x.dtype = f.y.dtype = f.z.dtype = f.grad_y.dtype = f.grad_x.dtype = dtype; /* half of the floats' memory */
        f.context_options.allocator = counting_allocator_interface(&counter);
        da_status status = whole_session(&f, implementation, backward);
        failed = counter.calls >= from;
        assert_int_equal(status, failed ? DA_ERROR_OUT_OF_MEMORY : DA_OK);
        assert_true(!failed || da_last_error_message()[0] != '\0');
        module_fixture_close(&f);
        assert_int_equal(counter.live, 0);
        assert_true(failed || from > 15); /* the loop has met them */
    }
}

static void test_out_of_memory(void **state) {
    static const char *const implementations[] = {"standard", "improved", "ring", "dense"};
    for (int k = 0; k < 4; k++) {
        module_fixture f;
        module_fixture_init(&f);
        assert_int_equal(module_fixture_open(&f, implementations[k]), DA_OK);
        bool backward = module_fixture_has_backward(&f, implementations[k]);
        module_fixture_close(&f);
        check_memory(implementations[k], DA_F32, backward, 0);
        check_memory(implementations[k], DA_F32, backward, 1 << 20);
        check_memory(implementations[k], DA_BF16, backward, 0);
    }
}

/* ---- threads and repetition -------------------------------------------------------------------------------------- */

enum { THREADS = 6, CALLS = 20 };

typedef struct caller {
    const module_fixture *fixture;
    float out[ELEMENTS];
    bool equal;
} caller;

static void *call_many_times(void *user) {
    caller *c = user;
    const module_fixture *f = c->fixture;
    da_tensor y = f->y;
    y.data = c->out;
    c->equal = true;
    for (int call = 0; call < CALLS; call++) {
        memset(c->out, 0xFF, sizeof c->out);
        da_status status = da_multihead_forward(f->multihead, &f->x, NULL, NULL, &y, &f->options);
        c->equal = c->equal && status == DA_OK && memcmp(c->out, f->out, sizeof c->out) == 0;
    }
    return NULL;
}

static void test_one_module_many_threads(void **state) {
    static caller callers[THREADS];
    pthread_t threads[THREADS];
    module_fixture f;
    module_fixture_init(&f);
    assert_int_equal(module_fixture_open(&f, "auto"), DA_OK);
    assert_int_equal(da_multihead_forward(f.multihead, &f.x, NULL, NULL, &f.y, &f.options), DA_OK);
    for (int t = 0; t < THREADS; t++) {
        callers[t].fixture = &f;
        assert_int_equal(pthread_create(&threads[t], NULL, call_many_times, &callers[t]), 0);
    }
    for (int t = 0; t < THREADS; t++) {
        assert_int_equal(pthread_join(threads[t], NULL), 0);
        assert_true(callers[t].equal);
    }
    module_fixture_close(&f);
}

/* A second backward pass from the same activations gives the same, and doubles what is added to. */
static void test_backward_twice(void **state) {
    module_fixture f;
    float first[ELEMENTS];
    module_fixture_init(&f);
    assert_int_equal(module_fixture_open(&f, "dense"), DA_OK);
    da_parameter gradient;
    assert_int_equal(module_fixture_forward(&f), DA_OK);
    assert_int_equal(module_fixture_backward(&f), DA_OK);
    assert_int_equal(da_multihead_gradient(f.gradients, "out_proj.weight", &gradient), DA_OK);
    float once = ((float *)gradient.data)[5];
    memcpy(first, f.grad_input, sizeof first);
    memset(f.grad_input, 0xFF, sizeof f.grad_input);
    assert_int_equal(module_fixture_backward(&f), DA_OK);
    assert_memory_equal(first, f.grad_input, sizeof first);
    assert_true(once != 0 && fabsf(((float *)gradient.data)[5] - 2 * once) < 1e-5f * fabsf(once));
    da_multihead_gradients_zero(f.gradients);
    assert_true(((float *)gradient.data)[5] == 0);
    /* What is not asked for changes nothing in the rest. */
    f.tensors.gradients = NULL;
    memset(f.grad_input, 0xFF, sizeof f.grad_input);
    assert_int_equal(module_fixture_backward(&f), DA_OK);
    assert_memory_equal(first, f.grad_input, sizeof first);
    f.tensors.gradients = f.gradients;
    f.tensors.grad_query = NULL;
    assert_int_equal(module_fixture_backward(&f), DA_OK);
    assert_true(((float *)gradient.data)[5] == once);
    module_fixture_close(&f);
}

static bool stop_at_once(int64_t finished, int64_t total, void *user) {
    return false;
}

static void test_cancelled(void **state) {
    module_fixture f;
    module_fixture_init(&f);
    assert_int_equal(module_fixture_open(&f, "improved"), DA_OK);
    f.options.progress = stop_at_once;
    assert_int_equal(module_fixture_forward(&f), DA_ERROR_CANCELLED);
    assert_null(f.saved);
    module_fixture_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parameter_table), cmocka_unit_test(test_only_what_exists),
        cmocka_unit_test(test_initialisation),  cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_out_of_memory),   cmocka_unit_test(test_one_module_many_threads),
        cmocka_unit_test(test_backward_twice),  cmocka_unit_test(test_cancelled),
    };
    return dense_attention_register() != DA_OK || cmocka_run_group_tests(tests, NULL, NULL);
}
