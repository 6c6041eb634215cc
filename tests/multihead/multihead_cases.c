#include "multihead/multihead_cases.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void stop(const char *path, const char *what) {
    fprintf(stderr, "%s: %s\n", path, what);
    exit(1);
}

multihead_case_file multihead_case_file_open(void) {
    const char *path = getenv("DA_MULTIHEAD_CASES_FILE");
    path = path && path[0] ? path : DA_DEFAULT_MULTIHEAD_CASES_FILE;
    FILE *stream = fopen(path, "rb");
    if (!stream || fseek(stream, 0, SEEK_END) != 0) {
        stop(path, "cannot be read");
    }
    long size = ftell(stream);
    rewind(stream);
    multihead_case_file file = {.memory = malloc((size_t)size)};
    if (!file.memory || fread(file.memory, 1, (size_t)size, stream) != (size_t)size || size < 16 ||
        memcmp(file.memory, "DAMULTI1", 8) != 0) {
        stop(path, "is no file of cases");
    }
    fclose(stream);
    memcpy(&file.left, file.memory + 8, 8);
    file.next = file.memory + 16;
    return file;
}

void multihead_case_file_close(multihead_case_file *file) {
    free(file->memory);
    *file = (multihead_case_file){0};
}

static int64_t take_integer(multihead_case_file *file) {
    int64_t value;
    memcpy(&value, file->next, sizeof value);
    file->next += sizeof value;
    return value;
}

static const char *take_name(multihead_case_file *file) {
    const char *name = (const char *)file->next;
    file->next += 32;
    return name;
}

static case_array take_array(multihead_case_file *file) {
    case_array array = {.count = take_integer(file)};
    array.values = (const double *)(const void *)file->next; /* every part is a multiple of 8 bytes long */
    file->next += 8 * array.count;
    return array;
}

/* In the order of encode() in generate_multihead_cases.py. */
static void take_words(multihead_case_file *file, multihead_case *out) {
    da_multihead_config *config = &out->config;
    da_attention_config *attention = &out->attention;
    da_multihead_config_init(config);
    da_attention_config_init(attention);
    (void)take_integer(file);
    config->dtype = (da_dtype)take_integer(file);
    out->batch = take_integer(file);
    out->n = take_integer(file);
    config->embed_dim = take_integer(file);
    config->num_heads = take_integer(file);
    config->kv_heads = take_integer(file);
    config->bias = take_integer(file) != 0;
    config->layer_norm = take_integer(file) != 0;
    config->qk_layer_norm = take_integer(file) != 0;
    config->position = (da_position)take_integer(file);
    config->rotary_layout = (da_rotary_layout)take_integer(file);
    attention->causal = take_integer(file) != 0;
    attention->window = take_integer(file);
    attention->mixing = (da_mixing)take_integer(file);
    attention->offset_rule = (da_offset_rule)take_integer(file);
    attention->tail_rule = (da_tail_rule)take_integer(file);
    attention->overlap = (da_overlap)take_integer(file);
    attention->scale_is_set = take_integer(file) != 0;
    out->seed = (uint64_t)take_integer(file);
    for (int k = 0; k < 3; k++) {
        out->input_of[k] = (int)take_integer(file);
    }
    attention->segment_count = attention->rate_count = (size_t)take_integer(file);
    for (size_t p = 0; p < attention->segment_count; p++) {
        attention->segment_lengths[p] = take_integer(file);
    }
    for (size_t p = 0; p < attention->rate_count; p++) {
        attention->dilation_rates[p] = take_integer(file);
    }
}

bool multihead_case_next(multihead_case_file *file, multihead_case *out) {
    if (file->left-- <= 0) {
        return false;
    }
    *out = (multihead_case){.name = take_name(file)};
    take_words(file, out);
    case_array numbers = take_array(file);
    out->config.layer_norm_eps = numbers.values[0];
    out->config.rope_base = numbers.values[1];
    out->config.xpos_scale_base = numbers.values[2];
    out->attention.scale = numbers.values[3];
    out->attention.dropout = numbers.values[4];
    out->key_lengths = take_array(file);
    out->key_mask = take_array(file);
    for (int k = 0; k < 3; k++) {
        out->inputs[k] = take_array(file);
    }
    out->out = take_array(file);
    out->bound = take_array(file);
    out->grad_out = take_array(file);
    for (int k = 0; k < 3; k++) {
        out->grad_inputs[k] = take_array(file);
    }
    out->input_tolerances = take_array(file);
    out->parameter_count = take_integer(file);
    for (int64_t k = 0; k < out->parameter_count; k++) {
        out->parameters[k].name = take_name(file);
        out->parameters[k].values = take_array(file);
        out->parameters[k].gradient = take_array(file);
        out->parameters[k].tolerance = take_array(file);
    }
    return true;
}
