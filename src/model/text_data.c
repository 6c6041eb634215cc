#include "model/text_data.h"

#include <inttypes.h>

#include "attention/dropout.h"
#include "core/hash.h"

da_status da_text_data_open(const char *path, double validation_part, int64_t n, da_text_data *out) {
    *out = (da_text_data){0};
    da_status status = da_mapping_open(path, &out->mapping);
    if (status != DA_OK) {
        return status;
    }
    int64_t bytes = (int64_t)out->mapping.bytes;
    out->bytes = out->mapping.base;
    out->validation = (int64_t)((double)bytes * validation_part);
    out->training = bytes - out->validation;
    if (out->training < n + 1 || out->validation == 1) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT,
                           "%s: %" PRId64 " bytes, %" PRId64 " of them for training and %" PRId64
                           " for validation; allowed: more for training than a sequence, %" PRId64
                           ", and for validation none, or 2 and more",
                           path, bytes, out->training, out->validation, n);
        da_text_data_close(out);
    }
    return status;
}

void da_text_data_close(da_text_data *text) {
    da_mapping_close(&text->mapping);
    *text = (da_text_data){0};
}

uint64_t da_text_data_hash(const da_text_data *text) {
    return da_hash(text->bytes, (size_t)(text->training + text->validation));
}

static void copy_window(const unsigned char *bytes, int64_t n, int32_t *tokens, int32_t *targets) {
    for (int64_t i = 0; i < n; i++) {
        tokens[i] = bytes[i];
        targets[i] = bytes[i + 1];
    }
}

/* A number below `end`: the high part of the product of end and 64 random bits, whose bias is below end / 2^64. */
static int64_t below(int64_t end, uint64_t seed, int64_t step, int64_t row) {
    uint32_t key = da_philox_2x32((uint32_t)seed, (uint32_t)(seed >> 32), (uint32_t)row);
    uint64_t high = da_philox_2x32(key, (uint32_t)step, (uint32_t)(step >> 32) << 1);
    uint64_t low = da_philox_2x32(key, (uint32_t)step, (uint32_t)(step >> 32) << 1 | 1);
    uint64_t from_low = (low * ((uint64_t)end & 0xffffffffu) >> 32) + low * ((uint64_t)end >> 32);
    uint64_t middle = high * ((uint64_t)end & 0xffffffffu) + (from_low & 0xffffffffu);
    return (int64_t)(high * ((uint64_t)end >> 32) + (from_low >> 32) + (middle >> 32));
}

void da_text_data_sample(const da_text_data *text, uint64_t seed, int64_t step, int64_t batch, int64_t n,
                         int32_t *tokens, int32_t *targets) {
    for (int64_t b = 0; b < batch; b++) {
        copy_window(text->bytes + below(text->training - n, seed, step, b), n, tokens + b * n, targets + b * n);
    }
}

int64_t da_text_data_validation(const da_text_data *text, int64_t index, int64_t n, int32_t *tokens, int32_t *targets) {
    int64_t first = index * n, rest = text->validation - 1 - first, count = rest < n ? rest : n;
    if (count <= 0) {
        return 0;
    }
    copy_window(text->bytes + text->training + first, count, tokens, targets);
    return count;
}
