/* Tensor files that are as they should be, and the writer's promises: what is written is read again, and a failure
 * leaves nothing behind. */
#define _XOPEN_SOURCE 700
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "files.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const struct {
    int rank;
    int64_t shape[DA_FILE_MAX_RANK];
} shapes[] = {
    {0, {0}},       {1, {0}},          {1, {1}},          {1, {1000}},
    {2, {3, 5}},    {3, {2, 0, 3}},    {4, {2, 7, 3, 5}}, {8, {1, 2, 1, 3, 1, 2, 1, 2}},
    {2, {0, 1000}}, {3, {1000, 1, 9}},
};

static void fill(void *data, size_t bytes, unsigned seed) {
    for (size_t i = 0; i < bytes; ++i) {
        ((unsigned char *)data)[i] = (unsigned char)((i + seed) * 37);
    }
}

static void assert_filled(const void *data, size_t bytes, unsigned seed) {
    for (size_t i = 0; i < bytes; ++i) {
        assert_int_equal(((const unsigned char *)data)[i], (unsigned char)((i + seed) * 37));
    }
}

static void write_tensor(const char *path, da_file_type type, int rank, const int64_t *shape, unsigned seed) {
    da_tensor_writer writer;
    assert_int_equal(da_tensor_writer_open(path, type, rank, shape, &writer), DA_OK);
    fill(writer.data, writer.bytes, seed);
    assert_int_equal(da_tensor_writer_commit(&writer), DA_OK);
}

static void open_bytes(const char *path, file_bytes file, da_tensor_file *out) {
    write_file(path, file.bytes, file.size);
    free(file.bytes);
    da_status status = da_tensor_file_open(path, out);
    if (status != DA_OK) {
        fail_msg("%s", da_last_error_message());
    }
    unlink(path);
}

static void open_npy(int version, const char *header, size_t data_bytes, da_tensor_file *out) {
    open_bytes(in_folder("a.npy"), npy_file(version, header, strlen(header), data_bytes), out);
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Round trips
 */

static void test_round_trip(void **state) {
    static const char *const names[] = {"a.npy", "a.safetensors", "a.safetensors:layer.0.\xC3\xA9:\"q\\"};
    static const char *const files[] = {"a.npy", "a.safetensors", "a.safetensors"};
    for (size_t name = 0; name < COUNT(names); ++name) {
        for (int type = 0; type < DA_FILE_TYPE_COUNT; ++type) {
            for (size_t s = 0; s < COUNT(shapes); ++s) {
                const char *path = in_folder(names[name]);
                write_tensor(path, (da_file_type)type, shapes[s].rank, shapes[s].shape, (unsigned)s);
                assert_int_equal(files_in_folder(), 1);
                da_tensor_file file;
                assert_int_equal(da_tensor_file_open(path, &file), DA_OK);
                assert_int_equal(file.type, type);
                assert_int_equal(file.rank, shapes[s].rank);
                int64_t stride = 1;
                int64_t elements = 1;
                for (int axis = file.rank - 1; axis >= 0; --axis) {
                    assert_int_equal(file.shape[axis], shapes[s].shape[axis]);
                    assert_int_equal(file.stride[axis], stride);
                    stride *= file.shape[axis] > 0 ? file.shape[axis] : 1;
                    elements *= file.shape[axis];
                }
                assert_non_null(file.data);
                assert_int_equal((uintptr_t)file.data % 64, 0);
                assert_filled(file.data, (size_t)elements * da_file_type_size(file.type), (unsigned)s);
                da_tensor_file_close(&file);
                unlink(in_folder(files[name]));
            }
        }
    }
}

static void test_npy_header_is_numpys(void **state) {
    const char *path = in_folder("a.npy");
    write_tensor(path, DA_FILE_BF16, 1, (int64_t[]){3}, 0);
    file_bytes file = read_file(path);
    static const char expected[] = "\x93NUMPY\x01\x00\x76\x00{'descr': '<V2', 'fortran_order': False, 'shape': (3,), }";
    assert_int_equal(file.size, 128 + 6);
    assert_memory_equal(file.bytes, expected, sizeof expected - 1);
    assert_int_equal(file.bytes[127], '\n');
    free(file.bytes);
    unlink(path);
}

static void test_types(void **state) {
    static const struct {
        da_file_type type;
        const char *name;
        size_t size;
        da_dtype dtype;
    } rows[] = {
        {DA_FILE_F32, "f32", 4, DA_F32},          {DA_FILE_F64, "f64", 8, DA_F64},
        {DA_FILE_BF16, "bf16", 2, DA_BF16},       {DA_FILE_F16, "f16", 2, DA_F16},
        {DA_FILE_BOOL, "bool", 1, DA_DTYPE_ANY},  {DA_FILE_I8, "i8", 1, DA_DTYPE_ANY},
        {DA_FILE_U8, "u8", 1, DA_DTYPE_ANY},      {DA_FILE_I16, "i16", 2, DA_DTYPE_ANY},
        {DA_FILE_U16, "u16", 2, DA_DTYPE_ANY},    {DA_FILE_I32, "i32", 4, DA_DTYPE_ANY},
        {DA_FILE_U32, "u32", 4, DA_DTYPE_ANY},    {DA_FILE_I64, "i64", 8, DA_DTYPE_ANY},
        {DA_FILE_U64, "u64", 8, DA_DTYPE_ANY},    {(da_file_type)13, "?", 0, DA_DTYPE_ANY},
        {(da_file_type)-1, "?", 0, DA_DTYPE_ANY},
    };
    for (size_t i = 0; i < COUNT(rows); ++i) {
        assert_string_equal(da_file_type_name(rows[i].type), rows[i].name);
        assert_int_equal(da_file_type_size(rows[i].type), rows[i].size);
        assert_int_equal(da_file_type_dtype(rows[i].type), rows[i].dtype);
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Files that others write
 */

static void test_npy_spellings(void **state) {
    static const struct {
        int version;
        const char *header;
    } rows[] = {
        {1, "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }      \n"},
        {2, "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }\n"},
        {3, "{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }\n"},
        {1, "{\"shape\": (2, 3,), \"descr\":\"<i4\",\"fortran_order\" :False}"},
        {1, " {\n'shape':\t( 2,3 ),'fortran_order':False ,\r'descr':'<i4',\n} \n"},
        {2, "{'descr': '<i4', 'fortran_order': False, 'shape': (2L, 3L)}\n"},
    };
    for (size_t i = 0; i < COUNT(rows); ++i) {
        da_tensor_file file;
        open_npy(rows[i].version, rows[i].header, 24, &file);
        assert_int_equal(file.type, DA_FILE_I32);
        assert_int_equal(file.rank, 2);
        assert_int_equal(file.shape[0], 2);
        assert_int_equal(file.shape[1], 3);
        assert_int_equal(file.stride[0], 3);
        assert_int_equal(file.stride[1], 1);
        assert_int_equal(((const int32_t *)file.data)[5], 0x17161514);
        da_tensor_file_close(&file);
    }
}

static void test_npy_descriptors(void **state) {
    static const struct {
        const char *descriptor;
        da_file_type type;
    } rows[] = {
        {"<V2", DA_FILE_BF16}, {"|V2", DA_FILE_BF16}, {"|b1", DA_FILE_BOOL}, {"|u1", DA_FILE_U8},
        {"<u1", DA_FILE_U8},   {">i1", DA_FILE_I8},   {"<f2", DA_FILE_F16},  {"<u8", DA_FILE_U64},
    };
    for (size_t i = 0; i < COUNT(rows); ++i) {
        char header[128];
        snprintf(header, sizeof header, "{'descr': '%s', 'fortran_order': False, 'shape': ()}", rows[i].descriptor);
        da_tensor_file file;
        open_npy(1, header, da_file_type_size(rows[i].type), &file);
        assert_int_equal(file.type, rows[i].type);
        assert_int_equal(file.rank, 0);
        da_tensor_file_close(&file);
    }
}

static void test_npy_fortran_order(void **state) {
    da_tensor_file file;
    open_npy(1, "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3, 4), }\n", 24, &file);
    assert_int_equal(file.stride[0], 1);
    assert_int_equal(file.stride[1], 2);
    assert_int_equal(file.stride[2], 6);
    assert_int_equal(((const uint8_t *)file.data)[1 + 2 * 2 + 6 * 3], 23);
    da_tensor_file_close(&file);
}

/* Headers of any length: the data must come out aligned and unchanged. */
static void test_misaligned_data(void **state) {
    for (int padding = 0; padding < 8; ++padding) {
        char header[256];
        snprintf(header, sizeof header, "{'descr': '<u8', 'fortran_order': False, 'shape': (2,)%*s}", padding, "");
        da_tensor_file file;
        open_npy(1, header, 16, &file);
        assert_int_equal((uintptr_t)file.data % 8, 0);
        assert_true(((const uint64_t *)file.data)[1] == UINT64_C(0x0F0E0D0C0B0A0908));
        da_tensor_file_close(&file);

        snprintf(header, sizeof header, "{\"q\":{\"dtype\":\"U64\",\"shape\":[2],\"data_offsets\":[0,16]}}%*s", padding,
                 "");
        open_bytes(in_folder("a.safetensors"), safetensors_file(header, strlen(header), 16), &file);
        assert_int_equal((uintptr_t)file.data % 8, 0);
        assert_true(((const uint64_t *)file.data)[1] == UINT64_C(0x0F0E0D0C0B0A0908));
        da_tensor_file_close(&file);
    }
}

static const char several[] = "{\"__metadata__\":{\"format\":\"pt\"},"
                              "\"b\":{\"dtype\":\"U8\",\"shape\":[3],\"data_offsets\":[8,11]},"
                              "\"empty\":{\"dtype\":\"F32\",\"shape\":[4,0],\"data_offsets\":[8,8]},"
                              "\"a:1\":{\"dtype\":\"F32\",\"shape\":[2,1],\"data_offsets\":[0,8]},"
                              "\"narrow\":{\"dtype\":\"F8_E4M3\",\"shape\":[2],\"data_offsets\":[11,13]},"
                              "\"deep\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[13,14]},"
                              "\"scalar\":{\"dtype\":\"I8\",\"shape\":[],\"data_offsets\":[14,15]}}   ";

static void test_safetensors_names(void **state) {
    const char *path = in_folder("a.safetensors");
    file_bytes bytes = safetensors_file(several, sizeof several - 1, 15);
    write_file(path, bytes.bytes, bytes.size);
    free(bytes.bytes);

    da_tensor_file file;
    assert_int_equal(da_tensor_file_open(in_folder("a.safetensors:a:1"), &file), DA_OK);
    assert_int_equal(file.type, DA_FILE_F32);
    assert_int_equal(file.rank, 2);
    assert_int_equal(((const unsigned char *)file.data)[7], 7);
    da_tensor_file_close(&file);
    assert_int_equal(da_tensor_file_open(in_folder("a.safetensors:b"), &file), DA_OK);
    assert_int_equal(((const unsigned char *)file.data)[2], 10);
    da_tensor_file_close(&file);
    assert_int_equal(da_tensor_file_open(in_folder("a.safetensors:empty"), &file), DA_OK);
    assert_int_equal(file.shape[1], 0);
    da_tensor_file_close(&file);
    assert_int_equal(da_tensor_file_open(in_folder("a.safetensors:scalar"), &file), DA_OK);
    assert_int_equal(file.rank, 0);
    da_tensor_file_close(&file);

    static const struct {
        const char *name;
        da_status status;
        const char *fragment;
    } refused[] = {
        {"a.safetensors", DA_ERROR_INVALID_ARGUMENT, "6 tensors; name one after a colon: a:1, empty, b, narrow, deep"},
        {"a.safetensors:c", DA_ERROR_INVALID_ARGUMENT, "no tensor \"c\"; the file holds: a:1, empty, b, narrow"},
        {"a.safetensors:", DA_ERROR_INVALID_ARGUMENT, "no tensor \"\"; the file holds"},
        {"a.safetensors:__metadata__", DA_ERROR_INVALID_ARGUMENT, "no tensor \"__metadata__\""},
        {"a.safetensors:narrow", DA_ERROR_FORMAT, "dtype \"F8_E4M3\" is not read; allowed: F32 F64"},
        {"a.safetensors:deep", DA_ERROR_FORMAT, "9 dimensions; allowed: 0..8"},
    };
    for (size_t i = 0; i < COUNT(refused); ++i) {
        assert_int_equal(da_tensor_file_open(in_folder(refused[i].name), &file), refused[i].status);
        assert_message(path, refused[i].fragment);
        assert_null(file.data);
    }
    unlink(path);
}

static void test_safetensors_without_metadata(void **state) {
    static const char header[] = "{\"__metadata__\":null,"
                                 "\"q\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}";
    da_tensor_file file;
    open_bytes(in_folder("a.safetensors"), safetensors_file(header, sizeof header - 1, 1), &file);
    assert_int_equal(file.type, DA_FILE_U8);
    da_tensor_file_close(&file);
}

/* The first bytes decide, not the ending. */
static void test_format_by_content(void **state) {
    da_tensor_file file;
    static const char npy[] = "{'descr': '|u1', 'fortran_order': False, 'shape': (1,)}";
    static const char safetensors[] = "{\"q\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}";
    open_bytes(in_folder("a.safetensors"), npy_file(1, npy, sizeof npy - 1, 1), &file);
    assert_int_equal(file.rank, 1);
    da_tensor_file_close(&file);
    open_bytes(in_folder("a.npy"), safetensors_file(safetensors, sizeof safetensors - 1, 1), &file);
    assert_int_equal(file.rank, 1);
    da_tensor_file_close(&file);

    const char *path = in_folder("a.safetensors");
    file_bytes bytes = npy_file(1, npy, sizeof npy - 1, 1);
    write_file(path, bytes.bytes, bytes.size);
    free(bytes.bytes);
    assert_int_equal(da_tensor_file_open(in_folder("a.safetensors:q"), &file), DA_ERROR_INVALID_ARGUMENT);
    assert_message(path, "no tensor \"q\": in truth this is a .npy file");
    unlink(path);
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The writer
 */

static void assert_refused(const char *path, da_file_type type, int rank, const int64_t *shape, da_status status,
                           const char *begin, const char *fragment) {
    da_tensor_writer writer;
    memset(&writer, 0x55, sizeof writer);
    int before = files_in_folder();
    assert_int_equal(da_tensor_writer_open(path, type, rank, shape, &writer), status);
    assert_message(begin, fragment);
    assert_null(writer.data);
    assert_int_equal(files_in_folder(), before);
    da_tensor_writer_abandon(&writer);
    da_tensor_writer_unlink(&writer);
}

static void test_writer_refuses(void **state) {
    int64_t one[] = {1}, negative[] = {3, -1}, huge[] = {INT64_MAX, 2}, empty_huge[] = {0, INT64_MAX, INT64_MAX};
    int64_t most[] = {INT64_MAX / 4};
    const char *path = in_folder("a.npy");
    da_status invalid = DA_ERROR_INVALID_ARGUMENT;
    assert_refused(NULL, DA_FILE_F32, 1, one, invalid, "", "path is NULL");
    assert_refused("", DA_FILE_F32, 1, one, invalid, "", "path is empty");
    assert_refused(in_folder("a.bin"), DA_FILE_F32, 1, one, invalid, in_folder("a.bin"), "allowed: .npy, .safetensors");
    assert_refused(in_folder("npy"), DA_FILE_F32, 1, one, invalid, in_folder("npy"), "allowed: .npy, .safetensors");
    assert_refused(path, (da_file_type)99, 1, one, invalid, path, "type is 99; allowed: 0..12");
    assert_refused(path, DA_FILE_F32, -1, one, invalid, path, "rank is -1; allowed: 0..8");
    assert_refused(path, DA_FILE_F32, 9, one, invalid, path, "rank is 9; allowed: 0..8");
    assert_refused(path, DA_FILE_F32, 1, NULL, invalid, path, "shape is NULL");
    assert_refused(path, DA_FILE_F32, 2, negative, invalid, path, "shape[1] is -1; allowed: 0 or more");
    assert_refused(path, DA_FILE_U8, 2, huge, invalid, path, "overflows");
    assert_refused(path, DA_FILE_U8, 3, empty_huge, invalid, path, "overflows");
    assert_refused(path, DA_FILE_F32, 1, most, DA_ERROR_IO, path, "cannot be");
    const char *safetensors = in_folder("a.safetensors");
    assert_refused(in_folder("a.safetensors:"), DA_FILE_F32, 1, one, invalid, safetensors, "tensor name \"\"");
    assert_refused(in_folder("a.safetensors:__metadata__"), DA_FILE_F32, 1, one, invalid, safetensors, "__metadata__");
    assert_refused(in_folder("a.safetensors:\xFF"), DA_FILE_F32, 1, one, invalid, safetensors, "allowed: UTF-8");
    assert_refused(in_folder("none/a.npy"), DA_FILE_F32, 1, one, DA_ERROR_IO, in_folder("none/a.npy"),
                   "No such file or directory");
    assert_int_equal(da_tensor_writer_open(path, DA_FILE_F32, 1, one, NULL), invalid);
    assert_int_equal(da_tensor_writer_commit(NULL), invalid);
    da_tensor_writer_abandon(NULL);
    da_tensor_file_close(NULL);
}

static void test_writer_refuses_what_is_no_file(void **state) {
    const char *path = in_folder("a.npy");
    assert_int_equal(mkdir(path, 0700), 0);
    assert_refused(path, DA_FILE_F32, 0, NULL, DA_ERROR_IO, path, "is a directory");
    assert_int_equal(rmdir(path), 0);
    assert_int_equal(mkfifo(path, 0600), 0);
    assert_refused(path, DA_FILE_F32, 0, NULL, DA_ERROR_IO, path, "only a regular file is replaced");
    assert_int_equal(unlink(path), 0);
    assert_int_equal(symlink("nowhere", path), 0);
    assert_refused(path, DA_FILE_F32, 0, NULL, DA_ERROR_IO, path, "the symbolic link cannot be followed");
    assert_int_equal(unlink(path), 0);
    char name[300];
    memset(name, 'x', sizeof name);
    strcpy(name + sizeof name - 5, ".npy");
    assert_refused(in_folder(name), DA_FILE_F32, 0, NULL, DA_ERROR_IO, in_folder(name), "File name too long");
}

static void test_no_space(void **state) {
    const char *path = in_folder("a.npy");
    write_tensor(path, DA_FILE_U8, 1, (int64_t[]){10}, 4);
    struct rlimit limit, small;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = limit;
    small.rlim_cur = 64 * 1024;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0); /* the signal SIGXFSZ, if it came, would end this test */
    assert_refused(path, DA_FILE_F32, 1, (int64_t[]){1 << 20}, DA_ERROR_IO, path, "cannot be reserved: File too large");
    assert_refused(in_folder("b.safetensors:q"), DA_FILE_F32, 1, (int64_t[]){1 << 20}, DA_ERROR_IO,
                   in_folder("b.safetensors"), "cannot be reserved: File too large");
    write_tensor(in_folder("c.npy"), DA_FILE_F32, 1, (int64_t[]){1 << 10}, 0); /* what fits still can be written */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    da_tensor_file file; /* and the old file is as it was */
    assert_int_equal(da_tensor_file_open(path, &file), DA_OK);
    assert_filled(file.data, 10, 4);
    da_tensor_file_close(&file);
    unlink(path);
    unlink(in_folder("c.npy"));
}

static void test_nothing_until_commit(void **state) {
    const char *path = in_folder("a.npy");
    write_tensor(path, DA_FILE_U8, 1, (int64_t[]){10}, 1);
    da_tensor_writer writer;
    assert_int_equal(da_tensor_writer_open(path, DA_FILE_U8, 1, (int64_t[]){20}, &writer), DA_OK);
    assert_int_equal(writer.bytes, 20);
    assert_int_equal(files_in_folder(), 2);
    fill(writer.data, 20, 2);
    da_tensor_file old, new;
    assert_int_equal(da_tensor_file_open(path, &old), DA_OK);
    assert_int_equal(old.shape[0], 10);
    assert_int_equal(da_tensor_writer_commit(&writer), DA_OK);
    assert_int_equal(files_in_folder(), 1);
    assert_filled(old.data, 10, 1); /* who has the old file open keeps it */
    assert_int_equal(da_tensor_file_open(path, &new), DA_OK);
    assert_int_equal(new.shape[0], 20);
    assert_filled(new.data, 20, 2);
    da_tensor_file_close(&old);
    da_tensor_file_close(&new);
    da_tensor_file_close(&new);

    assert_int_equal(da_tensor_writer_commit(&writer), DA_ERROR_INVALID_ARGUMENT);
    da_tensor_writer_abandon(&writer); /* harmless on a committed one */
    assert_int_equal(files_in_folder(), 1);
    unlink(path);
}

static void test_abandon_and_unlink(void **state) {
    const char *path = in_folder("a.npy");
    da_tensor_writer writer, other;
    assert_int_equal(da_tensor_writer_open(path, DA_FILE_F32, 1, (int64_t[]){20}, &writer), DA_OK);
    assert_int_equal(da_tensor_writer_open(path, DA_FILE_F32, 1, (int64_t[]){30}, &other), DA_OK);
    assert_int_equal(files_in_folder(), 2); /* one path, two names */
    da_tensor_writer_abandon(&writer);
    da_tensor_writer_abandon(&writer);
    assert_int_equal(files_in_folder(), 1);
    da_tensor_writer_unlink(&writer);
    da_tensor_writer_unlink(&other);
    assert_int_equal(files_in_folder(), 0);
    assert_int_equal(da_tensor_writer_commit(&other), DA_ERROR_IO);
    assert_message(path, "cannot be put in place: No such file or directory");
    assert_int_equal(files_in_folder(), 0);
}

static void test_commit_fails(void **state) {
    const char *path = in_folder("a.npy");
    da_tensor_writer writer;
    assert_int_equal(da_tensor_writer_open(path, DA_FILE_F32, 1, (int64_t[]){20}, &writer), DA_OK);
    assert_int_equal(mkdir(path, 0700), 0); /* meanwhile somebody makes a folder of that name */
    assert_int_equal(da_tensor_writer_commit(&writer), DA_ERROR_IO);
    assert_message(path, "cannot be put in place");
    assert_null(writer.data);
    assert_int_equal(files_in_folder(), 1);
    assert_int_equal(rmdir(path), 0);
}

/* What one writer keeps, the next goes on with; only one has it at a time, and only one that is told to takes it. */
static void test_partial_is_resumed(void **state) {
    const int64_t shape[2] = {3, 4}, other[2] = {4, 3};
    da_tensor_writer writer, second;
    const char *path = in_folder("part.npy");
    assert_int_equal(da_tensor_writer_open_partial(path, DA_FILE_F32, 2, shape, true, &writer), DA_ERROR_IO);
    assert_int_equal(da_tensor_writer_open_partial(path, DA_FILE_F32, 2, shape, false, &writer), DA_OK);
    ((float *)writer.data)[7] = 42;
    assert_int_equal(da_tensor_writer_open_partial(path, DA_FILE_F32, 2, shape, true, &second), DA_ERROR_IO);
    assert_non_null(strstr(da_last_error_message(), "part.npy.partial: another process has it open"));
    da_mapping_let_go(&writer.file.mapping, writer.data, writer.bytes);
    da_tensor_writer_keep(&writer);
    assert_int_equal(access(path, F_OK), -1);
    assert_int_equal(da_tensor_writer_open_partial(path, DA_FILE_F32, 2, shape, false, &writer), DA_ERROR_IO);
    assert_non_null(strstr(da_last_error_message(), "part.npy.partial: is there"));
    assert_int_equal(da_tensor_writer_open_partial(path, DA_FILE_F32, 2, other, true, &writer), DA_ERROR_FORMAT);
    assert_non_null(strstr(da_last_error_message(), "its header is not that"));
    assert_int_equal(da_tensor_writer_open_partial(path, DA_FILE_F64, 2, shape, true, &writer), DA_ERROR_FORMAT);
    assert_int_equal(files_in_folder(), 1);
    assert_int_equal(da_tensor_writer_open_partial(path, DA_FILE_F32, 2, shape, true, &writer), DA_OK);
    assert_true(((float *)writer.data)[7] == 42 && ((float *)writer.data)[8] == 0);
    assert_int_equal(da_tensor_writer_commit(&writer), DA_OK);
    assert_int_equal(files_in_folder(), 1);
    assert_int_equal(unlink(path), 0);
}

static void test_mode_follows_umask(void **state) {
    const char *path = in_folder("a.npy");
    mode_t old = umask(027);
    write_tensor(path, DA_FILE_F32, 0, NULL, 0);
    umask(old);
    struct stat status;
    assert_int_equal(stat(path, &status), 0);
    assert_int_equal(status.st_mode & 07777, 0640);
    unlink(path);
}

static void test_symbolic_link_is_kept(void **state) {
    const char *path = in_folder("link.npy");
    write_tensor(in_folder("file.npy"), DA_FILE_U8, 1, (int64_t[]){1}, 1);
    assert_int_equal(symlink("file.npy", path), 0);
    write_tensor(path, DA_FILE_U8, 1, (int64_t[]){7}, 2);
    struct stat status;
    assert_int_equal(lstat(path, &status), 0);
    assert_true(S_ISLNK(status.st_mode));
    da_tensor_file file;
    assert_int_equal(da_tensor_file_open(in_folder("file.npy"), &file), DA_OK);
    assert_int_equal(file.shape[0], 7);
    da_tensor_file_close(&file);
    unlink(path);
    unlink(in_folder("file.npy"));
}

static void test_path_without_folder(void **state) {
    char folder[1024];
    assert_non_null(getcwd(folder, sizeof folder));
    assert_int_equal(chdir(in_folder(".")), 0);
    write_tensor("a.npy", DA_FILE_U8, 1, (int64_t[]){1}, 1);
    assert_int_equal(files_in_folder(), 1);
    assert_int_equal(unlink("a.npy"), 0);
    assert_int_equal(chdir(folder), 0);
}

#define TEST(function) cmocka_unit_test_setup_teardown(function, before_test, after_test)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_round_trip),
        TEST(test_npy_header_is_numpys),
        TEST(test_types),
        TEST(test_npy_spellings),
        TEST(test_npy_descriptors),
        TEST(test_npy_fortran_order),
        TEST(test_misaligned_data),
        TEST(test_safetensors_names),
        TEST(test_safetensors_without_metadata),
        TEST(test_format_by_content),
        TEST(test_writer_refuses),
        TEST(test_writer_refuses_what_is_no_file),
        TEST(test_no_space),
        TEST(test_nothing_until_commit),
        TEST(test_abandon_and_unlink),
        TEST(test_partial_is_resumed),
        TEST(test_commit_fails),
        TEST(test_mode_follows_umask),
        TEST(test_symbolic_link_is_kept),
        TEST(test_path_without_folder),
    };
    return cmocka_run_group_tests_name("tensor files", tests, make_folder, remove_folder);
}
