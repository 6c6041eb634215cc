#include "support/case_file.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static _Noreturn void give_up(const char *path, const char *why) {
    fprintf(stderr, "%s: %s\n", path, why);
    exit(EXIT_FAILURE);
}

static unsigned char *read_whole(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END) != 0) {
        give_up(path, "cannot be opened");
    }
    long size = ftell(file);
    rewind(file);
    unsigned char *memory = size > 0 ? malloc((size_t)size) : NULL;
    if (!memory || fread(memory, 1, (size_t)size, file) != (size_t)size) {
        give_up(path, "cannot be read");
    }
    fclose(file);
    *bytes = (size_t)size;
    return memory;
}

const void *case_file_take(const unsigned char **at, int64_t bytes) {
    const void *part = *at;
    *at += (bytes + 7) / 8 * 8;
    return part;
}

static int64_t take_integer(const unsigned char **at) {
    int64_t value;
    memcpy(&value, case_file_take(at, 8), 8);
    return value;
}

static void read_options(const unsigned char **at, test_case *out, int64_t *patterns, bool *lengths, bool *mask) {
    da_attention_config *config = &out->config;
    da_attention_config_init(config);
    *patterns = take_integer(at);
    config->causal = take_integer(at) != 0;
    config->window = take_integer(at);
    config->mixing = (da_mixing)take_integer(at);
    config->offset_rule = (da_offset_rule)take_integer(at);
    config->tail_rule = (da_tail_rule)take_integer(at);
    config->overlap = (da_overlap)take_integer(at);
    config->scale_is_set = take_integer(at) != 0;
    *lengths = take_integer(at) != 0;
    *mask = take_integer(at) != 0;
    out->shared_kv = take_integer(at) != 0;
    out->tile_block = take_integer(at);
    out->tile_batch = take_integer(at);
    out->tile_heads = take_integer(at);
    out->row_count = take_integer(at);
    memcpy(&config->scale, case_file_take(at, 8), 8);
    out->name = case_file_take(at, 40);
}

static void read_case(const unsigned char *at, test_case *out) {
    int64_t patterns;
    bool has_lengths, has_mask;
    out->dtype = (da_dtype)take_integer(&at);
    out->batch = take_integer(&at);
    out->n = take_integer(&at);
    out->heads = take_integer(&at);
    out->kv_heads = take_integer(&at);
    out->head_dim = take_integer(&at);
    read_options(&at, out, &patterns, &has_lengths, &has_mask);
    const int64_t *segments = case_file_take(&at, 8 * patterns);
    const int64_t *rates = case_file_take(&at, 8 * patterns);
    if (da_attention_config_set_patterns(&out->config, segments, (size_t)patterns, rates, (size_t)patterns) != DA_OK) {
        give_up(out->name, da_last_error_message());
    }
    out->key_lengths = has_lengths ? case_file_take(&at, 8 * out->batch) : NULL;
    out->key_mask = has_mask ? case_file_take(&at, out->batch * out->n) : NULL;
    if (out->tile_block > 0) {
        int64_t blocks = (out->n - 1) / out->tile_block + 1;
        out->kept = case_file_take(&at, out->tile_batch * out->tile_heads * blocks * blocks);
    }
    int64_t element = (int64_t)da_dtype_size(out->dtype);
    int64_t row = out->batch * out->n * out->head_dim * element;
    out->query = case_file_take(&at, row * out->heads);
    out->key = case_file_take(&at, row * out->kv_heads);
    out->value = case_file_take(&at, row * out->kv_heads);
    out->rows = at;
}

case_file case_file_open_as(const char *variable, const char *otherwise) {
    const char *path = getenv(variable);
    if (!path || !*path) {
        path = otherwise;
    }
    case_file file = {0};
    size_t bytes;
    file.memory = read_whole(path, &bytes);
    if (bytes < 16 || memcmp(file.memory, "DACASES2", 8) != 0) {
        give_up(path, "is not a file of cases");
    }
    memcpy(&file.count, file.memory + 8, 8);
    file.cases = calloc((size_t)file.count, sizeof *file.cases);
    if (!file.cases) {
        give_up(path, "not enough memory");
    }
    size_t at = 16;
    for (int64_t c = 0; c < file.count; c++) {
        int64_t record;
        if (at + 8 > bytes || (memcpy(&record, file.memory + at, 8), record < 8) || (size_t)record > bytes - at) {
            give_up(path, "is truncated");
        }
        read_case(file.memory + at + 8, &file.cases[c]);
        at += (size_t)record;
    }
    return file;
}

void case_file_close(case_file *file) {
    free(file->cases);
    free(file->memory);
}

case_file case_file_open(void) {
    return case_file_open_as("DA_CASES_FILE", DA_DEFAULT_CASES_FILE);
}

const case_row *case_file_row(const test_case *one, int64_t index) {
    size_t bytes = sizeof(case_row) + (size_t)one->head_dim * sizeof(double);
    return (const case_row *)(const void *)(one->rows + (size_t)index * bytes);
}
