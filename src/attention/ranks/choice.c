#include "attention/ranks/choice.h"

#include <math.h>

#include "attention/workspace.h"
#include "core/memory.h"

/* ---- the model ----------------------------------------------------------------------------------------------------- */

static double overhead_seconds(const da_rates *rates, const da_exchange *e) {
    return rates->overhead * (double)(e->messages_in + e->messages_out);
}

double da_exchange_seconds(const da_rates *rates, const da_exchange *e) {
    return da_transfer_seconds(rates, fmax(e->bytes_in, e->bytes_out)) + overhead_seconds(rates, e);
}

double da_gathered_seconds(const da_rates *rates, const da_exchange *exchange, double own_pairs, double other_pairs,
                           double pair_seconds) {
    double overhead = overhead_seconds(rates, exchange);
    double all_come = fmax(overhead + own_pairs * pair_seconds, da_transfer_seconds(rates, exchange->bytes_in));
    return fmax(all_come + other_pairs * pair_seconds, da_transfer_seconds(rates, exchange->bytes_out));
}

static void add_exchange(da_exchange *sum, const da_exchange *e) {
    sum->messages_in += e->messages_in;
    sum->messages_out += e->messages_out;
    sum->rows_in += e->rows_in;
    sum->rows_out += e->rows_out;
    sum->bytes_in += e->bytes_in;
    sum->bytes_out += e->bytes_out;
}

da_heads_course da_heads_go_through(const da_rates *rates, da_traffic *traffic, const da_layout *layout, da_pass pass,
                                    int rank, double share) {
    const da_problem *problem = traffic->problem;
    int turns = da_heads_turns(problem->kv_heads, layout->ranks);
    int64_t group = problem->heads / problem->kv_heads;
    da_heads_course course = {0};
    da_heads_sizes last = {0}, now = da_heads_size(layout, problem, pass, rank, 0), next;
    course.computed = da_exchange_seconds(rates, &now.inputs);
    for (int turn = 0; turn < turns; turn++, last = now, now = next) {
        int64_t first, end;
        da_heads_of_turn(problem->kv_heads, layout->ranks, rank, turn, &first, &end);
        next = turn + 1 < turns ? da_heads_size(layout, problem, pass, rank, turn + 1) : (da_heads_sizes){0};
        double pairs = da_traffic_pairs_of_heads(traffic, first * group, end * group) * share;
        da_exchange under_way = last.outputs;
        add_exchange(&under_way, &next.inputs);
        course.computed += fmax(pairs * da_pass_pair_seconds(rates, pass) + overhead_seconds(rates, &under_way),
                                da_transfer_seconds(rates, fmax(under_way.bytes_in, under_way.bytes_out)));
        course.pairs += pairs;
        add_exchange(&course.inputs, &now.inputs);
        add_exchange(&course.outputs, &now.outputs);
    }
    course.results = da_exchange_seconds(rates, &last.outputs);
    return course;
}

da_split_seconds da_slowest_split(const da_split_seconds *of_ranks, int count) {
    da_split_seconds most = {0};
    for (int k = 0; k < count; k++) {
        const da_split_seconds *s = &of_ranks[k];
        most.by_tokens = s->by_tokens > most.by_tokens ? s->by_tokens : most.by_tokens;
        most.heads_computed = s->heads_computed > most.heads_computed ? s->heads_computed : most.heads_computed;
        most.heads_results = s->heads_results > most.heads_results ? s->heads_results : most.heads_results;
    }
    return most;
}

/* ---- of a call ----------------------------------------------------------------------------------------------------- */

typedef struct choosing {
    const da_meeting *meeting;
    da_pass pass;
    da_problem problem; /* of the whole sequence */
    da_rates rates;
    da_traffic traffic;
} choosing;

/* own_pairs: of its own rows and columns; all_pairs: that this rank computes. */
static double tokens_direction(const choosing *c, da_travellers travellers, double own_pairs, double all_pairs,
                               double pair_seconds) {
    const da_meeting *meeting = c->meeting;
    da_exchange exchange = da_traffic_exchange(&c->traffic, travellers, meeting->layout, meeting->comm->rank);
    return da_gathered_seconds(&c->rates, &exchange, own_pairs, all_pairs - own_pairs, pair_seconds);
}

/* Of the gradients of keys and values, a rank computes pairs of its keys and any query. */
static double seconds_by_tokens(const choosing *c, double share) {
    const da_part *own = c->meeting->part;
    const da_pair_seconds *pair = &c->rates.pair;
    da_piece piece;
    const da_part all = da_part_whole(c->problem.n, &piece);
    double own_pairs = da_traffic_pairs(&c->traffic, own, own) * share;
    double pairs = da_traffic_pairs(&c->traffic, own, &all) * share;
    if (c->pass == DA_PASS_FORWARD) {
        return tokens_direction(c, DA_TRAVEL_KEYS, own_pairs, pairs, pair->forward);
    }
    double pairs_of_keys = da_traffic_pairs(&c->traffic, &all, own) * share;
    return tokens_direction(c, DA_TRAVEL_KEYS, own_pairs, pairs, pair->grad_query) +
           tokens_direction(c, DA_TRAVEL_QUERIES, own_pairs, pairs_of_keys, pair->grad_keys);
}

static da_status reckon(choosing *c, da_split_seconds *mine) {
    const da_layout *layout = c->meeting->layout;
    int rank = c->meeting->comm->rank;
    double share;
    da_status status = da_traffic_distinct_share(&c->traffic, &share);
    if (status == DA_OK) {
        da_heads_course heads = da_heads_go_through(&c->rates, &c->traffic, layout, c->pass, rank, share);
        mine->by_tokens = seconds_by_tokens(c, share);
        mine->heads_computed = heads.computed;
        mine->heads_results = heads.results;
    }
    return status;
}

static da_status gather_and_compare(const da_meeting *meeting, const da_split_seconds *mine, bool *by_heads) {
    const da_allocator *allocator = da_context_allocator(meeting->context);
    int ranks = meeting->comm->ranks;
    da_split_seconds *all = da_allocate(allocator, (size_t)ranks, sizeof *all);
    da_status status = all ? da_comm_gather(meeting->comm, allocator, mine, sizeof *mine, all) : DA_ERROR_OUT_OF_MEMORY;
    if (status == DA_OK) {
        const da_split_seconds slowest = da_slowest_split(all, ranks);
        *by_heads = da_heads_are_quicker(&slowest);
    }
    da_release(allocator, all);
    return status;
}

static int64_t longest_part(const da_layout *layout) {
    int64_t longest = 0;
    for (int rank = 0; rank < layout->ranks; rank++) {
        int64_t length = da_layout_part(layout, rank)->length;
        longest = length > longest ? length : longest;
    }
    return longest;
}

da_status da_choose_split(const da_meeting *meeting, da_pass pass, const da_tensor *query, const da_tensor *key,
                          bool *by_heads) {
    const da_context *context = meeting->context;
    choosing c = {.meeting = meeting, .pass = pass};
    da_split_seconds mine = {0};
    *by_heads = meeting->config->split == DA_SPLIT_HEADS;
    if (!da_split_is_open(meeting->config, key->shape[2], meeting->comm->ranks)) {
        return DA_OK;
    }
    da_problem_of_tensors(query, key, &c.problem);
    c.problem.n = meeting->layout->n;
    da_rates_known(context, da_context_rates(context), meeting->config, &c.problem, &c.rates);
    da_status status = da_traffic_create(da_context_allocator(context), meeting->config, &c.problem,
                                         longest_part(meeting->layout), &c.traffic);
    if (status == DA_OK) {
        status = reckon(&c, &mine);
        da_traffic_free(&c.traffic);
    }
    return status == DA_OK ? gather_and_compare(meeting, &mine, by_heads) : status;
}

/* ---- sizes --------------------------------------------------------------------------------------------------------- */

size_t da_choice_said_bytes(void) {
    return sizeof(da_split_seconds);
}

/* First the traffic, then what all say, twice: as it comes, and in the order of ranks. */
size_t da_choice_memory(int ranks, const da_traffic *traffic) {
    size_t said = 2 * da_allocated_bytes((size_t)ranks * sizeof(da_split_seconds));
    return traffic->bytes > said ? traffic->bytes : said;
}
