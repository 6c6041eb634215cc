/* Included with REAL and NAME(x) defined. */
#ifndef DA_MODEL_HEAD_KEYS
#define DA_MODEL_HEAD_KEYS
/* The keys of one head. */
typedef struct head_keys {
    int64_t first, end;       /* tokens, of which those with a count are seen */
    int64_t stride, to_value; /* elements from token to token, and from a key to its value */
    int64_t head_dim;
    const int32_t *counts;
    double *weights; /* to work with */
    double scale, divisor;
} head_keys;
#endif

static double NAME(score)(const REAL *query, const REAL *key, int64_t head_dim) {
    REAL sum = 0;
    for (int64_t c = 0; c < head_dim; c++) {
        sum += query[c] * key[c];
    }
    return (double)sum;
}

/* out = sum_j c_j exp(s_j) v_j / sum_j c_j exp(s_j) / divisor; 0 where no key is seen. `key`: that of token 0. */
static void NAME(attend)(const head_keys *keys, const REAL *query, const REAL *key, REAL *out) {
    double highest = -INFINITY, sum = 0, mixed[DA_MAX_HEAD_DIM] = {0};
    for (int64_t j = keys->first; j < keys->end; j++) {
        if (keys->counts[j]) {
            keys->weights[j] = keys->scale * NAME(score)(query, key + j * keys->stride, keys->head_dim);
            highest = keys->weights[j] > highest ? keys->weights[j] : highest;
        }
    }
    for (int64_t j = keys->first; j < keys->end; j++) {
        if (keys->counts[j]) {
            double weight = keys->counts[j] * exp(keys->weights[j] - highest);
            const REAL *value = key + j * keys->stride + keys->to_value;
            sum += weight;
            for (int64_t c = 0; c < keys->head_dim; c++) {
                mixed[c] += weight * (double)value[c];
            }
        }
    }
    for (int64_t c = 0; c < keys->head_dim; c++) {
        out[c] = sum > 0 ? (REAL)(mixed[c] / sum / keys->divisor) : 0;
    }
}
