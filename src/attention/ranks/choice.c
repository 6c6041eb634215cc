#include "attention/ranks/choice.h"

#include "core/dtype.h"
#include "pattern/kept.h"
#include "pattern/pattern.h"

/* Bytes of keys and values that this rank needs of others. Of key heads that several query heads read, the first one's
 * need is taken for all. */
static double bytes_by_tokens(const da_meeting *meeting, const da_tensor *query, const da_tensor *key) {
    int64_t heads = query->shape[2], kv_heads = key->shape[2];
    double rows = 0;
    for (int rank = 0; rank < meeting->comm->ranks; rank++) {
        for (int64_t head = 0; head < kv_heads && rank != meeting->comm->rank; head++) {
            da_head_patterns patterns;
            da_head_patterns_init(&patterns, meeting->config, meeting->layout->n, heads, head * (heads / kv_heads));
            rows += (double)da_kept_count(&patterns, meeting->part, da_layout_part(meeting->layout, rank), false);
        }
    }
    return 2 * rows * (double)(query->shape[0] * query->shape[3]) * (double)da_dtype_size(query->dtype);
}

/* Bytes of query, key, value and out that a rank receives: all but its own share of tokens. */
static double bytes_by_heads(const da_meeting *meeting, const da_tensor *query, const da_tensor *key) {
    double ranks = meeting->comm->ranks, tokens = (double)meeting->layout->n / ranks * (ranks - 1) / ranks;
    double heads = 2 * (double)(query->shape[2] + key->shape[2]);
    return tokens * heads * (double)(query->shape[0] * query->shape[3]) * (double)da_dtype_size(query->dtype);
}

static da_status find_flops(const da_meeting *meeting, const da_tensor *query, double *flops) {
    da_problem problem;
    da_cost cost;
    da_problem_init(&problem);
    problem.batch = query->shape[0];
    problem.n = meeting->layout->n;
    problem.heads = query->shape[2];
    problem.head_dim = query->shape[3];
    problem.dtype = query->dtype;
    da_cost_init(&cost);
    da_status status = da_pattern_cost(meeting->config, &problem, &cost);
    *flops = cost.counted_flops;
    return status;
}

da_status da_choose_split(const da_meeting *meeting, const da_tensor *query, const da_tensor *key, bool *by_heads) {
    int64_t ranks = meeting->comm->ranks, kv_heads = key->shape[2];
    *by_heads = meeting->config->split == DA_SPLIT_HEADS;
    if (meeting->config->split != DA_SPLIT_AUTO || kv_heads < ranks) {
        return DA_OK;
    }
    double bytes = bytes_by_tokens(meeting, query, key), flops;
    da_status status =
        da_comm_reduce(meeting->comm, da_context_allocator(meeting->context), &bytes, 1, DA_F64); /* of all ranks */
    if (status == DA_OK) {
        status = find_flops(meeting, query, &flops);
    }
    if (status == DA_OK) {
        double most_heads = (double)((kv_heads + ranks - 1) / ranks) / (double)kv_heads;
        double by_tokens = flops / (double)ranks / DA_ASSUMED_FLOPS + bytes / (double)ranks / DA_ASSUMED_BYTES;
        double of_heads =
            flops * most_heads / DA_ASSUMED_FLOPS + bytes_by_heads(meeting, query, key) / DA_ASSUMED_BYTES;
        *by_heads = of_heads < by_tokens;
    }
    return status;
}
