#include "bench_ranks.h"

#include <math.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "comm/slow.h"
#include "options.h"

#define TIMEOUT 600.0

enum { FREE, LIMITED, KINDS };

/* All that ranks share. */
typedef struct meeting_place {
    const ranks_bench *bench;
    const char *implementation;
    da_comm_group *groups[KINDS];
    pthread_barrier_t barrier;
    double start;               /* of the run at hand */
    double *seconds[KINDS + 1]; /* [repeats]; the last: of one process */
    da_context *single_context;
    da_attention *single;
    workload whole;
} meeting_place;

typedef struct seat {
    meeting_place *place;
    int rank;
    pthread_t thread;
    da_slow slow;
    da_context *contexts[KINDS];
    da_attention *attentions[KINDS];
    workload work;
    double end;
    da_status status;
    char message[512];
} seat;

/* ---- one rank ------------------------------------------------------------------------------------------------------ */

static da_status open_kind(seat *s, int kind) {
    const ranks_bench *bench = s->place->bench;
    da_comm comm, inner;
    da_ranks_options limits;
    da_context_options options;
    da_ranks_options_init(&limits);
    network_apply(bench->network, &limits);
    da_status status = da_comm_group_rank(s->place->groups[kind], s->rank, &inner);
    if (status != DA_OK) {
        return status;
    }
    comm = inner;
    if (kind == LIMITED) {
        da_slow_init(&s->slow, &inner, limits.latency, limits.bandwidth, &comm);
    }
    da_context_options_init(&options);
    options.threads = bench->threads;
    options.isa = bench->isa;
    options.comm = &comm;
    limits.forward_flops = bench->rank_flops[0];
    limits.backward_flops = bench->rank_flops[1];
    options.rates = &limits; /* calls are divided as the plan has them */
    status = da_context_create(&options, &s->contexts[kind]);
    return status == DA_OK
               ? da_attention_create(s->contexts[kind], s->place->implementation, bench->config, &s->attentions[kind])
               : status;
}

static da_status open_seat(seat *s) {
    const ranks_bench *bench = s->place->bench;
    da_problem problem = bench->problem;
    da_status status = da_partition_length(bench->config->partition, bench->config->stripe, bench->problem.n,
                                           bench->ranks, s->rank, &problem.n);
    if (status == DA_OK) {
        status = workload_create(&s->work, &problem, bench->backward, bench->threads);
    }
    for (int kind = 0; kind < KINDS && status == DA_OK; kind++) {
        status = open_kind(s, kind);
    }
    for (int kind = 0; kind < KINDS && status != DA_OK; kind++) { /* nobody is to wait for this rank */
        da_comm comm;
        if (da_comm_group_rank(s->place->groups[kind], s->rank, &comm) == DA_OK) {
            comm.abandon(comm.user);
        }
    }
    return status;
}

/* Everybody begins together; rank 0 has said when. */
static void begin_together(seat *s) {
    pthread_barrier_wait(&s->place->barrier);
    if (s->rank == 0) {
        s->place->start = cli_now();
    }
    pthread_barrier_wait(&s->place->barrier);
}

/* One process, in the thread of rank 0, while the others wait. */
static void run_single(seat *s, int repeat) {
    meeting_place *place = s->place;
    begin_together(s);
    if (s->rank == 0 && s->status == DA_OK) {
        s->status = workload_run(place->single, &place->whole, NULL);
        if (repeat >= 0) {
            place->seconds[KINDS][repeat] = cli_now() - place->start;
        }
    }
}

static void run_kind(seat *seats, seat *s, int kind, int repeat) {
    meeting_place *place = s->place;
    begin_together(s);
    if (s->status == DA_OK) {
        s->status = workload_run(s->attentions[kind], &s->work, NULL);
        s->end = cli_now();
    }
    pthread_barrier_wait(&place->barrier);
    for (int rank = 0; s->rank == 0 && repeat >= 0 && rank < place->bench->ranks; rank++) {
        double seconds = seats[rank].end - place->start, *last = &place->seconds[kind][repeat];
        *last = rank == 0 || seconds > *last ? seconds : *last;
    }
}

static void *run_rank(void *user) {
    seat *s = user, *seats = s - s->rank;
    s->status = open_seat(s);
    if (s->status != DA_OK) {
        snprintf(s->message, sizeof s->message, "%s", da_last_error_message());
    }
    for (int repeat = -1; repeat < s->place->bench->repeats; repeat++) {
        run_single(s, repeat);
        for (int kind = 0; kind < KINDS; kind++) {
            run_kind(seats, s, kind, repeat);
        }
    }
    if (s->status != DA_OK && s->message[0] == '\0') {
        snprintf(s->message, sizeof s->message, "%s", da_last_error_message());
    }
    for (int kind = 0; kind < KINDS; kind++) {
        da_attention_free(s->attentions[kind]);
        da_context_free(s->contexts[kind]);
    }
    workload_free(&s->work);
    return NULL;
}

/* ---- all ranks ----------------------------------------------------------------------------------------------------- */

static int compare_seconds(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *seconds, int count) {
    qsort(seconds, (size_t)count, sizeof *seconds, compare_seconds);
    return count % 2 ? seconds[count / 2] : (seconds[count / 2 - 1] + seconds[count / 2]) / 2;
}

static da_status open_place(meeting_place *place) {
    const ranks_bench *bench = place->bench;
    da_context_options options;
    da_context_options_init(&options);
    options.threads = bench->threads * bench->ranks;
    options.isa = bench->isa;
    da_status status = da_context_create(&options, &place->single_context);
    if (status == DA_OK) {
        status = da_attention_create(place->single_context, "improved", bench->config, &place->single);
    }
    if (status == DA_OK) {
        status = workload_create(&place->whole, &bench->problem, bench->backward, options.threads);
    }
    for (int kind = 0; kind < KINDS && status == DA_OK; kind++) {
        status = da_comm_group_create(bench->ranks, TIMEOUT, NULL, &place->groups[kind]);
    }
    for (int kind = 0; kind <= KINDS; kind++) {
        place->seconds[kind] = calloc((size_t)bench->repeats, sizeof(double));
        if (place->seconds[kind] == NULL && status == DA_OK) {
            status = da_report(DA_ERROR_OUT_OF_MEMORY, "memory is short");
        }
    }
    return status;
}

static void close_place(meeting_place *place) {
    da_attention_free(place->single);
    da_context_free(place->single_context);
    workload_free(&place->whole);
    for (int kind = 0; kind < KINDS; kind++) {
        da_comm_group_free(place->groups[kind]);
    }
    for (int kind = 0; kind <= KINDS; kind++) {
        free(place->seconds[kind]);
    }
}

/* A rank that has failed leaves nobody waiting: its calls give up, and it goes on to all barriers. */
static da_status seat_all(meeting_place *place) {
    int ranks = place->bench->ranks;
    da_status status = DA_OK;
    seat *seats = calloc((size_t)ranks, sizeof *seats);
    if (seats == NULL) {
        return da_report(DA_ERROR_OUT_OF_MEMORY, "memory is short");
    }
    if (pthread_barrier_init(&place->barrier, NULL, (unsigned)ranks) != 0) {
        free(seats);
        return da_report(DA_ERROR_OUT_OF_MEMORY, "%d threads cannot be made to meet", ranks);
    }
    for (int rank = 0; rank < ranks; rank++) {
        seats[rank].place = place;
        seats[rank].rank = rank;
        if (pthread_create(&seats[rank].thread, NULL, run_rank, &seats[rank]) != 0) {
            exit(cli_fail("bench", "--ranks: a thread for rank %d cannot be made", rank)); /* the others wait */
        }
    }
    for (int rank = 0; rank < ranks; rank++) {
        pthread_join(seats[rank].thread, NULL);
        if (seats[rank].status != DA_OK && status == DA_OK) {
            status = da_report(seats[rank].status, "rank %d: %s", rank, seats[rank].message);
        }
    }
    pthread_barrier_destroy(&place->barrier);
    free(seats);
    return status;
}

/* ---- the prediction ------------------------------------------------------------------------------------------------ */

static da_status plan(const ranks_bench *bench, const da_context *context, da_ranks_options *options,
                      const char *implementation, ranks_row *row, double *flops) {
    da_ranks_plan *found;
    da_ranks_total total;
    da_status status = da_plan_ranks(context, bench->config, &bench->problem, options, &found);
    da_ranks_total_init(&total);
    if (status != DA_OK) {
        return status;
    }
    da_ranks_plan_total(found, implementation, &total);
    row->predicted = total.seconds;
    row->transfer = 0;
    for (size_t k = 0; k < da_ranks_plan_count(found); k++) {
        da_rank_share share;
        da_rank_share_init(&share);
        da_ranks_plan_share(found, implementation, k, &share);
        row->transfer = fmax(row->transfer, share.transfer_seconds);
        *flops = share.compute_seconds > 0 ? share.flops / share.compute_seconds : 0;
    }
    da_ranks_plan_free(found);
    return DA_OK;
}

/* A rank has its part of the machine's rate: what all threads reach together is asked for first. Of a pair's 18
 * head_dim operations the forward pass has 4. */
static da_status find_rates(ranks_bench *bench, const da_context *context, ranks_row *row) {
    double forward, both = 0;
    da_ranks_options options;
    da_ranks_options_init(&options);
    da_status status = plan(bench, context, &options, "ring", row, &forward);
    options.backward = bench->backward;
    if (status == DA_OK && bench->backward) {
        status = plan(bench, context, &options, "ring", row, &both);
    }
    if (status == DA_OK) {
        bench->rank_flops[0] = forward / bench->ranks;
        bench->rank_flops[1] = bench->backward ? 14 / (18 / both - 4 / forward) / bench->ranks : 0;
    }
    return status;
}

static da_status predict(ranks_bench *bench, const da_context *context, const char *implementation, ranks_row *row) {
    double unused;
    da_ranks_options options;
    da_status status = bench->rank_flops[0] > 0 ? DA_OK : find_rates(bench, context, row);
    da_ranks_options_init(&options);
    network_apply(bench->network, &options);
    options.ranks = bench->ranks;
    options.backward = bench->backward;
    options.forward_flops = bench->rank_flops[0];
    options.backward_flops = bench->rank_flops[1];
    return status == DA_OK ? plan(bench, context, &options, implementation, row, &unused) : status;
}

int ranks_bench_run(ranks_bench *bench, const char *command, const char *implementation, ranks_row *row) {
    meeting_place place = {.bench = bench, .implementation = implementation};
    da_status status = open_place(&place);
    if (status == DA_OK) {
        status = predict(bench, place.single_context, implementation, row);
    }
    if (status == DA_OK) {
        status = seat_all(&place);
    }
    if (status == DA_OK) {
        row->single = median(place.seconds[KINDS], bench->repeats);
        row->computing = median(place.seconds[FREE], bench->repeats);
        row->limited = median(place.seconds[LIMITED], bench->repeats);
    }
    close_place(&place);
    return status == DA_OK ? CLI_CONTINUE : cli_refused(command, status);
}
