/* Rows and pairs of each step of each rank. */
#include "planner/ranks_schedule.h"

static double pairs_of(const da_schedule *p, da_travellers travellers, int rank, int from) {
    const da_part *own = da_schedule_part(p, rank), *theirs = da_schedule_part(p, from);
    return travellers == DA_TRAVEL_KEYS ? da_traffic_pairs(&p->traffic, own, theirs)
                                        : da_traffic_pairs(&p->traffic, theirs, own);
}

static void count_rank(const da_schedule *p, da_travellers travellers, int index) {
    int rank = p->ranks[index];
    da_step *steps = da_schedule_steps(p, travellers, index);
    for (int s = 0; s < p->layout->ranks; s++) {
        int from = da_schedule_neighbour(p, rank, -s), to = da_schedule_neighbour(p, rank, s);
        steps[s] = (da_step){0};
        if (s > 0) {
            steps[s].in = da_traffic_rows(&p->traffic, travellers, da_schedule_part(p, rank), da_schedule_part(p, from),
                                          &steps[s].in_lists);
        }
        if (s == 0 || steps[s].in > 0) {
            steps[s].pairs = pairs_of(p, travellers, rank, from);
        }
        if (s > 0 && !da_schedule_is_complete(p)) {
            steps[s].out = da_traffic_rows(&p->traffic, travellers, da_schedule_part(p, to), da_schedule_part(p, rank),
                                           &steps[s].out_lists);
        }
    }
}

/* What goes to a rank is what that rank receives. */
static void fill_out(const da_schedule *p, da_travellers travellers) {
    int ranks = p->layout->ranks;
    da_step *steps = p->steps[travellers];
    for (int rank = 0; rank < ranks; rank++) {
        for (int s = 1; s < ranks; s++) {
            da_step *ours = &steps[(size_t)rank * (size_t)ranks + (size_t)s];
            const da_step *theirs = &steps[(size_t)da_schedule_neighbour(p, rank, s) * (size_t)ranks + (size_t)s];
            ours->out = theirs->in;
            ours->out_lists = theirs->in_lists;
        }
    }
}

/* Of what a rank holds if heads are divided. */
static void count_heads(da_schedule *p, int index) {
    const da_problem *problem = &p->plan->problem;
    int64_t first, end, group = problem->heads / problem->kv_heads;
    int rank = p->ranks[index];
    da_heads_of_rank(problem->kv_heads, p->layout->ranks, rank, &first, &end);
    p->heads_pairs[index] = da_traffic_pairs_of_heads(&p->traffic, first * group, end * group);
    for (int pass = 0; pass < da_schedule_passes(p); pass++) {
        p->heads[pass][index] = da_heads_size(p->layout, problem, (da_pass)pass, rank);
    }
}

static da_status scale_pairs(da_schedule *p) {
    double share;
    da_status status = da_traffic_distinct_share(&p->traffic, &share);
    for (int index = 0; index < p->plan->count && status == DA_OK; index++) {
        p->heads_pairs[index] *= share;
        for (size_t s = 0; s < (size_t)p->layout->ranks; s++) {
            for (int t = 0; t < da_schedule_passes(p); t++) {
                da_schedule_steps(p, (da_travellers)t, index)[s].pairs *= share;
            }
        }
    }
    return status;
}

da_status da_schedule_count(da_schedule *p) {
    for (int t = 0; t < da_schedule_passes(p); t++) {
        for (int index = 0; index < p->plan->count; index++) {
            count_rank(p, (da_travellers)t, index);
        }
        if (da_schedule_is_complete(p)) {
            fill_out(p, (da_travellers)t);
        }
    }
    for (int index = 0; index < p->plan->count; index++) {
        count_heads(p, index);
    }
    return scale_pairs(p);
}
