/* Calls of the module that must be refused, and what the messages say. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "multihead/fixtures.h"
#include "support/refusals.h"

struct fixture {
    module_fixture m;
    module_fixture second; /* another module */
    da_multihead *created;
    da_parameter view;
    da_weights_format format;
    int64_t lengths[BATCH];
};

#define INVALID DA_ERROR_INVALID_ARGUMENT

static da_status create(fixture *f) {
    module_fixture *m = &f->m;
    da_status status = da_multihead_create(m->context, "standard", &m->config, &m->attention, &f->created);
    assert_true(status == DA_OK || !f->created);
    da_multihead_free(f->created);
    return status;
}

static da_status create_as(fixture *f, const char *name) {
    return da_multihead_create(f->m.context, name, &f->m.config, &f->m.attention, &f->created);
}

static da_status forward(fixture *f) {
    module_fixture *m = &f->m;
    da_status status = da_multihead_forward(m->multihead, &m->x, &m->z, NULL, &m->y, &m->options);
    for (int k = 0; k < ELEMENTS; k++) {
        assert_true(m->out[k] == 0); /* nothing was written */
    }
    return status;
}

/* The training pass that the fixture has made fits, but for what the row changes. */
static da_status backward(fixture *f) {
    module_fixture *m = &f->m;
    da_status status = module_fixture_backward(m);
    for (size_t k = 0; k < da_multihead_parameter_count(m->multihead); k++) {
        da_parameter gradient;
        assert_int_equal(da_multihead_gradient_at(m->gradients, k, &gradient), DA_OK);
        assert_true(((float *)gradient.data)[0] == 0);
    }
    for (int k = 0; k < ELEMENTS; k++) {
        assert_true(m->grad_input[k] == 0);
    }
    return status;
}

static da_status xpos_too_long(fixture *f) {
    static float x[4], y[4];
    da_multihead *module;
    f->m.config.position = DA_POSITION_XPOS;
    f->m.config.xpos_scale_base = 0.01;
    assert_int_equal(da_multihead_create(f->m.context, "standard", &f->m.config, &f->m.attention, &module), DA_OK);
    da_tensor input = da_sequence_make(x, DA_F32, 1, 3, EMBED), output = da_sequence_make(y, DA_F32, 1, 3, EMBED);
    memset(input.stride, 0, sizeof input.stride);
    da_status status = da_multihead_forward(module, &input, NULL, NULL, &output, NULL);
    da_multihead_free(module);
    return status;
}

/* clang-format off */
#define ROWS(ROW) \
    ROW(create_out_null, da_multihead_create(f->m.context, "auto", &f->m.config, &f->m.attention, NULL), \
        INVALID, "out is NULL") \
    ROW(create_context_null, da_multihead_create(NULL, "auto", &f->m.config, &f->m.attention, &f->created), \
        INVALID, "context is NULL") \
    ROW(create_name_null, create_as(f, NULL), INVALID, "name is NULL") \
    ROW(create_name_unknown, create_as(f, "none"), DA_ERROR_UNKNOWN_IMPLEMENTATION, "none") \
    ROW(create_config_null, da_multihead_create(f->m.context, "auto", NULL, &f->m.attention, &f->created), \
        INVALID, "config is NULL") \
    ROW(create_attention_null, da_multihead_create(f->m.context, "auto", &f->m.config, NULL, &f->created), \
        INVALID, "attention is NULL") \
    ROW(create_embed_dim, (f->m.config.embed_dim = 25, create(f)), INVALID, "num_heads is 4") \
    ROW(create_embed_dim_huge, (f->m.config.embed_dim = (int64_t)1 << 33, \
        f->m.config.num_heads = (int64_t)1 << 31, f->m.config.kv_heads = 0, create(f)), \
        INVALID, "embed_dim is 8589934592") \
    ROW(create_no_patterns, (f->m.attention.segment_count = 0, create(f)), INVALID, "segment_lengths is empty") \
    ROW(create_dtypes, (f->m.attention.dtype = DA_F64, create(f)), INVALID, "the attention's dtype is f64") \
    ROW(create_cuda, (f->m.config.device = DA_DEVICE_CUDA, create(f)), DA_ERROR_UNAVAILABLE, "cuda") \
    ROW(create_position, (f->m.config.position = (da_position)7, create(f)), INVALID, "position is 7") \
    ROW(create_rotary_layout, (f->m.config.rotary_layout = (da_rotary_layout)-1, create(f)), \
        INVALID, "rotary_layout is -1") \
    ROW(create_odd_head_dim, (f->m.config.num_heads = f->m.config.kv_heads = 8, create(f)), \
        INVALID, "an even head_dim") \
    ROW(create_rope_base_one, (f->m.config.rope_base = 1, create(f)), INVALID, "rope_base is 1") \
    ROW(create_rope_base_infinite, (f->m.config.rope_base = HUGE_VAL, create(f)), INVALID, "rope_base is inf") \
    ROW(create_scale_base, (f->m.config.xpos_scale_base = 0, create(f)), INVALID, "xpos_scale_base is 0") \
    ROW(create_scale_base_nan, (f->m.config.xpos_scale_base = (double)NAN, create(f)), \
        INVALID, "xpos_scale_base is") \
    ROW(parameter_module_null, da_multihead_parameter(NULL, "q_proj.weight", &f->view), \
        INVALID, "multihead is NULL") \
    ROW(parameter_name_null, da_multihead_parameter(f->m.multihead, NULL, &f->view), INVALID, "name is NULL") \
    ROW(parameter_unknown, da_multihead_parameter(f->m.multihead, "q", &f->view), \
        INVALID, "q_proj.weight, k_proj.weight") \
    ROW(parameter_out_null, da_multihead_parameter(f->m.multihead, "q_proj.weight", NULL), INVALID, "out is NULL") \
    ROW(parameter_index, da_multihead_parameter_at(f->m.multihead, 14, &f->view), \
        INVALID, "index is 14; allowed: 0 to 13") \
    ROW(parameter_at_null, da_multihead_parameter_at(NULL, 0, &f->view), INVALID, "multihead is NULL") \
    ROW(gather_module_null, da_multihead_gather_parameter(NULL, "q_proj.weight", f->m.out), \
        INVALID, "multihead is NULL") \
    ROW(gather_data_null, da_multihead_gather_parameter(f->m.multihead, "q_proj.weight", NULL), INVALID, "data is NULL") \
    ROW(gather_unknown, da_multihead_gather_parameter(f->m.multihead, "q", f->m.out), \
        INVALID, "q_proj.weight, k_proj.weight") \
    ROW(initialise_null, da_multihead_initialise(NULL, 1), INVALID, "multihead is NULL") \
    ROW(gradients_null, da_multihead_gradients_create(NULL, &f->m.gradients), INVALID, "multihead is NULL") \
    ROW(gradients_out_null, da_multihead_gradients_create(f->m.multihead, NULL), INVALID, "out is NULL") \
    ROW(gradient_null, da_multihead_gradient(NULL, "q_proj.weight", &f->view), INVALID, "gradients is NULL") \
    ROW(gradient_at_null, da_multihead_gradient_at(NULL, 0, &f->view), INVALID, "gradients is NULL") \
    ROW(gradient_index, da_multihead_gradient_at(f->m.gradients, 99, &f->view), INVALID, "index is 99") \
    ROW(forward_module_null, da_multihead_forward(NULL, &f->m.x, NULL, NULL, &f->m.y, NULL), \
        INVALID, "multihead is NULL") \
    ROW(forward_query_null, da_multihead_forward(f->m.multihead, NULL, NULL, NULL, &f->m.y, NULL), \
        INVALID, "query is NULL") \
    ROW(forward_out_null, da_multihead_forward(f->m.multihead, &f->m.x, NULL, NULL, NULL, NULL), \
        INVALID, "out is NULL") \
    ROW(forward_saved_null, da_multihead_forward_training(f->m.multihead, &f->m.x, NULL, NULL, &f->m.y, NULL, NULL), \
        INVALID, "saved is NULL") \
    ROW(forward_dtype, (f->m.x.dtype = DA_BF16, forward(f)), INVALID, "query.dtype is bf16; allowed: f32") \
    ROW(forward_key_dtype, (f->m.z.dtype = DA_F16, forward(f)), INVALID, "key.dtype is f16") \
    ROW(forward_key_shape, (f->m.z.shape[1] = N - 1, forward(f)), INVALID, "key.shape is (2, 36, 1, 24)") \
    ROW(forward_heads, (f->m.x.shape[2] = 4, f->m.x.shape[3] = 6, forward(f)), \
        INVALID, "query.shape is (2, 37, 4, 6)") \
    ROW(forward_out_shape, (f->m.y.shape[3] = 23, forward(f)), INVALID, "out.shape is (2, 37, 1, 23)") \
    ROW(forward_empty, (f->m.x.shape[1] = 0, forward(f)), INVALID, "query.shape[1] (n) is 0") \
    ROW(forward_out_is_input, (f->m.y.data = f->m.x.data, forward(f)), INVALID, "meets query's memory") \
    ROW(forward_out_is_key, (f->m.y.data = f->m.other + 5, forward(f)), INVALID, "meets key's memory") \
    ROW(forward_out_folded, (f->m.y.stride[1] = 0, forward(f)), INVALID, "out.stride") \
    ROW(forward_lengths, (f->m.options.key_lengths = f->lengths, f->lengths[1] = N + 1, forward(f)), \
        INVALID, "key_lengths[1] is 38") \
    ROW(forward_options_size, (f->m.options.size = 3, forward(f)), INVALID, "options.size is 3") \
    ROW(forward_xpos_length, xpos_too_long(f), \
        INVALID, "(n) is 3; allowed with position xpos, f32 and xpos_scale_base 0.01: up to 0") \
    ROW(backward_module_null, da_multihead_backward(NULL, f->m.saved, &f->m.tensors, NULL), \
        INVALID, "multihead is NULL") \
    ROW(backward_tensors_null, da_multihead_backward(f->m.multihead, f->m.saved, NULL, NULL), \
        INVALID, "tensors is NULL") \
    ROW(backward_tensors_size, (f->m.tensors.size = 1, backward(f)), INVALID, "tensors.size is 1") \
    ROW(backward_saved_null, da_multihead_backward(f->m.multihead, NULL, &f->m.tensors, NULL), \
        INVALID, "saved is NULL") \
    ROW(backward_saved_of_another, da_multihead_backward(f->second.multihead, f->m.saved, &f->m.tensors, NULL), \
        INVALID, "saved belongs to another") \
    ROW(backward_saved_shape, (f->m.x.shape[1] = f->m.grad_y.shape[1] = 5, backward(f)), \
        INVALID, "n 37; allowed: query's, 2 and 5") \
    ROW(backward_gradients_of_another, (f->m.tensors.gradients = f->second.gradients, backward(f)), \
        INVALID, "gradients belong to another") \
    ROW(backward_query_null, (f->m.tensors.query = NULL, backward(f)), INVALID, "query is NULL") \
    ROW(backward_grad_out_null, (f->m.tensors.grad_out = NULL, backward(f)), INVALID, "grad_out is NULL") \
    ROW(backward_grad_out_dtype, (f->m.grad_y.dtype = DA_F64, backward(f)), INVALID, "grad_out.dtype is f64") \
    ROW(backward_grad_key, (f->m.tensors.grad_key = &f->m.grad_x, backward(f)), INVALID, "though key is NULL") \
    ROW(backward_grad_query_shape, (f->m.grad_x.shape[0] = 1, backward(f)), INVALID, "grad_query.shape is (1, 37") \
    ROW(backward_grad_query_folded, (f->m.grad_x.stride[3] = 0, backward(f)), INVALID, "grad_query.stride") \
    ROW(backward_grad_query_is_input, (f->m.grad_x.data = f->m.input, backward(f)), INVALID, "grad_query.data is") \
    ROW(backward_grad_query_is_grad_out, (f->m.grad_x.data = f->m.grad_out, backward(f)), \
        INVALID, "meets grad_out's") \
    ROW(backward_targets_meet, (f->m.tensors.key = &f->m.z, f->m.tensors.grad_key = &f->m.y, \
        f->m.y.data = f->m.grad_input + 1, backward(f)), \
        INVALID, "meets grad_query's memory") \
    ROW(backward_options_size, (f->m.options.size = 2, backward(f)), INVALID, "options.size is 2") \
    ROW(load_null, da_multihead_load(NULL, "w.safetensors", NULL), INVALID, "multihead is NULL") \
    ROW(load_path_null, da_multihead_load(f->m.multihead, NULL, NULL), INVALID, "path is NULL") \
    ROW(load_path_empty, da_multihead_load(f->m.multihead, "", NULL), INVALID, "path is empty") \
    ROW(load_missing, da_multihead_load(f->m.multihead, "/nowhere/w.safetensors", NULL), \
        DA_ERROR_IO, "/nowhere/w.safetensors: ") \
    ROW(load_folder, da_multihead_load(f->m.multihead, "/", NULL), DA_ERROR_IO, "directory") \
    ROW(format_size, (f->format.size = 1, da_multihead_load(f->m.multihead, "w", &f->format)), \
        INVALID, "format.size is 1") \
    ROW(format_names, (f->format.names = (da_parameter_names)5, da_multihead_save(f->m.multihead, "w", &f->format)), \
        INVALID, "format.names is 5") \
    ROW(format_layout, (f->format.layout = (da_weight_layout)5, da_multihead_save(f->m.multihead, "w", &f->format)), \
        INVALID, "format.layout is 5") \
    ROW(save_null, da_multihead_save(NULL, "w.safetensors", NULL), INVALID, "multihead is NULL") \
    ROW(save_nowhere, da_multihead_save(f->m.multihead, "/nowhere/w.safetensors", NULL), DA_ERROR_IO, "/nowhere") \
    ROW(save_prefix, (f->format.prefix = "\xff", da_multihead_save(f->m.multihead, "w", &f->format)), \
        INVALID, "UTF-8")
/* clang-format on */

ROWS(REFUSAL_FUNCTION)
static const refusal rows[] = {ROWS(REFUSAL_ENTRY)};

static void check_row(void **state) {
    static fixture f;
    memset(&f, 0, sizeof f);
    module_fixture_init(&f.m);
    module_fixture_init(&f.second);
    da_weights_format_init(&f.format);
    assert_int_equal(module_fixture_open(&f.m, "standard"), DA_OK);
    assert_int_equal(module_fixture_open(&f.second, "standard"), DA_OK);
    assert_int_equal(module_fixture_forward(&f.m), DA_OK);
    memset(f.m.out, 0, sizeof f.m.out);
    da_multihead_gradients *gradients = f.m.gradients;
    refusal_check(*state, &f);
    f.m.gradients = gradients; /* a refused creation clears what it was given */
    module_fixture_close(&f.m);
    module_fixture_close(&f.second);
}

/* The largest prefix fits, one byte more is refused. */
static void test_long_prefix(void **state) {
    module_fixture f;
    char prefix[600];
    da_weights_format format;
    module_fixture_init(&f);
    assert_int_equal(module_fixture_open(&f, "standard"), DA_OK);
    da_weights_format_init(&format);
    memset(prefix, 'p', sizeof prefix);
    prefix[448] = '\0';
    format.prefix = prefix;
    assert_int_equal(da_multihead_load(f.multihead, "/nowhere/w", &format), DA_ERROR_IO);
    prefix[448] = 'p';
    prefix[449] = '\0';
    assert_int_equal(da_multihead_load(f.multihead, "/nowhere/w", &format), INVALID);
    assert_non_null(strstr(da_last_error_message(), "format.prefix has 449 bytes; allowed: up to 448"));
    module_fixture_close(&f);
}

static void test_null_is_harmless(void **state) {
    da_multihead_free(NULL);
    da_multihead_gradients_free(NULL);
    da_multihead_gradients_zero(NULL);
    da_multihead_saved_free(NULL);
    da_weights_format_init(NULL);
    da_multihead_backward_tensors_init(NULL);
    assert_null(da_multihead_implementation(NULL));
    assert_int_equal(da_multihead_parameter_count(NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_long_prefix), cmocka_unit_test(test_null_is_harmless)};
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed + refusal_run("multihead_refusals", rows, sizeof rows / sizeof *rows, check_row);
}
