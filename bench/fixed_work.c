/* One forward pass of fixed work on one thread, to count its instructions (see instructions.py).
 * Usage: bench-fixed-work CASE      without CASE: lists the cases */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <dilated_attention.h>

typedef struct fixed_case {
    const char *name;
    int64_t n, heads, head_dim;
    int64_t segment_lengths[3], dilation_rates[3];
    da_dtype dtype;
    da_preset preset;
    bool causal;
} fixed_case;

static const fixed_case cases[] = {
    {"f32", 1024, 4, 64, {256, 512, 1024}, {1, 2, 4}, DA_F32, DA_PRESET_LONGNET, false},
    {"f32-causal", 1024, 4, 64, {256, 512, 1024}, {1, 2, 4}, DA_F32, DA_PRESET_LONGNET, true},
    {"bf16-torchscale", 1000, 4, 48, {128, 600, 4096}, {1, 2, 4}, DA_BF16, DA_PRESET_TORCHSCALE, false},
};
enum { CASE_COUNT = sizeof(cases) / sizeof(cases[0]) };

/* Small numbers that repeat after no power of two. */
static void fill(void *tensor, da_dtype dtype, int64_t count, uint32_t seed) {
    for (int64_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        float value = (float)(int32_t)seed * 0x1p-31f;
        if (dtype == DA_F32) {
            ((float *)tensor)[i] = value;
        } else {
            uint32_t bits;
            memcpy(&bits, &value, sizeof(bits));
            ((uint16_t *)tensor)[i] = (uint16_t)(bits >> 16); /* bf16, rounded towards zero */
        }
    }
}

static da_status create(const fixed_case *work, da_context **context, da_attention **attention, double *pairs) {
    da_context_options options;
    da_attention_config config;
    da_context_options_init(&options);
    options.threads = 1;
    da_attention_config_init(&config);
    da_status status = da_context_create(&options, context);
    if (status == DA_OK) {
        status = da_attention_config_set_patterns(&config, work->segment_lengths, 3, work->dilation_rates, 3);
    }
    if (status == DA_OK) {
        status = da_attention_config_set_preset(&config, work->preset);
    }
    config.causal = work->causal;
    da_problem problem;
    da_cost cost;
    da_problem_init(&problem);
    da_cost_init(&cost);
    problem.n = work->n;
    problem.heads = work->heads;
    problem.head_dim = work->head_dim;
    if (status == DA_OK) {
        status = da_pattern_cost(&config, &problem, &cost);
        *pairs = cost.counted_pairs;
    }
    return status == DA_OK ? da_attention_create(*context, "improved", &config, attention) : status;
}

static da_status forward(const fixed_case *work, const da_attention *attention) {
    const int64_t count = work->n * work->heads * work->head_dim;
    da_tensor tensors[4];
    for (uint32_t i = 0; i < 4; i++) {
        void *data = calloc((size_t)count, da_dtype_size(work->dtype));
        if (data == NULL) {
            return da_report(DA_ERROR_OUT_OF_MEMORY, "no memory for the tensors");
        }
        fill(data, work->dtype, count, i + 1);
        tensors[i] = da_tensor_make(data, work->dtype, 1, work->n, work->heads, work->head_dim);
    }
    da_status status = da_attention_forward(attention, &tensors[0], &tensors[1], &tensors[2], &tensors[3], NULL, NULL);
    for (int i = 0; i < 4; i++) {
        free(tensors[i].data);
    }
    return status;
}

static int run(const fixed_case *work) {
    da_context *context = NULL;
    da_attention *attention = NULL;
    double pairs = 0;
    da_status status = create(work, &context, &attention, &pairs);
    if (status == DA_OK) {
        status = forward(work, attention);
    }
    if (status == DA_OK) {
        printf("{\"case\": \"%s\", \"instruction_set\": \"%s\", \"multiply_adds\": %.0f}\n", work->name,
               da_isa_name(da_context_isa(context)), 2 * (double)work->head_dim * pairs);
    } else {
        fprintf(stderr, "bench-fixed-work: %s: %s\n", work->name, da_last_error_message());
    }
    da_attention_free(attention);
    da_context_free(context);
    return status == DA_OK ? 0 : 1;
}

int main(int argc, char **argv) {
    for (int i = 0; i < CASE_COUNT; i++) {
        if (argc == 1) {
            puts(cases[i].name);
        } else if (strcmp(argv[1], cases[i].name) == 0) {
            return run(&cases[i]);
        }
    }
    if (argc > 1) {
        fprintf(stderr, "bench-fixed-work: unknown case '%s'\n", argv[1]);
    }
    return argc == 1 ? 0 : 2;
}
