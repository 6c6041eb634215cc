/* Creation over several ranks, where arguments are refused, or memory is short, before the ranks have met. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fixtures.h"
#include "support/ranks.h"

enum { RANKS = 3, ODD = 1, N = 7, HEAD_DIM = 4 }; /* ODD: the rank that is refused, where not all are */

static const double TIMEOUT = 60; /* seconds; a test that waits so long has failed */

/* What a rank gives that is refused; everything else is in order. */
typedef enum fault { NOTHING, NO_CONFIG, WINDOW, DEVICE, MEMORY } fault;

typedef struct creation {
    const char *name;
    fault odd, others;
    da_status status[RANKS], next[RANKS]; /* of the creation; of one after it, and a call */
    char message[RANKS][512];
} creation;

static da_status create(const da_context *context, const char *name, fault wrong, da_attention **out) {
    da_attention_config config = make_config(N);
    config.window = wrong == WINDOW ? -5 : DA_NO_WINDOW;
    config.device = wrong == DEVICE ? DA_DEVICE_CUDA : DA_DEVICE_AUTO;
    return da_attention_create(context, name, wrong == NO_CONFIG ? NULL : &config, out);
}

static da_status call(const da_attention *attention) {
    float memory[4][N * HEAD_DIM] = {{0}};
    da_tensor t[4];
    for (int k = 0; k < 4; k++) {
        t[k] = da_tensor_make(memory[k], DA_F32, 1, N, 1, HEAD_DIM);
    }
    return da_attention_forward(attention, &t[0], &t[1], &t[2], &t[3], NULL, NULL);
}

static void create_twice(const da_comm *comm, void *user) {
    creation *c = user;
    fault wrong = comm->rank == ODD ? c->odd : c->others;
    short_memory memory = {.until_failure = -1};
    da_context_options options;
    da_context *context;
    da_attention *attention;
    da_context_options_init(&options);
    options.threads = 1;
    options.comm = comm;
    options.allocator = short_memory_allocator(&memory);
    c->status[comm->rank] = c->next[comm->rank] = da_context_create(&options, &context);
    if (c->status[comm->rank] != DA_OK) {
        return;
    }
    memory.until_failure = wrong == MEMORY ? 0 : -1;
    c->status[comm->rank] = create(context, c->name, wrong, &attention);
    snprintf(c->message[comm->rank], sizeof c->message[comm->rank], "%s", da_last_error_message());
    da_attention_free(attention);
    memory.until_failure = -1;
    c->next[comm->rank] = create(context, c->name, NOTHING, &attention);
    if (c->next[comm->rank] == DA_OK) {
        c->next[comm->rank] = call(attention);
    }
    da_attention_free(attention);
    da_context_free(context);
}

static const struct {
    fault wrong;
    da_status status;
    const char *message;
} refusals[] = {
    {NO_CONFIG, DA_ERROR_INVALID_ARGUMENT, "config"},
    {WINDOW, DA_ERROR_INVALID_ARGUMENT, "window is -5"},
    {DEVICE, DA_ERROR_UNAVAILABLE, "device is cuda"},
};

static const char *const names[] = {"ring", "distributed", "auto"};

static void assert_refused(const creation *c, int rank, size_t refusal) {
    if (c->status[rank] != refusals[refusal].status || !strstr(c->message[rank], refusals[refusal].message)) {
        fail_msg("%s, rank %d: %s: %s; expected: %s", c->name, rank, da_status_name(c->status[rank]), c->message[rank],
                 refusals[refusal].message);
    }
}

static void test_a_refusal_on_one_rank_ends_all(void **state) {
    for (size_t k = 0; k < sizeof refusals / sizeof *refusals; k++) {
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            creation c = {.name = names[i], .odd = refusals[k].wrong};
            assert_true(ranks_run(RANKS, TIMEOUT, NULL, create_twice, &c));
            assert_refused(&c, ODD, k);
            assert_null(strstr(c.message[0], "without an answer"));
            assert_int_equal(c.status[0], DA_ERROR_COMMUNICATION);
            assert_non_null(strstr(c.message[0], "implementation and configuration of rank 1 differs"));
            assert_int_equal(c.status[2], DA_ERROR_COMMUNICATION);
        }
    }
}

static void test_a_refusal_on_all_ranks_ends_nothing(void **state) {
    for (size_t k = 0; k < sizeof refusals / sizeof *refusals; k++) {
        for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
            creation c = {.name = names[i], .odd = refusals[k].wrong, .others = refusals[k].wrong};
            assert_true(ranks_run(RANKS, TIMEOUT, NULL, create_twice, &c));
            for (int rank = 0; rank < RANKS; rank++) {
                assert_refused(&c, rank, k);
                assert_int_equal(c.next[rank], DA_OK);
            }
        }
    }
}

static void test_a_shortage_on_one_rank_ends_all(void **state) {
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        creation c = {.name = names[i], .odd = MEMORY};
        assert_true(ranks_run(RANKS, TIMEOUT, NULL, create_twice, &c));
        for (int rank = 0; rank < RANKS; rank++) {
            assert_int_equal(c.status[rank], rank == ODD ? DA_ERROR_OUT_OF_MEMORY : DA_ERROR_COMMUNICATION);
            assert_null(strstr(c.message[rank], "without an answer"));
        }
    }
}

/* A name that nobody knows is refused without a message: there may be nobody else. */
static void test_an_unknown_name_waits_for_nobody(void **state) {
    creation c = {.name = "rign"};
    assert_true(ranks_run(RANKS, TIMEOUT, NULL, create_twice, &c));
    for (int rank = 0; rank < RANKS; rank++) {
        assert_int_equal(c.status[rank], DA_ERROR_UNKNOWN_IMPLEMENTATION);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_refusal_on_one_rank_ends_all),
        cmocka_unit_test(test_a_refusal_on_all_ranks_ends_nothing),
        cmocka_unit_test(test_a_shortage_on_one_rank_ends_all),
        cmocka_unit_test(test_an_unknown_name_waits_for_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
