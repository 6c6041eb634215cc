/* A program outside the project that uses a module, C and C++ alike: one token, which attends to itself alone, so that
 * out = x v_proj^T out_proj^T. With v_proj = diag(1, 2) and out_proj the exchange of the two channels, x = (5, 2) becomes
 * (5, 4) and then (4, 5); out_proj.weight doubles the second: (4, 10). */
#include <dilated_attention_nn.h>
#include <stdio.h>
#include <string.h>

static int failed(const char *call) {
    fprintf(stderr, "%s: %s\n", call, da_last_error_message());
    return 1;
}

static int set(da_multihead *multihead, const char *name, float a, float b, float c, float d) {
    const float values[4] = {a, b, c, d};
    da_parameter parameter;
    if (da_multihead_parameter(multihead, name, &parameter) != DA_OK) {
        return 0;
    }
    memcpy(parameter.data, values, sizeof values);
    return 1;
}

int main(void) {
    float input[2] = {5, 2}, output[2];
    const int64_t segment = 2, rate = 1;
    da_context *context;
    da_multihead *multihead;
    da_multihead_config config;
    da_attention_config attention;

    if (da_context_create(NULL, &context) != DA_OK) {
        return failed("da_context_create");
    }
    da_multihead_config_init(&config);
    config.embed_dim = 2;
    config.num_heads = 1;
    config.layer_norm = false;
    da_attention_config_init(&attention);
    if (da_attention_config_set_patterns(&attention, &segment, 1, &rate, 1) != DA_OK) {
        return failed("da_attention_config_set_patterns");
    }
    if (da_multihead_create(context, "auto", &config, &attention, &multihead) != DA_OK) {
        return failed("da_multihead_create");
    }
    if (!set(multihead, "v_proj.weight", 1, 0, 0, 2) || !set(multihead, "out_proj.weight", 0, 1, 2, 0)) {
        return failed("da_multihead_parameter");
    }
    da_tensor x = da_sequence_make(input, DA_F32, 1, 1, 2), y = da_sequence_make(output, DA_F32, 1, 1, 2);
    if (da_multihead_forward(multihead, &x, NULL, NULL, &y, NULL) != DA_OK) {
        return failed("da_multihead_forward");
    }
    printf("%s %.4f %.4f\n", da_version(), output[0], output[1]);
    da_multihead_free(multihead);
    da_context_free(context);
    return 0;
}
