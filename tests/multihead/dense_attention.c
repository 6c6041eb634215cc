#include "multihead/dense_attention.h"

#include <math.h>
#include <stdlib.h>

#include "support/values.h"

/* What a pass needs of a call. */
typedef struct pass {
    const da_attention_config *config;
    const da_call_options *options;
    const da_tensor *query, *key, *value;
    double scale, dropout, divisor; /* divisor: groups of head_groups, else 1 */
    int64_t n, heads, share, head_dim;
} pass;

static pass make_pass(const da_attention_config *config, const da_call_options *options, const da_tensor *query,
                      const da_tensor *key, const da_tensor *value, double scale, double dropout) {
    bool groups = config->mixing == DA_MIXING_HEAD_GROUPS;
    return (pass){config,
                  options,
                  query,
                  key,
                  value,
                  scale,
                  dropout,
                  groups ? (double)config->segment_count : 1,
                  query->shape[1],
                  query->shape[2],
                  query->shape[2] / key->shape[2],
                  query->shape[3]};
}

static int64_t place(const da_tensor *t, int64_t b, int64_t i, int64_t h, int64_t c) {
    return b * t->stride[0] + i * t->stride[1] + h * t->stride[2] + c * t->stride[3];
}

static double get(const da_tensor *t, int64_t b, int64_t i, int64_t h, int64_t c) {
    return value_load(t->data, t->dtype, place(t, b, i, h, c));
}

/* Rounded to nearest, ties aside: value_store wants what the type can hold. */
static void put(const da_tensor *t, int64_t b, int64_t i, int64_t h, int64_t c, double value) {
    int bits = t->dtype == DA_F64 ? 53 : t->dtype == DA_F32 ? 24 : t->dtype == DA_F16 ? 11 : 8, exponent;
    frexp(value, &exponent);
    if (t->dtype == DA_F16 && exponent < -13) {
        exponent = -13;
    }
    double unit = ldexp(1, exponent - bits);
    value_store(t->data, t->dtype, place(t, b, i, h, c), nearbyint(value / unit) * unit);
}

static bool is_padded(const da_call_options *options, int64_t b, int64_t j) {
    return (options->key_lengths && j >= options->key_lengths[b]) ||
           (options->key_mask && options->key_mask[b * options->key_mask_stride[0] + j * options->key_mask_stride[1]]);
}

static double dot(const da_tensor *x, const da_tensor *y, int64_t b, int64_t i, int64_t h, int64_t j, int64_t kv) {
    double sum = 0;
    for (int64_t c = 0; c < x->shape[3]; c++) {
        sum += get(x, b, i, h, c) * get(y, b, j, kv, c);
    }
    return sum;
}

/* Weights of query i's keys before dropout, and the logsumexp; false if it sees none. */
static bool weigh(const pass *p, int64_t b, int64_t h, int64_t i, double *weights, double *lse) {
    double highest = -INFINITY, sum = 0;
    for (int64_t j = 0; j < p->n; j++) {
        int64_t count = 0;
        da_pattern_multiplicity(p->config, p->n, p->heads, h, i, j, &count);
        bool seen = count > 0 && !is_padded(p->options, b, j);
        weights[j] = seen ? p->scale * dot(p->query, p->key, b, i, h, j, h / p->share) + log((double)count) : -INFINITY;
        highest = fmax(highest, weights[j]);
    }
    for (int64_t j = 0; j < p->n && highest > -INFINITY; j++) {
        weights[j] = exp(weights[j] - highest);
        sum += weights[j];
    }
    for (int64_t j = 0; j < p->n && sum > 0; j++) {
        weights[j] /= sum;
    }
    *lse = sum > 0 ? highest + log(sum) : -INFINITY;
    return sum > 0;
}

static double factor(const pass *p, int64_t b, int64_t h, int64_t i, int64_t j) {
    bool kept = p->dropout == 0 || da_dropout_keeps(p->dropout, p->options->dropout_seed, b, h, i, j);
    return kept ? 1 / (1 - p->dropout) / p->divisor : 0;
}

static void forward_query(const pass *p, const da_forward_call *call, int64_t b, int64_t h, int64_t i,
                          double *weights) {
    double lse;
    bool sees = weigh(p, b, h, i, weights, &lse);
    for (int64_t c = 0; c < p->head_dim; c++) {
        double sum = 0;
        for (int64_t j = 0; sees && j < p->n; j++) {
            sum += weights[j] > 0 ? weights[j] * factor(p, b, h, i, j) * get(p->value, b, j, h / p->share, c) : 0;
        }
        put(call->out, b, i, h, c, sum);
    }
    if (call->lse) {
        value_store(call->lse->data, call->lse->dtype, place(call->lse, b, i, h, 0),
                    call->lse->dtype == DA_F64 ? lse : (double)(float)lse);
    }
}

static da_status forward(void *state, const da_forward_call *call, void *user) {
    pass p = make_pass(call->config, call->options, call->query, call->key, call->value, call->scale, call->dropout);
    double *weights = malloc((size_t)p.n * sizeof *weights);
    if (!weights) {
        return da_report(DA_ERROR_OUT_OF_MEMORY, "no memory for the weights");
    }
    for (int64_t row = 0; row < p.query->shape[0] * p.heads * p.n; row++) {
        forward_query(&p, call, row / p.n / p.heads, row / p.n % p.heads, row % p.n, weights);
    }
    free(weights);
    return DA_OK;
}

/* Sums of gradients in double: query, key, value, one after the other. */
typedef struct sums {
    double *of[3];
} sums;

static double *sum_at(const sums *s, int which, const da_tensor *shape, int64_t b, int64_t i, int64_t h) {
    return s->of[which] + ((b * shape->shape[1] + i) * shape->shape[2] + h) * shape->shape[3];
}

static void backward_query(const pass *p, const da_backward_tensors *t, const sums *s, int64_t b, int64_t h, int64_t i,
                           double *weights) {
    double lse, inner = 0;
    int64_t kv = h / p->share;
    if (!weigh(p, b, h, i, weights, &lse)) {
        return;
    }
    for (int64_t c = 0; c < p->head_dim; c++) {
        inner += get(t->grad_out, b, i, h, c) * get(t->out, b, i, h, c);
    }
    double *of_query = sum_at(s, 0, p->query, b, i, h);
    for (int64_t j = 0; j < p->n; j++) {
        if (weights[j] <= 0) {
            continue;
        }
        double m = factor(p, b, h, i, j), *of_key = sum_at(s, 1, p->key, b, j, kv),
               *of_value = sum_at(s, 2, p->key, b, j, kv);
        double ds = weights[j] * (m * dot(t->grad_out, p->value, b, i, h, j, kv) - inner);
        for (int64_t c = 0; c < p->head_dim; c++) {
            of_query[c] += p->scale * ds * get(p->key, b, j, kv, c);
            of_key[c] += p->scale * ds * get(p->query, b, i, h, c);
            of_value[c] += weights[j] * m * get(t->grad_out, b, i, h, c);
        }
    }
}

static void write_sums(const double *sum, const da_tensor *target) {
    for (int64_t b = 0; target && b < target->shape[0]; b++) {
        for (int64_t i = 0; i < target->shape[1]; i++) {
            for (int64_t h = 0; h < target->shape[2]; h++) {
                for (int64_t c = 0; c < target->shape[3]; c++) {
                    put(target, b, i, h, c, *sum++);
                }
            }
        }
    }
}

static da_status backward(void *state, const da_backward_call *call, void *user) {
    const da_backward_tensors *t = call->tensors;
    pass p = make_pass(call->config, call->options, t->query, t->key, t->value, call->scale, call->dropout);
    size_t of_query = (size_t)(t->query->shape[0] * p.n * p.heads * p.head_dim), of_key = of_query / (size_t)p.share;
    double *memory = calloc(of_query + 2 * of_key + (size_t)p.n, sizeof *memory);
    if (!memory) {
        return da_report(DA_ERROR_OUT_OF_MEMORY, "no memory for the gradients");
    }
    const sums s = {{memory, memory + of_query, memory + of_query + of_key}};
    for (int64_t row = 0; row < t->query->shape[0] * p.heads * p.n; row++) {
        backward_query(&p, t, &s, row / p.n / p.heads, row / p.n % p.heads, row % p.n, memory + of_query + 2 * of_key);
    }
    write_sums(s.of[0], t->grad_query);
    write_sums(s.of[1], t->grad_key);
    write_sums(s.of[2], t->grad_value);
    free(memory);
    return DA_OK;
}

da_status dense_attention_register(void) {
    const da_implementation table = {
        .size = sizeof table,
        .name = "dense",
        .features = DA_FEATURE_ALL & ~(uint32_t)DA_FEATURE_ZERO_PAD,
        .dtypes = DA_DTYPE_BITS_ALL,
        .forward = forward,
        .backward = backward,
    };
    return da_register_implementation(&table);
}
