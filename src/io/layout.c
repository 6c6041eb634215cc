/* Strides and sizes of a tensor in a file, and text of a file in messages. */
#include "io/formats.h"

#include <string.h>

bool da_file_layout_set(da_file_layout *layout, da_file_type type, int rank, const int64_t *shape, bool fortran_order) {
    *layout = (da_file_layout){.type = type, .rank = rank};
    int64_t element = (int64_t)da_file_type_size(type);
    int64_t elements = 1;
    bool empty = false;
    for (int step = 0; step < rank; ++step) {
        int axis = fortran_order ? step : rank - 1 - step;
        if (shape[axis] < 0) {
            return false;
        }
        layout->shape[axis] = shape[axis];
        layout->stride[axis] = elements;
        if (shape[axis] == 0) {
            empty = true;
        } else if (elements > INT64_MAX / element / shape[axis]) {
            return false;
        } else {
            elements *= shape[axis];
        }
    }
    layout->bytes = empty ? 0 : (uint64_t)(elements * element);
    return true;
}

const char *da_quote(char buffer[DA_QUOTE_BYTES], const char *text, size_t length) {
    static const char ellipsis[] = "...";
    size_t kept = length;
    if (kept >= DA_QUOTE_BYTES) {
        kept = DA_QUOTE_BYTES - sizeof ellipsis;
        while (kept > 0 && ((unsigned char)text[kept] & 0xC0) == 0x80) { /* not in the middle of a UTF-8 sequence */
            --kept;
        }
    }
    for (size_t i = 0; i < kept; ++i) {
        unsigned char c = (unsigned char)text[i];
        buffer[i] = c < 0x20 || c == 0x7F ? '?' : text[i];
    }
    buffer[kept] = '\0';
    if (kept < length) {
        memcpy(buffer + kept, ellipsis, sizeof ellipsis);
    }
    return buffer;
}
