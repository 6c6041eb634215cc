/* Calls other than the forward pass that must be refused: configurations, contexts, creation, planning, registry. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/refusals.h"

struct fixture {
    da_context *context;
    da_attention *attention;
    da_explanation *explanation;
    da_attention_config config;
    da_multihead_config multihead;
    da_problem problem;
    da_context_options options;
    da_hardware hardware;
    da_ranks_options rates;
    da_implementation implementation;
    da_implementation_info info;
    da_context *made_context;
    da_attention *made_attention;
    da_explanation *made_explanation;
};

static da_status any_forward(void *state, const da_forward_call *call, void *user) {
    return DA_OK;
}

static void *any_allocate(size_t bytes, void *user) {
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

static void any_release(void *memory, void *user) {
    free(memory);
}

static void set_up(fixture *f) {
    memset(f, 0, sizeof *f);
    assert_int_equal(da_context_create(NULL, &f->context), DA_OK);
    da_attention_config_init(&f->config);
    assert_int_equal(da_attention_config_set_patterns(&f->config, (int64_t[]){4, 8}, 2, (int64_t[]){1, 2}, 2), DA_OK);
    assert_int_equal(da_attention_create(f->context, "standard", &f->config, &f->attention), DA_OK);
    da_problem_init(&f->problem);
    f->problem.n = 100;
    da_problem unknown = f->problem;
    unknown.n = 0; /* a known length would calibrate the cost model, for every row of the table */
    assert_int_equal(da_explain(f->context, &f->config, &unknown, &f->explanation), DA_OK);
    da_multihead_config_init(&f->multihead);
    f->multihead.embed_dim = 64;
    f->multihead.num_heads = 4;
    da_context_options_init(&f->options);
    da_hardware_init(&f->hardware);
    da_ranks_options_init(&f->rates);
    da_implementation_info_init(&f->info);
    f->implementation = (da_implementation){
        .size = sizeof f->implementation,
        .name = "refused",
        .dtypes = DA_DTYPE_BITS_ALL,
        .forward = any_forward,
    };
}

static void tear_down(fixture *f) {
    da_context_free(f->made_context);
    da_attention_free(f->made_attention);
    da_explanation_free(f->made_explanation);
    da_explanation_free(f->explanation);
    da_attention_free(f->attention);
    da_context_free(f->context);
}

/* ---- the calls, each on the fixture as it has been spoiled ------------------------------------------------------- */

static da_status create(fixture *f, const char *name) {
    da_attention *garbage = (da_attention *)(void *)f;
    f->made_attention = garbage;
    da_status status = da_attention_create(f->context, name, &f->config, &f->made_attention);
    if (f->made_attention == garbage || (status != DA_OK && f->made_attention)) {
        f->made_attention = NULL;
        return DA_OK; /* an error must leave NULL: let the row fail */
    }
    return status;
}

/* Everything that takes a configuration must refuse a bad one, with one voice. */
static da_status validate(fixture *f) {
    char expected[512];
    int64_t count = 77;
    da_cost cost = {.size = sizeof cost};
    da_status status = da_attention_config_validate(&f->config);
    snprintf(expected, sizeof expected, "%s", da_last_error_message());
    assert_int_equal(create(f, "standard"), status);
    assert_string_equal(da_last_error_message(), expected);
    assert_int_equal(create(f, "auto"), status);
    assert_int_equal(da_explain(f->context, &f->config, &f->problem, &f->made_explanation), status);
    assert_null(f->made_explanation);
    assert_int_equal(da_pattern_cost(&f->config, &f->problem, &cost), status);
    assert_int_equal(da_pattern_multiplicity(&f->config, 10, 2, 0, 3, 3, &count), status);
    assert_int_equal(count, 77);
    return status;
}

static da_status set_patterns(fixture *f, const int64_t *segments, size_t segment_count, const int64_t *rates,
                              size_t rate_count) {
    da_attention_config before = f->config;
    da_status status = da_attention_config_set_patterns(&f->config, segments, segment_count, rates, rate_count);
    assert_memory_equal(&before, &f->config, sizeof before);
    return status;
}

static da_status set_many_patterns(fixture *f, size_t count) {
    int64_t ones[DA_MAX_PATTERNS + 1];
    for (size_t p = 0; p < count; p++) {
        ones[p] = 1;
    }
    return set_patterns(f, ones, count, ones, count);
}

static da_status make_context(fixture *f) {
    f->made_context = (da_context *)(void *)f;
    da_status status = da_context_create(&f->options, &f->made_context);
    assert_true(status == DA_OK || !f->made_context);
    return status;
}

static da_status make_context_on(fixture *f) {
    f->options.hardware = &f->hardware;
    return make_context(f);
}

static da_status make_context_with_rates(fixture *f) {
    f->options.rates = &f->rates;
    return make_context(f);
}

static da_status make_context_with_vectors_on_bare_machine(fixture *f) {
    f->hardware.cores = 1;
    f->options.isa = DA_ISA_AVX2;
    return make_context_on(f);
}

static da_status workspace(fixture *f) {
    size_t bytes = 77;
    da_cost cost = {.size = sizeof cost};
    da_status status = da_attention_workspace(f->attention, &f->problem, &bytes);
    assert_int_equal(bytes, 77);
    assert_int_equal(da_pattern_cost(&f->config, &f->problem, &cost), status);
    assert_int_equal(da_explain(f->context, &f->config, &f->problem, &f->made_explanation), status);
    assert_null(f->made_explanation);
    return status;
}

static da_status cost_of(fixture *f) {
    da_cost cost = {.size = sizeof cost, .counted_pairs = 77};
    da_status status = da_pattern_cost(&f->config, &f->problem, &cost);
    assert_true(cost.counted_pairs == 77);
    return status;
}

static da_status multiplicity(fixture *f, int64_t n, int64_t heads, int64_t head, int64_t i, int64_t j) {
    int64_t count = 77;
    da_status status = da_pattern_multiplicity(&f->config, n, heads, head, i, j, &count);
    assert_int_equal(count, 77);
    return status;
}

static da_status multihead(fixture *f) {
    return da_multihead_config_validate(&f->multihead, NULL);
}

static da_status multihead_with_attention(fixture *f) {
    return da_multihead_config_validate(&f->multihead, &f->config);
}

static da_status enroll(fixture *f) {
    size_t before = da_implementation_count();
    da_status status = da_register_implementation(&f->implementation);
    assert_int_equal(da_implementation_count(), before);
    return status;
}

static da_status info(fixture *f, const char *name) {
    return da_implementation_get_info(f->context, name, &f->info);
}

static da_status explained_rule(fixture *f, size_t index) {
    da_rule rule;
    return da_explanation_rule(f->explanation, index, &rule);
}

static da_status explained_alternative(fixture *f, size_t index) {
    da_alternative alternative;
    return da_explanation_alternative(f->explanation, index, &alternative);
}

static da_status name_of_mixing(const char *name) {
    da_mixing value = DA_MIXING_HEAD_GROUPS;
    da_status status = da_mixing_from_name(name, &value);
    assert_int_equal(value, DA_MIXING_HEAD_GROUPS);
    return status;
}

static da_status name_of_dtype(const char *name) {
    da_dtype value = DA_BF16;
    da_status status = da_dtype_from_name(name, &value);
    assert_int_equal(value, DA_BF16);
    return status;
}

static const char *long_name(void) {
    static char name[2000];
    memset(name, 'x', sizeof name - 1);
    return name;
}

#define REFUSED DA_ERROR_INVALID_ARGUMENT
#define UNKNOWN DA_ERROR_UNKNOWN_IMPLEMENTATION
#define ONES(...)                                                                                                      \
    (const int64_t[]) {                                                                                                \
        __VA_ARGS__                                                                                                    \
    }

/* clang-format off */
#define CONFIG_ROWS(ROW) \
    ROW(no_pattern, (f->config.segment_count = f->config.rate_count = 0, validate(f)), REFUSED, "segment_lengths") \
    ROW(fewer_rates, (f->config.rate_count = 1, validate(f)), REFUSED, "dilation_rates has 1") \
    ROW(fewer_segments, (f->config.segment_count = 1, validate(f)), REFUSED, "segment_lengths 1") \
    ROW(too_many_patterns, (f->config.segment_count = f->config.rate_count = 65, validate(f)), REFUSED, "65") \
    ROW(absurd_pattern_count, (f->config.segment_count = f->config.rate_count = SIZE_MAX, validate(f)), REFUSED, \
        "segment_lengths") \
    ROW(segment_zero, (f->config.segment_lengths[1] = 0, validate(f)), REFUSED, "segment_lengths[1] is 0") \
    ROW(segment_negative, (f->config.segment_lengths[0] = -4, validate(f)), REFUSED, "segment_lengths[0] is -4") \
    ROW(segment_most_negative, (f->config.segment_lengths[0] = INT64_MIN, validate(f)), REFUSED, \
        "segment_lengths[0]") \
    ROW(rate_zero, (f->config.dilation_rates[0] = 0, validate(f)), REFUSED, "dilation_rates[0] is 0") \
    ROW(rate_negative, (f->config.dilation_rates[1] = -1, validate(f)), REFUSED, "dilation_rates[1] is -1") \
    ROW(rate_above_segment, (f->config.dilation_rates[1] = 9, validate(f)), REFUSED, "dilation_rates[1] is 9") \
    ROW(rate_largest, (f->config.dilation_rates[1] = INT64_MAX, validate(f)), REFUSED, "dilation_rates[1]") \
    ROW(dropout_one, (f->config.dropout = 1, validate(f)), REFUSED, "dropout is 1") \
    ROW(dropout_negative, (f->config.dropout = -0.1, validate(f)), REFUSED, "dropout is -0.1") \
    ROW(dropout_nan, (f->config.dropout = (double)NAN, validate(f)), REFUSED, "dropout is ") \
    ROW(scale_nan, (f->config.scale_is_set = true, f->config.scale = (double)NAN, validate(f)), REFUSED, "scale is ") \
    ROW(scale_infinite, (f->config.scale_is_set = true, f->config.scale = (double)INFINITY, validate(f)), REFUSED, \
        "scale is inf") \
    ROW(scale_minus_infinite, (f->config.scale_is_set = true, f->config.scale = -(double)INFINITY, validate(f)), \
        REFUSED, "scale is -inf") \
    ROW(window_below_none, (f->config.window = -2, validate(f)), REFUSED, "window is -2") \
    ROW(window_most_negative, (f->config.window = INT64_MIN, validate(f)), REFUSED, "window is -9") \
    ROW(mixing_unknown, (f->config.mixing = (da_mixing)2, validate(f)), REFUSED, "mixing is 2") \
    ROW(offset_rule_unknown, (f->config.offset_rule = (da_offset_rule)7, validate(f)), REFUSED, "offset_rule is 7") \
    ROW(tail_rule_unknown, (f->config.tail_rule = (da_tail_rule)2, validate(f)), REFUSED, "tail_rule is 2") \
    ROW(overlap_unknown, (f->config.overlap = (da_overlap)2, validate(f)), REFUSED, "overlap is 2") \
    ROW(partition_unknown, (f->config.partition = (da_partition)3, validate(f)), REFUSED, "partition is 3") \
    ROW(split_beyond, (f->config.split = (da_split)3, validate(f)), REFUSED, "split is 3") \
    ROW(sparse_pattern_beyond, (f->config.sparse_pattern = (da_sparse_pattern)9, validate(f)), REFUSED, \
        "sparse_pattern is 9") \
    ROW(sparsity_ratio_zero, (f->config.sparsity_ratio = 0, validate(f)), REFUSED, "sparsity_ratio is 0") \
    ROW(sparsity_ratio_above, (f->config.sparsity_ratio = 1.5, validate(f)), REFUSED, "sparsity_ratio is 1.5") \
    ROW(sparsity_ratio_nan, (f->config.sparsity_ratio = (double)NAN, validate(f)), REFUSED, "sparsity_ratio is ") \
    ROW(quality_target_zero, (f->config.quality_target = 0, validate(f)), REFUSED, "quality_target is 0") \
    ROW(quality_target_above, (f->config.quality_target = 99, validate(f)), REFUSED, "quality_target is 99") \
    ROW(block_size_zero, (f->config.block_size = 0, validate(f)), REFUSED, "block_size is 0") \
    ROW(block_size_odd, (f->config.block_size = 100, validate(f)), REFUSED, "block_size is 100") \
    ROW(block_size_large, (f->config.block_size = 1040, validate(f)), REFUSED, "a multiple of 16 up to 1024") \
    ROW(block_size_negative, (f->config.block_size = -16, validate(f)), REFUSED, "block_size is -16") \
    ROW(global_blocks_negative, (f->config.global_blocks = -1, validate(f)), REFUSED, "global_blocks is -1") \
    ROW(tile_mask_missing, (f->config.sparse_pattern = DA_SPARSE_MASK, validate(f)), REFUSED, "tile_mask is NULL") \
    ROW(sparse_profile_missing, (f->config.sparse_pattern = DA_SPARSE_PROFILE, validate(f)), REFUSED, \
        "sparse_profile is NULL") \
    ROW(stripe_negative, (f->config.stripe = -1, validate(f)), REFUSED, "stripe is -1") \
    ROW(dtype_unknown, (f->config.dtype = (da_dtype)5, validate(f)), REFUSED, "dtype is 5") \
    ROW(device_unknown, (f->config.device = (da_device)3, validate(f)), REFUSED, "device is 3") \
    ROW(sequence_length_negative, (f->config.sequence_length = -1, validate(f)), REFUSED, "sequence_length is -1") \
    ROW(config_size_zero, (f->config.size = 0, validate(f)), REFUSED, "config.size is 0") \
    ROW(config_size_small, (f->config.size -= 8, validate(f)), REFUSED, "config.size") \
    ROW(config_size_absurd, (f->config.size = SIZE_MAX, validate(f)), REFUSED, "config.size") \
    ROW(config_null, da_attention_config_validate(NULL), REFUSED, "config is NULL") \
    ROW(set_no_pattern, set_patterns(f, ONES(4), 0, ONES(1), 0), REFUSED, "segment_lengths") \
    ROW(set_different_counts, set_patterns(f, ONES(4, 8), 2, ONES(1), 1), REFUSED, "dilation_rates has 1") \
    ROW(set_too_many, set_many_patterns(f, DA_MAX_PATTERNS + 1), REFUSED, "65") \
    ROW(set_zero_segment, set_patterns(f, ONES(4, 0), 2, ONES(1, 1), 2), REFUSED, "segment_lengths[1] is 0") \
    ROW(set_zero_rate, set_patterns(f, ONES(4), 1, ONES(0), 1), REFUSED, "dilation_rates[0] is 0") \
    ROW(set_rate_above_segment, set_patterns(f, ONES(4), 1, ONES(5), 1), REFUSED, "dilation_rates[0] is 5") \
    ROW(set_segments_null, set_patterns(f, NULL, 1, ONES(1), 1), REFUSED, "segment_lengths is NULL") \
    ROW(set_rates_null, set_patterns(f, ONES(1), 1, NULL, 1), REFUSED, "dilation_rates is NULL") \
    ROW(set_config_null, da_attention_config_set_patterns(NULL, ONES(1), 1, ONES(1), 1), REFUSED, "config is NULL") \
    ROW(preset_unknown, da_attention_config_set_preset(&f->config, (da_preset)3), REFUSED, "preset is 3") \
    ROW(preset_config_null, da_attention_config_set_preset(NULL, DA_PRESET_LONGNET), REFUSED, "config is NULL")

#define MULTIHEAD_ROWS(ROW) \
    ROW(multihead_null, da_multihead_config_validate(NULL, NULL), REFUSED, "config is NULL") \
    ROW(multihead_size_zero, (f->multihead.size = 0, multihead(f)), REFUSED, "config.size is 0") \
    ROW(embed_dim_zero, (f->multihead.embed_dim = 0, multihead(f)), REFUSED, "embed_dim is 0") \
    ROW(embed_dim_negative, (f->multihead.embed_dim = -64, multihead(f)), REFUSED, "embed_dim is -64") \
    ROW(num_heads_zero, (f->multihead.num_heads = 0, multihead(f)), REFUSED, "num_heads is 0") \
    ROW(num_heads_negative, (f->multihead.num_heads = -1, multihead(f)), REFUSED, "num_heads is -1") \
    ROW(num_heads_not_a_divisor, (f->multihead.num_heads = 5, multihead(f)), REFUSED, "num_heads is 5") \
    ROW(multihead_head_dim_257, (f->multihead.embed_dim = 4 * 257, multihead(f)), REFUSED, "257") \
    ROW(kv_heads_negative, (f->multihead.kv_heads = -1, multihead(f)), REFUSED, "kv_heads is -1") \
    ROW(kv_heads_not_a_divisor, (f->multihead.kv_heads = 3, multihead(f)), REFUSED, "kv_heads is 3") \
    ROW(kv_heads_above_heads, (f->multihead.kv_heads = 8, multihead(f)), REFUSED, "kv_heads is 8") \
    ROW(position_unknown, (f->multihead.position = (da_position)3, multihead(f)), REFUSED, "position is 3") \
    ROW(position_odd_head_dim, (f->multihead.position = DA_POSITION_ROPE, f->multihead.embed_dim = 60, multihead(f)), \
        REFUSED, "embed_dim / num_heads is 15") \
    ROW(rope_base_nan, (f->multihead.rope_base = (double)NAN, multihead(f)), REFUSED, "rope_base is ") \
    ROW(eps_zero, (f->multihead.layer_norm_eps = 0, multihead(f)), REFUSED, "layer_norm_eps is 0") \
    ROW(eps_negative, (f->multihead.layer_norm_eps = -1e-5, multihead(f)), REFUSED, "layer_norm_eps is -1e-05") \
    ROW(eps_nan, (f->multihead.layer_norm_eps = (double)NAN, multihead(f)), REFUSED, "layer_norm_eps is ") \
    ROW(gamma_zero, (f->multihead.gamma_init = 0, multihead(f)), REFUSED, "gamma_init is 0") \
    ROW(gamma_infinite, (f->multihead.gamma_init = (double)INFINITY, multihead(f)), REFUSED, "gamma_init is inf") \
    ROW(multihead_dtype_any, (f->multihead.dtype = DA_DTYPE_ANY, multihead(f)), REFUSED, "dtype is ") \
    ROW(multihead_dtype_unknown, (f->multihead.dtype = (da_dtype)-1, multihead(f)), REFUSED, "dtype is -1") \
    ROW(multihead_device_unknown, (f->multihead.device = (da_device)9, multihead(f)), REFUSED, "device is 9") \
    ROW(dtypes_disagree, (f->config.dtype = DA_F16, multihead_with_attention(f)), REFUSED, "dtype is f16") \
    ROW(devices_disagree, (f->config.device = DA_DEVICE_CUDA, f->multihead.device = DA_DEVICE_CPU, \
        multihead_with_attention(f)), REFUSED, "device is cuda") \
    ROW(inner_attention_bad, (f->config.window = -5, multihead_with_attention(f)), REFUSED, "window is -5")

#define CONTEXT_ROWS(ROW) \
    ROW(threads_negative, (f->options.threads = -1, make_context(f)), REFUSED, "threads is -1") \
    ROW(threads_1025, (f->options.threads = 1025, make_context(f)), REFUSED, "threads is 1025") \
    ROW(threads_least, (f->options.threads = INT32_MIN, make_context(f)), REFUSED, "threads is -2147483648") \
    ROW(isa_unknown, (f->options.isa = (da_isa)99, make_context(f)), REFUSED, "isa is 99") \
    ROW(isa_missing, make_context_with_vectors_on_bare_machine(f), DA_ERROR_UNAVAILABLE, "isa is avx2") \
    ROW(allocate_missing, (f->options.allocator.release = any_release, make_context(f)), REFUSED, \
        "allocator.allocate is NULL") \
    ROW(release_missing, (f->options.allocator.allocate = any_allocate, make_context(f)), REFUSED, \
        "allocator.release is NULL") \
    ROW(context_size_zero, (f->options.size = 0, make_context(f)), REFUSED, "options.size is 0") \
    ROW(context_size_small, (f->options.size = 16, make_context(f)), REFUSED, "options.size is 16") \
    ROW(hardware_size_zero, (f->hardware.size = 0, make_context_on(f)), REFUSED, "hardware.size is 0") \
    ROW(gpu_count_negative, (f->hardware.gpu_count = -1, make_context_on(f)), REFUSED, "gpu_count is -1") \
    ROW(gpu_count_17, (f->hardware.gpu_count = 17, make_context_on(f)), REFUSED, "gpu_count is 17") \
    ROW(rates_size_zero, (f->rates.size = 0, make_context_with_rates(f)), REFUSED, "rates.size is 0") \
    ROW(rates_latency, (f->rates.latency = -1, make_context_with_rates(f)), REFUSED, "rates.latency is -1") \
    ROW(rates_bandwidth, (f->rates.bandwidth = 0, make_context_with_rates(f)), REFUSED, \
        "rates.bandwidth is 0; allowed: a finite number above 0") \
    ROW(rates_flops, (f->rates.forward_flops = NAN, make_context_with_rates(f)), REFUSED, "rates.forward_flops is") \
    ROW(context_out_null, da_context_create(&f->options, NULL), REFUSED, "out is NULL") \
    ROW(detect_null, da_hardware_detect(NULL), REFUSED, "hardware is NULL")

#define CREATE_ROWS(ROW) \
    ROW(create_context_null, da_attention_create(NULL, "standard", &f->config, &f->made_attention), REFUSED, \
        "context is NULL") \
    ROW(create_name_null, create(f, NULL), REFUSED, "name is NULL") \
    ROW(create_config_null, da_attention_create(f->context, "standard", NULL, &f->made_attention), REFUSED, \
        "config is NULL") \
    ROW(create_out_null, da_attention_create(f->context, "standard", &f->config, NULL), REFUSED, "out is NULL") \
    ROW(name_empty, create(f, ""), UNKNOWN, "\"\"") \
    ROW(name_unknown, create(f, "fastest"), UNKNOWN, "standard, improved") \
    ROW(name_in_capitals, create(f, "Standard"), UNKNOWN, "\"Standard\"") \
    ROW(name_long, create(f, long_name()), UNKNOWN, "xxx") \
    ROW(name_of_later_version, create(f, "distributed"), DA_ERROR_UNAVAILABLE, "distributed") \
    ROW(device_cuda, (f->config.device = DA_DEVICE_CUDA, create(f, "standard")), DA_ERROR_UNAVAILABLE, "cuda")

#define PLANNING_ROWS(ROW) \
    ROW(problem_batch_zero, (f->problem.batch = 0, workspace(f)), REFUSED, "batch is 0") \
    ROW(problem_batch_huge, (f->problem.batch = INT64_MAX, workspace(f)), REFUSED, "batch is 9") \
    ROW(problem_n_negative, (f->problem.n = -1, workspace(f)), REFUSED, "n is -1") \
    ROW(problem_n_huge, (f->problem.n = INT64_MAX, workspace(f)), REFUSED, "n is 9") \
    ROW(problem_heads_zero, (f->problem.heads = 0, workspace(f)), REFUSED, "heads is 0") \
    ROW(problem_heads_huge, (f->problem.heads = INT64_MAX, workspace(f)), REFUSED, "heads is 9") \
    ROW(problem_kv_heads_no_divisor, (f->problem.heads = 4, f->problem.kv_heads = 3, workspace(f)), REFUSED, \
        "kv_heads is 3") \
    ROW(problem_kv_heads_negative, (f->problem.kv_heads = -1, workspace(f)), REFUSED, "kv_heads is -1") \
    ROW(problem_head_dim_zero, (f->problem.head_dim = 0, workspace(f)), REFUSED, "head_dim is 0") \
    ROW(problem_head_dim_257, (f->problem.head_dim = 257, workspace(f)), REFUSED, "head_dim is 257") \
    ROW(problem_dtype_any, (f->problem.dtype = DA_DTYPE_ANY, workspace(f)), REFUSED, "dtype is ") \
    ROW(problem_size_zero, (f->problem.size = 0, workspace(f)), REFUSED, "problem.size is 0") \
    ROW(workspace_attention_null, da_attention_workspace(NULL, &f->problem, &(size_t){0}), REFUSED, \
        "attention is NULL") \
    ROW(workspace_problem_null, da_attention_workspace(f->attention, NULL, &(size_t){0}), REFUSED, "problem is NULL") \
    ROW(workspace_bytes_null, da_attention_workspace(f->attention, &f->problem, NULL), REFUSED, "bytes is NULL") \
    ROW(cost_length_unknown, (f->problem.n = 0, cost_of(f)), REFUSED, "n is 0") \
    ROW(cost_config_null, da_pattern_cost(NULL, &f->problem, &(da_cost){.size = sizeof(da_cost)}), REFUSED, \
        "config is NULL") \
    ROW(cost_problem_null, da_pattern_cost(&f->config, NULL, &(da_cost){.size = sizeof(da_cost)}), REFUSED, \
        "problem is NULL") \
    ROW(cost_null, da_pattern_cost(&f->config, &f->problem, NULL), REFUSED, "cost is NULL") \
    ROW(multiplicity_n_zero, multiplicity(f, 0, 2, 0, 0, 0), REFUSED, "n is 0") \
    ROW(multiplicity_heads_zero, multiplicity(f, 9, 0, 0, 0, 0), REFUSED, "heads is 0") \
    ROW(multiplicity_head_negative, multiplicity(f, 9, 2, -1, 0, 0), REFUSED, "head is -1") \
    ROW(multiplicity_head_beyond, multiplicity(f, 9, 2, 2, 0, 0), REFUSED, "head is 2") \
    ROW(multiplicity_i_negative, multiplicity(f, 9, 2, 0, -1, 0), REFUSED, "i is -1") \
    ROW(multiplicity_i_beyond, multiplicity(f, 9, 2, 0, 9, 0), REFUSED, "i is 9") \
    ROW(multiplicity_j_negative, multiplicity(f, 9, 2, 0, 0, -1), REFUSED, "j is -1") \
    ROW(multiplicity_j_beyond, multiplicity(f, 9, 2, 0, 0, 9), REFUSED, "j is 9") \
    ROW(multiplicity_count_null, da_pattern_multiplicity(&f->config, 9, 2, 0, 0, 0, NULL), REFUSED, "count is NULL") \
    ROW(multiplicity_config_null, da_pattern_multiplicity(NULL, 9, 2, 0, 0, 0, &(int64_t){0}), REFUSED, \
        "config is NULL") \
    ROW(explain_context_null, da_explain(NULL, &f->config, &f->problem, &f->made_explanation), REFUSED, \
        "context is NULL") \
    ROW(explain_config_null, da_explain(f->context, NULL, &f->problem, &f->made_explanation), REFUSED, \
        "config is NULL") \
    ROW(explain_out_null, da_explain(f->context, &f->config, &f->problem, NULL), REFUSED, "out is NULL") \
    ROW(rule_beyond, explained_rule(f, da_explanation_rule_count(f->explanation)), REFUSED, "index is 6") \
    ROW(rule_far_beyond, explained_rule(f, SIZE_MAX), REFUSED, "index") \
    ROW(rule_out_null, da_explanation_rule(f->explanation, 0, NULL), REFUSED, "out is NULL") \
    ROW(rule_of_nothing, da_explanation_rule(NULL, 0, &(da_rule){0}), REFUSED, "explanation is NULL") \
    ROW(alternative_beyond, explained_alternative(f, da_explanation_alternative_count(f->explanation)), REFUSED, \
        "index") \
    ROW(alternative_out_null, da_explanation_alternative(f->explanation, 0, NULL), REFUSED, "out is NULL") \
    ROW(explained_cost_null, da_explanation_cost(f->explanation, NULL), REFUSED, "out is NULL")

#define REGISTRY_ROWS(ROW) \
    ROW(register_null, da_register_implementation(NULL), REFUSED, "implementation is NULL") \
    ROW(register_size_zero, (f->implementation.size = 0, enroll(f)), REFUSED, "implementation.size is 0") \
    ROW(register_name_null, (f->implementation.name = NULL, enroll(f)), REFUSED, "name is NULL") \
    ROW(register_name_empty, (f->implementation.name = "", enroll(f)), REFUSED, "name is \"\"") \
    ROW(register_name_with_space, (f->implementation.name = "my own", enroll(f)), REFUSED, "\"my own\"") \
    ROW(register_name_long, (f->implementation.name = long_name(), enroll(f)), REFUSED, "name is \"xxx") \
    ROW(register_auto, (f->implementation.name = "auto", enroll(f)), REFUSED, "\"auto\"") \
    ROW(register_forward_null, (f->implementation.forward = NULL, enroll(f)), REFUSED, "forward is NULL") \
    ROW(register_unknown_feature, (f->implementation.features = 1u << 20, enroll(f)), REFUSED, "features") \
    ROW(register_unknown_dtype, (f->implementation.dtypes = 1u << 9, enroll(f)), REFUSED, "dtypes") \
    ROW(register_taken, (f->implementation.name = "standard", enroll(f)), DA_ERROR_ALREADY_REGISTERED, "standard") \
    ROW(info_context_null, da_implementation_get_info(NULL, "standard", &f->info), REFUSED, "context is NULL") \
    ROW(info_name_null, info(f, NULL), REFUSED, "name is NULL") \
    ROW(info_null, da_implementation_get_info(f->context, "standard", NULL), REFUSED, "info is NULL") \
    ROW(info_size_zero, (f->info.size = 0, info(f, "standard")), REFUSED, "info.size is 0") \
    ROW(info_unknown, info(f, "fastest"), UNKNOWN, "standard") \
    ROW(mixing_name_unknown, name_of_mixing("head groups"), REFUSED, "longnet") \
    ROW(mixing_name_null, name_of_mixing(NULL), REFUSED, "NULL") \
    ROW(mixing_place_null, da_mixing_from_name("longnet", NULL), REFUSED, "NULL") \
    ROW(offset_rule_name_unknown, da_offset_rule_from_name("", &(da_offset_rule){0}), REFUSED, "block") \
    ROW(tail_rule_name_unknown, da_tail_rule_from_name("pad", &(da_tail_rule){0}), REFUSED, "zero_pad") \
    ROW(overlap_name_unknown, da_overlap_from_name("twice", &(da_overlap){0}), REFUSED, "once") \
    ROW(partition_name_unknown, da_partition_from_name("ring", &(da_partition){0}), REFUSED, "zigzag") \
    ROW(sparse_pattern_name_unknown, da_sparse_pattern_from_name("local", &(da_sparse_pattern){0}), REFUSED, \
        "content, local_window, global_local, dilated_sparse, axial, random, hybrid, mask, profile") \
    ROW(preset_name_unknown, da_preset_from_name("long", &(da_preset){0}), REFUSED, "torchscale") \
    ROW(dtype_name_unknown, name_of_dtype("float32"), REFUSED, "bf16") \
    ROW(device_name_unknown, da_device_from_name("gpu", &(da_device){0}), REFUSED, "cuda") \
    ROW(position_name_unknown, da_position_from_name("rotary", &(da_position){0}), REFUSED, "none, rope, xpos") \
    ROW(rotary_layout_name_unknown, da_rotary_layout_from_name("pairs", &(da_rotary_layout){0}), REFUSED, "halves") \
    ROW(isa_name_unknown, da_isa_from_name("sse", &(da_isa){0}), REFUSED, "avx512")
/* clang-format on */

#define ALL_ROWS(ROW)                                                                                                  \
    CONFIG_ROWS(ROW) MULTIHEAD_ROWS(ROW) CONTEXT_ROWS(ROW) CREATE_ROWS(ROW) PLANNING_ROWS(ROW) REGISTRY_ROWS(ROW)

ALL_ROWS(REFUSAL_FUNCTION)

static const refusal rows[] = {ALL_ROWS(REFUSAL_ENTRY)};

static void test_row(void **state) {
    fixture f;
    set_up(&f);
    refusal_check(*state, &f);
    tear_down(&f);
}

int main(void) {
    return refusal_run("bad input", rows, sizeof rows / sizeof *rows, test_row);
}
