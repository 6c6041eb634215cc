#include "drawing/reach.h"

#include <math.h>
#include <stdio.h>

#include "drawing/ink.h"
#include "output.h"

#define SEARCHED 4096
#define NAME_WIDTH 150.0
#define TABLE_WIDTH 300.0

static const head_pattern *longest_pattern(const visibility *view) {
    const head_pattern *longest = &view->patterns[0];
    for (size_t p = 1; p < view->pattern_count; p++) {
        longest = view->patterns[p].segment > longest->segment ? &view->patterns[p] : longest;
    }
    return longest;
}

int64_t reach_query(const visibility *view) {
    /* Two thirds into a segment are not near a boundary of the segments nested in it, halves and quarters as they are
     * mostly; and under causal nine tenths show the reach backwards. */
    token_range segment = visibility_segment(view, longest_pattern(view), view->n / 2);
    double part = view->config->causal ? 0.9 : 2.0 / 3.0;
    int64_t wish = segment.first + (int64_t)(part * (double)(segment.end - segment.first));
    int64_t best = wish;
    size_t most = visibility_keepers(view, wish);
    for (int64_t step = 1; step <= 2 * SEARCHED && most < view->pattern_count; step++) {
        int64_t query = step % 2 != 0 ? wish - (step + 1) / 2 : wish + step / 2; /* nearest first */
        if (query >= segment.first && query < segment.end && visibility_keepers(view, query) > most) {
            most = visibility_keepers(view, query);
            best = query;
        }
    }
    return best;
}

typedef struct distance_axis {
    double x, width, row_height;
    double back, ahead; /* logarithms of 1 + the farthest distances */
} distance_axis;

static double place(const distance_axis *axis, double distance) {
    double stretch = log1p(fabs(distance));
    double whole = axis->back + axis->ahead;
    return axis->x + (whole > 0.0 ? (axis->back + (distance < 0.0 ? -stretch : stretch)) / whole : 0.5) * axis->width;
}

/* A line for each key from the query outwards; where lines would touch, a bar to the farthest. */
static void draw_keys_of_side(cairo_t *cairo, const distance_axis *axis, int64_t rate, int64_t farthest, int sign,
                              double y, double height) {
    const double thin = 1.2, closest = 1.8;
    for (int64_t distance = rate; distance <= farthest; distance += rate) {
        double here = place(axis, sign * (double)distance), next = place(axis, sign * (double)(distance + rate));
        if (fabs(next - here) < closest) {
            double end = place(axis, sign * (double)farthest);
            cairo_rectangle(cairo, here < end ? here : end, y, fabs(end - here) + 0.5 * thin, height);
            break;
        }
        cairo_rectangle(cairo, here - 0.5 * thin, y, thin, height);
    }
    cairo_fill(cairo);
}

static void distance_text(int64_t distance, int sign, char text[CLI_GROUPED_TEXT + 8]) {
    char number[CLI_GROUPED_TEXT];
    snprintf(text, CLI_GROUPED_TEXT + 8, "%s%s",
             distance == 0 ? ""
             : sign < 0    ? "\xE2\x88\x92"
                           : "+",
             cli_grouped(distance, number));
}

static void draw_ticks(cairo_t *cairo, const distance_axis *axis, int64_t back, int64_t ahead, double top,
                       double bottom) {
    const ink_text_style style = {10.5, false, INK_GREY};
    for (int sign = -1; sign <= 1; sign += 2) {
        int64_t farthest = sign < 0 ? back : ahead;
        double last = place(axis, 0.0);
        for (int64_t distance = sign < 0 ? 0 : 1; distance <= farthest; distance = distance == 0 ? 1 : 10 * distance) {
            char text[CLI_GROUPED_TEXT + 8];
            distance_text(distance, sign, text);
            double at = place(axis, sign * (double)distance), half = 0.5 * ink_text_width(cairo, style, text);
            cairo_set_line_width(cairo, 0.6);
            ink_set(cairo, INK_FAINT);
            cairo_move_to(cairo, at, top);
            cairo_line_to(cairo, at, bottom);
            cairo_stroke(cairo);
            if (distance == 0 || fabs(at - last) > half + 12.0) {
                ink_text(cairo, style, at, bottom + 13.5, 0.5, text);
                last = at + sign * half;
            }
        }
    }
}

static void draw_table(cairo_t *cairo, double right, double y, ink_text_style style, const char *keys, const char *back,
                       const char *ahead) {
    ink_text(cairo, style, right - 192.0, y, 1.0, keys);
    ink_text(cairo, style, right - 98.0, y, 1.0, back);
    ink_text(cairo, style, right, y, 1.0, ahead);
}

static void draw_pattern(cairo_t *cairo, const head_pattern *pattern, pattern_reach reach, const distance_axis *axis,
                         double left, double right, double y) {
    const ink_text_style name = {11.5, false, INK_BLACK}, missing = {11.5, false, INK_GREY};
    char segment[CLI_GROUPED_TEXT], rate[CLI_GROUPED_TEXT], line[96];
    char keys[CLI_GROUPED_TEXT], back[CLI_GROUPED_TEXT + 8], ahead[CLI_GROUPED_TEXT + 8];
    snprintf(line, sizeof(line), "%s, every %s", cli_grouped(pattern->segment, segment),
             cli_grouped(pattern->rate, rate));
    ink_text(cairo, name, left, y + 4.0, 0.0, line);
    if (!reach.kept) {
        ink_text(cairo, missing, axis->x + 0.5 * axis->width, y + 4.0, 0.5, "does not keep this query");
        return;
    }
    const double height = 0.62 * axis->row_height;
    ink_set(cairo, ink_ramp(0.62));
    draw_keys_of_side(cairo, axis, pattern->rate, reach.back, -1, y - 0.5 * height, height);
    draw_keys_of_side(cairo, axis, pattern->rate, reach.ahead, 1, y - 0.5 * height, height);
    ink_set(cairo, INK_ZOOM[0]);
    cairo_rectangle(cairo, place(axis, 0.0) - 1.0, y - 0.5 * height, 2.0, height);
    cairo_fill(cairo);
    distance_text(reach.back, -1, back);
    distance_text(reach.ahead, 1, ahead);
    draw_table(cairo, right, y + 4.0, name, cli_grouped(reach.keys, keys), back, ahead);
}

double reach_draw(cairo_t *cairo, const visibility *view, int64_t query, double x, double y, double width) {
    const ink_text_style heading = {10.5, false, INK_GREY}, strong = {11.5, true, INK_BLACK};
    pattern_reach reach[DA_MAX_PATTERNS];
    int64_t back = 0, ahead = 0;
    for (size_t p = 0; p < view->pattern_count; p++) {
        reach[p] = visibility_reach(view, &view->patterns[p], query);
        back = reach[p].back > back ? reach[p].back : back;
        ahead = reach[p].ahead > ahead ? reach[p].ahead : ahead;
    }
    distance_axis axis = {x + NAME_WIDTH, width - NAME_WIDTH - TABLE_WIDTH, view->pattern_count <= 16 ? 22.0 : 15.0,
                          log1p((double)back), log1p((double)ahead)};
    double top = y + 18.0, bottom = top + (double)view->pattern_count * axis.row_height;
    ink_text(cairo, heading, x, y + 9.0, 0.0, "segment and rate");
    draw_table(cairo, x + width, y + 9.0, heading, "keys seen", "reach back", "reach ahead");
    draw_ticks(cairo, &axis, back, ahead, top, bottom);
    for (size_t p = 0; p < view->pattern_count; p++) {
        draw_pattern(cairo, &view->patterns[p], reach[p], &axis, x, x + width,
                     top + ((double)p + 0.5) * axis.row_height);
    }
    char keys[CLI_GROUPED_TEXT], first[CLI_GROUPED_TEXT + 8], last[CLI_GROUPED_TEXT + 8];
    int64_t distinct = visibility_distinct_keys(view, query, (token_range){0, view->n});
    distance_text(back, -1, first);
    distance_text(ahead, 1, last);
    ink_text(cairo, (ink_text_style){11.5, false, INK_BLACK}, axis.x + 0.5 * axis.width, bottom + 31.0, 0.5,
             "distance from query to key (logarithmic)");
    draw_table(cairo, x + width, bottom + 16.0, strong, cli_grouped(distinct, keys), first, last);
    ink_text(cairo, (ink_text_style){10.5, false, INK_GREY}, x + width, bottom + 31.0, 1.0,
             "all patterns, each key once");
    return bottom + 38.0;
}
