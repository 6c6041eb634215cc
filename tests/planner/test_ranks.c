/* Plans over ranks: messages, rows, bytes and memory are those of real calls over ranks that are threads, whose da_comm and
 * allocator count; they divide their work as planned; pairs add up to the problem's; and a billion tokens over thousands of ranks take no time. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "attention/ranks/meeting.h"
#include "pattern/drawn.h"
#include "support/counting_allocator.h"
#include "support/environment.h"
#include "support/ranks.h"
#include "support/refusals.h"

enum { MAX_RANKS = 7, CONFIGURATIONS = 60, COLLECTIVE = 1023, TAG_HEADS = 2, TAG_RESULTS = 3 };

/* ---- a da_comm that counts ----------------------------------------------------------------------------------------- */

typedef struct counted {
    da_comm inner;
    int64_t messages_received, messages_sent;
    double bytes_received, bytes_sent;
    bool divides_heads;  /* one of its messages is of that kind */
    int64_t fails_at;    /* the number of the message that is not sent; -1: none */
    char heads_sent[64]; /* of messages by heads, in order: i inputs, r results */
} counted;

static da_status counted_send(const void *data, size_t bytes, int to, int tag, void **request, void *user) {
    counted *c = user;
    if (tag != COLLECTIVE && c->messages_sent++ == c->fails_at) {
        return DA_ERROR_COMMUNICATION;
    }
    if (tag == TAG_HEADS || tag == TAG_RESULTS) {
        c->divides_heads = true;
        size_t sent = strlen(c->heads_sent);
        c->heads_sent[sent % (sizeof c->heads_sent - 1)] = tag == TAG_HEADS ? 'i' : 'r';
    }
    c->bytes_sent += tag != COLLECTIVE ? (double)bytes : 0;
    return c->inner.send(data, bytes, to, tag, request, c->inner.user);
}

static da_status counted_receive(void *data, size_t bytes, int from, int tag, void **request, void *user) {
    counted *c = user;
    c->messages_received += tag != COLLECTIVE;
    c->bytes_received += tag != COLLECTIVE ? (double)bytes : 0;
    return c->inner.receive(data, bytes, from, tag, request, c->inner.user);
}

static da_status counted_wait(void *request, double seconds, bool *done, void *user) {
    return ((counted *)user)->inner.wait(request, seconds, done, ((counted *)user)->inner.user);
}

static bool counted_cancel(void *request, void *user) {
    return ((counted *)user)->inner.cancel(request, ((counted *)user)->inner.user);
}

static void counted_abandon(void *user) {
    ((counted *)user)->inner.abandon(((counted *)user)->inner.user);
}

/* ---- real calls ---------------------------------------------------------------------------------------------------- */

typedef struct real {
    const char *implementation;
    da_isa isa; /* whose vectors make rows as long as they are in memory */
    da_attention_config config;
    da_problem problem;
    int ranks;
    bool backward;
    da_ranks_options rates[MAX_RANKS]; /* of each rank's context */
    bool plans;                        /* in each rank's context, before it calls */
    bool fails;                        /* rank 1 fails to send a message: the fails_at-th */
    int64_t fails_at;
    long left[MAX_RANKS]; /* allocations that are still there at the end */
    counted counts[MAX_RANKS];
    bool by_heads[MAX_RANKS][2]; /* forward, backward */
    double peak_bytes[MAX_RANKS], tensor_bytes[MAX_RANKS];
    da_status status[MAX_RANKS];
    char messages[MAX_RANKS][200];
} real;

typedef struct memory {
    void *blocks[10];
    int count;
    double bytes;
} memory;

static da_tensor new_tensor(memory *m, const da_problem *problem, int64_t n, da_dtype dtype, int64_t heads,
                            int64_t head_dim) {
    size_t numbers = (size_t)(problem->batch * n * heads * head_dim), bytes = numbers * da_dtype_size(dtype);
    char *data = calloc(1, bytes + 64);
    for (size_t k = 0; k < bytes; k++) { /* finite numbers in any type */
        data[k] = (char)(k % 3 == 0 ? 0x21 : 0x30);
    }
    m->blocks[m->count++] = data;
    m->bytes += (double)bytes;
    return da_tensor_make(data, dtype, problem->batch, n, heads, head_dim);
}

static da_status call_on_rank(real *r, const da_attention *attention, counting_allocator *counter, int rank) {
    const da_problem *p = &r->problem;
    memory m = {.count = 0};
    int64_t n = 0;
    da_status status = da_partition_length(r->config.partition, r->config.stripe, p->n, r->ranks, rank, &n);
    da_tensor q = new_tensor(&m, p, n, p->dtype, p->heads, p->head_dim),
              k = new_tensor(&m, p, n, p->dtype, p->kv_heads, p->head_dim),
              v = new_tensor(&m, p, n, p->dtype, p->kv_heads, p->head_dim),
              out = new_tensor(&m, p, n, p->dtype, p->heads, p->head_dim),
              lse = new_tensor(&m, p, n, DA_F64, p->heads, 1);
    counter->peak_bytes = counter->live_bytes;
    double before = (double)counter->live_bytes;
    if (status == DA_OK) {
        status = da_attention_forward(attention, &q, &k, &v, &out, &lse, NULL);
    }
    r->by_heads[rank][0] = r->counts[rank].divides_heads;
    r->counts[rank].divides_heads = false;
    if (r->backward && status == DA_OK) {
        da_tensor grad_out = new_tensor(&m, p, n, p->dtype, p->heads, p->head_dim),
                  grad_query = new_tensor(&m, p, n, p->dtype, p->heads, p->head_dim),
                  grad_key = new_tensor(&m, p, n, p->dtype, p->kv_heads, p->head_dim),
                  grad_value = new_tensor(&m, p, n, p->dtype, p->kv_heads, p->head_dim);
        da_backward_tensors t;
        da_backward_tensors_init(&t);
        t.query = &q;
        t.key = &k;
        t.value = &v;
        t.out = &out;
        t.lse = &lse;
        t.grad_out = &grad_out;
        t.grad_query = &grad_query;
        t.grad_key = &grad_key;
        t.grad_value = &grad_value;
        status = da_attention_backward(attention, &t, NULL);
        r->by_heads[rank][1] = r->counts[rank].divides_heads;
    }
    r->peak_bytes[rank] = (double)counter->peak_bytes - before;
    r->tensor_bytes[rank] = m.bytes;
    for (int b = 0; b < m.count; b++) {
        free(m.blocks[b]);
    }
    return status;
}

static void run_rank(const da_comm *comm, void *user) {
    real *r = user;
    counted *counts = &r->counts[comm->rank];
    counting_allocator counter = {0};
    da_comm ours = *comm;
    da_context *context = NULL;
    da_attention *attention = NULL;
    da_context_options options;
    *counts = (counted){.inner = *comm, .fails_at = r->fails && comm->rank == 1 ? r->fails_at : -1};
    ours.user = counts;
    ours.send = counted_send;
    ours.receive = counted_receive;
    ours.wait = counted_wait;
    ours.cancel = counted_cancel;
    ours.abandon = counted_abandon;
    da_context_options_init(&options);
    options.threads = 1;
    options.isa = r->isa;
    options.comm = &ours;
    options.rates = &r->rates[comm->rank];
    options.allocator = counting_allocator_interface(&counter);
    da_status status = da_context_create(&options, &context);
    if (status == DA_OK && r->plans) {
        da_ranks_plan *plan;
        da_ranks_options planned = r->rates[comm->rank];
        planned.ranks = comm->ranks;
        planned.backward = r->backward;
        status = da_plan_ranks(context, &r->config, &r->problem, &planned, &plan);
        da_ranks_plan_free(plan);
    }
    if (status == DA_OK) {
        status = da_attention_create(context, r->implementation, &r->config, &attention);
    }
    if (status == DA_OK) {
        status = call_on_rank(r, attention, &counter, comm->rank);
    }
    r->status[comm->rank] = status;
    snprintf(r->messages[comm->rank], sizeof r->messages[0], "%s", da_last_error_message());
    da_attention_free(attention);
    da_context_free(context);
    r->left[comm->rank] = counter.live;
}

static void check_rank(const real *r, const da_rank_share *share, int rank) {
    const counted *c = &r->counts[rank];
    assert_int_equal(share->rank, rank);
    assert_int_equal(share->messages_received, c->messages_received);
    assert_int_equal(share->messages_sent, c->messages_sent);
    assert_true(share->bytes_received == c->bytes_received);
    assert_true(share->bytes_sent == c->bytes_sent);
    assert_true(share->tensor_bytes == r->tensor_bytes[rank]);
    assert_true(share->memory_bytes == r->peak_bytes[rank]);
}

static da_context *context_of(da_isa isa) {
    da_context *context;
    da_context_options options;
    da_context_options_init(&options);
    options.threads = 1;
    options.isa = isa;
    assert_int_equal(da_context_create(&options, &context), DA_OK);
    return context;
}

static da_context *plain_context(void) {
    return context_of(DA_ISA_AUTO);
}

/* Given rates, so that nothing is timed. */
static da_ranks_options given_rates(int ranks, bool backward) {
    da_ranks_options options;
    da_ranks_options_init(&options);
    options.ranks = ranks;
    options.forward_flops = 1e11;
    options.backward = backward;
    return options;
}

/* To all ranks the same. */
static void give_rates(real *r) {
    for (int rank = 0; rank < MAX_RANKS; rank++) {
        r->rates[rank] = given_rates(1, false);
    }
}

static void draw_real(real *r, int number) {
    static const da_dtype dtypes[] = {DA_F32, DA_F64, DA_BF16, DA_F16};
    drawn d = drawn_next(number);
    *r = (real){.config = d.config, .ranks = d.ranks, .backward = number % 2 == 1};
    give_rates(r);
    r->isa = number / 2 % 2 == 0 ? DA_ISA_AUTO : DA_ISA_PORTABLE;
    r->config.partition = (da_partition)(number % 3);
    r->config.stripe = number % 6 == 5 ? 0 : 1 + drawn_below(20);
    da_problem_init(&r->problem);
    r->problem.n = d.n;
    r->problem.heads = d.heads;
    r->problem.kv_heads = number % 4 == 0 ? 1 : d.heads;
    r->problem.batch = 1 + number % 2;
    r->problem.head_dim = 1 + drawn_below(9);
    r->problem.dtype = dtypes[number / 2 % 4];
}

/* The calls of an implementation, as the plan has them under `name`. */
static void check_calls(real *r, const da_ranks_plan *plan, const char *implementation, da_split split,
                        const char *name) {
    r->implementation = implementation;
    r->config.split = split;
    assert_true(ranks_run(r->ranks, 60, NULL, run_rank, r));
    for (int rank = 0; rank < r->ranks; rank++) {
        da_rank_share share;
        da_rank_share_init(&share);
        if (r->status[rank] != DA_OK) {
            fail_msg("rank %d: %s", rank, r->messages[rank]);
        }
        assert_int_equal(da_ranks_plan_share(plan, name, (size_t)rank, &share), DA_OK);
        check_rank(r, &share, rank);
    }
}

static void check_real(real *r) {
    da_ranks_options options = given_rates(r->ranks, r->backward);
    da_context *context = context_of(r->isa);
    da_ranks_plan *plan;
    assert_int_equal(da_plan_ranks(context, &r->config, &r->problem, &options, &plan), DA_OK);
    assert_int_equal(da_ranks_plan_count(plan), r->ranks);
    if (r->ranks > 1) {
        check_calls(r, plan, "distributed", r->config.split, "distributed");
        check_calls(r, plan, "ring", DA_SPLIT_AUTO, "ring");
        check_calls(r, plan, "distributed", DA_SPLIT_TOKENS, "distributed_tokens");
        check_calls(r, plan, "distributed", DA_SPLIT_HEADS, "distributed_heads");
    }
    da_ranks_plan_free(plan);
    da_context_free(context);
}

static void test_real_calls_send_and_hold_the_same(void **state) {
    int several = 0;
    for (int number = 0; number < CONFIGURATIONS; number++) {
        real r;
        draw_real(&r, number);
        check_real(&r);
        several += r.ranks > 1;
    }
    assert_true(several > CONFIGURATIONS / 2);
}

static void assert_near(double found, double expected) {
    if (!(found > expected * (1 - 1e-9) && found < expected * (1 + 1e-9))) {
        fail_msg("%.12g, expected %.12g", found, expected);
    }
}

/* Of long parts few rows travel, which are listed, and of others all. */
static void test_long_parts(void **state) {
    const int64_t n = is_slow_tool() ? 2000 : 20000;
    for (int backward = is_slow_tool() ? 1 : 0; backward < 2; backward++) {
        real r = {.ranks = 3, .backward = backward == 1};
        give_rates(&r);
        da_attention_config_init(&r.config);
        assert_int_equal(da_attention_config_set_patterns(&r.config, (int64_t[]){30, 20000}, 2, (int64_t[]){1, 400}, 2),
                         DA_OK);
        r.config.partition = (da_partition)(2 * backward);
        r.config.stripe = 7;
        da_problem_init(&r.problem);
        r.problem.n = n;
        r.problem.heads = 6;
        r.problem.kv_heads = 2;
        r.problem.head_dim = 3;
        check_real(&r);
    }
}

/* ---- the split ----------------------------------------------------------------------------------------------------- */

static double drawn_power(double least, double most) {
    return pow(10, least + (most - least) * (double)drawn_below(1000) / 1000);
}

/* A problem with as many key heads as ranks and more, and a machine and a network of any speed. */
static void draw_split(real *r, int number) {
    draw_real(r, number);
    r->implementation = "distributed";
    r->config.split = DA_SPLIT_AUTO;
    r->ranks = 2 + number % 3;
    r->problem.kv_heads = r->ranks + drawn_below(4);
    r->problem.heads = r->problem.kv_heads * (1 + number % 2);
    da_ranks_options rates = given_rates(1, false);
    rates.forward_flops = drawn_power(7, 12);
    rates.backward_flops = number % 3 == 0 ? 0 : drawn_power(7, 12);
    rates.bandwidth = drawn_power(7, 10);
    rates.latency = drawn_power(-9, -4);
    for (int rank = 0; rank < MAX_RANKS; rank++) {
        r->rates[rank] = rates;
    }
}

/* Runs the calls; all ranks take the same splits. */
static void run_alike(real *r) {
    assert_true(ranks_run(r->ranks, 60, NULL, run_rank, r));
    for (int rank = 0; rank < r->ranks; rank++) {
        if (r->status[rank] != DA_OK) {
            fail_msg("rank %d: %s", rank, r->messages[rank]);
        }
        assert_memory_equal(r->by_heads[rank], r->by_heads[0], sizeof r->by_heads[0]);
    }
}

static void test_calls_are_divided_as_planned(void **state) {
    da_context *context = plain_context();
    int by_heads = 0, calls = 0;
    for (int number = 0; number < 2 * CONFIGURATIONS; number++) {
        real r;
        draw_split(&r, number);
        da_ranks_options options = r.rates[0];
        da_ranks_plan *plan;
        options.ranks = r.ranks;
        options.backward = r.backward;
        assert_int_equal(da_plan_ranks(context, &r.config, &r.problem, &options, &plan), DA_OK);
        run_alike(&r);
        for (int pass = 0; pass < (r.backward ? 2 : 1); pass++) {
            assert_int_equal(da_ranks_plan_split(plan, pass == 1),
                             r.by_heads[0][pass] ? DA_SPLIT_HEADS : DA_SPLIT_TOKENS);
            by_heads += r.by_heads[0][pass];
            calls++;
        }
        assert_int_equal(da_ranks_plan_split(plan, true) == DA_SPLIT_AUTO, !r.backward);
        da_ranks_plan_free(plan);
    }
    assert_true(by_heads > calls / 10 && by_heads < calls * 9 / 10);
    da_context_free(context);
}

/* Each with rates of its own: given ones, or what it has timed. */
static void test_ranks_of_different_speed_come_to_the_same(void **state) {
    for (int number = 0; number < CONFIGURATIONS / 2; number += is_slow_tool() ? 9 : 1) {
        real r;
        draw_split(&r, number);
        r.plans = number % 5 == 0;
        for (int rank = 0; rank < r.ranks; rank++) {
            r.rates[rank].forward_flops = r.plans ? 0 : drawn_power(7, 12);
            r.rates[rank].backward_flops = 0;
        }
        run_alike(&r);
    }
}

/* By hand: 2 ranks of 1024 tokens, 2 heads, causal, in contiguous parts. By tokens the second computes 3/4 of all pairs; by
 * heads each computes one half, and tensors travel: queries, keys and values of one head and half of the tokens, and back
 * outputs and logsumexp. */
static void test_split_by_hand(void **state) {
    da_context *context = plain_context();
    da_attention_config config;
    da_problem problem;
    da_attention_config_init(&config);
    da_attention_config_set_patterns(&config, (int64_t[]){2048}, 1, (int64_t[]){1}, 1);
    config.causal = true;
    da_problem_init(&problem);
    problem.n = 2048;
    problem.heads = 2;
    problem.head_dim = 64;
    const double row = 1024 * 64 * 4, pairs = 2048.0 * 2049, gathered = 2 * 2 * row, inputs = 3 * row,
                 results = row + 1024 * 8, later = pairs - 2 * 1024.0 * 1025 / 2;
    for (int slow = 0; slow < 2; slow++) {
        da_ranks_options options = given_rates(2, false);
        da_ranks_plan *plan;
        da_ranks_total tokens, heads;
        options.latency = options.overhead = 0;
        options.bandwidth = slow ? 1e5 : 1e15;
        const double meets = (double)da_meeting_bytes() / options.bandwidth, of_pair = 256 / 1e11;
        assert_int_equal(da_plan_ranks(context, &config, &problem, &options, &plan), DA_OK);
        da_ranks_total_init(&tokens);
        da_ranks_total_init(&heads);
        assert_int_equal(da_ranks_plan_total(plan, "distributed_tokens", &tokens), DA_OK);
        assert_int_equal(da_ranks_plan_total(plan, "distributed_heads", &heads), DA_OK);
        assert_near(tokens.bytes, gathered);
        assert_near(heads.bytes, 2 * (inputs + results));
        assert_near(heads.balance, 1);
        assert_near(heads.seconds, meets + pairs / 2 * of_pair + (inputs + results) / options.bandwidth);
        assert_true(tokens.seconds >= meets + later * of_pair);
        assert_int_equal(da_ranks_plan_split(plan, false), slow ? DA_SPLIT_TOKENS : DA_SPLIT_HEADS);
        assert_non_null(
            strstr(da_ranks_plan_text(plan), slow ? "split:  forward by tokens: " : "split:  forward by heads: "));
        da_ranks_plan_free(plan);
    }
    assert_int_equal(da_ranks_plan_split(NULL, false), DA_SPLIT_AUTO);
    da_context_free(context);
}

/* By hand, as above with 4 heads, 2 of each rank: while the first is computed the second's inputs travel, and while that is,
 * the first one's results. */
static void test_turns_by_hand(void **state) {
    da_context *context = plain_context();
    da_attention_config config;
    da_problem problem;
    da_attention_config_init(&config);
    da_attention_config_set_patterns(&config, (int64_t[]){2048}, 1, (int64_t[]){1}, 1);
    da_problem_init(&problem);
    problem.n = 2048;
    problem.heads = 4;
    problem.head_dim = 64;
    const double row = 1024 * 64 * 4, computes = 2048.0 * 2048 * 256 / 1e11, inputs = 3 * row, results = row + 1024 * 8;
    for (int slow = 0; slow < 2; slow++) {
        da_ranks_options options = given_rates(2, false);
        da_ranks_plan *plan;
        da_ranks_total heads;
        options.latency = options.overhead = 0;
        options.bandwidth = (slow ? results / 2 : inputs * 2) / computes;
        const double meets = (double)da_meeting_bytes() / options.bandwidth, in = inputs / options.bandwidth,
                     out = results / options.bandwidth;
        assert_int_equal(da_plan_ranks(context, &config, &problem, &options, &plan), DA_OK);
        da_ranks_total_init(&heads);
        assert_int_equal(da_ranks_plan_total(plan, "distributed_heads", &heads), DA_OK);
        assert_near(heads.seconds, meets + in + (slow ? in + out : 2 * computes) + out);
        da_ranks_plan_free(plan);
    }
    da_context_free(context);
}

/* Of few heads each has a turn, in which a rank may have none; of many, several. The next turn's inputs are sent before a
 * turn is computed, and its results after. */
static void test_turns_of_heads(void **state) {
    static const struct {
        int64_t kv_heads;
        const char *sent; /* by rank 0 of 2, forward and backward */
    } rows[] = {{1, "ii"}, {5, "iiririirir"}, {18, "iiririririririrriiririririririrr"}};
    for (size_t k = 0; k < sizeof rows / sizeof *rows; k++) {
        real r = {.ranks = 2, .backward = true};
        give_rates(&r);
        da_attention_config_init(&r.config);
        assert_int_equal(da_attention_config_set_patterns(&r.config, (int64_t[]){20, 50}, 2, (int64_t[]){1, 4}, 2),
                         DA_OK);
        da_problem_init(&r.problem);
        r.problem.n = 50;
        r.problem.kv_heads = rows[k].kv_heads;
        r.problem.heads = 2 * rows[k].kv_heads;
        r.problem.head_dim = 3;
        check_real(&r);
        assert_string_equal(r.counts[0].heads_sent, rows[k].sent);
    }
}

/* Whichever message of rank 1 cannot be sent, no rank is left waiting, and none holds anything. Returns how many there are. */
static int64_t fail_each_message(const char *implementation, da_split split) {
    int64_t failed = 0;
    for (bool fails = true; fails; failed += fails) {
        real r = {.ranks = 3, .backward = true, .implementation = implementation, .fails = true, .fails_at = failed};
        give_rates(&r);
        da_attention_config_init(&r.config);
        assert_int_equal(da_attention_config_set_patterns(&r.config, (int64_t[]){50}, 1, (int64_t[]){2}, 1), DA_OK);
        r.config.split = split;
        da_problem_init(&r.problem);
        r.problem.n = 50;
        r.problem.heads = r.problem.kv_heads = 9;
        r.problem.head_dim = 3;
        assert_true(ranks_run(r.ranks, 60, NULL, run_rank, &r));
        fails = r.status[1] != DA_OK;
        for (int rank = 0; rank < r.ranks; rank++) {
            bool waits = rank != (failed % 2 == 0 ? 0 : 2); /* the other may have got all of its own */
            assert_true(r.status[rank] == (fails ? DA_ERROR_COMMUNICATION : DA_OK) ||
                        (!waits && r.status[rank] == DA_OK));
            assert_int_equal(r.left[rank], 0);
        }
    }
    return failed;
}

/* To two ranks go: forward keys, backward keys and queries; by heads, in both passes, inputs and results of 3 turns. */
static void test_a_message_that_fails(void **state) {
    assert_int_equal(fail_each_message("ring", DA_SPLIT_AUTO), 2 * 3);
    assert_int_equal(fail_each_message("distributed", DA_SPLIT_TOKENS), 2 * 3);
    assert_int_equal(fail_each_message("distributed", DA_SPLIT_HEADS), 2 * 2 * 2 * 3);
}

/* ---- sums ---------------------------------------------------------------------------------------------------------- */

/* Each pair belongs to one rank, whoever holds which tokens. */
static void test_pairs_add_up_to_the_problem(void **state) {
    da_context *context = plain_context();
    for (int number = 0; number < 200; number++) {
        real r;
        draw_real(&r, number);
        da_ranks_options options = given_rates(r.ranks, false);
        da_ranks_plan *plan;
        da_cost cost;
        double pairs = 0;
        da_cost_init(&cost);
        assert_int_equal(da_pattern_cost(&r.config, &r.problem, &cost), DA_OK);
        assert_int_equal(da_plan_ranks(context, &r.config, &r.problem, &options, &plan), DA_OK);
        for (size_t k = 0; k < da_ranks_plan_count(plan); k++) {
            da_rank_share share;
            da_rank_share_init(&share);
            assert_int_equal(da_ranks_plan_share(plan, "distributed_tokens", k, &share), DA_OK);
            assert_true(share.flops == share.pairs * 4 * (double)r.problem.head_dim);
            pairs += share.pairs;
        }
        assert_true(pairs > cost.distinct_pairs * (1 - 1e-12) && pairs < cost.distinct_pairs * (1 + 1e-12));
        da_ranks_plan_free(plan);
    }
    da_context_free(context);
}

/* Keys of a group of heads with more patterns than a head can have. */
static void test_a_group_with_many_patterns(void **state) {
    real r = {.ranks = 3};
    give_rates(&r);
    da_attention_config_init(&r.config);
    assert_int_equal(da_attention_config_set_patterns(&r.config, (int64_t[]){60, 200}, 2, (int64_t[]){60, 200}, 2),
                     DA_OK);
    da_problem_init(&r.problem);
    r.problem.n = 200;
    r.problem.heads = 90;
    r.problem.kv_heads = 1;
    r.problem.head_dim = 3;
    check_real(&r);
}

/* ---- time ---------------------------------------------------------------------------------------------------------- */

typedef struct timed {
    da_ranks_total ring, distributed;
} timed;

/* 4 ranks of 1024 tokens; `segment` 4096: every rank sees all. */
static timed time_of(const da_context *context, bool causal, da_partition partition, double bandwidth, double latency) {
    da_attention_config config;
    da_problem problem;
    da_ranks_options options = given_rates(4, false);
    da_ranks_plan *plan;
    timed found;
    da_attention_config_init(&config);
    da_attention_config_set_patterns(&config, (int64_t[]){4096}, 1, (int64_t[]){1}, 1);
    config.causal = causal;
    config.partition = partition;
    config.stripe = 64;
    da_problem_init(&problem);
    problem.n = 4096;
    problem.head_dim = 64;
    options.bandwidth = bandwidth;
    options.latency = latency;
    options.overhead = 0;
    assert_int_equal(da_plan_ranks(context, &config, &problem, &options, &plan), DA_OK);
    da_ranks_total_init(&found.ring);
    da_ranks_total_init(&found.distributed);
    assert_int_equal(da_ranks_plan_total(plan, "ring", &found.ring), DA_OK);
    assert_int_equal(da_ranks_plan_total(plan, "distributed", &found.distributed), DA_OK);
    da_ranks_plan_free(plan);
    return found;
}

/* By hand: a step computes 1024 x 1024 pairs of 256 operations at 1e11 a second; 1024 keys and values of 256 bytes come. */
static void test_steps_take_the_longer_of_both(void **state) {
    da_context *context = plain_context();
    const double step = 1024.0 * 1024 * 256 / 1e11, bytes = 2 * 1024 * 256, meets = 3 * (double)da_meeting_bytes();
    timed quick = time_of(context, false, DA_PARTITION_CONTIGUOUS, bytes / step * 4, 0);
    assert_near(quick.ring.seconds, 4 * step + meets / (bytes / step * 4));
    assert_near(quick.distributed.seconds, 4 * step + meets / (bytes / step * 4));
    assert_near(quick.ring.single_seconds, 16 * step);
    assert_near(quick.ring.bytes, 12 * bytes);
    timed slow = time_of(context, false, DA_PARTITION_CONTIGUOUS, bytes / step / 2, 0);
    assert_near(slow.ring.seconds, 3 * 2 * step + step + meets / (bytes / step / 2));
    assert_near(slow.distributed.seconds, 3 * 2 * step + 3 * step + meets / (bytes / step / 2));
    timed late = time_of(context, false, DA_PARTITION_CONTIGUOUS, 1e15, 2 * step);
    assert_near(late.ring.seconds, (2 + 3) * 2 * step + step + meets / 1e15 + 3 * bytes / 1e15);
    da_context_free(context);
}

/* A causal sequence: the last rank's share of arithmetic is 7/4 of the mean; zigzag and striped even it out. */
static void test_balance_of_causal_partitions(void **state) {
    da_context *context = plain_context();
    double contiguous = time_of(context, true, DA_PARTITION_CONTIGUOUS, 1e15, 0).ring.balance,
           zigzag = time_of(context, true, DA_PARTITION_ZIGZAG, 1e15, 0).ring.balance,
           striped = time_of(context, true, DA_PARTITION_STRIPED, 1e15, 0).ring.balance;
    assert_true(contiguous > 1.74 && contiguous < 1.76);
    assert_true(zigzag >= 1 && zigzag < 1.001);
    assert_true(striped >= 1 && striped < 1.1);
    da_context_free(context);
}

/* ---- many ranks ---------------------------------------------------------------------------------------------------- */

/* The paper's scheme: segments of 2048, of a rank's tokens and of all, each keeping 2048 tokens. */
static double bytes_of_scheme(const da_context *context, int ranks, int64_t tokens_of_rank, size_t *count) {
    da_attention_config config;
    da_problem problem;
    da_ranks_options options = given_rates(ranks, false);
    da_ranks_plan *plan;
    da_ranks_total total;
    int64_t n = ranks * tokens_of_rank, segments[] = {2048, tokens_of_rank, n},
            rates[] = {1, tokens_of_rank / 2048, n / 2048};
    da_attention_config_init(&config);
    assert_int_equal(da_attention_config_set_patterns(&config, segments, 3, rates, 3), DA_OK);
    da_problem_init(&problem);
    problem.n = n;
    problem.heads = 2;
    assert_int_equal(da_plan_ranks(context, &config, &problem, &options, &plan), DA_OK);
    da_ranks_total_init(&total);
    assert_int_equal(da_ranks_plan_total(plan, "distributed", &total), DA_OK);
    *count = da_ranks_plan_count(plan);
    da_ranks_plan_free(plan);
    return total.bytes_most;
}

/* Bytes that a rank receives stay under those of 2048 keys and values, from 2 ranks to 8192, which are not all gone
 * through. */
static void test_a_billion_tokens_over_thousands_of_ranks(void **state) {
    da_context *context = plain_context();
    const double all_kept = 2 * 2048 * 2 * 256.0;
    size_t count;
    for (int ranks = 2; ranks <= 8192; ranks *= is_slow_tool() ? 4096 : 8) {
        double bytes = bytes_of_scheme(context, ranks, 1 << 17, &count);
        assert_true(bytes <= all_kept && bytes >= all_kept / 2);
    }
    assert_true(count >= 5 && count < 8192);
    da_context_free(context);
}

/* Times from this machine, for both passes. */
static void test_rates_of_this_machine(void **state) {
    da_context *context = plain_context();
    da_attention_config config;
    da_problem problem;
    da_ranks_options options = given_rates(2, true);
    da_ranks_plan *plan;
    da_rank_share share;
    options.forward_flops = 0;
    da_attention_config_init(&config);
    da_attention_config_set_patterns(&config, (int64_t[]){512, 4096}, 2, (int64_t[]){1, 8}, 2);
    da_problem_init(&problem);
    problem.n = 8192;
    assert_int_equal(da_plan_ranks(context, &config, &problem, &options, &plan), DA_OK);
    da_rank_share_init(&share);
    assert_int_equal(da_ranks_plan_share(plan, "ring", 1, &share), DA_OK);
    double rate = share.flops / share.compute_seconds; /* of any machine */
    assert_true(rate > 1e7 && rate < 1e13);
    assert_non_null(strstr(da_ranks_plan_text(plan), da_ranks_plan_choice(plan)));
    da_ranks_plan_free(plan);
    da_context_free(context);
}

/* ---- explained ------------------------------------------------------------------------------------------------------ */

/* On rank 0 of some: *user becomes true if the text tells of them. */
static void explain_on_rank(const da_comm *comm, void *user) {
    da_context *context = NULL;
    da_explanation *explanation = NULL;
    da_attention_config config;
    da_problem problem;
    da_context_options options;
    da_context_options_init(&options);
    options.threads = 1;
    options.comm = comm;
    da_attention_config_init(&config);
    da_attention_config_set_patterns(&config, (int64_t[]){64, 3000}, 2, (int64_t[]){1, 8}, 2);
    da_problem_init(&problem);
    problem.n = 3000;
    if (comm->rank == 0 && da_context_create(&options, &context) == DA_OK &&
        da_explain(context, &config, &problem, &explanation) == DA_OK) {
        const char *text = da_explanation_text(explanation);
        *(bool *)user = strstr(text, "over 3 ranks, contiguous, 3000 tokens") && strstr(text, "received");
    }
    da_explanation_free(explanation);
    da_context_free(context);
}

static void test_explained_in_a_context_of_ranks(void **state) {
    bool told = false;
    assert_true(ranks_run(3, 60, NULL, explain_on_rank, &told));
    assert_true(told);
}

/* ---- refusals ------------------------------------------------------------------------------------------------------ */

struct fixture {
    da_context *context;
    da_attention_config config;
    da_problem problem;
    da_ranks_options options;
    da_ranks_plan *plan;
    da_rank_share share;
    da_ranks_total total;
};

static da_status make(fixture *f) {
    return da_plan_ranks(f->context, &f->config, &f->problem, &f->options, &f->plan);
}

static da_status made(fixture *f) {
    assert_int_equal(make(f), DA_OK);
    return DA_OK;
}

#define ROWS(ROW)                                                                                                      \
    ROW(no_context, da_plan_ranks(NULL, &f->config, &f->problem, &f->options, &f->plan), DA_ERROR_INVALID_ARGUMENT,    \
        "context is NULL")                                                                                             \
    ROW(no_out, da_plan_ranks(f->context, &f->config, &f->problem, &f->options, NULL), DA_ERROR_INVALID_ARGUMENT,      \
        "out is NULL")                                                                                                 \
    ROW(no_options, da_plan_ranks(f->context, &f->config, &f->problem, NULL, &f->plan), DA_ERROR_INVALID_ARGUMENT,     \
        "options is NULL")                                                                                             \
    ROW(no_ranks, (f->options.ranks = 0, make(f)), DA_ERROR_INVALID_ARGUMENT,                                          \
        "options.ranks is 0; allowed: 1 to 65536")                                                                     \
    ROW(many_ranks, (f->options.ranks = 65537, make(f)), DA_ERROR_INVALID_ARGUMENT, "options.ranks is 65537")          \
    ROW(no_bandwidth, (f->options.bandwidth = 0, make(f)), DA_ERROR_INVALID_ARGUMENT, "options.bandwidth is 0")        \
    ROW(latency_negative, (f->options.latency = -1, make(f)), DA_ERROR_INVALID_ARGUMENT, "options.latency is -1")      \
    ROW(overhead_negative, (f->options.overhead = -1, make(f)), DA_ERROR_INVALID_ARGUMENT, "options.overhead is -1")   \
    ROW(forward_negative, (f->options.forward_flops = -1, make(f)), DA_ERROR_INVALID_ARGUMENT,                         \
        "options.forward_flops is -1")                                                                                 \
    ROW(backward_negative, (f->options.backward_flops = -1, make(f)), DA_ERROR_INVALID_ARGUMENT,                       \
        "options.backward_flops is -1")                                                                                \
    ROW(no_tokens, (f->problem.n = 0, make(f)), DA_ERROR_INVALID_ARGUMENT, "problem.n is 0; allowed: 1 or more")       \
    ROW(many_heads, (f->problem.heads = 4097, make(f)), DA_ERROR_INVALID_ARGUMENT, "problem.heads is 4097")            \
    ROW(stripe_negative, (f->config.stripe = -1, make(f)), DA_ERROR_INVALID_ARGUMENT, "stripe is -1")                  \
    ROW(share_of_none, da_ranks_plan_share(NULL, "ring", 0, &f->share), DA_ERROR_INVALID_ARGUMENT, "plan is NULL")     \
    ROW(share_of_other, (made(f), da_ranks_plan_share(f->plan, "improved", 0, &f->share)), DA_ERROR_INVALID_ARGUMENT,  \
        "implementation is \"improved\"; allowed: ring, distributed, distributed_tokens, distributed_heads")           \
    ROW(share_beyond, (made(f), da_ranks_plan_share(f->plan, "ring", 4, &f->share)), DA_ERROR_INVALID_ARGUMENT,        \
        "index is 4; allowed: 0 to 3")                                                                                 \
    ROW(share_nowhere, (made(f), da_ranks_plan_share(f->plan, "ring", 0, NULL)), DA_ERROR_INVALID_ARGUMENT,            \
        "out is NULL")                                                                                                 \
    ROW(total_without_name, (made(f), da_ranks_plan_total(f->plan, NULL, &f->total)), DA_ERROR_INVALID_ARGUMENT,       \
        "implementation is \"\"")

ROWS(REFUSAL_FUNCTION)

static const refusal rows[] = {ROWS(REFUSAL_ENTRY)};

static void make_fixture(fixture *f) {
    *f = (fixture){.context = plain_context(), .options = given_rates(4, false)};
    da_attention_config_init(&f->config);
    da_attention_config_set_patterns(&f->config, (int64_t[]){64}, 1, (int64_t[]){1}, 1);
    da_problem_init(&f->problem);
    f->problem.n = 500;
    da_rank_share_init(&f->share);
    da_ranks_total_init(&f->total);
}

static void check_refusal(void **state) {
    fixture f;
    make_fixture(&f);
    refusal_check(*state, &f);
    da_ranks_plan_free(f.plan);
    da_context_free(f.context);
}

/* Whichever allocation fails, the call says so and holds nothing. */
static void test_short_memory(void **state) {
    fixture f;
    make_fixture(&f);
    da_context_free(f.context);
    for (long fails = 0, left = 1; left > 0; fails++) {
        counting_allocator counter = {0};
        da_context_options options;
        da_context_options_init(&options);
        options.allocator = counting_allocator_interface(&counter);
        assert_int_equal(da_context_create(&options, &f.context), DA_OK);
        long live = counter.live;
        counter.fail_from = counter.fail_to = counter.calls + 1 + fails;
        da_status status = make(&f);
        left = status == DA_ERROR_OUT_OF_MEMORY;
        assert_true(left || status == DA_OK);
        assert_true(left ? !f.plan && counter.live == live : fails > 5);
        da_ranks_plan_free(f.plan);
        da_context_free(f.context);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_calls_send_and_hold_the_same),
        cmocka_unit_test(test_long_parts),
        cmocka_unit_test(test_calls_are_divided_as_planned),
        cmocka_unit_test(test_ranks_of_different_speed_come_to_the_same),
        cmocka_unit_test(test_split_by_hand),
        cmocka_unit_test(test_turns_by_hand),
        cmocka_unit_test(test_turns_of_heads),
        cmocka_unit_test(test_a_message_that_fails),
        cmocka_unit_test(test_pairs_add_up_to_the_problem),
        cmocka_unit_test(test_a_group_with_many_patterns),
        cmocka_unit_test(test_steps_take_the_longer_of_both),
        cmocka_unit_test(test_balance_of_causal_partitions),
        cmocka_unit_test(test_a_billion_tokens_over_thousands_of_ranks),
        cmocka_unit_test(test_rates_of_this_machine),
        cmocka_unit_test(test_explained_in_a_context_of_ranks),
        cmocka_unit_test(test_short_memory),
    };
    int failed = cmocka_run_group_tests_name("ranks", tests, NULL, NULL);
    failed += refusal_run("ranks_refusals", rows, sizeof rows / sizeof *rows, check_refusal);
    return failed;
}
