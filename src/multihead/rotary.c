#include "multihead/rotary.h"

#include <math.h>

/* Of xPos: s is zeta^(position / scale base), with zeta_p = (2p / d + gamma) / (1 + gamma). */
#define GAMMA 0.4

static double zeta(int64_t pair, int64_t head_dim) {
    return (2.0 * (double)pair / (double)head_dim + GAMMA) / (1 + GAMMA);
}

void da_rotary_begin(da_rotary *out, const da_multihead_config *config, const da_tokens *tokens) {
    int64_t head_dim = config->embed_dim / config->num_heads;
    *out = (da_rotary){
        .applies = config->position != DA_POSITION_NONE,
        .scales = config->position == DA_POSITION_XPOS,
        .layout = config->rotary_layout,
        .head_dim = head_dim,
        .tokens = *tokens,
    };
    for (int64_t p = 0; out->applies && p < head_dim / 2; p++) {
        out->frequency[p] = pow(config->rope_base, -2.0 * (double)p / (double)head_dim);
        out->growth[p] = out->scales ? log(zeta(p, head_dim)) / config->xpos_scale_base : 0;
    }
}

int64_t da_rotary_longest(const da_multihead_config *config) {
    double bits = config->dtype == DA_F64 ? 1000 : config->dtype == DA_F16 ? 8 : 100;
    if (config->position != DA_POSITION_XPOS) {
        return INT64_MAX;
    }
    /* |position - ceil(n / 2)| is at most ceil(n / 2), and zeta_0 is the smallest. */
    double longest = 2 * floor(bits * config->xpos_scale_base / -log2(zeta(0, 1)));
    return longest < 0x1p62 ? (int64_t)longest : INT64_MAX;
}

/* cos and sin of a position's angles, times s, and what makes s of it 1 / s. */
typedef struct turn {
    double cosine[DA_MAX_PAIRS], sine[DA_MAX_PAIRS], scale[DA_MAX_PAIRS];
} turn;

static void turn_of(const da_rotary *rotary, int64_t position, bool backward, turn *out) {
    double centred = (double)(position - (rotary->tokens.n + 1) / 2), sign = backward ? -1 : 1;
    for (int64_t p = 0; p < rotary->head_dim / 2; p++) {
        double angle = (double)position * rotary->frequency[p];
        out->cosine[p] = cos(angle);
        out->sine[p] = sign * sin(angle);
        out->scale[p] = rotary->scales ? exp(centred * rotary->growth[p]) : 1;
    }
}

/* A turned pair and its gradient are scaled alike; the gradient is turned back. */
#define DEFINE_APPLY(suffix, real)                                                                                     \
    static void turn_heads_##suffix(const da_rotary *rotary, const real *cosine, const real *sine, int64_t heads,      \
                                    real *x) {                                                                         \
        bool halves = rotary->layout == DA_ROTARY_HALVES;                                                              \
        int64_t pairs = rotary->head_dim / 2, step = halves ? 1 : 2, apart = halves ? pairs : 1;                       \
        for (int64_t h = 0; h < heads; h++, x += rotary->head_dim) {                                                   \
            for (int64_t p = 0; p < pairs; p++) {                                                                      \
                real first = x[p * step], second = x[p * step + apart];                                                \
                x[p * step] = first * cosine[p] - second * sine[p];                                                    \
                x[p * step + apart] = second * cosine[p] + first * sine[p];                                            \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void apply_##suffix(const da_rotary *rotary, bool backward, int64_t first, int64_t count,                   \
                               const da_rotary_rows *rows) {                                                           \
        real *query = rows->query, *key = rows->key, cosine[DA_MAX_PAIRS], sine[DA_MAX_PAIRS];                         \
        for (int64_t r = 0; r < count; r++, query += rows->ld, key += rows->ld) {                                      \
            turn now;                                                                                                  \
            turn_of(rotary, da_tokens_position(&rotary->tokens, first + r), backward, &now);                           \
            for (int64_t p = 0; p < rotary->head_dim / 2; p++) {                                                       \
                cosine[p] = (real)(now.cosine[p] * now.scale[p]);                                                      \
                sine[p] = (real)(now.sine[p] * now.scale[p]);                                                          \
            }                                                                                                          \
            turn_heads_##suffix(rotary, cosine, sine, rows->query_heads, query);                                       \
            for (int64_t p = 0; rotary->scales && p < rotary->head_dim / 2; p++) {                                     \
                cosine[p] = (real)(now.cosine[p] / now.scale[p]);                                                      \
                sine[p] = (real)(now.sine[p] / now.scale[p]);                                                          \
            }                                                                                                          \
            turn_heads_##suffix(rotary, cosine, sine, rows->key_heads, key);                                           \
        }                                                                                                              \
    }

DEFINE_APPLY(f32, float)
DEFINE_APPLY(f64, double)

void da_rotary_apply(da_dtype real, const da_rotary *rotary, bool backward, int64_t first, int64_t count,
                     const da_rotary_rows *rows) {
    if (real == DA_F64) {
        apply_f64(rotary, backward, first, count, rows);
    } else {
        apply_f32(rotary, backward, first, count, rows);
    }
}
