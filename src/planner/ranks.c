/* The schedule, gone through step by step for each rank. */
#include <math.h>

#include "attention/improved/passes.h"
#include "attention/ranks/columns.h"
#include "core/dtype.h"
#include "core/memory.h"
#include "planner/ranks.h"

/* Calls of da_kept_count that a plan may take; with more, fewer ranks are gone through, but never less than MIN_RANKS. */
#define MAX_COUNTS 3.0e6
#define MIN_RANKS 5

/* Step s of a rank: rows of each tensor that come from the rank s before it, and go to the one s beyond it, and pairs with
 * the former's. */
typedef struct step {
    int64_t in, out;
    double in_lists, out_lists; /* bytes by which this rank knows which rows those are */
    double pairs;
} step;

/* A direction of a pass, as da_direction has it. */
typedef struct direction {
    da_travellers travellers;
    bool with_terms; /* of queries in the backward pass */
    double pair_seconds;
    int64_t heads; /* of the tensors that travel */
} direction;

typedef struct planning {
    da_ranks_plan *plan;
    const da_context *context;
    da_layout *layout;
    da_traffic traffic;
    int *ranks;               /* that are gone through, in ascending order */
    step *steps[2];           /* by da_travellers: [plan->count][ranks] */
    da_heads_sizes *heads[2]; /* by da_pass: [plan->count] */
    double *heads_pairs;      /* that a rank computes if heads are divided */
    da_split_seconds *split_seconds;
    double *begin, *end;
} planning;

static double larger(double a, double b) {
    return a > b ? a : b;
}

static int neighbour(const planning *p, int rank, int steps) {
    int ranks = p->layout->ranks;
    return (int)(((int64_t)rank + steps + ranks) % ranks);
}

static const da_part *part_of(const planning *p, int rank) {
    return da_layout_part(p->layout, rank);
}

/* Are all ranks gone through? */
static bool is_complete(const planning *p) {
    return p->plan->count == p->layout->ranks;
}

/* Passes and, likewise, kinds of travellers. */
static int passes(const planning *p) {
    return p->plan->options.backward ? 2 : 1;
}

/* ---- counting ------------------------------------------------------------------------------------------------------ */

static double pairs_of(const planning *p, da_travellers travellers, int rank, int from) {
    const da_part *own = part_of(p, rank), *theirs = part_of(p, from);
    return travellers == DA_TRAVEL_KEYS ? da_traffic_pairs(&p->traffic, own, theirs)
                                        : da_traffic_pairs(&p->traffic, theirs, own);
}

static void count_rank(const planning *p, da_travellers travellers, int index) {
    int rank = p->ranks[index];
    step *steps = &p->steps[travellers][(size_t)index * (size_t)p->layout->ranks];
    for (int s = 0; s < p->layout->ranks; s++) {
        int from = neighbour(p, rank, -s), to = neighbour(p, rank, s);
        steps[s] = (step){0};
        if (s > 0) {
            steps[s].in =
                da_traffic_rows(&p->traffic, travellers, part_of(p, rank), part_of(p, from), &steps[s].in_lists);
        }
        if (s == 0 || steps[s].in > 0) {
            steps[s].pairs = pairs_of(p, travellers, rank, from);
        }
        if (s > 0 && !is_complete(p)) {
            steps[s].out =
                da_traffic_rows(&p->traffic, travellers, part_of(p, to), part_of(p, rank), &steps[s].out_lists);
        }
    }
}

/* What goes to a rank is what that rank receives. */
static void fill_out(const planning *p, da_travellers travellers) {
    int ranks = p->layout->ranks;
    step *steps = p->steps[travellers];
    for (int rank = 0; rank < ranks; rank++) {
        for (int s = 1; s < ranks; s++) {
            step *ours = &steps[(size_t)rank * (size_t)ranks + (size_t)s];
            const step *theirs = &steps[(size_t)neighbour(p, rank, s) * (size_t)ranks + (size_t)s];
            ours->out = theirs->in;
            ours->out_lists = theirs->in_lists;
        }
    }
}

/* Of what a rank holds if heads are divided. */
static void count_heads(planning *p, int index) {
    const da_problem *problem = &p->plan->problem;
    int64_t first, end, group = problem->heads / problem->kv_heads;
    int rank = p->ranks[index];
    da_heads_of_rank(problem->kv_heads, p->layout->ranks, rank, &first, &end);
    p->heads_pairs[index] = da_traffic_pairs_of_heads(&p->traffic, first * group, end * group);
    for (int pass = 0; pass < passes(p); pass++) {
        p->heads[pass][index] = da_heads_size(p->layout, problem, (da_pass)pass, rank);
    }
}

static da_status scale_pairs(planning *p) {
    double share;
    da_status status = da_traffic_distinct_share(&p->traffic, &share);
    for (int index = 0; index < p->plan->count && status == DA_OK; index++) {
        p->heads_pairs[index] *= share;
        for (size_t s = 0; s < (size_t)p->layout->ranks; s++) {
            for (int t = 0; t < passes(p); t++) {
                p->steps[t][(size_t)index * (size_t)p->layout->ranks + s].pairs *= share;
            }
        }
    }
    return status;
}

static da_status count_all(planning *p) {
    for (int t = 0; t < passes(p); t++) {
        for (int index = 0; index < p->plan->count; index++) {
            count_rank(p, (da_travellers)t, index);
        }
        if (is_complete(p)) {
            fill_out(p, (da_travellers)t);
        }
    }
    for (int index = 0; index < p->plan->count; index++) {
        count_heads(p, index);
    }
    return scale_pairs(p);
}

/* ---- messages ------------------------------------------------------------------------------------------------------ */

static double message_bytes(const planning *p, const direction *d, int64_t rows) {
    const da_problem *problem = &p->plan->problem;
    return rows > 0 ? (double)da_parcel_message_bytes(rows, problem->head_dim, problem->dtype, d->with_terms) : 0;
}

static double allocated(size_t bytes) {
    return (double)da_allocated_bytes(bytes);
}

static double transfer_seconds(const planning *p, double bytes) {
    return bytes > 0 ? p->plan->rates.latency + bytes / p->plan->rates.bandwidth : 0;
}

static void add_exchange(const da_exchange *e, da_rank_share *share) {
    share->messages_received += e->messages_in;
    share->messages_sent += e->messages_out;
    share->rows_received += e->rows_in;
    share->rows_sent += e->rows_out;
    share->bytes_received += e->bytes_in;
    share->bytes_sent += e->bytes_out;
}

static double overhead_of(const planning *p, const step *s) {
    return p->plan->rates.overhead * ((s->in > 0) + (s->out > 0));
}

/* ---- memory -------------------------------------------------------------------------------------------------------- */

static da_problem problem_of_part(const planning *p, const da_part *part) {
    da_problem problem = p->plan->problem;
    problem.n = part->length;
    return problem;
}

static double workspace_of(const planning *p, const direction *d, const da_part *part, bool backward) {
    da_problem problem = problem_of_part(p, part);
    bool keys = d->travellers == DA_TRAVEL_QUERIES;
    if (part->length == 0) {
        return 0;
    }
    return allocated(backward ? da_improved_backward_scope_workspace(p->context, &p->plan->config, &problem, keys)
                              : da_improved_workspace(p->context, &p->plan->config, &problem, NULL));
}

static double carry_of(const planning *p, const direction *d, const da_part *part, bool backward) {
    da_problem problem = problem_of_part(p, part);
    if (!backward) {
        return allocated(da_improved_forward_carry(p->context, false, &problem));
    }
    bool keys = d->travellers == DA_TRAVEL_QUERIES;
    int64_t heads = keys ? problem.kv_heads : problem.heads;
    size_t bytes = da_improved_backward_carry(p->context, false, &problem, heads);
    return allocated((keys ? 2 : 1) * bytes);
}

/* While ranks meet: what all of them say, and a copy of it or, then, the layout and the lengths that it is made of. */
static double meeting_memory(const planning *p) {
    size_t ranks = (size_t)p->layout->ranks;
    double all = allocated(ranks * da_meeting_bytes());
    return all + larger(all, allocated(ranks * sizeof(int64_t)) + allocated(p->layout->bytes));
}

/* What is held at a time, and was at the highest. */
typedef struct held {
    double now, most;
} held;

static void hold(held *h, double bytes) {
    h->now += bytes;
    h->most = larger(h->most, h->now);
}

/* A parcel's lists, for which rows are marked meanwhile, and then its message. */
static void hold_parcel(const planning *p, const direction *d, int64_t rows, double lists, const da_part *columns,
                        held *h) {
    if (rows > 0) {
        double marks = allocated(da_parcel_marks_bytes(columns->length));
        hold(h, lists + marks);
        hold(h, allocated((size_t)message_bytes(p, d, rows)) - marks);
    }
}

static double ring_memory(const planning *p, const direction *d, int index, bool backward) {
    int ranks = p->layout->ranks, rank = p->ranks[index];
    const step *steps = &p->steps[d->travellers][(size_t)index * (size_t)ranks];
    const da_part *own = part_of(p, rank);
    double workspace = workspace_of(p, d, own, backward), most = 0;
    bool carries = false;
    for (int s = 0; s < ranks; s++) {
        held h = {0};
        if (steps[s].in > 0) {
            hold(&h, steps[s].in_lists + allocated((size_t)message_bytes(p, d, steps[s].in)));
        }
        if (s + 1 < ranks) {
            const step *next = &steps[s + 1];
            hold_parcel(p, d, next->in, next->in_lists, part_of(p, neighbour(p, rank, -(s + 1))), &h);
            hold_parcel(p, d, next->out, next->out_lists, own, &h);
        }
        hold(&h, s == 0 || steps[s].in > 0 ? workspace : 0);
        most = larger(most, h.most);
        carries |= steps[s].in > 0;
    }
    return most + (carries ? carry_of(p, d, own, backward) : 0);
}

static double gathered_memory(const planning *p, const direction *d, int index, bool backward) {
    int ranks = p->layout->ranks, rank = p->ranks[index];
    const step *steps = &p->steps[d->travellers][(size_t)index * (size_t)ranks];
    held h = {0};
    hold(&h, allocated(da_gathered_bytes(ranks)));
    for (int s = 1; s < ranks; s++) {
        hold_parcel(p, d, steps[s].in, steps[s].in_lists, part_of(p, neighbour(p, rank, -s)), &h);
    }
    for (int s = 1; s < ranks; s++) {
        hold_parcel(p, d, steps[s].out, steps[s].out_lists, part_of(p, rank), &h);
    }
    hold(&h, workspace_of(p, d, part_of(p, rank), backward));
    return h.most;
}

static double heads_memory(const planning *p, da_pass pass, int index) {
    const da_heads_sizes *sizes = &p->heads[pass][index];
    da_problem problem = p->plan->problem;
    int64_t first, end, group = problem.heads / problem.kv_heads;
    da_heads_of_rank(problem.kv_heads, p->layout->ranks, p->ranks[index], &first, &end);
    double workspace = 0;
    if (first < end) {
        problem.kv_heads = end - first;
        problem.heads = problem.kv_heads * group;
        workspace = allocated(pass == DA_PASS_FORWARD
                                  ? da_improved_workspace(p->context, &p->plan->config, &problem, NULL)
                                  : da_improved_backward_workspace(p->context, &p->plan->config, &problem, NULL));
    }
    return sizes->tensors + larger(workspace, larger(sizes->inputs_memory, sizes->outputs_memory));
}

/* ---- time ---------------------------------------------------------------------------------------------------------- */

/* When another rank has begun what this one has: by its own time if that is known, or else at the same time. */
static double begin_of(const planning *p, int index, int other) {
    return larger(p->begin[index], is_complete(p) ? p->begin[other] : p->begin[index]);
}

/* One step of a rank: it computes with what it has while what comes next, and what others need, travels. */
static void ring_step(planning *p, const direction *d, int s, int index) {
    int ranks = p->layout->ranks, rank = p->ranks[index];
    const step *steps = &p->steps[d->travellers][(size_t)index * (size_t)ranks];
    static const step none = {0};
    const step *now = &steps[s], *next = s + 1 < ranks ? &steps[s + 1] : &none;
    da_rank_share *share = &p->plan->shares[DA_SCHEME_RING][index];
    double computes = now->pairs * d->pair_seconds;
    double in = transfer_seconds(p, message_bytes(p, d, next->in));
    double out = transfer_seconds(p, message_bytes(p, d, next->out));
    double end = p->begin[index] + computes + overhead_of(p, next);
    if (next->in > 0) {
        end = larger(end, begin_of(p, index, neighbour(p, rank, -(s + 1))) + in);
    }
    if (next->out > 0) {
        end = larger(end, begin_of(p, index, neighbour(p, rank, s + 1)) + out);
    }
    p->end[index] = end;
    share->compute_seconds += computes;
    share->transfer_seconds += larger(in, out) + overhead_of(p, next);
    da_exchange exchange = {0};
    da_traffic_add_message(&p->traffic, d->travellers, next->in, next->out, &exchange);
    add_exchange(&exchange, share);
}

static void run_ring(planning *p, const direction *d) {
    for (int s = 0; s < p->layout->ranks; s++) {
        for (int index = 0; index < p->plan->count; index++) {
            ring_step(p, d, s, index);
        }
        double *swapped = p->begin;
        p->begin = p->end;
        p->end = swapped;
    }
}

/* All messages of a direction by tokens, and all pairs. */
static da_exchange sum_steps(const planning *p, const direction *d, int index, double *pairs) {
    size_t ranks = (size_t)p->layout->ranks;
    const step *steps = &p->steps[d->travellers][(size_t)index * ranks];
    da_exchange exchange = {0};
    *pairs = 0;
    for (size_t s = 0; s < ranks; s++) {
        *pairs += steps[s].pairs;
        da_traffic_add_message(&p->traffic, d->travellers, steps[s].in, steps[s].out, &exchange);
    }
    return exchange;
}

static void run_gathered(planning *p, const direction *d, da_scheme scheme) {
    for (int index = 0; index < p->plan->count; index++) {
        da_rank_share *share = &p->plan->shares[scheme][index];
        double pairs;
        da_exchange exchange = sum_steps(p, d, index, &pairs);
        add_exchange(&exchange, share);
        share->compute_seconds += pairs * d->pair_seconds;
        share->transfer_seconds += da_exchange_seconds(&p->plan->rates, &exchange);
        p->begin[index] += da_gathered_seconds(&p->plan->rates, &exchange, pairs, d->pair_seconds);
    }
}

/* What comes of other ranks' heads comes once they have computed: all wait for the last. */
static void run_heads(planning *p, da_pass pass, da_scheme scheme) {
    const da_rates *rates = &p->plan->rates;
    double last = 0;
    for (int index = 0; index < p->plan->count; index++) {
        const da_heads_sizes *sizes = &p->heads[pass][index];
        da_rank_share *share = &p->plan->shares[scheme][index];
        double inputs = da_exchange_seconds(rates, &sizes->inputs);
        double computes = p->heads_pairs[index] * da_pass_pair_seconds(rates, pass);
        add_exchange(&sizes->inputs, share);
        add_exchange(&sizes->outputs, share);
        share->compute_seconds += computes;
        share->transfer_seconds += inputs + da_exchange_seconds(rates, &sizes->outputs);
        last = larger(last, p->begin[index] + inputs + computes);
    }
    for (int index = 0; index < p->plan->count; index++) {
        p->begin[index] = last + da_exchange_seconds(rates, &p->heads[pass][index].outputs);
    }
}

/* All ranks say `bytes` bytes each, in as many rounds as the logarithm of their number: nobody goes on before the last. */
static void gather(planning *p, size_t bytes) {
    const da_rates *rates = &p->plan->rates;
    double last = 0, ranks = (double)p->layout->ranks;
    for (int index = 0; index < p->plan->count; index++) {
        last = larger(last, p->begin[index]);
    }
    last += ceil(log2(ranks)) * (rates->latency + 2 * rates->overhead) + (ranks - 1) * (double)bytes / rates->bandwidth;
    for (int index = 0; index < p->plan->count; index++) {
        p->begin[index] = last;
    }
}

/* ---- how `distributed` divides the calls --------------------------------------------------------------------------- */

/* The directions of a pass, by tokens. */
static int directions_of(const da_ranks_plan *plan, da_pass pass, direction directions[2]) {
    const da_pair_seconds *pair = &plan->rates.pair;
    if (pass == DA_PASS_FORWARD) {
        directions[0] = (direction){DA_TRAVEL_KEYS, false, pair->forward, plan->problem.kv_heads};
        return 1;
    }
    directions[0] = (direction){DA_TRAVEL_KEYS, false, pair->grad_query, plan->problem.kv_heads};
    directions[1] = (direction){DA_TRAVEL_QUERIES, true, pair->grad_keys, plan->problem.heads};
    return 2;
}

static da_split_seconds reckon(const planning *p, da_pass pass, int index) {
    const da_rates *rates = &p->plan->rates;
    const da_heads_sizes *sizes = &p->heads[pass][index];
    da_split_seconds found = {.heads_computed = da_exchange_seconds(rates, &sizes->inputs) +
                                                p->heads_pairs[index] * da_pass_pair_seconds(rates, pass),
                              .heads_results = da_exchange_seconds(rates, &sizes->outputs)};
    direction directions[2];
    int count = directions_of(p->plan, pass, directions);
    for (int k = 0; k < count; k++) {
        double pairs;
        da_exchange exchange = sum_steps(p, &directions[k], index, &pairs);
        found.by_tokens += da_gathered_seconds(rates, &exchange, pairs, directions[k].pair_seconds);
    }
    return found;
}

static void choose_splits(planning *p) {
    da_ranks_plan *plan = p->plan;
    int ranks = p->layout->ranks;
    plan->split_is_open = ranks > 1 && da_split_is_open(&plan->config, plan->problem.kv_heads, ranks);
    for (int pass = 0; pass < passes(p); pass++) {
        for (int index = 0; index < plan->count; index++) {
            p->split_seconds[index] = reckon(p, (da_pass)pass, index);
        }
        plan->split_seconds[pass] = da_slowest_split(p->split_seconds, plan->count);
        bool by_heads = plan->split_is_open ? da_heads_are_quicker(&plan->split_seconds[pass])
                                            : plan->config.split == DA_SPLIT_HEADS;
        plan->split[pass] = by_heads ? DA_SPLIT_HEADS : DA_SPLIT_TOKENS;
    }
}

static bool goes_by_heads(const planning *p, da_scheme scheme, da_pass pass) {
    return scheme == DA_SCHEME_HEADS || (scheme == DA_SCHEME_DISTRIBUTED && p->plan->split[pass] == DA_SPLIT_HEADS);
}

/* ---- all schemes --------------------------------------------------------------------------------------------------- */

/* Beside the layout. */
static void need_memory(const planning *p, da_scheme scheme, int index, double bytes) {
    da_rank_share *share = &p->plan->shares[scheme][index];
    share->memory_bytes = larger(share->memory_bytes, bytes + allocated(p->layout->bytes));
}

static void run_direction(planning *p, da_scheme scheme, const direction *d, bool backward) {
    if (scheme == DA_SCHEME_RING) {
        run_ring(p, d);
    } else {
        run_gathered(p, d, scheme);
    }
    for (int index = 0; index < p->plan->count; index++) {
        need_memory(p, scheme, index,
                    scheme == DA_SCHEME_RING ? ring_memory(p, d, index, backward)
                                             : gathered_memory(p, d, index, backward));
    }
}

static void run_pass(planning *p, da_scheme scheme, da_pass pass) {
    gather(p, da_meeting_bytes());
    if (scheme == DA_SCHEME_DISTRIBUTED && p->plan->split_is_open) {
        gather(p, da_choice_said_bytes());
    }
    if (goes_by_heads(p, scheme, pass)) {
        run_heads(p, pass, scheme);
        for (int index = 0; index < p->plan->count; index++) {
            need_memory(p, scheme, index, heads_memory(p, pass, index));
        }
        return;
    }
    direction directions[2];
    int count = directions_of(p->plan, pass, directions);
    for (int k = 0; k < count; k++) {
        run_direction(p, scheme, &directions[k], pass == DA_PASS_BACKWARD);
    }
}

static void run_scheme(planning *p, da_scheme scheme) {
    const da_ranks_plan *plan = p->plan;
    for (int index = 0; index < plan->count; index++) {
        da_rank_share *share = &plan->shares[scheme][index];
        p->begin[index] = 0;
        share->memory_bytes = meeting_memory(p);
        if (scheme == DA_SCHEME_DISTRIBUTED && p->plan->split_is_open) {
            need_memory(p, scheme, index, (double)da_choice_memory(p->layout->ranks, &p->traffic));
        }
    }
    for (int pass = 0; pass < passes(p); pass++) {
        run_pass(p, scheme, (da_pass)pass);
    }
    for (int index = 0; index < plan->count; index++) {
        plan->shares[scheme][index].seconds = p->begin[index];
    }
}

/* Pairs that a rank computes in a pass; by tokens, those of its queries. */
static double pairs_of_pass(const planning *p, da_scheme scheme, da_pass pass, int index) {
    const step *steps = &p->steps[DA_TRAVEL_KEYS][(size_t)index * (size_t)p->layout->ranks];
    double pairs = 0;
    if (goes_by_heads(p, scheme, pass)) {
        return p->heads_pairs[index];
    }
    for (int s = 0; s < p->layout->ranks; s++) {
        pairs += steps[s].pairs;
    }
    return pairs;
}

static void begin_share(const planning *p, da_scheme scheme, int index) {
    const da_problem *problem = &p->plan->problem;
    const da_part *part = part_of(p, p->ranks[index]);
    da_rank_share *share = &p->plan->shares[scheme][index];
    bool backward = p->plan->options.backward;
    double rows = (double)problem->batch * (double)part->length, d = (double)problem->head_dim;
    double numbers = rows * d * 2 * (double)(problem->heads + problem->kv_heads) * (backward ? 2 : 1);
    da_rank_share_init(share);
    share->rank = p->ranks[index];
    share->tokens = part->length;
    share->tensor_bytes =
        numbers * (double)da_dtype_size(problem->dtype) + rows * (double)problem->heads * (double)sizeof(double);
    share->pairs = pairs_of_pass(p, scheme, DA_PASS_FORWARD, index);
    share->flops = share->pairs * d * DA_FLOPS_FORWARD;
    if (backward) {
        share->flops +=
            pairs_of_pass(p, scheme, DA_PASS_BACKWARD, index) * d * (DA_FLOPS_GRAD_QUERY + DA_FLOPS_GRAD_KEYS);
    }
}

static void add_up(da_ranks_plan *plan, da_scheme scheme) {
    da_ranks_total *total = &plan->totals[scheme];
    double scale = (double)plan->options.ranks / plan->count, pairs = 0, most = 0;
    da_ranks_total_init(total);
    for (int index = 0; index < plan->count; index++) {
        const da_rank_share *share = &plan->shares[scheme][index];
        total->seconds = larger(total->seconds, share->seconds);
        total->single_seconds += share->compute_seconds * scale;
        total->bytes += share->bytes_sent * scale;
        total->bytes_most = larger(total->bytes_most, share->bytes_received);
        total->memory_most = larger(total->memory_most, share->tensor_bytes + share->memory_bytes);
        pairs += share->pairs;
        most = larger(most, share->pairs);
    }
    total->balance = pairs > 0 ? most * plan->count / pairs : 1;
}

/* ---- the plan ------------------------------------------------------------------------------------------------------ */

/* How many ranks are gone through. */
static int choose_count(const planning *p) {
    double ranks = (double)p->layout->ranks, classes = 0;
    for (int t = 0; t < passes(p); t++) {
        classes += p->traffic.class_count[t];
    }
    double counts = classes * ranks * (1 + (double)p->layout->piece_count / ranks / 16);
    if (counts * ranks <= MAX_COUNTS) {
        return p->layout->ranks;
    }
    double some = MAX_COUNTS / (2 * counts);
    some = some > MIN_RANKS ? some : MIN_RANKS;
    return some < ranks ? (int)some : p->layout->ranks;
}

static da_status allocate(planning *p) {
    da_ranks_plan *plan = p->plan;
    size_t count = (size_t)plan->count, steps = count * (size_t)p->layout->ranks;
    p->ranks = da_allocate(plan->allocator, count, sizeof *p->ranks);
    p->begin = da_allocate(plan->allocator, count, sizeof *p->begin);
    p->end = da_allocate(plan->allocator, count, sizeof *p->end);
    p->heads_pairs = da_allocate(plan->allocator, count, sizeof *p->heads_pairs);
    p->split_seconds = da_allocate(plan->allocator, count, sizeof *p->split_seconds);
    bool all = p->ranks && p->begin && p->end && p->heads_pairs && p->split_seconds;
    for (int pass = 0; pass < passes(p) && all; pass++) {
        p->steps[pass] = da_allocate(plan->allocator, steps, sizeof **p->steps);
        p->heads[pass] = da_allocate(plan->allocator, count, sizeof **p->heads);
        all = p->steps[pass] && p->heads[pass];
    }
    for (int scheme = 0; scheme < DA_SCHEMES && all; scheme++) {
        plan->shares[scheme] = da_allocate(plan->allocator, count, sizeof **plan->shares);
        all = plan->shares[scheme] != NULL;
    }
    return all ? DA_OK : DA_ERROR_OUT_OF_MEMORY;
}

static void release(planning *p) {
    const da_allocator *allocator = p->plan->allocator;
    da_release(allocator, p->ranks);
    da_release(allocator, p->begin);
    da_release(allocator, p->end);
    da_release(allocator, p->heads_pairs);
    da_release(allocator, p->split_seconds);
    for (int pass = 0; pass < 2; pass++) {
        da_release(allocator, p->steps[pass]);
        da_release(allocator, p->heads[pass]);
    }
    da_layout_free(p->layout);
}

static da_status go_through(planning *p) {
    da_ranks_plan *plan = p->plan;
    da_status status = allocate(p);
    for (int index = 0; index < plan->count && status == DA_OK; index++) {
        int last = p->layout->ranks - 1;
        p->ranks[index] = plan->count == 1 ? 0 : (int)((int64_t)last * index / (plan->count - 1));
    }
    if (status == DA_OK) {
        status = count_all(p);
    }
    if (status == DA_OK) {
        choose_splits(p);
    }
    for (int scheme = 0; scheme < DA_SCHEMES && status == DA_OK; scheme++) {
        for (int index = 0; index < plan->count; index++) {
            begin_share(p, (da_scheme)scheme, index);
        }
        run_scheme(p, (da_scheme)scheme);
        add_up(plan, (da_scheme)scheme);
    }
    return status;
}

da_status da_ranks_simulate(const da_context *context, da_ranks_plan *plan) {
    planning p = {.plan = plan, .context = context};
    const da_attention_config *config = &plan->config;
    da_status status = da_layout_create(plan->allocator, config->partition, config->stripe, plan->problem.n,
                                        plan->options.ranks, NULL, &p.layout);
    if (status != DA_OK) {
        return status;
    }
    int64_t longest = 0;
    for (int rank = 0; rank < plan->options.ranks; rank++) {
        longest = part_of(&p, rank)->length > longest ? part_of(&p, rank)->length : longest;
    }
    status = da_traffic_create(plan->allocator, config, &plan->problem, longest, &p.traffic);
    if (status == DA_OK) {
        plan->count = choose_count(&p);
        status = go_through(&p);
        da_traffic_free(&p.traffic);
    }
    release(&p);
    return status;
}
