/* A text file's contents, read whole, and replaced whole. */
#ifndef DA_PLANNER_REPLACE_FILE_H
#define DA_PLANNER_REPLACE_FILE_H

#include "core/text.h"

/* Writes a temporary file beside `path`, makes sure that it is on the disk, and renames it. Errors: DA_ERROR_IO,
 * DA_ERROR_OUT_OF_MEMORY. */
da_status da_replace_file(const da_allocator *allocator, const char *path, const char *text, size_t length);

/* Reads a regular file of at most `most` bytes into memory from the allocator, with a zero after it. Errors: DA_ERROR_IO,
 * DA_ERROR_FORMAT (longer), DA_ERROR_OUT_OF_MEMORY. */
da_status da_read_file(const da_allocator *allocator, const char *path, size_t most, char **text, size_t *length);

#endif
