/* The element types of files. */
#include "io/formats.h"

static const struct {
    const char *name;
    size_t size;
    da_dtype dtype;
} types[DA_FILE_TYPE_COUNT] = {
    [DA_FILE_F32] = {"f32", 4, DA_F32},         [DA_FILE_F64] = {"f64", 8, DA_F64},
    [DA_FILE_BF16] = {"bf16", 2, DA_BF16},      [DA_FILE_F16] = {"f16", 2, DA_F16},
    [DA_FILE_BOOL] = {"bool", 1, DA_DTYPE_ANY}, [DA_FILE_I8] = {"i8", 1, DA_DTYPE_ANY},
    [DA_FILE_U8] = {"u8", 1, DA_DTYPE_ANY},     [DA_FILE_I16] = {"i16", 2, DA_DTYPE_ANY},
    [DA_FILE_U16] = {"u16", 2, DA_DTYPE_ANY},   [DA_FILE_I32] = {"i32", 4, DA_DTYPE_ANY},
    [DA_FILE_U32] = {"u32", 4, DA_DTYPE_ANY},   [DA_FILE_I64] = {"i64", 8, DA_DTYPE_ANY},
    [DA_FILE_U64] = {"u64", 8, DA_DTYPE_ANY},
};

static bool is_type(da_file_type type) {
    return (int)type >= 0 && (int)type < DA_FILE_TYPE_COUNT;
}

da_dtype da_file_type_dtype(da_file_type type) {
    return is_type(type) ? types[type].dtype : DA_DTYPE_ANY;
}

const char *da_file_type_name(da_file_type type) {
    return is_type(type) ? types[type].name : "?";
}

size_t da_file_type_size(da_file_type type) {
    return is_type(type) ? types[type].size : 0;
}
