/* The figure that `show` makes: the matrix of one head, at once where it is small and zoomed into by steps where it is
 * large, with how far one query reaches, and, where asked for, the heads side by side. */
#ifndef DA_CLI_DRAWING_FIGURE_H
#define DA_CLI_DRAWING_FIGURE_H

#include "drawing/panel.h"
#include "drawing/picture.h"
#include "drawing/visibility.h"

#define FIGURE_SMALL PANEL_MAX_CELLS /* up to this many tokens each pair has a cell in the first panel */
#define FIGURE_MAX_PANELS 3
#define FIGURE_MAX_HEADS 8

typedef struct figure {
    const visibility *view;
    size_t panel_count; /* 1: a small figure; otherwise each shows a part of the one before, the last single pairs */
    panel panels[FIGURE_MAX_PANELS];
    int64_t query;     /* whose reach is drawn */
    size_t head_count; /* panels of the heads; 0: none */
    int64_t heads[FIGURE_MAX_HEADS];
    panel head_panels[FIGURE_MAX_HEADS];
} figure;

/* Counts what will be drawn, with the reach of `query`. `view` must outlive the figure. Errors:
 * DA_ERROR_OUT_OF_MEMORY; nothing is to be freed. */
da_status figure_prepare(const visibility *view, int64_t query, bool side_by_side, figure *out);
void figure_free(figure *drawing);

picture_painter figure_paint; /* user: a figure */

#endif
