/* Settings of tests by environment variables. */
#ifndef DA_TESTS_ENVIRONMENT_H
#define DA_TESTS_ENVIRONMENT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

/* The positive integer in an environment variable, `otherwise` if there is none. */
static inline int64_t environment_integer(const char *name, int64_t otherwise) {
    const char *text = getenv(name);
    int64_t value = text ? strtoll(text, NULL, 10) : 0;
    return value > 0 ? value : otherwise;
}

/* Comparisons run every so-manieth case, for slow tools. */
static inline int64_t comparison_stride(void) {
    return environment_integer("DA_COMPARE_STRIDE", 1);
}

/* A tool that takes tens of times as long: tests leave out what is large and not of another kind. */
static inline bool is_slow_tool(void) {
    return comparison_stride() > 100;
}

#endif
