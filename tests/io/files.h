/* Files for the tests, in a folder of their own that goes away at the end. */
#ifndef TESTS_IO_FILES_H
#define TESTS_IO_FILES_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "io/tensor_file.h"

/* Group setup and teardown. The teardown fails if the folder is not empty: every test removes what it made. */
int make_folder(void **state);
int remove_folder(void **state);

/* Setup and teardown of a test: fails if it left a file, or a descriptor open. */
int before_test(void **state);
int after_test(void **state);

/* The path of a name in the folder; the last 64 results stay valid. */
const char *in_folder(const char *name);
/* Number of files in the folder. */
int files_in_folder(void);

void write_file(const char *path, const void *bytes, size_t size);

/* Bytes of a file; to be freed. */
typedef struct file_bytes {
    unsigned char *bytes;
    size_t size;
} file_bytes;

/* A .npy file of the given version, and a .safetensors file: this header, then data_bytes bytes 0, 1, 2, ... */
file_bytes npy_file(int version, const char *header, size_t header_bytes, size_t data_bytes);
file_bytes safetensors_file(const char *header, size_t header_bytes, size_t data_bytes);
file_bytes read_file(const char *path);

/* The last message begins with the path and contains the fragment. */
void assert_message(const char *path, const char *fragment);

#endif
