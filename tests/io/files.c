#define _XOPEN_SOURCE 700
#include "files.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char folder[512];
static int lowest_descriptor;

int make_folder(void **state) {
    const char *parent = getenv("TMPDIR");
    snprintf(folder, sizeof folder, "%s/tensor-file-XXXXXX", parent != NULL && *parent != '\0' ? parent : "/tmp");
    return mkdtemp(folder) != NULL ? 0 : -1;
}

int remove_folder(void **state) {
    return rmdir(folder);
}

/* The descriptor that the next open would give. */
static int next_descriptor(void) {
    int descriptor = dup(STDERR_FILENO);
    close(descriptor);
    return descriptor;
}

int before_test(void **state) {
    lowest_descriptor = next_descriptor();
    return 0;
}

int after_test(void **state) {
    if (files_in_folder() != 0) {
        print_error("the test left %d files\n", files_in_folder());
        return -1;
    }
    if (next_descriptor() != lowest_descriptor) {
        print_error("the test left a descriptor open\n");
        return -1;
    }
    return 0;
}

const char *in_folder(const char *name) {
    static char paths[64][1024];
    static unsigned next;
    char *path = paths[next++ % 64];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

int files_in_folder(void) {
    DIR *directory = opendir(folder);
    assert_non_null(directory);
    int count = 0;
    for (const struct dirent *entry; (entry = readdir(directory)) != NULL;) {
        count += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    }
    closedir(directory);
    return count;
}

void write_file(const char *path, const void *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, size, file), size);
    assert_int_equal(fclose(file), 0);
}

static file_bytes assemble(const void *prefix, size_t prefix_bytes, const char *header, size_t header_bytes,
                           size_t data_bytes) {
    file_bytes file = {.size = prefix_bytes + header_bytes + data_bytes};
    file.bytes = malloc(file.size);
    assert_non_null(file.bytes);
    memcpy(file.bytes, prefix, prefix_bytes);
    memcpy(file.bytes + prefix_bytes, header, header_bytes);
    for (size_t i = 0; i < data_bytes; ++i) {
        file.bytes[prefix_bytes + header_bytes + i] = (unsigned char)i;
    }
    return file;
}

file_bytes npy_file(int version, const char *header, size_t header_bytes, size_t data_bytes) {
    unsigned char prefix[12] = {0x93,
                                'N',
                                'U',
                                'M',
                                'P',
                                'Y',
                                (unsigned char)version,
                                0,
                                (unsigned char)header_bytes,
                                (unsigned char)(header_bytes >> 8)};
    return assemble(prefix, version == 1 ? 10 : 12, header, header_bytes, data_bytes);
}

file_bytes safetensors_file(const char *header, size_t header_bytes, size_t data_bytes) {
    unsigned char prefix[8] = {(unsigned char)header_bytes, (unsigned char)(header_bytes >> 8),
                               (unsigned char)(header_bytes >> 16)};
    return assemble(prefix, 8, header, header_bytes, data_bytes);
}

file_bytes read_file(const char *path) {
    FILE *file = fopen(path, "rb");
    assert_non_null(file);
    assert_int_equal(fseek(file, 0, SEEK_END), 0);
    file_bytes result = {.size = (size_t)ftell(file)};
    rewind(file);
    result.bytes = malloc(result.size + 1);
    assert_non_null(result.bytes);
    assert_int_equal(fread(result.bytes, 1, result.size, file), result.size);
    fclose(file);
    return result;
}

void assert_message(const char *path, const char *fragment) {
    const char *message = da_last_error_message();
    if (strncmp(message, path, strlen(path)) != 0) {
        fail_msg("\"%s\" does not begin with the path %s", message, path);
    }
    if (strstr(message, fragment) == NULL) {
        fail_msg("\"%s\" does not say \"%s\"", message, fragment);
    }
}
