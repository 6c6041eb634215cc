#include "core/checked_text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "core/hash.h"
#include "core/mapped_file.h"

#define LAST_LINE (9 + 16 + 1)

da_status da_checked_text_save(const char *path, da_text *text) {
    da_atomic_file file;
    da_text_append(text, "checksum %016" PRIx64 "\n", text->failed ? 0 : da_hash(text->data, text->length));
    da_status status = text->failed ? DA_ERROR_OUT_OF_MEMORY : da_atomic_file_create(path, text->length, &file);
    if (status != DA_OK) {
        return status;
    }
    memcpy(file.mapping.base, text->data, text->length);
    return da_atomic_file_commit(&file);
}

da_status da_checked_text_damaged(const da_checked_text *file, const char *what) {
    return da_report(DA_ERROR_FORMAT, "%s: line %d: %s; the file is damaged or no %s", file->path, file->line, what,
                     file->kind);
}

/* The last line must hold the checksum of all before it; cuts it off. */
static da_status check_sum(da_checked_text *file) {
    char expected[LAST_LINE + 1];
    if (strlen(file->text) != file->length || file->length < LAST_LINE) {
        return da_checked_text_damaged(file, "not text, or too short");
    }
    file->length -= LAST_LINE;
    snprintf(expected, sizeof expected, "checksum %016" PRIx64 "\n", da_hash(file->text, file->length));
    if (strcmp(file->text + file->length, expected) != 0) {
        return da_checked_text_damaged(file, "the checksum at the end is missing or wrong");
    }
    file->text[file->length] = '\0';
    return DA_OK;
}

da_status da_checked_text_open(da_checked_text *file, const da_allocator *allocator, const char *path, const char *kind,
                               size_t max_bytes) {
    da_mapping mapping;
    *file = (da_checked_text){.allocator = allocator, .path = path, .kind = kind};
    da_status status = da_mapping_open(path, &mapping);
    if (status != DA_OK) {
        return status;
    }
    if (mapping.bytes > max_bytes) {
        status = da_report(DA_ERROR_FORMAT, "%s: has %zu bytes; allowed: at most %zu", path, mapping.bytes, max_bytes);
    } else if (!(file->text = da_allocate(allocator, mapping.bytes + 1, 1))) {
        status = DA_ERROR_OUT_OF_MEMORY;
    } else {
        memcpy(file->text, mapping.base, mapping.bytes);
        file->text[mapping.bytes] = '\0';
        file->length = mapping.bytes;
    }
    da_mapping_close(&mapping);
    return status == DA_OK ? check_sum(file) : status;
}

void da_checked_text_close(da_checked_text *file) {
    da_release(file->allocator, file->text);
    file->text = NULL;
}

char *da_checked_text_line(da_checked_text *file) {
    if (file->at >= file->length) {
        return NULL;
    }
    char *line = file->text + file->at, *end = strchr(line, '\n');
    file->line++;
    file->at = end ? (size_t)(end - file->text) + 1 : file->length;
    if (end) {
        *end = '\0';
    }
    return line;
}
