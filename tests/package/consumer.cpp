// The same as consumer.c, from C++.
#include <dilated_attention.h>

#include <cstdio>
#include <memory>
#include <stdexcept>

static void check(da_status status) {
    if (status != DA_OK) {
        throw std::runtime_error(da_last_error_message());
    }
}

static da_tensor row(float *data) { return da_tensor_make(data, DA_F32, 1, 2, 1, 1); }

int main() {
    float query[] = {0, 1}, key[] = {0, 1.0986123f}, value[] = {2, 6}, result[2];
    const int64_t segment = 2, rate = 1;

    da_context *new_context;
    check(da_context_create(nullptr, &new_context));
    std::unique_ptr<da_context, decltype(&da_context_free)> context(new_context, da_context_free);

    da_attention_config config;
    da_attention_config_init(&config);
    config.scale_is_set = true;
    config.scale = 1;
    check(da_attention_config_set_patterns(&config, &segment, 1, &rate, 1));

    da_attention *new_attention;
    check(da_attention_create(context.get(), "auto", &config, &new_attention));
    std::unique_ptr<da_attention, decltype(&da_attention_free)> attention(new_attention, da_attention_free);

    const da_tensor q = row(query), k = row(key), v = row(value), out = row(result);
    check(da_attention_forward(attention.get(), &q, &k, &v, &out, nullptr, nullptr));
    std::printf("%s %.4f %.4f\n", da_version(), result[0], result[1]);
}
