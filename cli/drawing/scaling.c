#include "drawing/scaling.h"

#include <math.h>
#include <stdio.h>

#include "drawing/ink.h"

#define WIDTH 560.0
#define HEIGHT 320.0
#define LEFT 76.0
#define TOP 28.0
#define ROW 18.0
#define CURVES 3

static const ink_text_style small = {10.5, false, {0.40, 0.41, 0.43}}, normal = {11.5, false, {0.11, 0.11, 0.12}};

static const struct {
    const char *name;
    ink_color color; /* of Okabe and Ito's, told apart without colour vision */
    bool dashed;
} curves[CURVES] = {{"ring", {0.000, 0.447, 0.698}, false},
                    {"distributed", {0.835, 0.369, 0.000}, true},
                    {"dense attention on as many ranks, which never wait", {0.40, 0.41, 0.43}, false}};

static double value_of(const scaling_point *point, int curve) {
    return curve < 2 ? point->seconds[curve] : point->dense_seconds;
}

/* Powers of ten between which all lies. */
typedef struct axes {
    double x_low, x_high, y_low, y_high;
} axes;

static axes axes_of(const scaling *all) {
    axes a = {INFINITY, -INFINITY, INFINITY, -INFINITY};
    for (size_t k = 0; k < all->count; k++) {
        double x = log10((double)all->points[k].tokens);
        a.x_low = fmin(a.x_low, floor(x));
        a.x_high = fmax(a.x_high, ceil(x));
        for (int curve = 0; curve < CURVES; curve++) {
            double y = log10(value_of(&all->points[k], curve));
            if (isfinite(y)) {
                a.y_low = fmin(a.y_low, floor(y));
                a.y_high = fmax(a.y_high, ceil(y));
            }
        }
    }
    a.x_high = fmax(a.x_high, a.x_low + 1);
    a.y_high = fmax(a.y_high, a.y_low + 1);
    return a;
}

static double x_of(const axes *a, double tokens) {
    return LEFT + (log10(tokens) - a->x_low) / (a->x_high - a->x_low) * WIDTH;
}

static double y_of(const axes *a, double seconds) {
    return TOP + (a->y_high - log10(seconds)) / (a->y_high - a->y_low) * HEIGHT;
}

static void draw_line(cairo_t *cairo, double x1, double y1, double x2, double y2) {
    ink_set(cairo, INK_FAINT);
    cairo_set_line_width(cairo, 0.6);
    cairo_move_to(cairo, x1, y1);
    cairo_line_to(cairo, x2, y2);
    cairo_stroke(cairo);
}

/* "1 ms", "100 k": a power of ten as people say it. */
static const char *format_power(double exponent, bool seconds, char text[24]) {
    static const char *const parts[] = {"us", "ms", "s"}, *const multiples[] = {"", "k", "M", "G", "T", "P"};
    int e = (int)exponent;
    if (seconds && e < 3) {
        int unit = e < -3 ? 0 : e < 0 ? 1 : 2;
        snprintf(text, 24, "%g %s", pow(10, e - 3 * (unit - 2)), parts[unit]);
    } else if (seconds || e > 17) {
        snprintf(text, 24, seconds ? "1e%d s" : "1e%d", e);
    } else {
        snprintf(text, 24, "%g%s", pow(10, e % 3), multiples[e / 3]);
    }
    return text;
}

static void draw_axes(cairo_t *cairo, const axes *a) {
    char text[24];
    double y_step = ceil((a->y_high - a->y_low) / 12);
    for (double x = a->x_low; x <= a->x_high; x++) {
        double at = x_of(a, pow(10, x));
        draw_line(cairo, at, TOP, at, TOP + HEIGHT);
        ink_text(cairo, small, at, TOP + HEIGHT + 16, 0.5, format_power(x, false, text));
    }
    for (double y = a->y_low; y <= a->y_high; y += y_step) {
        double at = y_of(a, pow(10, y));
        draw_line(cairo, LEFT, at, LEFT + WIDTH, at);
        ink_text(cairo, small, LEFT - 7, at + 3.8, 1, format_power(y, true, text));
    }
    ink_text(cairo, normal, LEFT + 0.5 * WIDTH, TOP + HEIGHT + 34, 0.5, "tokens of the sequence");
    ink_text(cairo, normal, 12, TOP - 12, 0, "time of a call");
}

static void draw_curve(cairo_t *cairo, const axes *a, const scaling *all, int curve) {
    const double dashes[] = {6, 4};
    ink_set(cairo, curves[curve].color);
    cairo_set_line_width(cairo, 1.8);
    cairo_set_dash(cairo, dashes, curves[curve].dashed ? 2 : 0, 0);
    cairo_new_path(cairo);
    for (size_t k = 0; k < all->count; k++) {
        cairo_line_to(cairo, x_of(a, (double)all->points[k].tokens), y_of(a, value_of(&all->points[k], curve)));
    }
    cairo_stroke(cairo);
    cairo_set_dash(cairo, dashes, 0, 0);
    for (size_t k = 0; k < all->count; k++) {
        cairo_new_sub_path(cairo);
        cairo_arc(cairo, x_of(a, (double)all->points[k].tokens), y_of(a, value_of(&all->points[k], curve)), 2.4, 0,
                  2 * 3.14159265358979);
    }
    cairo_fill(cairo);
}

static void draw_entry(cairo_t *cairo, int curve, double y) {
    const double dashes[] = {6, 4};
    ink_set(cairo, curves[curve].color);
    cairo_set_line_width(cairo, 2.4);
    cairo_set_dash(cairo, dashes, curves[curve].dashed ? 2 : 0, 0);
    cairo_move_to(cairo, LEFT, y - 4);
    cairo_line_to(cairo, LEFT + 22, y - 4);
    cairo_stroke(cairo);
    cairo_set_dash(cairo, dashes, 0, 0);
    ink_text(cairo, normal, LEFT + 30, y, 0, curves[curve].name);
}

picture_size scaling_paint(cairo_t *cairo, void *user) {
    const scaling *all = user;
    const scaling_point *first = &all->points[0], *last = &all->points[all->count - 1];
    axes a = axes_of(all);
    char text[96];
    double y = TOP + HEIGHT + 60;
    draw_axes(cairo, &a);
    for (int curve = CURVES - 1; curve >= 0; curve--) {
        draw_curve(cairo, &a, all, curve);
    }
    for (int curve = 0; curve < CURVES; curve++, y += ROW) {
        draw_entry(cairo, curve, y);
    }
    snprintf(text, sizeof text, "%lld to %lld ranks, each with as many tokens; by dilated-attention plan",
             (long long)first->ranks, (long long)last->ranks);
    ink_text(cairo, small, LEFT, y + 4, 0, text);
    return (picture_size){LEFT + WIDTH + 40, y + 16};
}
