#include "drawing/ink.h"

#include <string.h>

#include "output.h"

#define FONT "DejaVu Sans"
#define TICK_SIZE 10.5

const ink_color INK_BLACK = {0.11, 0.11, 0.12}, INK_GREY = {0.40, 0.41, 0.43}, INK_FAINT = {0.80, 0.81, 0.82};
const ink_color INK_EMPTY = {0.953, 0.957, 0.961};
const ink_color INK_ZOOM[2] = {{0.835, 0.369, 0.0}, {0.667, 0.200, 0.467}};

void ink_set(cairo_t *cairo, ink_color color) {
    cairo_set_source_rgb(cairo, color.red, color.green, color.blue);
}

ink_color ink_ramp(double t) {
    static const ink_color stops[] = {{0.580, 0.835, 0.733}, {0.255, 0.714, 0.769}, {0.114, 0.569, 0.753},
                                      {0.133, 0.369, 0.659}, {0.145, 0.204, 0.580}, {0.031, 0.114, 0.345}};
    const int last = (int)(sizeof(stops) / sizeof(stops[0])) - 1;
    double place = (t < 0.0 ? 0.0 : t > 1.0 ? 1.0 : t) * last;
    int below = place >= last ? last - 1 : (int)place;
    double part = place - below;
    ink_color a = stops[below], b = stops[below + 1];
    return (ink_color){a.red + part * (b.red - a.red), a.green + part * (b.green - a.green),
                       a.blue + part * (b.blue - a.blue)};
}

ink_color ink_multiplicity(int64_t count, int64_t most) {
    return ink_ramp(most <= 1 ? 0.4 : (double)(count - 1) / (double)(most - 1));
}

static void select_font(cairo_t *cairo, ink_text_style style) {
    cairo_select_font_face(cairo, FONT, CAIRO_FONT_SLANT_NORMAL,
                           style.bold ? CAIRO_FONT_WEIGHT_BOLD : CAIRO_FONT_WEIGHT_NORMAL);
    cairo_set_font_size(cairo, style.size);
}

double ink_text_width(cairo_t *cairo, ink_text_style style, const char *text) {
    cairo_text_extents_t extents;
    select_font(cairo, style);
    cairo_text_extents(cairo, text, &extents);
    return extents.x_advance;
}

double ink_text(cairo_t *cairo, ink_text_style style, double x, double y, double anchor, const char *text) {
    double width = ink_text_width(cairo, style, text);
    ink_set(cairo, style.color);
    cairo_move_to(cairo, x - anchor * width, y);
    cairo_show_text(cairo, text);
    return width;
}

double ink_text_over(cairo_t *cairo, ink_text_style style, double x, double y, double anchor, const char *text) {
    double width = ink_text_width(cairo, style, text);
    cairo_move_to(cairo, x - anchor * width, y);
    cairo_text_path(cairo, text);
    cairo_set_source_rgb(cairo, 1.0, 1.0, 1.0);
    cairo_set_line_width(cairo, 4.0);
    cairo_set_line_join(cairo, CAIRO_LINE_JOIN_ROUND);
    cairo_stroke(cairo);
    cairo_set_line_join(cairo, CAIRO_LINE_JOIN_MITER);
    return ink_text(cairo, style, x, y, anchor, text);
}

double ink_paragraph(cairo_t *cairo, ink_text_style style, double x, double y, double width, const char *text) {
    char line[1024] = "";
    while (*text != '\0') {
        size_t blanks = strspn(text, " ");
        size_t piece = blanks + strcspn(text + blanks, " ");
        size_t length = strlen(line);
        char longer[1024];
        if (length + piece >= sizeof(longer)) {
            break;
        }
        memcpy(longer, line, length);
        memcpy(longer + length, text, piece);
        longer[length + piece] = '\0';
        if (length > 0 && ink_text_width(cairo, style, longer) > width) {
            ink_text(cairo, style, x, y, 0.0, line);
            y += 1.45 * style.size;
            line[0] = '\0';
            text += blanks;
            continue;
        }
        memcpy(line, longer, length + piece + 1);
        text += piece;
    }
    ink_text(cairo, style, x, y, 0.0, line);
    return y + 1.45 * style.size;
}

int64_t ink_round_step(double least) {
    int64_t power = 1;
    while ((double)power * 10.0 <= least) {
        power *= 10;
    }
    int64_t factor = (double)power >= least         ? 1
                     : (double)power * 2.0 >= least ? 2
                     : (double)power * 5.0 >= least ? 5
                                                    : 10;
    return factor * power;
}

double ink_axis_room(cairo_t *cairo, int64_t end) {
    char label[CLI_GROUPED_TEXT];
    return ink_text_width(cairo, (ink_text_style){TICK_SIZE, false, INK_GREY}, cli_grouped(end, label)) + 36.0;
}

void ink_token_axes(cairo_t *cairo, double x, double y, double side, token_range range, bool centred) {
    const ink_text_style style = {TICK_SIZE, false, INK_GREY}, title = {11.5, false, INK_BLACK};
    char label[CLI_GROUPED_TEXT];
    double length = (double)(range.end - range.first);
    double widest = ink_text_width(cairo, style, cli_grouped(range.end, label));
    double room = widest + 16.0 < side / 9.0 ? side / 9.0 : widest + 16.0; /* between two labels */
    int64_t step = ink_round_step(length * room / side);
    for (int64_t token = (range.first + step - 1) / step * step; token < range.end + !centred; token += step) {
        double at = ((double)(token - range.first) + (centred ? 0.5 : 0.0)) / length * side;
        ink_set(cairo, INK_GREY);
        cairo_set_line_width(cairo, 0.8);
        cairo_move_to(cairo, x + at, y + side);
        cairo_rel_line_to(cairo, 0.0, 4.0);
        cairo_move_to(cairo, x, y + at);
        cairo_rel_line_to(cairo, -4.0, 0.0);
        cairo_stroke(cairo);
        cli_grouped(token, label);
        ink_text(cairo, style, x + at, y + side + 16.0, 0.5, label);
        ink_text_over(cairo, style, x - 7.0, y + at + 0.36 * TICK_SIZE, 1.0, label);
    }
    ink_text(cairo, title, x + 0.5 * side, y + side + 33.0, 0.5, "key");
    cairo_save(cairo);
    cairo_translate(cairo, x - widest - 17.0, y + 0.5 * side);
    cairo_rotate(cairo, -0.5 * 3.14159265358979);
    ink_text(cairo, title, 0.0, 0.0, 0.5, "query");
    cairo_restore(cairo);
}
