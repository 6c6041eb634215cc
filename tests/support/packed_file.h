/* Files of cases that Python scripts write: integers, numbers and texts one after the other, in parts of 8 bytes,
 * little-endian. */
#ifndef DA_TESTS_PACKED_FILE_H
#define DA_TESTS_PACKED_FILE_H

#include <stdbool.h>
#include <stdint.h>

/* An int64 count and that many f64. */
typedef struct case_array {
    int64_t count;
    const double *values; /* in the file's memory */
} case_array;

typedef struct packed_file {
    unsigned char *memory;
    const unsigned char *next;
    int64_t left; /* cases that were not begun */
} packed_file;

/* Reads the file of an environment variable, or else of default_path: 8 bytes of magic, an int64 number of cases, and these.
 * Ends the program with a message if it cannot. */
packed_file packed_file_open(const char *variable, const char *default_path, const char magic[8]);
void packed_file_close(packed_file *file);

/* Whether there is one more case; counts it. */
bool packed_file_begin_case(packed_file *file);

int64_t packed_file_integer(packed_file *file);
case_array packed_file_array(packed_file *file);
/* A zero-terminated text in `bytes` bytes, a multiple of 8. */
const char *packed_file_text(packed_file *file, int64_t bytes);

#endif
