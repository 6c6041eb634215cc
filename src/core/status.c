/* Status names and the calling thread's message. */
#include <stdarg.h>
#include <stdio.h>

#include "dilated_attention.h"

#define MESSAGE_SIZE 1024

static _Thread_local char last_message[MESSAGE_SIZE];

const char *da_version(void) {
#define DA_TEXT(x) #x
#define DA_VERSION_TEXT(major, minor, patch) DA_TEXT(major) "." DA_TEXT(minor) "." DA_TEXT(patch)
    return DA_VERSION_TEXT(DA_VERSION_MAJOR, DA_VERSION_MINOR, DA_VERSION_PATCH);
}

const char *da_status_name(da_status status) {
    switch (status) {
    case DA_OK: return "DA_OK";
    case DA_ERROR_INVALID_ARGUMENT: return "DA_ERROR_INVALID_ARGUMENT";
    case DA_ERROR_UNKNOWN_IMPLEMENTATION: return "DA_ERROR_UNKNOWN_IMPLEMENTATION";
    case DA_ERROR_UNAVAILABLE: return "DA_ERROR_UNAVAILABLE";
    case DA_ERROR_UNSUPPORTED: return "DA_ERROR_UNSUPPORTED";
    case DA_ERROR_ALREADY_REGISTERED: return "DA_ERROR_ALREADY_REGISTERED";
    case DA_ERROR_OUT_OF_MEMORY: return "DA_ERROR_OUT_OF_MEMORY";
    case DA_ERROR_CANCELLED: return "DA_ERROR_CANCELLED";
    case DA_ERROR_IO: return "DA_ERROR_IO";
    case DA_ERROR_FORMAT: return "DA_ERROR_FORMAT";
    case DA_ERROR_COMMUNICATION: return "DA_ERROR_COMMUNICATION";
    }
    return "unknown status";
}

const char *da_last_error_message(void) {
    return last_message;
}

da_status da_report(da_status status, const char *format, ...) {
    /* The arguments may point into last_message, so the text is made beside it. */
    char text[MESSAGE_SIZE];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    snprintf(last_message, sizeof last_message, "%s", text);
    return status;
}
