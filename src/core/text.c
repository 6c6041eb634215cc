#include "core/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static bool reserve(da_text *text, size_t length) {
    if (length < text->capacity) {
        return true;
    }
    size_t capacity = 2 * length + 64;
    char *data = da_allocate(text->allocator, capacity, 1);
    if (!data) {
        text->failed = true;
        return false;
    }
    if (text->data) {
        memcpy(data, text->data, text->length + 1);
        da_release(text->allocator, text->data);
    }
    text->data = data;
    text->capacity = capacity;
    return true;
}

void da_text_append(da_text *text, const char *format, ...) {
    va_list arguments;
    if (text->failed) {
        return;
    }
    va_start(arguments, format);
    int length = vsnprintf(NULL, 0, format, arguments);
    va_end(arguments);
    if (length < 0 || !reserve(text, text->length + (size_t)length)) {
        text->failed = true;
        return;
    }
    va_start(arguments, format);
    vsnprintf(text->data + text->length, text->capacity - text->length, format, arguments);
    va_end(arguments);
    text->length += (size_t)length;
}

void da_text_free(da_text *text) {
    da_release(text->allocator, text->data);
    *text = (da_text){.allocator = text->allocator};
}
