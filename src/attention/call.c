#include "attention/call.h"

#include <inttypes.h>
#include <math.h>

#include "config/validation.h"
#include "core/tensor.h"

void da_forward_options_init(da_forward_options *options) {
    if (options) {
        *options = (da_forward_options){.size = sizeof *options};
    }
}

#define SHAPE_FORMAT "(%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 ")"
#define SHAPE_VALUES(shape) (shape)[0], (shape)[1], (shape)[2], (shape)[3]

static da_status check_shape(const da_tensor *tensor, const char *name, const int64_t expected[4], const char *rule) {
    for (int k = 0; k < 4; k++) {
        if (tensor->shape[k] != expected[k]) {
            return da_report(DA_ERROR_INVALID_ARGUMENT, "%s.shape is " SHAPE_FORMAT "; allowed: " SHAPE_FORMAT ", %s",
                             name, SHAPE_VALUES(tensor->shape), SHAPE_VALUES(expected), rule);
        }
    }
    return DA_OK;
}

static da_status check_dtypes(const da_attention_config *config, const da_tensor *query, const da_tensor *other,
                              const char *name) {
    if (config->dtype != DA_DTYPE_ANY && query->dtype != config->dtype) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "query.dtype is %s; allowed: %s, as the configuration says",
                         da_dtype_name(query->dtype), da_dtype_name(config->dtype));
    }
    if (other->dtype != query->dtype) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s.dtype is %s; allowed: that of query, %s", name,
                         da_dtype_name(other->dtype), da_dtype_name(query->dtype));
    }
    return DA_OK;
}

static da_status check_key_heads(const da_tensor *query, const da_tensor *key) {
    int64_t heads = query->shape[2], kv_heads = key->shape[2];
    if (query->shape[3] > DA_MAX_HEAD_DIM) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "query.shape[3] (head_dim) is %" PRId64 "; allowed: 1 to %d",
                         query->shape[3], DA_MAX_HEAD_DIM);
    }
    if (heads % kv_heads != 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "key.shape[2] (heads) is %" PRId64 "; allowed: a divisor of query's heads, %" PRId64, kv_heads,
                         heads);
    }
    return DA_OK;
}

static da_status check_inputs(const da_attention_config *config, const da_tensor *query, const da_tensor *key,
                              const da_tensor *value, const da_tensor *out) {
    const struct {
        const da_tensor *tensor;
        const char *name;
    } tensors[] = {{query, "query"}, {key, "key"}, {value, "value"}, {out, "out"}};
    for (int k = 0; k < 4; k++) {
        da_status status = da_tensor_check(tensors[k].tensor, tensors[k].name);
        if (status == DA_OK) {
            status = check_dtypes(config, query, tensors[k].tensor, tensors[k].name);
        }
        if (status != DA_OK) {
            return status;
        }
    }
    da_status status = check_key_heads(query, key);
    const int64_t of_key[4] = {query->shape[0], query->shape[1], key->shape[2], query->shape[3]};
    if (status == DA_OK) {
        status = check_shape(key, "key", of_key, "with query's batch, n and head_dim");
    }
    if (status == DA_OK) {
        status = check_shape(value, "value", key->shape, "that of key");
    }
    if (status == DA_OK) {
        status = check_shape(out, "out", query->shape, "that of query");
    }
    return status;
}

static da_status check_lse(const da_tensor *query, const da_tensor *lse) {
    da_status status = da_tensor_check(lse, "lse");
    if (status != DA_OK) {
        return status;
    }
    if (lse->dtype != DA_F64 && (lse->dtype != DA_F32 || query->dtype == DA_F64)) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "lse.dtype is %s; allowed: f64%s", da_dtype_name(lse->dtype),
                         query->dtype == DA_F64 ? ", since query is f64" : " or f32");
    }
    const int64_t expected[4] = {query->shape[0], query->shape[1], query->shape[2], 1};
    return check_shape(lse, "lse", expected, "with query's batch, n and heads");
}

static da_status check_outputs(const da_tensor *query, const da_tensor *key, const da_tensor *value,
                               const da_tensor *out, const da_tensor *lse) {
    const struct {
        const da_tensor *tensor;
        const char *name;
    } inputs[] = {{query, "query"}, {key, "key"}, {value, "value"}};
    da_status status = da_tensor_check_output(out, "out");
    if (status == DA_OK && lse) {
        status = check_lse(query, lse);
    }
    if (status == DA_OK && lse) {
        status = da_tensor_check_output(lse, "lse");
    }
    for (int k = 0; k < 3 && status == DA_OK; k++) {
        if (da_tensors_meet(out, inputs[k].tensor)) {
            status = da_report(DA_ERROR_INVALID_ARGUMENT,
                               "out.data is %p, which meets %s's memory; allowed: memory "
                               "apart from every input",
                               out->data, inputs[k].name);
        } else if (lse && da_tensors_meet(lse, inputs[k].tensor)) {
            status = da_report(DA_ERROR_INVALID_ARGUMENT,
                               "lse.data is %p, which meets %s's memory; allowed: memory "
                               "apart from every other tensor",
                               lse->data, inputs[k].name);
        }
    }
    if (status == DA_OK && lse && da_tensors_meet(lse, out)) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT,
                           "lse.data is %p, which meets out's memory; allowed: memory apart "
                           "from every other tensor",
                           lse->data);
    }
    return status;
}

static da_status check_padding(const da_tensor *query, da_forward_options *options) {
    int64_t batch = query->shape[0], n = query->shape[1];
    for (int64_t b = 0; options->key_lengths && b < batch; b++) {
        if (options->key_lengths[b] < 0 || options->key_lengths[b] > n) {
            return da_report(DA_ERROR_INVALID_ARGUMENT,
                             "key_lengths[%" PRId64 "] is %" PRId64 "; allowed: 0 to n, which is %" PRId64, b,
                             options->key_lengths[b], n);
        }
    }
    if (!options->key_mask) {
        return DA_OK;
    }
    if (options->key_mask_stride[0] == 0 && options->key_mask_stride[1] == 0) {
        options->key_mask_stride[0] = n;
        options->key_mask_stride[1] = 1;
    }
    for (int k = 0; k < 2; k++) {
        int64_t stride = options->key_mask_stride[k], largest = INT64_MAX / 4 / query->shape[k];
        if (stride > largest || stride < -largest) {
            return da_report(DA_ERROR_INVALID_ARGUMENT,
                             "key_mask_stride[%d] is %" PRId64 "; allowed: -%" PRId64 " to %" PRId64, k, stride,
                             largest, largest);
        }
    }
    return DA_OK;
}

da_status da_forward_check(const da_attention_config *config, const da_tensor *query, const da_tensor *key,
                           const da_tensor *value, const da_tensor *out, const da_tensor *lse,
                           const da_forward_options *theirs, da_forward_options *ours, double *scale) {
    da_forward_options_init(ours);
    da_status status = theirs ? da_copy_sized(ours, sizeof *ours, theirs, "options") : DA_OK;
    if (status == DA_OK) {
        status = check_inputs(config, query, key, value, out);
    }
    if (status == DA_OK) {
        status = check_outputs(query, key, value, out, lse);
    }
    if (status == DA_OK) {
        status = check_padding(query, ours);
    }
    if (status == DA_OK) {
        *scale = config->scale_is_set ? config->scale : 1.0 / sqrt((double)query->shape[3]);
    }
    return status;
}
