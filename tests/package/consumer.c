/* A program outside the project, as its user would write it: two tokens, one head of one channel.
 *
 * With scale 1, q = (0, 1) and k = (0, log 3), the second query gives its keys the weights 1 and 3:
 * out = ((2 + 6) / 2, (2 + 3 * 6) / 4) = (4, 5). */
#include <dilated_attention.h>
#include <stdio.h>

static int failed(const char *call) {
    fprintf(stderr, "%s: %s\n", call, da_last_error_message());
    return 1;
}

int main(void) {
    float query[2] = {0, 1}, key[2] = {0, 1.0986123f}, value[2] = {2, 6}, result[2];
    const int64_t segment = 2, rate = 1;
    da_context *context;
    da_attention *attention;
    da_attention_config config;

    if (da_context_create(NULL, &context) != DA_OK) {
        return failed("da_context_create");
    }
    da_attention_config_init(&config);
    config.scale_is_set = true;
    config.scale = 1;
    if (da_attention_config_set_patterns(&config, &segment, 1, &rate, 1) != DA_OK) {
        return failed("da_attention_config_set_patterns");
    }
    if (da_attention_create(context, "auto", &config, &attention) != DA_OK) {
        return failed("da_attention_create");
    }
    da_tensor q = da_tensor_make(query, DA_F32, 1, 2, 1, 1), k = da_tensor_make(key, DA_F32, 1, 2, 1, 1);
    da_tensor v = da_tensor_make(value, DA_F32, 1, 2, 1, 1), out = da_tensor_make(result, DA_F32, 1, 2, 1, 1);
    if (da_attention_forward(attention, &q, &k, &v, &out, NULL, NULL) != DA_OK) {
        return failed("da_attention_forward");
    }
    printf("%s %.4f %.4f\n", da_version(), result[0], result[1]);
    da_attention_free(attention);
    da_context_free(context);
    return 0;
}
