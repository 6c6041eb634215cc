/* Gradients against central differences of the library's own forward pass, in f64: what is derived is what is computed,
 * whatever the reference says. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "dilated_attention.h"
#include "support/implementations.h"

enum { BATCH = 2, N = 13, HEADS = 4, KV_HEADS = 2, HEAD_DIM = 3, ELEMENTS = BATCH * N * HEADS * HEAD_DIM };
enum { QUERY, KEY, VALUE, INPUTS };

static const double STEP = 1e-5;
/* Tensors are of size 1 and the loss a sum of 400 terms: third derivatives times STEP^2, and rounding over STEP. */
static const double TOLERANCE = 2e-8;

typedef struct problem {
    da_attention *attention;
    da_call_options options;
    double in[INPUTS][ELEMENTS], gradient[INPUTS][ELEMENTS];
    double out[ELEMENTS], lse[BATCH * N * HEADS], grad_out[ELEMENTS], grad_lse[BATCH * N * HEADS];
} problem;

static da_tensor view(double *data, int64_t heads, int64_t head_dim) {
    return da_tensor_make(data, DA_F64, BATCH, N, heads, head_dim);
}

static int64_t heads_of(int tensor) {
    return tensor == QUERY ? HEADS : KV_HEADS;
}

static void fill(double *values, int count, uint32_t seed) {
    for (int k = 0; k < count; k++) {
        seed = seed * 1664525u + 1013904223u;
        values[k] = (double)(seed >> 8) / (double)(1 << 23) - 1;
    }
}

/* <grad_out, out> + <grad_lse, lse>; a query without keys adds nothing. */
static double loss(problem *p) {
    da_tensor query = view(p->in[QUERY], HEADS, HEAD_DIM), key = view(p->in[KEY], KV_HEADS, HEAD_DIM);
    da_tensor value = view(p->in[VALUE], KV_HEADS, HEAD_DIM), out = view(p->out, HEADS, HEAD_DIM);
    da_tensor lse = view(p->lse, HEADS, 1);
    double sum = 0;
    assert_int_equal(da_attention_forward(p->attention, &query, &key, &value, &out, &lse, &p->options), DA_OK);
    for (int k = 0; k < ELEMENTS; k++) {
        sum += p->grad_out[k] * p->out[k];
    }
    for (int k = 0; k < BATCH * N * HEADS; k++) {
        sum += isinf(p->lse[k]) ? 0 : p->grad_lse[k] * p->lse[k];
    }
    return sum;
}

static void differentiate(problem *p) {
    da_tensor query = view(p->in[QUERY], HEADS, HEAD_DIM), key = view(p->in[KEY], KV_HEADS, HEAD_DIM);
    da_tensor value = view(p->in[VALUE], KV_HEADS, HEAD_DIM), out = view(p->out, HEADS, HEAD_DIM);
    da_tensor lse = view(p->lse, HEADS, 1), grad_lse = view(p->grad_lse, HEADS, 1);
    da_tensor grad_out = view(p->grad_out, HEADS, HEAD_DIM), gradient[INPUTS];
    da_backward_tensors t;
    da_backward_tensors_init(&t);
    for (int k = 0; k < INPUTS; k++) {
        gradient[k] = view(p->gradient[k], heads_of(k), HEAD_DIM);
    }
    t.query = &query;
    t.key = &key;
    t.value = &value;
    t.out = &out;
    t.lse = &lse;
    t.grad_out = &grad_out;
    t.grad_lse = &grad_lse;
    t.grad_query = &gradient[QUERY];
    t.grad_key = &gradient[KEY];
    t.grad_value = &gradient[VALUE];
    assert_int_equal(da_attention_backward(p->attention, &t, &p->options), DA_OK);
}

static void check(const char *implementation, const da_attention_config *config, const da_call_options *options) {
    static problem p;
    da_context *context;
    da_context_options of_context;
    da_context_options_init(&of_context);
    of_context.threads = 1; /* thousands of small calls */
    assert_int_equal(da_context_create(&of_context, &context), DA_OK);
    assert_int_equal(da_attention_create(context, implementation, config, &p.attention), DA_OK);
    p.options = *options;
    for (int t = 0; t < INPUTS; t++) {
        fill(p.in[t], ELEMENTS, 11u + (uint32_t)t);
    }
    fill(p.grad_out, ELEMENTS, 21);
    fill(p.grad_lse, BATCH * N * HEADS, 22);
    loss(&p);
    differentiate(&p);
    for (int t = 0; t < INPUTS; t++) {
        for (int k = 0; k < BATCH * N * heads_of(t) * HEAD_DIM; k++) {
            double kept = p.in[t][k];
            p.in[t][k] = kept + STEP;
            double above = loss(&p);
            p.in[t][k] = kept - STEP;
            double below = loss(&p), expected = (above - below) / (2 * STEP);
            p.in[t][k] = kept;
            if (!(fabs(p.gradient[t][k] - expected) <= TOLERANCE)) {
                fail_msg("gradient %d[%d] is %.12g; by differences %.12g", t, k, p.gradient[t][k], expected);
            }
        }
    }
    da_attention_free(p.attention);
    da_context_free(context);
}

static void make_config(da_attention_config *config, da_call_options *options) {
    da_attention_config_init(config);
    da_call_options_init(options);
    assert_int_equal(da_attention_config_set_patterns(config, (int64_t[]){4, 8, 16}, 3, (int64_t[]){1, 2, 4}, 3),
                     DA_OK);
}

static void test_central_differences(void **state) {
    static const int64_t lengths[BATCH] = {N, 6};
    da_attention_config config;
    da_call_options options;
    if (!implementation_has_backward(*state)) {
        skip();
    }
    make_config(&config, &options);
    check(*state, &config, &options);
    config.causal = true;
    config.offset_rule = DA_OFFSET_BLOCK;
    config.tail_rule = DA_TAIL_ZERO_PAD;
    check(*state, &config, &options);
    config.dropout = 0.3;
    options.training = true;
    options.dropout_seed = 5;
    check(*state, &config, &options);
    make_config(&config, &options);
    config.tail_rule = DA_TAIL_ZERO_PAD;
    config.window = 3;
    config.scale_is_set = true;
    config.scale = -0.8;
    options.key_lengths = lengths;
    check(*state, &config, &options);
    config.mixing = DA_MIXING_HEAD_GROUPS;
    config.dropout = 0.5;
    options.training = true;
    check(*state, &config, &options);
    make_config(&config, &options);
    config.overlap = DA_OVERLAP_ONCE;
    check(*state, &config, &options);
}

int main(void) {
    static char standard[] = "standard", improved[] = "improved";
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_central_differences, standard),
        cmocka_unit_test_prestate(test_central_differences, improved),
    };
    return cmocka_run_group_tests_name("central differences", tests, NULL, NULL);
}
