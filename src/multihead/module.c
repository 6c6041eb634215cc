/* Creation, and access to parameters and gradients. */
#include "multihead/module.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "comm/comm.h"
#include "config/validation.h"
#include "core/parallel.h"
#include "core/tensor.h"
#include "multihead/convert.h"
#include "multihead/shards.h"

/* The BLAS counts in int. */
#define MAX_EMBED_DIM (DA_PRODUCT_MAX_SIZE / 4)

da_tensor da_sequence_make(void *data, da_dtype dtype, int64_t batch, int64_t n, int64_t embed_dim) {
    return da_tensor_make(data, dtype, batch, n, 1, embed_dim);
}

static da_status report_null(const char *argument, const char *allowed) {
    return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is NULL; allowed: %s", argument, allowed);
}

/* ---- creation ---------------------------------------------------------------------------------------------------- */

/* Copies of both configurations, checked; what the attention leaves open is the multihead's. */
static da_status import_configs(const da_multihead_config *config, const da_attention_config *attention,
                                da_multihead_config *ours, da_attention_config *inner) {
    if (!attention) {
        return report_null("attention", "an initialised configuration");
    }
    da_status status = da_multihead_config_validate(config, attention);
    if (status == DA_OK) {
        status = da_copy_sized(ours, sizeof *ours, config, "multihead_config");
    }
    if (status == DA_OK) {
        status = da_copy_sized(inner, sizeof *inner, attention, "config");
    }
    if (status == DA_OK && ours->device == DA_DEVICE_CUDA) {
        status = da_report(DA_ERROR_UNAVAILABLE, "device is cuda; this version holds no GPU kernels");
    }
    if (status == DA_OK && ours->embed_dim > MAX_EMBED_DIM) {
        status = da_report(DA_ERROR_INVALID_ARGUMENT, "embed_dim is %" PRId64 "; allowed: 1 to %d", ours->embed_dim,
                           MAX_EMBED_DIM);
    }
    if (status == DA_OK) {
        ours->kv_heads = ours->kv_heads ? ours->kv_heads : ours->num_heads;
        inner->dtype = ours->dtype;
    }
    return status;
}

/* Are the tensors of calls a part? */
static da_status note_ranks(da_multihead *multihead, const da_attention_config *inner) {
    const da_comm *comm = da_context_comm(multihead->context);
    da_implementation_info info;
    da_implementation_info_init(&info);
    da_status status =
        da_implementation_get_info(multihead->context, da_attention_implementation(multihead->attention), &info);
    multihead->holds_part = comm && comm->ranks > 1 && (info.features & DA_FEATURE_PARTS);
    multihead->partition = inner->partition;
    multihead->stripe = inner->stripe;
    return status;
}

da_status da_module_leave(const da_multihead *multihead, da_status status, bool alike) {
    if (status != DA_OK && !alike && multihead && multihead->holds_part) {
        da_comm_abandon(da_context_comm(multihead->context));
    }
    return status;
}

/* Which of the parameters are here. */
static da_status choose_shard(da_multihead *multihead) {
    const da_comm *comm = da_context_comm(multihead->context);
    multihead->shards = 1;
    if (!multihead->config.sharded || !comm || comm->ranks == 1) {
        return DA_OK;
    }
    if (!multihead->holds_part) {
        return da_report(
            DA_ERROR_UNSUPPORTED,
            "sharded is true, and implementation \"%s\" computes on each rank by itself; allowed: false, or "
            "an implementation over ranks (ring, distributed)",
            da_attention_implementation(multihead->attention));
    }
    multihead->shard = comm->rank;
    multihead->shards = comm->ranks;
    return DA_OK;
}

/* A configuration without the gaps between a struct's fields, and without what may differ: the device. */
typedef struct agreed_config {
    double layer_norm_eps, gamma_init, rope_base, xpos_scale_base;
    int64_t embed_dim, num_heads, kv_heads, bias, layer_norm, dtype, qk_layer_norm, position, rotary_layout, sharded;
} agreed_config;

/* Collective: every rank must have created the same module. */
static da_status agree(const da_multihead *multihead) {
    const da_multihead_config *config = &multihead->config;
    const agreed_config agreed = {
        .layer_norm_eps = config->layer_norm_eps,
        .gamma_init = config->gamma_init,
        .rope_base = config->rope_base,
        .xpos_scale_base = config->xpos_scale_base,
        .embed_dim = config->embed_dim,
        .num_heads = config->num_heads,
        .kv_heads = config->kv_heads,
        .bias = config->bias,
        .layer_norm = config->layer_norm,
        .dtype = config->dtype,
        .qk_layer_norm = config->qk_layer_norm,
        .position = config->position,
        .rotary_layout = config->rotary_layout,
        .sharded = config->sharded,
    };
    return da_comm_agree(da_context_comm(multihead->context), multihead->allocator, &agreed, sizeof agreed,
                         "the multihead configuration (sharded is part of it)");
}

static da_status make_parameters(da_multihead *multihead) {
    const da_multihead_config *config = &multihead->config;
    multihead->key_width = config->kv_heads * (config->embed_dim / config->num_heads);
    multihead->joint_width = config->embed_dim + 2 * multihead->key_width;
    da_parameter_table_make(&multihead->table, config, multihead->shard, multihead->shards);
    multihead->parameters =
        da_allocate(multihead->allocator, (size_t)multihead->table.elements, da_dtype_size(config->dtype));
    if (!multihead->parameters) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    da_parameters_reset(&multihead->table, multihead->parameters, config->dtype);
    return DA_OK;
}

static da_status fill(da_multihead *multihead, const char *name, const da_attention_config *inner) {
    int threads = da_context_threads(multihead->context);
    multihead->threads = inner->tuning.threads > 0 && inner->tuning.threads < threads ? inner->tuning.threads : threads;
    da_status status = da_attention_create(multihead->context, name, inner, &multihead->attention);
    if (status == DA_OK) {
        status = note_ranks(multihead, inner);
    }
    if (status == DA_OK) {
        status = choose_shard(multihead);
    }
    if (status == DA_OK) {
        status = make_parameters(multihead);
    }
    return status == DA_OK && multihead->holds_part ? agree(multihead) : status;
}

/* Ranks first meet when the attention is created, and one that is refused before comes to be refused there, too. */
static da_status refuse_creation(const da_context *context, const char *name, da_status status) {
    da_attention *none;
    char message[1024];
    snprintf(message, sizeof message, "%s", da_last_error_message());
    (void)da_attention_create(context, name, NULL, &none);
    return da_report(status, "%s", message);
}

/* Where memory is short on one rank, the others, who come to agree, need not wait for it. What else is refused from there on is
 * refused on all that created the same attention, or found when they agree. */
static da_status end_creation(const da_multihead *multihead, da_status status) {
    const da_comm *comm = da_context_comm(multihead->context);
    if (status == DA_ERROR_OUT_OF_MEMORY && comm && (multihead->holds_part || multihead->config.sharded)) {
        da_comm_abandon(comm);
    }
    return status;
}

da_status da_multihead_create(const da_context *context, const char *name, const da_multihead_config *config,
                              const da_attention_config *attention, da_multihead **out) {
    da_multihead_config ours;
    da_attention_config inner;
    if (!out) {
        return report_null("out", "a place for the module");
    }
    *out = NULL;
    if (!context || !name) {
        return context ? report_null("name", "\"auto\" or a registered name") : report_null("context", "a context");
    }
    da_status status = import_configs(config, attention, &ours, &inner);
    if (status != DA_OK) {
        return refuse_creation(context, name, status);
    }
    const da_allocator *allocator = da_context_allocator(context);
    const da_multihead begun = {.context = context, .allocator = allocator, .config = ours};
    da_multihead *multihead = da_allocate(allocator, 1, sizeof *multihead);
    if (!multihead) {
        return end_creation(&begun, DA_ERROR_OUT_OF_MEMORY);
    }
    *multihead = begun;
    status = end_creation(multihead, fill(multihead, name, &inner));
    if (status != DA_OK) {
        da_multihead_free(multihead);
        return status;
    }
    *out = multihead;
    return DA_OK;
}

void da_multihead_free(da_multihead *multihead) {
    if (multihead) {
        da_attention_free(multihead->attention);
        da_release(multihead->allocator, multihead->parameters);
        da_release(multihead->allocator, multihead);
    }
}

const char *da_multihead_implementation(const da_multihead *multihead) {
    return multihead ? da_attention_implementation(multihead->attention) : NULL;
}

/* ---- parameters -------------------------------------------------------------------------------------------------- */

size_t da_multihead_parameter_count(const da_multihead *multihead) {
    return multihead ? multihead->table.count : 0;
}

da_status da_multihead_parameter_at(da_multihead *multihead, size_t index, da_parameter *out) {
    if (!multihead) {
        return report_null("multihead", "what da_multihead_create made");
    }
    return da_parameter_view(&multihead->table, multihead->parameters, multihead->config.dtype, index, out);
}

da_status da_multihead_parameter(da_multihead *multihead, const char *name, da_parameter *out) {
    if (!multihead) {
        return report_null("multihead", "what da_multihead_create made");
    }
    return da_parameter_find(&multihead->table, multihead->parameters, multihead->config.dtype, name, out);
}

/* Collective: all rows of a sharded module's parameter. */
static da_status gather(const da_multihead *multihead, size_t number, void *data) {
    const da_bundle one = da_bundle_of(multihead->table.entries[number].id);
    const int64_t agreed = (int64_t)number;
    size_t bytes = (size_t)da_bundle_elements(&multihead->table, &one) * da_dtype_size(multihead->config.dtype);
    bool safe = true;
    void *packed = da_allocate(multihead->allocator, 1, bytes);
    da_status status = packed ? da_comm_agree(da_context_comm(multihead->context), multihead->allocator, &agreed,
                                              sizeof agreed, "the parameter to gather")
                              : DA_ERROR_OUT_OF_MEMORY;
    if (status == DA_OK) {
        status = da_shards_gather(multihead, &one, packed, &safe);
    }
    if (status == DA_OK) {
        memcpy(data, packed, bytes);
    }
    if (safe) { /* or a transport may still touch it */
        da_release(multihead->allocator, packed);
    }
    return status;
}

da_status da_multihead_gather_parameter(const da_multihead *multihead, const char *name, void *data) {
    size_t number;
    if (!multihead) {
        return report_null("multihead", "what da_multihead_create made");
    }
    da_status status = data ? da_parameter_number(&multihead->table, name, &number)
                            : report_null("data", "memory for all rows of the parameter");
    if (multihead->shards > 1) {
        return da_module_leave(multihead, status == DA_OK ? gather(multihead, number, data) : status, false);
    }
    if (status == DA_OK) {
        const da_parameter_shape *entry = &multihead->table.entries[number];
        da_dtype dtype = multihead->config.dtype;
        memcpy(data, da_parameter_address(&multihead->table, multihead->parameters, dtype, entry->id),
               (size_t)entry->count * da_dtype_size(dtype));
    }
    return status;
}

da_status da_multihead_initialise(da_multihead *multihead, uint64_t seed) {
    if (!multihead) {
        return report_null("multihead", "what da_multihead_create made");
    }
    da_parameters_initialise(&multihead->table, multihead->parameters, &multihead->config, seed);
    return DA_OK;
}

/* ---- gradients --------------------------------------------------------------------------------------------------- */

da_status da_multihead_gradients_create(const da_multihead *multihead, da_multihead_gradients **out) {
    if (!out) {
        return report_null("out", "a place for the gradients");
    }
    *out = NULL;
    if (!multihead) {
        return report_null("multihead", "what da_multihead_create made");
    }
    da_multihead_gradients *gradients = da_allocate(multihead->allocator, 1, sizeof *gradients);
    if (!gradients) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    size_t size = da_dtype_size(da_real_of(multihead->config.dtype));
    *gradients =
        (da_multihead_gradients){multihead, da_allocate(multihead->allocator, (size_t)multihead->table.elements, size)};
    if (!gradients->values) {
        da_release(multihead->allocator, gradients);
        return DA_ERROR_OUT_OF_MEMORY;
    }
    da_multihead_gradients_zero(gradients);
    *out = gradients;
    return DA_OK;
}

void da_multihead_gradients_free(da_multihead_gradients *gradients) {
    if (gradients) {
        const da_allocator *allocator = gradients->multihead->allocator;
        da_release(allocator, gradients->values);
        da_release(allocator, gradients);
    }
}

void da_multihead_gradients_zero(da_multihead_gradients *gradients) {
    if (gradients) {
        const da_multihead *multihead = gradients->multihead;
        size_t size = da_dtype_size(da_real_of(multihead->config.dtype));
        memset(gradients->values, 0, (size_t)multihead->table.elements * size);
    }
}

da_status da_multihead_gradients_reduce(da_multihead_gradients *gradients) {
    if (!gradients) {
        return report_null("gradients", "what da_multihead_gradients_create made");
    }
    const da_multihead *multihead = gradients->multihead;
    if (!multihead->holds_part || multihead->shards > 1) {
        return DA_OK;
    }
    da_status status = da_comm_reduce(da_context_comm(multihead->context), multihead->allocator, gradients->values,
                                      multihead->table.elements, da_real_of(multihead->config.dtype));
    return da_module_leave(multihead, status, false);
}

da_status da_multihead_gradient_at(da_multihead_gradients *gradients, size_t index, da_parameter *out) {
    if (!gradients) {
        return report_null("gradients", "what da_multihead_gradients_create made");
    }
    const da_multihead *multihead = gradients->multihead;
    return da_parameter_view(&multihead->table, gradients->values, da_real_of(multihead->config.dtype), index, out);
}

da_status da_multihead_gradient(da_multihead_gradients *gradients, const char *name, da_parameter *out) {
    if (!gradients) {
        return report_null("gradients", "what da_multihead_gradients_create made");
    }
    const da_multihead *multihead = gradients->multihead;
    return da_parameter_find(&multihead->table, gradients->values, da_real_of(multihead->config.dtype), name, out);
}

/* ---- what calls share -------------------------------------------------------------------------------------------- */

da_status da_module_check_sequence(const da_multihead *multihead, const da_tensor *tensor, const char *name,
                                   const da_tensor *query) {
    da_status status = da_tensor_check(tensor, name);
    if (status != DA_OK) {
        return status;
    }
    if (tensor->dtype != multihead->config.dtype) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s.dtype is %s; allowed: %s, the module's", name,
                         da_dtype_name(tensor->dtype), da_dtype_name(multihead->config.dtype));
    }
    const int64_t expected[4] = {query->shape[0], query->shape[1], 1, multihead->config.embed_dim};
    if (memcmp(tensor->shape, expected, sizeof expected) != 0) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "%s.shape is (%" PRId64 ", %" PRId64 ", %" PRId64 ", %" PRId64 "); allowed: (%" PRId64
                         ", %" PRId64 ", 1, %" PRId64 "), query's batch and n, and embed_dim",
                         name, tensor->shape[0], tensor->shape[1], tensor->shape[2], tensor->shape[3], expected[0],
                         expected[1], expected[3]);
    }
    return DA_OK;
}

da_status da_module_check(const da_multihead *multihead, const da_tensor *query, const da_tensor *key,
                          const da_tensor *value, const da_tensor *other, const char *other_name,
                          da_module_inputs *inputs) {
    if (!multihead) {
        return report_null("multihead", "what da_multihead_create made");
    }
    key = key ? key : query;
    value = value ? value : key;
    *inputs = (da_module_inputs){{query, key, value}};
    const struct {
        const da_tensor *tensor;
        const char *name;
    } tensors[] = {{query, "query"}, {key, "key"}, {value, "value"}, {other, other_name}};
    for (int k = 0; k < 4; k++) {
        da_status status = k == 0 ? da_tensor_check(query, "query") : DA_OK;
        if (status == DA_OK) {
            status = da_module_check_sequence(multihead, tensors[k].tensor, tensors[k].name, query);
        }
        if (status != DA_OK) {
            return status;
        }
    }
    return multihead->holds_part ? DA_OK : da_module_check_length(multihead, query->shape[1]);
}

da_status da_module_check_length(const da_multihead *multihead, int64_t n) {
    int64_t longest = da_rotary_longest(&multihead->config);
    if (n > longest) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "query.shape[1] (n) is %" PRId64
                         "; allowed with position xpos, %s and xpos_scale_base %g: up to "
                         "%" PRId64,
                         n, da_dtype_name(multihead->config.dtype), multihead->config.xpos_scale_base, longest);
    }
    return DA_OK;
}

void da_module_heads(const da_multihead *multihead, int64_t batch, int64_t n, void *projected, da_tensor heads[3]) {
    const da_multihead_config *config = &multihead->config;
    int64_t head_dim = config->embed_dim / config->num_heads, first[3] = {0};
    first[1] = config->embed_dim;
    first[2] = config->embed_dim + multihead->key_width;
    for (int part = 0; part < 3; part++) {
        void *data = (char *)projected + (size_t)first[part] * da_dtype_size(config->dtype);
        int64_t count = part == 0 ? config->num_heads : config->kv_heads;
        heads[part] = da_tensor_make(data, config->dtype, batch, n, count, head_dim);
        heads[part].stride[0] = n * multihead->joint_width;
        heads[part].stride[1] = multihead->joint_width;
    }
}

da_tensor da_module_attended(const da_multihead *multihead, int64_t batch, int64_t n, void *attended) {
    const da_multihead_config *config = &multihead->config;
    return da_tensor_make(attended, config->dtype, batch, n, config->num_heads, config->embed_dim / config->num_heads);
}
