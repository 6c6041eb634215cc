#include "resident.h"

#include <stdio.h>

/* A line of /proc/self/status, in KiB there. */
static size_t read_status(const char *format) {
    char line[256];
    size_t kib = 0;
    FILE *file = fopen("/proc/self/status", "re");
    while (file != NULL && fgets(line, sizeof(line), file) != NULL && sscanf(line, format, &kib) != 1) {}
    if (file != NULL) {
        fclose(file);
    }
    return kib * 1024;
}

size_t resident_now(void) {
    return read_status("VmRSS: %zu kB");
}

size_t resident_peak(void) {
    return read_status("VmHWM: %zu kB");
}
