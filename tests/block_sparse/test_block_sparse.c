/* Calls of block_sparse: tiles that come with a call, by the configuration and by da_attention_tiles give the same bits; what
 * is kept is what is reported; bad input; memory. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "block_sparse/contexts.h"
#include "support/problem_data.h"
#include "support/refusals.h"
#include "support/values.h"

enum { BATCH = 2, N = 200, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 20, BLOCK = 32, BLOCKS = (N - 1) / BLOCK + 1 };

static da_attention_config make_config(da_sparse_pattern pattern, double ratio) {
    da_attention_config config;
    da_attention_config_init(&config);
    assert_int_equal(da_attention_config_set_patterns(&config, (int64_t[]){64, 200}, 2, (int64_t[]){1, 2}, 2), DA_OK);
    config.causal = true;
    config.sparse_pattern = pattern;
    config.sparsity_ratio = ratio;
    config.block_size = BLOCK;
    return config;
}

static problem_data make_data(void) {
    return problem_data_make(7, BATCH, N, HEADS, KV_HEADS, HEAD_DIM);
}

static da_attention *create(const da_context *context, const char *name, const da_attention_config *config) {
    da_attention *attention = NULL;
    assert_int_equal(da_attention_create(context, name, config, &attention), DA_OK);
    return attention;
}

/* Both passes of a handle. */
static void run(const da_attention *attention, problem_data *data, const da_call_options *options) {
    problem_data_clear(data);
    assert_int_equal(problem_data_forward(data, attention, options), DA_OK);
    assert_int_equal(problem_data_backward(data, attention, options), DA_OK);
}

/* The tiles of a fixed pattern, taken out and given back, by options and as a mask. */
static void test_three_ways(void **state) {
    (void)state;
    static const da_sparse_pattern patterns[] = {DA_SPARSE_LOCAL_WINDOW, DA_SPARSE_GLOBAL_LOCAL, DA_SPARSE_AXIAL,
                                                 DA_SPARSE_RANDOM, DA_SPARSE_HYBRID};
    da_context *context = make_context(3, DA_ISA_AUTO, NULL);
    problem_data data = make_data(), again = make_data();
    for (size_t k = 0; k < sizeof patterns / sizeof *patterns; k++) {
        da_attention_config config = make_config(patterns[k], 0.4);
        da_attention *fixed = create(context, "block_sparse", &config);
        da_tile_mask *tiles = NULL;
        da_call_options options;
        da_call_options_init(&options);
        run(fixed, &data, NULL);
        assert_int_equal(da_attention_tiles(fixed, &data.query, &data.key, NULL, &tiles, NULL), DA_OK);
        options.tiles = tiles;
        config.sparse_pattern = DA_SPARSE_LOCAL_WINDOW;
        config.sparsity_ratio = 1;
        da_attention *given = create(context, "block_sparse", &config);
        run(given, &again, &options);
        assert_true(problem_data_equal(&data, &again));
        config.sparse_pattern = DA_SPARSE_MASK;
        config.tile_mask = tiles;
        config.block_size = 1024; /* a mask has its own */
        da_attention *masked = create(context, "block_sparse", &config);
        run(masked, &again, NULL);
        assert_true(problem_data_equal(&data, &again));
        da_attention_free(masked);
        da_attention_free(given);
        da_attention_free(fixed);
        da_tile_mask_free(tiles);
    }
    problem_data_free(&again);
    problem_data_free(&data);
    da_context_free(context);
}

/* ---- heads that keep all their tiles ------------------------------------------------------------------------------ */

static da_tensor of_type(const da_tensor *tensor, float *first, int64_t skipped, da_dtype dtype) {
    char *data = (char *)first + (size_t)skipped * da_dtype_size(dtype);
    return da_tensor_make(data, dtype, tensor->shape[0], tensor->shape[1], tensor->shape[2], tensor->shape[3]);
}

/* The same numbers, rounded to a type that is no larger, in the same memory. */
static void change_type(problem_data *data, da_dtype dtype) {
    const int64_t of_query = (int64_t)(data->out_bytes / sizeof(float)), of_key = of_query / HEADS * KV_HEADS;
    for (int64_t k = 0; k < 2 * of_query + 2 * of_key; k++) {
        value_store(data->inputs, dtype, k, (double)data->inputs[k]);
    }
    data->query = of_type(&data->query, data->inputs, 0, dtype);
    data->key = of_type(&data->key, data->inputs, of_query, dtype);
    data->value = of_type(&data->value, data->inputs, of_query + of_key, dtype);
    data->grad_out = of_type(&data->grad_out, data->inputs, of_query + 2 * of_key, dtype);
    data->out = of_type(&data->out, data->outputs, 0, dtype);
    data->grad_query = of_type(&data->grad_query, data->gradients, 0, dtype);
    data->grad_key = of_type(&data->grad_key, data->gradients, of_query, dtype);
    data->grad_value = of_type(&data->grad_value, data->gradients, of_query + of_key, dtype);
}

/* Both passes of an implementation on the fixture's data; options: NULL, or with tiles. */
static void run_named(const da_context *context, const char *name, const da_attention_config *config,
                      problem_data *data, const da_call_options *options) {
    da_attention *attention = create(context, name, config);
    run(attention, data, options);
    da_attention_free(attention);
}

static void check_all_tiles(da_dtype dtype, bool causal, int64_t block) {
    da_context *context = make_context(2, DA_ISA_AUTO, NULL);
    problem_data exact = make_data(), data = make_data();
    da_attention_config config = make_config(DA_SPARSE_AXIAL, 1);
    change_type(&exact, dtype);
    change_type(&data, dtype);
    config.causal = causal;
    config.block_size = block;
    run_named(context, "improved", &config, &exact, NULL);
    run_named(context, "block_sparse", &config, &data, NULL);
    assert_true(problem_data_equal(&data, &exact));
    config.sparse_pattern = DA_SPARSE_CONTENT;
    config.sparsity_ratio = 0.1;
    config.quality_target = 1 - 1e-15; /* what all tiles keep */
    run_named(context, "block_sparse", &config, &data, NULL);
    assert_true(problem_data_equal(&data, &exact));
    config.quality_target = 1;
    config.sparsity_ratio = 0.3;
    run_named(context, "block_sparse", &config, &data, NULL);
    assert_memory_not_equal(data.outputs, exact.outputs, data.out_bytes);
    problem_data_free(&data);
    problem_data_free(&exact);
    da_context_free(context);
}

/* What improved computes, to the bit, where all tiles are kept, also of units that are no whole number of blocks; something
 * else, where not. */
static void test_all_tiles(void **state) {
    (void)state;
    for (int k = 0; k < 8; k++) {
        check_all_tiles(k & 1 ? DA_BF16 : DA_F32, k & 2, k & 4 ? BLOCK : 48);
    }
}

/* Heads and sequences of both that are the same to the bit: bits of head h of batch element b at b * HEADS + h. */
static unsigned same_heads(const problem_data *a, const problem_data *b) {
    unsigned differs = 0;
    const float *grad_a = a->grad_query.data, *grad_b = b->grad_query.data;
    for (int64_t row = 0; row < BATCH * N * HEADS; row++) {
        unsigned bit = 1u << (row / (N * HEADS) * HEADS + row % HEADS);
        size_t at = (size_t)row * HEAD_DIM, bytes = HEAD_DIM * sizeof(float);
        bool of_row = memcmp(a->outputs + at, b->outputs + at, bytes) != 0 || a->sums[row] != b->sums[row] ||
                      memcmp(grad_a + at, grad_b + at, bytes) != 0;
        differs |= of_row ? bit : 0;
    }
    return ~differs & ((1u << (BATCH * HEADS)) - 1);
}

/* The same of gradients of keys and values, whose bits are of batch element b and head h at b * KV_HEADS + h. */
static unsigned same_key_heads(const problem_data *a, const problem_data *b) {
    unsigned differs = 0;
    for (int64_t row = 0; row < BATCH * N * KV_HEADS; row++) {
        size_t at = (size_t)row * HEAD_DIM, bytes = HEAD_DIM * sizeof(float);
        bool of_row = memcmp((float *)a->grad_key.data + at, (float *)b->grad_key.data + at, bytes) != 0 ||
                      memcmp((float *)a->grad_value.data + at, (float *)b->grad_value.data + at, bytes) != 0;
        differs |= of_row ? 1u << (row / (N * KV_HEADS) * KV_HEADS + row % KV_HEADS) : 0;
    }
    return ~differs & ((1u << (BATCH * KV_HEADS)) - 1);
}

/* Of lists in which some sequences keep all tiles, these are as improved computes them, and others are not. Heads 0 and 1
 * share their keys, as 2 and 3 do. Only tiles that causality leaves are listed: by tiles, keys would come in other groups. */
static void test_some_heads_keep_all(void **state) {
    enum { SMALL = 16, SMALLS = (N - 1) / SMALL + 1 };
    static const bool full[BATCH * HEADS] = {true, true, true, false, false, false, true, true};
    static uint8_t kept[BATCH * HEADS * SMALLS * SMALLS];
    (void)state;
    da_context *context = make_context(2, DA_ISA_AUTO, NULL);
    problem_data exact = make_data(), data = make_data();
    da_attention_config config = make_config(DA_SPARSE_MASK, 1);
    da_tile_mask *mask = NULL;
    assert_int_equal(da_attention_config_set_patterns(&config, (int64_t[]){64, 200}, 2, (int64_t[]){1, 8}, 2), DA_OK);
    for (int k = 0; k < BATCH * HEADS * SMALLS * SMALLS; k++) {
        int column = k % SMALLS, row = k / SMALLS % SMALLS;
        kept[k] = full[k / (SMALLS * SMALLS)] ? column <= row : column == row;
    }
    assert_int_equal(da_tile_mask_create(NULL, BATCH, HEADS, N, SMALL, kept, &mask), DA_OK);
    config.tile_mask = mask;
    run_named(context, "improved", &config, &exact, NULL);
    run_named(context, "block_sparse", &config, &data, NULL);
    assert_int_equal(same_heads(&exact, &data), 0xC7);
    assert_int_equal(same_key_heads(&exact, &data), 0x9);
    da_tile_mask_free(mask);
    problem_data_free(&data);
    problem_data_free(&exact);
    da_context_free(context);
}

/* With one tile of all left out: the result is another if the pattern has pairs in it, and else to the bit the same. */
static void test_each_tile_counts(void **state) {
    static uint8_t kept[BLOCKS * BLOCKS];
    (void)state;
    da_context *context = make_context(1, DA_ISA_AUTO, NULL);
    problem_data exact = make_data(), data = make_data();
    da_attention_config config = make_config(DA_SPARSE_LOCAL_WINDOW, 1);
    run_named(context, "improved", &config, &exact, NULL);
    for (int tile = 0; tile < BLOCKS * BLOCKS; tile++) {
        da_call_options options;
        da_tile_mask *mask = NULL;
        memset(kept, 1, sizeof kept);
        kept[tile] = 0;
        assert_int_equal(da_tile_mask_create(NULL, 1, 1, N, BLOCK, kept, &mask), DA_OK);
        da_call_options_init(&options);
        options.tiles = mask;
        run_named(context, "block_sparse", &config, &data, &options);
        assert_true(problem_data_equal(&exact, &data) == (tile % BLOCKS > tile / BLOCKS));
        da_tile_mask_free(mask);
    }
    problem_data_free(&data);
    problem_data_free(&exact);
    da_context_free(context);
}

static da_tensor one_head(const da_tensor *tensor, int64_t head, float *data) {
    da_tensor one = *tensor;
    one.shape[2] = 1;
    one.data = data ? data : (float *)tensor->data + head * tensor->stride[2];
    return one;
}

/* Keys are packed for some heads at a time, here for two: each head gets what it gets alone. A few queries alone have their
 * keys packed as those of dilated patterns are, and get the same to rounding. */
static void test_packed_heads(void **state) {
    (void)state;
    enum { LENGTH = 2048, THREE = 3, WIDE = 256, FROM = 1000, TO = 1100 };
    da_context *context = make_context(2, DA_ISA_AUTO, NULL);
    problem_data data = problem_data_make(3, 1, LENGTH, THREE, THREE, WIDE);
    problem_data part = problem_data_make(3, 1, LENGTH, THREE, THREE, WIDE);
    da_attention_config config = make_config(DA_SPARSE_LOCAL_WINDOW, 0.04);
    assert_int_equal(da_attention_config_set_patterns(&config, (int64_t[]){900, LENGTH}, 2, (int64_t[]){1, 1}, 2),
                     DA_OK);
    config.block_size = 64;
    da_attention *attention = create(context, "block_sparse", &config);
    da_call_options range;
    da_call_options_init(&range);
    range.query_first = FROM;
    range.query_end = TO;
    problem_data_clear(&data);
    assert_int_equal(problem_data_forward(&data, attention, NULL), DA_OK);
    problem_data_clear(&part);
    assert_int_equal(problem_data_forward(&part, attention, &range), DA_OK);
    for (size_t k = (size_t)FROM * THREE * WIDE; k < (size_t)TO * THREE * WIDE; k++) {
        assert_true(fabsf(data.outputs[k] - part.outputs[k]) <= 1e-5f);
    }
    for (int64_t head = 0; head < THREE; head++) {
        da_tensor query = one_head(&data.query, head, NULL), key = one_head(&data.key, head, NULL);
        da_tensor value = one_head(&data.value, head, NULL), out = one_head(&part.out, head, part.outputs);
        assert_int_equal(da_attention_forward(attention, &query, &key, &value, &out, NULL, NULL), DA_OK);
        for (int64_t row = 0; row < LENGTH; row++) {
            size_t at = (size_t)(row * THREE) * WIDE;
            assert_memory_equal(part.outputs + at, data.outputs + at + head * WIDE, WIDE * sizeof(float));
        }
    }
    da_attention_free(attention);
    problem_data_free(&part);
    problem_data_free(&data);
    da_context_free(context);
}

/* One list for all heads, which holds all that those of one pattern have, and not what the others have. */
static void test_one_list_is_all_of_some_heads(void **state) {
    static uint8_t kept[BLOCKS * BLOCKS];
    (void)state;
    da_context *context = make_context(2, DA_ISA_AUTO, NULL);
    problem_data exact = make_data(), data = make_data();
    da_attention_config config = make_config(DA_SPARSE_MASK, 1);
    da_tile_mask *mask = NULL;
    for (int k = 0; k < BLOCKS * BLOCKS; k++) {
        kept[k] = k % BLOCKS / 2 == k / BLOCKS / 2; /* of the same segment of 64 */
    }
    assert_int_equal(da_tile_mask_create(NULL, 1, 1, N, BLOCK, kept, &mask), DA_OK);
    config.mixing = DA_MIXING_HEAD_GROUPS;
    config.tile_mask = mask;
    run_named(context, "improved", &config, &exact, NULL);
    run_named(context, "block_sparse", &config, &data, NULL);
    assert_int_equal(same_heads(&exact, &data), 0x33);
    da_tile_mask_free(mask);
    problem_data_free(&data);
    problem_data_free(&exact);
    da_context_free(context);
}

/* ---- what is reported --------------------------------------------------------------------------------------------- */

/* Both passes with the mask that keeps tile (i, j) of 64 tokens where 7 i + 3 j is a multiple of 4, as blocks of block_size. */
static void run_quarter(const da_context *context, da_attention_config *config, int64_t n, int64_t block_size,
                        problem_data *data) {
    int64_t blocks = (n - 1) / block_size + 1, parts = 64 / block_size;
    uint8_t kept[75 * 75];
    assert_true(blocks <= 75);
    for (int64_t i = 0; i < blocks; i++) {
        for (int64_t j = 0; j < blocks; j++) {
            kept[i * blocks + j] = (7 * (i / parts) + 3 * (j / parts)) % 4 == 0;
        }
    }
    da_tile_mask *mask;
    assert_int_equal(da_tile_mask_create(NULL, 1, 1, n, block_size, kept, &mask), DA_OK);
    config->tile_mask = mask;
    da_attention *attention = create(context, "block_sparse", config);
    run(attention, data, NULL);
    da_attention_free(attention);
    da_tile_mask_free(mask);
}

/* Where tiles are whole panels the forward pass packs keys once, else it gathers them: the same pairs give the same. Segments do
 * not end where tiles do, and some tiles lie outside of them. */
static void test_packed_and_gathered(void **state) {
    (void)state;
    enum { LENGTH = 1200 };
    const int64_t units[] = {0, 300, 150, 64};
    da_context *context = make_context(2, DA_ISA_AUTO, NULL);
    problem_data packed = problem_data_make(9, 1, LENGTH, HEADS, KV_HEADS, HEAD_DIM);
    problem_data gathered = problem_data_make(9, 1, LENGTH, HEADS, KV_HEADS, HEAD_DIM);
    da_attention_config config = make_config(DA_SPARSE_MASK, 1);
    assert_int_equal(da_attention_config_set_patterns(&config, (int64_t[]){150}, 1, (int64_t[]){1}, 1), DA_OK);
    for (size_t k = 0; k < sizeof units / sizeof *units; k++) {
        config.tuning.unit = units[k];
        run_quarter(context, &config, LENGTH, 64, &packed);
        run_quarter(context, &config, LENGTH, 16, &gathered);
        for (size_t i = 0; i < packed.out_bytes / sizeof(float); i++) {
            assert_true(fabsf(packed.outputs[i] - gathered.outputs[i]) <= 1e-5f);
        }
        for (size_t i = 0; i < packed.gradient_bytes / sizeof(float); i++) {
            assert_true(fabsf(packed.gradients[i] - gathered.gradients[i]) <= 1e-4f);
        }
    }
    problem_data_free(&gathered);
    problem_data_free(&packed);
    da_context_free(context);
}

/* The report counts what the mask holds, from the call itself and from da_attention_tiles. */
static void test_report(void **state) {
    (void)state;
    da_context *context = make_context(2, DA_ISA_AUTO, NULL);
    problem_data data = make_data();
    const da_attention_config config = make_config(DA_SPARSE_GLOBAL_LOCAL, 0.4);
    da_attention *attention = create(context, "block_sparse", &config);
    da_tile_mask *tiles = NULL;
    da_tile_mask_info info;
    da_sparse_report of_call, of_tiles;
    da_call_options options;
    da_call_options_init(&options);
    da_sparse_report_init(&of_call);
    da_sparse_report_init(&of_tiles);
    da_tile_mask_info_init(&info);
    options.sparse_report = &of_call;
    assert_int_equal(problem_data_forward(&data, attention, &options), DA_OK);
    assert_int_equal(da_attention_tiles(attention, &data.query, &data.key, NULL, &tiles, &of_tiles), DA_OK);
    assert_int_equal(da_tile_mask_get_info(tiles, &info), DA_OK);
    assert_int_equal(of_call.tiles_kept, of_tiles.tiles_kept);
    assert_int_equal(of_call.tiles_all, of_tiles.tiles_all);
    assert_int_equal(of_call.tiles_kept, info.tiles * BATCH / info.batch * HEADS / info.heads);
    assert_true(of_call.pairs_kept == of_tiles.pairs_kept && of_call.pairs_all == of_tiles.pairs_all);
    assert_true(of_call.pairs_kept > 0 && of_call.pairs_kept < of_call.pairs_all);
    da_cost cost;
    da_problem problem;
    da_cost_init(&cost);
    da_problem_init(&problem);
    problem.batch = BATCH;
    problem.n = N;
    problem.heads = HEADS;
    assert_int_equal(da_pattern_cost(&config, &problem, &cost), DA_OK);
    assert_true(of_call.pairs_all == cost.distinct_pairs);
    assert_true(of_call.choose_seconds >= 0 && of_call.report_seconds > 0);
    da_tile_mask_free(tiles);
    da_attention_free(attention);
    problem_data_free(&data);
    da_context_free(context);
}

/* No tile: no key. */
static void test_no_tiles(void **state) {
    (void)state;
    static const uint8_t none[BLOCKS * BLOCKS];
    da_context *context = make_context(2, DA_ISA_AUTO, NULL);
    problem_data data = make_data();
    da_attention_config config = make_config(DA_SPARSE_MASK, 1);
    da_tile_mask *mask = NULL;
    assert_int_equal(da_tile_mask_create(NULL, 1, 1, N, BLOCK, none, &mask), DA_OK);
    config.tile_mask = mask;
    da_attention *attention = create(context, "block_sparse", &config);
    run(attention, &data, NULL);
    for (size_t k = 0; k < data.out_bytes / sizeof(float); k++) {
        assert_true(data.outputs[k] == 0);
    }
    for (size_t k = 0; k < data.lse_bytes / sizeof(double); k++) {
        assert_true(data.sums[k] == -(double)INFINITY);
    }
    for (size_t k = 0; k < data.gradient_bytes / sizeof(float); k++) {
        assert_true(data.gradients[k] == 0);
    }
    da_attention_free(attention);
    da_tile_mask_free(mask);
    problem_data_free(&data);
    da_context_free(context);
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static da_status all_calls(const da_context *context, problem_data *data, da_sparse_pattern pattern,
                           const da_tile_mask *mask) {
    da_attention_config config = make_config(pattern, 0.4);
    da_attention *attention = NULL;
    da_tile_mask *tiles = NULL;
    da_sparse_report report;
    da_call_options options;
    config.tile_mask = mask;
    da_sparse_report_init(&report);
    da_call_options_init(&options);
    options.sparse_report = &report;
    da_status status = da_attention_create(context, "block_sparse", &config, &attention);
    if (status == DA_OK) {
        status = problem_data_forward(data, attention, &options);
    }
    if (status == DA_OK) {
        status = problem_data_backward(data, attention, NULL);
    }
    if (status == DA_OK) {
        status = da_attention_tiles(attention, &data->query, &data->key, NULL, &tiles, NULL);
        assert_true((status == DA_OK) == (tiles != NULL));
    }
    da_tile_mask_free(tiles);
    da_attention_free(attention);
    return status;
}

/* Whichever allocation fails, the call that made it says so, and nothing is left. */
static void test_short_memory(void **state) {
    (void)state;
    static const da_sparse_pattern patterns[] = {DA_SPARSE_LOCAL_WINDOW, DA_SPARSE_HYBRID, DA_SPARSE_MASK};
    static uint8_t kept[BLOCKS * BLOCKS];
    problem_data data = make_data();
    da_tile_mask *mask = NULL;
    memset(kept, 1, sizeof kept);
    assert_int_equal(da_tile_mask_create(NULL, 1, 1, N, BLOCK, kept, &mask), DA_OK);
    for (int k = 0; k < 3; k++) {
        da_status status = DA_ERROR_OUT_OF_MEMORY;
        long failing = 1;
        for (; status != DA_OK; failing++) {
            counting_allocator counter = {0};
            da_context *context = make_context(1 + k, DA_ISA_AUTO, &counter);
            long before = counter.live;
            counter.fail_from = counter.fail_to = counter.calls + failing;
            status = all_calls(context, &data, patterns[k], mask);
            assert_true(status == DA_OK || status == DA_ERROR_OUT_OF_MEMORY);
            assert_int_equal(counter.live, before);
            da_context_free(context);
            assert_int_equal(counter.live, 0);
            assert_true(failing < 100);
        }
        assert_true(failing > 8);
    }
    da_tile_mask_free(mask);
    problem_data_free(&data);
}

/* Configurations whose lists differ in how long they can become. */
typedef struct kind {
    da_sparse_pattern pattern;
    double ratio, target;
    bool causal, head_groups;
    int64_t window, global_blocks;
    int64_t segments[2], rates[2];
    int64_t block_size;
} kind;

static const kind kinds[] = {
    {DA_SPARSE_AXIAL, 0.4, 1, true, false, DA_NO_WINDOW, 1, {64, 900}, {1, 2}, 16},
    {DA_SPARSE_LOCAL_WINDOW, 0.4, 1, false, false, DA_NO_WINDOW, 1, {900, 900}, {1, 1}, 16},
    {DA_SPARSE_GLOBAL_LOCAL, 0.1, 1, false, false, DA_NO_WINDOW, 9, {900, 900}, {1, 3}, 16},
    {DA_SPARSE_RANDOM, 0.5, 1, true, false, 100, 1, {900, 900}, {1, 5}, 16},
    {DA_SPARSE_HYBRID, 0.9, 1, false, true, DA_NO_WINDOW, 1, {7, 300}, {3, 60}, 16},
    {DA_SPARSE_DILATED_SPARSE, 1, 1, false, false, DA_NO_WINDOW, 1, {900, 900}, {70, 90}, 16},
    {DA_SPARSE_CONTENT, 0.1, 1, true, false, DA_NO_WINDOW, 1, {900, 900}, {1, 1}, 16},
    {DA_SPARSE_CONTENT, 1, 1, false, true, DA_NO_WINDOW, 1, {64, 900}, {1, 3}, 16},
    {DA_SPARSE_CONTENT, 1, 0.95, false, false, DA_NO_WINDOW, 1, {64, 900}, {1, 3}, 16},
    {DA_SPARSE_AXIAL, 0.4, 0.999, false, false, 50, 1, {64, 900}, {1, 3}, 16},
    {DA_SPARSE_RANDOM, 0.5, 1, false, false, DA_NO_WINDOW, 1, {500, 900}, {1, 1}, 64},
    {DA_SPARSE_CONTENT, 0.3, 1, true, false, DA_NO_WINDOW, 1, {900, 900}, {1, 1}, 64},
};

enum { LONG = 900 };

static void assert_announced(counting_allocator *counter, long before, size_t bytes, const char *what, size_t number) {
    size_t taken = (size_t)(counter->peak_bytes - before);
    if (taken > bytes || bytes > 3 * taken) {
        fail_msg("kind %zu, %s: took %zu bytes, of %zu that were announced", number, what, taken, bytes);
    }
    counter->peak_bytes = before;
}

/* A call takes no more than was announced, and not much less: with its lists, with or without a report. Lists of fixed
 * patterns are kept, for which a handle is made anew. */
static void check_workspace(size_t number, int threads) {
    const kind *k = &kinds[number];
    counting_allocator counter = {0};
    da_context *context = make_context(threads, DA_ISA_AUTO, &counter);
    problem_data data = problem_data_make(5, BATCH, LONG, HEADS, KV_HEADS, HEAD_DIM);
    da_attention_config config = make_config(k->pattern, k->ratio);
    da_sparse_report report;
    da_call_options options;
    da_problem problem;
    size_t forward, backward;
    assert_int_equal(da_attention_config_set_patterns(&config, k->segments, 2, k->rates, 2), DA_OK);
    config.block_size = k->block_size;
    config.causal = k->causal;
    config.mixing = k->head_groups ? DA_MIXING_HEAD_GROUPS : DA_MIXING_LONGNET;
    config.window = k->window;
    config.global_blocks = k->global_blocks;
    config.quality_target = k->target;
    da_problem_init(&problem);
    problem = (da_problem){problem.size, BATCH, LONG, HEADS, KV_HEADS, HEAD_DIM, DA_F32};
    da_call_options_init(&options);
    da_sparse_report_init(&report);
    options.sparse_report = &report;
    long empty = counter.live_bytes;
    da_attention *attention = create(context, "block_sparse", &config);
    long before = counter.live_bytes;
    counter.peak_bytes = before;
    assert_int_equal(da_attention_workspace(attention, &problem, &forward), DA_OK);
    assert_int_equal(da_attention_backward_workspace(attention, &problem, &backward), DA_OK);
    assert_int_equal(problem_data_forward(&data, attention, NULL), DA_OK);
    assert_announced(&counter, before, forward, "forward", number);
    assert_int_equal(problem_data_forward(&data, attention, &options), DA_OK);
    assert_true((size_t)(counter.peak_bytes - before) <= forward);
    counter.peak_bytes = before;
    assert_int_equal(problem_data_backward(&data, attention, NULL), DA_OK);
    assert_announced(&counter, before, backward, "backward", number);
    da_attention_free(attention);
    assert_int_equal(counter.live_bytes, empty);
    problem_data_free(&data);
    da_context_free(context);
}

static void test_workspace(void **state) {
    (void)state;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        check_workspace(k, 1);
        check_workspace(k, 3);
    }
}

/* Of lengths that nobody has memory for there is an answer, soon; where the length is not known, lists are left out. */
static void test_workspace_of_long_sequences(void **state) {
    (void)state;
    da_context *context = make_context(1, DA_ISA_AUTO, NULL);
    da_problem problem;
    size_t before = 0;
    da_problem_init(&problem);
    problem.heads = 4;
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        da_attention_config config = make_config(kinds[k].pattern, kinds[k].ratio);
        config.quality_target = kinds[k].target;
        da_attention *attention = create(context, "block_sparse", &config);
        before = 0;
        for (int64_t n = 0; n <= (int64_t)1 << 34; n = n == 0 ? 1 << 10 : n * 8) {
            size_t bytes = 0;
            problem.n = n;
            assert_int_equal(da_attention_workspace(attention, &problem, &bytes), DA_OK);
            assert_true(bytes > 0);
            assert_true(n < 1 << 20 || bytes > before); /* the lists grow with the length */
            before = bytes;
        }
        da_attention_free(attention);
    }
    da_context_free(context);
}

/* ---- what is refused --------------------------------------------------------------------------------------------- */

struct fixture {
    da_context *context;
    problem_data data;
    da_attention *sparse, *improved;
    da_call_options options;
    da_sparse_report report;
    da_tile_mask *mask, *out;
};

static void set_up(fixture *f) {
    memset(f, 0, sizeof *f);
    const da_attention_config config = make_config(DA_SPARSE_LOCAL_WINDOW, 0.5);
    f->context = make_context(1, DA_ISA_AUTO, NULL);
    f->data = make_data();
    f->sparse = create(f->context, "block_sparse", &config);
    f->improved = create(f->context, "improved", &config);
    da_call_options_init(&f->options);
    da_sparse_report_init(&f->report);
    f->out = (da_tile_mask *)(void *)f;
}

static void tear_down(fixture *f) {
    da_tile_mask_free(f->mask);
    da_attention_free(f->improved);
    da_attention_free(f->sparse);
    problem_data_free(&f->data);
    da_context_free(f->context);
}

static void make_mask(fixture *f, int64_t batch, int64_t heads, int64_t n) {
    static const uint8_t kept[64 * BLOCKS * BLOCKS];
    assert_int_equal(da_tile_mask_create(NULL, batch, heads, n, BLOCK, kept, &f->mask), DA_OK);
}

static da_status forward_with(fixture *f, int64_t batch, int64_t heads, int64_t n) {
    make_mask(f, batch, heads, n);
    f->options.tiles = f->mask;
    return problem_data_forward(&f->data, f->sparse, &f->options);
}

static da_status backward_with(fixture *f, int64_t batch, int64_t heads, int64_t n) {
    assert_int_equal(problem_data_forward(&f->data, f->sparse, NULL), DA_OK);
    make_mask(f, batch, heads, n);
    f->options.tiles = f->mask;
    return problem_data_backward(&f->data, f->sparse, &f->options);
}

static da_status forward_masked(fixture *f, int64_t n) {
    da_attention_config config = make_config(DA_SPARSE_MASK, 1);
    make_mask(f, 1, 1, n);
    config.tile_mask = f->mask;
    da_attention *masked = create(f->context, "block_sparse", &config);
    da_status status = problem_data_forward(&f->data, masked, NULL);
    da_attention_free(masked);
    return status;
}

static da_status tiles_of(fixture *f, const da_attention *attention) {
    da_status status = da_attention_tiles(attention, &f->data.query, &f->data.key, &f->options, &f->out, &f->report);
    return status != DA_OK && f->out ? DA_OK : status; /* an error must leave NULL */
}

static da_status forward_with_report(fixture *f) {
    f->options.sparse_report = &f->report;
    return problem_data_forward(&f->data, f->sparse, &f->options);
}

#define REFUSED DA_ERROR_INVALID_ARGUMENT
#define CALL_ROWS(ROW)                                                                                                 \
    ROW(tiles_of_other_batch, forward_with(f, BATCH + 1, HEADS, N), REFUSED,                                           \
        "options.tiles is of batch 3; allowed: 2")                                                                     \
    ROW(tiles_of_other_heads, forward_with(f, 1, KV_HEADS, N), REFUSED, "options.tiles is of heads 2; allowed: 4")     \
    ROW(tiles_of_other_length, forward_with(f, 1, 1, N - 1), REFUSED, "options.tiles is of n 199; allowed: 200")       \
    ROW(backward_tiles_of_other_length, backward_with(f, 1, 1, N + 1), REFUSED, "options.tiles is of n 201")           \
    ROW(backward_tiles_of_other_batch, backward_with(f, 3, 1, N), REFUSED, "options.tiles is of batch 3")              \
    ROW(mask_of_other_length, forward_masked(f, N + 100), REFUSED, "tile_mask is of n 300; allowed: 200")              \
    ROW(report_size, (f->report.size = 8, forward_with_report(f)), REFUSED, "sparse_report.size is 8")                 \
    ROW(tiles_report_size, (f->report.size = 0, tiles_of(f, f->sparse)), REFUSED, "sparse_report.size is 0")           \
    ROW(tiles_of_improved, tiles_of(f, f->improved), DA_ERROR_UNSUPPORTED, "\"improved\" chooses no tiles")            \
    ROW(tiles_of_nothing, tiles_of(f, NULL), REFUSED, "attention is NULL")                                             \
    ROW(tiles_out_null, da_attention_tiles(f->sparse, &f->data.query, &f->data.key, NULL, NULL, NULL), REFUSED,        \
        "out is NULL")                                                                                                 \
    ROW(tiles_query_null, da_attention_tiles(f->sparse, NULL, &f->data.key, NULL, &f->out, NULL), REFUSED, "query")    \
    ROW(tiles_key_null, da_attention_tiles(f->sparse, &f->data.query, NULL, NULL, &f->out, NULL), REFUSED, "key")      \
    ROW(tiles_key_shape, (f->data.key.shape[1] = N - 1, tiles_of(f, f->sparse)), REFUSED, "key.shape")                 \
    ROW(tiles_options, (f->options.block = -1, tiles_of(f, f->sparse)), REFUSED, "options.block is -1")

CALL_ROWS(REFUSAL_FUNCTION)
static const refusal call_rows[] = {CALL_ROWS(REFUSAL_ENTRY)};

static void refuse(void **state) {
    fixture f;
    set_up(&f);
    refusal_check(*state, &f);
    tear_down(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_three_ways),
        cmocka_unit_test(test_all_tiles),
        cmocka_unit_test(test_packed_heads),
        cmocka_unit_test(test_packed_and_gathered),
        cmocka_unit_test(test_some_heads_keep_all),
        cmocka_unit_test(test_each_tile_counts),
        cmocka_unit_test(test_one_list_is_all_of_some_heads),
        cmocka_unit_test(test_report),
        cmocka_unit_test(test_no_tiles),
        cmocka_unit_test(test_workspace),
        cmocka_unit_test(test_workspace_of_long_sequences),
        cmocka_unit_test(test_short_memory),
    };
    int failures = cmocka_run_group_tests_name("block_sparse", tests, NULL, NULL);
    return failures + refusal_run("refused", call_rows, sizeof call_rows / sizeof *call_rows, refuse);
}
