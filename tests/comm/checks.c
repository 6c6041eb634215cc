#define _POSIX_C_SOURCE 200809L

#include "comm/checks.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "comm/clock.h"

static _Thread_local char failure[1536];

static const char *fails(const char *format, ...) DA_PRINTF(1, 2);
static const char *fails(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(failure, sizeof failure, format, arguments);
    va_end(arguments);
    return failure;
}

/* Leaves the check, and gives up so that the other ranks do not wait in vain. */
#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            da_comm_abandon(comm);                                                                                     \
            return fails("rank %d, line %d: %s; last message: %s", comm->rank, __LINE__, #condition,                   \
                         da_last_error_message());                                                                     \
        }                                                                                                              \
    } while (0)

#define EXPECT_MESSAGE(text)                                                                                           \
    do {                                                                                                               \
        if (!strstr(da_last_error_message(), text)) {                                                                  \
            da_comm_abandon(comm);                                                                                     \
            return fails("rank %d, line %d: no \"%s\" in: %s", comm->rank, __LINE__, text, da_last_error_message());   \
        }                                                                                                              \
    } while (0)

static void rest(double seconds) {
    struct timespec time = {(time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9)};
    nanosleep(&time, NULL);
}

/* Bytes that depend on where they come from, which message they are, and their place. */
static void fill(unsigned char *bytes, size_t count, int from, int number) {
    uint64_t state = (uint64_t)from * 1000003u + (uint64_t)number * 7919u + 12345u;
    for (size_t k = 0; k < count; k++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        bytes[k] = (unsigned char)(state >> 56);
    }
}

static bool holds(const unsigned char *bytes, size_t count, int from, int number) {
    unsigned char *expected = malloc(count + 1);
    fill(expected, count, from, number);
    bool same = memcmp(bytes, expected, count) == 0;
    free(expected);
    return same;
}

/* ---- messages ---------------------------------------------------------------------------------------------------- */

enum { IN_ORDER = 24, LONGEST = 96 };

/* Every rank sends to every other many messages of two tags, of lengths from 0 on; half the ranks begin to receive first.
 * The tags come in another order than they were sent in. */
static const char *order(const da_comm *comm) {
    enum { TAGS = 2 };
    static const char what[] = "numbered messages";
    size_t count = (size_t)comm->ranks * TAGS * IN_ORDER, n = 0;
    unsigned char(*out)[LONGEST] = malloc(count * sizeof *out), (*in)[LONGEST] = malloc(count * sizeof *in);
    da_message *messages = calloc(2 * count, sizeof *messages);
    for (int pass = 0; pass < 2; pass++) {
        bool sends = (pass == 0) == (comm->rank % 2 == 0);
        for (size_t k = 0; k < count; k++) {
            int peer = (int)(k / (TAGS * IN_ORDER)), tag = (int)(k / IN_ORDER % TAGS), number = (int)(k % IN_ORDER);
            tag = sends ? tag : TAGS - 1 - tag; /* receives are begun with the higher tag first */
            size_t bytes = (size_t)(number * 37 + tag) % LONGEST;
            if (peer == comm->rank) {
                continue;
            }
            if (sends) {
                fill(out[k], bytes, comm->rank, number * TAGS + tag);
                EXPECT(da_comm_send(comm, out[k], bytes, peer, tag, what, &messages[n++]) == DA_OK);
            } else {
                EXPECT(da_comm_receive(comm, in[k], bytes, peer, tag, what, &messages[n++]) == DA_OK);
            }
        }
    }
    bool safe = false;
    EXPECT(da_comm_wait_all(comm, messages, n, &safe) == DA_OK);
    EXPECT(safe);
    for (size_t k = 0; k < count; k++) {
        int peer = (int)(k / (TAGS * IN_ORDER)), tag = TAGS - 1 - (int)(k / IN_ORDER % TAGS),
            number = (int)(k % IN_ORDER);
        if (peer != comm->rank) {
            EXPECT(holds(in[k], (size_t)(number * 37 + tag) % LONGEST, peer, number * TAGS + tag));
        }
    }
    free(messages);
    free(in);
    free(out);
    return NULL;
}

/* Round the ring, each rank a message of every length. */
static const char *sizes(const da_comm *comm) {
    static const size_t lengths[] = {0, 1, 7, 4096, 65537, 1 << 20, 0};
    enum { COUNT = sizeof lengths / sizeof *lengths };
    int to = (comm->rank + 1) % comm->ranks, from = (comm->rank + comm->ranks - 1) % comm->ranks;
    unsigned char *out[COUNT], *in[COUNT];
    da_message messages[2 * COUNT];
    for (int k = 0; k < COUNT; k++) {
        out[k] = malloc(lengths[k] + 1);
        in[k] = malloc(lengths[k] + 1);
        fill(out[k], lengths[k], comm->rank, k);
        EXPECT(da_comm_send(comm, out[k], lengths[k], to, 9, "a length", &messages[k]) == DA_OK);
    }
    for (int k = 0; k < COUNT; k++) {
        EXPECT(da_comm_receive(comm, in[k], lengths[k], from, 9, "a length", &messages[COUNT + k]) == DA_OK);
    }
    EXPECT(da_comm_wait_all(comm, messages, (size_t)2 * COUNT, NULL) == DA_OK);
    for (int k = 0; k < COUNT; k++) {
        EXPECT(holds(in[k], lengths[k], from, k));
        free(out[k]);
        free(in[k]);
    }
    return NULL;
}

/* 100 MiB, while the receiver only looks. */
static const char *large(const da_comm *comm) {
    enum { LARGE = 100 << 20 };
    da_message message;
    bool done = false;
    if (comm->rank > 1) {
        return NULL;
    }
    unsigned char *bytes = malloc(LARGE);
    if (comm->rank == 0) {
        memset(bytes, 0x5A, LARGE);
        bytes[0] = 1;
        bytes[LARGE - 1] = 2;
        EXPECT(da_comm_send(comm, bytes, LARGE, 1, 0, "much", &message) == DA_OK);
        EXPECT(da_comm_wait(comm, &message) == DA_OK);
    } else {
        memset(bytes, 0, LARGE);
        EXPECT(da_comm_receive(comm, bytes, LARGE, 0, 0, "much", &message) == DA_OK);
        for (double end = da_seconds() + 20; !done && da_seconds() < end;) {
            EXPECT(da_comm_look(comm, &message, &done) == DA_OK);
        }
        EXPECT(done && message.request == NULL);
        EXPECT(bytes[0] == 1 && bytes[LARGE - 1] == 2);
        EXPECT(memchr(bytes + 1, 0, LARGE - 2) == NULL);
        EXPECT(bytes[1] == 0x5A && memcmp(bytes + 1, bytes + 2, LARGE - 3) == 0);
    }
    free(bytes);
    return NULL;
}

/* A message that has not been sent yet has not arrived; one that has, has. */
static const char *looking(const da_comm *comm) {
    unsigned char byte = 0, start = 1;
    bool done = true;
    da_message message, signal;
    if (comm->rank == 0) {
        EXPECT(da_comm_receive(comm, &byte, 1, 1, 3, "a byte", &message) == DA_OK);
        EXPECT(da_comm_look(comm, &message, &done) == DA_OK);
        EXPECT(!done);
        EXPECT(da_comm_send(comm, &start, 1, 1, 4, "a signal", &signal) == DA_OK);
        EXPECT(da_comm_wait(comm, &signal) == DA_OK);
        EXPECT(da_comm_wait(comm, &message) == DA_OK);
        EXPECT(byte == 77);
        EXPECT(da_comm_look(comm, &message, &done) == DA_OK);
        EXPECT(done);
    } else if (comm->rank == 1) {
        EXPECT(da_comm_receive(comm, &start, 1, 0, 4, "a signal", &signal) == DA_OK);
        EXPECT(da_comm_wait(comm, &signal) == DA_OK);
        byte = 77;
        EXPECT(da_comm_send(comm, &byte, 1, 0, 3, "a byte", &message) == DA_OK);
        EXPECT(da_comm_wait(comm, &message) == DA_OK);
    }
    return NULL;
}

/* ---- what all ranks do together ---------------------------------------------------------------------------------- */

static const char *gather(const da_comm *comm) {
    static const size_t lengths[] = {0, 1, 13, 70000};
    for (size_t k = 0; k < sizeof lengths / sizeof *lengths; k++) {
        unsigned char *mine = malloc(lengths[k] + 1), *all = malloc((lengths[k] + 1) * (size_t)comm->ranks);
        fill(mine, lengths[k], comm->rank, (int)k);
        EXPECT(da_comm_gather(comm, NULL, mine, lengths[k], all) == DA_OK);
        for (int rank = 0; rank < comm->ranks; rank++) {
            EXPECT(holds(all + (size_t)rank * lengths[k], lengths[k], rank, (int)k));
        }
        free(mine);
        free(all);
    }
    return NULL;
}

/* Small whole numbers, whose sums are exact in any order. */
static const char *reduce(const da_comm *comm) {
    static const int64_t counts[] = {0, 1, 5, 1000, (1 << 20) + 3};
    for (size_t c = 0; c < sizeof counts / sizeof *counts; c++) {
        float *f32 = malloc((size_t)(counts[c] + 1) * sizeof *f32);
        double *f64 = malloc((size_t)(counts[c] + 1) * sizeof *f64);
        for (int64_t k = 0; k <= counts[c]; k++) {
            f32[k] = (float)((k % 100 + 1) * (comm->rank + 1));
            f64[k] = (double)((k % 1000 + 1) * (comm->rank - 3));
        }
        EXPECT(da_comm_reduce(comm, NULL, f32, counts[c], DA_F32) == DA_OK);
        EXPECT(da_comm_reduce(comm, NULL, f64, counts[c], DA_F64) == DA_OK);
        int64_t ranks = comm->ranks, ups = ranks * (ranks + 1) / 2, shifted = ranks * (ranks - 1) / 2 - 3 * ranks;
        for (int64_t k = 0; k < counts[c]; k++) {
            EXPECT(f32[k] == (float)((k % 100 + 1) * ups));
            EXPECT(f64[k] == (double)((k % 1000 + 1) * shifted));
        }
        /* What lies beyond is not touched. */
        EXPECT(f32[counts[c]] == (float)((counts[c] % 100 + 1) * (comm->rank + 1)));
        free(f32);
        free(f64);
    }
    return NULL;
}

/* Numbers whose sum depends on the order: every rank has the same bits, and for f32 those of the sum in f64. */
static const char *same_bits(const da_comm *comm) {
    enum { COUNT = 1001 };
    float mine[COUNT], *all = malloc(sizeof mine * (size_t)comm->ranks);
    uint64_t state = (uint64_t)comm->rank + 1;
    for (int k = 0; k < COUNT; k++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        mine[k] = ((float)(state >> 40) / 16777216.0f - 0.5f) * (float)(1 << k % 24);
    }
    EXPECT(da_comm_gather(comm, NULL, mine, sizeof mine, all) == DA_OK);
    EXPECT(da_comm_reduce(comm, NULL, mine, COUNT, DA_F32) == DA_OK);
    for (int k = 0; k < COUNT; k++) {
        double sum = 0;
        for (int rank = 0; rank < comm->ranks; rank++) {
            sum += (double)all[(size_t)rank * COUNT + (size_t)k];
        }
        EXPECT(mine[k] == (float)sum);
    }
    EXPECT(da_comm_agree(comm, NULL, mine, sizeof mine, "the sum") == DA_OK);
    free(all);
    return NULL;
}

/* Slices of uneven lengths, none among them, and one that is more than is added at a time. Gathered they are everybody's; of
 * numbers each rank has, to the bit, what a reduction of all of them gives it. */
static const char *slices(const da_comm *comm) {
    size_t *bytes = calloc((size_t)comm->ranks, sizeof *bytes), total = 0, before = 0;
    int64_t *counts = calloc((size_t)comm->ranks, sizeof *counts);
    bool safe = false;
    for (int rank = 0; rank < comm->ranks; rank++) {
        counts[rank] = rank % 3 == 1 ? 0 : rank == 2 ? (1 << 20) + 5 : 3 * rank + 1;
        bytes[rank] = (size_t)counts[rank] * sizeof(float);
        before += rank < comm->rank ? bytes[rank] : 0;
        total += bytes[rank];
    }
    unsigned char *all = calloc(total, 1);
    fill(all + before, bytes[comm->rank], comm->rank, 5);
    EXPECT(da_comm_gather_slices(comm, NULL, bytes, all, "slices", &safe) == DA_OK);
    EXPECT(safe);
    for (size_t rank = 0, place = 0; rank < (size_t)comm->ranks; place += bytes[rank++]) {
        EXPECT(holds(all + place, bytes[rank], (int)rank, 5));
    }
    float *numbers = malloc(total), *sum = malloc(bytes[comm->rank] + sizeof *sum);
    uint64_t state = (uint64_t)comm->rank + 7;
    for (size_t k = 0; k < total / sizeof *numbers; k++) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        numbers[k] = ((float)(state >> 40) / 16777216.0f - 0.5f) * (float)(1 << k % 24);
    }
    sum[counts[comm->rank]] = 77;
    EXPECT(da_comm_reduce_slices(comm, NULL, numbers, counts, DA_F32, sum) == DA_OK);
    EXPECT(sum[counts[comm->rank]] == 77);
    EXPECT(da_comm_reduce(comm, NULL, numbers, (int64_t)(total / sizeof *numbers), DA_F32) == DA_OK);
    EXPECT(memcmp(sum, (char *)numbers + before, bytes[comm->rank]) == 0);
    free(numbers);
    free(sum);
    free(all);
    free(counts);
    free(bytes);
    return NULL;
}

/* Any one rank that differs is named on every rank: itself, or, where rank 0 differs from the others, rank 1. */
static const char *agree(const da_comm *comm) {
    for (int odd = -1; odd < comm->ranks; odd++) {
        char text[32] = "segments 2048, 4096", expected[64];
        text[0] = comm->rank == odd ? 'S' : 's';
        da_status status = da_comm_agree(comm, NULL, text, sizeof text, "the configuration");
        if (odd < 0 || comm->ranks == 1) {
            EXPECT(status == DA_OK);
            continue;
        }
        EXPECT(status == DA_ERROR_COMMUNICATION);
        snprintf(expected, sizeof expected, "the configuration of rank %d differs", odd > 0 ? odd : 1);
        EXPECT_MESSAGE(expected);
    }
    return NULL;
}

/* ---- faults ------------------------------------------------------------------------------------------------------ */

/* Rank 0 waits for a message that nobody sends. The others need not know. */
static const char *never_sent(const da_comm *comm) {
    unsigned char byte;
    da_message message;
    da_comm hasty = *comm;
    hasty.timeout = 0.3;
    if (comm->rank == 0) {
        double begin = da_seconds();
        EXPECT(da_comm_receive(&hasty, &byte, 1, 1, 17, "keys and values", &message) == DA_OK);
        EXPECT(da_comm_wait(&hasty, &message) == DA_ERROR_COMMUNICATION);
        double waited = da_seconds() - begin;
        EXPECT_MESSAGE("rank 0 waited 0.3 s for keys and values from rank 1");
        EXPECT(waited >= 0.3 && waited < 10);
        EXPECT(message.request != NULL);
        EXPECT(da_comm_give_up(&hasty, &message));
        EXPECT(message.request == NULL);
    }
    return NULL;
}

/* A message of another length than the receiver expects, which is how ranks of different configurations would meet. */
static const char *other_length(const da_comm *comm) {
    unsigned char bytes[64] = {0};
    da_message message;
    if (comm->rank == 0) {
        EXPECT(da_comm_send(comm, bytes, 40, 1, 21, "queries", &message) == DA_OK);
        da_status status = da_comm_wait(comm, &message); /* a transport may not notice on this side */
        EXPECT(status == DA_OK || status == DA_ERROR_COMMUNICATION);
        da_comm_give_up(comm, &message);
    } else if (comm->rank == 1) {
        EXPECT(da_comm_receive(comm, bytes, 24, 0, 21, "queries", &message) == DA_OK);
        EXPECT(da_comm_wait(comm, &message) == DA_ERROR_COMMUNICATION);
        EXPECT_MESSAGE("rank 1 could not receive queries from rank 0");
        da_comm_give_up(comm, &message);
        EXPECT(da_comm_receive(comm, bytes, 64, 0, 22, "queries", &message) == DA_OK);
        EXPECT(da_comm_wait(comm, &message) == DA_ERROR_COMMUNICATION);
        da_comm_give_up(comm, &message);
    }
    if (comm->rank == 0) {
        EXPECT(da_comm_send(comm, bytes, 40, 1, 22, "queries", &message) == DA_OK);
        da_status status = da_comm_wait(comm, &message);
        EXPECT(status == DA_OK || status == DA_ERROR_COMMUNICATION);
        da_comm_give_up(comm, &message);
    }
    return NULL;
}

/* The last rank gives up; each other waits for its neighbour, and ends long before its timeout. */
static const char *abandoned(const da_comm *comm) {
    unsigned char byte;
    char expected[64];
    da_message message;
    da_comm patient = *comm;
    patient.timeout = 60;
    if (comm->rank == comm->ranks - 1) {
        rest(0.1);
        da_comm_abandon(comm);
        return NULL;
    }
    double begin = da_seconds();
    EXPECT(da_comm_receive(&patient, &byte, 1, comm->rank + 1, 5, "a byte", &message) == DA_OK);
    EXPECT(da_comm_wait(&patient, &message) == DA_ERROR_COMMUNICATION);
    snprintf(expected, sizeof expected, "rank %d has given up", comm->ranks - 1);
    EXPECT_MESSAGE(expected);
    EXPECT(da_comm_give_up(&patient, &message));
    EXPECT(da_seconds() - begin < 10);
    EXPECT(da_comm_agree(&patient, NULL, "x", 1, "anything") != DA_OK); /* what comes after ends as soon */
    EXPECT(da_seconds() - begin < 20);
    return NULL;
}

const comm_check comm_checks[] = {
    {"order", 1, false, order},
    {"sizes", 2, false, sizes},
    {"large", 2, false, large},
    {"looking", 2, false, looking},
    {"gather", 1, false, gather},
    {"reduce", 1, false, reduce},
    {"same_bits", 1, false, same_bits},
    {"agree", 1, false, agree},
    {"slices", 1, false, slices},
    {"never_sent", 2, false, never_sent},
    {"other_length", 2, true, other_length},
    {"abandoned", 2, true, abandoned},
};
const size_t comm_check_count = sizeof comm_checks / sizeof *comm_checks;
