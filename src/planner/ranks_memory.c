/* The memory of a rank, to the byte: the sizes that the calls allocate, in their order. */
#include <math.h>

#include "attention/improved/passes.h"
#include "attention/ranks/columns.h"
#include "core/memory.h"
#include "planner/ranks_schedule.h"

static double allocated(size_t bytes) {
    return (double)da_allocated_bytes(bytes);
}

static da_problem problem_of_part(const da_schedule *p, const da_part *part) {
    da_problem problem = p->plan->problem;
    problem.n = part->length;
    return problem;
}

static double workspace_of(const da_schedule *p, const da_planned_direction *d, const da_part *part) {
    da_problem problem = problem_of_part(p, part);
    bool keys = d->travellers == DA_TRAVEL_QUERIES;
    if (part->length == 0) {
        return 0;
    }
    return allocated(d->pass == DA_PASS_BACKWARD
                         ? da_improved_backward_scope_workspace(p->context, &p->plan->config, &problem, keys)
                         : da_improved_workspace(p->context, &p->plan->config, &problem, NULL));
}

static double carry_of(const da_schedule *p, const da_planned_direction *d, const da_part *part) {
    da_problem problem = problem_of_part(p, part);
    if (d->pass == DA_PASS_FORWARD) {
        return allocated(da_improved_forward_carry(p->context, false, &problem));
    }
    bool keys = d->travellers == DA_TRAVEL_QUERIES;
    int64_t heads = keys ? problem.kv_heads : problem.heads;
    size_t bytes = da_improved_backward_carry(p->context, false, &problem, heads);
    return allocated((keys ? 2 : 1) * bytes);
}

/* While ranks meet: what all of them say, and a copy of it or, then, the layout and the lengths that it is made of. */
double da_schedule_meeting_memory(const da_schedule *p) {
    size_t ranks = (size_t)p->layout->ranks;
    double all = allocated(ranks * da_meeting_bytes());
    return all + fmax(all, allocated(ranks * sizeof(int64_t)) + allocated(p->layout->bytes));
}

/* What is held at a time, and was at the highest. */
typedef struct held {
    double now, most;
} held;

static void hold(held *h, double bytes) {
    h->now += bytes;
    h->most = fmax(h->most, h->now);
}

/* A parcel's lists, for which rows are marked meanwhile, and then its message. */
static void hold_parcel(const da_schedule *p, const da_planned_direction *d, int64_t rows, double lists,
                        const da_part *columns, held *h) {
    if (rows > 0) {
        double marks = allocated(da_parcel_marks_bytes(columns->length));
        hold(h, lists + marks);
        hold(h, allocated((size_t)da_traffic_message_bytes(&p->traffic, d->travellers, rows)) - marks);
    }
}

double da_schedule_ring_memory(const da_schedule *p, const da_planned_direction *d, int index) {
    int ranks = p->layout->ranks, rank = p->ranks[index];
    const da_step *steps = da_schedule_steps(p, d->travellers, index);
    const da_part *own = da_schedule_part(p, rank);
    double workspace = workspace_of(p, d, own), most = 0;
    bool carries = false;
    for (int s = 0; s < ranks; s++) {
        held h = {0};
        if (steps[s].in > 0) {
            hold(&h, steps[s].in_lists +
                         allocated((size_t)da_traffic_message_bytes(&p->traffic, d->travellers, steps[s].in)));
        }
        if (s + 1 < ranks) {
            const da_step *next = &steps[s + 1];
            hold_parcel(p, d, next->in, next->in_lists, da_schedule_part(p, da_schedule_neighbour(p, rank, -(s + 1))),
                        &h);
            hold_parcel(p, d, next->out, next->out_lists, own, &h);
        }
        hold(&h, s == 0 || steps[s].in > 0 ? workspace : 0);
        most = fmax(most, h.most);
        carries |= steps[s].in > 0;
    }
    return most + (carries ? carry_of(p, d, own) : 0);
}

double da_schedule_gathered_memory(const da_schedule *p, const da_planned_direction *d, int index) {
    int ranks = p->layout->ranks, rank = p->ranks[index];
    const da_step *steps = da_schedule_steps(p, d->travellers, index);
    bool any_come = false;
    held h = {0};
    hold(&h, allocated(da_gathered_bytes(ranks)));
    for (int s = 1; s < ranks; s++) {
        hold_parcel(p, d, steps[s].in, steps[s].in_lists, da_schedule_part(p, da_schedule_neighbour(p, rank, -s)), &h);
        any_come |= steps[s].in > 0;
    }
    for (int s = 1; s < ranks; s++) {
        hold_parcel(p, d, steps[s].out, steps[s].out_lists, da_schedule_part(p, rank), &h);
    }
    hold(&h, any_come ? carry_of(p, d, da_schedule_part(p, rank)) : 0);
    hold(&h, workspace_of(p, d, da_schedule_part(p, rank)));
    return h.most;
}

static double turn_workspace(const da_schedule *p, da_pass pass, int rank, int turn) {
    da_problem problem = p->plan->problem;
    int64_t first, end, group = problem.heads / problem.kv_heads;
    da_heads_of_turn(problem.kv_heads, p->layout->ranks, rank, turn, &first, &end);
    if (first == end) {
        return 0;
    }
    problem.kv_heads = end - first;
    problem.heads = problem.kv_heads * group;
    return allocated(pass == DA_PASS_FORWARD
                         ? da_improved_workspace(p->context, &p->plan->config, &problem, NULL)
                         : da_improved_backward_workspace(p->context, &p->plan->config, &problem, NULL));
}

/* A turn's inputs come into its tensors while the last one's results go; then come the next one's inputs; its own results
 * follow the last one's. */
double da_schedule_heads_memory(const da_schedule *p, da_pass pass, int index) {
    const da_problem *problem = &p->plan->problem;
    int rank = p->ranks[index], turns = da_heads_turns(problem->kv_heads, p->layout->ranks);
    da_heads_sizes last = {0}, now = da_heads_size(p->layout, problem, pass, rank, 0), next;
    held h = {0};
    hold(&h, now.inputs_memory);
    for (int turn = 0; turn < turns; turn++, last = now, now = next) {
        next = turn + 1 < turns ? da_heads_size(p->layout, problem, pass, rank, turn + 1) : (da_heads_sizes){0};
        double workspace = turn_workspace(p, pass, rank, turn);
        hold(&h, now.tensors + now.own_inputs);
        hold(&h, next.inputs_memory - now.own_inputs - now.inputs_memory);
        hold(&h, workspace);
        hold(&h, now.outputs_memory + now.own_outputs - workspace - last.outputs_memory);
        hold(&h, -now.own_outputs - now.tensors);
    }
    return h.most;
}
