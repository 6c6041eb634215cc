/* How far one query sees: a row per pattern, its keys on an axis of distances that is logarithmic to both sides. */
#ifndef DA_CLI_DRAWING_REACH_H
#define DA_CLI_DRAWING_REACH_H

#include <cairo.h>

#include "drawing/visibility.h"

/* A query near the middle of the sequence, inside its segments and kept by as many patterns as a query there can be. */
int64_t reach_query(const visibility *view);

/* Draws into `width` points from y down; returns the y below. */
double reach_draw(cairo_t *cairo, const visibility *view, int64_t query, double x, double y, double width);

#endif
