/* Text files whose last line holds a checksum of all before it, as 16 hexadecimal digits:
 *
 *     checksum 0123456789abcdef
 *
 * They are written beside the old file and then renamed, and read whole before anything is made of them. */
#ifndef DA_CORE_CHECKED_TEXT_H
#define DA_CORE_CHECKED_TEXT_H

#include "core/text.h"

/* Appends the checksum and writes the file. Errors: DA_ERROR_IO, DA_ERROR_OUT_OF_MEMORY (also of the text itself). */
da_status da_checked_text_save(const char *path, da_text *text);

typedef struct da_checked_text {
    const da_allocator *allocator;
    const char *path;
    const char *kind; /* "file of plans": for messages */
    char *text;       /* lines are ended by a zero as they are read */
    size_t length, at;
    int line; /* number of the line read last */
} da_checked_text;

/* Reads a file and checks its sum. Closed in any case. Errors: DA_ERROR_IO, DA_ERROR_FORMAT (damaged, or larger than
 * max_bytes), DA_ERROR_OUT_OF_MEMORY. */
da_status da_checked_text_open(da_checked_text *file, const da_allocator *allocator, const char *path, const char *kind,
                               size_t max_bytes);
void da_checked_text_close(da_checked_text *file);

/* The next line; NULL at the end of the text. */
char *da_checked_text_line(da_checked_text *file);

/* DA_ERROR_FORMAT, with a message that names the file, the line read last, and what is wrong with it. */
da_status da_checked_text_damaged(const da_checked_text *file, const char *what);

#endif
