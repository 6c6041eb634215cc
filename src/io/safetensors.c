/* .safetensors: the length of the header (8 bytes, little-endian), the header (JSON, padded with spaces), the data. The
 * rules are those of the format's own library: the tensors fill the data without overlap and without holes. Beyond them
 * two tensors of one name are refused, which the format forbids, and names with a zero character in them. */
#include "io/formats.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

enum { LENGTH_BYTES = 8 };
#define MAX_HEADER_BYTES UINT64_C(100000000) /* of the format */

/* The format also has narrow floats and complex numbers. */
static const char *const type_names[DA_FILE_TYPE_COUNT] = {
    [DA_FILE_F32] = "F32",   [DA_FILE_F64] = "F64", [DA_FILE_BF16] = "BF16", [DA_FILE_F16] = "F16",
    [DA_FILE_BOOL] = "BOOL", [DA_FILE_I8] = "I8",   [DA_FILE_U8] = "U8",     [DA_FILE_I16] = "I16",
    [DA_FILE_U16] = "U16",   [DA_FILE_I32] = "I32", [DA_FILE_U32] = "U32",   [DA_FILE_I64] = "I64",
    [DA_FILE_U64] = "U64",
};

bool da_safetensors_is(const unsigned char *bytes, size_t size) {
    return size > LENGTH_BYTES && bytes[LENGTH_BYTES] == '{';
}

/* ---------------------------------------------------------------------------------------------------------------------
 * One entry of the header
 */

/* A tensor as the header describes it. */
typedef struct entry {
    const char *name;
    const char *type_name;
    json_t *shape;
    uint64_t begin, end; /* in the data */
} entry;

/* Printing a name: `%s` with NAME(quoted, name). */
#define NAME(buffer, name) da_quote(buffer, name, strlen(name))

static da_status bad_entry(const char *path, const char *name, const char *what) {
    char quoted[DA_QUOTE_BYTES];
    return da_report(DA_ERROR_FORMAT, "%s: tensor \"%s\": %s", path, NAME(quoted, name), what);
}

static bool is_size(const json_t *value) {
    return json_is_integer(value) && json_integer_value(value) >= 0;
}

static da_status read_entry(const char *path, const char *name, json_t *value, entry *out) {
    json_t *type = json_object_get(value, "dtype");
    json_t *shape = json_object_get(value, "shape");
    json_t *offsets = json_object_get(value, "data_offsets");
    if (!json_is_string(type)) {
        return bad_entry(path, name, "dtype is missing or no string");
    }
    if (!json_is_array(shape)) {
        return bad_entry(path, name, "shape is missing or no array");
    }
    for (size_t axis = 0; axis < json_array_size(shape); ++axis) {
        if (!is_size(json_array_get(shape, axis))) {
            return bad_entry(path, name, "a dimension of shape is no whole number from 0 up");
        }
    }
    if (json_array_size(offsets) != 2) { /* 0 for what is no array */
        return bad_entry(path, name, "data_offsets is missing or no array of two numbers");
    }
    if (!is_size(json_array_get(offsets, 0)) || !is_size(json_array_get(offsets, 1))) {
        return bad_entry(path, name, "one of data_offsets is no whole number from 0 up");
    }
    *out = (entry){.name = name,
                   .type_name = json_string_value(type),
                   .shape = shape,
                   .begin = (uint64_t)json_integer_value(json_array_get(offsets, 0)),
                   .end = (uint64_t)json_integer_value(json_array_get(offsets, 1))};
    if (out->begin > out->end) {
        return bad_entry(path, name, "data_offsets end before they begin");
    }
    return DA_OK;
}

/* Bytes of all elements; false on overflow. A dimension of 0 does not excuse the others, as in da_file_layout_set,
 * which cannot be used here: a tensor that nobody asks for may have any number of dimensions. */
static bool count_bytes(const entry *tensor, size_t element, uint64_t *out) {
    uint64_t bytes = element;
    bool empty = false;
    for (size_t axis = 0; axis < json_array_size(tensor->shape); ++axis) {
        uint64_t dimension = (uint64_t)json_integer_value(json_array_get(tensor->shape, axis));
        if (dimension == 0) {
            empty = true;
        } else if (bytes > (uint64_t)INT64_MAX / dimension) {
            return false;
        } else {
            bytes *= dimension;
        }
    }
    *out = empty ? 0 : bytes;
    return true;
}

static bool find_type(const char *name, da_file_type *out) {
    for (int type = 0; type < DA_FILE_TYPE_COUNT; ++type) {
        if (strcmp(name, type_names[type]) == 0) {
            *out = (da_file_type)type;
            return true;
        }
    }
    return false;
}

/* Offsets against shape and type. A tensor of a type that we do not know must wait: whoever asks for it is refused. */
static da_status check_size(const char *path, const entry *tensor) {
    da_file_type type;
    if (!find_type(tensor->type_name, &type)) {
        return DA_OK;
    }
    uint64_t bytes;
    if (!count_bytes(tensor, da_file_type_size(type), &bytes)) {
        return bad_entry(path, tensor->name, "shape: the size of the tensor overflows 63 bits");
    }
    if (bytes != tensor->end - tensor->begin) {
        char quoted[DA_QUOTE_BYTES];
        return da_report(DA_ERROR_FORMAT,
                         "%s: tensor \"%s\": shape and dtype need %" PRIu64 " bytes, data_offsets give %" PRIu64, path,
                         NAME(quoted, tensor->name), bytes, tensor->end - tensor->begin);
    }
    return DA_OK;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The header
 */

static int by_offset(const void *a, const void *b) {
    const entry *x = a, *y = b;
    if (x->begin != y->begin) {
        return x->begin < y->begin ? -1 : 1;
    }
    return (x->end > y->end) - (x->end < y->end);
}

/* The tensors, sorted by their offsets, must follow one another and fill the data. */
static da_status check_coverage(const char *path, const entry *tensors, size_t count, uint64_t data_bytes) {
    char quoted[DA_QUOTE_BYTES];
    uint64_t expected = 0;
    for (size_t i = 0; i < count; ++i) {
        if (tensors[i].begin != expected) {
            return da_report(DA_ERROR_FORMAT, "%s: tensor \"%s\" begins at %" PRIu64 " %s %" PRIu64, path,
                             NAME(quoted, tensors[i].name), tensors[i].begin,
                             tensors[i].begin < expected ? "and overlaps the one that ends at"
                                                         : "and leaves a hole: the one before ends at",
                             expected);
        }
        expected = tensors[i].end;
    }
    if (expected != data_bytes) {
        return da_report(DA_ERROR_FORMAT,
                         "%s: %s: the header describes %" PRIu64 " bytes of data, the file has %" PRIu64, path,
                         expected > data_bytes ? "truncated" : "too long", expected, data_bytes);
    }
    return DA_OK;
}

static da_status check_metadata(const char *path, json_t *metadata) {
    if (json_is_null(metadata)) { /* as the format's library reads it: none */
        return DA_OK;
    }
    if (!json_is_object(metadata)) {
        return da_report(DA_ERROR_FORMAT, "%s: __metadata__ is no object", path);
    }
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value) {
        if (!json_is_string(value)) {
            return da_report(DA_ERROR_FORMAT, "%s: a value of __metadata__ is no string", path);
        }
    }
    return DA_OK;
}

static da_status read_entries(const char *path, json_t *header, uint64_t data_bytes, entry *tensors, size_t *count) {
    const char *key;
    json_t *value;
    *count = 0;
    json_object_foreach(header, key, value) {
        da_status status;
        if (strcmp(key, "__metadata__") == 0) {
            status = check_metadata(path, value);
        } else {
            status = read_entry(path, key, value, &tensors[*count]);
            if (status == DA_OK) {
                status = check_size(path, &tensors[*count]);
            }
            ++*count;
        }
        if (status != DA_OK) {
            return status;
        }
    }
    qsort(tensors, *count, sizeof *tensors, by_offset);
    return check_coverage(path, tensors, *count, data_bytes);
}

/* "a, b, c and 7 more", cut to the buffer. */
static void list_names(const entry *tensors, size_t count, char *buffer, size_t size) {
    char quoted[DA_QUOTE_BYTES];
    size_t used = 0;
    buffer[0] = '\0';
    for (size_t i = 0; i < count; ++i) {
        if (used + DA_QUOTE_BYTES + 32 > size) {
            snprintf(buffer + used, size - used, " and %zu more", count - i);
            return;
        }
        used += (size_t)snprintf(buffer + used, size - used, "%s%s", i > 0 ? ", " : "", NAME(quoted, tensors[i].name));
    }
}

static da_status select_tensor(const char *path, const char *name, const entry *tensors, size_t count,
                               const entry **out) {
    char names[512], quoted[DA_QUOTE_BYTES];
    if (count == 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s: the file holds no tensor", path);
    }
    if (name == NULL && count == 1) {
        *out = tensors;
        return DA_OK;
    }
    for (size_t i = 0; name != NULL && i < count; ++i) {
        if (strcmp(tensors[i].name, name) == 0) {
            *out = &tensors[i];
            return DA_OK;
        }
    }
    list_names(tensors, count, names, sizeof names);
    if (name == NULL) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s: the file holds %zu tensors; name one after a colon: %s", path,
                         count, names);
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT, "%s: no tensor \"%s\"; the file holds: %s", path, NAME(quoted, name),
                     names);
}

static da_status describe(const char *path, const entry *tensor, uint64_t data_start, da_file_layout *out) {
    char quoted[DA_QUOTE_BYTES], quoted_type[DA_QUOTE_BYTES];
    da_file_type type;
    if (!find_type(tensor->type_name, &type)) {
        return da_report(DA_ERROR_FORMAT,
                         "%s: tensor \"%s\": dtype \"%s\" is not read; allowed: F32 F64 BF16 F16 BOOL I8 U8 I16 "
                         "U16 I32 U32 I64 U64",
                         path, NAME(quoted, tensor->name), NAME(quoted_type, tensor->type_name));
    }
    size_t rank = json_array_size(tensor->shape);
    if (rank > DA_FILE_MAX_RANK) {
        return da_report(DA_ERROR_FORMAT, "%s: tensor \"%s\": shape: %zu dimensions; allowed: 0..%d", path,
                         NAME(quoted, tensor->name), rank, DA_FILE_MAX_RANK);
    }
    int64_t shape[DA_FILE_MAX_RANK];
    for (size_t axis = 0; axis < rank; ++axis) {
        shape[axis] = json_integer_value(json_array_get(tensor->shape, axis));
    }
    (void)da_file_layout_set(out, type, (int)rank, shape, false); /* check_size saw that it fits */
    out->offset = data_start + tensor->begin;
    return DA_OK;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * The file
 */

static da_status parse_header(const char *path, const unsigned char *bytes, size_t size, uint64_t *data_start,
                              json_t **out) {
    if (size < LENGTH_BYTES) {
        return da_report(DA_ERROR_FORMAT, "%s: truncated: %zu bytes; a .safetensors file begins with a length of %d",
                         path, size, LENGTH_BYTES);
    }
    uint64_t length = 0;
    for (int i = LENGTH_BYTES - 1; i >= 0; --i) {
        length = length << 8 | bytes[i];
    }
    if (length == 0 || length > MAX_HEADER_BYTES) {
        return da_report(DA_ERROR_FORMAT, "%s: a .safetensors header of %" PRIu64 " bytes; allowed: 1..%" PRIu64, path,
                         length, MAX_HEADER_BYTES);
    }
    if (length > size - LENGTH_BYTES) {
        return da_report(DA_ERROR_FORMAT, "%s: truncated: a .safetensors header of %" PRIu64 " bytes, but %zu follow",
                         path, length, size - LENGTH_BYTES);
    }
    const char *text = (const char *)bytes + LENGTH_BYTES;
    if (text[0] != '{') {
        return da_report(DA_ERROR_FORMAT, "%s: the .safetensors header begins with byte 0x%02x, not '{'", path,
                         (unsigned)(unsigned char)text[0]);
    }
    json_error_t error;
    *out = json_loadb(text, (size_t)length, JSON_REJECT_DUPLICATES, &error);
    if (*out == NULL) {
        if (json_error_code(&error) == json_error_out_of_memory) {
            return da_report(DA_ERROR_OUT_OF_MEMORY, "%s: no memory for the .safetensors header", path);
        }
        char quoted[DA_QUOTE_BYTES];
        return da_report(DA_ERROR_FORMAT, "%s: the .safetensors header is no JSON at byte %d: %s", path, error.position,
                         NAME(quoted, error.text));
    }
    *data_start = LENGTH_BYTES + length;
    return DA_OK;
}

/* A header and its entries, which lead into it. */
typedef struct contents {
    json_t *header;
    uint64_t data_start;
    entry *tensors;
    size_t count;
} contents;

static void close_contents(contents *file) {
    da_release(NULL, file->tensors);
    json_decref(file->header);
}

/* On success close_contents is due. */
static da_status open_contents(const char *path, const unsigned char *bytes, size_t size, contents *out) {
    da_status status = parse_header(path, bytes, size, &out->data_start, &out->header);
    if (status != DA_OK) {
        return status;
    }
    out->count = json_object_size(out->header);
    out->tensors = da_allocate(NULL, out->count > 0 ? out->count : 1, sizeof *out->tensors);
    status = out->tensors != NULL ? read_entries(path, out->header, size - out->data_start, out->tensors, &out->count)
                                  : DA_ERROR_OUT_OF_MEMORY;
    if (status != DA_OK) {
        close_contents(out);
    }
    return status;
}

da_status da_safetensors_read(const char *path, const char *name, const unsigned char *bytes, size_t size,
                              da_file_layout *out) {
    contents file;
    const entry *selected;
    da_status status = open_contents(path, bytes, size, &file);
    if (status != DA_OK) {
        return status;
    }
    status = select_tensor(path, name, file.tensors, file.count, &selected);
    if (status == DA_OK) {
        status = describe(path, selected, file.data_start, out);
    }
    close_contents(&file);
    return status;
}

da_status da_safetensors_names(const char *path, const unsigned char *bytes, size_t size,
                               da_status (*each)(const char *name, void *user), void *user) {
    contents file;
    da_status status = open_contents(path, bytes, size, &file);
    if (status != DA_OK) {
        return status;
    }
    for (size_t i = 0; status == DA_OK && i < file.count; ++i) {
        status = each(file.tensors[i].name, user);
    }
    close_contents(&file);
    return status;
}

da_status da_safetensors_layouts(const char *path, const unsigned char *bytes, size_t size,
                                 da_status (*each)(const char *name, const da_file_layout *layout, void *user),
                                 void *user) {
    json_t *header;
    uint64_t data_start;
    da_status status = parse_header(path, bytes, size, &data_start, &header);
    if (status != DA_OK) {
        return status;
    }
    size_t count = json_object_size(header);
    entry *tensors = da_allocate(NULL, count > 0 ? count : 1, sizeof *tensors);
    status = tensors != NULL ? read_entries(path, header, size - data_start, tensors, &count) : DA_ERROR_OUT_OF_MEMORY;
    for (size_t i = 0; status == DA_OK && i < count; ++i) {
        da_file_layout layout;
        status = describe(path, &tensors[i], data_start, &layout);
        if (status == DA_OK) {
            status = each(tensors[i].name, &layout, user);
        }
    }
    da_release(NULL, tensors);
    json_decref(header);
    return status;
}

da_status da_safetensors_metadata(const char *path, const unsigned char *bytes, size_t size,
                                  da_status (*each)(const char *key, const char *value, void *user), void *user) {
    json_t *header;
    uint64_t data_start;
    da_status status = parse_header(path, bytes, size, &data_start, &header);
    if (status != DA_OK) {
        return status;
    }
    json_t *metadata = json_object_get(header, "__metadata__");
    status = metadata != NULL ? check_metadata(path, metadata) : DA_OK;
    const char *key;
    json_t *value;
    json_object_foreach(metadata, key, value) { /* nothing in what is no object */
        if (status == DA_OK) {
            status = each(key, json_string_value(value), user);
        }
    }
    json_decref(header);
    return status;
}

/* Adds "name": {"dtype": ..., "shape": [...], "data_offsets": [begin, begin + bytes]}; false if memory is short. */
static bool add_entry(json_t *header, const char *name, const da_file_layout *layout, uint64_t begin) {
    json_t *shape = json_array();
    for (int axis = 0; axis < layout->rank; ++axis) {
        json_array_append_new(shape, json_integer(layout->shape[axis]));
    }
    json_t *value = json_pack("{s:s, s:o, s:[I, I]}", "dtype", type_names[layout->type], "shape", shape, "data_offsets",
                              (json_int_t)begin, (json_int_t)(begin + layout->bytes));
    return json_object_set_new(header, name, value) == 0; /* refuses what json_pack could not make */
}

/* Adds "__metadata__": {key: value, ...}; false if memory is short. */
static bool add_notes(json_t *header, const da_file_note *notes, size_t count) {
    json_t *metadata = json_object();
    bool added = metadata != NULL;
    for (size_t i = 0; added && i < count; ++i) {
        added = json_object_set_new(metadata, notes[i].key, json_string(notes[i].value)) == 0;
    }
    if (!added) {
        json_decref(metadata);
        return false;
    }
    return json_object_set_new(header, "__metadata__", metadata) == 0;
}

static char *dump_header(const char *const *names, const da_file_layout *layouts, size_t count,
                         const da_file_note *notes, size_t note_count) {
    json_t *header = json_object();
    uint64_t begin = 0;
    bool added = header != NULL && (note_count == 0 || add_notes(header, notes, note_count));
    for (size_t i = 0; added && i < count; ++i) {
        added = add_entry(header, names[i], &layouts[i], begin);
        begin += layouts[i].bytes;
    }
    char *text = added ? json_dumps(header, JSON_COMPACT) : NULL;
    json_decref(header);
    return text;
}

static da_status check_name(const char *path, const char *name) {
    json_t *valid = json_string(name);
    json_decref(valid);
    if (valid == NULL || name[0] == '\0' || strcmp(name, "__metadata__") == 0) {
        char quoted[DA_QUOTE_BYTES];
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "%s: tensor name \"%s\"; allowed: UTF-8, not empty, not __metadata__", path,
                         NAME(quoted, name));
    }
    return DA_OK;
}

static da_status check_notes(const char *path, const da_file_note *notes, size_t count) {
    for (size_t i = 0; i < count; ++i) {
        json_t *key = json_string(notes[i].key), *value = json_string(notes[i].value);
        bool valid = key != NULL && value != NULL;
        json_decref(key);
        json_decref(value);
        if (!valid) {
            char quoted[DA_QUOTE_BYTES];
            return da_report(DA_ERROR_INVALID_ARGUMENT, "%s: metadata \"%s\" or its value is no UTF-8; allowed: UTF-8",
                             path, NAME(quoted, notes[i].key));
        }
    }
    return DA_OK;
}

da_status da_safetensors_header(const char *path, const char *const *names, const da_file_layout *layouts, size_t count,
                                const da_file_note *notes, size_t note_count, da_file_header *out) {
    for (size_t i = 0; i < count; ++i) {
        da_status status = check_name(path, names[i]);
        if (status != DA_OK) {
            return status;
        }
    }
    da_status status = check_notes(path, notes, note_count);
    if (status != DA_OK) {
        return status;
    }
    char *text = dump_header(names, layouts, count, notes, note_count);
    size_t length = text != NULL ? strlen(text) : 0;
    size_t total = (LENGTH_BYTES + length + DA_FILE_ALIGNMENT - 1) / DA_FILE_ALIGNMENT * DA_FILE_ALIGNMENT;
    char *bytes = text != NULL ? da_allocate(NULL, total, 1) : NULL;
    if (bytes != NULL) {
        memset(bytes, ' ', total);
        for (int i = 0; i < LENGTH_BYTES; ++i) {
            bytes[i] = (char)((uint64_t)(total - LENGTH_BYTES) >> (8 * i) & 0xFF);
        }
        memcpy(bytes + LENGTH_BYTES, text, length);
        *out = (da_file_header){.bytes = bytes, .length = total};
    }
    free(text);
    return bytes != NULL ? DA_OK : da_report(DA_ERROR_OUT_OF_MEMORY, "%s: no memory for the header", path);
}
