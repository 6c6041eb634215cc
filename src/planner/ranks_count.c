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

static void scale_pairs(da_schedule *p, double share) {
    for (int index = 0; index < p->plan->count; index++) {
        for (size_t s = 0; s < (size_t)p->layout->ranks; s++) {
            for (int t = 0; t < da_schedule_passes(p); t++) {
                da_schedule_steps(p, (da_travellers)t, index)[s].pairs *= share;
            }
        }
    }
}

/* What a rank goes through if heads are divided. */
static void count_heads(da_schedule *p, int index, double share) {
    for (int pass = 0; pass < da_schedule_passes(p); pass++) {
        p->heads[pass][index] =
            da_heads_go_through(&p->plan->rates, &p->traffic, p->layout, (da_pass)pass, p->ranks[index], share);
    }
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
    double share;
    da_status status = da_traffic_distinct_share(&p->traffic, &share);
    if (status == DA_OK) {
        scale_pairs(p, share);
    }
    for (int index = 0; index < p->plan->count && status == DA_OK; index++) {
        count_heads(p, index, share);
    }
    return status;
}
