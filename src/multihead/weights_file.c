/* Parameters in .safetensors files. */
#include <inttypes.h>
#include <string.h>

#include "config/validation.h"
#include "io/formats.h"
#include "multihead/convert.h"
#include "multihead/shards.h"

enum { NAME_BYTES = 512 }; /* of a prefix and a parameter's name */

void da_weights_format_init(da_weights_format *format) {
    if (format) {
        *format = (da_weights_format){.size = sizeof *format};
    }
}

static da_status import_format(const da_weights_format *theirs, da_weights_format *ours) {
    da_weights_format_init(ours);
    da_status status = theirs ? da_copy_sized(ours, sizeof *ours, theirs, "format") : DA_OK;
    if (status != DA_OK) {
        return status;
    }
    ours->prefix = ours->prefix ? ours->prefix : "";
    if (strlen(ours->prefix) > NAME_BYTES - 64) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "format.prefix has %zu bytes; allowed: up to %d",
                         strlen(ours->prefix), NAME_BYTES - 64);
    }
    if (ours->names != DA_NAMES_OWN && ours->names != DA_NAMES_TORCHSCALE) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "format.names is %d; allowed: DA_NAMES_OWN, DA_NAMES_TORCHSCALE",
                         (int)ours->names);
    }
    if (ours->layout != DA_WEIGHTS_OUT_IN && ours->layout != DA_WEIGHTS_IN_OUT) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "format.layout is %d; allowed: DA_WEIGHTS_OUT_IN, DA_WEIGHTS_IN_OUT", (int)ours->layout);
    }
    return DA_OK;
}

static da_status check_call(const da_multihead *multihead, const char *path, const da_weights_format *theirs,
                            da_weights_format *ours) {
    if (!multihead) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "multihead is NULL; allowed: what da_multihead_create made");
    }
    if (!path || !path[0]) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "path is %s; allowed: the path of a file", path ? "empty" : "NULL");
    }
    return import_format(theirs, ours);
}

static bool is_transposed(const da_parameter_shape *entry, const da_weights_format *format) {
    return entry->rank == 2 && format->layout == DA_WEIGHTS_IN_OUT;
}

/* The shape in a file. */
static void file_shape(const da_parameter_shape *entry, const da_weights_format *format, int64_t shape[2]) {
    bool transposed = is_transposed(entry, format);
    shape[transposed ? 1 : 0] = entry->whole_rows;
    shape[transposed ? 0 : 1] = entry->shape[1];
}

/* ---- loading ----------------------------------------------------------------------------------------------------- */

typedef struct loading {
    const da_multihead *multihead;
    const char *path;
    da_weights_format format;
    da_mapping mapping;
    bool found[DA_PARAMETER_IDS];
    bool has_torchscale_name[DA_PARAMETER_IDS];
    da_file_layout layouts[DA_PARAMETER_IDS];
} loading;

/* Notes which parameter a tensor of the file is. */
static da_status recognise(const char *name, void *user) {
    loading *l = user;
    const da_parameter_table *table = &l->multihead->table;
    size_t prefix = strlen(l->format.prefix);
    if (strncmp(name, l->format.prefix, prefix) != 0) {
        return DA_OK;
    }
    for (size_t k = 0; k < 2 * table->count; k++) {
        da_parameter_id id = table->entries[k / 2].id;
        da_parameter_names names = k % 2 ? DA_NAMES_TORCHSCALE : DA_NAMES_OWN;
        if (strcmp(name + prefix, da_parameter_id_name(id, names)) != 0) {
            continue;
        }
        if (l->found[id]) {
            return da_report(DA_ERROR_INVALID_ARGUMENT, "%s: holds both %s and %s; allowed: one of them", l->path,
                             da_parameter_id_name(id, DA_NAMES_OWN), da_parameter_id_name(id, DA_NAMES_TORCHSCALE));
        }
        l->found[id] = true;
        l->has_torchscale_name[id] = names == DA_NAMES_TORCHSCALE;
        return DA_OK;
    }
    char quoted[DA_QUOTE_BYTES];
    return da_report(DA_ERROR_INVALID_ARGUMENT,
                     "%s: tensor \"%s\" is no parameter of this module; allowed: its parameters alone under the prefix",
                     l->path, da_quote(quoted, name, strlen(name)));
}

static da_status check_layout(const loading *l, const da_parameter_shape *entry, const char *name,
                              const da_file_layout *layout) {
    int64_t expected[2];
    file_shape(entry, &l->format, expected);
    if (da_file_type_dtype(layout->type) == DA_DTYPE_ANY) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s: %s is %s; allowed: f32, f64, bf16, f16", l->path, name,
                         da_file_type_name(layout->type));
    }
    bool fits = layout->rank == entry->rank;
    for (int axis = 0; fits && axis < entry->rank; axis++) {
        fits = layout->shape[axis] == expected[axis];
    }
    if (fits) {
        return DA_OK;
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT,
                     "%s: the shape of %s has %d dimensions, (%" PRId64 ", %" PRId64 ", ...); allowed: %d, (%" PRId64
                     ", %" PRId64 ")",
                     l->path, name, layout->rank, layout->rank > 0 ? layout->shape[0] : 0,
                     layout->rank > 1 ? layout->shape[1] : 1, entry->rank, expected[0], expected[1]);
}

static da_status locate(loading *l, const da_parameter_shape *entry) {
    char name[NAME_BYTES] = "";
    da_parameter_names names = l->has_torchscale_name[entry->id] ? DA_NAMES_TORCHSCALE : DA_NAMES_OWN;
    strcat(name, l->format.prefix); /* import_format saw that both fit */
    strcat(name, da_parameter_id_name(entry->id, names));
    if (!l->found[entry->id]) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s: no tensor \"%s\"; allowed: a file with every parameter",
                         l->path, name);
    }
    da_file_layout *layout = &l->layouts[entry->id];
    da_status status = da_safetensors_read(l->path, name, l->mapping.base, l->mapping.bytes, layout);
    return status == DA_OK ? check_layout(l, entry, name, layout) : status;
}

/* This rank's rows. */
static void read_parameter(const loading *l, const da_parameter_shape *entry) {
    const da_multihead *multihead = l->multihead;
    const da_file_layout *layout = &l->layouts[entry->id];
    da_dtype source = da_file_type_dtype(layout->type), target = multihead->config.dtype;
    const char *data = (const char *)l->mapping.base + layout->offset;
    char *parameter = da_parameter_address(&multihead->table, multihead->parameters, target, entry->id);
    bool transposed = is_transposed(entry, &l->format);
    int64_t rows = entry->shape[0], columns = entry->shape[1];
    for (int64_t r = 0; r < rows; r++) {
        int64_t row = entry->first_row + r, first = transposed ? row : row * columns;
        da_convert(source, data + (size_t)first * da_dtype_size(source), transposed ? entry->whole_rows : 1, target,
                   parameter + (size_t)(r * columns) * da_dtype_size(target), 1, columns);
    }
}

static da_status load_mapping(loading *l) {
    const da_parameter_table *table = &l->multihead->table;
    da_status status = da_safetensors_names(l->path, l->mapping.base, l->mapping.bytes, recognise, l);
    for (size_t k = 0; k < table->count && status == DA_OK; k++) {
        status = locate(l, &table->entries[k]);
    }
    for (size_t k = 0; k < table->count && status == DA_OK; k++) {
        read_parameter(l, &table->entries[k]);
    }
    return status;
}

da_status da_multihead_load(da_multihead *multihead, const char *path, const da_weights_format *format) {
    loading l = {.multihead = multihead, .path = path};
    da_status status = check_call(multihead, path, format, &l.format);
    if (status == DA_OK) {
        status = da_mapping_open(path, &l.mapping);
    }
    if (status == DA_OK) {
        status = load_mapping(&l);
        da_mapping_close(&l.mapping);
    }
    return status;
}

/* ---- saving ------------------------------------------------------------------------------------------------------ */

static da_file_type file_type_of(da_dtype dtype) {
    switch (dtype) {
    case DA_F64: return DA_FILE_F64;
    case DA_BF16: return DA_FILE_BF16;
    case DA_F16: return DA_FILE_F16;
    default: return DA_FILE_F32;
    }
}

static da_status make_header(const da_multihead *multihead, const char *path, const da_weights_format *format,
                             da_file_header *out) {
    const da_parameter_table *table = &multihead->table;
    static const size_t bytes = NAME_BYTES;
    da_file_layout layouts[DA_PARAMETER_IDS];
    const char *names[DA_PARAMETER_IDS];
    char *text = da_allocate(multihead->allocator, table->count, bytes);
    if (!text) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    for (size_t k = 0; k < table->count; k++) {
        char *name = text + k * bytes;
        int64_t shape[2];
        strcpy(name, format->prefix); /* import_format saw that both fit */
        strcat(name, da_parameter_id_name(table->entries[k].id, format->names));
        names[k] = name;
        file_shape(&table->entries[k], format, shape);
        (void)da_file_layout_set(&layouts[k], file_type_of(multihead->config.dtype), table->entries[k].rank, shape,
                                 false); /* it is in memory, so it fits */
    }
    da_status status = da_safetensors_header(path, names, layouts, table->count, NULL, 0, out);
    da_release(multihead->allocator, text);
    return status;
}

static size_t whole_bytes(const da_multihead *multihead, const da_parameter_shape *entry) {
    return (size_t)(entry->whole_rows * entry->shape[1]) * da_dtype_size(multihead->config.dtype);
}

/* All rows of a parameter to its place in the file. */
static void write_parameter(const da_multihead *multihead, const da_parameter_shape *entry,
                            const da_weights_format *format, const char *whole, char *data) {
    da_dtype dtype = multihead->config.dtype;
    size_t size = da_dtype_size(dtype);
    int64_t rows = entry->whole_rows, columns = entry->shape[1];
    for (int64_t r = 0; r < rows && is_transposed(entry, format); r++) {
        da_convert(dtype, whole + (size_t)(r * columns) * size, 1, dtype, data + (size_t)r * size, rows, columns);
    }
    if (!is_transposed(entry, format)) {
        memcpy(data, whole, whole_bytes(multihead, entry));
    }
}

/* A file with its header; *data is where the parameters go. */
static da_status begin_file(const da_multihead *multihead, const char *path, const da_weights_format *format,
                            da_atomic_file *file, char **data) {
    da_file_header header = {0};
    uint64_t bytes = 0;
    for (size_t k = 0; k < multihead->table.count; k++) {
        bytes += whole_bytes(multihead, &multihead->table.entries[k]);
    }
    da_status status = make_header(multihead, path, format, &header);
    if (status == DA_OK) {
        status = da_atomic_file_create(path, header.length + bytes, file);
    }
    if (status == DA_OK) {
        memcpy(file->mapping.base, header.bytes, header.length);
        *data = (char *)file->mapping.base + header.length;
    }
    da_release(NULL, header.bytes);
    return status;
}

static da_status save_own(const da_multihead *multihead, const char *path, const da_weights_format *format) {
    da_atomic_file file;
    char *data;
    da_status status = begin_file(multihead, path, format, &file, &data);
    for (size_t k = 0; status == DA_OK && k < multihead->table.count; k++) {
        const da_parameter_shape *entry = &multihead->table.entries[k];
        write_parameter(
            multihead, entry, format,
            da_parameter_address(&multihead->table, multihead->parameters, multihead->config.dtype, entry->id), data);
        data += whole_bytes(multihead, entry);
    }
    return status == DA_OK ? da_atomic_file_commit(&file) : status;
}

/* Collective: parameter by parameter. data: NULL on all ranks but the one that writes. *safe: to release `whole`. */
static da_status gather_and_write(const da_multihead *multihead, const da_weights_format *format, void *whole,
                                  char *data, bool *safe) {
    da_status status = DA_OK;
    for (size_t k = 0; status == DA_OK && k < multihead->table.count; k++) {
        const da_parameter_shape *entry = &multihead->table.entries[k];
        const da_bundle one = da_bundle_of(entry->id);
        status = da_shards_gather(multihead, &one, whole, safe);
        if (status == DA_OK && data) {
            write_parameter(multihead, entry, format, whole, data);
            data += whole_bytes(multihead, entry);
        }
    }
    return status;
}

/* Rank 0 writes. Whether it can is told to all, before and after: a full disk is an error on every rank, and not the end of
 * the communicator. status: of this rank's arguments. */
static da_status save_shards(const da_multihead *multihead, da_status status, const char *path,
                             const da_weights_format *format) {
    size_t largest = (size_t)(multihead->config.embed_dim * multihead->config.embed_dim);
    da_atomic_file file = {0};
    void *whole = NULL;
    char *data = NULL;
    bool safe = true;
    if (status == DA_OK) {
        whole = da_allocate(multihead->allocator, largest, da_dtype_size(multihead->config.dtype));
        status = whole ? DA_OK : DA_ERROR_OUT_OF_MEMORY;
    }
    if (status == DA_OK && multihead->shard == 0) {
        status = begin_file(multihead, path, format, &file, &data);
    }
    status = da_shards_share_status(multihead, status, "begin to save the parameters");
    if (status == DA_OK) {
        status = da_module_leave(multihead, gather_and_write(multihead, format, whole, data, &safe), false);
    }
    if (status == DA_OK) {
        status = multihead->shard == 0 ? da_atomic_file_commit(&file) : DA_OK;
        status = da_shards_share_status(multihead, status, "save the parameters");
    }
    da_atomic_file_abandon(&file);
    if (safe) {
        da_release(multihead->allocator, whole);
    }
    return status;
}

da_status da_multihead_save(const da_multihead *multihead, const char *path, const da_weights_format *format) {
    da_weights_format ours;
    da_status status = check_call(multihead, path, format, &ours);
    if (multihead && multihead->shards > 1) {
        return save_shards(multihead, status, path, &ours);
    }
    return status == DA_OK ? save_own(multihead, path, &ours) : status;
}
