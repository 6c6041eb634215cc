/* A NaN reaches the gradients that depend on it, and no other: what lies beside it in a tile keeps every bit, or in bf16,
 * where products of another order may take the place of tiles', its value. Whole stretches and units alike. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "dilated_attention.h"
#include "support/implementations.h"
#include "support/layouts.h"
#include "support/values.h"

enum { N = 150, HEADS = 4, KV_HEADS = 2, GROUP = HEADS / KV_HEADS, HEAD_DIM = 8, ROWS = N * HEADS * HEAD_DIM };
enum { QUERY, KEY, VALUE, GRAD_OUT, GRAD_LSE, INPUTS };
enum { GRAD_QUERY, GRAD_KEY, GRAD_VALUE, GRADIENTS };

typedef struct passes {
    float in[INPUTS][ROWS];
    float out[ROWS], lse[N * HEADS];
    float gradient[GRADIENTS][ROWS];
} passes;

/* Which rows of each gradient may be NaN. */
typedef struct reach {
    bool of[GRADIENTS][N][HEADS];
} reach;

/* More than rounding to bf16, less than what a NaN or a missing pair does. */
static const float CLOSE = 0.02f;

/* What is tested at a time. */
static const da_attention_config *config;
static da_dtype dtype;
static int64_t block;
static bool visible[HEADS][N][N];

static int heads_of(int tensor) {
    return tensor == KEY || tensor == VALUE ? KV_HEADS : HEADS;
}

static void fill(passes *p) {
    uint32_t state = 17;
    for (int t = 0; t < INPUTS; t++) {
        for (int k = 0; k < ROWS; k++) {
            state = state * 1664525u + 1013904223u;
            p->in[t][k] = (float)(state >> 25) / 64 - 1; /* exact in all types */
        }
    }
    memset(p->gradient, 0xFF, sizeof p->gradient);
}

static test_tensor tensor_of(const float *numbers, da_dtype type, int heads, int head_dim) {
    test_tensor tensor = test_tensor_make(LAYOUT_DENSE, type, 1, N, heads, head_dim);
    test_tensor_fill(&tensor, numbers, DA_F32);
    return tensor;
}

/* Reads a tensor's numbers, and frees it. */
static void take_numbers(test_tensor *tensor, float *numbers) {
    const int64_t *shape = tensor->view.shape;
    for (int64_t k = 0; k < N * shape[2] * shape[3]; k++) {
        numbers[k] = (float)value_load(tensor->view.data, tensor->view.dtype, k);
    }
    test_tensor_free(tensor);
}

static void run(passes *p, const char *implementation) {
    da_context *context;
    da_attention *attention;
    test_tensor in[INPUTS], gradient[GRADIENTS];
    test_tensor out = tensor_of(p->out, dtype, HEADS, HEAD_DIM), lse = tensor_of(p->lse, DA_F32, HEADS, 1);
    da_backward_tensors t;
    da_call_options options;
    da_call_options_init(&options);
    options.block = block;
    for (int k = 0; k < INPUTS; k++) {
        in[k] = tensor_of(p->in[k], k == GRAD_LSE ? DA_F32 : dtype, heads_of(k), k == GRAD_LSE ? 1 : HEAD_DIM);
    }
    for (int g = 0; g < GRADIENTS; g++) {
        gradient[g] = test_tensor_make(LAYOUT_DENSE, dtype, 1, N, g == GRAD_QUERY ? HEADS : KV_HEADS, HEAD_DIM);
    }
    da_backward_tensors_init(&t);
    t.query = &in[QUERY].view;
    t.key = &in[KEY].view;
    t.value = &in[VALUE].view;
    t.out = &out.view;
    t.lse = &lse.view;
    t.grad_out = &in[GRAD_OUT].view;
    t.grad_lse = &in[GRAD_LSE].view;
    t.grad_query = &gradient[GRAD_QUERY].view;
    t.grad_key = &gradient[GRAD_KEY].view;
    t.grad_value = &gradient[GRAD_VALUE].view;
    assert_int_equal(da_context_create(NULL, &context), DA_OK);
    assert_int_equal(da_attention_create(context, implementation, config, &attention), DA_OK);
    assert_int_equal(da_attention_forward(attention, t.query, t.key, t.value, &out.view, &lse.view, &options), DA_OK);
    assert_int_equal(da_attention_backward(attention, &t, &options), DA_OK);
    da_attention_free(attention);
    da_context_free(context);
    for (int k = 0; k < INPUTS; k++) {
        test_tensor_free(&in[k]);
    }
    for (int g = 0; g < GRADIENTS; g++) {
        take_numbers(&gradient[g], p->gradient[g]);
    }
    take_numbers(&out, p->out);
    take_numbers(&lse, p->lse);
}

static void find_visible(void) {
    for (int64_t h = 0; h < HEADS; h++) {
        for (int64_t i = 0; i < N; i++) {
            for (int64_t j = 0; j < N; j++) {
                int64_t count;
                assert_int_equal(da_pattern_multiplicity(config, N, HEADS, h, i, j, &count), DA_OK);
                visible[h][i][j] = count > 0;
            }
        }
    }
}

/* The query, whose numbers have become NaN by way of `tensor`, passes it on. */
static void spread_from_query(reach *r, int tensor, int i, int h) {
    for (int j = 0; j < N; j++) {
        if (visible[h][i][j]) {
            r->of[GRAD_QUERY][i][h] = true;
            r->of[GRAD_KEY][j][h / GROUP] = true;
            /* grad_value needs neither values nor grad_lse. */
            r->of[GRAD_VALUE][j][h / GROUP] |= tensor != VALUE && tensor != GRAD_LSE;
        }
    }
}

static void find_reach(reach *r, int tensor, int at, int head) {
    memset(r, 0, sizeof *r);
    for (int h = 0; h < HEADS; h++) {
        for (int i = 0; i < N; i++) {
            bool of_query = tensor == QUERY || tensor == GRAD_OUT || tensor == GRAD_LSE;
            if (of_query ? i == at && h == head : h / GROUP == head && visible[h][i][at]) {
                spread_from_query(r, tensor, i, h);
            }
        }
    }
}

static bool is_same(const float *clean, const float *got) {
    if (dtype == DA_F32) {
        return memcmp(clean, got, HEAD_DIM * sizeof *got) == 0;
    }
    bool close = true;
    for (int c = 0; c < HEAD_DIM; c++) {
        close = close && fabsf(clean[c] - got[c]) <= CLOSE;
    }
    return close;
}

static void check_row(const reach *r, const float *clean, const float *got, int gradient, int at, int h) {
    bool reached = r->of[gradient][at][h], any_nan = false;
    for (int c = 0; c < HEAD_DIM; c++) {
        any_nan |= isnan(got[c]);
    }
    if (reached != any_nan || (!reached && !is_same(clean, got))) {
        fail_msg("gradient %d of token %d, head %d: %s", gradient, at, h,
                 reached   ? "the NaN is lost"
                 : any_nan ? "a NaN that it has no part in"
                           : "other numbers");
    }
}

static void check(passes *clean, const char *implementation, int tensor, int at, int head) {
    static passes poisoned;
    static reach r;
    int width = tensor == GRAD_LSE ? 1 : HEAD_DIM;
    fill(&poisoned);
    /* A NaN of ones alone: rounding its bits up would make it a number. */
    memset(&poisoned.in[tensor][(at * heads_of(tensor) + head) * width + width / 2], 0xff, sizeof(float));
    find_reach(&r, tensor, at, head);
    run(&poisoned, implementation);
    for (int g = 0; g < GRADIENTS; g++) {
        int heads = g == GRAD_QUERY ? HEADS : KV_HEADS;
        for (int row = 0; row < N * heads; row++) {
            check_row(&r, &clean->gradient[g][row * HEAD_DIM], &poisoned.gradient[g][row * HEAD_DIM], g, row / heads,
                      row % heads);
        }
    }
}

static void check_config(const char *implementation) {
    static passes clean;
    static const int tokens[] = {0, 64, 100, N - 1};
    find_visible();
    fill(&clean);
    run(&clean, implementation);
    for (int tensor = 0; tensor < INPUTS; tensor++) {
        for (size_t k = 0; k < sizeof tokens / sizeof *tokens; k++) {
            check(&clean, implementation, tensor, tokens[k], (int)k % heads_of(tensor));
        }
    }
}

/* An implementation, and how it is to be taken. */
typedef struct way {
    const char *implementation;
    da_dtype dtype;
    int64_t unit;  /* `improved` goes by stretches where a unit is as long */
    int64_t block; /* of `ring` */
} way;

static void test_nan_goes_where_it_must(void **state) {
    const way *w = *state;
    da_attention_config c;
    config = &c;
    dtype = w->dtype;
    block = w->block;
    if (!implementation_has_backward(w->implementation)) {
        skip();
    }
    da_attention_config_init(&c);
    c.tuning.unit = w->unit;
    assert_int_equal(da_attention_config_set_patterns(&c, (int64_t[]){16, 48, 128}, 3, (int64_t[]){1, 2, 4}, 3), DA_OK);
    check_config(w->implementation);
    c.causal = true;
    c.window = 20;
    check_config(w->implementation);
    c.overlap = DA_OVERLAP_ONCE;
    check_config(w->implementation);
    /* Here most queries have no keys, and their NaN no effect at all. */
    da_attention_config_init(&c);
    c.tuning.unit = w->unit;
    assert_int_equal(da_attention_config_set_patterns(&c, (int64_t[]){64}, 1, (int64_t[]){4}, 1), DA_OK);
    check_config(w->implementation);
}

/* A query whose only score is -infinity has the lse of one without keys, and no gradient, as it has no output. `improved`
 * multiplies its weight of 0 by the infinite key, which docs/gradients.md says. */
static void test_scores_of_minus_infinity(void **state) {
    static passes clean, changed;
    enum { TOKEN = 70, HEAD = 2, AT = (TOKEN * HEADS + HEAD) * HEAD_DIM };
    enum { AT_KEY = (TOKEN * KV_HEADS + HEAD / GROUP) * HEAD_DIM };
    const way *w = *state;
    da_attention_config c;
    config = &c;
    dtype = w->dtype;
    block = w->block;
    if (!implementation_has_backward(w->implementation)) {
        skip();
    }
    da_attention_config_init(&c);
    assert_int_equal(da_attention_config_set_patterns(&c, (int64_t[]){1}, 1, (int64_t[]){1}, 1), DA_OK);
    fill(&clean);
    clean.in[QUERY][AT] = clean.in[QUERY][AT + HEAD_DIM] = 0.5f; /* of both heads that share the key */
    changed = clean;
    changed.in[KEY][AT_KEY] = -INFINITY;
    run(&clean, w->implementation);
    run(&changed, w->implementation);
    assert_true(changed.lse[TOKEN * HEADS + HEAD] == -INFINITY);
    for (int h = 0; h < GROUP; h++) {
        memset(&clean.gradient[GRAD_QUERY][AT + h * HEAD_DIM], 0, HEAD_DIM * sizeof(float));
    }
    memset(&clean.gradient[GRAD_KEY][AT_KEY], 0, HEAD_DIM * sizeof(float));
    memset(&clean.gradient[GRAD_VALUE][AT_KEY], 0, HEAD_DIM * sizeof(float));
    for (int g = 0; g < GRADIENTS; g++) {
        for (int k = 0; k < N * (g == GRAD_QUERY ? HEADS : KV_HEADS) * HEAD_DIM; k++) {
            assert_true(clean.gradient[g][k] == changed.gradient[g][k]);
        }
    }
}

int main(void) {
    static way standard = {"standard", DA_F32, 0, 0}, units = {"improved", DA_F32, 0, 0},
               stretches = {"improved", DA_F32, DA_MAX_UNIT, 0}, bf16_units = {"improved", DA_BF16, 0, 0},
               bf16_stretches = {"improved", DA_BF16, DA_MAX_UNIT, 0}, blocks = {"ring", DA_F32, 0, 32},
               bf16_blocks = {"ring", DA_BF16, 0, 32};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_nan_goes_where_it_must, &standard),
        cmocka_unit_test_prestate(test_nan_goes_where_it_must, &units),
        cmocka_unit_test_prestate(test_nan_goes_where_it_must, &stretches),
        cmocka_unit_test_prestate(test_nan_goes_where_it_must, &bf16_units),
        cmocka_unit_test_prestate(test_nan_goes_where_it_must, &bf16_stretches),
        cmocka_unit_test_prestate(test_nan_goes_where_it_must, &blocks),
        cmocka_unit_test_prestate(test_nan_goes_where_it_must, &bf16_blocks),
        cmocka_unit_test_prestate(test_scores_of_minus_infinity, &standard),
    };
    return cmocka_run_group_tests_name("NaN in gradients", tests, NULL, NULL);
}
