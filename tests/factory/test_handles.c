/* Creation by name and the dispatch of calls, seen through an implementation that counts its calls. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "fixtures.h"

enum { BATCH = 2, N = 5, HEADS = 4, HEAD_DIM = 3, ELEMENTS = BATCH * N * HEADS * HEAD_DIM };

static call_counts counts;
static da_context *context;

/* Dense tensors of one forward call. */
static double memory[5][ELEMENTS];
static da_tensor query, key, value, out, lse;

static void make_tensors(da_dtype dtype, int64_t kv_heads) {
    query = da_tensor_make(memory[0], dtype, BATCH, N, HEADS, HEAD_DIM);
    key = da_tensor_make(memory[1], dtype, BATCH, N, kv_heads, HEAD_DIM);
    value = da_tensor_make(memory[2], dtype, BATCH, N, kv_heads, HEAD_DIM);
    out = da_tensor_make(memory[3], dtype, BATCH, N, HEADS, HEAD_DIM);
    lse = da_tensor_make(memory[4], DA_F64, BATCH, N, HEADS, 1);
}

static int set_up(void **state) {
    (void)state;
    counts = (call_counts){0};
    context = make_context(NULL, DA_ISA_AUTO, NULL);
    make_tensors(DA_F32, HEADS);
    return 0;
}

static int tear_down(void **state) {
    (void)state;
    da_context_free(context);
    return 0;
}

/* Registers under a new name, and returns it. */
static const char *register_new(uint32_t features, uint32_t dtypes) {
    static char name[32];
    static int number;
    snprintf(name, sizeof name, "counting-%d", number++);
    da_implementation table = counting_implementation(name, &counts);
    table.features = features;
    table.dtypes = dtypes;
    assert_int_equal(da_register_implementation(&table), DA_OK);
    return name;
}

static da_attention *create(const char *name, const da_attention_config *config) {
    da_attention *attention = NULL;
    assert_int_equal(da_attention_create(context, name, config, &attention), DA_OK);
    assert_non_null(attention);
    return attention;
}

static void test_life_of_a_handle(void **state) {
    (void)state;
    da_attention_config config = make_config(77);
    const char *name = register_new(0, DA_DTYPE_BIT(DA_F32));
    da_attention *attention = create(name, &config);
    assert_string_equal(da_attention_implementation(attention), name);
    assert_int_equal(counts.create, 1);
    assert_int_equal(counts.config.sequence_length, 77);
    /* The configuration was copied. */
    config.sequence_length = 1;
    assert_int_equal(da_attention_forward(attention, &query, &key, &value, &out, NULL, NULL), DA_OK);
    assert_int_equal(counts.forward, 1);
    assert_int_equal(counts.config.sequence_length, 77);
    assert_ptr_equal(counts.state, &counts.create);
    assert_ptr_equal(counts.call.context, context);
    assert_ptr_equal(counts.call.query, &query);
    assert_ptr_equal(counts.call.key, &key);
    assert_ptr_equal(counts.call.value, &value);
    assert_ptr_equal(counts.call.out, &out);
    assert_null(counts.call.lse);
    assert_null(counts.options.key_lengths);
    assert_null(counts.options.key_mask);
    assert_null((void *)(uintptr_t)counts.options.progress);
    assert_true(fabs(counts.call.scale - 1 / sqrt(HEAD_DIM)) < 1e-15);
    assert_int_equal(counts.destroy, 0);
    counts.state = NULL;
    da_attention_free(attention);
    assert_int_equal(counts.destroy, 1);
    assert_ptr_equal(counts.state, &counts.create);
}

static void test_options_reach_the_implementation(void **state) {
    (void)state;
    const int64_t lengths[BATCH] = {N, 0};
    const uint8_t mask[BATCH * N] = {0};
    da_attention_config config = make_config(0);
    config.scale_is_set = true;
    config.scale = -2.5;
    da_attention *attention = create(register_new(DA_FEATURE_ALL, DA_DTYPE_BITS_ALL), &config);
    da_call_options options;
    da_call_options_init(&options);
    options.key_lengths = lengths;
    options.key_mask = mask;
    make_tensors(DA_BF16, 2);
    assert_int_equal(da_attention_forward(attention, &query, &key, &value, &out, &lse, &options), DA_OK);
    assert_ptr_equal(counts.call.lse, &lse);
    assert_ptr_equal(counts.options.key_lengths, lengths);
    assert_ptr_equal(counts.options.key_mask, mask);
    assert_int_equal(counts.options.key_mask_stride[0], N);
    assert_int_equal(counts.options.key_mask_stride[1], 1);
    assert_true(counts.call.scale == -2.5);
    da_attention_free(attention);
}

static void test_status_of_the_implementation(void **state) {
    (void)state;
    const da_attention_config config = make_config(0);
    da_attention *attention = create(register_new(0, DA_DTYPE_BIT(DA_F32)), &config);
    counts.forward_status = DA_ERROR_CANCELLED;
    assert_int_equal(da_attention_forward(attention, &query, &key, &value, &out, NULL, NULL), DA_ERROR_CANCELLED);
    assert_message_contains("forward was told to fail");
    da_attention_free(attention);
}

static void test_failing_creation(void **state) {
    (void)state;
    const da_attention_config config = make_config(0);
    da_attention *attention = (da_attention *)(uintptr_t)64;
    const char *name = register_new(0, DA_DTYPE_BIT(DA_F32));
    counts.create_status = DA_ERROR_IO;
    assert_int_equal(da_attention_create(context, name, &config, &attention), DA_ERROR_IO);
    assert_message_contains("creation was told to fail");
    assert_null(attention);
    assert_int_equal(counts.destroy, 0);
}

static void test_bare_implementation(void **state) {
    (void)state;
    const da_attention_config config = make_config(0);
    da_implementation table = counting_implementation("bare", &counts);
    table.available = NULL;
    table.create = NULL;
    table.destroy = NULL;
    table.workspace = NULL;
    table.backward_workspace = NULL;
    assert_int_equal(da_register_implementation(&table), DA_OK);
    da_attention *attention = create("bare", &config);
    counts.state = &counts;
    assert_int_equal(da_attention_forward(attention, &query, &key, &value, &out, NULL, NULL), DA_OK);
    assert_null(counts.state);
    da_problem problem;
    size_t bytes = 1;
    da_problem_init(&problem);
    assert_int_equal(da_attention_workspace(attention, &problem, &bytes), DA_OK);
    assert_int_equal(bytes, 0);
    bytes = 1;
    assert_int_equal(da_attention_backward_workspace(attention, &problem, &bytes), DA_OK);
    assert_int_equal(bytes, 0);
    da_attention_free(attention);
    assert_int_equal(counts.create + counts.destroy + counts.workspace, 0);
}

/* ---- the backward pass ------------------------------------------------------------------------------------------- */

static da_tensor gradients[4]; /* grad_out, grad_query, grad_key, grad_value */

static da_backward_tensors backward_tensors(void) {
    static double gradient_memory[4][ELEMENTS];
    const da_tensor *like[4] = {&out, &query, &key, &value};
    da_backward_tensors t;
    da_backward_tensors_init(&t);
    for (int k = 0; k < 4; k++) {
        gradients[k] = *like[k];
        gradients[k].data = gradient_memory[k];
    }
    t.query = &query;
    t.key = &key;
    t.value = &value;
    t.out = &out;
    t.lse = &lse;
    t.grad_out = &gradients[0];
    t.grad_query = &gradients[1];
    t.grad_key = &gradients[2];
    t.grad_value = &gradients[3];
    return t;
}

static void test_backward_reaches_the_implementation(void **state) {
    (void)state;
    const int64_t lengths[BATCH] = {N, 0};
    const uint8_t mask[BATCH * N] = {0};
    da_attention_config config = make_config(77);
    config.dropout = 0.25;
    da_attention *attention = create(register_new(DA_FEATURE_ALL, DA_DTYPE_BITS_ALL), &config);
    da_call_options options;
    da_call_options_init(&options);
    options.key_lengths = lengths;
    options.key_mask = mask;
    options.dropout_seed = 99;
    make_tensors(DA_BF16, 2);
    da_backward_tensors t = backward_tensors();
    assert_int_equal(da_attention_backward(attention, &t, &options), DA_OK);
    assert_int_equal(counts.backward, 1);
    assert_int_equal(counts.forward, 0);
    assert_ptr_equal(counts.state, &counts.create);
    assert_ptr_equal(counts.backward_call.context, context);
    assert_int_equal(counts.config.sequence_length, 77);
    assert_memory_equal(&counts.tensors, &t, sizeof t);
    assert_ptr_equal(counts.options.key_lengths, lengths);
    assert_int_equal(counts.options.key_mask_stride[0], N);
    assert_int_equal(counts.options.dropout_seed, 99);
    assert_true(fabs(counts.backward_call.scale - 1 / sqrt(HEAD_DIM)) < 1e-15);
    assert_true(counts.backward_call.dropout == 0); /* it is not training */
    options.training = true;
    assert_int_equal(da_attention_backward(attention, &t, &options), DA_OK);
    assert_true(counts.backward_call.dropout == 0.25);
    assert_int_equal(da_attention_forward(attention, &query, &key, &value, &out, NULL, &options), DA_OK);
    assert_true(counts.call.dropout == 0.25);
    options.training = false;
    assert_int_equal(da_attention_forward(attention, &query, &key, &value, &out, NULL, &options), DA_OK);
    assert_true(counts.call.dropout == 0);
    counts.forward_status = DA_ERROR_CANCELLED;
    assert_int_equal(da_attention_backward(attention, &t, NULL), DA_ERROR_CANCELLED);
    assert_message_contains("backward was told to fail");
    da_attention_free(attention);
}

/* What tensors and options of a backward call ask for is refused as in a forward call; lse is no option here. */
static void test_options_of_backward(void **state) {
    (void)state;
    const int64_t lengths[BATCH] = {1, 2};
    da_attention_config config = make_config(0);
    config.dropout = 0.5;
    da_attention *attention = create(register_new(0, DA_DTYPE_BIT(DA_F32)), &config);
    da_call_options options;
    da_call_options_init(&options);
    da_backward_tensors t = backward_tensors();
    assert_int_equal(da_attention_backward(attention, &t, &options), DA_OK);
    options.training = true;
    assert_int_equal(da_attention_backward(attention, &t, &options), DA_ERROR_UNSUPPORTED);
    assert_message_contains("does not take dropout");
    assert_int_equal(da_attention_forward(attention, &query, &key, &value, &out, NULL, &options), DA_ERROR_UNSUPPORTED);
    assert_message_contains("does not take dropout");
    options.training = false;
    options.key_lengths = lengths;
    assert_int_equal(da_attention_backward(attention, &t, &options), DA_ERROR_UNSUPPORTED);
    assert_message_contains("does not take key padding");
    make_tensors(DA_F32, 2);
    t = backward_tensors();
    assert_int_equal(da_attention_backward(attention, &t, NULL), DA_ERROR_UNSUPPORTED);
    assert_message_contains("does not take grouped queries");
    make_tensors(DA_F64, HEADS);
    t = backward_tensors();
    assert_int_equal(da_attention_backward(attention, &t, NULL), DA_ERROR_UNSUPPORTED);
    assert_message_contains("does not take data type f64; allowed: f32");
    assert_int_equal(counts.backward, 1);
    da_attention_free(attention);
}

static void test_implementation_without_backward(void **state) {
    (void)state;
    const da_attention_config config = make_config(0);
    da_implementation table = counting_implementation("one-way", &counts);
    da_problem problem;
    size_t bytes = 17;
    table.backward = NULL;
    assert_int_equal(da_register_implementation(&table), DA_OK);
    da_attention *attention = create("one-way", &config);
    da_backward_tensors t = backward_tensors();
    assert_int_equal(da_attention_backward(attention, &t, NULL), DA_ERROR_UNSUPPORTED);
    assert_message_contains("implementation \"one-way\" has no backward pass");
    da_problem_init(&problem);
    assert_int_equal(da_attention_backward_workspace(attention, &problem, &bytes), DA_ERROR_UNSUPPORTED);
    assert_message_contains("implementation \"one-way\" has no backward pass");
    assert_int_equal(bytes, 17);
    da_attention_free(attention);
}

static void test_backward_workspace(void **state) {
    (void)state;
    const da_attention_config config = make_config(7);
    da_problem problem;
    size_t bytes;
    da_problem_init(&problem);
    problem.heads = 3;
    da_attention *attention = create(register_new(0, DA_DTYPE_BITS_ALL), &config);
    assert_int_equal(da_attention_backward_workspace(attention, &problem, &bytes), DA_OK);
    assert_int_equal(bytes, 6015);
    problem.heads = 0;
    assert_int_equal(da_attention_backward_workspace(attention, &problem, &bytes), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("problem.heads is 0");
    assert_int_equal(da_attention_backward_workspace(attention, NULL, &bytes), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("problem is NULL");
    problem.heads = 3;
    assert_int_equal(da_attention_backward_workspace(attention, &problem, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("bytes is NULL");
    assert_int_equal(da_attention_backward_workspace(NULL, &problem, &bytes), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("attention is NULL");
    da_attention_free(attention);
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

typedef struct option_case {
    const char *option;
    uint32_t feature;
    void (*set)(da_attention_config *config);
} option_case;

static void set_causal(da_attention_config *config) {
    config->causal = true;
}

static void set_window(da_attention_config *config) {
    config->window = 0;
}

static void set_head_groups(da_attention_config *config) {
    config->mixing = DA_MIXING_HEAD_GROUPS;
}

static void set_block_offsets(da_attention_config *config) {
    config->offset_rule = DA_OFFSET_BLOCK;
}

static void set_zero_pad(da_attention_config *config) {
    config->tail_rule = DA_TAIL_ZERO_PAD;
}

static void set_overlap_once(da_attention_config *config) {
    config->overlap = DA_OVERLAP_ONCE;
}

static const option_case option_cases[] = {
    {"causal", DA_FEATURE_CAUSAL, set_causal},
    {"window", DA_FEATURE_WINDOW, set_window},
    {"mixing head_groups", DA_FEATURE_HEAD_GROUPS, set_head_groups},
    {"offset_rule block", DA_FEATURE_BLOCK_OFFSETS, set_block_offsets},
    {"tail_rule zero_pad", DA_FEATURE_ZERO_PAD, set_zero_pad},
    {"overlap once", DA_FEATURE_OVERLAP_ONCE, set_overlap_once},
};

/* An option is refused by one that lacks just that, and taken by one that has just that. */
static void test_options_of_creation(void **state) {
    (void)state;
    for (size_t k = 0; k < sizeof option_cases / sizeof *option_cases; k++) {
        const option_case *row = &option_cases[k];
        da_attention *attention = NULL;
        da_attention_config config = make_config(0);
        char message[128];
        row->set(&config);
        const char *name = register_new(DA_FEATURE_ALL & ~row->feature, DA_DTYPE_BITS_ALL);
        assert_int_equal(da_attention_create(context, name, &config, &attention), DA_ERROR_UNSUPPORTED);
        snprintf(message, sizeof message, "implementation \"%s\" does not take %s", name, row->option);
        assert_string_equal(da_last_error_message(), message);
        assert_null(attention);
        assert_int_equal(counts.create, (int)k);
        name = register_new(row->feature, DA_DTYPE_BITS_ALL);
        da_attention_free(create(name, &config));
    }
}

static void test_several_options_refused(void **state) {
    (void)state;
    da_attention *attention = NULL;
    da_attention_config config = make_config(0);
    for (size_t k = 0; k < sizeof option_cases / sizeof *option_cases; k++) {
        option_cases[k].set(&config);
    }
    const char *name = register_new(DA_FEATURE_WINDOW, DA_DTYPE_BITS_ALL);
    assert_int_equal(da_attention_create(context, name, &config, &attention), DA_ERROR_UNSUPPORTED);
    assert_message_contains("does not take causal, mixing head_groups, offset_rule block, tail_rule zero_pad, "
                            "overlap once");
}

static void test_data_type_of_creation(void **state) {
    (void)state;
    da_attention *attention = NULL;
    da_attention_config config = make_config(0);
    const char *name = register_new(0, DA_DTYPE_BIT(DA_F64) | DA_DTYPE_BIT(DA_F16));
    config.dtype = DA_BF16;
    assert_int_equal(da_attention_create(context, name, &config, &attention), DA_ERROR_UNSUPPORTED);
    assert_message_contains("does not take data type bf16; allowed: f64, f16");
    config.dtype = DA_F16;
    da_attention_free(create(name, &config));
    config.dtype = DA_DTYPE_ANY;
    da_attention_free(create(name, &config));
    name = register_new(0, 0);
    assert_int_equal(da_attention_create(context, name, &config, &attention), DA_ERROR_UNSUPPORTED);
    assert_message_contains("does not take data type any; allowed: none");
}

static void test_options_of_forward(void **state) {
    (void)state;
    const int64_t lengths[BATCH] = {1, 2};
    const uint8_t mask[BATCH * N] = {0};
    const da_attention_config config = make_config(0);
    da_attention *attention = create(register_new(0, DA_DTYPE_BIT(DA_F32)), &config);
    da_call_options options;
    da_call_options_init(&options);
    options.key_lengths = lengths;
    assert_int_equal(da_attention_forward(attention, &query, &key, &value, &out, NULL, &options), DA_ERROR_UNSUPPORTED);
    assert_message_contains("does not take key padding");
    options.key_lengths = NULL;
    options.key_mask = mask;
    assert_int_equal(da_attention_forward(attention, &query, &key, &value, &out, NULL, &options), DA_ERROR_UNSUPPORTED);
    assert_message_contains("does not take key padding");
    assert_int_equal(da_attention_forward(attention, &query, &key, &value, &out, &lse, NULL), DA_ERROR_UNSUPPORTED);
    assert_message_contains("does not take lse");
    make_tensors(DA_F32, 2);
    assert_int_equal(da_attention_forward(attention, &query, &key, &value, &out, NULL, NULL), DA_ERROR_UNSUPPORTED);
    assert_message_contains("does not take grouped queries");
    make_tensors(DA_F64, HEADS);
    assert_int_equal(da_attention_forward(attention, &query, &key, &value, &out, NULL, NULL), DA_ERROR_UNSUPPORTED);
    assert_message_contains("does not take data type f64; allowed: f32");
    assert_int_equal(counts.forward, 0);
    da_attention_free(attention);
}

static void test_unavailable(void **state) {
    (void)state;
    const da_attention_config config = make_config(0);
    da_attention *attention = NULL;
    const char *name = register_new(0, DA_DTYPE_BIT(DA_F32));
    counts.unavailable_because = "no such device";
    assert_int_equal(da_attention_create(context, name, &config, &attention), DA_ERROR_UNAVAILABLE);
    assert_message_contains("cannot run here: no such device");
    assert_int_equal(counts.create, 0);
    assert_int_equal(da_attention_create(context, "distributed", &config, &attention), DA_ERROR_UNAVAILABLE);
    assert_message_contains("distributed");
    assert_message_contains("cannot run here: the context has no communicator of several ranks");
}

static void test_auto_never_picks_a_users(void **state) {
    (void)state;
    register_new(DA_FEATURE_ALL, DA_DTYPE_BITS_ALL);
    for (int64_t n = 0; n <= 200000; n += 50001) {
        const da_attention_config config = make_config(n);
        da_attention *attention = create("auto", &config);
        const char *name = da_attention_implementation(attention);
        assert_true(strcmp(name, "standard") == 0 || strcmp(name, "improved") == 0 || strcmp(name, "ring") == 0);
        da_attention_free(attention);
    }
    assert_int_equal(counts.create, 0);
    assert_int_equal(counts.available, 0);
}

static void test_creation_refusals(void **state) {
    (void)state;
    da_attention *const unset = (da_attention *)(uintptr_t)64;
    da_attention_config config = make_config(0), empty;
    da_attention *attention = unset;
    assert_int_equal(da_attention_create(context, "standard", &config, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("out is NULL");
    assert_int_equal(da_attention_create(NULL, "standard", &config, &attention), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("context is NULL");
    assert_null(attention);
    attention = unset;
    assert_int_equal(da_attention_create(context, NULL, &config, &attention), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("name is NULL");
    assert_null(attention);
    attention = unset;
    assert_int_equal(da_attention_create(context, "standard", NULL, &attention), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("config is NULL");
    assert_null(attention);
    attention = unset;
    assert_int_equal(da_attention_create(context, "flash", &config, &attention), DA_ERROR_UNKNOWN_IMPLEMENTATION);
    assert_message_contains("\"flash\"; allowed: standard, improved, ring, distributed, block_sparse");
    assert_null(attention);
    da_attention_config_init(&empty);
    attention = unset;
    assert_int_equal(da_attention_create(context, "auto", &empty, &attention), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("segment_lengths is empty");
    assert_null(attention);
    config.device = DA_DEVICE_CUDA;
    attention = unset;
    assert_int_equal(da_attention_create(context, "auto", &config, &attention), DA_ERROR_UNAVAILABLE);
    assert_message_contains("config.device is cuda");
    assert_null(attention);
    config.device = DA_DEVICE_CPU;
    da_attention_free(create("standard", &config));
}

static void test_null_handles(void **state) {
    (void)state;
    da_problem problem;
    size_t bytes;
    da_problem_init(&problem);
    da_attention_free(NULL);
    assert_null(da_attention_implementation(NULL));
    assert_int_equal(da_attention_forward(NULL, &query, &key, &value, &out, NULL, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("attention is NULL");
    assert_int_equal(da_attention_workspace(NULL, &problem, &bytes), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("attention is NULL");
    const da_attention_config config = make_config(0);
    da_attention *attention = create("standard", &config);
    const da_tensor *tensors[4] = {&query, &key, &value, &out};
    const char *names[4] = {"query", "key", "value", "out"};
    for (int k = 0; k < 4; k++) {
        const da_tensor *t[4] = {tensors[0], tensors[1], tensors[2], tensors[3]};
        t[k] = NULL;
        assert_int_equal(da_attention_forward(attention, t[0], t[1], t[2], t[3], NULL, NULL),
                         DA_ERROR_INVALID_ARGUMENT);
        assert_message_contains(names[k]);
    }
    assert_int_equal(da_attention_workspace(attention, NULL, &bytes), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("problem is NULL");
    assert_int_equal(da_attention_workspace(attention, &problem, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("bytes is NULL");
    da_attention_free(attention);
}

static void test_workspace(void **state) {
    (void)state;
    da_attention_config config = make_config(7);
    da_problem problem;
    size_t bytes;
    da_problem_init(&problem);
    problem.heads = 3;
    da_attention *attention = create(register_new(0, DA_DTYPE_BITS_ALL), &config);
    assert_int_equal(da_attention_workspace(attention, &problem, &bytes), DA_OK);
    assert_int_equal(bytes, 3007); /* the length that the configuration expects */
    problem.n = 9;
    assert_int_equal(da_attention_workspace(attention, &problem, &bytes), DA_OK);
    assert_int_equal(bytes, 3009);
    problem.heads = 0;
    assert_int_equal(da_attention_workspace(attention, &problem, &bytes), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("problem.heads is 0");
    assert_int_equal(counts.workspace, 2);
    da_attention_free(attention);
    config.dtype = DA_F16;
    attention = create(register_new(0, DA_DTYPE_BITS_ALL), &config);
    problem.heads = 1;
    assert_int_equal(da_attention_workspace(attention, &problem, &bytes), DA_ERROR_INVALID_ARGUMENT);
    assert_message_contains("problem.dtype is f32; allowed: f16");
    da_attention_free(attention);
}

/* At every allocation of a creation: the status says so, nothing is returned, nothing leaks. */
static void test_creation_with_short_memory(void **state) {
    (void)state;
    const char *names[] = {"standard", "improved", "auto", register_new(0, DA_DTYPE_BITS_ALL)};
    const da_attention_config config = make_config(4096);
    for (size_t k = 0; k < sizeof names / sizeof *names; k++) {
        short_memory budget = {.until_failure = -1};
        da_context *short_context = make_context(NULL, DA_ISA_AUTO, &budget);
        int of_context = budget.live, failures = 0;
        da_status status = DA_ERROR_OUT_OF_MEMORY;
        while (status != DA_OK) {
            da_attention *attention = (da_attention *)(uintptr_t)64;
            budget.until_failure = failures;
            status = da_attention_create(short_context, names[k], &config, &attention);
            if (status == DA_OK) {
                da_attention_free(attention);
            } else {
                assert_int_equal(status, DA_ERROR_OUT_OF_MEMORY);
                assert_null(attention);
                failures++;
            }
            assert_int_equal(budget.live, of_context);
        }
        assert_true(failures >= 1);
        da_context_free(short_context);
        assert_int_equal(budget.live, 0);
    }
    assert_int_equal(counts.create, counts.destroy);
}

#define HANDLE_TEST(test) cmocka_unit_test_setup_teardown(test, set_up, tear_down)

int main(void) {
    const struct CMUnitTest tests[] = {
        HANDLE_TEST(test_life_of_a_handle),
        HANDLE_TEST(test_options_reach_the_implementation),
        HANDLE_TEST(test_status_of_the_implementation),
        HANDLE_TEST(test_failing_creation),
        HANDLE_TEST(test_bare_implementation),
        HANDLE_TEST(test_backward_reaches_the_implementation),
        HANDLE_TEST(test_options_of_backward),
        HANDLE_TEST(test_implementation_without_backward),
        HANDLE_TEST(test_backward_workspace),
        HANDLE_TEST(test_options_of_creation),
        HANDLE_TEST(test_several_options_refused),
        HANDLE_TEST(test_data_type_of_creation),
        HANDLE_TEST(test_options_of_forward),
        HANDLE_TEST(test_unavailable),
        HANDLE_TEST(test_auto_never_picks_a_users),
        HANDLE_TEST(test_creation_refusals),
        HANDLE_TEST(test_null_handles),
        HANDLE_TEST(test_workspace),
        HANDLE_TEST(test_creation_with_short_memory),
    };
    return cmocka_run_group_tests_name("handles", tests, NULL, NULL);
}
