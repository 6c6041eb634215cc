/* Curves of trainings in a picture. */
#ifndef DA_CLI_PLOT_H
#define DA_CLI_PLOT_H

#include <stddef.h>

/* Draws logs (1 .. CURVES_MAX) into a .png or .svg. Returns CLI_OK, or another exit code after a message. */
int plot_logs(const char *command, const char *out, const char *const *logs, const char *const *names, size_t count);

#endif
