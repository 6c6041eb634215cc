#include "output.h"

#include <inttypes.h>
#include <stdio.h>

#include "options.h"

int cli_print_json(const char *command, json_t *object) {
    if (object == NULL) {
        return cli_fail(command, "JSON could not be made: memory is short, or a name is not UTF-8");
    }
    int failed = json_dumpf(object, stdout, JSON_INDENT(2) | JSON_REAL_PRECISION(15));
    json_decref(object);
    putchar('\n');
    return failed ? cli_fail(command, "JSON could not be written to standard output") : CLI_OK;
}

json_t *cli_json_integers(const int64_t *values, size_t count) {
    json_t *array = json_array();
    for (size_t i = 0; array != NULL && i < count; i++) {
        if (json_array_append_new(array, json_integer(values[i])) != 0) {
            json_decref(array);
            return NULL;
        }
    }
    return array;
}

const char *cli_bytes(double bytes, char text[CLI_BYTES_TEXT]) {
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    size_t unit = 0;
    while (bytes >= 1024 && unit + 1 < CLI_COUNT(units)) {
        bytes /= 1024;
        unit++;
    }
    snprintf(text, CLI_BYTES_TEXT, unit == 0 ? "%.0f %s" : "%.1f %s", bytes, units[unit]);
    return text;
}

const char *cli_grouped(int64_t value, char text[CLI_GROUPED_TEXT]) {
    char digits[24];
    int length = snprintf(digits, sizeof(digits), "%" PRId64, value);
    char *end = text;
    for (int i = 0; i < length; i++) {
        *end++ = digits[i];
        int left = length - 1 - i;
        if (left > 0 && left % 3 == 0 && digits[i] != '-') {
            *end++ = ',';
        }
    }
    *end = '\0';
    return text;
}
