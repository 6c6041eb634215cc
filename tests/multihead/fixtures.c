#include "multihead/fixtures.h"

#include <string.h>

static void fill(float *values, uint32_t seed) {
    for (int k = 0; k < ELEMENTS; k++) {
        seed = seed * 1664525u + 1013904223u;
        values[k] = (float)(seed >> 8) / 8388608.0f - 1;
    }
}

void module_fixture_init(module_fixture *f) {
    memset(f, 0, sizeof *f);
    da_context_options_init(&f->context_options);
    f->context_options.threads = 2;
    da_multihead_config_init(&f->config);
    f->config.embed_dim = EMBED;
    f->config.num_heads = HEADS;
    f->config.kv_heads = KV_HEADS;
    f->config.qk_layer_norm = true;
    f->config.position = DA_POSITION_ROPE;
    da_attention_config_init(&f->attention);
    (void)da_attention_config_set_patterns(&f->attention, (int64_t[]){8, 16}, 2, (int64_t[]){1, 2}, 2);
    fill(f->input, 1);
    fill(f->other, 2);
    fill(f->grad_out, 3);
    f->x = da_sequence_make(f->input, DA_F32, BATCH, N, EMBED);
    f->z = da_sequence_make(f->other, DA_F32, BATCH, N, EMBED);
    f->y = da_sequence_make(f->out, DA_F32, BATCH, N, EMBED);
    f->grad_y = da_sequence_make(f->grad_out, DA_F32, BATCH, N, EMBED);
    f->grad_x = da_sequence_make(f->grad_input, DA_F32, BATCH, N, EMBED);
    da_call_options_init(&f->options);
    da_multihead_backward_tensors_init(&f->tensors);
    f->tensors.query = &f->x;
    f->tensors.grad_out = &f->grad_y;
    f->tensors.grad_query = &f->grad_x;
}

da_status module_fixture_open(module_fixture *f, const char *implementation) {
    da_status status = da_context_create(&f->context_options, &f->context);
    if (status == DA_OK) {
        status = da_multihead_create(f->context, implementation, &f->config, &f->attention, &f->multihead);
    }
    if (status == DA_OK) {
        status = da_multihead_initialise(f->multihead, 1);
    }
    if (status == DA_OK) {
        status = da_multihead_gradients_create(f->multihead, &f->gradients);
    }
    f->tensors.gradients = f->gradients;
    return status;
}

void module_fixture_close(module_fixture *f) {
    da_multihead_saved_free(f->saved);
    da_multihead_gradients_free(f->gradients);
    da_multihead_free(f->multihead);
    da_context_free(f->context);
    f->saved = NULL;
    f->gradients = NULL;
    f->multihead = NULL;
    f->context = NULL;
}

da_status module_fixture_forward(module_fixture *f) {
    return da_multihead_forward_training(f->multihead, &f->x, NULL, NULL, &f->y, &f->options, &f->saved);
}

da_status module_fixture_backward(module_fixture *f) {
    return da_multihead_backward(f->multihead, f->saved, &f->tensors, &f->options);
}

bool module_fixture_has_backward(const module_fixture *f, const char *implementation) {
    da_implementation_info info;
    da_implementation_info_init(&info);
    return da_implementation_get_info(f->context, implementation, &info) == DA_OK && info.backward;
}
