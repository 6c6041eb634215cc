#include "drawing/layout.h"

#include <math.h>
#include <stdio.h>

#include "drawing/ink.h"
#include "drawing/legend.h"
#include "drawing/reach.h"
#include "output.h"

#define MARGIN 26.0

static const ink_text_style LETTER = {14.0, true, {0.11, 0.11, 0.12}};
static const ink_text_style PLAIN = {11.5, false, {0.11, 0.11, 0.12}};
static const ink_text_style QUIET = {10.5, false, {0.40, 0.41, 0.43}};

/* "a  text", the letter bold; a second line in grey. */
static void draw_caption(cairo_t *cairo, double x, double y, char letter, const char *text, const char *detail) {
    char name[2] = {letter, '\0'};
    ink_text(cairo, LETTER, x, y, 0.0, name);
    ink_text(cairo, PLAIN, x + 16.0, y, 0.0, text);
    if (detail != NULL) {
        ink_text(cairo, QUIET, x + 16.0, y + 14.5, 0.0, detail);
    }
}

static double draw_reach(cairo_t *cairo, const figure *drawing, double y, double width, char letter) {
    char text[128], query[CLI_GROUPED_TEXT];
    snprintf(text, sizeof(text), "what query %s sees", cli_grouped(drawing->query, query));
    draw_caption(cairo, MARGIN, y, letter, text, NULL);
    return reach_draw(cairo, drawing->view, drawing->query, MARGIN + 16.0, y + 10.0, width - 16.0);
}

static int64_t most_of_heads(const figure *drawing) {
    double most = 1.0;
    for (size_t k = 0; k < drawing->head_count; k++) {
        most = drawing->head_panels[k].most > most ? drawing->head_panels[k].most : most;
    }
    return (int64_t)most;
}

static double draw_heads(cairo_t *cairo, const figure *drawing, double y, double width, int64_t most, char letter) {
    const double gap = 14.0;
    double places = drawing->head_count < 5 ? 5.0 : (double)drawing->head_count;
    double room = (width - 16.0 - gap * (places - 1.0)) / places;
    const panel *first = &drawing->head_panels[0];
    double side = floor(2.0 * room / first->cells) * 0.5 * first->cells;
    char text[160], from[CLI_GROUPED_TEXT], to[CLI_GROUPED_TEXT];
    snprintf(text, sizeof(text), "the heads side by side: tokens %s to %s", cli_grouped(first->range.first, from),
             cli_grouped(first->range.end - 1, to));
    draw_caption(cairo, MARGIN, y, letter, text, NULL);
    y += 14.0;
    for (size_t k = 0; k < drawing->head_count; k++) {
        double x = MARGIN + 16.0 + (double)k * (side + gap);
        panel_draw_pairs(cairo, &drawing->head_panels[k], x, y, side, most);
        snprintf(text, sizeof(text), "head %s", cli_grouped(drawing->heads[k], from));
        ink_text(cairo, drawing->heads[k] == drawing->view->head ? (ink_text_style){10.5, true, INK_BLACK} : QUIET,
                 x + 0.5 * side, y + side + 13.0, 0.5, text);
    }
    return y + side + 20.0;
}

static picture_size draw_lower_parts(cairo_t *cairo, const figure *drawing, double y, double width, int64_t most,
                                     char letter) {
    y = draw_reach(cairo, drawing, y, width, letter);
    if (drawing->head_count > 0) {
        y = draw_heads(cairo, drawing, y + 28.0, width, most, (char)(letter + 1));
    }
    return (picture_size){width + 2.0 * MARGIN, y + 14.0};
}

static int64_t most_of(const figure *drawing) {
    int64_t most = (int64_t)drawing->panels[drawing->panel_count - 1].most;
    return most_of_heads(drawing) > most ? most_of_heads(drawing) : most;
}

picture_size layout_small(cairo_t *cairo, const figure *drawing) {
    const double width = 960.0, largest = 640.0, largest_cell = 60.0, beside = 30.0;
    const panel *square = &drawing->panels[0];
    double cell = floor(2.0 * largest / square->cells) * 0.5;
    double side = square->cells * (cell > largest_cell ? largest_cell : cell);
    int64_t most = most_of(drawing);
    double top = legend_title(cairo, drawing->view, MARGIN, MARGIN, width) + 22.0;
    double x = MARGIN + ink_axis_room(cairo, square->range.end), right = x + side + beside;
    panel_draw_pairs(cairo, square, x, top, side, most);
    panel_draw_segments(cairo, square, drawing->view, x, top, side);
    ink_token_axes(cairo, x, top, side, square->range, true);
    ink_text(cairo, PLAIN, right, top + 10.0, 0.0, "A pair is held by");
    double y = legend_multiplicity(cairo, most, false, right, top + 20.0, 0.0);
    ink_text(cairo, PLAIN, right, y + 24.0, 0.0, "Outlines are segments");
    y = legend_patterns(cairo, drawing->view, right, y + 30.0);
    double bottom = top + side + 40.0 > y ? top + side + 40.0 : y;
    return draw_lower_parts(cairo, drawing, bottom + 26.0, width, most, 'b');
}

/* Marks in panel `p` what the next one shows, and leads over to it. */
static void draw_zoom(cairo_t *cairo, const figure *drawing, size_t p, double x, double next_x, double y, double side) {
    token_range whole = drawing->panels[p].range, part = drawing->panels[p + 1].range;
    const double smallest = 10.0;
    double scale = side / (double)(whole.end - whole.first);
    double length = (double)(part.end - part.first) * scale;
    double first = (double)(part.first - whole.first) * scale;
    if (length < smallest) {
        first -= 0.5 * (smallest - length);
        length = smallest;
    }
    cairo_set_source_rgb(cairo, 1.0, 1.0, 1.0);
    cairo_set_line_width(cairo, 4.0);
    cairo_rectangle(cairo, x + first, y + first, length, length);
    cairo_stroke(cairo);
    cairo_move_to(cairo, x + first + length, y + first);
    cairo_line_to(cairo, next_x, y);
    cairo_move_to(cairo, x + first + length, y + first + length);
    cairo_line_to(cairo, next_x, y + side);
    cairo_set_source_rgba(cairo, 1.0, 1.0, 1.0, 0.6);
    cairo_set_line_width(cairo, 2.4);
    cairo_stroke_preserve(cairo);
    ink_set(cairo, INK_ZOOM[p % 2]);
    cairo_set_line_width(cairo, 0.9);
    const double dashes[] = {4.0, 2.0};
    cairo_set_dash(cairo, dashes, 2, 0.0);
    cairo_stroke(cairo);
    cairo_set_dash(cairo, NULL, 0, 0.0);
    cairo_set_line_width(cairo, 1.6);
    cairo_rectangle(cairo, x + first, y + first, length, length);
    cairo_rectangle(cairo, next_x, y, side, side);
    cairo_stroke(cairo);
}

static void draw_panel(cairo_t *cairo, const figure *drawing, size_t p, double x, double y, double side,
                       panel_scale scale, int64_t most) {
    const panel *square = &drawing->panels[p];
    char text[128], detail[160], a[CLI_GROUPED_TEXT], b[CLI_GROUPED_TEXT];
    cli_grouped(square->range.end - square->range.first, a);
    cli_grouped(square->block, b);
    if (p + 1 < drawing->panel_count) {
        panel_draw_blocks(cairo, square, x, y, side, scale);
        snprintf(detail, sizeof(detail), "a cell is %s \xC3\x97 %s pairs", b, b);
    } else {
        panel_draw_pairs(cairo, square, x, y, side, most);
        panel_draw_segments(cairo, square, drawing->view, x, y, side);
        snprintf(detail, sizeof(detail), "a cell is one pair; lines are ends of segments");
    }
    snprintf(text, sizeof(text), p == 0 ? "the whole sequence, %s tokens" : "%s tokens of it", a);
    draw_caption(cairo, x, y - 23.0, (char)('a' + p), text, detail);
}

static double draw_legends(cairo_t *cairo, const figure *drawing, double x, double last_x, double y, double side,
                           panel_scale scale, int64_t most) {
    char text[160];
    double n = (double)drawing->view->n;
    snprintf(text, sizeof(text), "fraction of a cell's pairs that is seen (of all pairs: %.2g %%)",
             100.0 * drawing->panels[0].pairs / n / n);
    ink_text(cairo, PLAIN, x, y, 0.0, text);
    legend_shades(cairo, scale, x, y + 8.0, side);
    ink_text(cairo, PLAIN, last_x, y, 0.0, "patterns that hold the pair");
    return legend_multiplicity(cairo, most, true, last_x, y + 8.0, side);
}

picture_size layout_large(cairo_t *cairo, const figure *drawing) {
    const double side = drawing->panel_count == 3 ? 320.0 : 480.0;
    const double axis = ink_axis_room(cairo, drawing->view->n);
    const double pitch = side + axis;
    const double width = pitch * (double)drawing->panel_count;
    panel_scale scale = panel_scale_of(drawing->panels, drawing->panel_count - 1);
    int64_t most = most_of(drawing);
    double top = legend_title(cairo, drawing->view, MARGIN, MARGIN, width) + 54.0;
    double x = MARGIN + axis;
    for (size_t p = 0; p < drawing->panel_count; p++) {
        draw_panel(cairo, drawing, p, x + (double)p * pitch, top, side, scale, most);
    }
    for (size_t p = 0; p + 1 < drawing->panel_count; p++) {
        draw_zoom(cairo, drawing, p, x + (double)p * pitch, x + (double)(p + 1) * pitch, top, side);
    }
    for (size_t p = 0; p < drawing->panel_count; p++) {
        ink_token_axes(cairo, x + (double)p * pitch, top, side, drawing->panels[p].range,
                       p + 1 == drawing->panel_count);
    }
    double y = draw_legends(cairo, drawing, x, x + (double)(drawing->panel_count - 1) * pitch, top + side + 64.0, side,
                            scale, most);
    return draw_lower_parts(cairo, drawing, y + 42.0, width, most, (char)('a' + drawing->panel_count));
}
