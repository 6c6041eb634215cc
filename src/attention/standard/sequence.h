/* One head of one batch row, as the tiles of `standard` see it. */
#ifndef DA_ATTENTION_STANDARD_SEQUENCE_H
#define DA_ATTENTION_STANDARD_SEQUENCE_H

#include "attention/dropout.h"
#include "attention/standard/standard.h"
#include "attention/workspace.h"
#include "core/dtype.h"
#include "core/tensor.h"
#include "pattern/pattern.h"

#define TILE_ROWS DA_STANDARD_TILE_ROWS
#define TILE_KEYS DA_STANDARD_TILE_KEYS

typedef struct sequence {
    const da_tensor *query, *key, *value;
    const da_tensor *out, *lse; /* written by a forward pass (lse may be NULL), read by a backward pass */
    const da_call_options *options;
    double scale;
    da_head_patterns patterns;
    da_dropout dropout;
    int64_t batch, head, kv_head;
    int head_dim;
} sequence;

/* Fills in all but tensors, options and scale. */
static inline void sequence_begin(sequence *s, const da_attention_config *config, double dropout, int64_t batch,
                                  int64_t head) {
    int64_t heads = s->query->shape[2];
    s->batch = batch;
    s->head = head;
    s->kv_head = head / (heads / s->key->shape[2]);
    s->head_dim = (int)s->query->shape[3];
    da_head_patterns_init(&s->patterns, config, s->query->shape[1], heads, head);
    da_dropout_begin(&s->dropout, dropout, s->options->dropout_seed, batch, head);
}

static inline double load(const da_tensor *tensor, int64_t batch, int64_t i, int64_t head, int64_t component) {
    const char *row = da_tensor_row(tensor, batch, i, head);
    return da_dtype_load(tensor->dtype, row + component * tensor->stride[3] * (int64_t)da_dtype_size(tensor->dtype));
}

static inline void store(const da_tensor *tensor, int64_t batch, int64_t i, int64_t head, int64_t component,
                         double value) {
    char *row = da_tensor_row(tensor, batch, i, head);
    da_dtype_store(tensor->dtype, row + component * tensor->stride[3] * (int64_t)da_dtype_size(tensor->dtype), value);
}

/* Tokens first, first + rate, ... before end. */
typedef struct progression {
    int64_t first, end, rate;
} progression;

/* The tokens of first..end-1, all of one segment of pattern p, that the pattern keeps. */
static inline progression kept_tokens(const da_head_patterns *patterns, int p, int64_t first, int64_t end) {
    const da_head_pattern *pattern = &patterns->pattern[p];
    int64_t kept = da_segment_first(pattern, first) + pattern->offset;
    return (progression){da_first_congruent(first, kept, pattern->rate), end, pattern->rate};
}

/* The keys that some of the queries, which pattern p keeps in one segment, may see; `sees` decides pair by pair. */
static inline progression keys_for(const da_head_patterns *patterns, int p, progression queries) {
    const da_head_pattern *pattern = &patterns->pattern[p];
    int64_t first = da_segment_first(pattern, queries.first);
    int64_t end = da_segment_end(pattern, patterns->n, queries.first);
    if (patterns->causal && queries.end < end) {
        end = queries.end;
    }
    if (queries.first - patterns->window > first) {
        first = queries.first - patterns->window;
    }
    return kept_tokens(patterns, p, first, end);
}

/* The queries that may see some of the keys, which pattern p keeps in one segment. */
static inline progression queries_for(const da_head_patterns *patterns, int p, progression keys) {
    const da_head_pattern *pattern = &patterns->pattern[p];
    int64_t first = patterns->causal ? keys.first : da_segment_first(pattern, keys.first);
    int64_t end = da_segment_end(pattern, patterns->n, keys.first);
    if (patterns->window < end - keys.end) {
        end = keys.end + patterns->window;
    }
    return kept_tokens(patterns, p, first, end);
}

/* Takes up to TILE_KEYS keys that are not padded from the front of the progression; returns how many. */
static inline int take_keys(const sequence *s, progression *from, int64_t position[TILE_KEYS]) {
    int count = 0;
    for (; from->first < from->end && count < TILE_KEYS; from->first += from->rate) {
        if (!da_key_is_padded(s->options, s->batch, from->first)) {
            position[count++] = from->first;
        }
    }
    return count;
}

/* Does query i see key j by pattern p, given that p joins them? */
static inline bool sees(const da_head_patterns *patterns, int p, int64_t i, int64_t j) {
    if ((patterns->causal && j > i) || i - j > patterns->window) {
        return false;
    }
    for (int earlier = 0; patterns->once && earlier < p; earlier++) {
        if (da_pattern_joins(&patterns->pattern[earlier], i, j)) {
            return false; /* counted already */
        }
    }
    return true;
}

/* Does dropout drop the pair? */
static inline bool drops(const sequence *s, int64_t i, int64_t j) {
    return s->dropout.applies && !da_dropout_keeps_pair(&s->dropout, i, j);
}

#endif
