/* Parameters in .safetensors files: what is saved is loaded again, by both families of names and in both layouts; and
 * files that must be refused, which leave the module as it was. */
#define _XOPEN_SOURCE 700
#include "io/files.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "multihead/fixtures.h"
#include "support/values.h"

/* Of the copy that this returns, only the handles may be used: its views lead into the original. */
static module_fixture open_module(da_dtype dtype) {
    module_fixture f;
    module_fixture_init(&f);
    f.config.dtype = dtype;
    assert_int_equal(module_fixture_open(&f, "standard"), DA_OK);
    return f;
}

/* Draws all parameters, biases and norms too. */
static void draw_all(da_multihead *multihead, uint32_t seed) {
    da_parameter view;
    for (size_t k = 0; k < da_multihead_parameter_count(multihead); k++) {
        assert_int_equal(da_multihead_parameter_at(multihead, k, &view), DA_OK);
        for (int64_t e = 0; e < view.shape[0] * view.shape[1]; e++) {
            seed = seed * 1664525u + 1013904223u;
            value_store(view.data, view.dtype, e, (double)(seed >> 25) / 64); /* seven bits: every type holds them */
        }
    }
}

static bool equal_parameters(da_multihead *a, da_multihead *b) {
    bool equal = true;
    for (size_t k = 0; k < da_multihead_parameter_count(a); k++) {
        da_parameter x, y;
        assert_int_equal(da_multihead_parameter_at(a, k, &x), DA_OK);
        assert_int_equal(da_multihead_parameter_at(b, k, &y), DA_OK);
        for (int64_t e = 0; e < x.shape[0] * x.shape[1]; e++) {
            equal = equal && value_load(x.data, x.dtype, e) == value_load(y.data, y.dtype, e);
        }
    }
    return equal;
}

static da_weights_format make_format(const char *prefix, da_parameter_names names, da_weight_layout layout) {
    da_weights_format format;
    da_weights_format_init(&format);
    format.prefix = prefix;
    format.names = names;
    format.layout = layout;
    return format;
}

/* ---- what is saved is loaded ------------------------------------------------------------------------------------- */

static void test_round_trip(void **state) {
    const char *path = in_folder("w.safetensors");
    for (int variant = 0; variant < 64; variant++) {
        da_dtype source = (da_dtype)(1 + variant % 4), target = (da_dtype)(1 + variant / 4 % 4);
        da_weights_format format =
            make_format(variant % 3 ? "layers.0.self_attn." : NULL, (da_parameter_names)(variant / 16 % 2),
                        (da_weight_layout)(variant / 32));
        module_fixture a = open_module(source), b = open_module(target);
        draw_all(a.multihead, (uint32_t)variant);
        assert_int_equal(da_multihead_save(a.multihead, path, &format), DA_OK);
        format.names = DA_NAMES_OWN; /* loading knows both */
        assert_int_equal(da_multihead_load(b.multihead, path, &format), DA_OK);
        assert_true(equal_parameters(a.multihead, b.multihead));
        module_fixture_close(&a);
        module_fixture_close(&b);
    }
    unlink(path);
}

static void assert_holds(const char *path, const char *name, const double *values, int rank, const int64_t *shape) {
    char full[1200];
    da_tensor_file file;
    snprintf(full, sizeof full, "%s:%s", path, name);
    assert_int_equal(da_tensor_file_open(full, &file), DA_OK);
    assert_int_equal(file.rank, rank);
    assert_memory_equal(file.shape, shape, (size_t)rank * sizeof *shape);
    for (int64_t e = 0; e < shape[0] * (rank > 1 ? shape[1] : 1); e++) {
        assert_true(value_load(file.data, DA_F32, e) == values[e]);
    }
    da_tensor_file_close(&file);
}

/* What is in the file, read by the tensor reader of the command line. */
static void test_names_and_layouts(void **state) {
    const char *path = in_folder("w.safetensors");
    module_fixture f = open_module(DA_F32);
    draw_all(f.multihead, 5);
    da_parameter k, norm;
    double plain[12 * 24], transposed[12 * 24], bias[24];
    assert_int_equal(da_multihead_parameter(f.multihead, "k_proj.weight", &k), DA_OK);
    assert_int_equal(da_multihead_parameter(f.multihead, "norm.bias", &norm), DA_OK);
    for (int64_t e = 0; e < 12 * 24; e++) {
        plain[e] = value_load(k.data, DA_F32, e);
        transposed[e % 24 * 12 + e / 24] = plain[e];
    }
    for (int64_t e = 0; e < 24; e++) {
        bias[e] = value_load(norm.data, DA_F32, e);
    }
    assert_int_equal(da_multihead_save(f.multihead, path, NULL), DA_OK);
    assert_holds(path, "k_proj.weight", plain, 2, (int64_t[]){12, 24});
    assert_holds(path, "norm.bias", bias, 1, (int64_t[]){24});
    da_weights_format format = make_format("a.", DA_NAMES_TORCHSCALE, DA_WEIGHTS_IN_OUT);
    assert_int_equal(da_multihead_save(f.multihead, path, &format), DA_OK);
    assert_holds(path, "a.k_proj.weight", transposed, 2, (int64_t[]){24, 12});
    assert_holds(path, "a.inner_attn_ln.bias", bias, 1, (int64_t[]){24});
    module_fixture_close(&f);
    unlink(path);
}

/* ---- files that are refused -------------------------------------------------------------------------------------- */

/* A file of a module of E = 2 without bias, from lines `"name": [dtype, rows, columns (0: rank 1)]`. */
typedef struct file_tensor {
    const char *name, *dtype;
    int rows, columns;
} file_tensor;

static void write_tensors(const char *path, const file_tensor *tensors, size_t count) {
    char header[2048] = "{";
    size_t length = 1, offset = 0;
    for (size_t k = 0; k < count; k++) {
        size_t element = strcmp(tensors[k].dtype, "F32") == 0 ? 4 : strcmp(tensors[k].dtype, "F64") == 0 ? 8 : 1;
        size_t bytes = (size_t)tensors[k].rows * (size_t)(tensors[k].columns ? tensors[k].columns : 1) * element;
        char columns[16] = "";
        if (tensors[k].columns) {
            snprintf(columns, sizeof columns, ",%d", tensors[k].columns);
        }
        length +=
            (size_t)snprintf(header + length, sizeof header - length,
                             "%s\"%s\":{\"dtype\":\"%s\",\"shape\":[%d%s],\"data_offsets\":[%zu,%zu]}", k ? "," : "",
                             tensors[k].name, tensors[k].dtype, tensors[k].rows, columns, offset, offset + bytes);
        offset += bytes;
    }
    length += (size_t)snprintf(header + length, sizeof header - length, "}");
    file_bytes file = safetensors_file(header, length, offset);
    write_file(path, file.bytes, file.size);
    free(file.bytes);
}

static da_multihead *small_module(module_fixture *f) {
    module_fixture_init(f);
    f->config.embed_dim = 2;
    f->config.num_heads = 1;
    f->config.kv_heads = 1;
    f->config.bias = f->config.qk_layer_norm = false;
    assert_int_equal(module_fixture_open(f, "standard"), DA_OK);
    return f->multihead;
}

#define GOOD_TENSORS                                                                                                   \
    {"q_proj.weight", "F32", 2, 2}, {"k_proj.weight", "F32", 2, 2}, {"v_proj.weight", "F32", 2, 2},                    \
        {"out_proj.weight", "F64", 2, 2}, {"norm.weight", "F32", 2, 0}, {                                              \
        "norm.bias", "F32", 2, 0                                                                                       \
    }

enum { GOOD_BYTES = 96 }; /* of data */

static void test_foreign_files(void **state) {
    const file_tensor good[] = {GOOD_TENSORS};
    static const struct {
        int changed; /* of GOOD_TENSORS; 6: one more; -1: none */
        file_tensor with;
        const char *prefix, *message; /* message NULL: loads */
    } cases[] = {
        {-1, {0}, NULL, NULL},
        {4, {"inner_attn_ln.weight", "F32", 2, 0}, NULL, NULL},
        {-1, {0}, "encoder.", "no tensor \"encoder.q_proj.weight\""},
        {2, {"v.weight", "F32", 2, 2}, NULL, "tensor \"v.weight\" is no parameter"},
        {6, {"q_proj.bias", "F32", 2, 0}, NULL, "tensor \"q_proj.bias\" is no parameter"},
        {6, {"inner_attn_ln.bias", "F32", 2, 0}, NULL, "holds both norm.bias and inner_attn_ln.bias"},
        {0, {"q_proj.weight", "F32", 2, 3}, NULL, "(2, 3, ...); allowed: 2, (2, 2)"},
        {0, {"q_proj.weight", "F32", 4, 0}, NULL, "has 1 dimensions"},
        {4, {"norm.weight", "F32", 2, 1}, NULL, "has 2 dimensions"},
        {3, {"out_proj.weight", "U8", 2, 2}, NULL, "out_proj.weight is u8; allowed: f32, f64, bf16, f16"},
        {3, {"out_proj.weight", "F8_E4M3", 2, 2}, NULL, "\"F8_E4M3\" is not read"},
    };
    const char *path = in_folder("w.safetensors");
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        file_tensor tensors[7];
        memcpy(tensors, good, sizeof good);
        if (cases[c].changed >= 0) {
            tensors[cases[c].changed] = cases[c].with;
        }
        write_tensors(path, tensors, cases[c].changed == 6 ? 7 : 6);
        module_fixture f, before;
        da_weights_format format = make_format(cases[c].prefix, DA_NAMES_OWN, DA_WEIGHTS_OUT_IN);
        da_status status = da_multihead_load(small_module(&f), path, &format);
        if (cases[c].message) {
            assert_true(status == DA_ERROR_INVALID_ARGUMENT || status == DA_ERROR_FORMAT);
            assert_message(path, cases[c].message);
            assert_true(equal_parameters(f.multihead, small_module(&before)));
            module_fixture_close(&before);
        } else {
            assert_int_equal(status, DA_OK);
        }
        module_fixture_close(&f);
    }
    unlink(path);
}

/* Other tensors may be in the file, of types that are not read too, where the prefix tells them apart. */
static void test_other_modules_beside(void **state) {
    const char *path = in_folder("w.safetensors");
    const file_tensor tensors[] = {{"a.q_proj.weight", "F32", 2, 2},     {"a.k_proj.weight", "F32", 2, 2},
                                   {"a.v_proj.weight", "F32", 2, 2},     {"a.out_proj.weight", "F32", 2, 2},
                                   {"a.norm.weight", "F32", 2, 0},       {"a.norm.bias", "F32", 2, 0},
                                   {"b.q_proj.weight", "F8_E5M2", 5, 0}, {"step", "U8", 8, 0}};
    write_tensors(path, tensors, sizeof tensors / sizeof *tensors);
    module_fixture f;
    da_weights_format format = make_format("a.", DA_NAMES_OWN, DA_WEIGHTS_OUT_IN);
    assert_int_equal(da_multihead_load(small_module(&f), path, &format), DA_OK);
    module_fixture_close(&f);
    unlink(path);
}

/* Cut anywhere, or with any byte of the header changed to something that shows: refused, or the same tensors. */
static void test_damaged_files(void **state) {
    const char *path = in_folder("w.safetensors"), *damaged = in_folder("damaged.safetensors");
    const file_tensor good[] = {GOOD_TENSORS};
    write_tensors(path, good, 6);
    file_bytes file = read_file(path);
    module_fixture f, before;
    small_module(&f);
    small_module(&before);
    for (size_t size = 0; size < file.size; size++) {
        write_file(damaged, file.bytes, size);
        da_status status = da_multihead_load(f.multihead, damaged, NULL);
        assert_int_equal(status, DA_ERROR_FORMAT);
        assert_message(damaged, "");
    }
    for (size_t at = 0; at < file.size - GOOD_BYTES; at++) {
        unsigned char kept = file.bytes[at];
        file.bytes[at] = '~';
        write_file(damaged, file.bytes, file.size);
        file.bytes[at] = kept;
        da_status status = da_multihead_load(f.multihead, damaged, NULL);
        assert_true(status == DA_ERROR_FORMAT || status == DA_ERROR_INVALID_ARGUMENT);
    }
    assert_true(equal_parameters(f.multihead, before.multihead));
    module_fixture_close(&f);
    module_fixture_close(&before);
    free(file.bytes);
    unlink(path);
    unlink(damaged);
}

/* The old file stays as it was, and nothing is left beside it. */
static void test_no_space(void **state) {
    const char *path = in_folder("w.safetensors");
    module_fixture a = open_module(DA_F32), b = open_module(DA_F32);
    assert_int_equal(da_multihead_save(a.multihead, path, NULL), DA_OK);
    draw_all(b.multihead, 1);
    struct rlimit limit, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = 4096;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    da_status status = da_multihead_save(b.multihead, path, NULL);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(status, DA_ERROR_IO);
    assert_message(path, "cannot be reserved: File too large");
    assert_int_equal(files_in_folder(), 1);
    assert_int_equal(da_multihead_load(b.multihead, path, NULL), DA_OK);
    assert_true(equal_parameters(a.multihead, b.multihead));
    module_fixture_close(&a);
    module_fixture_close(&b);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, before_test, after_test),
        cmocka_unit_test_setup_teardown(test_names_and_layouts, before_test, after_test),
        cmocka_unit_test_setup_teardown(test_foreign_files, before_test, after_test),
        cmocka_unit_test_setup_teardown(test_other_modules_beside, before_test, after_test),
        cmocka_unit_test_setup_teardown(test_damaged_files, before_test, after_test),
        cmocka_unit_test_setup_teardown(test_no_space, before_test, after_test),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
