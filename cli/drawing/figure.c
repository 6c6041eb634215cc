#include "drawing/figure.h"

#include "drawing/layout.h"
#include "drawing/zoom.h"

/* The heads to put side by side: neighbours where neighbours differ, else spread over all. */
static void choose_heads(const visibility *view, figure *out) {
    bool neighbours = view->config->mixing == DA_MIXING_LONGNET && view->config->offset_rule == DA_OFFSET_MOD;
    out->head_count = view->heads < FIGURE_MAX_HEADS ? (size_t)view->heads : FIGURE_MAX_HEADS;
    for (size_t k = 0; k < out->head_count; k++) {
        int64_t step = view->heads / (int64_t)out->head_count, rest = view->heads % (int64_t)out->head_count;
        int64_t spread = (int64_t)k * step + (int64_t)k * rest / (int64_t)out->head_count;
        out->heads[k] = neighbours ? (int64_t)k : spread;
    }
}

static da_status prepare_heads(const visibility *view, figure *out) {
    choose_heads(view, out);
    token_range range = zoom_heads(view, out->panels[out->panel_count - 1].range);
    for (size_t k = 0; k < out->head_count; k++) {
        visibility other = visibility_of(view->config, view->n, view->heads, out->heads[k]);
        da_status status = panel_of_pairs(&other, range, &out->head_panels[k]);
        if (status != DA_OK) {
            return status;
        }
    }
    return DA_OK;
}

da_status figure_prepare(const visibility *view, int64_t query, bool side_by_side, figure *out) {
    *out = (figure){.view = view, .query = query};
    token_range ranges[FIGURE_MAX_PANELS];
    out->panel_count = view->n <= FIGURE_SMALL ? 1 : zoom_ranges(view, query, ranges);
    ranges[0] = (token_range){0, view->n};
    da_status status = DA_OK;
    for (size_t p = 0; p < out->panel_count && status == DA_OK; p++) {
        bool single_pairs = p + 1 == out->panel_count;
        status = single_pairs ? panel_of_pairs(view, ranges[p], &out->panels[p])
                              : panel_of_blocks(view, ranges[p], &out->panels[p]);
    }
    if (status == DA_OK && side_by_side) {
        status = prepare_heads(view, out);
    }
    if (status != DA_OK) {
        figure_free(out);
    }
    return status;
}

void figure_free(figure *drawing) {
    for (size_t p = 0; p < FIGURE_MAX_PANELS; p++) {
        panel_free(&drawing->panels[p]);
    }
    for (size_t k = 0; k < FIGURE_MAX_HEADS; k++) {
        panel_free(&drawing->head_panels[k]);
    }
}

picture_size figure_paint(cairo_t *cairo, void *user) {
    const figure *drawing = user;
    return drawing->panel_count == 1 ? layout_small(cairo, drawing) : layout_large(cairo, drawing);
}
