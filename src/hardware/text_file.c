/* Small text files of /proc and /sys. */
#include <stdio.h>

#include "hardware/hardware.h"

#define PATH_SIZE 4608

bool da_read_text(const char *root, const char *path, char *text, size_t size) {
    char full_path[PATH_SIZE];
    int length = snprintf(full_path, sizeof full_path, "%s%s", root, path);
    if (length < 0 || (size_t)length >= sizeof full_path) {
        return false;
    }
    FILE *file = fopen(full_path, "r");
    if (!file) {
        return false;
    }
    size_t bytes = fread(text, 1, size - 1, file);
    bool failed = ferror(file) != 0;
    fclose(file);
    text[bytes] = '\0';
    return !failed;
}
