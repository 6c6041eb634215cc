/* What explains a figure: its title with the configuration, the meaning of colours and shades, the list of patterns. */
#ifndef DA_CLI_DRAWING_LEGEND_H
#define DA_CLI_DRAWING_LEGEND_H

#include <cairo.h>

#include "drawing/panel.h"
#include "drawing/visibility.h"

/* Each returns the y below what it drew. */
double legend_title(cairo_t *cairo, const visibility *view, double x, double y, double width);
double legend_patterns(cairo_t *cairo, const visibility *view, double x, double y);

/* Swatches of multiplicities 0..most: one below the other, or in a row. */
double legend_multiplicity(cairo_t *cairo, int64_t most, bool in_a_row, double x, double y, double width);

/* The bar of shades, with its powers of ten. */
double legend_shades(cairo_t *cairo, panel_scale scale, double x, double y, double width);

#endif
