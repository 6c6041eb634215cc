/* Ranks that are threads: what every da_comm must do; tables that are refused; memory that runs out; a user's own gather
 * and reduce. */
#define _POSIX_C_SOURCE 200809L

#include <math.h>
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
#include "comm/counted.h"
#include "comm/slow.h"
#include "support/counting_allocator.h"
#include "support/ranks.h"
#include "support/refusals.h"

static const int RANKS[] = {1, 2, 3, 4, 7};
enum { RANKS_COUNT = sizeof RANKS / sizeof *RANKS, MOST_RANKS = 7 };

/* ---- what every da_comm must do ---------------------------------------------------------------------------------- */

typedef struct check_run {
    const comm_check *check;
    char failures[MOST_RANKS][1600];
} check_run;

static void run_check(const da_comm *comm, void *user) {
    check_run *run = user;
    const char *failure = run->check->run(comm);
    snprintf(run->failures[comm->rank], sizeof run->failures[comm->rank], "%s", failure ? failure : "");
}

static void run_slow_check(const da_comm *comm, void *user) {
    da_slow slow;
    da_comm slowed;
    da_slow_init(&slow, comm, 0.0005, 1e9, &slowed);
    run_check(&slowed, user);
}

/* On the first `count` numbers of ranks. */
static void run_on_ranks(const comm_check *check, int count, void (*body)(const da_comm *comm, void *user)) {
    check_run *run = calloc(1, sizeof *run);
    run->check = check;
    for (int r = 0; r < count; r++) {
        if (RANKS[r] < run->check->fewest_ranks) {
            continue;
        }
        assert_true(ranks_run(RANKS[r], 30, NULL, body, run));
        for (int rank = 0; rank < RANKS[r]; rank++) {
            if (run->failures[rank][0]) {
                fail_msg("%s, %d ranks: %s", run->check->name, RANKS[r], run->failures[rank]);
            }
        }
    }
    free(run);
}

static void every_number_of_ranks(void **state) {
    run_on_ranks(*state, RANKS_COUNT, run_check);
}

static void slowed(void **state) {
    run_on_ranks(*state, 3, run_slow_check);
}

/* ---- how slow a slow network is ---------------------------------------------------------------------------------- */

typedef struct slow_run {
    double began, sent_after, received_after[2], leaves_after[2];
    int64_t messages, bytes;
    da_status status;
} slow_run;

/* 200,000 and 100,000 bytes at 1 MB/s, 0.1 s of latency: the sender is free at once, the first message leaves after 0.2 s
 * and arrives after 0.3 s, the second after 0.3 s and 0.4 s. */
static void two_slow_messages(const da_comm *comm, void *user) {
    static char out[200000], in[200000];
    slow_run *run = user;
    da_slow slow;
    da_counted counted;
    da_comm slowed, both;
    da_message messages[2];
    da_status status = DA_OK;
    da_slow_init(&slow, comm, 0.1, 1e6, &slowed);
    da_count_messages(&counted, &slowed, &both);
    double begin = da_seconds();
    for (int k = 0; status == DA_OK && k < 2; k++) {
        size_t bytes = k == 0 ? 200000 : 100000;
        status = comm->rank == 0 ? da_comm_send(&both, out, bytes, 1, 0, "bytes", &messages[k])
                                 : da_comm_receive(&both, in, bytes, 0, 0, "bytes", &messages[k]);
    }
    if (comm->rank == 0) {
        run->began = begin;
        run->sent_after = da_seconds() - begin;
    }
    for (int k = 0; status == DA_OK && k < 2; k++) {
        status = da_comm_wait(&both, &messages[k]);
        (comm->rank == 0 ? run->leaves_after : run->received_after)[k] = da_seconds();
    }
    if (comm->rank == 0) {
        run->messages = counted.messages;
        run->bytes = counted.bytes;
    }
    if (status != DA_OK) {
        run->status = status;
    }
}

static void slow_as_told(void **state) {
    slow_run run = {.status = DA_OK};
    assert_true(ranks_run(2, 30, NULL, two_slow_messages, &run));
    assert_int_equal(run.status, DA_OK);
    assert_int_equal(run.messages, 2);
    assert_int_equal(run.bytes, 300000);
    assert_true(run.sent_after < 0.2);
    static const double expected[2] = {0.3, 0.4};
    for (int k = 0; k < 2; k++) {
        double received = run.received_after[k] - run.began, left = run.leaves_after[k] - run.began;
        assert_true(received >= expected[k] && received < expected[k] + 0.5);
        assert_true(left >= expected[k] - 0.1 && left < expected[k] + 0.4);
    }
}

/* ---- memory runs out --------------------------------------------------------------------------------------------- */

typedef struct short_run {
    da_allocator allocator;
    da_status statuses[MOST_RANKS];
} short_run;

/* Of the numbers, which are 40, rank r has r + 1. */
static da_status use_slices(const da_comm *comm, const da_allocator *allocator, double *numbers) {
    int64_t counts[MOST_RANKS];
    size_t bytes[MOST_RANKS];
    double sum[MOST_RANKS];
    bool safe;
    for (int rank = 0; rank < comm->ranks; rank++) {
        counts[rank] = rank + 1;
        bytes[rank] = (size_t)(rank + 1) * sizeof *numbers;
    }
    da_status status = da_comm_gather_slices(comm, allocator, bytes, numbers, "slices", &safe);
    return status == DA_OK ? da_comm_reduce_slices(comm, allocator, numbers, counts, DA_F64, sum) : status;
}

/* Everything that allocates. Who fails gives up. */
static void allocate_much(const da_comm *comm, void *user) {
    short_run *run = user;
    double numbers[40];
    for (int k = 0; k < 40; k++) {
        numbers[k] = comm->rank + k;
    }
    da_status status = da_comm_reduce(comm, &run->allocator, numbers, 40, DA_F64);
    if (status == DA_OK) {
        status = da_comm_agree(comm, &run->allocator, numbers, sizeof numbers, "the sums");
    }
    if (status == DA_OK) {
        status = use_slices(comm, &run->allocator, numbers);
    }
    if (status != DA_OK) {
        da_comm_abandon(comm);
    }
    run->statuses[comm->rank] = status;
}

static void memory_runs_out(void **state) {
    const int ranks = 3;
    long fail = 1;
    for (bool failed = true; failed; fail++) {
        counting_allocator counter = {.fail_from = fail, .fail_to = fail};
        short_run run = {.allocator = counting_allocator_interface(&counter)};
        failed = false;
        if (!ranks_run(ranks, 30, &run.allocator, allocate_much, &run)) {
            assert_int_equal(atomic_load(&counter.live), 0);
            failed = true;
            continue;
        }
        for (int rank = 0; rank < ranks; rank++) {
            da_status status = run.statuses[rank];
            assert_true(status == DA_OK || status == DA_ERROR_OUT_OF_MEMORY || status == DA_ERROR_COMMUNICATION);
            failed |= status == DA_ERROR_OUT_OF_MEMORY;
        }
        assert_int_equal(atomic_load(&counter.live), 0);
        assert_true(failed || atomic_load(&counter.calls) < fail);
    }
    assert_true(fail > 20); /* of which there were many */
}

/* Requests that were begun and forgotten are the group's to release. */
static void forget(const da_comm *comm, void *user) {
    static char byte;
    da_message message;
    da_status *status = user;
    if (comm->rank == 0) {
        *status = da_comm_receive(comm, &byte, 1, 1, 3, "a byte", &message);
    }
}

static void forgotten_requests(void **state) {
    counting_allocator counter = {0};
    da_allocator allocator = counting_allocator_interface(&counter);
    da_status status = DA_ERROR_IO;
    assert_true(ranks_run(2, 30, &allocator, forget, &status));
    assert_int_equal(status, DA_OK);
    assert_int_equal(atomic_load(&counter.live), 0);
}

/* ---- a table of one's own ---------------------------------------------------------------------------------------- */

typedef struct own_table {
    int sent, received, gathered, reduced, looks, cancelled;
    da_status of_send, of_wait;
    bool cancels;
} own_table;

static da_status own_send(const void *data, size_t bytes, int to, int tag, void **request, void *user) {
    own_table *own = user;
    own->sent++;
    *request = own;
    return own->of_send == DA_OK ? DA_OK : da_report(own->of_send, "the cable is cut");
}

static da_status own_receive(void *data, size_t bytes, int from, int tag, void **request, void *user) {
    own_table *own = user;
    own->received++;
    *request = own;
    return DA_OK;
}

/* Returns at once, whatever `seconds` says. */
static da_status own_wait(void *request, double seconds, bool *done, void *user) {
    own_table *own = user;
    own->looks++;
    *done = false;
    return own->of_wait == DA_OK ? DA_OK : da_report(own->of_wait, "the cable is cut");
}

static bool own_cancel(void *request, void *user) {
    own_table *own = user;
    own->cancelled++;
    return own->cancels;
}

static da_status own_gather(const void *mine, size_t bytes, void *all, void *user) {
    ((own_table *)user)->gathered++;
    for (size_t rank = 0; rank < 4; rank++) {
        memcpy((char *)all + rank * bytes, mine, bytes);
    }
    return DA_OK;
}

static da_status own_reduce(void *data, int64_t count, da_dtype dtype, void *user) {
    ((own_table *)user)->reduced++;
    for (int64_t k = 0; k < count; k++) {
        ((float *)data)[k] *= 4;
    }
    return DA_OK;
}

static da_comm own_comm(own_table *own) {
    da_comm comm;
    da_comm_init(&comm);
    comm.rank = 1;
    comm.ranks = 4;
    comm.timeout = 0.1;
    comm.user = own;
    comm.send = own_send;
    comm.receive = own_receive;
    comm.wait = own_wait;
    comm.cancel = own_cancel;
    return comm;
}

static void own_collectives(void **state) {
    own_table own = {.cancels = true};
    da_comm comm = own_comm(&own);
    float numbers[2] = {1, 2};
    uint16_t mine = 513, all[4] = {0};
    comm.gather = own_gather;
    comm.reduce = own_reduce;
    assert_int_equal(da_comm_gather(&comm, NULL, &mine, sizeof mine, all), DA_OK);
    assert_int_equal(all[3], 513);
    assert_int_equal(da_comm_reduce(&comm, NULL, numbers, 2, DA_F32), DA_OK);
    assert_true(numbers[0] == 4 && numbers[1] == 8);
    assert_int_equal(da_comm_agree(&comm, NULL, "abc", 3, "a text"), DA_OK);
    assert_int_equal(own.gathered, 2);
    assert_int_equal(own.reduced, 1);
    assert_int_equal(own.sent + own.received, 0);
    comm.reduce = NULL; /* made of messages, and of the table's gather */
    own.of_send = DA_ERROR_COMMUNICATION;
    assert_int_equal(da_comm_reduce(&comm, NULL, numbers, 2, DA_F32), DA_ERROR_COMMUNICATION);
    assert_int_equal(own.received, 3);
    assert_int_equal(own.cancelled, 3);
}

/* An allocator over memory of a test, in which what is never released is no leak of the process. */
typedef struct pool {
    _Alignas(64) char memory[1 << 14];
    size_t used;
    int live;
} pool;

static void *pool_allocate(size_t bytes, void *user) {
    pool *from = user;
    void *memory = from->memory + from->used;
    from->used += (bytes + 63) / 64 * 64;
    from->live++;
    return from->used <= sizeof from->memory ? memory : NULL;
}

static void pool_release(void *memory, void *user) {
    ((pool *)user)->live--;
}

/* A transport that fails: its message is passed on, after what was to be done; and what it may still touch stays. */
static void own_failures(void **state) {
    for (int cancels = 0; cancels < 2; cancels++) {
        pool memory = {.used = 0};
        da_allocator allocator = {pool_allocate, pool_release, &memory};
        own_table own = {.of_wait = DA_ERROR_COMMUNICATION, .cancels = cancels};
        da_comm comm = own_comm(&own);
        uint16_t mine = 1, all[4];
        assert_int_equal(da_comm_gather(&comm, &allocator, &mine, sizeof mine, all), DA_ERROR_COMMUNICATION);
        assert_non_null(strstr(da_last_error_message(),
                               "rank 1 could not receive what all ranks gather from rank 2: the cable is cut"));
        assert_int_equal(own.cancelled, 2);
        assert_int_equal(memory.live, cancels ? 0 : 1);
        float numbers[5] = {0};
        assert_int_equal(da_comm_reduce(&comm, &allocator, numbers, 5, DA_F32), DA_ERROR_COMMUNICATION);
        assert_int_equal(own.cancelled, 2 + 6);
        assert_int_equal(memory.live, cancels ? 0 : 2);
        size_t bytes[4] = {4, 4, 0, 4};
        int64_t counts[4] = {1, 1, 0, 1};
        bool safe;
        assert_int_equal(da_comm_gather_slices(&comm, &allocator, bytes, numbers, "slices", &safe),
                         DA_ERROR_COMMUNICATION);
        assert_int_equal(own.cancelled, 2 + 6 + 5);
        assert_int_equal(safe, cancels);
        assert_int_equal(memory.live, cancels ? 0 : 2); /* it is the caller's that stays */
        assert_int_equal(da_comm_reduce_slices(&comm, &allocator, numbers, counts, DA_F32, numbers),
                         DA_ERROR_COMMUNICATION);
        assert_int_equal(own.cancelled, 2 + 6 + 5 + 5);
        assert_int_equal(memory.live, cancels ? 0 : 3);
        own.of_wait = DA_OK; /* it never ends, and its wait does not wait */
        own.looks = 0;
        assert_int_equal(da_comm_agree(&comm, &allocator, "abc", 3, "a text"), DA_ERROR_COMMUNICATION);
        assert_non_null(strstr(da_last_error_message(), "rank 1 waited 0.1 s for what all ranks gather from rank 2"));
        assert_true(own.looks > 0);
        own.of_send = DA_ERROR_OUT_OF_MEMORY;
        assert_int_equal(da_comm_agree(&comm, &allocator, "abc", 3, "a text"), DA_ERROR_OUT_OF_MEMORY);
        assert_non_null(strstr(da_last_error_message(), "rank 1 could not send what all ranks gather to rank 0"));
        da_comm_abandon(&comm); /* there is no such function */
    }
}

/* A context has a checked copy. */
static void copied_by_context(void **state) {
    own_table own = {0};
    da_comm comm = own_comm(&own);
    da_context_options options;
    da_context *context;
    da_context_options_init(&options);
    assert_null(options.comm);
    assert_int_equal(da_context_create(&options, &context), DA_OK);
    assert_null(da_context_comm(context));
    assert_null(da_context_comm(NULL));
    da_context_free(context);
    options.comm = &comm;
    assert_int_equal(da_context_create(&options, &context), DA_OK);
    const da_comm *copy = da_context_comm(context);
    assert_ptr_not_equal(copy, &comm);
    assert_memory_equal(copy, &comm, sizeof comm);
    da_context_free(context);
}

/* ---- refusals ---------------------------------------------------------------------------------------------------- */

struct fixture {
    own_table own;
    da_comm comm;
    da_allocator allocator;
    da_comm_group *group;
};

static da_status context(fixture *f) {
    da_context_options options;
    da_context *context = NULL;
    da_context_options_init(&options);
    options.comm = &f->comm;
    da_status status = da_context_create(&options, &context);
    da_context_free(context);
    return status;
}

static da_status group(fixture *f, int ranks, double timeout) {
    da_comm_group *made = f->group;
    da_status status = da_comm_group_create(ranks, timeout, &f->allocator, &made);
    if (made) { /* a refused call leaves NULL */
        da_comm_group_free(made);
        return DA_OK;
    }
    return status;
}

static da_status begun(fixture *f, int peer, int tag, bool sends) {
    char byte = 0;
    da_comm comm;
    da_message message;
    if (da_comm_group_rank(f->group, 0, &comm) != DA_OK) {
        return DA_OK;
    }
    return sends ? da_comm_send(&comm, &byte, 1, peer, tag, "a byte", &message)
                 : da_comm_receive(&comm, &byte, 1, peer, tag, "a byte", &message);
}

static void *some_memory(size_t bytes, void *user) {
    return NULL;
}

#define ROWS(ROW)                                                                                                      \
    ROW(size_zero, (f->comm.size = 0, context(f)), DA_ERROR_INVALID_ARGUMENT, "comm.size is 0")                        \
    ROW(size_small, (f->comm.size -= 8, context(f)), DA_ERROR_INVALID_ARGUMENT, "comm.size is")                        \
    ROW(ranks_zero, (f->comm.ranks = 0, context(f)), DA_ERROR_INVALID_ARGUMENT, "comm.ranks is 0")                     \
    ROW(rank_negative, (f->comm.rank = -1, context(f)), DA_ERROR_INVALID_ARGUMENT, "comm.rank is -1; allowed: 0 to 3") \
    ROW(rank_beyond, (f->comm.rank = 4, context(f)), DA_ERROR_INVALID_ARGUMENT, "comm.rank is 4; allowed: 0 to 3")     \
    ROW(timeout_zero, (f->comm.timeout = 0, context(f)), DA_ERROR_INVALID_ARGUMENT, "comm.timeout is 0")               \
    ROW(timeout_negative, (f->comm.timeout = -1, context(f)), DA_ERROR_INVALID_ARGUMENT, "comm.timeout is -1")         \
    ROW(timeout_nan, (f->comm.timeout = NAN, context(f)), DA_ERROR_INVALID_ARGUMENT, "comm.timeout is")                \
    ROW(timeout_infinite, (f->comm.timeout = INFINITY, context(f)), DA_ERROR_INVALID_ARGUMENT, "comm.timeout is inf")  \
    ROW(no_send, (f->comm.send = NULL, context(f)), DA_ERROR_INVALID_ARGUMENT, "comm.send is NULL")                    \
    ROW(no_receive, (f->comm.receive = NULL, context(f)), DA_ERROR_INVALID_ARGUMENT, "comm.receive is NULL")           \
    ROW(no_wait, (f->comm.wait = NULL, context(f)), DA_ERROR_INVALID_ARGUMENT, "comm.wait is NULL")                    \
    ROW(no_cancel, (f->comm.cancel = NULL, context(f)), DA_ERROR_INVALID_ARGUMENT, "comm.cancel is NULL")              \
    ROW(group_of_none, group(f, 0, 1), DA_ERROR_INVALID_ARGUMENT, "ranks is 0; allowed: 1 to")                         \
    ROW(group_too_large, group(f, DA_MAX_THREADS + 1, 1), DA_ERROR_INVALID_ARGUMENT, "ranks is 1025")                  \
    ROW(group_timeout, group(f, 2, 0), DA_ERROR_INVALID_ARGUMENT, "timeout is 0")                                      \
    ROW(group_allocator, (f->allocator.allocate = some_memory, group(f, 2, 1)), DA_ERROR_INVALID_ARGUMENT,             \
        "allocator.release is NULL")                                                                                   \
    ROW(group_out, da_comm_group_create(2, 1, NULL, NULL), DA_ERROR_INVALID_ARGUMENT, "out is NULL")                   \
    ROW(rank_of_null, da_comm_group_rank(NULL, 0, &f->comm), DA_ERROR_INVALID_ARGUMENT, "group is NULL")               \
    ROW(rank_out, da_comm_group_rank(f->group, 0, NULL), DA_ERROR_INVALID_ARGUMENT, "out is NULL")                     \
    ROW(rank_negative_of_group, da_comm_group_rank(f->group, -1, &f->comm), DA_ERROR_INVALID_ARGUMENT, "rank is -1")   \
    ROW(rank_beyond_group, da_comm_group_rank(f->group, 2, &f->comm), DA_ERROR_INVALID_ARGUMENT, "rank is 2; allowed") \
    ROW(send_beyond, begun(f, 2, 0, true), DA_ERROR_INVALID_ARGUMENT, "to is 2; allowed: 0 to 1")                      \
    ROW(receive_negative, begun(f, -1, 0, false), DA_ERROR_INVALID_ARGUMENT, "from is -1; allowed: 0 to 1")            \
    ROW(tag_negative, begun(f, 1, -1, true), DA_ERROR_INVALID_ARGUMENT, "tag is -1; allowed: 0 to 1023")               \
    ROW(tag_beyond, begun(f, 1, 1024, false), DA_ERROR_INVALID_ARGUMENT, "tag is 1024; allowed: 0 to 1023")
ROWS(REFUSAL_FUNCTION)
static const refusal refusals[] = {ROWS(REFUSAL_ENTRY)};

static void refused(void **state) {
    fixture f = {.own = {0}};
    f.comm = own_comm(&f.own);
    assert_int_equal(da_comm_group_create(2, 1, NULL, &f.group), DA_OK);
    refusal_check(*state, &f);
    da_comm_group_free(f.group);
}

static int run_checks(const char *group, void (*run)(void **state)) {
    struct CMUnitTest *tests = calloc(comm_check_count, sizeof *tests);
    for (size_t k = 0; k < comm_check_count; k++) {
        union {
            const comm_check *check;
            void *state;
        } pointer = {.check = &comm_checks[k]};
        tests[k] = (struct CMUnitTest){comm_checks[k].name, run, NULL, NULL, pointer.state};
    }
    int failed = _cmocka_run_group_tests(group, tests, comm_check_count, NULL, NULL);
    free(tests);
    return failed;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(memory_runs_out), cmocka_unit_test(forgotten_requests), cmocka_unit_test(own_collectives),
        cmocka_unit_test(own_failures),    cmocka_unit_test(copied_by_context),  cmocka_unit_test(slow_as_told),
    };
    da_comm_group_free(NULL);
    da_comm_init(NULL);
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    failed += run_checks("threads as ranks", every_number_of_ranks);
    failed += run_checks("threads as ranks, slowed", slowed);
    return failed + refusal_run("refusals", refusals, sizeof refusals / sizeof *refusals, refused);
}
