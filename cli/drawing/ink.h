/* Text, colours and axis ticks: what all parts of a figure share. Lengths are in points. */
#ifndef DA_CLI_DRAWING_INK_H
#define DA_CLI_DRAWING_INK_H

#include <cairo.h>
#include <stdbool.h>
#include <stdint.h>

#include "drawing/visibility.h"

typedef struct ink_color {
    double red, green, blue;
} ink_color;

extern const ink_color INK_BLACK, INK_GREY, INK_FAINT, INK_EMPTY, INK_ZOOM[2];

void ink_set(cairo_t *cairo, ink_color color);

/* From light (0) to dark (1); told apart without colour vision and in grey print. Its lightest tone still stands out
 * from white paper and from INK_EMPTY. */
ink_color ink_ramp(double t);

/* Colour of a pair that `count` patterns hold, where `most` is the largest count in the picture. */
ink_color ink_multiplicity(int64_t count, int64_t most);

typedef struct ink_text_style {
    double size;
    bool bold;
    ink_color color;
} ink_text_style;

/* Writes with the baseline at y; `anchor` 0, 0.5 or 1: x is the left end, the middle or the right end. Returns the
 * width. */
double ink_text(cairo_t *cairo, ink_text_style style, double x, double y, double anchor, const char *text);
/* The same over a white rim, to be read across lines. */
double ink_text_over(cairo_t *cairo, ink_text_style style, double x, double y, double anchor, const char *text);
double ink_text_width(cairo_t *cairo, ink_text_style style, const char *text);

/* Breaks the text at blanks into lines no wider than `width`; returns the baseline below the last line. Two blanks in
 * a row are kept together with the word that follows. */
double ink_paragraph(cairo_t *cairo, ink_text_style style, double x, double y, double width, const char *text);

/* A round number (1, 2 or 5 times a power of ten), at least `least`. */
int64_t ink_round_step(double least);

/* Points that the labels and the name of the axis of queries take, left of a square of tokens below `end`. */
double ink_axis_room(cairo_t *cairo, int64_t end);

/* Ticks and labels of both axes of a square that shows queries (down) and keys (to the right) of the range; tokens are
 * labelled at their middle where `centred`. */
void ink_token_axes(cairo_t *cairo, double x, double y, double side, token_range range, bool centred);

#endif
