#include "attention/ring/stream.h"

#include <string.h>

#include "attention/improved/passes.h"
#include "attention/workspace.h"
#include "core/memory.h"
#include "pattern/pattern.h"

#define REPORTS 200 /* of progress, at most */

/* Tensors whose rows are let go of: of a direction's rows, or of its columns. NULL: there is none. */
#define MOST_TENSORS 8

/* The user's progress: so many of all rows, counted once in each direction. */
typedef struct progress_so_far {
    da_progress report; /* or NULL */
    void *user;
    int64_t total, reported;
    /* Of the pair at hand: rows done before it, and rows that it stands for, as far as one can say. */
    double rows_before, rows_of_pair;
} progress_so_far;

/* One direction of a pass: what all its blocks share. */
typedef struct stream {
    const da_context *context;
    const da_attention_config *config;
    const da_call_options *options; /* the user's */
    da_call_options of_pair;        /* for each scope */
    int64_t n, heads, block;
    int64_t rows_first, rows_end;
    bool rows_are_keys;
    da_scope whole; /* all columns, with the sources */
    const da_tensor *row_tensors[MOST_TENSORS], *column_tensors[MOST_TENSORS];
    da_carry carry;
    progress_so_far progress;
    da_status (*run)(const void *call, const da_scope *scope);
    const void *call; /* with the options of_pair */
} stream;

/* ---- progress ---------------------------------------------------------------------------------------------------- */

/* The progress of one scope, as part of the whole. */
static bool report_pair(int64_t finished, int64_t total, void *user) {
    progress_so_far *progress = user;
    double rows = progress->rows_before + progress->rows_of_pair * (double)finished / (double)total;
    int64_t so_far = (int64_t)rows;
    if (so_far >= progress->total || so_far - progress->reported < progress->total / REPORTS + 1) {
        return true;
    }
    progress->reported = so_far;
    return progress->report(so_far, progress->total, progress->user);
}

static void begin_progress(progress_so_far *progress, const da_call_options *options, int64_t total,
                           da_call_options *of_pair) {
    *progress = (progress_so_far){.report = options->progress, .user = options->progress_user, .total = total};
    of_pair->progress = options->progress ? report_pair : NULL;
    of_pair->progress_user = progress;
}

static da_status end_progress(const progress_so_far *progress) {
    if (!progress->report || progress->total == 0 ||
        progress->report(progress->total, progress->total, progress->user)) {
        return DA_OK;
    }
    return da_report(DA_ERROR_CANCELLED, "the call was cancelled: its progress callback returned false");
}

/* ---- which blocks meet ------------------------------------------------------------------------------------------- */

typedef struct range {
    int64_t first, end;
} range;

static range block_at(const stream *s, int64_t index) {
    int64_t first = index * s->block;
    return (range){first, s->n - first < s->block ? s->n : first + s->block};
}

static bool meet(const stream *s, range rows, range columns) {
    for (int64_t head = 0; head < s->heads; head++) {
        da_head_patterns patterns;
        da_head_patterns_init(&patterns, s->config, s->n, s->heads, head);
        if (s->rows_are_keys ? da_ranges_meet(&patterns, columns.first, columns.end, rows.first, rows.end)
                             : da_ranges_meet(&patterns, rows.first, rows.end, columns.first, columns.end)) {
            return true;
        }
    }
    return false;
}

/* The blocks of columns that hold all the segments of some rows: first..end-1. */
static range blocks_around(const stream *s, range rows) {
    int64_t first = rows.first, end = rows.end;
    for (size_t p = 0; p < s->config->segment_count; p++) {
        int64_t segment = s->config->segment_lengths[p] < s->n ? s->config->segment_lengths[p] : s->n;
        int64_t segment_first = rows.first - rows.first % segment, last_first = (rows.end - 1) / segment * segment;
        int64_t segment_end = segment < s->n - last_first ? last_first + segment : s->n;
        first = segment_first < first ? segment_first : first;
        end = segment_end > end ? segment_end : end;
    }
    return (range){first / s->block, (end - 1) / s->block + 1};
}

/* The next block of columns from `index` on that the rows meet; `end` if there is none. */
static int64_t next_meeting(const stream *s, range rows, int64_t index, int64_t end) {
    while (index < end && !meet(s, rows, block_at(s, index))) {
        index++;
    }
    return index;
}

/* ---- the blocks -------------------------------------------------------------------------------------------------- */

static void release_rows(const stream *s, const da_tensor *const tensors[MOST_TENSORS], range rows) {
    for (int k = 0; k < MOST_TENSORS && s->options->release; k++) {
        if (tensors[k]) {
            s->options->release(tensors[k], rows.first, rows.end, s->options->release_user);
        }
    }
}

/* A block of rows against the blocks of columns that it meets: its own at least. */
static da_status run_rows(stream *s, range rows) {
    const range around = blocks_around(s, rows);
    const da_piece piece = {rows.first, rows.end, rows.first};
    const da_part part = {rows.end - rows.first, 1, &piece};
    const double share = (double)(rows.end - rows.first) / (double)(around.end - around.first);
    const double rows_before = s->progress.rows_before;
    da_status status = DA_OK;
    s->carry.begins = true;
    s->carry.ends = false;
    for (int64_t at = next_meeting(s, rows, around.first, around.end); at < around.end && status == DA_OK;) {
        int64_t next = next_meeting(s, rows, at + 1, around.end);
        range columns = block_at(s, at);
        da_scope scope = s->whole;
        s->carry.ends = next == around.end;
        scope.rows = &part;
        scope.columns_first = columns.first;
        scope.columns_end = columns.end;
        scope.carry = s->carry.begins && s->carry.ends ? NULL : &s->carry;
        s->progress.rows_before = rows_before + share * (double)(at - around.first);
        s->progress.rows_of_pair = share * (double)(next - at);
        status = s->run(s->call, &scope);
        release_rows(s, s->column_tensors, columns);
        s->carry.begins = false;
        at = next;
    }
    release_rows(s, s->row_tensors, rows);
    s->progress.rows_before = rows_before + (double)(rows.end - rows.first);
    return status;
}

/* All blocks of rows. carry_bytes: for a block. */
static da_status run_stream(stream *s, size_t carry_bytes) {
    const da_allocator *allocator = da_context_allocator(s->context);
    bool carries = s->block < s->n;
    s->carry.memory = carries ? da_allocate(allocator, carry_bytes, 1) : NULL;
    if (carries && !s->carry.memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    da_status status = DA_OK;
    for (int64_t first = s->rows_first; first < s->rows_end && status == DA_OK;) {
        range rows = {first, block_at(s, first / s->block).end};
        rows.end = rows.end < s->rows_end ? rows.end : s->rows_end;
        status = run_rows(s, rows);
        first = rows.end;
    }
    da_release(allocator, s->carry.memory);
    return status;
}

/* All rows, and blocks as the options say; for tensors of so many tokens and query heads. */
static stream begin_stream(const da_context *context, const da_attention_config *config, const da_call_options *options,
                           const da_tensor *query) {
    int64_t n = query->shape[1], block = options->block > 0 ? options->block : DA_STREAM_BLOCK;
    return (stream){.context = context,
                    .config = config,
                    .options = options,
                    .of_pair = *options,
                    .n = n,
                    .heads = query->shape[2],
                    .block = block < n ? block : n,
                    .rows_end = n};
}

/* ---- forward ----------------------------------------------------------------------------------------------------- */

static da_status run_forward(const void *call, const da_scope *scope) {
    return da_improved_forward_scope(call, scope);
}

da_status da_stream_forward(const da_forward_call *call) {
    stream s = begin_stream(call->context, call->config, call->options, call->query);
    da_forward_call of_pair = *call;
    da_whole whole;
    da_problem problem;
    da_problem_of_tensors(call->query, call->key, &problem);
    problem.n = s.block;
    if (call->options->query_end != 0) {
        s.rows_first = call->options->query_first;
        s.rows_end = call->options->query_end;
    }
    const da_head_range heads = da_all_heads(call->query);
    s.whole = *da_scope_whole(&whole, s.n, &heads, call->key, call->value);
    s.row_tensors[0] = call->query;
    s.row_tensors[1] = call->out;
    s.row_tensors[2] = call->lse;
    s.column_tensors[0] = call->key;
    s.column_tensors[1] = call->value;
    s.run = run_forward;
    s.call = &of_pair;
    of_pair.options = &s.of_pair;
    begin_progress(&s.progress, call->options, s.rows_end - s.rows_first, &s.of_pair);
    da_status status = run_stream(&s, da_improved_forward_carry(call->context, call->dropout > 0, &problem));
    return status == DA_OK ? end_progress(&s.progress) : status;
}

size_t da_stream_forward_bytes(const da_context *context, const da_attention_config *config, const da_problem *problem,
                               int64_t block) {
    da_problem of_block = *problem;
    bool carries = block < problem->n;
    of_block.n = carries ? block : problem->n;
    size_t carry = carries ? da_improved_forward_carry(context, config->dropout > 0, &of_block) : 0;
    return da_improved_workspace(context, config, &of_block, NULL) + carry;
}

/* ---- backward ---------------------------------------------------------------------------------------------------- */

static da_status run_backward(const void *call, const da_scope *scope) {
    return da_improved_backward_scope(call, scope);
}

/* What both directions share. Their calls differ in the gradients that they want. */
static void begin_backward(stream *s, const da_backward_call *call, da_backward_call *of_pair,
                           da_backward_tensors *tensors) {
    *tensors = *call->tensors;
    *of_pair = *call;
    of_pair->tensors = tensors;
    of_pair->options = &s->of_pair;
    s->run = run_backward;
    s->call = of_pair;
    memset(s->row_tensors, 0, sizeof s->row_tensors);
    memset(s->column_tensors, 0, sizeof s->column_tensors);
}

/* Inputs; outputs come after them in the list of rows. */
static void list_query_tensors(const da_backward_tensors *t, const da_tensor *list[MOST_TENSORS]) {
    list[0] = t->query;
    list[1] = t->grad_out;
    list[2] = t->out;
    list[3] = t->lse;
    list[4] = t->grad_lse;
}

static void list_key_tensors(const da_backward_tensors *t, const da_tensor *list[MOST_TENSORS]) {
    list[0] = t->key;
    list[1] = t->value;
}

/* The gradient of queries, which are the rows. */
static da_status stream_queries(stream *s, const da_backward_call *call, const da_problem *problem) {
    da_backward_call of_pair;
    da_backward_tensors tensors;
    da_whole whole;
    begin_backward(s, call, &of_pair, &tensors);
    tensors.grad_key = tensors.grad_value = NULL;
    s->rows_are_keys = false;
    const da_head_range heads = da_all_heads(tensors.query);
    s->whole = *da_scope_whole(&whole, s->n, &heads, tensors.key, tensors.value);
    list_query_tensors(&tensors, s->row_tensors);
    s->row_tensors[MOST_TENSORS - 1] = tensors.grad_query;
    list_key_tensors(&tensors, s->column_tensors);
    return run_stream(s, da_improved_backward_carry(call->context, call->dropout > 0, problem, problem->heads));
}

/* The gradients of keys and values, which are the rows. */
static da_status stream_keys(stream *s, const da_backward_call *call, const da_problem *problem) {
    da_backward_call of_pair;
    da_backward_tensors tensors;
    da_whole whole;
    begin_backward(s, call, &of_pair, &tensors);
    tensors.grad_query = NULL;
    s->rows_are_keys = true;
    const da_head_range heads = da_all_heads(tensors.query);
    s->whole = *da_scope_whole(&whole, s->n, &heads, tensors.query, tensors.grad_out);
    list_key_tensors(&tensors, s->row_tensors);
    s->row_tensors[MOST_TENSORS - 2] = tensors.grad_key;
    s->row_tensors[MOST_TENSORS - 1] = tensors.grad_value;
    list_query_tensors(&tensors, s->column_tensors);
    return run_stream(s, 2 * da_improved_backward_carry(call->context, call->dropout > 0, problem, problem->kv_heads));
}

da_status da_stream_backward(const da_backward_call *call) {
    const da_backward_tensors *t = call->tensors;
    stream s = begin_stream(call->context, call->config, call->options, t->query);
    bool wants_keys = t->grad_key || t->grad_value;
    da_problem problem;
    da_status status = DA_OK;
    da_problem_of_tensors(t->query, t->key, &problem);
    problem.n = s.block;
    begin_progress(&s.progress, call->options, s.n * ((t->grad_query != NULL) + wants_keys), &s.of_pair);
    if (t->grad_query) {
        status = stream_queries(&s, call, &problem);
    }
    if (wants_keys && status == DA_OK) {
        status = stream_keys(&s, call, &problem);
    }
    return status == DA_OK ? end_progress(&s.progress) : status;
}
