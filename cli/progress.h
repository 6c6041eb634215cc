/* A progress bar on stderr, if that is a terminal. */
#ifndef DA_CLI_PROGRESS_H
#define DA_CLI_PROGRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct progress {
    bool shown; /* false: every call does nothing */
    double start, last_drawn;
    const char *label;
} progress;

/* `wanted` false: no bar even on a terminal. */
progress progress_start(const char *label, bool wanted);
/* Draws at most ten times a second. */
void progress_update(progress *bar, int64_t finished, int64_t total);
/* Erases the bar. */
void progress_end(progress *bar);

#endif
