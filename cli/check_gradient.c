/* Gradients by their definition (da_attention_backward in dilated_attention.h), from the output and the logsumexp of the
 * workload, which check_sample() has looked at:
 *
 *     p_ij = c_ij exp(s_ij - lse_i),   dp_ij = <grad_out_i, v_j> / groups,   ds_ij = p_ij (dp_ij - <grad_out_i, out_i>)
 *     grad_q_i = scale sum_j ds_ij k_j,   grad_k_j = scale sum_i ds_ij q_i,   grad_v_j = sum_i p_ij grad_out_i / groups
 */
#include <math.h>

#include "check.h"
#include "check_parts.h"
#include "core/parallel.h"
#include "sparse.h"

/* One sampled row of one of the three. */
typedef struct row {
    int which; /* 0: grad_q, 1: grad_k, 2: grad_v */
    int64_t place[3];
    double expected[DA_MAX_HEAD_DIM],
        size[DA_MAX_HEAD_DIM]; /* size: sums of what the terms are made of, by magnitude */
    double largest_score;
    double error, worst;
    da_status status;
} row;

typedef struct gradient_job {
    const da_attention_config *config;
    const workload *work;
    const da_tile_mask *tiles;
    row *rows;
} gradient_job;

/* Adds what the pair of query i and key j, rows as (batch, token, head), gives to the row. */
static void add_pair(const gradient_job *job, row *r, const int64_t i[3], const int64_t j[3], int64_t count) {
    const workload *w = job->work;
    double sizes[3], divisor = check_divisor(job->config), scale = check_scale(job->config, w->q.shape[3]);
    double score = scale * check_product(&w->q, &w->k, i, j, &sizes[0]);
    double p = (double)count * exp(score - check_load(&w->lse, i[0], i[1], i[2], 0));
    double dp = check_product(&w->grad_out, &w->v, i, j, &sizes[1]) / divisor;
    double d = check_product(&w->grad_out, &w->out, i, i, &sizes[2]);
    bool is_value = r->which == 2;
    double weight = is_value ? p / divisor : scale * p * (dp - d);
    double size = is_value ? weight : fabs(scale) * p * (sizes[1] / divisor + sizes[2]);
    const da_tensor *other = r->which == 0 ? &w->k : r->which == 1 ? &w->q : &w->grad_out;
    const int64_t *at = r->which == 0 ? j : i;
    for (int64_t c = 0; c < other->shape[3]; c++) {
        double x = check_load(other, at[0], at[1], at[2], c);
        r->expected[c] += weight * x;
        r->size[c] += size * fabs(x);
    }
    r->largest_score = fmax(r->largest_score, fabs(scale) * sizes[0]);
}

/* All pairs of the row; of a key, with the queries of all heads that share it. */
static da_status add_pairs(const gradient_job *job, row *r) {
    const workload *w = job->work;
    int64_t n = w->q.shape[1], heads = w->q.shape[2], share = heads / w->k.shape[2], first, rest;
    bool of_query = r->which == 0;
    int64_t head = of_query ? r->place[2] : r->place[2] * share, head_count = of_query ? 1 : share;
    check_neighbourhood(job->config, n, r->place[1], &first, &rest);
    for (int64_t h = head; h < head + head_count; h++) {
        for (int64_t other = first; other < first + rest; other++) {
            int64_t i[3] = {r->place[0], of_query ? r->place[1] : other, h}, count;
            int64_t j[3] = {r->place[0], of_query ? other : r->place[1], h / share};
            da_status status = da_pattern_multiplicity(job->config, n, heads, h, i[1], j[1], &count);
            if (status != DA_OK) {
                return status;
            }
            if (count > 0 && sparse_keeps(job->tiles, i[0], h, i[1], j[1])) {
                add_pair(job, r, i, j, count);
            }
        }
    }
    return DA_OK;
}

static void check_row(int64_t index, int thread, void *user) {
    const gradient_job *job = user;
    row *r = &job->rows[index];
    const da_tensor *found = &job->work->gradients[r->which];
    double stored = check_unit_roundoff(found->dtype),
           sums = check_unit_roundoff(found->dtype == DA_F64 ? DA_F64 : DA_F32);
    r->status = add_pairs(job, r);
    double relative = 16 * sums * (4 + r->largest_score) + (stored > sums ? 2 * stored : 0);
    for (int64_t c = 0; c < found->shape[3]; c++) {
        double error = fabs(check_load(found, r->place[0], r->place[1], r->place[2], c) - r->expected[c]);
        double tiny = found->dtype == DA_F16 ? 0x1p-24 : 0x1p-120;
        double allowed = stored * fabs(r->expected[c]) + relative * r->size[c] + tiny;
        check_keep_largest(&r->error, error);
        check_keep_largest(&r->worst, error / allowed);
    }
}

da_status check_gradient_sample(const da_attention_config *config, const workload *work, const da_tile_mask *tiles,
                                int threads, check_result *result) {
    row rows[CHECK_GRADIENT_ROWS] = {{0}};
    for (int s = 0; s < CHECK_GRADIENT_ROWS; s++) {
        rows[s].which = s % 3;
        check_place(&work->gradients[s % 3], s / 3, CHECK_GRADIENT_ROWS / 3, rows[s].place);
    }
    gradient_job job = {config, work, tiles, rows};
    da_parallel_for(threads, CHECK_GRADIENT_ROWS, check_row, &job);
    *result = (check_result){.queries = CHECK_GRADIENT_ROWS};
    for (int s = 0; s < CHECK_GRADIENT_ROWS; s++) {
        if (rows[s].status != DA_OK) {
            return da_report(rows[s].status, "the check of gradient %d failed: %s", s, da_status_name(rows[s].status));
        }
        check_keep_largest(&result->largest_error, rows[s].error);
        check_keep_largest(&result->worst, rows[s].worst);
    }
    result->passed = result->worst <= 1;
    return DA_OK;
}
