#include "network.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

bool cli_read_prefixed(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    static const struct {
        char letter;
        double factor;
    } prefixes[] = {{'\0', 1}, {'n', 1e-9}, {'u', 1e-6}, {'m', 1e-3}, {'k', 1e3}, {'M', 1e6}, {'G', 1e9}, {'T', 1e12}};
    char *end;
    double value = strtod(text, &end);
    for (size_t k = 0; k < CLI_COUNT(prefixes) && isdigit((unsigned char)text[0]); k++) {
        if (*end == prefixes[k].letter && (*end == '\0' || end[1] == '\0') && isfinite(value * prefixes[k].factor)) {
            *(cli_number *)option->target = (cli_number){.is_set = true, .value = value * prefixes[k].factor};
            return true;
        }
    }
    snprintf(allowed, allowed_size, "is not a number at least 0, such as 25G (with n, u, m, k, M, G, T or nothing)");
    return false;
}

void network_options(network *chosen, cli_option table[NETWORK_OPTION_COUNT]) {
    const cli_option options[NETWORK_OPTION_COUNT] = {
        {"network-bandwidth", "B", "bytes a second that a rank receives, and at the same\ntime sends (25G)",
         cli_read_prefixed, &chosen->bandwidth, 0, 0},
        {"network-latency", "S", "seconds that a message takes beyond its bytes (5u)", cli_read_prefixed,
         &chosen->latency, 0, 0},
        {"network-overhead", "S", "seconds of a rank's own time for each message (1u)", cli_read_prefixed,
         &chosen->overhead, 0, 0},
    };
    memcpy(table, options, sizeof(options));
}

void network_apply(const network *chosen, da_ranks_options *options) {
    options->bandwidth = chosen->bandwidth.is_set ? chosen->bandwidth.value : options->bandwidth;
    options->latency = chosen->latency.is_set ? chosen->latency.value : options->latency;
    options->overhead = chosen->overhead.is_set ? chosen->overhead.value : options->overhead;
}
