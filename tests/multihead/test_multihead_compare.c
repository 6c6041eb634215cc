/* The module against its reference over generated cases: output and gradients, for every data type, with `standard`,
 * `improved` and the tests' own `dense`, in several memory layouts; and what must not change a bit: threads, a second
 * pass, what is asked for. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "multihead/dense_attention.h"
#include "multihead/multihead_cases.h"
#include "support/case_file.h"
#include "support/environment.h"
#include "support/layouts.h"

typedef struct group {
    char name[64];
    const char *implementation;
    da_isa isa;
    da_dtype dtype;
    long forward, backward, refused;
    double largest_forward, largest_backward; /* error / bound */
} group;

/* One module on 1 and one on 3 threads, with the parameters of the case. */
typedef struct run {
    const multihead_case *one;
    group *group;
    da_multihead *modules[2];
    da_call_options options;
    int64_t *lengths;
    uint8_t *mask;
    test_tensor inputs[3], grad_out; /* inputs by number, not by part */
    const da_tensor *parts[3];
} run;

static da_context *contexts[2];
static int64_t stride;

static test_tensor make_tensor(const multihead_case *one, int kind) {
    return test_tensor_make((layout)(kind % LAYOUT_BROADCAST), one->config.dtype, one->batch, one->n, 1,
                            one->config.embed_dim);
}

static test_tensor filled(const multihead_case *one, int kind, const case_array *values) {
    test_tensor tensor = make_tensor(one, kind);
    test_tensor_fill(&tensor, values->values, DA_F64);
    return tensor;
}

/* ---- setting up -------------------------------------------------------------------------------------------------- */

static void set_parameters(const multihead_case *one, da_multihead *module) {
    assert_int_equal(da_multihead_parameter_count(module), one->parameter_count);
    for (int64_t k = 0; k < one->parameter_count; k++) {
        da_parameter view;
        assert_int_equal(da_multihead_parameter(module, one->parameters[k].name, &view), DA_OK);
        assert_int_equal(view.shape[0] * view.shape[1], one->parameters[k].values.count);
        test_tensor dense = {.view = da_tensor_make(view.data, view.dtype, 1, 1, 1, view.shape[0] * view.shape[1])};
        test_tensor_fill(&dense, one->parameters[k].values.values, DA_F64);
    }
}

static void set_options(run *r) {
    const multihead_case *one = r->one;
    da_call_options_init(&r->options);
    r->options.training = one->attention.dropout > 0;
    r->options.dropout_seed = one->seed;
    r->lengths = calloc((size_t)one->batch, sizeof *r->lengths);
    r->mask = calloc((size_t)(one->batch * one->n), 1);
    assert_true(r->lengths && r->mask);
    for (int64_t b = 0; b < one->key_lengths.count; b++) {
        r->lengths[b] = (int64_t)one->key_lengths.values[b];
    }
    for (int64_t i = 0; i < one->key_mask.count; i++) {
        r->mask[i] = one->key_mask.values[i] != 0;
    }
    r->options.key_lengths = one->key_lengths.count > 0 ? r->lengths : NULL;
    r->options.key_mask = one->key_mask.count > 0 ? r->mask : NULL;
}

/* Padded rows of an input that is no query may hold anything. */
static void spoil_padding(const run *r, test_tensor *input) {
    const da_tensor *view = &input->view;
    size_t size = da_dtype_size(view->dtype);
    for (int64_t row = 0; row < view->shape[0] * view->shape[1]; row++) {
        int64_t b = row / view->shape[1], i = row % view->shape[1];
        bool padded = (r->options.key_lengths && i >= r->lengths[b]) || (r->options.key_mask && r->mask[row]);
        for (int64_t c = 0; padded && c < view->shape[3]; c++) {
            int64_t at = b * view->stride[0] + i * view->stride[1] + c * view->stride[3];
            memset((char *)view->data + at * (int64_t)size, 0xFF, size); /* NaN */
        }
    }
}

/* r->parts point into r-> */
/* False if the implementation does not take the case. r->parts point into r. */
static bool set_up(run *r, group *g, const multihead_case *one, int number) {
    *r = (run){.one = one, .group = g};
    for (int m = 0; m < 2; m++) {
        da_status status =
            da_multihead_create(contexts[m], g->implementation, &one->config, &one->attention, &r->modules[m]);
        if (status == DA_ERROR_UNSUPPORTED) { /* an option that this implementation does not take */
            return false;
        }
        if (status != DA_OK) {
            fail_msg("%s: %s", one->name, da_last_error_message());
        }
        set_parameters(one, r->modules[m]);
    }
    set_options(r);
    r->grad_out = filled(one, number, &one->grad_out);
    for (int part = 0; part < 3; part++) {
        int which = one->input_of[part];
        if (!r->inputs[which].memory) {
            r->inputs[which] = filled(one, number + which, &one->inputs[part]);
            if (which > 0) {
                spoil_padding(r, &r->inputs[which]);
            }
        }
    }
    for (int part = 0; part < 3; part++) {
        /* NULL stands for the part before; a caller may as well give the tensor. */
        bool as_before = part > 0 && one->input_of[part] == one->input_of[part - 1] && number % 3 == 0;
        r->parts[part] = as_before ? NULL : &r->inputs[one->input_of[part]].view;
    }
    return true;
}

static void tear_down(run *r) {
    for (int k = 0; k < 3; k++) {
        test_tensor_free(&r->inputs[k]);
    }
    test_tensor_free(&r->grad_out);
    da_multihead_free(r->modules[0]);
    da_multihead_free(r->modules[1]);
    free(r->lengths);
    free(r->mask);
}

/* ---- comparing --------------------------------------------------------------------------------------------------- */

/* Largest error / bound; bounds: one per element, or one for all. */
static double compare(const test_tensor *tensor, const case_array *expected, const case_array *bounds) {
    double largest = 0;
    const da_tensor *view = &tensor->view;
    for (int64_t k = 0; k < expected->count; k++) {
        int64_t width = view->shape[3], row = k / width;
        double actual = test_tensor_get(tensor, row / view->shape[1], row % view->shape[1], 0, k % width);
        double error = fabs(actual - expected->values[k]), bound = bounds->values[bounds->count > 1 ? k : 0];
        if (!(error <= bound)) {
            print_error("element %ld is %.17g, not %.17g: error %g, bound %g\n", (long)k, actual, expected->values[k],
                        error, bound);
            return INFINITY;
        }
        largest = fmax(largest, error / bound);
    }
    return largest;
}

static void check_within(const run *r, double ratio, const char *what, double *largest) {
    if (!(ratio <= 1)) {
        fail_msg("%s, %s: %s is off", r->group->name, r->one->name, what);
    }
    *largest = fmax(*largest, ratio);
}

static da_status forward(const run *r, int module, const test_tensor *out, da_multihead_saved **saved) {
    const da_tensor *const *parts = r->parts;
    if (saved) {
        return da_multihead_forward_training(r->modules[module], parts[0], parts[1], parts[2], &out->view, &r->options,
                                             saved);
    }
    return da_multihead_forward(r->modules[module], parts[0], parts[1], parts[2], &out->view, &r->options);
}

static void check_forward(const run *r, int number) {
    test_tensor outs[3];
    for (int k = 0; k < 3; k++) {
        da_multihead_saved *saved = NULL;
        outs[k] = make_tensor(r->one, number + 1);
        da_status status = forward(r, k % 2, &outs[k], k == 2 ? &saved : NULL);
        if (status != DA_OK) {
            fail_msg("%s: %s", r->one->name, da_last_error_message());
        }
        assert_true(test_tensor_gaps_untouched(&outs[k]));
        da_multihead_saved_free(saved);
    }
    check_within(r, compare(&outs[0], &r->one->out, &r->one->bound), "out", &r->group->largest_forward);
    for (int k = 0; k < 3; k++) {
        if (!test_tensor_equal(&outs[0], &outs[k])) {
            fail_msg("%s, %s: out %d differs", r->group->name, r->one->name, k);
        }
    }
    for (int k = 0; k < 3; k++) {
        test_tensor_free(&outs[k]);
    }
}

/* ---- gradients --------------------------------------------------------------------------------------------------- */

typedef struct gradients {
    test_tensor inputs[3]; /* by number of input */
    da_multihead_gradients *parameters;
} gradients;

/* A whole training step; the forward pass is computed anew, as activation checkpointing does. */
static gradients train(const run *r, int module, int number) {
    gradients result = {.parameters = NULL};
    da_multihead_saved *saved;
    test_tensor out = make_tensor(r->one, number);
    assert_int_equal(forward(r, module, &out, &saved), DA_OK);
    assert_int_equal(da_multihead_gradients_create(r->modules[module], &result.parameters), DA_OK);
    da_multihead_backward_tensors tensors;
    da_multihead_backward_tensors_init(&tensors);
    tensors.query = r->parts[0];
    tensors.key = r->parts[1];
    tensors.value = r->parts[2];
    tensors.grad_out = &r->grad_out.view;
    tensors.gradients = result.parameters;
    const da_tensor **targets[3] = {&tensors.grad_query, &tensors.grad_key, &tensors.grad_value};
    for (int part = 0; part < 3; part++) {
        int which = r->one->input_of[part];
        if (!result.inputs[which].memory) {
            result.inputs[which] = make_tensor(r->one, number + which);
        }
        *targets[part] = r->parts[part] ? &result.inputs[which].view : NULL;
    }
    if (da_multihead_backward(r->modules[module], saved, &tensors, &r->options) != DA_OK) {
        fail_msg("%s: %s", r->one->name, da_last_error_message());
    }
    da_multihead_saved_free(saved);
    test_tensor_free(&out);
    return result;
}

static void free_gradients(gradients *g) {
    for (int k = 0; k < 3; k++) {
        test_tensor_free(&g->inputs[k]);
    }
    da_multihead_gradients_free(g->parameters);
}

/* The sum over the parts that are one input, and of their tolerances. */
static void check_input_gradient(const run *r, const gradients *g, int which) {
    int64_t count = r->one->out.count;
    double *sum = calloc((size_t)count, sizeof *sum), tolerance = 0;
    assert_non_null(sum);
    for (int part = 0; part < 3; part++) {
        for (int64_t k = 0; r->one->input_of[part] == which && k < count; k++) {
            sum[k] += r->one->grad_inputs[part].values[k];
        }
        tolerance += r->one->input_of[part] == which ? r->one->input_tolerances.values[part] : 0;
    }
    const case_array expected = {count, sum}, bound = {1, &tolerance};
    assert_true(test_tensor_gaps_untouched(&g->inputs[which]));
    check_within(r, compare(&g->inputs[which], &expected, &bound), "the gradient of an input",
                 &r->group->largest_backward);
    free(sum);
}

static void check_gradients(const run *r, const gradients *g) {
    for (int which = 0; which < 3; which++) {
        if (g->inputs[which].memory) {
            check_input_gradient(r, g, which);
        }
    }
    for (int64_t k = 0; k < r->one->parameter_count; k++) {
        da_parameter view;
        assert_int_equal(da_multihead_gradient(g->parameters, r->one->parameters[k].name, &view), DA_OK);
        test_tensor dense = {.view = da_tensor_make(view.data, view.dtype, 1, 1, 1, view.shape[0] * view.shape[1])};
        check_within(r, compare(&dense, &r->one->parameters[k].gradient, &r->one->parameters[k].tolerance), view.name,
                     &r->group->largest_backward);
    }
}

static void assert_same_gradients(const run *r, const gradients *a, const gradients *b) {
    for (int which = 0; which < 3; which++) {
        assert_true(!a->inputs[which].memory || test_tensor_equal(&a->inputs[which], &b->inputs[which]));
    }
    for (int64_t k = 0; k < r->one->parameter_count; k++) {
        da_parameter x, y;
        assert_int_equal(da_multihead_gradient_at(a->parameters, (size_t)k, &x), DA_OK);
        assert_int_equal(da_multihead_gradient_at(b->parameters, (size_t)k, &y), DA_OK);
        assert_memory_equal(x.data, y.data, (size_t)(x.shape[0] * x.shape[1]) * da_dtype_size(x.dtype));
    }
}

static bool has_backward(const char *implementation) {
    da_implementation_info info;
    da_implementation_info_init(&info);
    assert_int_equal(da_implementation_get_info(contexts[0], implementation, &info), DA_OK);
    return info.backward;
}

static void check_backward(const run *r, int number) {
    gradients one_thread = train(r, 0, number + 2), three_threads = train(r, 1, number + 2);
    check_gradients(r, &one_thread);
    assert_same_gradients(r, &one_thread, &three_threads);
    free_gradients(&one_thread);
    free_gradients(&three_threads);
}

/* ---- groups ------------------------------------------------------------------------------------------------------ */

static void open_contexts(da_isa isa) {
    for (int k = 0; k < 2; k++) {
        da_context_options options;
        da_context_options_init(&options);
        options.threads = k == 0 ? 1 : 3;
        options.isa = isa;
        assert_int_equal(da_context_create(&options, &contexts[k]), DA_OK);
    }
}

static void test_group(void **state) {
    group *g = *state;
    multihead_case_file file = multihead_case_file_open();
    multihead_case one;
    open_contexts(g->isa);
    bool backward = has_backward(g->implementation);
    for (int number = 0; multihead_case_next(&file, &one); number++) {
        bool slow = strcmp(g->implementation, "dense") == 0 && one.n > 700;
        bool unfinished = one.attention.dropout > 0 && !backward; /* dropout comes with the backward pass */
        if (one.config.dtype != g->dtype || number % stride != 0 || slow || unfinished) {
            continue;
        }
        run r;
        if (set_up(&r, g, &one, number)) {
            check_forward(&r, number);
            g->forward++;
            if (backward) {
                check_backward(&r, number);
                g->backward++;
            }
        } else {
            g->refused++;
        }
        tear_down(&r);
    }
    assert_true(g->forward > 0 || stride > 1);
    da_context_free(contexts[0]);
    da_context_free(contexts[1]);
    multihead_case_file_close(&file);
}

#define MAX_GROUPS 32
static group groups[MAX_GROUPS];
static size_t group_count;

static void add_groups(const char *implementation, da_isa isa) {
    for (da_dtype dtype = DA_F32; dtype <= DA_F16; dtype++) {
        group *g = &groups[group_count++];
        *g = (group){.implementation = implementation, .isa = isa, .dtype = dtype};
        snprintf(g->name, sizeof g->name, "%s %s %s", implementation, da_isa_name(isa), da_dtype_name(dtype));
    }
}

int main(void) {
    struct CMUnitTest tests[MAX_GROUPS];
    stride = comparison_stride();
    if (dense_attention_register() != DA_OK) {
        return 1;
    }
    add_groups("dense", DA_ISA_PORTABLE);
    add_groups("standard", DA_ISA_PORTABLE);
    add_groups("improved", DA_ISA_PORTABLE);
    add_groups("improved", DA_ISA_AUTO);
    add_groups("ring", DA_ISA_AUTO);
    for (size_t k = 0; k < group_count; k++) {
        tests[k] = (struct CMUnitTest){groups[k].name, test_group, NULL, NULL, &groups[k]};
    }
    int failed = _cmocka_run_group_tests("multihead_compare", tests, group_count, NULL, NULL);
    for (size_t k = 0; k < group_count; k++) {
        const group *g = &groups[k];
        printf("%-28s %4ld outputs, error / bound at most %.3g; %4ld gradients, %.3g; %ld refused\n", g->name,
               g->forward, g->largest_forward, g->backward, g->largest_backward, g->refused);
    }
    return failed;
}
