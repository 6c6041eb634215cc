#include "drawing/curves.h"

#include <math.h>

#include "drawing/ink.h"
#include "output.h"

#define WIDTH 640.0
#define HEIGHT 320.0
#define LEFT 64.0
#define TOP 24.0
#define ROW 18.0
#define FINE 1000.0 /* ticks are multiples of 1 / FINE bits */

static const ink_text_style small = {10.5, false, {0.40, 0.41, 0.43}}, normal = {11.5, false, {0.11, 0.11, 0.12}};

/* Okabe and Ito's colours, told apart without colour vision. */
static const ink_color colors[CURVES_MAX] = {{0.000, 0.447, 0.698}, {0.835, 0.369, 0.000}, {0.000, 0.620, 0.451},
                                             {0.800, 0.475, 0.655}, {0.902, 0.624, 0.000}, {0.337, 0.706, 0.914}};

typedef struct axes {
    double tokens, low, high;
} axes;

static double bits_of(const train_log_point *point) {
    return point->loss / log(2);
}

/* Down to the least number; up to the largest validation, where there is one, so that the first steps, which fall
 * steeply, do not flatten the rest: losses above are cut off. */
static axes axes_of(const curves *all) {
    double tokens = 1, least = INFINITY, most_loss = 0, most_validation = 0;
    for (size_t k = 0; k < all->count; k++) {
        for (size_t i = 0; i < all->logs[k].count; i++) {
            const train_log_point *point = &all->logs[k].points[i];
            tokens = fmax(tokens, (double)point->tokens);
            least = fmin(fmin(least, bits_of(point)), point->validation);
            most_loss = fmax(most_loss, bits_of(point));
            most_validation = fmax(most_validation, point->validation);
        }
    }
    double most = most_validation > least ? most_validation : most_loss;
    double margin = 0.05 * fmax(most - least, 0.01);
    return (axes){tokens, least - margin, most + margin};
}

static double x_of(const axes *a, double tokens) {
    return LEFT + tokens / a->tokens * WIDTH;
}

static double y_of(const axes *a, double bits) {
    return TOP + (a->high - bits) / (a->high - a->low) * HEIGHT;
}

static void draw_line(cairo_t *cairo, double x1, double y1, double x2, double y2, double width, ink_color color) {
    ink_set(cairo, color);
    cairo_set_line_width(cairo, width);
    cairo_move_to(cairo, x1, y1);
    cairo_line_to(cairo, x2, y2);
    cairo_stroke(cairo);
}

static void draw_axes(cairo_t *cairo, const axes *a) {
    char text[CLI_GROUPED_TEXT];
    int64_t step = ink_round_step(a->tokens / 6), fine = ink_round_step((a->high - a->low) * FINE / 7);
    for (int64_t tokens = 0; (double)tokens <= a->tokens; tokens += step) {
        double x = x_of(a, (double)tokens);
        draw_line(cairo, x, TOP + HEIGHT, x, TOP + HEIGHT + 4.0, 0.8, INK_GREY);
        ink_text(cairo, small, x, TOP + HEIGHT + 16.0, 0.5, cli_grouped(tokens, text));
    }
    for (int64_t at = (int64_t)ceil(a->low * FINE / (double)fine) * fine; (double)at <= a->high * FINE; at += fine) {
        double y = y_of(a, (double)at / FINE);
        snprintf(text, sizeof text, "%g", (double)at / FINE);
        draw_line(cairo, LEFT, y, LEFT + WIDTH, y, 0.6, INK_FAINT);
        ink_text(cairo, small, LEFT - 7.0, y + 3.8, 1.0, text);
    }
    draw_line(cairo, LEFT, TOP + HEIGHT, LEFT + WIDTH, TOP + HEIGHT, 0.8, INK_GREY);
    ink_text(cairo, normal, LEFT + 0.5 * WIDTH, TOP + HEIGHT + 34.0, 0.5, "bytes trained on");
    ink_text(cairo, normal, 12.0, TOP - 10.0, 0.0, "bits a byte");
}

static void draw_losses(cairo_t *cairo, const axes *a, const train_log *log, ink_color color) {
    cairo_set_source_rgba(cairo, color.red, color.green, color.blue, 0.35);
    cairo_set_line_width(cairo, 0.9);
    for (size_t i = 0; i < log->count; i++) {
        cairo_line_to(cairo, x_of(a, (double)log->points[i].tokens), y_of(a, bits_of(&log->points[i])));
    }
    cairo_stroke(cairo);
}

static void draw_validation(cairo_t *cairo, const axes *a, const train_log *log, ink_color color) {
    ink_set(cairo, color);
    cairo_set_line_width(cairo, 1.8);
    for (int dots = 0; dots < 2; dots++) {
        for (size_t i = 0; i < log->count; i++) {
            const train_log_point *point = &log->points[i];
            double x = x_of(a, (double)point->tokens), y = y_of(a, point->validation);
            if (isnan(point->validation)) {
                continue;
            }
            if (dots) {
                cairo_new_sub_path(cairo);
                cairo_arc(cairo, x, y, 2.4, 0.0, 2.0 * 3.14159265358979);
            } else {
                cairo_line_to(cairo, x, y);
            }
        }
        if (dots) {
            cairo_fill(cairo);
        } else {
            cairo_stroke(cairo);
        }
    }
}

/* The name, and where the curve ends. */
static void draw_entry(cairo_t *cairo, const train_log *log, const char *name, ink_color color, double y) {
    const train_log_point *last = &log->points[log->count - 1];
    char text[128];
    size_t at = log->count;
    while (at > 0 && isnan(log->points[at - 1].validation)) {
        at--;
    }
    draw_line(cairo, LEFT, y - 4.0, LEFT + 22.0, y - 4.0, 2.4, color);
    double x = LEFT + 30.0 + ink_text(cairo, normal, LEFT + 30.0, y, 0.0, name);
    int length = snprintf(text, sizeof text, "step %.3f", bits_of(last));
    if (at > 0) {
        snprintf(text + length, sizeof text - (size_t)length, ", validation %.3f (step %lld)",
                 log->points[at - 1].validation, (long long)log->points[at - 1].step);
    }
    ink_text(cairo, small, x + 12.0, y, 0.0, text);
}

picture_size curves_paint(cairo_t *cairo, void *user) {
    const curves *all = user;
    axes a = axes_of(all);
    double y = TOP + HEIGHT + 60.0;
    draw_axes(cairo, &a);
    cairo_save(cairo);
    cairo_rectangle(cairo, LEFT, TOP, WIDTH, HEIGHT);
    cairo_clip(cairo);
    for (size_t k = 0; k < all->count; k++) {
        draw_losses(cairo, &a, &all->logs[k], colors[k]);
    }
    for (size_t k = 0; k < all->count; k++) {
        draw_validation(cairo, &a, &all->logs[k], colors[k]);
    }
    cairo_restore(cairo);
    for (size_t k = 0; k < all->count; k++, y += ROW) {
        draw_entry(cairo, &all->logs[k], all->names[k], colors[k], y);
    }
    ink_text(cairo, small, LEFT, y + 4.0, 0.0, "thin: the loss of each step; strong: validation");
    return (picture_size){LEFT + WIDTH + 40.0, y + 16.0};
}
