/* A multihead module, from its creation to a few steps of training: it learns to give back, at every token, what another
 * module with other weights gives. Prints the mean squared difference before and after. */
#include "dilated_attention_nn.h"

#include <stdio.h>
#include <stdlib.h>

enum { BATCH = 2, N = 128, EMBED = 32, HEADS = 4, ELEMENTS = BATCH * N * EMBED, STEPS = 30 };

/* Numbers in -1..1 that look random and are the same on every run. */
static void fill(float *values, size_t count, uint32_t seed) {
    for (size_t i = 0; i < count; i++) {
        seed = seed * 1664525u + 1013904223u;
        values[i] = (float)(seed >> 8) / 8388608.0f - 1;
    }
}

/* The first implementation that can run here and has a backward pass; NULL if there is none. "auto" chooses the fastest
 * for inference. */
static const char *trainable(const da_context *context) {
    for (size_t k = 0; k < da_implementation_count(); k++) {
        da_implementation_info info;
        da_implementation_info_init(&info);
        if (da_implementation_get_info(context, da_implementation_name(k), &info) == DA_OK && info.available &&
            info.backward) {
            return info.name;
        }
    }
    return NULL;
}

static da_status create(const da_context *context, const char *name, uint64_t seed, da_multihead **out) {
    da_multihead_config config;
    da_attention_config attention;
    da_multihead_config_init(&config);
    config.embed_dim = EMBED;
    config.num_heads = HEADS;
    config.position = DA_POSITION_ROPE;
    da_attention_config_init(&attention);
    da_attention_config_set_patterns(&attention, (int64_t[]){32, 64, 128}, 3, (int64_t[]){1, 2, 4}, 3);
    da_status status = da_multihead_create(context, name, &config, &attention, out);
    return status == DA_OK ? da_multihead_initialise(*out, seed) : status;
}

/* Gradient of the mean squared difference, in grad; returns the difference. */
static double difference(const float *out, const float *wanted, float *grad) {
    double sum = 0;
    for (int k = 0; k < ELEMENTS; k++) {
        float d = out[k] - wanted[k];
        sum += (double)(d * d) / ELEMENTS;
        grad[k] = 2 * d / ELEMENTS;
    }
    return sum;
}

/* Every parameter against its gradient. */
static void descend(da_multihead *multihead, da_multihead_gradients *gradients, float rate) {
    for (size_t k = 0; k < da_multihead_parameter_count(multihead); k++) {
        da_parameter parameter, gradient;
        da_multihead_parameter_at(multihead, k, &parameter);
        da_multihead_gradient_at(gradients, k, &gradient);
        for (int64_t e = 0; e < parameter.shape[0] * parameter.shape[1]; e++) {
            ((float *)parameter.data)[e] -= rate * ((float *)gradient.data)[e];
        }
    }
    da_multihead_gradients_zero(gradients);
}

/* One forward and one backward pass; memory[]: input, out, wanted, grad_out. */
static da_status step(const da_multihead *multihead, da_multihead_gradients *gradients, float *memory[4],
                      double *loss) {
    da_multihead_saved *saved;
    da_multihead_backward_tensors tensors;
    da_tensor x = da_sequence_make(memory[0], DA_F32, BATCH, N, EMBED);
    da_tensor y = da_sequence_make(memory[1], DA_F32, BATCH, N, EMBED);
    da_tensor grad_y = da_sequence_make(memory[3], DA_F32, BATCH, N, EMBED);
    da_status status = da_multihead_forward_training(multihead, &x, NULL, NULL, &y, NULL, &saved);
    if (status != DA_OK) {
        return status;
    }
    *loss = difference(memory[1], memory[2], memory[3]);
    da_multihead_backward_tensors_init(&tensors);
    tensors.query = &x;
    tensors.grad_out = &grad_y;
    tensors.gradients = gradients;
    status = da_multihead_backward(multihead, saved, &tensors, NULL);
    da_multihead_saved_free(saved);
    return status;
}

static da_status train(da_multihead *student, const da_multihead *teacher, float *memory[4]) {
    da_multihead_gradients *gradients;
    double first = 0, loss = 0;
    da_tensor x = da_sequence_make(memory[0], DA_F32, BATCH, N, EMBED);
    da_tensor wanted = da_sequence_make(memory[2], DA_F32, BATCH, N, EMBED);
    da_status status = da_multihead_forward(teacher, &x, NULL, NULL, &wanted, NULL);
    if (status == DA_OK) {
        status = da_multihead_gradients_create(student, &gradients);
    }
    if (status != DA_OK) {
        return status;
    }
    for (int k = 0; k < STEPS && status == DA_OK; k++) {
        status = step(student, gradients, memory, &loss);
        first = k == 0 ? loss : first;
        if (status == DA_OK) {
            descend(student, gradients, 1);
        }
    }
    da_multihead_gradients_free(gradients);
    if (status == DA_OK) {
        printf("mean squared difference: %.3f, after %d steps %.3f\n", first, STEPS, loss);
    }
    return status;
}

int main(void) {
    float *all = malloc(4 * ELEMENTS * sizeof *all);
    if (all == NULL) {
        fputs("out of memory\n", stderr);
        return 1;
    }
    float *memory[4] = {all, all + ELEMENTS, all + 2 * ELEMENTS, all + 3 * ELEMENTS};
    fill(memory[0], ELEMENTS, 1);
    da_context *context = NULL;
    da_multihead *student = NULL, *teacher = NULL;
    da_status status = da_context_create(NULL, &context);
    const char *name = status == DA_OK ? trainable(context) : NULL;
    if (status == DA_OK) {
        status = create(context, name ? name : "auto", 1, &student);
    }
    if (status == DA_OK) {
        status = create(context, name ? name : "auto", 2, &teacher);
    }
    if (status == DA_OK && name) {
        status = train(student, teacher, memory);
    } else if (status == DA_OK) {
        puts("no implementation has a backward pass here");
    }
    if (status != DA_OK) {
        fprintf(stderr, "%s: %s\n", da_status_name(status), da_last_error_message());
    }
    da_multihead_free(teacher);
    da_multihead_free(student);
    da_context_free(context);
    free(all);
    return status == DA_OK ? 0 : 1;
}
