/* The log of a training: a line of JSON per step, written by `train`, read by what draws it. */
#ifndef DA_CLI_TRAIN_LOG_H
#define DA_CLI_TRAIN_LOG_H

#include <stdio.h>

#include "dilated_attention.h"

typedef struct train_log_point {
    int64_t step, tokens;     /* done so far, with this step */
    double loss;              /* of the step, in nats a token */
    double tokens_per_second; /* of the step */
    double validation;        /* bits a byte; NAN: this step has none */
} train_log_point;

typedef struct train_log {
    size_t count;
    train_log_point *points; /* at least one; steps ascend */
} train_log;

/* Writes a line and flushes it; ferror(file) tells of errors. */
void train_log_write(FILE *file, const train_log_point *point);

/* Reads a log. A step that comes again, as after --resume, takes the place of all lines from its first time on. Errors:
 * DA_ERROR_IO, DA_ERROR_FORMAT (the message has the line's number), DA_ERROR_OUT_OF_MEMORY; *out is empty then. */
da_status train_log_read(const char *path, train_log *out);
void train_log_free(train_log *log);

#endif
