/* Who sees whom, for callers: one pair, checked. */
#include <inttypes.h>

#include "config/validation.h"
#include "pattern/pattern.h"

static da_status check_index(const char *name, int64_t value, int64_t end, const char *end_name) {
    if (value >= 0 && value < end) {
        return DA_OK;
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is %" PRId64 "; allowed: 0 to %s - 1, which is %" PRId64, name,
                     value, end_name, end - 1);
}

da_status da_pattern_multiplicity(const da_attention_config *config, int64_t n, int64_t heads, int64_t head, int64_t i,
                                  int64_t j, int64_t *count) {
    da_attention_config ours;
    da_head_patterns patterns;
    da_status status = da_attention_config_import(config, &ours);
    if (status == DA_OK && !count) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "count is NULL; allowed: a place for the result");
    }
    if (status == DA_OK && (n < 1 || heads < 1)) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "%s is %" PRId64 "; allowed: 1 or more", n < 1 ? "n" : "heads",
                           n < 1 ? n : heads);
    }
    if (status == DA_OK) {
        status = check_index("head", head, heads, "heads");
    }
    if (status == DA_OK) {
        status = check_index("i", i, n, "n");
    }
    if (status == DA_OK) {
        status = check_index("j", j, n, "n");
    }
    if (status != DA_OK) {
        return status;
    }
    da_head_patterns_init(&patterns, &ours, n, heads, head);
    *count = 0;
    if ((patterns.causal && j > i) || i - j > patterns.window) {
        return DA_OK;
    }
    for (int p = 0; p < patterns.count; p++) {
        *count += da_pattern_joins(&patterns.pattern[p], i, j);
    }
    if (patterns.once && *count > 1) {
        *count = 1;
    }
    return DA_OK;
}
