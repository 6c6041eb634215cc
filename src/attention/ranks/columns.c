#include "attention/ranks/columns.h"

#include <string.h>

#include "attention/ranks/mover.h"
#include "core/memory.h"

/* ---- runs of the pass, while messages move ------------------------------------------------------------------------ */

/* Parcels that come, or that go. */
static da_moving moving(da_parcel *parcels, int count) {
    return (da_moving){.first = &parcels->message, .stride = sizeof *parcels, .count = count};
}

/* The run is one of `steps` of its direction. */
static da_mover mover_of(const da_direction *direction, da_moving incoming, da_moving outgoing, int step, int steps) {
    return (da_mover){.meeting = direction->meeting,
                      .moving = {incoming, outgoing},
                      .step = step,
                      .steps = steps,
                      .direction = direction->number,
                      .directions = direction->count};
}

static da_status run_scope(const da_direction *direction, const da_scope *scope, da_mover *m) {
    da_call_options options = da_mover_options(m);
    return da_mover_end(m, direction->run(scope, &options, direction->user));
}

/* ---- scopes ------------------------------------------------------------------------------------------------------- */

static da_source own_source(const da_direction *direction) {
    return (da_source){.part = direction->meeting->part,
                       .tensors = {*direction->cargo->first, *direction->cargo->second}};
}

static da_scope whole_scope(const da_direction *direction, const da_source *sources) {
    const da_meeting *meeting = direction->meeting;
    int64_t n = meeting->layout->n;
    return (da_scope){
        .n = n, .rows = meeting->part, .columns_end = n, .sources = sources, .heads = direction->cargo->query_heads};
}

/* The columns of one source alone. */
static da_scope scope_of(const da_direction *direction, const da_source *source, const da_carry *carry) {
    const da_part *part = source->part;
    da_scope scope = whole_scope(direction, source);
    scope.carry = carry;
    scope.columns_first = part->piece_count > 0 ? part->pieces[0].first : 0;
    scope.columns_end = part->piece_count > 0 ? part->pieces[part->piece_count - 1].end : 0;
    return scope;
}

/* What rank `rank` sends to this one, or this one to it. */
static da_status plan_parcel(const da_direction *direction, int rank, bool sends, da_parcel *parcel) {
    const da_meeting *meeting = direction->meeting;
    const da_part *theirs = da_layout_part(meeting->layout, rank);
    return da_parcel_plan(parcel, meeting, direction->cargo, rank, sends ? theirs : meeting->part,
                          sends ? meeting->part : theirs);
}

/* ---- ring --------------------------------------------------------------------------------------------------------- */

typedef struct ring {
    const da_direction *direction;
    da_parcel incoming[2], outgoing; /* incoming: what is computed with, and what comes next */
    da_carry carry;
    int last_step; /* the last one with columns for this rank */
} ring;

/* The rank that is `steps` before this one, or beyond it. */
static int neighbour(const da_comm *comm, int steps) {
    return (comm->rank + steps + comm->ranks) % comm->ranks;
}

static int find_last_step(const da_direction *direction) {
    const da_meeting *meeting = direction->meeting;
    const da_comm *comm = meeting->comm;
    int step = comm->ranks - 1;
    while (step > 0 && !da_parcel_is_needed(meeting, direction->cargo, meeting->part,
                                            da_layout_part(meeting->layout, neighbour(comm, -step)))) {
        step--;
    }
    return step;
}

/* Sets messages of a step under way. */
static da_status begin_step(ring *r, int step) {
    const da_direction *direction = r->direction;
    const da_meeting *meeting = direction->meeting;
    da_parcel *incoming = &r->incoming[step % 2];
    da_status status = plan_parcel(direction, neighbour(meeting->comm, -step), false, incoming);
    if (status == DA_OK) {
        status = da_parcel_receive(incoming, meeting, direction->cargo);
    }
    if (status == DA_OK) {
        status = plan_parcel(direction, neighbour(meeting->comm, step), true, &r->outgoing);
    }
    return status == DA_OK ? da_parcel_send(&r->outgoing, meeting, direction->cargo) : status;
}

/* Computes with the columns of step `step`, while those of the next are under way. */
static da_status compute_step(ring *r, int step) {
    const da_direction *direction = r->direction;
    da_parcel *next = &r->incoming[(step + 1) % 2], *current = &r->incoming[step % 2];
    da_source source = step == 0 ? own_source(direction) : da_parcel_source(current, direction->cargo);
    da_mover m = mover_of(direction, moving(next, 1), moving(&r->outgoing, 1), step, r->last_step + 1);
    if (step > r->last_step || (step > 0 && current->rows == 0)) {
        return DA_OK;
    }
    r->carry.begins = step == 0;
    r->carry.ends = step == r->last_step;
    da_scope scope = scope_of(direction, &source, &r->carry);
    return run_scope(direction, &scope, &m);
}

static da_status run_step(ring *r, int step) {
    const da_meeting *meeting = r->direction->meeting;
    bool is_last = step == meeting->comm->ranks - 1;
    da_parcel *next = &r->incoming[(step + 1) % 2];
    da_status status = is_last ? DA_OK : begin_step(r, step + 1);
    if (status == DA_OK) {
        status = compute_step(r, step);
    }
    if (status == DA_OK && !is_last) {
        status = da_parcel_wait(next, meeting);
    }
    if (status == DA_OK && !is_last) {
        status = da_parcel_wait(&r->outgoing, meeting);
    }
    da_parcel_free(&r->incoming[step % 2], meeting);
    da_parcel_free(&r->outgoing, meeting);
    return status;
}

da_status da_run_ring(const da_direction *direction) {
    const da_allocator *allocator = da_context_allocator(direction->meeting->context);
    ring r = {.direction = direction, .last_step = find_last_step(direction)};
    da_status status = DA_OK;
    if (r.last_step > 0 && direction->carry_bytes > 0) {
        r.carry.memory = da_allocate(allocator, 1, direction->carry_bytes);
        status = r.carry.memory ? DA_OK : DA_ERROR_OUT_OF_MEMORY;
    }
    for (int step = 0; step < direction->meeting->comm->ranks && status == DA_OK; step++) {
        status = run_step(&r, step);
    }
    da_parcel_free(&r.incoming[0], direction->meeting);
    da_parcel_free(&r.incoming[1], direction->meeting);
    da_release(allocator, r.carry.memory);
    return status;
}

/* ---- gathered ----------------------------------------------------------------------------------------------------- */

typedef struct gathering {
    const da_direction *direction;
    da_parcel *incoming, *outgoing; /* of each rank */
    da_source *sources;             /* of each rank */
    da_carry carry;
    bool any_come;
} gathering;

static size_t lay_out(gathering *g, int ranks, char *memory) {
    da_arena arena = {memory, 0};
    g->incoming = da_arena_take(&arena, (size_t)ranks, sizeof *g->incoming);
    g->outgoing = da_arena_take(&arena, (size_t)ranks, sizeof *g->outgoing);
    g->sources = da_arena_take(&arena, (size_t)ranks, sizeof *g->sources);
    return arena.used;
}

size_t da_gathered_bytes(int ranks) {
    gathering unused;
    return lay_out(&unused, ranks, NULL);
}

/* Everything is received before anything is sent: so most of it need not be buffered. */
static da_status begin_gathering(gathering *g) {
    const da_direction *direction = g->direction;
    const da_meeting *meeting = direction->meeting;
    da_status status = DA_OK;
    for (int step = 1; step < meeting->comm->ranks && status == DA_OK; step++) {
        int rank = neighbour(meeting->comm, -step);
        da_parcel *parcel = &g->incoming[rank];
        status = plan_parcel(direction, rank, false, parcel);
        if (status == DA_OK) {
            status = da_parcel_receive(parcel, meeting, direction->cargo);
        }
        g->any_come |= parcel->rows > 0;
    }
    for (int step = 1; step < meeting->comm->ranks && status == DA_OK; step++) {
        int rank = neighbour(meeting->comm, step);
        status = plan_parcel(direction, rank, true, &g->outgoing[rank]);
        if (status == DA_OK) {
            status = da_parcel_send(&g->outgoing[rank], meeting, direction->cargo);
        }
    }
    if (status == DA_OK && g->any_come && direction->carry_bytes > 0) {
        g->carry.memory = da_allocate(da_context_allocator(meeting->context), 1, direction->carry_bytes);
        status = g->carry.memory ? DA_OK : DA_ERROR_OUT_OF_MEMORY;
    }
    return status;
}

static da_status wait_for(const da_meeting *meeting, da_parcel *parcels) {
    da_status status = DA_OK;
    for (int rank = 0; rank < meeting->comm->ranks && status == DA_OK; rank++) {
        status = da_parcel_wait(&parcels[rank], meeting);
    }
    return status;
}

static da_mover mover_of_run(const gathering *g, int run) {
    int ranks = g->direction->meeting->comm->ranks;
    return mover_of(g->direction, moving(g->incoming, ranks), moving(g->outgoing, ranks), run, g->any_come ? 2 : 1);
}

/* With the columns at hand, while the others travel. */
static da_status compute_own(gathering *g) {
    da_mover m = mover_of_run(g, 0);
    da_source source = own_source(g->direction);
    g->carry.begins = true;
    g->carry.ends = !g->any_come;
    da_scope scope = scope_of(g->direction, &source, &g->carry);
    return run_scope(g->direction, &scope, &m);
}

/* With all that have come. */
static da_status compute_gathered(gathering *g) {
    const da_meeting *meeting = g->direction->meeting;
    da_mover m = mover_of_run(g, 1);
    g->carry.begins = false;
    g->carry.ends = true;
    da_scope scope = whole_scope(g->direction, g->sources);
    scope.layout = meeting->layout;
    scope.carry = &g->carry;
    for (int rank = 0; rank < meeting->comm->ranks; rank++) {
        if (g->incoming[rank].rows > 0) {
            g->sources[rank] = da_parcel_source(&g->incoming[rank], g->direction->cargo);
        }
    }
    return run_scope(g->direction, &scope, &m);
}

static da_status run_gathering(gathering *g) {
    const da_meeting *meeting = g->direction->meeting;
    da_status status = begin_gathering(g);
    if (status == DA_OK) {
        status = compute_own(g);
    }
    if (status == DA_OK) {
        status = wait_for(meeting, g->incoming);
    }
    if (status == DA_OK && g->any_come) {
        status = compute_gathered(g);
    }
    return status == DA_OK ? wait_for(meeting, g->outgoing) : status;
}

da_status da_run_gathered(const da_direction *direction) {
    const da_meeting *meeting = direction->meeting;
    const da_allocator *allocator = da_context_allocator(meeting->context);
    gathering g = {.direction = direction};
    size_t bytes = da_gathered_bytes(meeting->comm->ranks);
    char *memory = da_allocate(allocator, 1, bytes);
    if (!memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    memset(memory, 0, bytes);
    lay_out(&g, meeting->comm->ranks, memory);
    da_status status = run_gathering(&g);
    for (int rank = 0; rank < meeting->comm->ranks; rank++) {
        da_parcel_free(&g.incoming[rank], meeting);
        da_parcel_free(&g.outgoing[rank], meeting);
    }
    da_release(allocator, g.carry.memory);
    da_release(allocator, memory);
    return status;
}
