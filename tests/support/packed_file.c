#include "support/packed_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void stop(const char *path, const char *what) {
    fprintf(stderr, "%s: %s\n", path, what);
    exit(1);
}

packed_file packed_file_open(const char *variable, const char *default_path, const char magic[8]) {
    const char *path = getenv(variable);
    path = path && path[0] ? path : default_path;
    FILE *stream = fopen(path, "rb");
    if (!stream || fseek(stream, 0, SEEK_END) != 0) {
        stop(path, "cannot be read");
    }
    long size = ftell(stream);
    rewind(stream);
    packed_file file = {.memory = malloc((size_t)size)};
    if (!file.memory || fread(file.memory, 1, (size_t)size, stream) != (size_t)size || size < 16 ||
        memcmp(file.memory, magic, 8) != 0) {
        stop(path, "is no file of cases");
    }
    fclose(stream);
    memcpy(&file.left, file.memory + 8, 8);
    file.next = file.memory + 16;
    return file;
}

void packed_file_close(packed_file *file) {
    free(file->memory);
    *file = (packed_file){0};
}

bool packed_file_begin_case(packed_file *file) {
    return file->left-- > 0;
}

int64_t packed_file_integer(packed_file *file) {
    int64_t value;
    memcpy(&value, file->next, sizeof value);
    file->next += sizeof value;
    return value;
}

const char *packed_file_text(packed_file *file, int64_t bytes) {
    const char *text = (const char *)file->next;
    file->next += bytes;
    return text;
}

case_array packed_file_array(packed_file *file) {
    case_array array = {.count = packed_file_integer(file)};
    array.values = (const double *)(const void *)file->next; /* every part is a multiple of 8 bytes long */
    file->next += 8 * array.count;
    return array;
}
