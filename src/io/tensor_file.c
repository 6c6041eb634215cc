/* Tensors in files, whichever the format: paths, dispatch, alignment. */
#define _XOPEN_SOURCE 700
#include "io/tensor_file.h"

#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "core/memory.h"
#include "io/formats.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "The files hold little-endian numbers, and their mappings are used as they are."
#endif

static const char npy_ending[] = ".npy", safetensors_ending[] = ".safetensors";

static bool ends_with(const char *text, const char *ending) {
    size_t length = strlen(text), ending_length = strlen(ending);
    return length > ending_length && strcmp(text + length - ending_length, ending) == 0;
}

/* Splits "FILE.safetensors:NAME". The file's path is to be released; name stays NULL if there is none. */
static da_status split_path(const char *path, char **file, const char **name) {
    if (path == NULL || path[0] == '\0') {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "path is %s; allowed: the path of a file",
                         path == NULL ? "NULL" : "empty");
    }
    size_t length = strlen(path);
    *name = NULL;
    const char *ending = strstr(path, ".safetensors:");
    if (ending != NULL) {
        length = (size_t)(ending - path) + strlen(safetensors_ending);
        *name = path + length + 1;
    }
    *file = da_allocate(NULL, length + 1, 1);
    if (*file == NULL) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    memcpy(*file, path, length);
    (*file)[length] = '\0';
    return DA_OK;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Reading
 */

static da_status read_layout(const char *path, const char *name, const da_mapping *mapping, da_file_layout *out) {
    const unsigned char *bytes = mapping->base;
    if (da_npy_is(bytes, mapping->bytes)) {
        if (name != NULL) {
            return da_report(DA_ERROR_INVALID_ARGUMENT,
                             "%s: no tensor \"%s\": in truth this is a .npy file, whose one tensor has no name", path,
                             name);
        }
        return da_npy_read(path, bytes, mapping->bytes, out);
    }
    /* With that ending, what is wrong with the file can be said better. */
    if (da_safetensors_is(bytes, mapping->bytes) || ends_with(path, safetensors_ending)) {
        return da_safetensors_read(path, name, bytes, mapping->bytes, out);
    }
    return da_report(DA_ERROR_FORMAT, "%s: neither a .npy nor a .safetensors file, by its first bytes", path);
}

static da_status read_tensor(const char *path, const char *name, da_tensor_file *out) {
    da_file_layout layout;
    da_status status = read_layout(path, name, &out->mapping, &layout);
    if (status != DA_OK) {
        return status;
    }
    out->data = (const char *)out->mapping.base + layout.offset;
    out->type = layout.type;
    out->rank = layout.rank;
    memcpy(out->shape, layout.shape, sizeof out->shape);
    memcpy(out->stride, layout.stride, sizeof out->stride);
    if (layout.bytes > 0 && layout.offset % da_file_type_size(layout.type) != 0) { /* the mapping begins at a page */
        da_mapping copy;
        status = da_mapping_copy(path, out->data, (size_t)layout.bytes, &copy);
        if (status == DA_OK) {
            da_mapping_close(&out->mapping);
            out->mapping = copy;
            out->data = copy.base;
        }
    }
    return status;
}

da_status da_tensor_file_open(const char *path, da_tensor_file *out) {
    if (out == NULL) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "out is NULL; allowed: where to put the tensor");
    }
    *out = (da_tensor_file){0};
    char *file = NULL;
    const char *name = NULL;
    da_status status = split_path(path, &file, &name);
    if (status != DA_OK) {
        return status;
    }
    status = da_mapping_open(file, &out->mapping);
    if (status == DA_OK) {
        status = read_tensor(file, name, out);
    }
    da_release(NULL, file);
    if (status != DA_OK) {
        da_tensor_file_close(out);
    }
    return status;
}

void da_tensor_file_close(da_tensor_file *file) {
    if (file != NULL) {
        da_mapping_close(&file->mapping);
        *file = (da_tensor_file){0};
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Writing
 */

static da_status check_tensor(const char *path, da_file_type type, int rank, const int64_t *shape,
                              da_file_layout *out) {
    if (da_file_type_size(type) == 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s: type is %d; allowed: 0..%d", path, (int)type,
                         DA_FILE_TYPE_COUNT - 1);
    }
    if (rank < 0 || rank > DA_FILE_MAX_RANK) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s: rank is %d; allowed: 0..%d", path, rank, DA_FILE_MAX_RANK);
    }
    if (shape == NULL && rank > 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s: shape is NULL; allowed: %d dimensions", path, rank);
    }
    for (int axis = 0; axis < rank; ++axis) {
        if (shape[axis] < 0) {
            return da_report(DA_ERROR_INVALID_ARGUMENT, "%s: shape[%d] is %" PRId64 "; allowed: 0 or more", path, axis,
                             shape[axis]);
        }
    }
    if (!da_file_layout_set(out, type, rank, shape, false)) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s: shape: the size of the tensor overflows 63 bits", path);
    }
    return DA_OK;
}

static da_status make_header(const char *path, const char *name, const da_file_layout *layout, da_file_header *out) {
    if (name != NULL || ends_with(path, safetensors_ending)) {
        const char *only = name != NULL ? name : "tensor";
        return da_safetensors_header(path, &only, layout, 1, NULL, 0, out);
    }
    if (ends_with(path, npy_ending)) {
        return da_npy_header(layout, out);
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT, "%s: the path's ending; allowed: .npy, .safetensors, .safetensors:NAME",
                     path);
}

/* How a writer's file is made. */
typedef enum writer_file { UNDER_A_NEW_NAME, PARTIAL, RESUMED } writer_file;

static da_status create(const char *path, const da_file_header *header, uint64_t bytes, writer_file how,
                        da_tensor_writer *out) {
    uint64_t all = header->length + bytes;
    da_status status = how == UNDER_A_NEW_NAME ? da_atomic_file_create(path, all, &out->file)
                                               : da_atomic_file_open_partial(path, all, how == RESUMED, &out->file);
    if (status == DA_OK && how == RESUMED && memcmp(out->file.mapping.base, header->bytes, header->length) != 0) {
        status =
            da_report(DA_ERROR_FORMAT, "%s: its header is not that of the tensor to be written", out->file.temporary);
        da_atomic_file_keep(&out->file);
    }
    if (status == DA_OK) {
        memcpy(out->file.mapping.base, header->bytes, header->length);
        out->data = (char *)out->file.mapping.base + header->length;
        out->bytes = (size_t)bytes;
    }
    return status;
}

static da_status open_writer(const char *path, da_file_type type, int rank, const int64_t *shape, writer_file how,
                             da_tensor_writer *out) {
    if (out == NULL) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "out is NULL; allowed: where to put the writer");
    }
    *out = (da_tensor_writer){0};
    char *file = NULL;
    const char *name = NULL;
    da_status status = split_path(path, &file, &name);
    if (status != DA_OK) {
        return status;
    }
    da_file_layout layout;
    da_file_header header = {0};
    status = check_tensor(file, type, rank, shape, &layout);
    if (status == DA_OK) {
        status = make_header(file, name, &layout, &header);
    }
    if (status == DA_OK) {
        status = create(file, &header, layout.bytes, how, out);
    }
    da_release(NULL, header.bytes);
    da_release(NULL, file);
    return status;
}

da_status da_tensor_writer_open(const char *path, da_file_type type, int rank, const int64_t *shape,
                                da_tensor_writer *out) {
    return open_writer(path, type, rank, shape, UNDER_A_NEW_NAME, out);
}

da_status da_tensor_writer_open_partial(const char *path, da_file_type type, int rank, const int64_t *shape,
                                        bool resume, da_tensor_writer *out) {
    return open_writer(path, type, rank, shape, resume ? RESUMED : PARTIAL, out);
}

void da_tensor_writer_keep(da_tensor_writer *writer) {
    if (writer != NULL) {
        da_atomic_file_keep(&writer->file);
        *writer = (da_tensor_writer){0};
    }
}

da_status da_tensor_writer_commit(da_tensor_writer *writer) {
    if (writer == NULL) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "writer is NULL; allowed: one that is open");
    }
    da_status status = da_atomic_file_commit(&writer->file);
    *writer = (da_tensor_writer){0};
    return status;
}

void da_tensor_writer_abandon(da_tensor_writer *writer) {
    if (writer != NULL) {
        da_atomic_file_abandon(&writer->file);
        *writer = (da_tensor_writer){0};
    }
}

void da_tensor_writer_unlink(const da_tensor_writer *writer) {
    const char *temporary = writer->file.temporary;
    if (temporary != NULL) {
        unlink(temporary);
    }
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Writing by several processes
 */

da_status da_tensor_writer_place(const da_tensor_writer *writer, da_tensor_place *out) {
    const da_atomic_file *file = &writer->file;
    *out = (da_tensor_place){.bytes = file->mapping.bytes};
    size_t length = strlen(file->temporary);
    if (length >= sizeof out->temporary) {
        return da_report(DA_ERROR_IO, "%s: the path has %zu bytes; allowed among several processes: %zu", file->path,
                         length, sizeof out->temporary - 1);
    }
    memcpy(out->temporary, file->temporary, length + 1);
    out->offset = (uint64_t)((const char *)writer->data - (const char *)file->mapping.base);
    return DA_OK;
}

da_status da_tensor_writer_join(const da_tensor_place *place, da_tensor_writer *out) {
    *out = (da_tensor_writer){0};
    da_status status = da_atomic_file_join(place->temporary, place->bytes, &out->file);
    if (status == DA_OK) {
        out->data = (char *)out->file.mapping.base + place->offset;
        out->bytes = (size_t)(place->bytes - place->offset);
    }
    return status;
}

da_status da_tensor_writer_flush(da_tensor_writer *writer) {
    return da_atomic_file_flush(&writer->file);
}

void da_tensor_writer_leave(da_tensor_writer *writer) {
    da_atomic_file_leave(&writer->file);
    *writer = (da_tensor_writer){0};
}
