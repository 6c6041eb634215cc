/* What is gone through for a plan over ranks: which rows each step moves and which pairs it computes (ranks_count.c), what
 * memory that takes (ranks_memory.c), and when it is done (ranks.c). */
#ifndef DA_PLANNER_RANKS_SCHEDULE_H
#define DA_PLANNER_RANKS_SCHEDULE_H

#include "planner/ranks.h"

/* Step s of a rank: rows of each tensor that come from the rank s before it, and go to the one s beyond it, and pairs with
 * the former's. */
typedef struct da_step {
    int64_t in, out;
    double in_lists, out_lists; /* bytes by which this rank knows which rows those are */
    double pairs;
} da_step;

/* A direction of a pass by tokens, as da_direction has it. */
typedef struct da_planned_direction {
    da_pass pass;
    da_travellers travellers;
    double pair_seconds;
} da_planned_direction;

typedef struct da_schedule {
    da_ranks_plan *plan;
    const da_context *context;
    da_layout *layout;
    da_traffic traffic;
    int *ranks;                /* that are gone through, in ascending order */
    da_step *steps[2];         /* by da_travellers: [plan->count][ranks] */
    da_heads_course *heads[2]; /* by da_pass: [plan->count] */
    da_split_seconds *split_seconds;
    double *begin, *end;
} da_schedule;

static inline int da_schedule_neighbour(const da_schedule *p, int rank, int steps) {
    int ranks = p->layout->ranks;
    return (int)(((int64_t)rank + steps + ranks) % ranks);
}

static inline const da_part *da_schedule_part(const da_schedule *p, int rank) {
    return da_layout_part(p->layout, rank);
}

/* The steps of a rank, by its index among those that are gone through. */
static inline da_step *da_schedule_steps(const da_schedule *p, da_travellers travellers, int index) {
    return &p->steps[travellers][(size_t)index * (size_t)p->layout->ranks];
}

/* Are all ranks gone through? */
static inline bool da_schedule_is_complete(const da_schedule *p) {
    return p->plan->count == p->layout->ranks;
}

/* Passes and, likewise, kinds of travellers. */
static inline int da_schedule_passes(const da_schedule *p) {
    return p->plan->options.backward ? 2 : 1;
}

/* Fills in steps and heads. Errors: those of da_traffic_distinct_share. */
da_status da_schedule_count(da_schedule *p);

/* What a rank holds beside the layout, at the highest of a direction, or of a pass by heads. */
double da_schedule_ring_memory(const da_schedule *p, const da_planned_direction *d, int index);
double da_schedule_gathered_memory(const da_schedule *p, const da_planned_direction *d, int index);
double da_schedule_heads_memory(const da_schedule *p, da_pass pass, int index);

/* While ranks meet, the layout included. */
double da_schedule_meeting_memory(const da_schedule *p);

#endif
