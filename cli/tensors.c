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
        loaded->shape[axis] = loaded->view.shape[axis];
    }
    return CLI_CONTINUE;
}

/* ------------------------------------------------------------------------------------------------------------------ */

da_tensor view_stretch(const da_tensor *whole, const da_part *part) {
    da_tensor view = *whole;
    view.shape[1] = part->length;
    if (part->length > 0) {
        view.data = da_tensor_row(whole, 0, part->pieces[0].first, 0);
    }
    return view;
}

typedef struct part_copy {
    const da_tensor *whole, *of_part;
    const da_part *part;
    bool back;
} part_copy;

/* One row: all its heads. */
static void copy_row(int64_t index, int thread, void *user) {
    const part_copy *job = user;
    const da_tensor *whole = job->whole, *of_part = job->of_part;
    int64_t batch = index / of_part->shape[1], row = index % of_part->shape[1];
    int64_t position = da_part_position(job->part, row);
    size_t size = da_dtype_size(whole->dtype), bytes = (size_t)whole->shape[3] * size;
    for (int64_t head = 0; head < whole->shape[2]; head++) {
        char *in_whole = da_tensor_row(whole, batch, position, head),
             *in_part = da_tensor_row(of_part, batch, row, head);
        if (whole->stride[3] == 1) {
            memcpy(job->back ? in_whole : in_part, job->back ? in_part : in_whole, bytes);
            continue;
        }
        for (int64_t c = 0; c < whole->shape[3]; c++) {
            char *element = in_whole + c * whole->stride[3] * (int64_t)size, *other = in_part + c * (int64_t)size;
            memcpy(job->back ? element : other, job->back ? other : element, size);
        }
    }
}

void copy_part(const da_tensor *whole, const da_tensor *of_part, const da_part *part, bool back, int threads) {
    part_copy job = {whole, of_part, part, back};
    da_parallel_for(threads, whole->shape[0] * part->length, copy_row, &job);
}

/* A dense copy's memory, in place of any that there was; false after a message. */
static bool make_copy(loaded_tensor *loaded, const char *command, const da_tensor *like, da_dtype dtype,
                      const char *why, da_tensor *out) {
    size_t elements = (size_t)(like->shape[0] * like->shape[1] * like->shape[2] * like->shape[3]);
    void *copy = da_allocate(NULL, elements, da_dtype_size(dtype));
    if (copy == NULL) {
        cli_fail(command, "%s: %s: %s: %s", loaded->option, loaded->path, why, da_last_error_message());
        return false;
    }
    *out = da_tensor_make(copy, dtype, like->shape[0], like->shape[1], like->shape[2], like->shape[3]);
    return true;
}

static void keep_copy(loaded_tensor *loaded, const da_tensor *copy) {
    da_release(NULL, loaded->converted);
    loaded->view = *copy;
    loaded->converted = copy->data;
    loaded->converted_bytes =
        (size_t)(copy->shape[0] * copy->shape[1] * copy->shape[2] * copy->shape[3]) * da_dtype_size(copy->dtype);
}

int loaded_take(loaded_tensor *loaded, const char *command, const da_part *part, int threads) {
    da_tensor whole = loaded->view, taken;
    loaded->view = view_stretch(&whole, part);
    if (part->piece_count <= 1) {
        return CLI_CONTINUE;
    }
    if (!make_copy(loaded, command, &loaded->view, whole.dtype, "the rows of this rank", &taken)) {
        return CLI_FAILED;
    }
    copy_part(&whole, &taken, part, false, threads);
    keep_copy(loaded, &taken);
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
    da_tensor from = loaded->view, to;
    char why[64];
    if (from.dtype == dtype) {
        return CLI_CONTINUE;
    }
    snprintf(why, sizeof(why), "converting to %s", da_dtype_name(dtype));
    if (!make_copy(loaded, command, &from, dtype, why, &to)) {
        return CLI_FAILED;
    }
    conversion job = {&from, &to};
    da_parallel_for(threads, from.shape[0] * from.shape[1], convert_token, &job);
    keep_copy(loaded, &to);
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
    mask->data = file->data;
    return CLI_CONTINUE;
}

int mask_take(loaded_mask *mask, const char *command, const da_part *part, int64_t batch) {
    size_t rows = (size_t)part->length;
    mask->copy =
        da_allocate(NULL, (size_t)batch, rows + 1); /* a rank may hold nothing, but has a mask like all others */
    if (mask->copy == NULL) {
        return cli_fail(command, "--key-mask: the rows of this rank: %s", da_last_error_message());
    }
    for (int64_t b = 0; b < batch; b++) {
        for (int64_t row = 0; row < part->length; row++) {
            int64_t offset = b * mask->stride[0] + da_part_position(part, row) * mask->stride[1];
            mask->copy[b * part->length + row] = mask->data[offset];
        }
    }
    mask->data = mask->copy;
    mask->stride[0] = part->length;
    mask->stride[1] = 1;
    return CLI_CONTINUE;
}

void mask_close(loaded_mask *mask) {
    da_release(NULL, mask->copy);
    da_tensor_file_close(&mask->file);
    *mask = (loaded_mask){0};
}
