#include "drawing/panel.h"

#include <math.h>
#include <string.h>

#include "core/memory.h"
#include "core/parallel.h"
#include "drawing/ink.h"

#define FEWEST_CELLS 80

typedef struct count_job {
    const visibility *view;
    panel *square;
} count_job;

static token_range cell_tokens(const panel *square, int cell) {
    int64_t first = square->range.first + cell * square->block;
    int64_t left = square->range.end - first;
    return (token_range){first, first + (left < square->block ? left : square->block)};
}

static void count_pairs_of_row(int64_t row, int thread, void *user) {
    const count_job *job = user;
    panel *square = job->square;
    for (int column = 0; column < square->cells; column++) {
        int64_t count = 0;
        da_pattern_multiplicity(job->view->config, job->view->n, job->view->heads, job->view->head,
                                square->range.first + row, square->range.first + column, &count);
        square->values[row * square->cells + column] = (double)count;
    }
}

static void count_blocks_of_row(int64_t row, int thread, void *user) {
    const count_job *job = user;
    panel *square = job->square;
    token_range queries = cell_tokens(square, (int)row);
    for (int column = 0; column < square->cells; column++) {
        token_range keys = cell_tokens(square, column);
        double area = (double)(queries.end - queries.first) * (double)(keys.end - keys.first);
        square->values[row * square->cells + column] = visibility_distinct_pairs(job->view, queries, keys) / area;
    }
}

static void sum_up(panel *square) {
    for (int row = 0; row < square->cells; row++) {
        token_range queries = cell_tokens(square, row);
        for (int column = 0; column < square->cells; column++) {
            double value = square->values[row * square->cells + column];
            token_range keys = cell_tokens(square, column);
            double area = (double)(queries.end - queries.first) * (double)(keys.end - keys.first);
            if (value > 0.0) {
                square->pairs += square->block == 1 ? 1.0 : value * area;
                square->most = value > square->most ? value : square->most;
                square->least = square->least == 0.0 || value < square->least ? value : square->least;
            }
        }
    }
}

static da_status count(const visibility *view, panel *square, void (*count_row)(int64_t, int, void *)) {
    count_job job = {view, square};
    square->cells = (int)((square->range.end - square->range.first - 1) / square->block) + 1;
    square->values = da_allocate(NULL, (size_t)square->cells * (size_t)square->cells, sizeof(double));
    if (square->values == NULL) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    da_parallel_for(da_usable_cores(), square->cells, count_row, &job);
    sum_up(square);
    return DA_OK;
}

da_status panel_of_pairs(const visibility *view, token_range range, panel *out) {
    *out = (panel){.range = range, .block = 1};
    return count(view, out, count_pairs_of_row);
}

/* How evenly segments and rates fall on blocks of this size: uneven ones draw patterns of their own (moire). */
static size_t evenness(const visibility *view, int64_t length, int64_t block) {
    size_t score = length % block == 0;
    for (size_t p = 0; p < view->pattern_count; p++) {
        const head_pattern *pattern = &view->patterns[p];
        score += pattern->segment % block == 0 || block % pattern->segment == 0;
        score += block % pattern->rate == 0;
    }
    return score;
}

/* The size of block, for FEWEST_CELLS to PANEL_MAX_CELLS of them, on which segments and rates fall most evenly. */
static int64_t choose_block(const visibility *view, int64_t length) {
    int64_t smallest = (length - 1) / PANEL_MAX_CELLS + 1, largest = (length - 1) / FEWEST_CELLS + 1;
    int64_t best = smallest;
    for (size_t p = 0; p <= 2 * view->pattern_count; p++) {
        const head_pattern *pattern = &view->patterns[p / 2 % view->pattern_count];
        int64_t unit = p == 2 * view->pattern_count ? length : p % 2 == 0 ? pattern->segment : pattern->rate;
        unit = unit < length ? unit : length;
        for (int64_t parts = unit / largest; parts <= unit / smallest || parts <= 1; parts++) {
            int64_t block = parts <= 1 ? (smallest - 1) / unit * unit + unit : unit / parts;
            bool fits = smallest <= block && block <= largest;
            if (fits && evenness(view, length, block) > evenness(view, length, best)) {
                best = block;
            }
        }
    }
    return best;
}

da_status panel_of_blocks(const visibility *view, token_range range, panel *out) {
    *out = (panel){.range = range, .block = choose_block(view, range.end - range.first)};
    return count(view, out, count_blocks_of_row);
}

void panel_free(panel *square) {
    da_release(NULL, square->values);
    square->values = NULL;
}

panel_scale panel_scale_of(const panel *squares, size_t count) {
    double least = 0.0, most = 0.0;
    for (size_t s = 0; s < count; s++) {
        most = squares[s].most > most ? squares[s].most : most;
        least = least == 0.0 || (squares[s].least > 0.0 && squares[s].least < least) ? squares[s].least : least;
    }
    panel_scale scale = {-1, 0};
    if (most > 0.0) {
        scale.low = (int)floor(log10(least) + 1e-9);
        scale.high = (int)ceil(log10(most) - 1e-9);
        scale.low -= scale.low == scale.high;
    }
    return scale;
}

static void draw_frame(cairo_t *cairo, double x, double y, double side) {
    cairo_set_line_width(cairo, 0.8);
    ink_set(cairo, INK_GREY);
    cairo_rectangle(cairo, x, y, side, side);
    cairo_stroke(cairo);
}

static void fill_cells_of(cairo_t *cairo, const panel *square, double x, double y, double side, double value) {
    double cell = side / square->cells;
    double gap = cell >= 8.0 ? 1.0 : cell >= 3.0 ? 0.5 : 0.0;
    for (int row = 0; row < square->cells; row++) {
        for (int column = 0; column < square->cells; column++) {
            if (square->values[row * square->cells + column] == value) {
                cairo_rectangle(cairo, x + column * cell + 0.5 * gap, y + row * cell + 0.5 * gap, cell - gap,
                                cell - gap);
            }
        }
    }
    cairo_fill(cairo);
}

void panel_draw_pairs(cairo_t *cairo, const panel *square, double x, double y, double side, int64_t most) {
    cairo_save(cairo);
    ink_set(cairo, INK_EMPTY);
    fill_cells_of(cairo, square, x, y, side, 0.0);
    for (int64_t multiplicity = 1; multiplicity <= (int64_t)square->most; multiplicity++) {
        ink_set(cairo, ink_multiplicity(multiplicity, most));
        fill_cells_of(cairo, square, x, y, side, (double)multiplicity);
    }
    cairo_restore(cairo);
    draw_frame(cairo, x, y, side);
}

static uint32_t pixel_of(double value, panel_scale scale) {
    ink_color color = INK_EMPTY;
    if (value > 0.0) {
        color = ink_ramp((log10(value) - scale.low) / (scale.high - scale.low));
    }
    return (uint32_t)lround(255.0 * color.red) << 16 | (uint32_t)lround(255.0 * color.green) << 8 |
           (uint32_t)lround(255.0 * color.blue);
}

/* The cells as an image of `pixels` x `pixels`, for cairo to own. */
static cairo_surface_t *cell_image(const panel *square, int pixels, panel_scale scale) {
    cairo_surface_t *image = cairo_image_surface_create(CAIRO_FORMAT_RGB24, pixels, pixels);
    unsigned char *data = cairo_image_surface_get_data(image);
    size_t stride = (size_t)cairo_image_surface_get_stride(image);
    int64_t length = square->range.end - square->range.first;
    for (int row = 0; data != NULL && row < pixels; row++) {
        int64_t cell_row = (int64_t)((double)row / pixels * (double)length) / square->block;
        for (int column = 0; column < pixels; column++) {
            int64_t cell_column = (int64_t)((double)column / pixels * (double)length) / square->block;
            uint32_t pixel = pixel_of(square->values[cell_row * square->cells + cell_column], scale);
            memcpy(data + (size_t)row * stride + (size_t)column * sizeof(pixel), &pixel, sizeof(pixel));
        }
    }
    cairo_surface_mark_dirty(image);
    return image;
}

void panel_draw_blocks(cairo_t *cairo, const panel *square, double x, double y, double side, panel_scale scale) {
    const int pixels_to_a_point = 2;
    cairo_surface_t *image = cell_image(square, (int)(pixels_to_a_point * side), scale);
    cairo_save(cairo);
    cairo_translate(cairo, x, y);
    cairo_scale(cairo, 1.0 / pixels_to_a_point, 1.0 / pixels_to_a_point);
    cairo_set_source_surface(cairo, image, 0.0, 0.0);
    cairo_pattern_set_filter(cairo_get_source(cairo), CAIRO_FILTER_NEAREST);
    cairo_paint(cairo);
    cairo_restore(cairo);
    cairo_surface_destroy(image);
    draw_frame(cairo, x, y, side);
}

void panel_draw_segments(cairo_t *cairo, const panel *square, const visibility *view, double x, double y, double side) {
    double token_side = side / (double)(square->range.end - square->range.first);
    cairo_save(cairo);
    cairo_rectangle(cairo, x, y, side, side);
    cairo_clip(cairo);
    cairo_translate(cairo, x, y);
    ink_set(cairo, INK_BLACK);
    for (size_t p = 0; p < view->pattern_count; p++) {
        size_t shorter = 0;
        for (size_t other = 0; other < view->pattern_count; other++) {
            shorter += view->patterns[other].segment < view->patterns[p].segment;
        }
        cairo_set_line_width(cairo, 0.6 + 0.5 * (double)(shorter < 4 ? shorter : 4));
        for (int64_t token = square->range.first; token < square->range.end;) {
            token_range segment = visibility_segment(view, &view->patterns[p], token);
            double first = (double)(segment.first - square->range.first) * token_side;
            double length = (double)(segment.end - segment.first) * token_side;
            cairo_rectangle(cairo, first, first, length, length);
            token = segment.end;
        }
        cairo_stroke(cairo);
    }
    cairo_restore(cairo);
}
