/* A string that grows, for messages and reports. */
#ifndef DA_CORE_TEXT_H
#define DA_CORE_TEXT_H

#include "core/memory.h"

/* Zero it (or {.allocator = ...}) to start. After a failed allocation `failed` is set and appending does nothing. */
typedef struct da_text {
    const da_allocator *allocator;
    char *data; /* zero-terminated once something was appended; else NULL */
    size_t length, capacity;
    bool failed;
} da_text;

void da_text_append(da_text *text, const char *format, ...) DA_PRINTF(2, 3);
void da_text_free(da_text *text);

#endif
