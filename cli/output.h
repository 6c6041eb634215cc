/* What commands print for programs and for people. */
#ifndef DA_CLI_OUTPUT_H
#define DA_CLI_OUTPUT_H

#include <jansson.h>
#include <stdint.h>

/* Prints `object` to stdout, indented, with a newline, and releases it. NULL (it could not be built) fails.
 * Returns CLI_OK or CLI_FAILED. */
int cli_print_json(const char *command, json_t *object);

/* An array of a configuration's numbers. */
json_t *cli_json_integers(const int64_t *values, size_t count);

/* "1.5 GiB"; writes into text and returns it. */
#define CLI_BYTES_TEXT 24
const char *cli_bytes(double bytes, char text[CLI_BYTES_TEXT]);

/* "12,345": whole numbers for people; writes into text and returns it. */
#define CLI_GROUPED_TEXT 32
const char *cli_grouped(int64_t value, char text[CLI_GROUPED_TEXT]);

#endif
