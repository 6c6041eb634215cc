/* Where one rank of a sharded module differs, is refused or has no memory, all end with an error, at once. */
#define _XOPEN_SOURCE 700
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "comm/comm.h"
#include "multihead/rank_module.h"
#include "support/counting_allocator.h"
#include "support/ranks.h"

enum { RANKS = 3, ODD = 1 }; /* the rank that differs */

static const double TIMEOUT = 60; /* seconds; a test that waits so long has failed */

static const module_problem SMALL = SMALL_SHARDED(2);

/* What each rank ends with. */
typedef struct endings {
    module_problem common, odd; /* of all ranks but ODD, and of that */
    da_status status[RANKS];
    char message[RANKS][512];
} endings;

static void note(endings *e, int rank, da_status status) {
    e->status[rank] = status;
    snprintf(e->message[rank], sizeof e->message[rank], "%s", status == DA_OK ? "" : da_last_error_message());
}

/* status DA_OK: any error. */
static void assert_ending(const endings *e, int rank, da_status status, const char *message) {
    bool right = status == DA_OK ? e->status[rank] != DA_OK : e->status[rank] == status;
    if (!right || !strstr(e->message[rank], message) || strstr(e->message[rank], "without an answer")) {
        fail_msg("rank %d: %s: %s; expected: %s", rank, da_status_name(e->status[rank]), e->message[rank], message);
    }
}

/* ---- ranks that differ ------------------------------------------------------------------------------------------- */

static void run_both_passes(const da_comm *comm, void *user) {
    endings *e = user;
    rank_module m;
    rank_module_open(&m, comm->rank == ODD ? &e->odd : &e->common, comm, NULL);
    rank_module_forward(&m);
    note(e, comm->rank, rank_module_backward(&m));
    rank_module_close(&m);
}

static void assert_all_end(const module_problem *common, const module_problem *odd, const char *message) {
    endings e = {.common = *common, .odd = *odd};
    assert_true(ranks_run(RANKS, TIMEOUT, NULL, run_both_passes, &e));
    for (int rank = 0; rank < RANKS; rank++) {
        assert_ending(&e, rank, DA_ERROR_COMMUNICATION, message);
    }
}

static void test_other_configurations(void **state) {
    static const char message[] = "the multihead configuration (sharded is part of it) of rank 1 differs";
    module_problem odd = SMALL, common = SMALL;
    odd.sharded = false;
    assert_all_end(&common, &odd, message);
    odd = SMALL;
    odd.plain = true;
    assert_all_end(&common, &odd, message);
    odd = SMALL;
    odd.kv_heads = 4;
    assert_all_end(&common, &odd, message);
    common.sharded = odd.sharded = false; /* whose parameters are not compared otherwise */
    assert_all_end(&common, &odd, message);
}

static void test_other_gradients(void **state) {
    module_problem odd = SMALL;
    odd.no_parameter_gradients = true;
    assert_all_end(&SMALL, &odd,
                   "rank 1 calls with another value of whether gradients of parameters are wanted, 0, than rank 0, 1");
    odd = SMALL;
    odd.no_input_gradients = true;
    assert_all_end(&SMALL, &odd, "rank 1 calls with another value of the gradients of inputs that are wanted");
}

/* ODD calls the other pass. */
static void run_other_pass(const da_comm *comm, void *user) {
    endings *e = user;
    rank_module m;
    rank_module_open(&m, &e->common, comm, NULL);
    rank_module_forward(&m);
    if (m.status == DA_OK && comm->rank == ODD) {
        m.status = da_multihead_forward(m.multihead, m.tensors.query, m.tensors.key, NULL, &m.out, NULL);
    } else {
        rank_module_backward(&m);
    }
    note(e, comm->rank, m.status);
    rank_module_close(&m);
}

static void test_other_pass(void **state) {
    endings e = {.common = SMALL};
    assert_true(ranks_run(RANKS, TIMEOUT, NULL, run_other_pass, &e));
    for (int rank = 0; rank < RANKS; rank++) {
        assert_ending(&e, rank, DA_OK, "");
    }
}

static void run_gather(const da_comm *comm, void *user) {
    endings *e = user;
    rank_module m;
    float *whole = calloc((size_t)(SMALL.embed_dim * SMALL.embed_dim), sizeof *whole);
    rank_module_open(&m, &e->common, comm, NULL);
    const char *name = comm->rank == ODD ? "v_proj.weight" : "k_proj.weight";
    note(e, comm->rank, da_multihead_gather_parameter(m.multihead, name, whole));
    rank_module_close(&m);
    free(whole);
}

static void test_other_parameters(void **state) {
    endings e = {.common = SMALL};
    assert_true(ranks_run(RANKS, TIMEOUT, NULL, run_gather, &e));
    for (int rank = 0; rank < RANKS; rank++) {
        assert_ending(&e, rank, DA_ERROR_COMMUNICATION, "");
    }
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

/* An implementation in which each rank computes by itself has no use for rows of others; it is refused without a message to
 * another. */
static void test_alone(void **state) {
    endings e = {.common = SMALL, .odd = SMALL};
    e.common.implementation = e.odd.implementation = "improved";
    assert_true(ranks_run(RANKS, TIMEOUT, NULL, run_both_passes, &e));
    for (int rank = 0; rank < RANKS; rank++) {
        assert_ending(
            &e, rank, DA_ERROR_UNSUPPORTED,
            "sharded is true, and implementation \"improved\" computes on each rank by itself; allowed: false");
    }
}

/* ODD's call, of the pass that is asked for, has a tensor of another shape. */
static void refuse(const da_comm *comm, endings *e, bool backward) {
    rank_module m;
    rank_module_open(&m, &e->common, comm, NULL);
    if (backward) {
        rank_module_forward(&m);
    }
    if (comm->rank == ODD) {
        m.out.shape[3] = m.grad_out.shape[3] = 23;
    }
    note(e, comm->rank, backward ? rank_module_backward(&m) : rank_module_forward(&m));
    rank_module_close(&m);
}

static void refuse_forward(const da_comm *comm, void *user) {
    refuse(comm, user, false);
}

static void refuse_backward(const da_comm *comm, void *user) {
    refuse(comm, user, true);
}

static void test_a_refusal_ends_all(void **state) {
    for (int backward = 0; backward < 2; backward++) {
        endings e = {.common = SMALL};
        assert_true(ranks_run(RANKS, TIMEOUT, NULL, backward ? refuse_backward : refuse_forward, &e));
        for (int rank = 0; rank < RANKS; rank++) {
            if (rank == ODD) {
                assert_ending(&e, rank, DA_ERROR_INVALID_ARGUMENT,
                              backward ? "grad_out.shape is (2, 20, 1, 23)" : "out.shape is (2, 20, 1, 23)");
            } else {
                assert_ending(&e, rank, DA_ERROR_COMMUNICATION, "rank 1 has given up");
            }
        }
    }
}

/* A refusal before the ranks have met, at creation. */
static void test_a_refused_creation_ends_all(void **state) {
    module_problem odd = SMALL;
    odd.kv_heads = 3;
    endings e = {.common = SMALL, .odd = odd};
    assert_true(ranks_run(RANKS, TIMEOUT, NULL, run_both_passes, &e));
    for (int rank = 0; rank < RANKS; rank++) {
        if (rank == ODD) {
            assert_ending(&e, rank, DA_ERROR_INVALID_ARGUMENT, "kv_heads is 3; allowed: ");
        } else {
            assert_ending(&e, rank, DA_ERROR_COMMUNICATION,
                          "implementation and configuration of rank 1 differs from that of rank 0");
        }
    }
}

/* What all ranks are refused for leaves them together. */
static void refuse_all_then_run(const da_comm *comm, void *user) {
    endings *e = user;
    rank_module m;
    rank_module_open(&m, &e->odd, comm, NULL);
    note(e, comm->rank, m.status);
    rank_module_close(&m);
    rank_module_open(&m, &e->common, comm, NULL);
    rank_module_forward(&m);
    if (m.status != DA_OK || e->status[comm->rank] != DA_ERROR_INVALID_ARGUMENT) {
        note(e, comm->rank, m.status);
    }
    rank_module_close(&m);
}

static void test_what_all_are_refused_for(void **state) {
    module_problem odd = SMALL;
    odd.kv_heads = 3;
    endings e = {.common = SMALL, .odd = odd};
    assert_true(ranks_run(RANKS, TIMEOUT, NULL, refuse_all_then_run, &e));
    for (int rank = 0; rank < RANKS; rank++) {
        assert_ending(&e, rank, DA_ERROR_INVALID_ARGUMENT, "kv_heads is 3; allowed: ");
    }
}

static void give_no_place(const da_comm *comm, void *user) {
    endings *e = user;
    rank_module m;
    rank_module_open(&m, &e->common, comm, NULL);
    if (m.status == DA_OK) { /* a rank may give up while others still agree on what they create */
        m.status = da_multihead_forward_training(m.multihead, m.tensors.query, m.tensors.key, NULL, &m.out, &m.options,
                                                 comm->rank == ODD ? NULL : &m.saved);
    }
    note(e, comm->rank, m.status);
    rank_module_close(&m);
}

static void test_a_missing_place_ends_all(void **state) {
    endings e = {.common = SMALL};
    assert_true(ranks_run(RANKS, TIMEOUT, NULL, give_no_place, &e));
    for (int rank = 0; rank < RANKS; rank++) {
        assert_ending(&e, rank, rank == ODD ? DA_ERROR_INVALID_ARGUMENT : DA_ERROR_COMMUNICATION,
                      rank == ODD ? "saved is NULL" : "rank 1 has given up");
    }
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

typedef struct shortage {
    endings ends;
    long fail; /* the number of ODD's allocation that fails */
    const char *path;
    counting_allocator counters[RANKS];
} shortage;

/* All that a module over ranks does. A program whose module could be made, but not its gradients, ends for itself. */
static void do_all(const da_comm *comm, void *user) {
    shortage *s = user;
    rank_module m;
    counting_allocator *counter = &s->counters[comm->rank];
    da_allocator allocator = counting_allocator_interface(counter);
    float *whole = calloc((size_t)(SMALL.embed_dim * SMALL.embed_dim), sizeof *whole);
    counter->fail_from = counter->fail_to = comm->rank == ODD ? s->fail : 0;
    rank_module_open(&m, &s->ends.common, comm, &allocator);
    if (m.status != DA_OK && (!m.context || m.multihead)) {
        da_comm_abandon(comm);
    }
    rank_module_forward(&m);
    rank_module_backward(&m);
    if (m.status == DA_OK) {
        m.status = da_multihead_gather_parameter(m.multihead, "v_proj.bias", whole);
    }
    if (m.status == DA_OK) {
        m.status = da_multihead_save(m.multihead, s->path, NULL);
    }
    note(&s->ends, comm->rank, m.status);
    rank_module_close(&m);
    free(whole);
}

static void test_memory_runs_out(void **state) {
    char path[] = "/tmp/sharded_faults_XXXXXX";
    int file = mkstemp(path);
    long fail = 1;
    assert_true(file >= 0);
    for (bool failed = true; failed; fail++) {
        shortage s = {.ends.common = SMALL, .fail = fail, .path = path};
        assert_true(ranks_run(RANKS, TIMEOUT, NULL, do_all, &s));
        failed = s.ends.status[ODD] != DA_OK;
        for (int rank = 0; rank < RANKS; rank++) {
            assert_int_equal(atomic_load(&s.counters[rank].live), 0);
            if (failed && rank == ODD) {
                assert_ending(&s.ends, rank, DA_ERROR_OUT_OF_MEMORY, "");
            } else if (failed) {
                assert_ending(&s.ends, rank, DA_OK, "");
            } else {
                assert_int_equal(s.ends.status[rank], DA_OK);
            }
        }
        assert_true(failed || atomic_load(&s.counters[ODD].calls) < fail);
    }
    assert_true(fail > 60); /* of which there were many */
    close(file);
    remove(path);
}

/* ---- a transport that cannot take its hands off ------------------------------------------------------------------- */

/* Memory of a rank in which what is never released is no leak of the process. */
typedef struct pool {
    char *memory;
    size_t used;
    int live;
} pool;

enum { POOL_BYTES = 1 << 22 };

static void *pool_allocate(size_t bytes, void *user) {
    pool *from = user;
    void *memory = from->memory + from->used;
    from->used += (bytes + 63) / 64 * 64;
    from->live++;
    return from->used <= POOL_BYTES ? memory : NULL;
}

static void pool_release(void *memory, void *user) {
    ((pool *)user)->live--;
}

typedef struct grip {
    endings ends;
    bool holds; /* cancel says that memory may still be touched */
    int left[RANKS];
} grip;

/* A rank's own side of a da_comm. */
typedef struct seat {
    da_comm inner;
    bool holds;
} seat;

static da_status seat_send(const void *data, size_t bytes, int to, int tag, void **request, void *user) {
    const da_comm *inner = &((seat *)user)->inner;
    return inner->send(data, bytes, to, tag, request, inner->user);
}

static da_status seat_receive(void *data, size_t bytes, int from, int tag, void **request, void *user) {
    const da_comm *inner = &((seat *)user)->inner;
    return inner->receive(data, bytes, from, tag, request, inner->user);
}

static da_status seat_wait(void *request, double seconds, bool *done, void *user) {
    const da_comm *inner = &((seat *)user)->inner;
    return inner->wait(request, seconds, done, inner->user);
}

static bool seat_cancel(void *request, void *user) {
    const seat *s = user;
    return s->inner.cancel(request, s->inner.user) && !s->holds;
}

static void seat_abandon(void *user) {
    da_comm_abandon(&((seat *)user)->inner);
}

/* ODD takes part in the gathering of the first weight up to the rows of the others, and then gives up. */
static da_status leave_gathering(const da_comm *comm) {
    const int64_t number = 0; /* the weight's, on which ranks agree before they gather */
    char rows[8 * 24 * sizeof(float)];
    da_status status = da_comm_agree(comm, NULL, &number, sizeof number, "the number");
    for (int rank = 0; status == DA_OK && rank < RANKS; rank++) {
        da_message message;
        if (rank != ODD) {
            status = da_comm_receive(comm, rows, sizeof rows, rank, DA_TAG_COLLECTIVE, "rows", &message);
            status = status == DA_OK ? da_comm_wait(comm, &message) : status;
        }
    }
    da_comm_abandon(comm);
    return status;
}

static void leave_early(const da_comm *comm, void *user) {
    grip *g = user;
    seat mine = {*comm, g->holds};
    da_comm held = *comm;
    rank_module m;
    pool from = {.memory = aligned_alloc(64, POOL_BYTES)};
    da_allocator allocator = {pool_allocate, pool_release, &from};
    held.user = &mine;
    held.send = seat_send;
    held.receive = seat_receive;
    held.wait = seat_wait;
    held.cancel = seat_cancel;
    held.abandon = seat_abandon;
    rank_module_open(&m, &g->ends.common, &held, &allocator);
    float *whole = calloc((size_t)(SMALL.embed_dim * SMALL.embed_dim), sizeof *whole);
    if (comm->rank == ODD) {
        note(&g->ends, comm->rank, leave_gathering(comm));
    } else {
        note(&g->ends, comm->rank, da_multihead_gather_parameter(m.multihead, "q_proj.weight", whole));
    }
    free(whole);
    rank_module_close(&m);
    g->left[comm->rank] = from.live;
    free(from.memory);
}

static void test_memory_that_may_be_touched_stays(void **state) {
    for (int holds = 0; holds < 2; holds++) {
        grip g = {.ends.common = SMALL, .holds = holds};
        assert_true(ranks_run(RANKS, TIMEOUT, NULL, leave_early, &g));
        assert_int_equal(g.ends.status[ODD], DA_OK);
        for (int rank = 0; rank < RANKS; rank++) {
            if (rank != ODD) {
                assert_ending(&g.ends, rank, DA_ERROR_COMMUNICATION, "could not receive rows of parameters from rank");
            }
            assert_int_equal(g.left[rank], holds && rank != ODD ? 1 : 0);
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_other_configurations),
        cmocka_unit_test(test_other_gradients),
        cmocka_unit_test(test_other_pass),
        cmocka_unit_test(test_other_parameters),
        cmocka_unit_test(test_alone),
        cmocka_unit_test(test_a_refusal_ends_all),
        cmocka_unit_test(test_a_refused_creation_ends_all),
        cmocka_unit_test(test_what_all_are_refused_for),
        cmocka_unit_test(test_a_missing_place_ends_all),
        cmocka_unit_test(test_memory_runs_out),
        cmocka_unit_test(test_memory_that_may_be_touched_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
