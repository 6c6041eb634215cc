#include "train_log.h"

#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "core/memory.h"

void train_log_write(FILE *file, const train_log_point *point) {
    fprintf(file, "{\"step\": %" PRId64 ", \"tokens\": %" PRId64 ", \"loss\": %.9g, \"tokens_per_second\": %.6g",
            point->step, point->tokens, point->loss, point->tokens_per_second);
    if (!isnan(point->validation)) {
        fprintf(file, ", \"validation_bits_per_byte\": %.9g", point->validation);
    }
    fputs("}\n", file);
    fflush(file);
}

/* NULL, or what is wrong with a line. */
static const char *read_line(const char *line, train_log_point *point) {
    json_t *object = json_loads(line, 0, NULL);
    json_int_t step, tokens;
    const char *problem = NULL;
    point->validation = NAN;
    if (!object) {
        problem = "no JSON, or cut off";
    } else if (json_unpack(object, "{s:I, s:I, s:F, s:F, s?F}", "step", &step, "tokens", &tokens, "loss", &point->loss,
                           "tokens_per_second", &point->tokens_per_second, "validation_bits_per_byte",
                           &point->validation) != 0) {
        problem = "no object with the numbers step, tokens, loss and tokens_per_second";
    } else if (step < 1 || tokens < 1) {
        problem = "step or tokens is below 1";
    } else {
        point->step = step;
        point->tokens = tokens;
    }
    json_decref(object);
    return problem;
}

/* Appends a point in its place; false: memory is short. */
static bool keep(train_log *log, size_t *capacity, const train_log_point *point) {
    while (log->count > 0 && log->points[log->count - 1].step >= point->step) {
        log->count--;
    }
    if (log->count == *capacity) {
        size_t more = *capacity == 0 ? 256 : 2 * *capacity;
        train_log_point *points = realloc(log->points, more * sizeof *points);
        if (!points) {
            return false;
        }
        log->points = points;
        *capacity = more;
    }
    log->points[log->count++] = *point;
    return true;
}

static da_status read_lines(const char *path, FILE *file, train_log *out) {
    char *line = NULL;
    size_t line_size = 0, capacity = 0;
    da_status status = DA_OK;
    for (int64_t number = 1; status == DA_OK && getline(&line, &line_size, file) >= 0; number++) {
        train_log_point point;
        const char *problem = read_line(line, &point);
        if (problem) {
            status = da_report(DA_ERROR_FORMAT, "%s: line %" PRId64 " is no line of a training's log: %s", path, number,
                               problem);
        } else if (!keep(out, &capacity, &point)) {
            status = da_report(DA_ERROR_OUT_OF_MEMORY, "%s: no memory for the log", path);
        }
    }
    if (status == DA_OK && ferror(file)) {
        status = da_report(DA_ERROR_IO, "%s: %s", path, strerror(errno));
    }
    if (status == DA_OK && out->count == 0) {
        status = da_report(DA_ERROR_FORMAT, "%s: empty; allowed: at least one line of a training's log", path);
    }
    free(line);
    return status;
}

da_status train_log_read(const char *path, train_log *out) {
    *out = (train_log){0};
    FILE *file = fopen(path, "r");
    if (!file) {
        return da_report(DA_ERROR_IO, "%s: %s", path, strerror(errno));
    }
    da_status status = read_lines(path, file, out);
    fclose(file);
    if (status != DA_OK) {
        train_log_free(out);
    }
    return status;
}

void train_log_free(train_log *log) {
    free(log->points);
    *log = (train_log){0};
}
