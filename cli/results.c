#include "results.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/memory.h"

bool file_of_tensor(const char *path, char file[PATH_MAX]) {
    static const char ending[] = ".safetensors:";
    const char *name = strstr(path, ending);
    size_t length = name != NULL ? (size_t)(name - path) + sizeof(ending) - 2 : strlen(path);
    if (length >= PATH_MAX) {
        return false;
    }
    memcpy(file, path, length);
    file[length] = '\0';
    return true;
}

/* The path that a file to be made will have, links in its folders resolved. False: there is no such folder. */
static bool future_path(const char *path, char resolved[2 * PATH_MAX]) {
    char folder[PATH_MAX], real[PATH_MAX];
    snprintf(folder, sizeof(folder), "%s", path);
    char *slash = strrchr(folder, '/');
    const char *base = slash != NULL ? path + (slash - folder) + 1 : path;
    if (slash != NULL) {
        slash[slash == folder ? 1 : 0] = '\0';
    }
    if (realpath(slash != NULL ? folder : ".", real) == NULL) {
        return false;
    }
    snprintf(resolved, 2 * PATH_MAX, "%s/%s", real, base);
    return true;
}

bool same_file(const char *a, const char *b) {
    char file_a[PATH_MAX], file_b[PATH_MAX], future_a[2 * PATH_MAX], future_b[2 * PATH_MAX];
    if (!file_of_tensor(a, file_a) || !file_of_tensor(b, file_b)) {
        return false;
    }
    struct stat stat_a, stat_b;
    bool exists_a = stat(file_a, &stat_a) == 0, exists_b = stat(file_b, &stat_b) == 0;
    if (exists_a && exists_b) {
        return stat_a.st_dev == stat_b.st_dev && stat_a.st_ino == stat_b.st_ino;
    }
    return !exists_a && !exists_b && future_path(file_a, future_a) && future_path(file_b, future_b) &&
           strcmp(future_a, future_b) == 0;
}

static int open_one(results *written, const char *command, const char *option, const char *path, da_file_type type,
                    int rank, const int64_t *shape) {
    size_t index = written->count;
    da_tensor_writer *writer = &written->writers[index];
    da_status status =
        written->kind == RESULTS_TEMPORARY
            ? da_tensor_writer_open(path, type, rank, shape, writer)
            : da_tensor_writer_open_partial(path, type, rank, shape, written->kind == RESULTS_RESUMED, writer);
    if (status != DA_OK) {
        char message[1024];
        snprintf(message, sizeof(message), "%s", da_last_error_message());
        written->kind == RESULTS_RESUMED ? results_keep(written) : results_abandon(written);
        return status == DA_ERROR_INVALID_ARGUMENT ? cli_usage(command, "%s: %s", option, message)
                                                   : cli_fail(command, "%s: %s", option, message);
    }
    written->options[index] = option;
    written->paths[index] = path;
    written->count++;
    return CLI_CONTINUE;
}

static da_file_type type_of(da_dtype dtype) {
    switch (dtype) {
    case DA_F64: return DA_FILE_F64;
    case DA_BF16: return DA_FILE_BF16;
    case DA_F16: return DA_FILE_F16;
    case DA_F32:
    case DA_DTYPE_ANY: break;
    }
    return DA_FILE_F32;
}

static da_dtype lse_type(da_dtype dtype) {
    return dtype == DA_F64 ? DA_F64 : DA_F32;
}

static da_tensor view_result(void *data, da_dtype dtype, const int64_t *shape, int64_t head_dim, axis_order order) {
    return order == ORDER_BNHD ? da_tensor_make(data, dtype, shape[0], shape[1], shape[2], head_dim)
                               : da_tensor_make_heads_first(data, dtype, shape[0], shape[2], shape[1], head_dim);
}

/* Views of the writers' memory. */
static void view_results(results *written, const loaded_tensor *query, bool has_lse, axis_order order) {
    da_dtype dtype = query->view.dtype, lse_dtype = lse_type(dtype);
    written->out = view_result(written->writers[0].data, dtype, query->shape, query->shape[3], order);
    written->has_lse = has_lse;
    if (has_lse) {
        written->lse = view_result(written->writers[1].data, lse_dtype, query->shape, 1, order);
    }
}

int results_open(results *written, const char *command, const char *out_path, const char *lse_path,
                 const loaded_tensor *query, axis_order order, results_kind kind) {
    *written = (results){.kind = kind};
    const int64_t *shape = query->shape;
    const int64_t in_file[4] = {shape[0], order == ORDER_BNHD ? shape[1] : shape[2],
                                order == ORDER_BNHD ? shape[2] : shape[1], shape[3]};
    const int64_t *first = in_file + (4 - query->rank);
    da_dtype dtype = query->view.dtype;
    int code = open_one(written, command, "--out", out_path, type_of(dtype), query->rank, first);
    if (code == CLI_CONTINUE && lse_path != NULL) {
        code = open_one(written, command, "--lse", lse_path, type_of(lse_type(dtype)), query->rank - 1, first);
    }
    if (code == CLI_CONTINUE) {
        view_results(written, query, lse_path != NULL, order);
    }
    return code;
}

/* Removes a file that was already given its name. */
static void take_back(const char *path) {
    char file[PATH_MAX];
    if (file_of_tensor(path, file)) {
        unlink(file);
    }
}

int results_commit(results *written, const char *command) {
    for (size_t i = 0; i < written->count; i++) {
        if (da_tensor_writer_commit(&written->writers[i]) != DA_OK) {
            int code = cli_fail(command, "%s: %s", written->options[i], da_last_error_message());
            for (size_t j = 0; j < i; j++) {
                take_back(written->paths[j]);
            }
            written->kind == RESULTS_TEMPORARY ? results_abandon(written) : results_keep(written);
            return code;
        }
    }
    return CLI_CONTINUE;
}

static void release_own(results *written) {
    for (size_t i = 0; i < RESULTS_MAX; i++) {
        da_release(NULL, written->own[i]);
        written->own[i] = NULL;
    }
}

void results_abandon(results *written) {
    release_own(written);
    for (size_t i = 0; i < RESULTS_MAX; i++) {
        da_tensor_writer_abandon(&written->writers[i]);
    }
}

void results_keep(results *written) {
    for (size_t i = 0; i < RESULTS_MAX; i++) {
        da_tensor_writer_keep(&written->writers[i]);
    }
}

/* ---- several processes ------------------------------------------------------------------------------------------- */

int results_places(const results *written, const char *command, da_tensor_place places[RESULTS_MAX]) {
    for (size_t i = 0; i < written->count; i++) {
        if (da_tensor_writer_place(&written->writers[i], &places[i]) != DA_OK) {
            return cli_fail(command, "%s: %s", written->options[i], da_last_error_message());
        }
    }
    return CLI_CONTINUE;
}

int results_join(results *written, const char *command, const da_tensor_place places[RESULTS_MAX], bool has_lse,
                 const loaded_tensor *query, axis_order order) {
    static const char *const options[RESULTS_MAX] = {"--out", "--lse"};
    *written = (results){0};
    for (size_t i = 0; i < (has_lse ? 2 : 1); i++) {
        if (da_tensor_writer_join(&places[i], &written->writers[i]) != DA_OK) {
            return cli_fail(command, "%s: %s", options[i], da_last_error_message());
        }
        written->options[i] = options[i];
        written->count++;
    }
    view_results(written, query, has_lse, order);
    return CLI_CONTINUE;
}

int results_take(results *written, const char *command, const da_part *part) {
    da_tensor *views[RESULTS_MAX] = {&written->out, &written->lse};
    for (size_t i = 0; i < written->count; i++) {
        da_tensor *view = views[i];
        written->whole[i] = *view;
        *view = view_stretch(view, part);
        if (part->piece_count > 1) {
            const int64_t *shape = view->shape;
            written->own[i] =
                da_allocate(NULL, (size_t)(shape[0] * shape[1] * shape[2] * shape[3]), da_dtype_size(view->dtype));
            if (written->own[i] == NULL) {
                return cli_fail(command, "%s: the rows of this rank: %s", written->options[i], da_last_error_message());
            }
            *view = da_tensor_make(written->own[i], view->dtype, shape[0], shape[1], shape[2], shape[3]);
        }
    }
    return CLI_CONTINUE;
}

int results_place_rows(results *written, const char *command, const da_part *part, int threads) {
    const da_tensor *views[RESULTS_MAX] = {&written->out, &written->lse};
    for (size_t i = 0; i < written->count; i++) {
        if (written->own[i] != NULL) {
            copy_part(&written->whole[i], views[i], part, true, threads);
        }
        if (da_tensor_writer_flush(&written->writers[i]) != DA_OK) {
            return cli_fail(command, "%s: %s", written->options[i], da_last_error_message());
        }
    }
    release_own(written);
    return CLI_CONTINUE;
}

void results_leave(results *written) {
    release_own(written);
    for (size_t i = 0; i < RESULTS_MAX; i++) {
        da_tensor_writer_leave(&written->writers[i]);
    }
}
