#include "tensors.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/dtype.h"
#include "core/memory.h"
#include "core/parallel.h"
#include "core/tensor.h"

bool read_axis_order(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    axis_order *order = option->target;
    if (strcmp(text, "bnhd") == 0) {
        *order = ORDER_BNHD;
    } else if (strcmp(text, "bhnd") == 0) {
        *order = ORDER_BHND;
    } else {
        snprintf(allowed, allowed_size, "is not bnhd (batch, n, heads, head dim) or bhnd (batch, heads, n, head dim)");
        return false;
    }
    return true;
}

/* The library's view of a file's tensor: batch, n, heads, head_dim. */
static da_tensor view_file(const da_tensor_file *file, axis_order order) {
    da_tensor view = {.data = (void *)(uintptr_t)file->data, /* only read: an input */
                      .dtype = da_file_type_dtype(file->type),
                      .shape = {1, 1, 1, 1}};
    int first = 4 - file->rank; /* 1: the batch axis is missing */
    for (int axis = first; axis < 4; axis++) {
        int to = order == ORDER_BNHD || axis == 0 || axis == 3 ? axis : 3 - axis;
        view.shape[to] = file->shape[axis - first];
        view.stride[to] = file->stride[axis - first];
    }
    return view;
}

int loaded_open(loaded_tensor *loaded, const char *command, const char *option, const char *path, axis_order order) {
    *loaded = (loaded_tensor){.option = option, .path = path};
    if (da_tensor_file_open(path, &loaded->file) != DA_OK) {
        return cli_fail(command, "%s: %s", option, da_last_error_message());
    }
    const da_tensor_file *file = &loaded->file;
    if (da_file_type_dtype(file->type) == DA_DTYPE_ANY) {
        return cli_fail(command, "%s: %s: holds %s; allowed: f32, f64, bf16, f16", option, path,
                        da_file_type_name(file->type));
    }
    if (file->rank != 3 && file->rank != 4) {
        return cli_fail(command, "%s: %s: has %d axes; allowed: 4 (%s), or 3 for a batch of 1", option, path,
                        file->rank, order == ORDER_BNHD ? "batch, n, heads, head dim" : "batch, heads, n, head dim");
    }
    loaded->rank = file->rank;
    loaded->view = view_file(file, order);
    for (int axis = 0; axis < 4; axis++) {
        if (loaded->view.shape[axis] == 0) {
            return cli_fail(command, "%s: %s: has an axis of 0; every axis must be at least 1", option, path);
        }
    }
    return CLI_CONTINUE;
}

/* ------------------------------------------------------------------------------------------------------------------ */

typedef struct conversion {
    const da_tensor *from, *to;
} conversion;

/* One token: all its heads. */
static void convert_token(int64_t index, int thread, void *user) {
    const conversion *job = user;
    const da_tensor *from = job->from, *to = job->to;
    int64_t batch = index / from->shape[1], i = index % from->shape[1];
    int64_t from_step = from->stride[3] * (int64_t)da_dtype_size(from->dtype);
    int64_t to_step = (int64_t)da_dtype_size(to->dtype);
    for (int64_t head = 0; head < from->shape[2]; head++) {
        const char *source = da_tensor_row(from, batch, i, head);
        char *target = da_tensor_row(to, batch, i, head);
        for (int64_t c = 0; c < from->shape[3]; c++) {
            da_dtype_store(to->dtype, target + c * to_step, da_dtype_load(from->dtype, source + c * from_step));
        }
    }
}

int loaded_convert(loaded_tensor *loaded, const char *command, da_dtype dtype, int threads) {
    da_tensor from = loaded->view;
    if (from.dtype == dtype) {
        return CLI_CONTINUE;
    }
    size_t elements = (size_t)(from.shape[0] * from.shape[1] * from.shape[2] * from.shape[3]);
    loaded->converted = da_allocate(NULL, elements, da_dtype_size(dtype));
    if (loaded->converted == NULL) {
        return cli_fail(command, "%s: %s: converting to %s: %s", loaded->option, loaded->path, da_dtype_name(dtype),
                        da_last_error_message());
    }
    loaded->converted_bytes = elements * da_dtype_size(dtype);
    loaded->view = da_tensor_make(loaded->converted, dtype, from.shape[0], from.shape[1], from.shape[2], from.shape[3]);
    conversion job = {&from, &loaded->view};
    da_parallel_for(threads, from.shape[0] * from.shape[1], convert_token, &job);
    da_mapping_let_go(&loaded->file.mapping, loaded->file.mapping.base, loaded->file.mapping.bytes);
    return CLI_CONTINUE;
}

void loaded_close(loaded_tensor *loaded) {
    da_release(NULL, loaded->converted);
    da_tensor_file_close(&loaded->file);
    *loaded = (loaded_tensor){0};
}

/* ------------------------------------------------------------------------------------------------------------------ */

int mask_open(loaded_mask *mask, const char *command, const char *path, int64_t batch, int64_t n) {
    *mask = (loaded_mask){0};
    if (da_tensor_file_open(path, &mask->file) != DA_OK) {
        return cli_fail(command, "--key-mask: %s", da_last_error_message());
    }
    const da_tensor_file *file = &mask->file;
    if (file->type != DA_FILE_BOOL && file->type != DA_FILE_U8) {
        return cli_fail(command, "--key-mask: %s: holds %s; allowed: bool, u8 (true: the key is padded)", path,
                        da_file_type_name(file->type));
    }
    bool fits = file->rank == 2 ? file->shape[0] == batch && file->shape[1] == n
                                : file->rank == 1 && batch == 1 && file->shape[0] == n;
    if (!fits) {
        return cli_fail(command,
                        "--key-mask: %s: must have the shape (batch, n) of the query, (%" PRId64 ", %" PRId64 ")", path,
                        batch, n);
    }
    mask->stride[0] = file->rank == 2 ? file->stride[0] : n;
    mask->stride[1] = file->stride[file->rank - 1];
    return CLI_CONTINUE;
}

void mask_close(loaded_mask *mask) {
    da_tensor_file_close(&mask->file);
    *mask = (loaded_mask){0};
}
