#include "compare/bounds.h"

#include <math.h>

#include "support/values.h"

/* Roundings that a score carries beside the head_dim of its dot product: scale, base-2 logarithm, the maximum. */
static const double SCORE_ROUNDINGS = 8;
/* Roundings of a softmax weight and of the final division, in units of the roundoff. */
static const double WEIGHT_ROUNDINGS = 8;
/* A sum of m terms in one running accumulator: roundings are independent, so that they grow with sqrt(m). */
static const double SUM_ROUNDINGS = 2;
/* Of a partial softmax that is merged into what a row has: the factor, the product, the sum. */
static const double MERGE_ROUNDINGS = 3;

/* Roundings of a sum of `terms` terms that is made of parts, `merges` times with the roundings of one more. Parts without a
 * term change nothing, so there are no more merges than terms. */
static double roundings(int64_t terms, int64_t merges, double of_merge) {
    return (double)terms + of_merge * (double)(merges < terms ? merges : terms);
}

static row_bound bound_in_precision(const case_row *row, int64_t head_dim, double u, int64_t merges) {
    double score = ((double)head_dim + SCORE_ROUNDINGS) * u;
    double sum = (SUM_ROUNDINGS * sqrt(roundings(row->terms, merges, MERGE_ROUNDINGS)) + WEIGHT_ROUNDINGS) * u;
    double higher_orders = exp(2 * score * row->largest_score);
    return (row_bound){
        .out = higher_orders * (score * row->spread + sum * row->mean_value),
        .lse = isinf(row->lse)
                   ? 0
                   : higher_orders * (score * row->mean_score + sum) + 4 * u * (fabs(row->lse) + row->largest_score),
    };
}

bool rounds_weights(da_isa isa, da_dtype dtype) {
    return dtype == DA_BF16 && (isa == DA_ISA_AVX512_BF16 || isa == DA_ISA_AMX_BF16);
}

row_bound bound_of_row(const case_row *row, int64_t head_dim, da_dtype dtype, bool bf16_weights, int64_t merges) {
    row_bound tested = bound_in_precision(row, head_dim, value_roundoff(dtype == DA_F64 ? DA_F64 : DA_F32), merges);
    row_bound reference = bound_in_precision(row, head_dim, value_roundoff(DA_F64), 0);
    double weights = bf16_weights ? value_roundoff(DA_BF16) * row->mean_value : 0;
    return (row_bound){.out = tested.out + reference.out + weights, .lse = tested.lse + reference.lse};
}

/* `stored` and `lse`: roundoff of the output and of the logsumexp as they were stored; `weights`: of the coefficients as
 * they enter products. */
static double gradient_in_precision(const gradient_row *row, int64_t head_dim, da_dtype sums, double stored, double lse,
                                    double weights, int64_t merges) {
    double u = value_roundoff(sums);
    double product = ((double)head_dim + SCORE_ROUNDINGS) * u;
    double sum = (SUM_ROUNDINGS * sqrt(roundings(row->terms, merges, 1)) + WEIGHT_ROUNDINGS) * u;
    double softmax =
        (SUM_ROUNDINGS * sqrt(roundings(row->softmax_terms, merges, MERGE_ROUNDINGS)) + WEIGHT_ROUNDINGS) * u;
    double higher_orders = exp((2 * product + 8 * u + lse) * row->largest);
    return higher_orders * ((sum + softmax + weights) * row->magnitude + product * row->products +
                            (softmax + weights) * row->softmax + stored * row->stored + (4 * u + lse) * row->lse) +
           value_tiny(sums) * row->unit;
}

double bound_of_gradient(const gradient_row *row, int64_t head_dim, da_dtype dtype, da_dtype lse_dtype,
                         bool bf16_weights, int64_t merges) {
    double exact = value_roundoff(DA_F64);
    return gradient_in_precision(row, head_dim, dtype == DA_F64 ? DA_F64 : DA_F32, value_roundoff(dtype),
                                 value_roundoff(lse_dtype), bf16_weights ? value_roundoff(DA_BF16) : 0, merges) +
           gradient_in_precision(row, head_dim, DA_F64, exact, exact, 0, 0) + value_tiny(dtype) * row->grad_out;
}

double bound_when_stored(double bound, double exact, da_dtype dtype) {
    double u = value_roundoff(dtype);
    return bound * (1 + u) + u * fabs(exact) + value_tiny(dtype);
}
