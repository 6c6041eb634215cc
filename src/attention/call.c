#include "attention/call.h"

#include <inttypes.h>
#include <math.h>

#include "config/validation.h"
#include "core/tensor.h"

void da_call_options_init(da_call_options *options) {
    if (options) {
        *options = (da_call_options){.size = sizeof *options};
    }
}

void da_sparse_report_init(da_sparse_report *report) {
    if (report) {
        *report = (da_sparse_report){.size = sizeof *report, .mass_kept = (double)NAN, .mass_error = (double)NAN};
    }
}

void da_backward_tensors_init(da_backward_tensors *tensors) {
    if (tensors) {
        *tensors = (da_backward_tensors){.size = sizeof *tensors};
    }
}

#define SHAPE_FORMAT "(%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 ")"
#define SHAPE_VALUES(shape) (shape)[0], (shape)[1], (shape)[2], (shape)[3]

static bool has_rows(const da_tensor *tensor) {
    return tensor->shape[1] != 0;
}

/* Of a part without tokens only the rest is checked: it has no memory. */
static da_status check_tensor(const da_tensor *tensor, bool is_part, const char *name) {
    static double memory;
    if (!is_part || !tensor || has_rows(tensor)) {
        return da_tensor_check(tensor, name);
    }
    da_tensor with_a_row = *tensor;
    with_a_row.shape[1] = 1;
    with_a_row.data = &memory;
    return da_tensor_check(&with_a_row, name);
}

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

static da_status check_inputs(const da_attention_config *config, bool is_part, const da_tensor *query,
                              const da_tensor *key, const da_tensor *value, const da_tensor *out) {
    const struct {
        const da_tensor *tensor;
        const char *name;
    } tensors[] = {{query, "query"}, {key, "key"}, {value, "value"}, {out, "out"}};
    for (int k = 0; k < 4; k++) {
        da_status status = check_tensor(tensors[k].tensor, is_part, tensors[k].name);
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

static da_status check_lse(const da_tensor *query, bool is_part, const da_tensor *lse, const char *name) {
    da_status status = check_tensor(lse, is_part, name);
    if (status != DA_OK) {
        return status;
    }
    if (lse->dtype != DA_F64 && (lse->dtype != DA_F32 || query->dtype == DA_F64)) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s.dtype is %s; allowed: f64%s", name, da_dtype_name(lse->dtype),
                         query->dtype == DA_F64 ? ", since query is f64" : " or f32");
    }
    const int64_t expected[4] = {query->shape[0], query->shape[1], query->shape[2], 1};
    return check_shape(lse, name, expected, "with query's batch, n and heads");
}

/* ---- outputs ----------------------------------------------------------------------------------------------------- */

typedef struct named_tensor {
    const da_tensor *tensor; /* NULL: the call has none */
    const char *name;
} named_tensor;

/* No two elements of an output share memory, and it meets neither an input's memory nor an earlier output's. */
static da_status check_outputs(const named_tensor *inputs, int input_count, const named_tensor *outputs,
                               int output_count) {
    for (int o = 0; o < output_count; o++) {
        const da_tensor *out = outputs[o].tensor;
        if (!out || !has_rows(out)) {
            continue;
        }
        da_status status = da_tensor_check_output(out, outputs[o].name);
        for (int k = 0; k < input_count + o && status == DA_OK; k++) {
            const named_tensor *other = k < input_count ? &inputs[k] : &outputs[k - input_count];
            if (other->tensor && da_tensors_meet(out, other->tensor)) {
                status = da_report(DA_ERROR_INVALID_ARGUMENT,
                                   "%s.data is %p, which meets %s's memory; allowed: memory apart from every other "
                                   "tensor",
                                   outputs[o].name, out->data, other->name);
            }
        }
        if (status != DA_OK) {
            return status;
        }
    }
    return DA_OK;
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

static da_status check_padding(const da_tensor *query, bool is_part, da_call_options *options) {
    int64_t batch = query->shape[0], n = query->shape[1];
    for (int64_t b = 0; options->key_lengths && b < batch; b++) {
        if (options->key_lengths[b] < 0 || (!is_part && options->key_lengths[b] > n)) {
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
        int64_t stride = options->key_mask_stride[k], extent = query->shape[k] > 0 ? query->shape[k] : 1;
        int64_t largest = INT64_MAX / 4 / extent;
        if (stride > largest || stride < -largest) {
            return da_report(DA_ERROR_INVALID_ARGUMENT,
                             "key_mask_stride[%d] is %" PRId64 "; allowed: -%" PRId64 " to %" PRId64, k, stride,
                             largest, largest);
        }
    }
    return DA_OK;
}

static da_status check_blocks(int64_t n, bool is_part, const da_call_options *options) {
    int64_t first = options->query_first, end = options->query_end;
    if (options->block < 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "options.block is %" PRId64 "; allowed: 0 or more", options->block);
    }
    if (is_part && end != 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "options.query_end is %" PRId64 "; allowed over several ranks: 0, for all queries", end);
    }
    if ((first != 0 || end != 0) && (first < 0 || first >= end || end > n)) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "options.query_first and query_end are %" PRId64 " and %" PRId64
                         "; allowed: 0 <= query_first < query_end <= n, which is %" PRId64 ", or 0 and 0",
                         first, end, n);
    }
    return DA_OK;
}

static da_status check_options(const da_attention_config *config, bool is_part, const da_tensor *query,
                               const da_call_options *options, da_call_terms *terms) {
    const int64_t largest = (int64_t)1 << 32;
    da_call_options_init(&terms->options);
    da_status status = options ? da_copy_sized(&terms->options, sizeof terms->options, options, "options") : DA_OK;
    if (status != DA_OK) {
        return status;
    }
    terms->scale = config->scale_is_set ? config->scale : 1.0 / sqrt((double)query->shape[3]);
    terms->dropout = terms->options.training ? config->dropout : 0;
    if (terms->dropout > 0 && query->shape[1] > largest) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "query.shape[1] (n) is %" PRId64 "; allowed with dropout: up to %" PRId64, query->shape[1],
                         largest);
    }
    status = check_blocks(query->shape[1], is_part, &terms->options);
    return status == DA_OK ? check_padding(query, is_part, &terms->options) : status;
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

da_status da_forward_check(const da_attention_config *config, bool is_part, const da_tensor *query,
                           const da_tensor *key, const da_tensor *value, const da_tensor *out, const da_tensor *lse,
                           const da_call_options *options, da_call_terms *terms) {
    const named_tensor inputs[] = {{query, "query"}, {key, "key"}, {value, "value"}};
    const named_tensor outputs[] = {{out, "out"}, {lse, "lse"}};
    da_status status = check_inputs(config, is_part, query, key, value, out);
    if (status == DA_OK && lse) {
        status = check_lse(query, is_part, lse, "lse");
    }
    if (status == DA_OK) {
        status = check_outputs(inputs, 3, outputs, 2);
    }
    return status == DA_OK ? check_options(config, is_part, query, options, terms) : status;
}

da_status da_tiles_check(const da_attention_config *config, const da_tensor *query, const da_tensor *key,
                         const da_call_options *options, da_call_terms *terms) {
    da_status status = check_inputs(config, false, query, key, key, query);
    return status == DA_OK ? check_options(config, false, query, options, terms) : status;
}

/* A gradient has the data type and shape of what it is the gradient of. */
static da_status check_gradient(const da_tensor *gradient, bool is_part, const char *name, const da_tensor *of,
                                const char *rule) {
    da_status status = check_tensor(gradient, is_part, name);
    if (status == DA_OK && gradient->dtype != of->dtype) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "%s.dtype is %s; allowed: %s, %s", name,
                           da_dtype_name(gradient->dtype), da_dtype_name(of->dtype), rule);
    }
    return status == DA_OK ? check_shape(gradient, name, of->shape, rule) : status;
}

static da_status check_gradients(const da_backward_tensors *t, bool is_part) {
    const struct {
        const da_tensor *gradient, *of;
        const char *name, *rule;
    } optional[] = {{t->grad_query, t->query, "grad_query", "that of query"},
                    {t->grad_key, t->key, "grad_key", "that of key"},
                    {t->grad_value, t->value, "grad_value", "that of value"}};
    da_status status = check_gradient(t->grad_out, is_part, "grad_out", t->out, "that of out");
    if (status == DA_OK && t->grad_lse) {
        status = check_lse(t->query, is_part, t->grad_lse, "grad_lse");
    }
    for (int k = 0; k < 3 && status == DA_OK; k++) {
        if (optional[k].gradient) {
            status = check_gradient(optional[k].gradient, is_part, optional[k].name, optional[k].of, optional[k].rule);
        }
    }
    return status;
}

da_status da_backward_check(const da_attention_config *config, bool is_part, const da_backward_tensors *t,
                            const da_call_options *options, da_call_terms *terms) {
    const named_tensor inputs[] = {{t->query, "query"},      {t->key, "key"}, {t->value, "value"},
                                   {t->out, "out"},          {t->lse, "lse"}, {t->grad_out, "grad_out"},
                                   {t->grad_lse, "grad_lse"}};
    const named_tensor outputs[] = {
        {t->grad_query, "grad_query"}, {t->grad_key, "grad_key"}, {t->grad_value, "grad_value"}};
    da_status status = check_inputs(config, is_part, t->query, t->key, t->value, t->out);
    if (status == DA_OK) {
        status = check_lse(t->query, is_part, t->lse, "lse");
    }
    if (status == DA_OK) {
        status = check_gradients(t, is_part);
    }
    if (status == DA_OK) {
        status = check_outputs(inputs, 7, outputs, 3);
    }
    if (status == DA_OK) {
        status = check_options(config, is_part, t->query, options, terms);
    }
    if (status == DA_OK && terms->options.query_end != 0) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT,
                           "options.query_end is %" PRId64 "; allowed in a backward pass: 0, for all queries",
                           terms->options.query_end);
    }
    return status;
}
