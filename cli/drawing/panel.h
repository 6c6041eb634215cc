/* One square of a figure: the queries of a range (down) against the keys of the same range (to the right). Its cells
 * are single pairs, coloured by the number of patterns that hold the pair, or blocks of pairs, shaded by the fraction
 * seen. */
#ifndef DA_CLI_DRAWING_PANEL_H
#define DA_CLI_DRAWING_PANEL_H

#include <cairo.h>

#include "drawing/visibility.h"

#define PANEL_MAX_CELLS 160

typedef struct panel {
    token_range range;
    int64_t block;  /* tokens to a cell; 1: single pairs */
    int cells;      /* in a row and in a column; the last may hold fewer tokens */
    double *values; /* cells x cells: patterns that hold the pair, or pairs seen in the block over pairs in the block */
    double pairs;   /* distinct pairs seen in the panel */
    double least, most; /* of the values that are not 0; 0 if all are */
} panel;

/* Scale of the shades of blocks: powers of ten that enclose the fractions of all panels that share it. */
typedef struct panel_scale {
    int low, high; /* 10^low .. 10^high, low < high */
} panel_scale;

/* Counts. Panels of up to PANEL_MAX_CELLS tokens may show single pairs. Errors: DA_ERROR_OUT_OF_MEMORY. */
da_status panel_of_pairs(const visibility *view, token_range range, panel *out);
da_status panel_of_blocks(const visibility *view, token_range range, panel *out);
void panel_free(panel *square);

panel_scale panel_scale_of(const panel *squares, size_t count);

/* Draws the cells and the frame. `most` is the largest multiplicity of the figure (single pairs). */
void panel_draw_pairs(cairo_t *cairo, const panel *square, double x, double y, double side, int64_t most);
void panel_draw_blocks(cairo_t *cairo, const panel *square, double x, double y, double side, panel_scale scale);

/* Outlines of the segments of every pattern, those of longer segments stronger. */
void panel_draw_segments(cairo_t *cairo, const panel *square, const visibility *view, double x, double y, double side);

#endif
