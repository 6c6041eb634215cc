/* The header's first program, made complete: attention over 4096 tokens of 2 heads of 32, with the implementation that
 * "auto" chooses. Prints what was chosen and one output. */
#include "dilated_attention.h"

#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 1, N = 4096, HEADS = 2, HEAD_DIM = 32 };

/* Numbers in -0.5..0.5 that look random and are the same on every run. */
static void fill(float *values, size_t count, uint32_t seed) {
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)(seed >> 8) / 16777216.0f - 0.5f;
    }
}

/* tensors[]: query, key, value, out. */
static da_status attend(const da_context *context, float *tensors[4]) {
    da_attention_config config;
    da_attention_config_init(&config);
    config.sequence_length = N; /* "auto" may base its choice on it */
    da_status status =
        da_attention_config_set_patterns(&config, (int64_t[]){2048, 4096, 8192}, 3, (int64_t[]){1, 2, 4}, 3);
    if (status != DA_OK) {
        return status;
    }
    da_attention *attention;
    status = da_attention_create(context, "auto", &config, &attention);
    if (status != DA_OK) {
        return status;
    }
    da_tensor views[4];
    for (int i = 0; i < 4; i++) {
        views[i] = da_tensor_make(tensors[i], DA_F32, BATCH, N, HEADS, HEAD_DIM);
    }
    status = da_attention_forward(attention, &views[0], &views[1], &views[2], &views[3], NULL, NULL);
    if (status == DA_OK) {
        printf("chosen: %s\n", da_attention_implementation(attention));
    }
    da_attention_free(attention);
    return status;
}

int main(void) {
    const size_t count = (size_t)BATCH * N * HEADS * HEAD_DIM;
    float *memory = malloc(4 * count * sizeof(float));
    if (memory == NULL) {
        fputs("out of memory\n", stderr);
        return 1;
    }
    float *tensors[4] = {memory, memory + count, memory + 2 * count, memory + 3 * count};
    fill(memory, 3 * count, 1);

    da_context *context;
    da_status status = da_context_create(NULL, &context);
    if (status == DA_OK) {
        status = attend(context, tensors);
        da_context_free(context);
    }
    if (status == DA_OK) {
        printf("out[0, 0, 0, 0] = %g\n", (double)tensors[3][0]);
    } else {
        fprintf(stderr, "%s: %s\n", da_status_name(status), da_last_error_message());
    }
    free(memory);
    return status == DA_OK ? 0 : 1;
}
