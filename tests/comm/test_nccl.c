/* Ranks over NCCL, with a stand-in for NCCL and CUDA: phases, buffers, and what happens when things go wrong. */
#define _POSIX_C_SOURCE 200809L

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "comm/checks.h"
#include "comm/clock.h"
#include "comm/made_up_nccl/made_up.h"
#include "dilated_attention_nccl.h"
#include "support/ranks.h"

enum { MOST_RANKS = 7 };

/* Those whose messages are begun in phases. */
static const char *const PHASED[] = {"order",     "sizes",  "large", "gather",    "reduce",
                                     "same_bits", "slices", "agree", "never_sent"};

typedef struct run {
    const char *(*body)(const da_comm *comm);
    char failures[MOST_RANKS][1600];
} run;

static void over_nccl(const da_comm *threads, void *user) {
    run *r = user;
    ncclComm_t communicator = made_up_communicator(threads);
    da_comm comm;
    const char *failure = "da_comm_nccl_create";
    if (da_comm_nccl_create(communicator, threads->timeout, &comm) == DA_OK) {
        failure = r->body(&comm);
        da_comm_nccl_free(&comm);
        da_comm_nccl_free(&comm);
    }
    ncclCommDestroy(communicator);
    snprintf(r->failures[threads->rank], sizeof r->failures[threads->rank], "%s", failure ? failure : "");
}

static void on_ranks(int ranks, double timeout, const char *(*body)(const da_comm *comm)) {
    run *r = calloc(1, sizeof *r);
    r->body = body;
    atomic_store(&made_up_offences, 0);
    assert_true(ranks_run(ranks, timeout, NULL, over_nccl, r));
    for (int rank = 0; rank < ranks; rank++) {
        if (r->failures[rank][0]) {
            fail_msg("%d ranks: %s", ranks, r->failures[rank]);
        }
    }
    assert_int_equal(atomic_load(&made_up_offences), 0);
    free(r);
}

static void checks(void **state) {
    static const int RANKS[] = {1, 2, 3, 4, 7};
    size_t ran = 0;
    for (size_t k = 0; k < comm_check_count; k++) {
        const comm_check *check = &comm_checks[k];
        for (size_t p = 0; p < sizeof PHASED / sizeof *PHASED; p++) {
            for (size_t r = 0; strcmp(check->name, PHASED[p]) == 0 && r < sizeof RANKS / sizeof *RANKS; r++) {
                if (RANKS[r] >= check->fewest_ranks) {
                    on_ranks(RANKS[r], 30, check->run);
                    ran++;
                }
            }
        }
    }
    assert_int_equal(ran, 6 * 5 + 3 * 4);
}

/* Two phases, of which the second is begun in two parts while messages of the first are looked at: that must not end it, or
 * both ranks would first receive and then send. */
static const char *phase_in_parts(const da_comm *comm) {
    int other = 1 - comm->rank, out[2] = {10 * comm->rank, 10 * comm->rank + 1}, in[2] = {-1, -1};
    da_message sends[2], receives[2];
    bool done = false;
    da_status status = da_comm_receive(comm, &in[0], sizeof *in, other, 0, "first", &receives[0]);
    status = status ? status : da_comm_send(comm, &out[0], sizeof *out, other, 0, "first", &sends[0]);
    status = status ? status : da_comm_look(comm, &receives[0], &done);
    status = status ? status : da_comm_receive(comm, &in[1], sizeof *in, other, 0, "second", &receives[1]);
    status = status ? status : da_comm_wait(comm, &receives[0]);
    status = status ? status : da_comm_wait(comm, &sends[0]);
    status = status ? status : da_comm_send(comm, &out[1], sizeof *out, other, 0, "second", &sends[1]);
    status = status ? status : da_comm_wait(comm, &receives[1]);
    status = status ? status : da_comm_wait(comm, &sends[1]);
    return status != DA_OK                                           ? da_last_error_message()
           : in[0] == 10 * other && in[1] == 10 * other + 1 && !done ? NULL
                                                                     : "other numbers arrived";
}

/* A larger message than any before, while the last phase is still under way: memory is allocated only once that has ended. */
static const char *growing(const da_comm *comm) {
    int to = (comm->rank + 1) % comm->ranks, from = (comm->rank + comm->ranks - 1) % comm->ranks;
    da_message sends[6], receives[6];
    da_status status = DA_OK;
    bool done;
    char *out = calloc(1, (size_t)1 << 21), *in[6] = {NULL};
    for (int k = 0; k < 6; k++) {
        size_t bytes = (size_t)1 << (15 + k);
        in[k] = malloc(bytes);
        status = status ? status : da_comm_receive(comm, in[k], bytes, from, k, "bytes", &receives[k]);
        status = status ? status : da_comm_send(comm, out, bytes, to, k, "bytes", &sends[k]);
        status = status ? status : da_comm_look(comm, &sends[k], &done);
    }
    for (int k = 0; k < 6; k++) {
        status = status ? status : da_comm_wait(comm, &sends[k]);
        status = status ? status : da_comm_wait(comm, &receives[k]);
        free(in[k]);
    }
    free(out);
    return status != DA_OK ? da_last_error_message() : NULL;
}

static void phases(void **state) {
    on_ranks(2, 5, phase_in_parts);
    on_ranks(2, 5, growing);
    on_ranks(7, 5, growing);
}

/* ---- things go wrong --------------------------------------------------------------------------------------------- */

static const char *misses(const char *text) {
    static _Thread_local char what[1200];
    snprintf(what, sizeof what, "no \"%s\" in: %s", text, da_last_error_message());
    return strstr(da_last_error_message(), text) ? NULL : what;
}

/* Ranks that are not in the same phase: the bytes that arrive are noticed to be others. */
static const char *another_tag(const da_comm *comm) {
    char bytes[8] = {0};
    da_message message;
    if (comm->rank == 0) {
        return da_comm_send(comm, bytes, 8, 1, 1, "keys", &message) == DA_OK && da_comm_wait(comm, &message) == DA_OK
                   ? NULL
                   : da_last_error_message();
    }
    if (da_comm_receive(comm, bytes, 8, 0, 2, "queries", &message) != DA_OK ||
        da_comm_wait(comm, &message) != DA_ERROR_COMMUNICATION) {
        return "rank 1 received them";
    }
    da_comm_give_up(comm, &message);
    return misses(
        "rank 1 could not receive queries from rank 0: rank 1 expects 8 bytes with tag 2, and rank 0 sends 8 with "
        "tag 1");
}

/* Rank 0 gives up; the others, who wait for it and for one another, end long before their timeout. */
static const char *aborted(const da_comm *comm) {
    double begin = da_seconds();
    if (comm->rank == 0) {
        da_comm_abandon(comm);
        return da_comm_agree(comm, NULL, "x", 1, "a word") == DA_ERROR_COMMUNICATION ? misses("this rank has given up")
                                                                                     : "it still agreed";
    }
    if (da_comm_agree(comm, NULL, "x", 1, "a word") != DA_ERROR_COMMUNICATION) {
        return "the others agreed";
    }
    return da_seconds() - begin < 20 ? misses("a remote error") : "they waited";
}

/* What is allocated while rank 1 does not come: bounded, too. */
static const char *stuck(const da_comm *comm) {
    char small[8] = {0}, *large = calloc(1, 1 << 20);
    da_message first, second;
    bool done;
    const char *failure = NULL;
    if (comm->rank == 0) {
        if (da_comm_receive(comm, small, 8, 1, 0, "bytes", &first) != DA_OK ||
            da_comm_look(comm, &first, &done) != DA_OK ||
            da_comm_send(comm, large, 1 << 20, 1, 0, "more", &second) != DA_ERROR_COMMUNICATION) {
            failure = "the second message was begun";
        } else {
            failure = misses("waited 0.3 s for earlier messages");
        }
        da_comm_give_up(comm, &first);
    }
    free(large);
    return failure;
}

static void faults(void **state) {
    on_ranks(2, 30, another_tag);
    on_ranks(4, 30, aborted);
    on_ranks(2, 0.3, stuck);
}

/* Two buffers, on both sides of the bus, are what agreeing needs: each of the calls fails in turn, and then none. */
enum { CALLS = 4 };
static int failing_call;

static const char *short_of_memory(const da_comm *comm) {
    made_up_failing_call = comm->rank == 0 ? failing_call : 0;
    da_status status = da_comm_agree(comm, NULL, "x", 1, "a word");
    made_up_failing_call = 0;
    if (status != DA_OK) {
        da_comm_abandon(comm);
    }
    if (comm->rank == 0 && failing_call <= CALLS) {
        return status == DA_ERROR_OUT_OF_MEMORY ? misses("out of memory") : "nothing failed";
    }
    return status == DA_OK || failing_call <= CALLS ? NULL : da_last_error_message();
}

static void memory_runs_out(void **state) {
    for (failing_call = 1; failing_call <= CALLS + 1; failing_call++) {
        on_ranks(2, 30, short_of_memory);
    }
}

static void refused(void **state) {
    da_comm threads, comm;
    da_comm_group *group;
    assert_int_equal(da_comm_group_create(1, 1, NULL, &group), DA_OK);
    assert_int_equal(da_comm_group_rank(group, 0, &threads), DA_OK);
    ncclComm_t communicator = made_up_communicator(&threads);
    assert_int_equal(da_comm_nccl_create(communicator, 1, NULL), DA_ERROR_INVALID_ARGUMENT);
    assert_int_equal(da_comm_nccl_create(NULL, 1, &comm), DA_ERROR_INVALID_ARGUMENT);
    assert_null(misses("communicator is NULL"));
    assert_int_equal(da_comm_nccl_create(communicator, -1, &comm), DA_ERROR_INVALID_ARGUMENT);
    assert_null(misses("timeout is -1"));
    made_up_failing_call = 1;
    assert_int_equal(da_comm_nccl_create(communicator, 1, &comm), DA_ERROR_COMMUNICATION);
    assert_null(misses("ncclCommSplit: an error"));
    assert_int_equal(da_comm_nccl_create(communicator, 1, &comm), DA_OK);
    da_message message;
    char byte = 0;
    assert_int_equal(da_comm_send(&comm, &byte, 1, 1, 0, "a byte", &message), DA_ERROR_INVALID_ARGUMENT);
    assert_int_equal(da_comm_receive(&comm, &byte, 1, 0, -1, "a byte", &message), DA_ERROR_INVALID_ARGUMENT);
    da_comm_nccl_free(&comm);
    da_comm_nccl_free(NULL);
    ncclCommDestroy(communicator);
    da_comm_group_free(group);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checks),          cmocka_unit_test(phases),  cmocka_unit_test(faults),
        cmocka_unit_test(memory_runs_out), cmocka_unit_test(refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
