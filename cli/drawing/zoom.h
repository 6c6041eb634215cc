/* Which parts of a long sequence a figure shows. */
#ifndef DA_CLI_DRAWING_ZOOM_H
#define DA_CLI_DRAWING_ZOOM_H

#include "drawing/visibility.h"

/* The whole sequence (more than ZOOM_WINDOW tokens), a part of it, and a window of single tokens in that part; a
 * sequence of up to ZOOM_TWO_STEPS tokens goes without the middle one. Returns how many ranges it wrote, 2 or 3.
 * `query` lies in the part. */
#define ZOOM_WINDOW 64
#define ZOOM_TWO_STEPS 1024
size_t zoom_ranges(const visibility *view, int64_t query, token_range ranges[3]);

/* The tokens of `window` on which heads are compared: its middle. */
#define ZOOM_HEADS 32
token_range zoom_heads(const visibility *view, token_range window);

#endif
