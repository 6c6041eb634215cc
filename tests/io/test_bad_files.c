/* Files that are not what they say they are: each is refused with its status and a message; none crashes. */
#define _XOPEN_SOURCE 700
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"
#include "io/formats.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

/* How a row's text becomes a file: the header of a sound file of that format, or all of its bytes. */
typedef enum kind { NPY1, NPY2, NPY3, SAFETENSORS, BYTES_NPY, BYTES_SAFETENSORS } kind;

/* Text of a row, with zero bytes in it if need be. */
#define TEXT(literal) literal, sizeof(literal) - 1

#define DICT(descr, shape) "{'descr': " descr ", 'fortran_order': False, 'shape': " shape ", }\n"
#define TENSOR(dtype, shape, offsets) "{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}"
#define ONE(dtype, shape, offsets) "{\"q\":" TENSOR(dtype, shape, offsets) "}"
#define TWO(first, second) "{\"a\":" TENSOR("\"U8\"", "[4]", first) ",\"b\":" TENSOR("\"U8\"", "[4]", second) "}"

static const struct row {
    kind kind;
    const char *text;
    size_t text_bytes;
    size_t data_bytes;
    const char *fragment;
} rows[] = {
    /* any format */
    {BYTES_NPY, TEXT(""), 0, "the file is empty"},
    {BYTES_NPY, TEXT("P"), 0, "neither a .npy nor a .safetensors file"},
    {BYTES_NPY, TEXT("PK\x03\x04 an .npz file"), 0, "neither a .npy nor a .safetensors file"},
    {BYTES_NPY, TEXT("\x93NUMPX\x01\x00"), 0, "neither a .npy nor a .safetensors file"},

    /* .npy: the start */
    {BYTES_NPY, TEXT("\x93"), 0, "truncated: 1 bytes"},
    {BYTES_NPY, TEXT("\x93NUMPY\x01"), 0, "truncated: 7 bytes"},
    {BYTES_NPY, TEXT("\x93NUMPY\x01\x00\x10"), 0, "truncated: 9 bytes"},
    {BYTES_NPY, TEXT("\x93NUMPY\x02\x00\x10\x00\x00"), 0, "truncated: 11 bytes"},
    {BYTES_NPY, TEXT("\x93NUMPY\x00\x00\x10\x00{}"), 0, "version 0.0; allowed: 1.0, 2.0, 3.0"},
    {BYTES_NPY, TEXT("\x93NUMPY\x04\x00\x10\x00\x00\x00{}"), 0, "version 4.0"},
    {BYTES_NPY, TEXT("\x93NUMPY\x01\x01\x10\x00{}"), 0, "version 1.1"},
    {BYTES_NPY, TEXT("\x93NUMPY\x01\x00\xFF\xFF{}"), 0, "truncated: a .npy header of 65535 bytes, but 2 follow"},
    {BYTES_NPY, TEXT("\x93NUMPY\x02\x00\xFF\xFF\xFF\xFF{}"), 0, "a .npy header of 4294967295 bytes, but 2 follow"},

    /* .npy: the literal */
    {NPY1, TEXT(""), 0, "the .npy header ends where '{' should be"},
    {NPY1, TEXT("\n"), 0, "the .npy header ends where '{' should be"},
    {NPY1, TEXT("[]"), 0, "byte 0x5b at 0 of the .npy header, where '{' should be"},
    {NPY1, TEXT("{"), 0, "the .npy header ends where a key or the end of the dict should be"},
    {NPY1, TEXT("{}"), 0, "the .npy header has no key 'descr'"},
    {NPY1, TEXT("{,}"), 0, "byte 0x2c at 1"},
    {NPY1, TEXT("{'descr'}"), 0, "where ':' should be"},
    {NPY1, TEXT("{'descr"), 0, "the .npy header ends where the end of a string"},
    {NPY1, TEXT("{'des\\x63r': '<f4'}"), 0, "byte 0x5c at 5"},
    {NPY1, TEXT("{'descr': '<f4' 'shape': ()}"), 4, "where a comma or the end of the dict should be"},
    {NPY1, TEXT("{'fortran_order': False, 'shape': (1,)}"), 4, "no key 'descr'"},
    {NPY1, TEXT("{'descr': '<f4', 'shape': (1,)}"), 4, "no key 'fortran_order'"},
    {NPY1, TEXT("{'descr': '<f4', 'fortran_order': False}"), 4, "no key 'shape'"},
    {NPY1, TEXT("{'descr': '<f4', 'descr': '<f4'}"), 4, "key 'descr' twice"},
    {NPY1, TEXT("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x\x1b': 1}"), 4,
     "key 'x?' in the .npy header"},
    {NPY1, TEXT(DICT("'<f4'", "(1,)") "x"), 4, "where the end of the header should be"},
    {NPY1, TEXT(DICT("'<f4'", "(1,)") "\0"), 4, "byte 0x00 at"},
    {NPY3, TEXT("{'descr': '<f4', \xFF\xFE}"), 4, "byte 0xff at 17"},
    {NPY1, TEXT("{'descr': __import__('os')}"), 4, "where descr, a string"},

    /* .npy: descr and fortran_order */
    {NPY1, TEXT(DICT("'>f4'", "(1,)")), 4, "'>f4' is big-endian"},
    {NPY1, TEXT(DICT("'>i8'", "(1,)")), 8, "'>i8' is big-endian"},
    {NPY1, TEXT(DICT("'|f4'", "(1,)")), 4, "'|f4' is not read"},
    {NPY1, TEXT(DICT("'=f4'", "(1,)")), 4, "'=f4' is not read"},
    {NPY1, TEXT(DICT("'f4'", "(1,)")), 4, "'f4' is not read"},
    {NPY1, TEXT(DICT("'<f3'", "(1,)")), 4, "'<f3' is not read; allowed: <f4 <f8"},
    {NPY1, TEXT(DICT("'<f16'", "(1,)")), 16, "'<f16' is not read"},
    {NPY1, TEXT(DICT("'<c8'", "(1,)")), 8, "'<c8' is not read"},
    {NPY1, TEXT(DICT("'<U4'", "(1,)")), 16, "'<U4' is not read"},
    {NPY1, TEXT(DICT("'|O'", "(1,)")), 8, "'|O' is not read"},
    {NPY1, TEXT(DICT("'|V4'", "(1,)")), 4, "'|V4' is not read"},
    {NPY1, TEXT(DICT("''", "(1,)")), 4, "'' is not read"},
    {NPY1, TEXT(DICT("'\0f4'", "(1,)")), 4, "is not read"},
    {NPY1, TEXT(DICT("[('x', '<f4')]", "(1,)")), 4, "types of several fields are not read"},
    {NPY1, TEXT("{'descr': '<f4', 'fortran_order': 0, 'shape': (1,)}"), 4, "fortran_order, True or False,"},
    {NPY1, TEXT("{'descr': '<f4', 'fortran_order': Fals"), 4, "fortran_order, True or False,"},

    /* .npy: shape and data */
    {NPY1, TEXT(DICT("'<f4'", "(1)")), 4, "(1) is a number; a tuple is needed: (1,)"},
    {NPY1, TEXT(DICT("'<f4'", "[1]")), 4, "where the shape, a tuple, should be"},
    {NPY1, TEXT(DICT("'<f4'", "(,)")), 4, "where a dimension, a whole number from 0 up, should be"},
    {NPY1, TEXT(DICT("'<f4'", "(1,,1)")), 4, "where a dimension, a whole number from 0 up, should be"},
    {NPY1, TEXT(DICT("'<f4'", "(1 1)")), 4, "where a comma or the end of the shape should be"},
    {NPY1, TEXT(DICT("'<f4'", "(1.0,)")), 4, "where a comma or the end of the shape should be"},
    {NPY1, TEXT(DICT("'<f4'", "(-1,)")), 4, "where a dimension, a whole number from 0 up, should be"},
    {NPY1, TEXT(DICT("'<f4'", "(0x1,)")), 4, "where a comma or the end of the shape should be"},
    {NPY1, TEXT(DICT("'<f4'", "(01,)")), 4, "where a dimension without leading zeros should be"},
    {NPY3, TEXT(DICT("'<f4'", "(1L,)")), 4, "where a comma or the end of the shape should be"},
    {NPY1, TEXT(DICT("'<f4'", "((1,),)")), 4, "where a dimension, a whole number from 0 up, should be"},
    {NPY1, TEXT(DICT("'<f4'", "(1,1,1,1,1,1,1,1,1)")), 4, "more than 8 dimensions; allowed: 0..8"},
    {NPY1, TEXT(DICT("'<f4'", "(9223372036854775808,)")), 4, "a dimension of the .npy header is above"},
    {NPY1, TEXT(DICT("'<f4'", "(99999999999999999999999999,)")), 4, "a dimension of the .npy header is above"},
    {NPY1, TEXT(DICT("'<f4'", "(9223372036854775807,)")), 4, "the size of the tensor overflows"},
    {NPY1, TEXT(DICT("'|u1'", "(4294967296, 4294967296)")), 0, "the size of the tensor overflows"},
    {NPY1, TEXT(DICT("'|u1'", "(0, 4294967296, 4294967296)")), 0, "the size of the tensor overflows"},
    {NPY1, TEXT(DICT("'<f4'", "(2305843009213693951,)")), 4, "truncated: shape and descr need 9223372036854775804"},
    {NPY1, TEXT(DICT("'<f4'", "(2,)")), 7, "truncated: shape and descr need 8 bytes of data, the file has 7"},
    {NPY2, TEXT(DICT("'<f4'", "(2,)")), 9, "too long: shape and descr need 8 bytes of data, the file has 9"},
    {NPY1, TEXT(DICT("'<f4'", "(0,)")), 1, "too long: shape and descr need 0 bytes"},
    {NPY1, TEXT(DICT("'<f4'", "()")), 0, "truncated: shape and descr need 4 bytes"},

    /* .safetensors: the start */
    {BYTES_SAFETENSORS, TEXT("\x02\0\0\0"), 0, "truncated: 4 bytes; a .safetensors file begins with a length of 8"},
    {BYTES_SAFETENSORS, TEXT("\0\0\0\0\0\0\0\0"), 0, "a .safetensors header of 0 bytes; allowed: 1..100000000"},
    {BYTES_SAFETENSORS, TEXT("\0\0\0\0\0\0\0\0{}"), 0, "a .safetensors header of 0 bytes"},
    {BYTES_SAFETENSORS, TEXT("\x03\0\0\0\0\0\0\0{}"), 0, "truncated: a .safetensors header of 3 bytes, but 2 follow"},
    {BYTES_SAFETENSORS, TEXT("\x02\0\0\0\0\0\0\0"), 0, "truncated: a .safetensors header of 2 bytes, but 0 follow"},
    {BYTES_SAFETENSORS, TEXT("\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}"), 0, "header of 18446744073709551615 bytes; allowed"},
    {BYTES_SAFETENSORS, TEXT("\x01\xE1\xF5\x05\0\0\0\0{}"), 0, "header of 100000001 bytes; allowed: 1..100000000"},
    {BYTES_NPY, TEXT("\xF8\xFF\xFF\xFF\xFF\xFF\xFF\xFF{}"), 0, "header of 18446744073709551608 bytes; allowed"},
    {SAFETENSORS, TEXT("[]"), 0, "begins with byte 0x5b, not '{'"},
    {SAFETENSORS, TEXT(" {}"), 0, "begins with byte 0x20, not '{'"},

    /* .safetensors: the JSON */
    {SAFETENSORS, TEXT("{"), 0, "is no JSON at byte"},
    {SAFETENSORS, TEXT("{}x"), 0, "is no JSON at byte"},
    {SAFETENSORS, TEXT("{}\0\0"), 0, "is no JSON at byte"},
    {SAFETENSORS, TEXT("{'a': 1}"), 0, "is no JSON at byte"},
    {SAFETENSORS, TEXT("{\"\xFF\": 1}"), 0, "is no JSON at byte"},
    {SAFETENSORS, TEXT("{\"a\\u0000b\": 1}"), 0, "is no JSON at byte"},
    {SAFETENSORS, TEXT("{\"q\": NaN}"), 0, "is no JSON at byte"},
    {SAFETENSORS, TEXT("{\"q\": 1e999}"), 0, "is no JSON at byte"},
    {SAFETENSORS, TEXT("{\"q\":1,\"q\":1}"), 0, "duplicate object key"},
    {SAFETENSORS, TEXT("{\"q\":" TENSOR("\"U8\"", "[1]", "[0,1],\"shape\":[1]") "}"), 1, "duplicate object key"},
    {SAFETENSORS, TEXT("{\"__metadata__\":1}"), 0, "__metadata__ is no object"},
    {SAFETENSORS, TEXT("{\"__metadata__\":{\"a\":1}}"), 0, "a value of __metadata__ is no string"},

    /* .safetensors: a tensor */
    {SAFETENSORS, TEXT("{\"q\":1}"), 0, "tensor \"q\": dtype is missing or no string"},
    {SAFETENSORS, TEXT("{\"q\":{}}"), 0, "tensor \"q\": dtype is missing or no string"},
    {SAFETENSORS, TEXT("{\"\\u001b[31m\":{}}"), 0, "tensor \"?[31m\": dtype is missing"},
    {SAFETENSORS, TEXT(ONE("1", "[1]", "[0,1]")), 1, "dtype is missing or no string"},
    {SAFETENSORS, TEXT(ONE("\"XYZ\"", "[1]", "[0,1]")), 1, "dtype \"XYZ\" is not read; allowed: F32"},
    {SAFETENSORS, TEXT(ONE("\"f32\"", "[1]", "[0,4]")), 4, "dtype \"f32\" is not read"},
    {SAFETENSORS, TEXT("{\"q\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}"), 1, "shape is missing or no array"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "1", "[0,1]")), 1, "shape is missing or no array"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[-1]", "[0,1]")), 1, "a dimension of shape is no whole number from 0 up"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[1.0]", "[0,1]")), 1, "a dimension of shape is no whole number from 0 up"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[\"1\"]", "[0,1]")), 1, "a dimension of shape is no whole number from 0 up"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[null]", "[0,1]")), 1, "a dimension of shape is no whole number from 0 up"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[99999999999999999999]", "[0,1]")), 1, "is no JSON at byte"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[4294967296,4294967296]", "[0,1]")), 1, "the size of the tensor overflows"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[0,4294967296,4294967296]", "[0,0]")), 0, "the size of the tensor overflows"},
    {SAFETENSORS, TEXT(ONE("\"U64\"", "[2305843009213693952]", "[0,0]")), 0, "the size of the tensor overflows"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[1,1,1,1,1,1,1,1,1]", "[0,1]")), 1, "9 dimensions; allowed: 0..8"},
    {SAFETENSORS, TEXT("{\"q\":{\"dtype\":\"U8\",\"shape\":[1]}}"), 1, "data_offsets is missing or no array of two"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[1]", "[0]")), 1, "data_offsets is missing or no array of two"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[1]", "[0,1,2]")), 1, "data_offsets is missing or no array of two"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[1]", "{\"0\":0,\"1\":1}")), 1, "data_offsets is missing or no array of two"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[1]", "[-1,0]")), 1, "one of data_offsets is no whole number from 0 up"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[1]", "[0,1.0]")), 1, "one of data_offsets is no whole number from 0 up"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[1]", "[1,0]")), 1, "data_offsets end before they begin"},
    {SAFETENSORS, TEXT(ONE("\"F32\"", "[2]", "[0,4]")), 4, "shape and dtype need 8 bytes, data_offsets give 4"},
    {SAFETENSORS, TEXT(ONE("\"F32\"", "[0]", "[0,4]")), 4, "shape and dtype need 0 bytes, data_offsets give 4"},
    {SAFETENSORS, TEXT(ONE("\"F32\"", "[]", "[0,0]")), 0, "shape and dtype need 4 bytes, data_offsets give 0"},

    /* .safetensors: the tensors and the data */
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[4]", "[0,4]")), 3, "truncated: the header describes 4 bytes of data"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[4]", "[0,4]")), 5, "too long: the header describes 4 bytes of data"},
    {SAFETENSORS, TEXT("{}"), 1, "too long: the header describes 0 bytes of data, the file has 1"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[9223372036854775807]", "[0,9223372036854775807]")), 3, "truncated: the header"},
    {SAFETENSORS, TEXT(ONE("\"U8\"", "[4]", "[4,8]")), 8, "tensor \"q\" begins at 4 and leaves a hole"},
    {SAFETENSORS, TEXT(TWO("[0,4]", "[5,9]")), 9, "\"b\" begins at 5 and leaves a hole: the one before ends at 4"},
    {SAFETENSORS, TEXT(TWO("[0,4]", "[3,7]")), 7, "tensor \"b\" begins at 3 and overlaps the one that ends at 4"},
    {SAFETENSORS, TEXT(TWO("[0,4]", "[0,4]")), 4, "begins at 0 and overlaps the one that ends at 4"},
    {SAFETENSORS, TEXT(TWO("[4,8]", "[0,4]")), 9, "too long: the header describes 8 bytes of data, the file has 9"},
};

static void assert_open_fails(const char *path, da_status status, const char *fragment) {
    da_tensor_file file;
    memset(&file, 0x55, sizeof file);
    da_status actual = da_tensor_file_open(path, &file);
    if (actual != status) {
        fail_msg("%s instead of %s (%s): %s", da_status_name(actual), da_status_name(status), fragment,
                 da_last_error_message());
    }
    assert_message(path, fragment);
    assert_null(file.data);
    assert_null(file.mapping.base);
}

static file_bytes build(const struct row *row) {
    switch (row->kind) {
    case NPY1: return npy_file(1, row->text, row->text_bytes, row->data_bytes);
    case NPY2: return npy_file(2, row->text, row->text_bytes, row->data_bytes);
    case NPY3: return npy_file(3, row->text, row->text_bytes, row->data_bytes);
    case SAFETENSORS: return safetensors_file(row->text, row->text_bytes, row->data_bytes);
    default: break;
    }
    file_bytes file = {.bytes = malloc(row->text_bytes + 1), .size = row->text_bytes};
    assert_non_null(file.bytes);
    memcpy(file.bytes, row->text, row->text_bytes);
    return file;
}

static void test_table(void **state) {
    for (size_t i = 0; i < COUNT(rows); ++i) {
        const char *path =
            in_folder(rows[i].kind == SAFETENSORS || rows[i].kind == BYTES_SAFETENSORS ? "a.safetensors" : "a.npy");
        file_bytes file = build(&rows[i]);
        write_file(path, file.bytes, file.size);
        free(file.bytes);
        assert_open_fails(path, DA_ERROR_FORMAT, rows[i].fragment);
        unlink(path);
    }
    print_message("%zu bad files were refused\n", COUNT(rows));
}

static void test_deep_nesting(void **state) {
    enum { DEPTH = 1000000 };
    static const char start[] = "{\"q\":";
    char *header = malloc(sizeof start + DEPTH);
    assert_non_null(header);
    memcpy(header, start, sizeof start);
    memset(header + sizeof start - 1, '[', DEPTH);
    const char *path = in_folder("a.safetensors");
    file_bytes file = safetensors_file(header, sizeof start - 1 + DEPTH, 0);
    write_file(path, file.bytes, file.size);
    assert_open_fails(path, DA_ERROR_FORMAT, "maximum parsing depth");
    free(file.bytes);
    free(header);
    unlink(path);
}

static void test_no_tensor(void **state) {
    const char *path = in_folder("a.safetensors");
    file_bytes file = safetensors_file("{}", 2, 0);
    write_file(path, file.bytes, file.size);
    free(file.bytes);
    assert_open_fails(path, DA_ERROR_INVALID_ARGUMENT, "the file holds no tensor");
    unlink(path);
}

/* More names than a message takes: it is cut, and says how many are left out. */
static void test_many_names(void **state) {
    enum { TENSORS = 500, BYTES_EACH = 80 };
    char *header = malloc(TENSORS * BYTES_EACH);
    assert_non_null(header);
    size_t used = 0;
    for (int i = 0; i < TENSORS; ++i) {
        used +=
            (size_t)snprintf(header + used, BYTES_EACH, "%c\"tensor number %d\":" TENSOR("\"U8\"", "[1]", "[%d,%d]"),
                             i == 0 ? '{' : ',', i, i, i + 1);
    }
    header[used++] = '}';
    const char *path = in_folder("a.safetensors");
    file_bytes file = safetensors_file(header, used, TENSORS);
    write_file(path, file.bytes, file.size);
    free(file.bytes);
    free(header);
    assert_open_fails(path, DA_ERROR_INVALID_ARGUMENT, "the file holds 500 tensors; name one after a colon: tensor n");
    const char *more = strstr(da_last_error_message(), " more");
    assert_non_null(more);
    assert_string_equal(more, " more");
    unlink(path);
}

static void test_what_is_no_file(void **state) {
    assert_open_fails(in_folder("none.npy"), DA_ERROR_IO, "cannot be opened: No such file or directory");
    assert_open_fails("/dev/null", DA_ERROR_IO, "a regular file is needed");
    assert_open_fails(in_folder("."), DA_ERROR_IO, "is a directory");
    const char *path = in_folder("a.npy");
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_open_fails(path, DA_ERROR_IO, "is a pipe"); /* and does not wait for a writer */
    unlink(path);
    da_tensor_file file;
    assert_int_equal(da_tensor_file_open(NULL, &file), DA_ERROR_INVALID_ARGUMENT);
    assert_string_equal(da_last_error_message(), "path is NULL; allowed: the path of a file");
    assert_int_equal(da_tensor_file_open("", &file), DA_ERROR_INVALID_ARGUMENT);
    assert_int_equal(da_tensor_file_open(path, NULL), DA_ERROR_INVALID_ARGUMENT);
}

static void test_no_permission(void **state) {
    const char *path = in_folder("a.npy"), *new_path = in_folder("b.npy");
    uid_t user = geteuid();
    write_file(path, "x", 1);
    assert_int_equal(chmod(path, 0444), 0);
    assert_int_equal(chmod(in_folder("."), 0777), 0);
    if (user == 0) { /* whom permissions do not stop */
        assert_int_equal(seteuid(65534), 0);
    }
    da_tensor_writer writer;
    da_status replaced = da_tensor_writer_open(path, DA_FILE_F32, 0, NULL, &writer);
    assert_int_equal(seteuid(user), 0);
    assert_int_equal(replaced, DA_ERROR_IO);
    assert_message(path, "cannot be replaced: Permission denied");

    assert_int_equal(chmod(path, 0), 0);
    assert_int_equal(chmod(in_folder("."), 0555), 0);
    if (user == 0) {
        assert_int_equal(seteuid(65534), 0);
    }
    da_tensor_file file;
    da_status opened = da_tensor_file_open(path, &file);
    char message[1200];
    snprintf(message, sizeof message, "%s", da_last_error_message());
    da_status created = da_tensor_writer_open(new_path, DA_FILE_F32, 0, NULL, &writer);
    assert_int_equal(seteuid(user), 0);
    assert_int_equal(chmod(in_folder("."), 0700), 0);
    assert_int_equal(opened, DA_ERROR_IO);
    assert_non_null(strstr(message, "cannot be opened: Permission denied"));
    assert_int_equal(created, DA_ERROR_IO);
    assert_message(new_path, "no file can be created beside it: Permission denied");
    unlink(path);
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Sound files that are then damaged
 */

static file_bytes sound_npy(void) {
    static const char header[] = "{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3, 4), }            \n";
    return npy_file(1, header, sizeof header - 1, 96);
}

static file_bytes sound_safetensors(void) {
    static const char header[] =
        "{\"__metadata__\":{\"format\":\"np\"},"
        "\"a\":" TENSOR("\"F32\"", "[3,5]", "[0,60]") ","
                                                      "\"b\":" TENSOR("\"I64\"", "[2]",
                                                                      "[60,76]") ","
                                                                                 "\"c\":" TENSOR("\"U8\"", "[]",
                                                                                                 "[76,77]") "}   ";
    return safetensors_file(header, sizeof header - 1, 77);
}

/* `path` is the file's, `name` the tensor's: "" or ":b". */
static void check_truncation(const char *path, const char *name, file_bytes sound) {
    char full_path[1100];
    snprintf(full_path, sizeof full_path, "%s%s", path, name);
    da_tensor_file file;
    for (size_t size = 0; size < sound.size; ++size) {
        write_file(path, sound.bytes, size);
        assert_int_equal(da_tensor_file_open(full_path, &file), DA_ERROR_FORMAT);
        assert_message(path, "");
        assert_null(file.mapping.base);
    }
    write_file(path, sound.bytes, sound.size);
    assert_int_equal(da_tensor_file_open(full_path, &file), DA_OK);
    da_tensor_file_close(&file);
    unlink(path);
    free(sound.bytes);
}

static void test_truncated_everywhere(void **state) {
    check_truncation(in_folder("a.npy"), "", sound_npy());
    check_truncation(in_folder("a.safetensors"), ":b", sound_safetensors());
}

/* A small generator (Marsaglia's xorshift), so that the damage is the same everywhere. */
static uint32_t random_number(uint32_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 17;
    *state ^= *state << 5;
    return *state;
}

static void damage(file_bytes file, const file_bytes *sound, uint32_t *random) {
    memcpy(file.bytes, sound->bytes, sound->size);
    for (uint32_t flips = 1 + random_number(random) % 3; flips > 0; --flips) {
        size_t at = random_number(random) % file.size;
        if (random_number(random) % 2 == 0) {
            file.bytes[at] ^= (unsigned char)(1u << random_number(random) % 8);
        } else {
            file.bytes[at] = (unsigned char)random_number(random);
        }
    }
}

/* What was accepted must lie inside the file. */
static void check_layout(const da_file_layout *layout, size_t size) {
    assert_in_range(layout->rank, 0, DA_FILE_MAX_RANK);
    assert_true(layout->offset <= size && layout->bytes <= size - layout->offset);
    uint64_t last = 0;
    for (int axis = 0; axis < layout->rank; ++axis) {
        assert_true(layout->shape[axis] >= 0);
        if (layout->shape[axis] == 0) {
            return;
        }
        last += (uint64_t)(layout->shape[axis] - 1) * (uint64_t)layout->stride[axis];
    }
    assert_int_equal((last + 1) * da_file_type_size(layout->type), layout->bytes);
}

/* The parsers on memory of the file's exact size, where a sanitizer sees any step beyond it. */
static void test_damaged_in_memory(void **state) {
    enum { ROUNDS = 50000 };
    file_bytes sound[] = {sound_npy(), sound_safetensors()};
    uint32_t random = 2463534242u;
    int refused[2] = {0};
    for (int format = 0; format < 2; ++format) {
        file_bytes file = {.bytes = malloc(sound[format].size), .size = sound[format].size};
        assert_non_null(file.bytes);
        for (int round = 0; round < ROUNDS; ++round) {
            damage(file, &sound[format], &random);
            da_file_layout layout;
            da_status status = format == 0 ? da_npy_read("path", file.bytes, file.size, &layout)
                                           : da_safetensors_read("path", "b", file.bytes, file.size, &layout);
            if (status == DA_OK) {
                check_layout(&layout, file.size);
            } else {
                assert_true(status == DA_ERROR_FORMAT || status == DA_ERROR_INVALID_ARGUMENT);
                assert_message("path", ": ");
                ++refused[format];
            }
        }
        free(file.bytes);
        free(sound[format].bytes);
    }
    print_message("of %d damaged files each, %d .npy and %d .safetensors were refused\n", ROUNDS, refused[0],
                  refused[1]);
    assert_in_range(refused[0], ROUNDS / 4, ROUNDS - 1); /* the rest had their damage where any value is sound */
    assert_in_range(refused[1], ROUNDS / 4, ROUNDS - 1);
}

/* And as files, of which every element that is offered is read. */
static void test_damaged_files(void **state) {
    enum { ROUNDS = 5000 };
    static const char *const names[] = {"a.npy", "a.safetensors"}, *const paths[] = {"a.npy", "a.safetensors:b"};
    file_bytes sound[] = {sound_npy(), sound_safetensors()};
    uint32_t random = 88675123u;
    for (int format = 0; format < 2; ++format) {
        file_bytes damaged = {.bytes = malloc(sound[format].size), .size = sound[format].size};
        assert_non_null(damaged.bytes);
        for (int round = 0; round < ROUNDS; ++round) {
            damage(damaged, &sound[format], &random);
            write_file(in_folder(names[format]), damaged.bytes, damaged.size);
            da_tensor_file file;
            if (da_tensor_file_open(in_folder(paths[format]), &file) != DA_OK) {
                assert_null(file.mapping.base);
                continue;
            }
            size_t bytes = da_file_type_size(file.type);
            for (int axis = 0; axis < file.rank; ++axis) {
                bytes *= (size_t)file.shape[axis];
            }
            void *copy = malloc(bytes + 1);
            assert_non_null(copy);
            memcpy(copy, file.data, bytes);
            free(copy);
            da_tensor_file_close(&file);
        }
        free(damaged.bytes);
        free(sound[format].bytes);
        unlink(in_folder(names[format]));
    }
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, before_test, after_test)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_table),
        TEST(test_deep_nesting),
        TEST(test_no_tensor),
        TEST(test_many_names),
        TEST(test_what_is_no_file),
        TEST(test_no_permission),
        TEST(test_truncated_everywhere),
        TEST(test_damaged_in_memory),
        TEST(test_damaged_files),
    };
    return cmocka_run_group_tests_name("bad tensor files", tests, make_folder, remove_folder);
}
