/* Generation with the keys and values of all tokens kept. Which keys the newest query sees, and how often, is worked out
 * once a token and head, for all layers. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "core/parallel.h"
#include "model/embedding.h"
#include "model/pass.h"
#include "multihead/real_parameters.h"
#include "pattern/pattern.h"

struct da_longnet_decoder {
    const da_longnet *model;
    int64_t capacity, length;
    int64_t key_width, joint_width; /* E', E + 2 E' */
    da_rotary rotary;
    void *cache; /* (layers, capacity, 2 E'): key and value of each token */
    /* Of the newest token, for each head: the keys that it sees, and by how many patterns. */
    int32_t *counts; /* (heads, capacity), zero between tokens */
    int64_t *first;  /* (heads): the first key that may be seen */
    double *weights; /* (heads, capacity) */
    void *x, *normed, *joint, *attended, *feed_forward, *head;
};

/* ---- creation ---------------------------------------------------------------------------------------------------- */

static da_status fill(da_longnet_decoder *d) {
    const da_longnet *model = d->model;
    const da_allocator *allocator = model->allocator;
    size_t size = da_dtype_size(model->real), capacity = (size_t)d->capacity;
    size_t width = (size_t)model->multihead.embed_dim, heads = (size_t)model->multihead.num_heads;
    size_t inner = (size_t)da_feed_forward_elements(1, 1, (int64_t)width, model->config.ffn_dim, false);
    const struct {
        void **at;
        size_t count, size;
    } pieces[] = {
        {&d->cache, (size_t)model->config.layers * capacity, 2 * (size_t)d->key_width * size},
        {(void **)&d->counts, heads * capacity, sizeof *d->counts},
        {(void **)&d->first, heads, sizeof *d->first},
        {(void **)&d->weights, heads * capacity, sizeof *d->weights},
        {&d->x, width, size},
        {&d->normed, width, size},
        {&d->joint, (size_t)d->joint_width, size},
        {&d->attended, width, size},
        {&d->feed_forward, inner, size},
        {&d->head, da_head_bytes(model->real, 1, 1, model->config.vocab_size, (int64_t)width), 1},
    };
    for (size_t k = 0; k < sizeof pieces / sizeof *pieces; k++) {
        *pieces[k].at = da_allocate(allocator, pieces[k].count, pieces[k].size);
        if (!*pieces[k].at) {
            return DA_ERROR_OUT_OF_MEMORY;
        }
    }
    memset(d->counts, 0, heads * capacity * sizeof *d->counts);
    return DA_OK;
}

da_status da_longnet_decoder_create(const da_longnet *model, int64_t capacity, da_longnet_decoder **out) {
    if (!out) {
        return da_model_report_null("out", "a place for the decoder");
    }
    *out = NULL;
    if (!model) {
        return da_model_report_null("model", "what da_longnet_create made");
    }
    int64_t longest = da_rotary_longest(&model->multihead), most = INT32_MAX;
    most = longest < most ? longest : most;
    if (capacity < 1 || capacity > most) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "capacity is %" PRId64 "; allowed: 1 to %" PRId64, capacity, most);
    }
    da_longnet_decoder *d = da_allocate(model->allocator, 1, sizeof *d);
    if (!d) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *d = (da_longnet_decoder){.model = model, .capacity = capacity};
    d->key_width = model->modules[0]->key_width;
    d->joint_width = model->modules[0]->joint_width;
    const da_tokens tokens = da_tokens_whole(capacity);
    da_rotary_begin(&d->rotary, &model->multihead, &tokens);
    da_status status = fill(d);
    if (status != DA_OK) {
        da_longnet_decoder_free(d);
        return status;
    }
    *out = d;
    return DA_OK;
}

void da_longnet_decoder_free(da_longnet_decoder *d) {
    if (d) {
        const da_allocator *allocator = d->model->allocator;
        void *pieces[] = {d->cache,  d->counts, d->first,    d->weights,      d->x,
                          d->normed, d->joint,  d->attended, d->feed_forward, d->head};
        for (size_t k = 0; k < sizeof pieces / sizeof *pieces; k++) {
            da_release(allocator, pieces[k]);
        }
        da_release(allocator, d);
    }
}

int64_t da_longnet_decoder_length(const da_longnet_decoder *decoder) {
    return decoder ? decoder->length : 0;
}

/* Key and value of a token. */
static void *cached(const da_longnet_decoder *d, int64_t layer, int64_t token) {
    return da_elements_on(d->cache, (layer * d->capacity + token) * 2 * d->key_width, d->model->real);
}

/* ---- one token's attention --------------------------------------------------------------------------------------- */

/* Marks the keys that the newest token sees. */
static void mark_keys(int64_t head, int thread, void *user) {
    const da_longnet_decoder *d = user;
    int64_t i = d->length;
    int32_t *counts = d->counts + head * d->capacity;
    da_head_patterns patterns;
    da_head_patterns_init(&patterns, &d->model->attention, d->capacity, d->model->multihead.num_heads, head);
    int64_t oldest = i > patterns.window ? i - patterns.window : 0;
    d->first[head] = i + 1;
    for (int p = 0; p < patterns.count; p++) {
        const da_head_pattern *pattern = &patterns.pattern[p];
        if (!da_pattern_keeps(pattern, i)) {
            continue;
        }
        int64_t start = da_segment_first(pattern, i), from = start > oldest ? start : oldest;
        int64_t j = da_first_congruent(from, start + pattern->offset, pattern->rate);
        j = j < start + pattern->offset ? start + pattern->offset : j;
        d->first[head] = j < d->first[head] ? j : d->first[head];
        for (; j <= i; j += pattern->rate) {
            counts[j] = patterns.once ? 1 : counts[j] + 1;
        }
    }
}

static void clear_keys(const da_longnet_decoder *d) {
    for (int64_t head = 0; head < d->model->multihead.num_heads; head++) {
        int64_t count = d->length + 1 - d->first[head];
        memset(d->counts + head * d->capacity + d->first[head], 0, (size_t)count * sizeof *d->counts);
    }
}

#define REAL float
#define NAME(name) name##_f32
#include "model/decoder.inc.h"
#undef REAL
#undef NAME

#define REAL double
#define NAME(name) name##_f64
#include "model/decoder.inc.h"

typedef struct attend_work {
    const da_longnet_decoder *decoder;
    int64_t layer;
    double scale, divisor;
} attend_work;

static void attend_head(int64_t head, int thread, void *user) {
    const attend_work *w = user;
    const da_longnet_decoder *d = w->decoder;
    const da_multihead_config *config = &d->model->multihead;
    int64_t head_dim = config->embed_dim / config->num_heads, share = config->num_heads / config->kv_heads;
    const head_keys keys = {
        .first = d->first[head],
        .end = d->length + 1,
        .stride = 2 * d->key_width,
        .to_value = d->key_width,
        .head_dim = head_dim,
        .counts = d->counts + head * d->capacity,
        .weights = d->weights + head * d->capacity,
        .scale = w->scale,
        .divisor = w->divisor,
    };
    const void *query = da_elements_on(d->joint, head * head_dim, d->model->real);
    const void *key = da_elements_on(cached(d, w->layer, 0), head / share * head_dim, d->model->real);
    void *out = da_elements_on(d->attended, head * head_dim, d->model->real);
    if (d->model->real == DA_F64) {
        attend_f64(&keys, query, key, out);
    } else {
        attend_f32(&keys, query, key, out);
    }
}

static void attend(const da_longnet_decoder *d, int64_t layer) {
    const da_longnet *model = d->model;
    double head_dim = (double)(model->multihead.embed_dim / model->multihead.num_heads);
    bool groups = model->attention.mixing == DA_MIXING_HEAD_GROUPS;
    attend_work work = {d, layer, model->attention.scale_is_set ? model->attention.scale : 1 / sqrt(head_dim),
                        groups ? (double)model->attention.segment_count : 1};
    da_parallel_for(model->threads, model->multihead.num_heads, attend_head, &work);
}

/* ---- one token --------------------------------------------------------------------------------------------------- */

static void norm_row(const da_longnet_decoder *d, const da_layer_norm *norm, const void *x, void *y) {
    da_layer_norm_forward(d->model->real, norm, 1, (da_matrix){x, norm->width}, y, norm->width);
}

/* joint = q, k, v of the normed token, as the attention takes them; k and v go to the cache. */
static void project(const da_longnet_decoder *d, int64_t layer, const da_real_parameters *parameters) {
    const da_multihead *module = d->model->modules[layer];
    const da_multihead_config *config = &module->config;
    da_dtype real = d->model->real;
    int64_t width = config->embed_dim, joint = d->joint_width;
    void *key = da_elements_on(d->joint, width, real);
    da_product(real, DA_PRODUCT_B_TRANSPOSED, 1, joint, width, (da_matrix){d->normed, width},
               (da_matrix){parameters->at[DA_Q_WEIGHT], width}, false, d->joint, joint);
    da_add_bias(real, parameters->at[DA_Q_BIAS], joint, 1, d->joint, joint);
    if (config->qk_layer_norm) {
        da_layer_norm of_query = da_real_norm(module, parameters, DA_Q_LN_WEIGHT);
        da_layer_norm of_key = da_real_norm(module, parameters, DA_K_LN_WEIGHT);
        norm_row(d, &of_query, d->joint, d->joint);
        norm_row(d, &of_key, key, key);
    }
    if (d->rotary.applies) {
        const da_rotary_rows rows = {d->joint, key, joint, config->num_heads, config->kv_heads};
        da_rotary_apply(real, &d->rotary, false, d->length, 1, &rows);
    }
    memcpy(cached(d, layer, d->length), key, 2 * (size_t)d->key_width * da_dtype_size(real));
}

static da_status step_layer(const da_longnet_decoder *d, int64_t layer) {
    const da_longnet *model = d->model;
    const da_multihead *module = model->modules[layer];
    const int *at = model->table.layers[layer];
    int64_t width = model->multihead.embed_dim;
    da_real_parameters parameters;
    da_layer_norm norm = da_model_norm(model, at[DA_NORM1_WEIGHT], at[DA_NORM1_BIAS]);
    da_feed_forward feed_forward = da_layer_feed_forward(model, layer, d->feed_forward);
    da_status status = da_real_parameters_make(module, &parameters); /* f32 and f64: no copy */
    if (status != DA_OK) {
        return status;
    }
    norm_row(d, &norm, d->x, d->normed);
    project(d, layer, &parameters);
    attend(d, layer);
    if (module->config.layer_norm) {
        da_layer_norm inner = da_real_norm(module, &parameters, DA_NORM_WEIGHT);
        norm_row(d, &inner, d->attended, d->attended);
    }
    da_product(model->real, DA_PRODUCT_B_TRANSPOSED, 1, width, width, (da_matrix){d->attended, width},
               (da_matrix){parameters.at[DA_OUT_WEIGHT], width}, true, d->x, width);
    da_add_bias(model->real, parameters.at[DA_OUT_BIAS], width, 1, d->x, width);
    da_feed_forward_forward(&feed_forward, 1, d->x);
    da_real_parameters_release(module, &parameters);
    return DA_OK;
}

static da_status step(da_longnet_decoder *d, int32_t token, void *logits) {
    const da_longnet *model = d->model;
    da_status status = DA_OK;
    da_embedding_forward(model->real, 1, model->multihead.embed_dim,
                         da_model_value(model, model->values, model->table.embed), 1, &token, d->x);
    da_parallel_for(model->threads, model->multihead.num_heads, mark_keys, d);
    for (int64_t layer = 0; layer < model->config.layers && status == DA_OK; layer++) {
        status = step_layer(d, layer);
    }
    clear_keys(d);
    if (status == DA_OK) {
        d->length++;
    }
    if (status == DA_OK && logits) {
        da_head head = da_model_head(model, d->head);
        head.threads = 1;
        da_head_logits(&head, 1, d->x, logits);
    }
    return status;
}

/* ---- the first tokens -------------------------------------------------------------------------------------------- */

static void fill_cache(const da_longnet_decoder *d, int64_t layer, const da_multihead_saved *saved, int64_t count) {
    da_dtype real = d->model->real;
    for (int64_t i = 0; i < count; i++) {
        memcpy(cached(d, layer, i),
               da_elements_on(saved->projected, i * d->joint_width + d->model->multihead.embed_dim, real),
               2 * (size_t)d->key_width * da_dtype_size(real));
    }
}

static da_status run_first(da_longnet_decoder *d, da_pass *pass, int64_t count, void *logits) {
    const da_longnet *model = d->model;
    da_status status = DA_OK;
    int64_t width = model->multihead.embed_dim;
    da_embedding_forward(model->real, model->threads, width, da_model_value(model, model->values, model->table.embed),
                         pass->rows, pass->batch.tokens, pass->inputs[0]);
    for (int64_t layer = 0; layer < model->config.layers && status == DA_OK; layer++) {
        da_multihead_saved *saved = NULL;
        status = da_layer_forward(pass, layer, &saved);
        if (status == DA_OK) {
            fill_cache(d, layer, saved, count);
        }
        da_multihead_saved_free(saved);
    }
    if (status == DA_OK) {
        d->length = count;
    }
    if (status == DA_OK && logits) {
        da_head head = da_model_head(model, pass->memory[1]);
        da_head_logits(&head, 1, da_elements_on(pass->inputs[model->config.layers], (count - 1) * width, model->real),
                       logits);
    }
    return status;
}

/* xPos scales keys by their place in the whole sequence: the forward pass is then one of `capacity` tokens, whose rest,
 * later than all others, is not looked at. */
static da_status feed_first(da_longnet_decoder *d, const int32_t *tokens, int64_t count, void *logits) {
    const da_allocator *allocator = d->model->allocator;
    int64_t n = d->model->multihead.position == DA_POSITION_XPOS ? d->capacity : count;
    int32_t *padded = da_allocate(allocator, (size_t)n, sizeof *padded);
    if (!padded) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    memset(padded, 0, (size_t)n * sizeof *padded);
    memcpy(padded, tokens, (size_t)count * sizeof *padded);
    da_longnet_batch batch;
    da_pass pass;
    da_longnet_batch_init(&batch);
    batch.tokens = padded;
    batch.n = n;
    da_status status = da_pass_begin(&pass, d->model, &batch, false, false);
    if (status == DA_OK) {
        status = run_first(d, &pass, count, logits);
        da_pass_end(&pass);
    }
    da_release(allocator, padded);
    return status;
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

static da_status check_feed(const da_longnet_decoder *d, const int32_t *tokens, int64_t count) {
    if (!d || !tokens) {
        return da_model_report_null(d ? "tokens" : "decoder", d ? "tokens" : "what da_longnet_decoder_create made");
    }
    if (count < 1 || count > d->capacity - d->length) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "count is %" PRId64 "; allowed: 1 to %" PRId64 ", what is left of the capacity", count,
                         d->capacity - d->length);
    }
    for (int64_t k = 0; k < count; k++) {
        if (tokens[k] < 0 || tokens[k] >= d->model->config.vocab_size) {
            return da_report(DA_ERROR_INVALID_ARGUMENT, "tokens[%" PRId64 "] is %" PRId32 "; allowed: 0 to %" PRId64, k,
                             tokens[k], d->model->config.vocab_size - 1);
        }
    }
    return DA_OK;
}

da_status da_longnet_decoder_feed(da_longnet_decoder *decoder, const int32_t *tokens, int64_t count, void *logits) {
    da_status status = check_feed(decoder, tokens, count);
    if (status != DA_OK) {
        return status;
    }
    if (decoder->length == 0) {
        return feed_first(decoder, tokens, count, logits);
    }
    int foreign = da_limit_foreign_threads(1);
    for (int64_t k = 0; k < count && status == DA_OK; k++) {
        status = step(decoder, tokens[k], k == count - 1 ? logits : NULL);
    }
    da_limit_foreign_threads(foreign);
    return status;
}
