/* Tiles chosen by content, by a target, and by a profile: what is kept, of how many, by which calls, and that reports tell the
 * truth. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "attention/block_sparse/patterns.h"
#include "block_sparse/contexts.h"
#include "pattern/tile_universe.h"
#include "support/problem_data.h"
#include "support/refusals.h"
#include "support/values.h"

enum { BATCH = 2, N = 700, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 12, BLOCK = 16, BLOCKS = (N + BLOCK - 1) / BLOCK };

struct fixture {
    da_context *context;
    da_attention_config config;
    problem_data data;
    da_call_options options;
};

/* Queries attend to keys that lie near them, and all to those of one block: columns are 3 components of slow waves. */
static void shape_data(problem_data *data) {
    float *query = data->query.data, *key = data->key.data;
    for (int64_t row = 0; row < BATCH * N * HEADS; row++) {
        double at = (double)(row / HEADS % N) / N;
        query[row * HEAD_DIM] = (float)(6 * cos(9 * at));
        query[row * HEAD_DIM + 1] = (float)(6 * sin(9 * at));
        query[row * HEAD_DIM + 2] = 2;
    }
    for (int64_t row = 0; row < BATCH * N * KV_HEADS; row++) {
        int64_t i = row / KV_HEADS % N;
        double at = (double)i / N;
        key[row * HEAD_DIM] = (float)(2 * cos(9 * at));
        key[row * HEAD_DIM + 1] = (float)(2 * sin(9 * at));
        key[row * HEAD_DIM + 2] = i / BLOCK == 30 ? 6 : 0;
    }
}

static fixture make(int threads, da_isa isa) {
    fixture f = {.context = make_context(threads, isa, NULL),
                 .data = problem_data_make(3, BATCH, N, HEADS, KV_HEADS, HEAD_DIM)};
    shape_data(&f.data);
    da_attention_config_init(&f.config);
    assert_int_equal(da_attention_config_set_patterns(&f.config, (int64_t[]){256, 2048}, 2, (int64_t[]){1, 2}, 2),
                     DA_OK);
    f.config.block_size = BLOCK;
    da_call_options_init(&f.options);
    return f;
}

/* Every token is kept: there some tiles cost less than all pairs. */
static void keep_every_token(fixture *f) {
    assert_int_equal(da_attention_config_set_patterns(&f->config, (int64_t[]){256, 2048}, 2, (int64_t[]){1, 1}, 2),
                     DA_OK);
}

static void drop(fixture *f) {
    problem_data_free(&f->data);
    da_context_free(f->context);
}

static da_attention *attend(const fixture *f) {
    da_attention *attention;
    assert_int_equal(da_attention_create(f->context, "block_sparse", &f->config, &attention), DA_OK);
    return attention;
}

static da_tile_mask *tiles_of(const fixture *f, da_sparse_report *report) {
    da_attention *attention = attend(f);
    da_tile_mask *mask;
    if (report) {
        da_sparse_report_init(report);
    }
    assert_int_equal(da_attention_tiles(attention, &f->data.query, &f->data.key, &f->options, &mask, report), DA_OK);
    da_attention_free(attention);
    return mask;
}

static da_tile_mask_info info_of(const da_tile_mask *mask) {
    da_tile_mask_info info;
    da_tile_mask_info_init(&info);
    assert_int_equal(da_tile_mask_get_info(mask, &info), DA_OK);
    return info;
}

static bool same_tiles(const da_tile_mask *a, const da_tile_mask *b) {
    da_tile_mask_info x = info_of(a), y = info_of(b);
    size_t starts = (size_t)(x.batch * x.heads * x.blocks + 1) * sizeof *x.row_starts;
    return x.batch == y.batch && x.heads == y.heads && x.tiles == y.tiles &&
           memcmp(x.row_starts, y.row_starts, starts) == 0 &&
           memcmp(x.columns, y.columns, (size_t)x.tiles * sizeof *x.columns) == 0;
}

/* ---- how many ------------------------------------------------------------------------------------------------------ */

/* The row's columns are in its universe; returns how many that has. */
static int64_t check_row(const fixture *f, const da_tile_mask_info *info, int64_t sequence, int64_t block) {
    da_head_patterns patterns;
    uint8_t marks[BLOCKS] = {0};
    int32_t universe[BLOCKS];
    da_head_patterns_init(&patterns, &f->config, N, HEADS, sequence % HEADS);
    int64_t count = da_tile_universe(&patterns, BLOCK, block, marks, universe), at = 0;
    for (int64_t k = info->row_starts[sequence * BLOCKS + block]; k < info->row_starts[sequence * BLOCKS + block + 1];
         k++) {
        while (at < count && universe[at] != info->columns[k]) {
            at++;
        }
        assert_true(at < count);
    }
    return count;
}

static void test_ratio_is_kept(void **state) {
    const double ratios[] = {0.01, 0.1, 0.37, 1};
    (void)state;
    for (int k = 0; k < 8; k++) {
        fixture f = make(2, DA_ISA_AUTO);
        f.config.causal = k >= 4;
        f.config.sparsity_ratio = ratios[k % 4];
        da_tile_mask *mask = tiles_of(&f, NULL);
        da_tile_mask_info info = info_of(mask);
        for (int64_t row = 0; row < BATCH * HEADS * BLOCKS; row++) {
            int64_t universe = check_row(&f, &info, row / BLOCKS, row % BLOCKS);
            assert_int_equal(info.row_starts[row + 1] - info.row_starts[row], da_sparse_kept(ratios[k % 4], universe));
        }
        da_tile_mask_free(mask);
        drop(&f);
    }
}

/* ---- how well ------------------------------------------------------------------------------------------------------ */

static double score(const fixture *f, int64_t b, int64_t h, int64_t i, int64_t j) {
    const float *q = (const float *)f->data.query.data + ((b * N + i) * HEADS + h) * HEAD_DIM,
                *k = (const float *)f->data.key.data + ((b * N + j) * KV_HEADS + h / (HEADS / KV_HEADS)) * HEAD_DIM;
    double sum = 0;
    for (int c = 0; c < HEAD_DIM; c++) {
        sum += (double)q[c] * (double)k[c];
    }
    return sum / sqrt(HEAD_DIM);
}

/* The part of its attention that a query keeps; -1: it has no key. */
static double kept_of(const fixture *f, const da_tile_mask_info *info, int64_t b, int64_t h, int64_t i) {
    double all = 0, kept = 0;
    int64_t row = ((info->batch == 1 ? 0 : b) * info->heads + (info->heads == 1 ? 0 : h)) * BLOCKS + i / BLOCK;
    bool has[BLOCKS] = {false};
    for (int64_t k = info->row_starts[row]; k < info->row_starts[row + 1]; k++) {
        has[info->columns[k]] = true;
    }
    for (int64_t j = 0; j < N; j++) {
        int64_t count;
        assert_int_equal(da_pattern_multiplicity(&f->config, N, HEADS, h, i, j, &count), DA_OK);
        double weight = (double)count * exp(score(f, b, h, i, j));
        all += weight;
        kept += has[j / BLOCK] ? weight : 0;
    }
    return all > 0 ? kept / all : -1;
}

static double mean_kept(const fixture *f, const da_tile_mask *mask) {
    da_tile_mask_info info = info_of(mask);
    double sum = 0, count = 0;
    for (int64_t b = 0; b < BATCH; b++) {
        for (int64_t h = 0; h < HEADS; h++) {
            for (int64_t i = 0; i < N; i += 3) {
                double kept = kept_of(f, &info, b, h, i);
                sum += kept >= 0 ? kept : 0;
                count += kept >= 0;
            }
        }
    }
    return sum / count;
}

/* The data is attended to in bands and one block: content finds both. The report is within its error of all queries. */
static void test_content_keeps_most(void **state) {
    fixture f = make(2, DA_ISA_AUTO);
    da_sparse_report report;
    (void)state;
    f.config.sparsity_ratio = 0.25;
    da_tile_mask *mask = tiles_of(&f, &report);
    double kept = mean_kept(&f, mask);
    assert_true(kept > 0.9);
    assert_true(report.sampled_queries > 50 && report.mass_error > 0 && report.mass_error < 0.05);
    assert_true(fabs(report.mass_kept - kept) < 4 * report.mass_error);
    da_tile_mask_free(mask);
    f.config.sparse_pattern = DA_SPARSE_RANDOM;
    mask = tiles_of(&f, &report);
    assert_true(mean_kept(&f, mask) < kept - 0.3);
    assert_true(fabs(report.mass_kept - mean_kept(&f, mask)) < 4 * report.mass_error);
    da_tile_mask_free(mask);
    drop(&f);
}

static void check_target(fixture *f, double target, int64_t *tiles) {
    da_sparse_report report;
    f->config.quality_target = target;
    da_tile_mask *mask = tiles_of(f, &report);
    double kept = mean_kept(f, mask);
    assert_true(kept > target - 0.02); /* of what the sample has seen, all; of all queries, about that */
    assert_true(report.mass_kept > target - 4 * report.mass_error - 0.005);
    assert_int_equal(report.tiles_kept, info_of(mask).tiles);
    *tiles = report.tiles_kept;
    da_tile_mask_free(mask);
}

static void test_target_is_kept(void **state) {
    const da_sparse_pattern patterns[] = {DA_SPARSE_CONTENT, DA_SPARSE_LOCAL_WINDOW, DA_SPARSE_RANDOM};
    (void)state;
    for (int k = 0; k < 6; k++) {
        fixture f = make(2, DA_ISA_AUTO);
        int64_t most, fewer, fewest;
        keep_every_token(&f);
        f.config.sparse_pattern = patterns[k % 3];
        f.config.causal = k >= 3;
        check_target(&f, 0.99, &most);
        check_target(&f, 0.9, &fewer);
        check_target(&f, 0.5, &fewest);
        assert_true(fewest <= fewer && fewer <= most && fewest < most);
        drop(&f);
    }
}

/* A target beyond what sampling can tell is met by all tiles: then the result is that of improved. */
static void test_all_where_need_be(void **state) {
    fixture f = make(2, DA_ISA_AUTO);
    da_sparse_report report;
    (void)state;
    f.config.sparse_pattern = DA_SPARSE_RANDOM;
    f.config.quality_target = 1 - 1e-15;
    da_tile_mask *mask = tiles_of(&f, &report);
    assert_true(report.tiles_kept == report.tiles_all && report.tiles_all > 0);
    da_tile_mask_free(mask);
    drop(&f);
}

/* What a call gives that chooses by a target; *kept: of all tiles. */
static problem_data run_with_target(fixture *f, double *kept) {
    problem_data data = problem_data_make(3, BATCH, N, HEADS, KV_HEADS, HEAD_DIM);
    da_sparse_report report;
    da_call_options options = f->options;
    da_attention *attention = attend(f);
    shape_data(&data);
    da_sparse_report_init(&report);
    options.sparse_report = &report;
    assert_int_equal(problem_data_forward(&data, attention, &options), DA_OK);
    assert_int_equal(problem_data_backward(&data, attention, &f->options), DA_OK);
    *kept = (double)report.tiles_kept / (double)report.tiles_all;
    assert_true((*kept == 1) == (fabs(report.mass_kept - 1) < 1e-6));
    da_attention_free(attention);
    return data;
}

/* Tiles of a pattern with large rates hold few pairs: those that keep a target would take longer than all pairs do, which
 * are kept then. Where every token is kept, those that content takes are few enough. */
static void test_all_where_tiles_cost_more(void **state) {
    const da_sparse_pattern patterns[] = {DA_SPARSE_CONTENT, DA_SPARSE_AXIAL, DA_SPARSE_RANDOM};
    (void)state;
    for (int k = 0; k < 6; k++) {
        fixture f = make(2, DA_ISA_AUTO);
        da_attention *improved;
        double kept;
        f.config.sparse_pattern = patterns[k % 3];
        f.config.causal = k >= 3;
        f.config.quality_target = 0.8;
        assert_int_equal(
            da_attention_config_set_patterns(&f.config, (int64_t[]){64, 256, 2048}, 3, (int64_t[]){1, 4, 8}, 3), DA_OK);
        problem_data chosen = run_with_target(&f, &kept);
        assert_true(kept == 1);
        assert_int_equal(da_attention_create(f.context, "improved", &f.config, &improved), DA_OK);
        assert_int_equal(problem_data_forward(&f.data, improved, NULL), DA_OK);
        assert_int_equal(problem_data_backward(&f.data, improved, NULL), DA_OK);
        assert_true(problem_data_equal(&f.data, &chosen));
        problem_data_free(&chosen);
        keep_every_token(&f);
        chosen = run_with_target(&f, &kept);
        assert_true(k % 3 != 0 || kept < 0.6);
        problem_data_free(&chosen);
        da_attention_free(improved);
        drop(&f);
    }
}

/* ---- the same for all ------------------------------------------------------------------------------------------------ */

static void test_threads_do_not_matter(void **state) {
    (void)state;
    for (int k = 0; k < 3; k++) {
        da_tile_mask *first = NULL;
        for (int threads = 1; threads <= 9; threads += 4) { /* heads side by side, or threads that share them */
            fixture f = make(threads, DA_ISA_AUTO);
            if (k == 1) {
                keep_every_token(&f);
                f.config.quality_target = 0.9;
            }
            f.config.sparse_pattern = k == 2 ? DA_SPARSE_HYBRID : DA_SPARSE_CONTENT;
            f.config.sparsity_ratio = 0.2;
            da_tile_mask *mask = tiles_of(&f, NULL);
            if (!first) {
                first = mask;
            } else {
                assert_true(same_tiles(first, mask));
                da_tile_mask_free(mask);
            }
            drop(&f);
        }
        da_tile_mask_free(first);
    }
}

/* Instruction sets round differently, which can decide between tiles that are as good: what they keep is the same. */
static void test_instruction_sets_agree(void **state) {
    (void)state;
    for (int k = 0; k < 2; k++) {
        double kept[2];
        int64_t tiles[2];
        for (int isa = 0; isa < 2; isa++) {
            fixture f = make(1, isa ? DA_ISA_PORTABLE : DA_ISA_AUTO);
            if (k == 1) {
                keep_every_token(&f);
                f.config.quality_target = 0.9;
            }
            da_tile_mask *mask = tiles_of(&f, NULL);
            kept[isa] = mean_kept(&f, mask);
            tiles[isa] = info_of(mask).tiles;
            da_tile_mask_free(mask);
            drop(&f);
        }
        assert_true(fabs(kept[0] - kept[1]) < 1e-3);
        assert_true(llabs(tiles[0] - tiles[1]) <= (k ? tiles[0] / 200 : 0));
    }
}

/* Tensors of other types choose what those of f32 with the same values do: eighths below 16, which all types can hold. */
static void test_data_types_agree(void **state) {
    static const da_dtype dtypes[] = {DA_F64, DA_BF16, DA_F16};
    fixture f = make(2, DA_ISA_AUTO);
    int64_t of_query = BATCH * N * HEADS * HEAD_DIM, of_key = BATCH * N * KV_HEADS * HEAD_DIM;
    char *memory = malloc((size_t)(of_query + of_key) * sizeof(double));
    (void)state;
    assert_non_null(memory);
    for (int64_t k = 0; k < of_query + of_key; k++) {
        f.data.inputs[k] = roundf(f.data.inputs[k] * 8) / 8;
    }
    da_tile_mask *mask = tiles_of(&f, NULL);
    for (int t = 0; t < 3; t++) {
        for (int64_t k = 0; k < of_query + of_key; k++) {
            value_store(memory, dtypes[t], k, (double)f.data.inputs[k]);
        }
        char *keys = memory + (size_t)of_query * da_dtype_size(dtypes[t]);
        f.data.query = da_tensor_make(memory, dtypes[t], BATCH, N, HEADS, HEAD_DIM);
        f.data.key = da_tensor_make(keys, dtypes[t], BATCH, N, KV_HEADS, HEAD_DIM);
        da_tile_mask *of_type = tiles_of(&f, NULL);
        assert_true(same_tiles(mask, of_type));
        da_tile_mask_free(of_type);
    }
    da_tile_mask_free(mask);
    free(memory);
    drop(&f);
}

/* ---- calls ----------------------------------------------------------------------------------------------------------- */

/* A forward and a backward pass that choose, and with the tiles that they would choose handed to them, have the same bits. */
static void test_calls_use_the_tiles(void **state) {
    (void)state;
    for (int k = 0; k < 3; k++) {
        fixture f = make(2, DA_ISA_AUTO);
        problem_data again = problem_data_make(3, BATCH, N, HEADS, KV_HEADS, HEAD_DIM);
        shape_data(&again);
        if (k == 1) {
            keep_every_token(&f);
            f.config.quality_target = 0.9;
        }
        f.config.sparse_pattern = k == 2 ? DA_SPARSE_LOCAL_WINDOW : DA_SPARSE_CONTENT;
        da_tile_mask *mask = tiles_of(&f, NULL);
        da_attention *attention = attend(&f);
        da_call_options given = f.options;
        given.tiles = mask;
        assert_int_equal(problem_data_forward(&f.data, attention, &f.options), DA_OK);
        assert_int_equal(problem_data_forward(&again, attention, &given), DA_OK);
        assert_int_equal(problem_data_backward(&f.data, attention, &f.options), DA_OK);
        assert_int_equal(problem_data_backward(&again, attention, &given), DA_OK);
        assert_true(problem_data_equal(&f.data, &again));
        da_attention_free(attention);
        da_tile_mask_free(mask);
        problem_data_free(&again);
        drop(&f);
    }
}

/* A NaN in a key is no reason to fail, nor are lengths of 0. */
static void test_not_finite(void **state) {
    fixture f = make(2, DA_ISA_AUTO);
    const int64_t lengths[BATCH] = {0, N};
    (void)state;
    ((float *)f.data.key.data)[100 * KV_HEADS * HEAD_DIM] = NAN;
    ((float *)f.data.query.data)[300 * HEADS * HEAD_DIM] = INFINITY;
    f.options.key_lengths = lengths;
    for (int k = 0; k < 2; k++) {
        da_sparse_report report;
        f.config.quality_target = k ? 0.9 : 1;
        da_tile_mask *mask = tiles_of(&f, &report);
        assert_true(info_of(mask).tiles > 0);
        da_tile_mask_free(mask);
    }
    drop(&f);
}

/* ---- profiles -------------------------------------------------------------------------------------------------------- */

static void test_profile(void **state) {
    fixture f = make(2, DA_ISA_AUTO);
    da_sparse_profile *profile;
    da_sparse_report report;
    int by_content = 0;
    (void)state;
    keep_every_token(&f);
    assert_int_equal(da_sparse_profile_create(f.context, &f.config, &f.data.query, &f.data.key, NULL, 0.9, &profile),
                     DA_OK);
    for (int64_t head = 0; head < HEADS; head++) {
        da_sparse_pattern pattern;
        double ratio;
        assert_int_equal(da_sparse_profile_head(profile, head, &pattern, &ratio), DA_OK);
        assert_true(pattern == DA_SPARSE_CONTENT || pattern == DA_SPARSE_LOCAL_WINDOW);
        by_content += pattern == DA_SPARSE_CONTENT;
        assert_true(ratio > 0 && ratio < 0.6);
    }
    assert_true(by_content > 0);
    f.config.sparse_pattern = DA_SPARSE_PROFILE;
    f.config.sparse_profile = profile;
    da_tile_mask *mask = tiles_of(&f, &report);
    assert_true(mean_kept(&f, mask) > 0.88 && report.mass_kept > 0.9 - 4 * report.mass_error);
    da_tile_mask_free(mask);
    da_sparse_profile_free(profile);
    drop(&f);
}

/* Where tiles that keep the target would cost more than all pairs, a profile says to keep all. */
static void test_profile_keeps_all(void **state) {
    fixture f = make(2, DA_ISA_AUTO);
    da_sparse_profile *profile;
    da_sparse_report report;
    (void)state;
    assert_int_equal(
        da_attention_config_set_patterns(&f.config, (int64_t[]){64, 256, 2048}, 3, (int64_t[]){1, 4, 8}, 3), DA_OK);
    assert_int_equal(da_sparse_profile_create(f.context, &f.config, &f.data.query, &f.data.key, NULL, 0.8, &profile),
                     DA_OK);
    for (int64_t head = 0; head < HEADS; head++) {
        da_sparse_pattern pattern;
        double ratio;
        assert_int_equal(da_sparse_profile_head(profile, head, &pattern, &ratio), DA_OK);
        assert_true(pattern != DA_SPARSE_CONTENT && ratio == 1);
    }
    f.config.sparse_pattern = DA_SPARSE_PROFILE;
    f.config.sparse_profile = profile;
    da_tile_mask *mask = tiles_of(&f, &report);
    assert_true(report.tiles_kept == report.tiles_all);
    da_tile_mask_free(mask);
    da_sparse_profile_free(profile);
    drop(&f);
}

/* Heads of another number are refused when the call shows it. */
static void test_profile_of_other_heads(void **state) {
    fixture f = make(2, DA_ISA_AUTO);
    da_sparse_profile *profile;
    (void)state;
    da_tensor query = f.data.query, key = f.data.key;
    query.shape[2] = 2;
    assert_int_equal(da_sparse_profile_create(f.context, &f.config, &query, &key, NULL, 0.9, &profile), DA_OK);
    f.config.sparse_pattern = DA_SPARSE_PROFILE;
    f.config.sparse_profile = profile;
    da_attention *attention = attend(&f);
    assert_int_equal(problem_data_forward(&f.data, attention, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_string_equal(da_last_error_message(), "sparse_profile is of 2 heads; allowed: 4, as query");
    da_attention_free(attention);
    da_sparse_profile_free(profile);
    drop(&f);
}

#define CREATE(context_, config_, query_, target_, out_)                                                               \
    da_sparse_profile_create(context_, config_, query_, &f->data.key, NULL, target_, out_)

static da_sparse_profile *unused;
static da_sparse_pattern a_pattern;
static double a_ratio;

#define ROWS(ROW)                                                                                                      \
    ROW(no_context, CREATE(NULL, &f->config, &f->data.query, 0.9, &unused), DA_ERROR_INVALID_ARGUMENT,                 \
        "context is NULL")                                                                                             \
    ROW(no_config, CREATE(f->context, NULL, &f->data.query, 0.9, &unused), DA_ERROR_INVALID_ARGUMENT, "config")        \
    ROW(no_out, CREATE(f->context, &f->config, &f->data.query, 0.9, NULL), DA_ERROR_INVALID_ARGUMENT, "out is NULL")   \
    ROW(no_query, CREATE(f->context, &f->config, NULL, 0.9, &unused), DA_ERROR_INVALID_ARGUMENT, "query")              \
    ROW(target_1, CREATE(f->context, &f->config, &f->data.query, 1, &unused), DA_ERROR_INVALID_ARGUMENT,               \
        "quality_target is 1; allowed: above 0 and below 1")                                                           \
    ROW(target_nan, CREATE(f->context, &f->config, &f->data.query, NAN, &unused), DA_ERROR_INVALID_ARGUMENT,           \
        "quality_target is nan")                                                                                       \
    ROW(save_null, da_sparse_profile_save(NULL, "x"), DA_ERROR_INVALID_ARGUMENT, "profile is NULL")                    \
    ROW(load_null, da_sparse_profile_load(NULL, "x", NULL), DA_ERROR_INVALID_ARGUMENT, "out is NULL")                  \
    ROW(load_no_path, da_sparse_profile_load(NULL, NULL, &unused), DA_ERROR_INVALID_ARGUMENT, "path is NULL")          \
    ROW(load_empty_path, da_sparse_profile_load(NULL, "", &unused), DA_ERROR_INVALID_ARGUMENT, "path is empty")        \
    ROW(load_nothing, da_sparse_profile_load(NULL, "/nowhere/at/all", &unused), DA_ERROR_IO, "/nowhere/at/all")        \
    ROW(head_of_null, da_sparse_profile_head(NULL, 0, &a_pattern, &a_ratio), DA_ERROR_INVALID_ARGUMENT,                \
        "profile is NULL")                                                                                             \
    ROW(info_of_null, da_sparse_profile_get_info(NULL, NULL), DA_ERROR_INVALID_ARGUMENT, "profile is NULL")
ROWS(REFUSAL_FUNCTION)
static const refusal rows[] = {ROWS(REFUSAL_ENTRY)};

static void refuse(void **state) {
    fixture f = make(1, DA_ISA_AUTO);
    refusal_check(*state, &f);
    drop(&f);
}

/* ---- short memory ---------------------------------------------------------------------------------------------------- */

typedef da_status act(fixture *f);

static da_status act_forward(fixture *f) {
    da_attention *attention;
    da_sparse_report report;
    da_call_options options = f->options;
    da_sparse_report_init(&report);
    options.sparse_report = &report;
    da_status status = da_attention_create(f->context, "block_sparse", &f->config, &attention);
    if (status == DA_OK) {
        status = problem_data_forward(&f->data, attention, &options);
    }
    da_attention_free(attention);
    return status;
}

static da_status act_profile(fixture *f) {
    da_sparse_profile *profile;
    da_status status =
        da_sparse_profile_create(f->context, &f->config, &f->data.query, &f->data.key, NULL, 0.9, &profile);
    assert_true((status == DA_OK) == (profile != NULL));
    da_sparse_profile_free(profile);
    return status;
}

/* Every allocation fails once: the call says so, leaks nothing, and is whole when none fails. */
static void fail_each(act *call, double target) {
    fixture f = make(2, DA_ISA_AUTO);
    da_status status = DA_ERROR_OUT_OF_MEMORY;
    long failed = 0;
    da_context_free(f.context);
    f.config.quality_target = target;
    for (long at = 1; status != DA_OK; at++) {
        counting_allocator counter = {0};
        f.context = make_context(2, DA_ISA_AUTO, &counter);
        counter.fail_from = counter.fail_to = atomic_load(&counter.calls) + at;
        status = call(&f);
        assert_true(status == DA_OK || status == DA_ERROR_OUT_OF_MEMORY);
        failed += status != DA_OK;
        da_context_free(f.context);
        assert_int_equal(atomic_load(&counter.live), 0);
    }
    assert_true(failed > 2);
    f.context = make_context(1, DA_ISA_AUTO, NULL);
    drop(&f);
}

static void test_short_memory(void **state) {
    (void)state;
    fail_each(act_forward, 1);
    fail_each(act_forward, 0.9);
    fail_each(act_profile, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_ratio_is_kept),
                                       cmocka_unit_test(test_content_keeps_most),
                                       cmocka_unit_test(test_target_is_kept),
                                       cmocka_unit_test(test_all_where_need_be),
                                       cmocka_unit_test(test_all_where_tiles_cost_more),
                                       cmocka_unit_test(test_threads_do_not_matter),
                                       cmocka_unit_test(test_instruction_sets_agree),
                                       cmocka_unit_test(test_data_types_agree),
                                       cmocka_unit_test(test_calls_use_the_tiles),
                                       cmocka_unit_test(test_not_finite),
                                       cmocka_unit_test(test_profile),
                                       cmocka_unit_test(test_profile_keeps_all),
                                       cmocka_unit_test(test_profile_of_other_heads),
                                       cmocka_unit_test(test_short_memory)};
    int failed = cmocka_run_group_tests_name("choice", tests, NULL, NULL);
    return failed + refusal_run("choice_refusals", rows, sizeof rows / sizeof *rows, refuse);
}
