/* Profiles in a text file:
 *
 *     dilated-attention sparse profile 1
 *     block_size 128
 *     quality_target 0.95
 *     heads 12
 *     head 0 local_window 0.125           number, pattern, ratio
 *     ...
 *     checksum 0123456789abcdef           of all bytes before this line
 *
 * Every line must be exactly what this version would write for what it reads there: there is no second spelling. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "attention/block_sparse/profile.h"
#include "core/checked_text.h"

#define FIRST_LINE "dilated-attention sparse profile 1"
#define LINE_SIZE 128
#define MAX_FILE_BYTES ((size_t)LINE_SIZE * (DA_MAX_PROFILE_HEADS + 8))

static void write_number(char line[LINE_SIZE], const char *name, double value) {
    snprintf(line, LINE_SIZE, "%s %.17g", name, value);
}

static void write_head(char line[LINE_SIZE], int64_t head, const da_sparse_rule *rule) {
    snprintf(line, LINE_SIZE, "head %" PRId64 " %s %.17g", head, da_sparse_pattern_name(rule->pattern), rule->ratio);
}

static da_status check_path(const void *object, const char *name, const char *path) {
    if (!object || !path || path[0] == '\0') {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is %s; allowed: %s", object ? "path" : name,
                         object && path ? "empty" : "NULL",
                         object ? "the name of a file" : "what da_sparse_profile_create made, or a place for one");
    }
    return DA_OK;
}

da_status da_sparse_profile_save(const da_sparse_profile *profile, const char *path) {
    char line[LINE_SIZE];
    da_status status = check_path(profile, "profile", path);
    if (status != DA_OK) {
        return status;
    }
    da_text text = {.allocator = &profile->allocator};
    da_text_append(&text, "%s\n", FIRST_LINE);
    write_number(line, "block_size", (double)profile->block_size);
    da_text_append(&text, "%s\n", line);
    write_number(line, "quality_target", profile->quality_target);
    da_text_append(&text, "%s\n", line);
    write_number(line, "heads", (double)profile->heads);
    da_text_append(&text, "%s\n", line);
    for (int64_t head = 0; head < profile->heads; head++) {
        write_head(line, head, &profile->rules[head]);
        da_text_append(&text, "%s\n", line);
    }
    status = da_checked_text_save(path, &text);
    da_text_free(&text);
    return status;
}

/* A line of a name and a number between two limits. */
static da_status read_number(da_checked_text *file, const char *name, double least, double most, double *value) {
    char format[LINE_SIZE], again[LINE_SIZE];
    const char *line = da_checked_text_line(file);
    snprintf(format, sizeof format, "%s %%30lf", name);
    if (!line || sscanf(line, format, value) != 1) {
        return da_checked_text_damaged(file, "another line was expected");
    }
    if (!(*value >= least && *value <= most)) {
        return da_checked_text_damaged(file, "a number is out of range");
    }
    write_number(again, name, *value);
    return strcmp(line, again) == 0 ? DA_OK : da_checked_text_damaged(file, "a number is not written as it should be");
}

static da_status read_head(da_checked_text *file, int64_t head, da_sparse_rule *rule) {
    char name[32], again[LINE_SIZE];
    const char *line = da_checked_text_line(file);
    if (!line || sscanf(line, "head %*18d %31s %30lf", name, &rule->ratio) != 2) {
        return da_checked_text_damaged(file, "it is no head");
    }
    if (da_sparse_pattern_from_name(name, &rule->pattern) != DA_OK || rule->pattern == DA_SPARSE_MASK ||
        rule->pattern == DA_SPARSE_PROFILE || !(rule->ratio > 0 && rule->ratio <= 1)) {
        return da_checked_text_damaged(file, "its pattern or ratio is out of range");
    }
    write_head(again, head, rule);
    return strcmp(line, again) == 0 ? DA_OK : da_checked_text_damaged(file, "it is not written as it should be");
}

static da_status read_profile(da_checked_text *file, const da_allocator *allocator, da_sparse_profile **out) {
    double block_size = 0, target = 0, heads = 0;
    const char *line = da_checked_text_line(file);
    if (!line || strcmp(line, FIRST_LINE) != 0) {
        return da_checked_text_damaged(file, "it is not \"" FIRST_LINE "\"");
    }
    da_status status = read_number(file, "block_size", DA_MIN_TILE_BLOCK, DA_MAX_TILE_BLOCK, &block_size);
    if (status == DA_OK) {
        status = read_number(file, "quality_target", 0, 1, &target);
    }
    if (status == DA_OK) {
        status = read_number(file, "heads", 1, DA_MAX_PROFILE_HEADS, &heads);
    }
    if (status == DA_OK && heads != (double)(int64_t)heads) {
        status = da_checked_text_damaged(file, "a number is out of range");
    }
    if (status == DA_OK) {
        status = da_sparse_profile_allocate(allocator, (int64_t)heads, out);
    }
    if (status != DA_OK) {
        return status;
    }
    (*out)->block_size = (int64_t)block_size;
    (*out)->quality_target = target;
    for (int64_t head = 0; head < (*out)->heads && status == DA_OK; head++) {
        status = read_head(file, head, &(*out)->rules[head]);
    }
    if (status == DA_OK && da_checked_text_line(file)) {
        status = da_checked_text_damaged(file, "there is more than heads");
    }
    return status;
}

da_status da_sparse_profile_load(const da_allocator *allocator, const char *path, da_sparse_profile **out) {
    da_checked_text file;
    da_status status = check_path(out, "out", path);
    if (out) {
        *out = NULL;
    }
    if (status == DA_OK) {
        status = da_check_allocator(allocator);
    }
    if (status != DA_OK) {
        return status;
    }
    status = da_checked_text_open(&file, allocator, path, "sparse profile", MAX_FILE_BYTES);
    if (status == DA_OK) {
        status = read_profile(&file, allocator, out);
    }
    da_checked_text_close(&file);
    if (status != DA_OK) {
        da_sparse_profile_free(*out);
        *out = NULL;
    }
    return status;
}
