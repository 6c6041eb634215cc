#include "core/quantities.h"

#include <stddef.h>
#include <stdio.h>

const char *da_format_bytes(double bytes, char text[DA_QUANTITY_SIZE]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    size_t unit = 0;
    while (bytes >= 1024 && unit + 1 < sizeof units / sizeof *units) {
        bytes /= 1024;
        unit++;
    }
    snprintf(text, DA_QUANTITY_SIZE, "%.1f %s", bytes, units[unit]);
    return text;
}

const char *da_format_seconds(double seconds, char text[DA_QUANTITY_SIZE]) {
    static const char *const units[] = {"s", "ms", "us"};
    int unit = seconds >= 1 || seconds == 0 ? 0 : seconds >= 1e-3 ? 1 : 2;
    snprintf(text, DA_QUANTITY_SIZE, "%.3g %s", seconds * (unit == 0 ? 1 : unit == 1 ? 1e3 : 1e6), units[unit]);
    return text;
}
