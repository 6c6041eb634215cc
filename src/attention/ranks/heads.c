#include "attention/ranks/heads.h"

#include <string.h>

#include "attention/improved/passes.h"
#include "attention/ranks/mover.h"
#include "attention/ranks/packed_row.h"
#include "core/dtype.h"
#include "core/memory.h"

enum { TAG_HEADS = 2, TAG_RESULTS = 3, MAX_TENSORS = 10 };

/* Of many heads, each turn takes several: messages stay long, and there is enough for all threads. */
#define MAX_TURNS 8

void da_heads_of_rank(int64_t kv_heads, int ranks, int rank, int64_t *first, int64_t *end) {
    *first = kv_heads * rank / ranks;
    *end = kv_heads * (rank + 1) / ranks;
}

int da_heads_turns(int64_t kv_heads, int ranks) {
    int64_t most = (kv_heads + ranks - 1) / ranks;
    return (int)(most < MAX_TURNS ? most : MAX_TURNS);
}

void da_heads_of_turn(int64_t kv_heads, int ranks, int rank, int turn, int64_t *first, int64_t *end) {
    int turns = da_heads_turns(kv_heads, ranks);
    int64_t begin, all;
    da_heads_of_rank(kv_heads, ranks, rank, &begin, &all);
    all -= begin;
    *first = begin + (all * turn + turns - 1) / turns;
    *end = begin + (all * (turn + 1) + turns - 1) / turns;
}

/* ---- tensors of this rank's tokens and of its heads of a turn ------------------------------------------------------ */

/* A tensor of the call, and the same for all tokens of this rank's heads of a turn. */
typedef struct two_views {
    const da_tensor *tokens; /* (batch, this rank's rows, heads, width); or NULL */
    da_tensor heads;         /* (batch, n, this rank's heads, width) */
    bool is_output;
} two_views;

typedef struct transfer {
    const da_meeting *meeting; /* NULL: there are sizes alone, and tensors without data */
    const da_layout *layout;
    int rank, turn;
    int64_t kv_heads;
    two_views views[MAX_TENSORS];
    int count;
} transfer;

static transfer begin_transfer(const da_meeting *meeting, const da_tensor *key) {
    return (transfer){
        .meeting = meeting, .layout = meeting->layout, .rank = meeting->comm->rank, .kv_heads = key->shape[2]};
}

/* Heads of a view's tensor that a rank computes in the turn. */
static void heads_of(const transfer *t, const two_views *view, int rank, int64_t *first, int64_t *end) {
    int64_t group = view->tokens->shape[2] / t->kv_heads;
    da_heads_of_turn(t->kv_heads, t->layout->ranks, rank, t->turn, first, end);
    *first *= group;
    *end *= group;
}

static void add_view(transfer *t, const da_tensor *tokens, bool is_output) {
    t->views[t->count++] = (two_views){.tokens = tokens, .is_output = is_output};
}

/* The same views in a turn, without memory for this rank's heads. */
static transfer in_turn(const transfer *all, int turn) {
    transfer t = *all;
    t.turn = turn;
    for (int k = 0; k < t.count; k++) {
        two_views *view = &t.views[k];
        const da_tensor *tokens = view->tokens;
        int64_t first, end;
        if (tokens) {
            heads_of(&t, view, t.rank, &first, &end);
            view->heads =
                da_tensor_make(NULL, tokens->dtype, tokens->shape[0], t.layout->n, end - first, tokens->shape[3]);
        }
    }
    return t;
}

/* One element at least, so that there is an address. */
static size_t view_bytes(const two_views *view) {
    const int64_t *shape = view->heads.shape;
    return (size_t)(shape[0] * shape[1] * shape[2] * shape[3] + 1) * da_dtype_size(view->heads.dtype);
}

static da_status allocate_views(transfer *t) {
    for (int k = 0; k < t->count; k++) {
        two_views *view = &t->views[k];
        if (view->tokens) {
            view->heads.data = da_allocate(da_context_allocator(t->meeting->context), view_bytes(view), 1);
            if (!view->heads.data) {
                return DA_ERROR_OUT_OF_MEMORY;
            }
        }
    }
    return DA_OK;
}

static void free_views(transfer *t) {
    for (int k = 0; k < t->count; k++) {
        da_release(da_context_allocator(t->meeting->context), t->views[k].heads.data);
        t->views[k].heads.data = NULL;
    }
}

/* The same view for the pass; NULL where the call has no such tensor. */
static const da_tensor *view_of_heads(const transfer *t, int k) {
    return t->views[k].tokens ? &t->views[k].heads : NULL;
}

/* ---- messages ------------------------------------------------------------------------------------------------------ */

/* One block of a message: rows of a part, of some heads of a tensor, packed as (batch, row, head, width). */
typedef struct block {
    const da_tensor *tensor;
    const da_part *part; /* the rows are those of its positions; NULL: the tensor's own */
    int64_t first_head, end_head;
} block;

static size_t block_bytes(const block *b, int64_t rows) {
    return (size_t)(b->tensor->shape[0] * rows * (b->end_head - b->first_head) * b->tensor->shape[3]) *
           da_dtype_size(b->tensor->dtype);
}

/* Copies a block into (or out of) packed memory; returns the end of it. */
static char *copy_block(const block *b, int64_t rows, char *packed, bool pack) {
    size_t bytes = da_packed_row_bytes(b->tensor);
    for (int64_t batch = 0; batch < b->tensor->shape[0]; batch++) {
        for (int64_t row = 0; row < rows; row++) {
            int64_t i = b->part ? da_part_position(b->part, row) : row;
            for (int64_t head = b->first_head; head < b->end_head; head++) {
                da_copy_packed_row(b->tensor, batch, i, head, packed, !pack);
                packed += bytes;
            }
        }
    }
    return packed;
}

/* What this rank and another exchange of a view. tokens_side: the block of the call's tensor, for the other's heads;
 * otherwise that of the tensor of heads, for the other's tokens. */
static block block_of(const transfer *t, const two_views *view, int other, bool tokens_side) {
    block b = {.tensor = tokens_side ? view->tokens : &view->heads};
    if (tokens_side) {
        heads_of(t, view, other, &b.first_head, &b.end_head);
    } else {
        b.part = da_layout_part(t->layout, other);
        b.end_head = view->heads.shape[2];
    }
    return b;
}

static int64_t rows_of(const transfer *t, int other, bool tokens_side) {
    return da_layout_part(t->layout, tokens_side ? t->rank : other)->length;
}

static size_t message_bytes(const transfer *t, int other, bool tokens_side, bool outputs) {
    size_t bytes = 0;
    for (int k = 0; k < t->count; k++) {
        if (t->views[k].tokens && t->views[k].is_output == outputs) {
            block b = block_of(t, &t->views[k], other, tokens_side);
            bytes += block_bytes(&b, rows_of(t, other, tokens_side));
        }
    }
    return bytes;
}

/* All blocks of a message. */
static void copy_message(const transfer *t, int other, bool tokens_side, bool outputs, char *packed, bool pack) {
    for (int k = 0; k < t->count; k++) {
        if (t->views[k].tokens && t->views[k].is_output == outputs) {
            block b = block_of(t, &t->views[k], other, tokens_side);
            packed = copy_block(&b, rows_of(t, other, tokens_side), packed, pack);
        }
    }
}

/* ---- all to all ---------------------------------------------------------------------------------------------------- */

typedef struct mail {
    char *data;
    size_t bytes;
    da_message message;
} mail;

static da_status allocate_mail(const transfer *t, mail *m, int other, bool tokens_side, bool outputs) {
    m->bytes = message_bytes(t, other, tokens_side, outputs);
    m->data = m->bytes > 0 ? da_allocate(da_context_allocator(t->meeting->context), m->bytes, 1) : NULL;
    return m->data || m->bytes == 0 ? DA_OK : DA_ERROR_OUT_OF_MEMORY;
}

/* One turn's inputs and another's results are under way together; of either, turns are in order. */
static int tag_of(bool outputs) {
    return outputs ? TAG_RESULTS : TAG_HEADS;
}

static da_status receive_mail(const transfer *t, mail *m, int from, bool outputs) {
    da_status status = allocate_mail(t, m, from, outputs, outputs);
    return status == DA_OK && m->data ? da_comm_receive(t->meeting->comm, m->data, m->bytes, from, tag_of(outputs),
                                                        "tokens of heads", &m->message)
                                      : status;
}

static da_status send_mail(const transfer *t, mail *m, int to, bool outputs) {
    da_status status = allocate_mail(t, m, to, !outputs, outputs);
    if (status != DA_OK || !m->data) {
        return status;
    }
    copy_message(t, to, !outputs, outputs, m->data, true);
    return da_comm_send(t->meeting->comm, m->data, m->bytes, to, tag_of(outputs), "tokens of heads", &m->message);
}

/* A message from and to each other rank, of one turn. Inputs go from tokens to heads, outputs from heads to tokens. */
typedef struct exchange {
    transfer t;
    bool outputs;
    mail *incoming, *outgoing; /* [ranks]; one array; NULL: not begun, or ended */
} exchange;

static da_status post_all(const exchange *e) {
    const transfer *t = &e->t;
    int ranks = t->layout->ranks, rank = t->rank;
    da_status status = DA_OK;
    for (int step = 1; step < ranks && status == DA_OK; step++) {
        int from = (rank - step + ranks) % ranks;
        status = receive_mail(t, &e->incoming[from], from, e->outputs);
    }
    for (int step = 1; step < ranks && status == DA_OK; step++) {
        int to = (rank + step) % ranks;
        status = send_mail(t, &e->outgoing[to], to, e->outputs);
    }
    return status;
}

/* What stays with this rank goes by the same packed form. */
static da_status keep_own(const transfer *t, bool outputs) {
    const da_allocator *allocator = da_context_allocator(t->meeting->context);
    int rank = t->rank;
    size_t bytes = message_bytes(t, rank, !outputs, outputs);
    char *packed = bytes > 0 ? da_allocate(allocator, bytes, 1) : NULL;
    if (!packed) {
        return bytes > 0 ? DA_ERROR_OUT_OF_MEMORY : DA_OK;
    }
    copy_message(t, rank, !outputs, outputs, packed, true);
    copy_message(t, rank, outputs, outputs, packed, false);
    da_release(allocator, packed);
    return DA_OK;
}

static void free_mail(const da_meeting *meeting, mail *m) {
    if (da_comm_give_up(meeting->comm, &m->message)) {
        da_release(da_context_allocator(meeting->context), m->data);
    }
}

static da_status begin_exchange(exchange *e, const transfer *t, bool outputs) {
    size_t ranks = (size_t)t->layout->ranks;
    *e = (exchange){.t = *t, .outputs = outputs};
    e->incoming = da_allocate(da_context_allocator(t->meeting->context), 2 * ranks, sizeof *e->incoming);
    if (!e->incoming) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    e->outgoing = e->incoming + ranks;
    memset(e->incoming, 0, 2 * ranks * sizeof *e->incoming);
    return post_all(e);
}

/* Whether or not all has come. */
static void free_exchange(exchange *e) {
    if (e->incoming) {
        for (int k = 0; k < 2 * e->t.layout->ranks; k++) {
            free_mail(e->t.meeting, &e->incoming[k]);
        }
        da_release(da_context_allocator(e->t.meeting->context), e->incoming);
        e->incoming = e->outgoing = NULL;
    }
}

/* Waits until all has come and gone, and puts it where it belongs: into the views of `t`. */
static da_status end_exchange(exchange *e, const transfer *t) {
    const da_comm *comm = t->meeting->comm;
    int ranks = t->layout->ranks;
    da_status status = DA_OK;
    for (int rank = 0; rank < ranks && status == DA_OK; rank++) {
        status = da_comm_wait(comm, &e->incoming[rank].message);
        if (status == DA_OK && e->incoming[rank].data) {
            copy_message(t, rank, e->outputs, e->outputs, e->incoming[rank].data, false);
        }
    }
    for (int rank = 0; rank < ranks && status == DA_OK; rank++) {
        status = da_comm_wait(comm, &e->outgoing[rank].message);
    }
    free_exchange(e);
    return status;
}

static da_moving moving(const exchange *e) {
    if (!e->incoming) {
        return (da_moving){0};
    }
    return (da_moving){.first = &e->incoming->message, .stride = sizeof *e->incoming, .count = 2 * e->t.layout->ranks};
}

/* ---- sizes --------------------------------------------------------------------------------------------------------- */

/* Tensors that a pass has, without data. */
typedef struct shapes {
    da_tensor queries, keys, lse;
} shapes;

static shapes shapes_of(const da_problem *p, int64_t rows) {
    return (shapes){.queries = da_tensor_make(NULL, p->dtype, p->batch, rows, p->heads, p->head_dim),
                    .keys = da_tensor_make(NULL, p->dtype, p->batch, rows, p->kv_heads, p->head_dim),
                    .lse = da_tensor_make(NULL, DA_F64, p->batch, rows, p->heads, 1)};
}

static void describe_views(transfer *t, const shapes *s, da_pass pass) {
    const da_tensor *inputs[] = {&s->queries, &s->keys, &s->keys, &s->queries, &s->lse, &s->queries};
    const da_tensor *forward_outputs[] = {&s->queries, &s->lse}, *gradients[] = {&s->queries, &s->keys, &s->keys};
    bool forward = pass == DA_PASS_FORWARD;
    for (int k = 0; k < (forward ? 3 : 6); k++) { /* then out, its logsumexp, and its gradient */
        add_view(t, inputs[k], false);
    }
    for (int k = 0; k < (forward ? 2 : 3); k++) {
        add_view(t, forward ? forward_outputs[k] : gradients[k], true);
    }
}

/* Rows of a message; those of the logsumexp, one number each, are not among them. */
static int64_t message_rows(const transfer *t, const da_tensor *lse, int other, bool tokens_side, bool outputs) {
    int64_t rows = 0;
    for (int k = 0; k < t->count; k++) {
        if (t->views[k].tokens != lse && t->views[k].is_output == outputs) {
            block b = block_of(t, &t->views[k], other, tokens_side);
            rows += b.tensor->shape[0] * rows_of(t, other, tokens_side) * (b.end_head - b.first_head);
        }
    }
    return rows;
}

/* Inputs go from the side of tokens, outputs come to it. */
static da_exchange exchange_of(const transfer *t, const da_tensor *lse, bool outputs) {
    da_exchange e = {0};
    for (int other = 0; other < t->layout->ranks; other++) {
        size_t in = message_bytes(t, other, outputs, outputs), out = message_bytes(t, other, !outputs, outputs);
        if (other != t->rank) {
            e.messages_in += in > 0;
            e.messages_out += out > 0;
            e.rows_in += message_rows(t, lse, other, outputs, outputs);
            e.rows_out += message_rows(t, lse, other, !outputs, outputs);
            e.bytes_in += (double)in;
            e.bytes_out += (double)out;
        }
    }
    return e;
}

/* All messages are held together. */
static double exchange_memory(const transfer *t, bool outputs) {
    double bytes = (double)da_allocated_bytes(2 * (size_t)t->layout->ranks * sizeof(mail));
    for (int other = 0; other < t->layout->ranks; other++) {
        if (other != t->rank) {
            bytes += (double)da_allocated_bytes(message_bytes(t, other, !outputs, outputs));
            bytes += (double)da_allocated_bytes(message_bytes(t, other, outputs, outputs));
        }
    }
    return bytes;
}

da_heads_sizes da_heads_size(const da_layout *layout, const da_problem *problem, da_pass pass, int rank, int turn) {
    transfer all = {.layout = layout, .rank = rank, .kv_heads = problem->kv_heads};
    shapes s = shapes_of(problem, da_layout_part(layout, rank)->length);
    da_heads_sizes sizes = {0};
    describe_views(&all, &s, pass);
    transfer t = in_turn(&all, turn);
    for (int k = 0; k < t.count; k++) {
        sizes.tensors += (double)da_allocated_bytes(view_bytes(&t.views[k]));
    }
    sizes.inputs = exchange_of(&t, &s.lse, false);
    sizes.outputs = exchange_of(&t, &s.lse, true);
    sizes.inputs_memory = exchange_memory(&t, false);
    sizes.outputs_memory = exchange_memory(&t, true);
    sizes.own_inputs = (double)da_allocated_bytes(message_bytes(&t, rank, true, false));
    sizes.own_outputs = (double)da_allocated_bytes(message_bytes(&t, rank, false, true));
    return sizes;
}

/* ---- turns --------------------------------------------------------------------------------------------------------- */

typedef struct course {
    const transfer *all;
    int64_t query_heads;
    da_status (*run)(const transfer *t, const da_head_range *heads, const da_call_options *options, const void *call);
    const void *call;
    transfer now;             /* the turn that is computed */
    exchange inputs, results; /* of the next turn, and of the last one */
} course;

/* The turns have come as far as the `turn`-th's inputs; those of the next are sent on their way. */
static da_status take_inputs(course *c, int turn, int turns) {
    c->now = c->inputs.t;
    da_status status = allocate_views(&c->now);
    if (status == DA_OK) {
        status = keep_own(&c->now, false);
    }
    if (status == DA_OK) {
        status = end_exchange(&c->inputs, &c->now);
    }
    if (status == DA_OK && turn + 1 < turns) {
        transfer next = in_turn(c->all, turn + 1);
        status = begin_exchange(&c->inputs, &next, false);
    }
    return status;
}

/* This rank's heads of the turn, of which there may be none, while the next one's inputs and the last one's results
 * travel. */
static da_status compute_turn(course *c, int turn, int turns) {
    const transfer *t = &c->now;
    int64_t first, end, group = c->query_heads / t->kv_heads;
    da_heads_of_turn(t->kv_heads, t->layout->ranks, t->rank, turn, &first, &end);
    if (first == end) {
        return DA_OK;
    }
    const da_head_range range = {.first = first * group, .end = end * group, .all = c->query_heads};
    da_mover m = {.meeting = t->meeting,
                  .moving = {moving(&c->inputs), moving(&c->results)},
                  .step = turn,
                  .steps = turns,
                  .directions = 1};
    const da_call_options options = da_mover_options(&m);
    return da_mover_end(&m, c->run(t, &range, &options, c->call));
}

static da_status give_results(course *c) {
    da_status status = c->results.incoming ? end_exchange(&c->results, &c->results.t) : DA_OK;
    if (status == DA_OK) {
        status = begin_exchange(&c->results, &c->now, true);
    }
    return status == DA_OK ? keep_own(&c->now, true) : status;
}

static da_status run_turn(course *c, int turn, int turns) {
    da_status status = take_inputs(c, turn, turns);
    if (status == DA_OK) {
        status = compute_turn(c, turn, turns);
    }
    if (status == DA_OK) {
        status = give_results(c);
    }
    free_views(&c->now);
    return status;
}

static da_status run_turns(course *c) {
    int turns = da_heads_turns(c->all->kv_heads, c->all->layout->ranks);
    transfer first = in_turn(c->all, 0);
    da_status status = begin_exchange(&c->inputs, &first, false);
    for (int turn = 0; turn < turns && status == DA_OK; turn++) {
        status = run_turn(c, turn, turns);
    }
    if (status == DA_OK) {
        status = end_exchange(&c->results, &c->results.t);
    }
    free_exchange(&c->inputs);
    free_exchange(&c->results);
    return status;
}

/* ---- passes -------------------------------------------------------------------------------------------------------- */

static void add_views(transfer *t, const da_tensor *const *inputs, int input_count, const da_tensor *const *outputs,
                      int output_count) {
    for (int k = 0; k < input_count; k++) {
        add_view(t, inputs[k], false);
    }
    for (int k = 0; k < output_count; k++) {
        add_view(t, outputs[k], true);
    }
}

static da_status forward_turn(const transfer *t, const da_head_range *heads, const da_call_options *options,
                              const void *call) {
    da_forward_call ours = *(const da_forward_call *)call;
    ours.query = view_of_heads(t, 0);
    ours.key = view_of_heads(t, 1);
    ours.value = view_of_heads(t, 2);
    ours.out = view_of_heads(t, 3);
    ours.lse = view_of_heads(t, 4);
    ours.options = options;
    return da_improved_forward_heads(&ours, heads);
}

da_status da_heads_forward(const da_meeting *meeting, const da_forward_call *call) {
    transfer t = begin_transfer(meeting, call->key);
    const da_tensor *inputs[] = {call->query, call->key, call->value}, *outputs[] = {call->out, call->lse};
    add_views(&t, inputs, 3, outputs, 2);
    course c = {.all = &t, .query_heads = call->query->shape[2], .run = forward_turn, .call = call};
    return run_turns(&c);
}

static da_status backward_turn(const transfer *t, const da_head_range *heads, const da_call_options *options,
                               const void *call) {
    da_backward_call ours = *(const da_backward_call *)call;
    const da_backward_tensors of_heads = {.size = ours.tensors->size,
                                          .query = view_of_heads(t, 0),
                                          .key = view_of_heads(t, 1),
                                          .value = view_of_heads(t, 2),
                                          .out = view_of_heads(t, 3),
                                          .lse = view_of_heads(t, 4),
                                          .grad_out = view_of_heads(t, 5),
                                          .grad_lse = view_of_heads(t, 6),
                                          .grad_query = view_of_heads(t, 7),
                                          .grad_key = view_of_heads(t, 8),
                                          .grad_value = view_of_heads(t, 9)};
    ours.tensors = &of_heads;
    ours.options = options;
    return da_improved_backward_heads(&ours, heads);
}

da_status da_heads_backward(const da_meeting *meeting, const da_backward_call *call) {
    const da_backward_tensors *b = call->tensors;
    transfer t = begin_transfer(meeting, b->key);
    const da_tensor *inputs[] = {b->query, b->key, b->value, b->out, b->lse, b->grad_out, b->grad_lse};
    const da_tensor *outputs[] = {b->grad_query, b->grad_key, b->grad_value};
    add_views(&t, inputs, 7, outputs, 3);
    course c = {.all = &t, .query_heads = b->query->shape[2], .run = backward_turn, .call = call};
    return run_turns(&c);
}
