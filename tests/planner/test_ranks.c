/* Plans over ranks: messages, rows, bytes and memory are those of real calls over ranks that are threads, whose da_comm and
 * allocator count; pairs add up to the problem's; and a billion tokens over thousands of ranks take no time. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "pattern/drawn.h"
#include "support/counting_allocator.h"
#include "support/ranks.h"
#include "support/refusals.h"

enum { MAX_RANKS = 7, CONFIGURATIONS = 60, COLLECTIVE = 1023 };

/* ---- a da_comm that counts ----------------------------------------------------------------------------------------- */

typedef struct counted {
    da_comm inner;
    int64_t messages_received, messages_sent;
    double bytes_received, bytes_sent;
} counted;

static da_status counted_send(const void *data, size_t bytes, int to, int tag, void **request, void *user) {
    counted *c = user;
    c->messages_sent += tag != COLLECTIVE;
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

/* ---- real calls ---------------------------------------------------------------------------------------------------- */

typedef struct real {
    const char *implementation;
    da_attention_config config;
    da_problem problem;
    int ranks;
    bool backward;
    counted counts[MAX_RANKS];
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
    *counts = (counted){.inner = *comm};
    ours.user = counts;
    ours.send = counted_send;
    ours.receive = counted_receive;
    ours.wait = counted_wait;
    ours.cancel = counted_cancel;
    ours.abandon = NULL;
    da_context_options_init(&options);
    options.threads = 1;
    options.comm = &ours;
    options.allocator = counting_allocator_interface(&counter);
    da_status status = da_context_create(&options, &context);
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

static da_context *plain_context(void) {
    da_context *context;
    da_context_options options;
    da_context_options_init(&options);
    options.threads = 1;
    assert_int_equal(da_context_create(&options, &context), DA_OK);
    return context;
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

static void draw_real(real *r, int number) {
    static const da_dtype dtypes[] = {DA_F32, DA_F64, DA_BF16, DA_F16};
    drawn d = drawn_next(number);
    *r = (real){.config = d.config, .ranks = d.ranks, .backward = number % 2 == 1};
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

static void check_real(const da_context *context, real *r) {
    static const char *const implementations[] = {"ring", "distributed"};
    da_ranks_options options = given_rates(r->ranks, r->backward);
    da_ranks_plan *plan;
    assert_int_equal(da_plan_ranks(context, &r->config, &r->problem, &options, &plan), DA_OK);
    assert_int_equal(da_ranks_plan_count(plan), r->ranks);
    for (int k = 0; k < 2 && r->ranks > 1; k++) {
        r->implementation = implementations[k];
        assert_true(ranks_run(r->ranks, 60, NULL, run_rank, r));
        for (int rank = 0; rank < r->ranks; rank++) {
            da_rank_share share;
            da_rank_share_init(&share);
            if (r->status[rank] != DA_OK) {
                fail_msg("rank %d: %s", rank, r->messages[rank]);
            }
            assert_int_equal(da_ranks_plan_share(plan, implementations[k], (size_t)rank, &share), DA_OK);
            check_rank(r, &share, rank);
        }
    }
    da_ranks_plan_free(plan);
}

static void test_real_calls_send_and_hold_the_same(void **state) {
    da_context *context = plain_context();
    int several = 0;
    for (int number = 0; number < CONFIGURATIONS; number++) {
        real r;
        draw_real(&r, number);
        check_real(context, &r);
        several += r.ranks > 1;
    }
    assert_true(several > CONFIGURATIONS / 2);
    da_context_free(context);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_real_calls_send_and_hold_the_same),
    };
    return cmocka_run_group_tests_name("ranks", tests, NULL, NULL);
}
