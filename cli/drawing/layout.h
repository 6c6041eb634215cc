/* Where the parts of a figure stand on the page. */
#ifndef DA_CLI_DRAWING_LAYOUT_H
#define DA_CLI_DRAWING_LAYOUT_H

#include "drawing/figure.h"

/* One matrix of single pairs with its legend beside it, and the reach below. */
picture_size layout_small(cairo_t *cairo, const figure *drawing);

/* Two or three panels in a row, each marked in the one before, with their legends below, and the reach. */
picture_size layout_large(cairo_t *cairo, const figure *drawing);

#endif
