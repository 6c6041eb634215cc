#include "drawing/legend.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/text.h"
#include "drawing/ink.h"
#include "output.h"

static const ink_text_style HEADING = {20.0, true, {0.11, 0.11, 0.12}};
static const ink_text_style PLAIN = {11.5, false, {0.11, 0.11, 0.12}};
static const ink_text_style QUIET = {10.5, false, {0.40, 0.41, 0.43}};

static void describe(const visibility *view, da_text *text) {
    const da_attention_config *config = view->config;
    char n[CLI_GROUPED_TEXT], a[CLI_GROUPED_TEXT], b[CLI_GROUPED_TEXT];
    da_text_append(text, "%s token%s;  head %s of %s", cli_grouped(view->n, n), view->n == 1 ? "" : "s",
                   cli_grouped(view->head, a), cli_grouped(view->heads, b));
    da_text_append(text, ";  segment/rate");
    for (size_t p = 0; p < config->segment_count; p++) {
        da_text_append(text, " %s/%s%s", cli_grouped(config->segment_lengths[p], a),
                       cli_grouped(config->dilation_rates[p], b), p + 1 < config->segment_count ? "," : "");
    }
    da_text_append(text, ";  mixing %s", da_mixing_name(config->mixing));
    if (config->mixing == DA_MIXING_LONGNET) {
        da_text_append(text, ";  offset rule %s", da_offset_rule_name(config->offset_rule));
    }
    da_text_append(text, ";  tail rule %s;  overlap %s", da_tail_rule_name(config->tail_rule),
                   da_overlap_name(config->overlap));
    da_text_append(text, "%s", config->causal ? ";  causal" : "");
    if (config->window != DA_NO_WINDOW) {
        da_text_append(text, ";  window %s", cli_grouped(config->window, a));
    }
}

double legend_title(cairo_t *cairo, const visibility *view, double x, double y, double width) {
    da_text text = {0};
    describe(view, &text);
    ink_text(cairo, HEADING, x, y + 20.0, 0.0, "Dilated attention: which query sees which key");
    y += 43.0;
    if (text.data != NULL) {
        y = ink_paragraph(cairo, (ink_text_style){12.5, false, INK_GREY}, x, y, width, text.data);
    }
    da_text_free(&text);
    return y - 6.0;
}

double legend_patterns(cairo_t *cairo, const visibility *view, double x, double y) {
    const double columns[] = {x + 64.0, x + 114.0, x + 172.0};
    const char *titles[] = {"segment", "rate", "offset"};
    const size_t most = 24;
    for (size_t c = 0; c < 3; c++) {
        ink_text(cairo, QUIET, columns[c], y + 10.0, 1.0, titles[c]);
    }
    y += 14.0;
    for (size_t p = 0; p < view->pattern_count && p < most; p++) {
        const int64_t values[] = {view->patterns[p].segment, view->patterns[p].rate, view->patterns[p].offset};
        char text[CLI_GROUPED_TEXT];
        y += 17.0;
        for (size_t c = 0; c < 3; c++) {
            ink_text(cairo, PLAIN, columns[c], y, 1.0, cli_grouped(values[c], text));
        }
    }
    if (view->pattern_count > most) {
        y += 17.0;
        ink_text(cairo, QUIET, columns[0], y, 1.0, "\xE2\x80\xA6");
    }
    return y;
}

static double draw_swatch(cairo_t *cairo, ink_color color, double x, double y, const char *text) {
    ink_set(cairo, color);
    cairo_rectangle(cairo, x, y, 12.0, 12.0);
    cairo_fill_preserve(cairo);
    ink_set(cairo, INK_FAINT);
    cairo_set_line_width(cairo, 0.6);
    cairo_stroke(cairo);
    return 18.0 + ink_text(cairo, PLAIN, x + 18.0, y + 10.2, 0.0, text);
}

double legend_multiplicity(cairo_t *cairo, int64_t most, bool in_a_row, double x, double y, double width) {
    double left = x;
    for (int64_t count = 0; count <= most; count++) {
        char text[64];
        const char *unit = in_a_row ? "" : count == 1 ? " pattern" : " patterns";
        snprintf(text, sizeof(text), "%lld%s", (long long)count, unit);
        if (count == 0) {
            snprintf(text, sizeof(text), "not seen");
        }
        double used = draw_swatch(cairo, count == 0 ? INK_EMPTY : ink_multiplicity(count, most), x, y, text);
        x += in_a_row ? used + 14.0 : 0.0;
        y += in_a_row ? 0.0 : 18.0;
        if (in_a_row && count < most && x + 36.0 > left + width) {
            x = left;
            y += 18.0;
        }
    }
    return in_a_row ? y + 18.0 : y;
}

static void power_text(int exponent, char text[32]) {
    static const char *const digits[] = {"\xE2\x81\xB0", "\xC2\xB9",     "\xC2\xB2",     "\xC2\xB3",
                                         "\xE2\x81\xB4", "\xE2\x81\xB5", "\xE2\x81\xB6", "\xE2\x81\xB7",
                                         "\xE2\x81\xB8", "\xE2\x81\xB9"};
    if (exponent >= -3) {
        snprintf(text, 32, "%.*f", exponent < 0 ? -exponent : 0, pow(10.0, exponent));
        return;
    }
    int size = -exponent;
    snprintf(text, 32, "10\xE2\x81\xBB%s%s", size >= 10 ? digits[size / 10 % 10] : "", digits[size % 10]);
}

double legend_shades(cairo_t *cairo, panel_scale scale, double x, double y, double width) {
    const double height = 12.0, none = 26.0;
    draw_swatch(cairo, INK_EMPTY, x, y, "");
    ink_text(cairo, QUIET, x + 0.5 * 12.0, y + 26.5, 0.5, "0");
    x += none + 8.0;
    width -= none + 8.0;
    cairo_pattern_t *shades = cairo_pattern_create_linear(x, 0.0, x + width, 0.0);
    for (int stop = 0; stop <= 50; stop++) {
        ink_color color = ink_ramp(stop / 50.0);
        cairo_pattern_add_color_stop_rgb(shades, stop / 50.0, color.red, color.green, color.blue);
    }
    cairo_rectangle(cairo, x, y, width, height);
    cairo_set_source(cairo, shades);
    cairo_fill(cairo);
    cairo_pattern_destroy(shades);
    int every = (scale.high - scale.low - 1) / 6 + 1;
    for (int exponent = scale.low; exponent <= scale.high; exponent += every) {
        char text[32];
        double at = x + width * (exponent - scale.low) / (scale.high - scale.low);
        power_text(exponent, text);
        ink_set(cairo, INK_GREY);
        cairo_set_line_width(cairo, 0.8);
        cairo_move_to(cairo, at, y + height);
        cairo_rel_line_to(cairo, 0.0, 3.0);
        cairo_stroke(cairo);
        ink_text(cairo, QUIET, at, y + height + 14.5, 0.5, text);
    }
    return y + height + 20.0;
}
