#include "check.h"

#include <math.h>

#include "check_parts.h"
#include "core/dtype.h"
#include "core/memory.h"
#include "core/numbers.h"
#include "core/parallel.h"
#include "core/tensor.h"
#include "sparse.h"

/* One sampled query: what it should give, and how far off the output is. */
typedef struct sample {
    int64_t batch, i, head;
    double error, lse_error, worst;
    da_status status;
} sample;

typedef struct check_job {
    const da_attention_config *config;
    const workload *work;
    const da_tile_mask *tiles;
    sample *samples;
} check_job;

/* The keys that a query sees, and its scores. */
typedef struct seen_keys {
    int64_t first, count;  /* candidates: the segments of all patterns around the query */
    double *score;         /* of each candidate that is seen */
    int64_t *multiplicity; /* 0: not seen */
    int64_t zeros;         /* padding keys of zero_pad, whose score and value are 0 */
    double largest_score;  /* by size */
    double maximum;        /* of the scores, padding included; -infinity: nothing is seen */
    double log_sum, largest_value;
} seen_keys;

double check_unit_roundoff(da_dtype dtype) {
    switch (dtype) {
    case DA_F64: return 0x1p-53;
    case DA_BF16: return 0x1p-8;
    case DA_F16: return 0x1p-11;
    case DA_F32:
    case DA_DTYPE_ANY: break;
    }
    return 0x1p-24;
}

/* Members of off, off + r, ... below stop. */
static int64_t kept_below(int64_t stop, int64_t off, int64_t r) {
    return stop > off ? (stop - off - 1) / r + 1 : 0;
}

/* The pattern that a head runs alone under head_groups. */
static int64_t group_of(const da_attention_config *config, int64_t heads, int64_t head) {
    int64_t groups = (int64_t)config->segment_count, size = heads / groups, larger = heads % groups;
    return head < larger * (size + 1) ? head / (size + 1) : larger + (head - larger * (size + 1)) / size;
}

static int64_t offset_of(const da_attention_config *config, int64_t pattern, int64_t heads, int64_t head) {
    int64_t r = config->dilation_rates[pattern];
    if (config->mixing == DA_MIXING_HEAD_GROUPS) {
        return pattern % r;
    }
    return config->offset_rule == DA_OFFSET_MOD ? head % r : head / ((heads + r - 1) / r);
}

/* Padding keys that a query meets in one pattern under zero_pad. */
static int64_t zeros_of(const da_attention_config *config, int64_t pattern, int64_t n, int64_t heads, int64_t head,
                        int64_t i) {
    int64_t r = config->dilation_rates[pattern], w = da_smaller(config->segment_lengths[pattern], n);
    int64_t off = offset_of(config, pattern, heads, head), start = i / w * w;
    if ((i - start) % r != off) {
        return 0;
    }
    int64_t full = (w + r - 1) / r * r;
    return kept_below(full, off, r) - kept_below(da_smaller(w, n - start), off, r);
}

static int64_t all_zeros_of(const da_attention_config *config, int64_t n, int64_t heads, int64_t head, int64_t i) {
    if (config->tail_rule != DA_TAIL_ZERO_PAD || config->causal) {
        return 0;
    }
    if (config->mixing == DA_MIXING_HEAD_GROUPS) {
        return zeros_of(config, group_of(config, heads, head), n, heads, head, i);
    }
    int64_t zeros = 0;
    for (size_t pattern = 0; pattern < config->segment_count; pattern++) {
        zeros += zeros_of(config, (int64_t)pattern, n, heads, head, i);
    }
    return zeros;
}

void check_neighbourhood(const da_attention_config *config, int64_t n, int64_t i, int64_t *first, int64_t *count) {
    int64_t stop = i + 1;
    *first = i;
    for (size_t pattern = 0; pattern < config->segment_count; pattern++) {
        int64_t w = da_smaller(config->segment_lengths[pattern], n), start = i / w * w;
        *first = da_smaller(*first, start);
        stop = stop > start + w ? stop : start + w;
    }
    *count = da_smaller(stop, n) - *first;
}

/* ------------------------------------------------------------------------------------------------------------------ */

double check_load(const da_tensor *tensor, int64_t batch, int64_t i, int64_t head, int64_t c) {
    const char *row = da_tensor_row(tensor, batch, i, head);
    return da_dtype_load(tensor->dtype, row + c * (int64_t)da_dtype_size(tensor->dtype));
}

double check_product(const da_tensor *a, const da_tensor *b, const int64_t row_a[3], const int64_t row_b[3],
                     double *size) {
    double sum = 0, magnitudes = 0;
    for (int64_t c = 0; c < a->shape[3]; c++) {
        double term = check_load(a, row_a[0], row_a[1], row_a[2], c) * check_load(b, row_b[0], row_b[1], row_b[2], c);
        sum += term;
        magnitudes += fabs(term);
    }
    if (size != NULL) {
        *size = magnitudes;
    }
    return sum;
}

double check_scale(const da_attention_config *config, int64_t head_dim) {
    return config->scale_is_set ? config->scale : 1 / sqrt((double)head_dim);
}

double check_divisor(const da_attention_config *config) {
    return config->mixing == DA_MIXING_HEAD_GROUPS ? (double)config->segment_count : 1;
}

static double score_of(const da_attention_config *config, const workload *work, const sample *query, int64_t j,
                       int64_t kv_head) {
    const int64_t of_query[3] = {query->batch, query->i, query->head}, of_key[3] = {query->batch, j, kv_head};
    return check_product(&work->q, &work->k, of_query, of_key, NULL) * check_scale(config, work->q.shape[3]);
}

static da_status find_scores(const check_job *job, const sample *query, int64_t kv_head, seen_keys *seen) {
    const da_attention_config *config = job->config;
    const workload *work = job->work;
    int64_t n = work->q.shape[1], heads = work->q.shape[2], head_dim = work->q.shape[3];
    seen->zeros = all_zeros_of(config, n, heads, query->head, query->i);
    seen->maximum = seen->zeros > 0 ? 0 : -INFINITY;
    for (int64_t at = 0; at < seen->count; at++) {
        int64_t j = seen->first + at;
        da_status status = da_pattern_multiplicity(config, n, heads, query->head, query->i, j, &seen->multiplicity[at]);
        if (status != DA_OK) {
            return status;
        }
        if (seen->multiplicity[at] != 0 && !sparse_keeps(job->tiles, query->batch, query->head, query->i, j)) {
            seen->multiplicity[at] = 0;
        }
        if (seen->multiplicity[at] == 0) {
            continue;
        }
        seen->score[at] = score_of(config, work, query, j, kv_head);
        seen->maximum = fmax(seen->maximum, seen->score[at]);
        seen->largest_score = fmax(seen->largest_score, fabs(seen->score[at]));
        for (int64_t c = 0; c < head_dim; c++) {
            seen->largest_value = fmax(seen->largest_value, fabs(check_load(&work->v, query->batch, j, kv_head, c)));
        }
    }
    return DA_OK;
}

static double sum_weights(seen_keys *seen) {
    double sum = seen->zeros > 0 ? (double)seen->zeros * exp(-seen->maximum) : 0;
    for (int64_t at = 0; at < seen->count; at++) {
        if (seen->multiplicity[at] != 0) {
            sum += (double)seen->multiplicity[at] * exp(seen->score[at] - seen->maximum);
        }
    }
    return sum;
}

/* The output element, and in *magnitude the weighted mean of the values' magnitudes. */
static double expected_element(const workload *work, const sample *query, int64_t kv_head, const seen_keys *seen,
                               int64_t c, double *magnitude) {
    double sum = 0;
    *magnitude = 0;
    for (int64_t at = 0; at < seen->count; at++) {
        if (seen->multiplicity[at] != 0) {
            double weight = (double)seen->multiplicity[at] * exp(seen->score[at] - seen->log_sum);
            double term = weight * check_load(&work->v, query->batch, seen->first + at, kv_head, c);
            sum += term;
            *magnitude += fabs(term);
        }
    }
    return sum;
}

void check_keep_largest(double *largest, double value) {
    *largest = fmax(*largest, isnan(value) ? INFINITY : value);
}

static void compare(const da_attention_config *config, const workload *work, sample *query, int64_t kv_head,
                    seen_keys *seen) {
    double sum = sum_weights(seen);
    seen->log_sum = sum > 0 ? seen->maximum + log(sum) : -INFINITY;
    double spread = 16 * check_unit_roundoff(work->q.dtype == DA_F64 ? DA_F64 : DA_F32) * (4 + seen->largest_score);
    double lse = check_load(&work->lse, query->batch, query->i, query->head, 0);
    query->lse_error = lse == seen->log_sum ? 0 : fabs(lse - seen->log_sum);
    check_keep_largest(&query->worst, query->lse_error / spread);
    double divisor = check_divisor(config);
    for (int64_t c = 0; c < work->out.shape[3]; c++) {
        double magnitude = 0;
        double expected = sum > 0 ? expected_element(work, query, kv_head, seen, c, &magnitude) / divisor : 0;
        double error = fabs(check_load(&work->out, query->batch, query->i, query->head, c) - expected);
        double allowed = check_unit_roundoff(work->out.dtype) * fabs(expected) + spread * seen->largest_value;
        if (work->out.dtype == DA_BF16) {
            allowed += check_unit_roundoff(DA_BF16) * magnitude / divisor;
        }
        check_keep_largest(&query->error, error);
        check_keep_largest(&query->worst, error == 0 ? 0 : error / allowed);
    }
}

static void check_query(int64_t index, int thread, void *user) {
    const check_job *job = user;
    const workload *work = job->work;
    sample *query = &job->samples[index];
    seen_keys seen = {0};
    check_neighbourhood(job->config, work->q.shape[1], query->i, &seen.first, &seen.count);
    seen.score = da_allocate(NULL, (size_t)seen.count, sizeof(*seen.score));
    seen.multiplicity = da_allocate(NULL, (size_t)seen.count, sizeof(*seen.multiplicity));
    query->status = DA_ERROR_OUT_OF_MEMORY;
    if (seen.score != NULL && seen.multiplicity != NULL) {
        int64_t kv_head = query->head / (work->q.shape[2] / work->k.shape[2]);
        query->status = find_scores(job, query, kv_head, &seen);
        if (query->status == DA_OK) {
            compare(job->config, work, query, kv_head, &seen);
        }
    }
    da_release(NULL, seen.score);
    da_release(NULL, seen.multiplicity);
}

void check_place(const da_tensor *tensor, int64_t s, int64_t count, int64_t place[3]) {
    place[0] = s % tensor->shape[0];
    place[1] = count > 1 ? (int64_t)((double)(tensor->shape[1] - 1) * (double)s / (double)(count - 1)) : 0;
    place[2] = s * 7 % tensor->shape[2];
}

da_status check_sample(const da_attention_config *config, const workload *work, const da_tile_mask *tiles, int threads,
                       check_result *result) {
    sample samples[CHECK_QUERIES];
    for (int64_t s = 0; s < CHECK_QUERIES; s++) {
        int64_t place[3];
        check_place(&work->q, s, CHECK_QUERIES, place);
        samples[s] = (sample){.batch = place[0], .i = place[1], .head = place[2]};
    }
    check_job job = {config, work, tiles, samples};
    da_parallel_for(threads, CHECK_QUERIES, check_query, &job);
    *result = (check_result){.queries = CHECK_QUERIES};
    for (int s = 0; s < CHECK_QUERIES; s++) {
        if (samples[s].status != DA_OK) {
            return da_report(samples[s].status, "the check of query %d failed: %s", s,
                             da_status_name(samples[s].status));
        }
        check_keep_largest(&result->largest_error, samples[s].error);
        check_keep_largest(&result->largest_lse_error, samples[s].lse_error);
        check_keep_largest(&result->worst, samples[s].worst);
    }
    result->passed = result->worst <= 1;
    return DA_OK;
}
