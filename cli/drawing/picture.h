/* A picture file: PNG or SVG by the ending of its path, drawn by one function, written under a temporary name beside
 * the path and renamed, so that an error leaves nothing behind and an older picture untouched. */
#ifndef DA_CLI_DRAWING_PICTURE_H
#define DA_CLI_DRAWING_PICTURE_H

#include <cairo.h>
#include <stdbool.h>

#include "dilated_attention.h"

/* Pixels of a PNG to a point. */
#define PICTURE_SCALE 2

typedef struct picture_size {
    double width, height; /* points */
} picture_size;

/* Draws onto the context and returns the size of what it drew. It is called twice: to measure, then to draw. */
typedef picture_size picture_painter(cairo_t *cairo, void *user);

bool picture_path_is_known(const char *path); /* .png or .svg */

/* Errors: DA_ERROR_INVALID_ARGUMENT (ending), DA_ERROR_IO (path and the system's words), DA_ERROR_OUT_OF_MEMORY.
 * `size` receives the size drawn. */
da_status picture_write(const char *path, picture_painter *paint, void *user, picture_size *size);

#endif
