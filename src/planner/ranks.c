/* The schedule, gone through step by step for each rank: when each is done, and which way is the quicker. */
#include <math.h>

#include "core/dtype.h"
#include "core/memory.h"
#include "planner/ranks_schedule.h"

/* Calls of da_kept_count that a plan may take; with more, fewer ranks are gone through, but never less than MIN_RANKS. */
#define MAX_COUNTS 3.0e6
#define MIN_RANKS 5

/* ---- messages ------------------------------------------------------------------------------------------------------ */

static void add_exchange(const da_exchange *e, da_rank_share *share) {
    share->messages_received += e->messages_in;
    share->messages_sent += e->messages_out;
    share->rows_received += e->rows_in;
    share->rows_sent += e->rows_out;
    share->bytes_received += e->bytes_in;
    share->bytes_sent += e->bytes_out;
}

static double overhead_of(const da_schedule *p, const da_step *s) {
    return p->plan->rates.overhead * ((s->in > 0) + (s->out > 0));
}

/* ---- time ---------------------------------------------------------------------------------------------------------- */

/* When another rank has begun what this one has: by its own time if that is known, or else at the same time. */
static double begin_of(const da_schedule *p, int index, int other) {
    return fmax(p->begin[index], da_schedule_is_complete(p) ? p->begin[other] : p->begin[index]);
}

/* One step of a rank: it computes with what it has while what comes next, and what others need, travels. */
static void ring_step(da_schedule *p, const da_planned_direction *d, int s, int index) {
    int ranks = p->layout->ranks, rank = p->ranks[index];
    const da_step *steps = da_schedule_steps(p, d->travellers, index);
    static const da_step none = {0};
    const da_step *now = &steps[s], *next = s + 1 < ranks ? &steps[s + 1] : &none;
    da_rank_share *share = &p->plan->shares[DA_SCHEME_RING][index];
    double computes = now->pairs * d->pair_seconds;
    double in = da_transfer_seconds(&p->plan->rates, da_traffic_message_bytes(&p->traffic, d->travellers, next->in));
    double out = da_transfer_seconds(&p->plan->rates, da_traffic_message_bytes(&p->traffic, d->travellers, next->out));
    double end = p->begin[index] + computes + overhead_of(p, next);
    if (next->in > 0) {
        end = fmax(end, begin_of(p, index, da_schedule_neighbour(p, rank, -(s + 1))) + in);
    }
    if (next->out > 0) {
        end = fmax(end, begin_of(p, index, da_schedule_neighbour(p, rank, s + 1)) + out);
    }
    p->end[index] = end;
    share->compute_seconds += computes;
    share->transfer_seconds += fmax(in, out) + overhead_of(p, next);
    da_exchange exchange = {0};
    da_traffic_add_message(&p->traffic, d->travellers, next->in, next->out, &exchange);
    add_exchange(&exchange, share);
}

static void run_ring(da_schedule *p, const da_planned_direction *d) {
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
typedef struct gathered {
    da_exchange exchange;
    double own_pairs, other_pairs;
} gathered;

static gathered sum_steps(const da_schedule *p, const da_planned_direction *d, int index) {
    size_t ranks = (size_t)p->layout->ranks;
    const da_step *steps = da_schedule_steps(p, d->travellers, index);
    gathered sum = {.own_pairs = steps[0].pairs};
    for (size_t s = 1; s < ranks; s++) {
        sum.other_pairs += steps[s].pairs;
        da_traffic_add_message(&p->traffic, d->travellers, steps[s].in, steps[s].out, &sum.exchange);
    }
    return sum;
}

static double seconds_of(const da_schedule *p, const da_planned_direction *d, const gathered *sum) {
    return da_gathered_seconds(&p->plan->rates, &sum->exchange, sum->own_pairs, sum->other_pairs, d->pair_seconds);
}

static void run_gathered(da_schedule *p, const da_planned_direction *d, da_scheme scheme) {
    for (int index = 0; index < p->plan->count; index++) {
        da_rank_share *share = &p->plan->shares[scheme][index];
        gathered sum = sum_steps(p, d, index);
        add_exchange(&sum.exchange, share);
        share->compute_seconds += (sum.own_pairs + sum.other_pairs) * d->pair_seconds;
        share->transfer_seconds += da_exchange_seconds(&p->plan->rates, &sum.exchange);
        p->begin[index] += seconds_of(p, d, &sum);
    }
}

/* The last turn's results of other ranks' heads come once they have computed: all wait for the last. */
static void run_heads(da_schedule *p, da_pass pass, da_scheme scheme) {
    const da_rates *rates = &p->plan->rates;
    double last = 0;
    for (int index = 0; index < p->plan->count; index++) {
        const da_heads_course *course = &p->heads[pass][index];
        da_rank_share *share = &p->plan->shares[scheme][index];
        add_exchange(&course->inputs, share);
        add_exchange(&course->outputs, share);
        share->compute_seconds += course->pairs * da_pass_pair_seconds(rates, pass);
        share->transfer_seconds +=
            da_exchange_seconds(rates, &course->inputs) + da_exchange_seconds(rates, &course->outputs);
        last = fmax(last, p->begin[index] + course->computed);
    }
    for (int index = 0; index < p->plan->count; index++) {
        p->begin[index] = last + p->heads[pass][index].results;
    }
}

/* All ranks say `bytes` bytes each, in as many rounds as the logarithm of their number: nobody goes on before the last. */
static void gather(da_schedule *p, size_t bytes) {
    const da_rates *rates = &p->plan->rates;
    double last = 0, ranks = (double)p->layout->ranks;
    for (int index = 0; index < p->plan->count; index++) {
        last = fmax(last, p->begin[index]);
    }
    last += ceil(log2(ranks)) * (rates->latency + 2 * rates->overhead) + (ranks - 1) * (double)bytes / rates->bandwidth;
    for (int index = 0; index < p->plan->count; index++) {
        p->begin[index] = last;
    }
}

/* ---- how `distributed` divides the calls --------------------------------------------------------------------------- */

/* The directions of a pass, by tokens. */
static int directions_of(const da_ranks_plan *plan, da_pass pass, da_planned_direction directions[2]) {
    const da_pair_seconds *pair = &plan->rates.pair;
    if (pass == DA_PASS_FORWARD) {
        directions[0] = (da_planned_direction){pass, DA_TRAVEL_KEYS, pair->forward};
        return 1;
    }
    directions[0] = (da_planned_direction){pass, DA_TRAVEL_KEYS, pair->grad_query};
    directions[1] = (da_planned_direction){pass, DA_TRAVEL_QUERIES, pair->grad_keys};
    return 2;
}

static da_split_seconds reckon(const da_schedule *p, da_pass pass, int index) {
    const da_heads_course *course = &p->heads[pass][index];
    da_split_seconds found = {.heads_computed = course->computed, .heads_results = course->results};
    da_planned_direction directions[2];
    int count = directions_of(p->plan, pass, directions);
    for (int k = 0; k < count; k++) {
        gathered sum = sum_steps(p, &directions[k], index);
        found.by_tokens += seconds_of(p, &directions[k], &sum);
    }
    return found;
}

static void choose_splits(da_schedule *p) {
    da_ranks_plan *plan = p->plan;
    int ranks = p->layout->ranks;
    plan->split_is_open = ranks > 1 && da_split_is_open(&plan->config, plan->problem.kv_heads, ranks);
    for (int pass = 0; pass < da_schedule_passes(p); pass++) {
        for (int index = 0; index < plan->count; index++) {
            p->split_seconds[index] = reckon(p, (da_pass)pass, index);
        }
        plan->split_seconds[pass] = da_slowest_split(p->split_seconds, plan->count);
        bool by_heads = plan->split_is_open ? da_heads_are_quicker(&plan->split_seconds[pass])
                                            : plan->config.split == DA_SPLIT_HEADS;
        plan->split[pass] = by_heads ? DA_SPLIT_HEADS : DA_SPLIT_TOKENS;
    }
}

static bool goes_by_heads(const da_schedule *p, da_scheme scheme, da_pass pass) {
    return scheme == DA_SCHEME_HEADS || (scheme == DA_SCHEME_DISTRIBUTED && p->plan->split[pass] == DA_SPLIT_HEADS);
}

/* ---- all schemes --------------------------------------------------------------------------------------------------- */

/* Beside the layout. */
static void need_memory(const da_schedule *p, da_scheme scheme, int index, double bytes) {
    da_rank_share *share = &p->plan->shares[scheme][index];
    share->memory_bytes = fmax(share->memory_bytes, bytes + (double)da_allocated_bytes(p->layout->bytes));
}

static void run_direction(da_schedule *p, da_scheme scheme, const da_planned_direction *d) {
    if (scheme == DA_SCHEME_RING) {
        run_ring(p, d);
    } else {
        run_gathered(p, d, scheme);
    }
    for (int index = 0; index < p->plan->count; index++) {
        need_memory(p, scheme, index,
                    scheme == DA_SCHEME_RING ? da_schedule_ring_memory(p, d, index)
                                             : da_schedule_gathered_memory(p, d, index));
    }
}

static void run_pass(da_schedule *p, da_scheme scheme, da_pass pass) {
    gather(p, da_meeting_bytes());
    if (scheme == DA_SCHEME_DISTRIBUTED && p->plan->split_is_open) {
        gather(p, da_choice_said_bytes());
    }
    if (goes_by_heads(p, scheme, pass)) {
        run_heads(p, pass, scheme);
        for (int index = 0; index < p->plan->count; index++) {
            need_memory(p, scheme, index, da_schedule_heads_memory(p, pass, index));
        }
        return;
    }
    da_planned_direction directions[2];
    int count = directions_of(p->plan, pass, directions);
    for (int k = 0; k < count; k++) {
        run_direction(p, scheme, &directions[k]);
    }
}

static void run_scheme(da_schedule *p, da_scheme scheme) {
    const da_ranks_plan *plan = p->plan;
    for (int index = 0; index < plan->count; index++) {
        da_rank_share *share = &plan->shares[scheme][index];
        p->begin[index] = 0;
        share->memory_bytes = da_schedule_meeting_memory(p);
        if (scheme == DA_SCHEME_DISTRIBUTED && p->plan->split_is_open) {
            need_memory(p, scheme, index, (double)da_choice_memory(p->layout->ranks, &p->traffic));
        }
    }
    for (int pass = 0; pass < da_schedule_passes(p); pass++) {
        run_pass(p, scheme, (da_pass)pass);
    }
    for (int index = 0; index < plan->count; index++) {
        plan->shares[scheme][index].seconds = p->begin[index];
    }
}

/* Pairs that a rank computes in a pass; by tokens, those of its queries. */
static double pairs_of_pass(const da_schedule *p, da_scheme scheme, da_pass pass, int index) {
    const da_step *steps = da_schedule_steps(p, DA_TRAVEL_KEYS, index);
    double pairs = 0;
    if (goes_by_heads(p, scheme, pass)) {
        return p->heads[pass][index].pairs;
    }
    for (int s = 0; s < p->layout->ranks; s++) {
        pairs += steps[s].pairs;
    }
    return pairs;
}

static void begin_share(const da_schedule *p, da_scheme scheme, int index) {
    const da_problem *problem = &p->plan->problem;
    const da_part *part = da_schedule_part(p, p->ranks[index]);
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
        total->seconds = fmax(total->seconds, share->seconds);
        total->single_seconds += share->compute_seconds * scale;
        total->bytes += share->bytes_sent * scale;
        total->bytes_most = fmax(total->bytes_most, share->bytes_received);
        total->memory_most = fmax(total->memory_most, share->tensor_bytes + share->memory_bytes);
        pairs += share->pairs;
        most = fmax(most, share->pairs);
    }
    total->balance = pairs > 0 ? most * plan->count / pairs : 1;
}

/* ---- the plan ------------------------------------------------------------------------------------------------------ */

/* How many ranks are gone through. */
static int choose_count(const da_schedule *p) {
    double ranks = (double)p->layout->ranks, classes = 0;
    for (int t = 0; t < da_schedule_passes(p); t++) {
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

static da_status allocate(da_schedule *p) {
    da_ranks_plan *plan = p->plan;
    size_t count = (size_t)plan->count, steps = count * (size_t)p->layout->ranks;
    p->ranks = da_allocate(plan->allocator, count, sizeof *p->ranks);
    p->begin = da_allocate(plan->allocator, count, sizeof *p->begin);
    p->end = da_allocate(plan->allocator, count, sizeof *p->end);
    p->split_seconds = da_allocate(plan->allocator, count, sizeof *p->split_seconds);
    bool all = p->ranks && p->begin && p->end && p->split_seconds;
    for (int pass = 0; pass < da_schedule_passes(p) && all; pass++) {
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

static void release(da_schedule *p) {
    const da_allocator *allocator = p->plan->allocator;
    da_release(allocator, p->ranks);
    da_release(allocator, p->begin);
    da_release(allocator, p->end);
    da_release(allocator, p->split_seconds);
    for (int pass = 0; pass < 2; pass++) {
        da_release(allocator, p->steps[pass]);
        da_release(allocator, p->heads[pass]);
    }
    da_layout_free(p->layout);
}

static da_status go_through(da_schedule *p) {
    da_ranks_plan *plan = p->plan;
    da_status status = allocate(p);
    for (int index = 0; index < plan->count && status == DA_OK; index++) {
        int last = p->layout->ranks - 1;
        p->ranks[index] = plan->count == 1 ? 0 : (int)((int64_t)last * index / (plan->count - 1));
    }
    if (status == DA_OK) {
        status = da_schedule_count(p);
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
    da_schedule p = {.plan = plan, .context = context};
    const da_attention_config *config = &plan->config;
    da_status status = da_layout_create(plan->allocator, config->partition, config->stripe, plan->problem.n,
                                        plan->options.ranks, NULL, &p.layout);
    if (status != DA_OK) {
        return status;
    }
    int64_t longest = 0;
    for (int rank = 0; rank < plan->options.ranks; rank++) {
        longest = da_schedule_part(&p, rank)->length > longest ? da_schedule_part(&p, rank)->length : longest;
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
