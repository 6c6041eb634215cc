#include "blocks.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attention/ring/stream.h"
#include "clock.h"
#include "core/mapped_file.h"
#include "core/tensor.h"
#include "interrupt.h"
#include "output.h"
#include "resident.h"

/* Tokens to whose multiples a block is rounded, and that it has at least, where --memory chooses it. */
#define STEP 1024
/* However much memory there is, a run has boundaries to stop at, of blocks at least so long. */
#define PARTS 8
#define LONG_BLOCK 65536
/* What the program itself comes to touch beyond what is resident when it begins: code of kernels, the stacks of threads. */
#define PROGRAM_BYTES ((size_t)4 << 20)
#define THREAD_BYTES ((size_t)256 << 10)
/* What is resident when a program begins differs from run to run, with what of its files the system has at hand. A block that
 * --memory chooses does not depend on it, so that runs of one command have the same block and can be resumed. */
#define BEGINNING_BYTES ((size_t)16 << 20)
#define SECONDS_BETWEEN_SAVES 5.0

/* ---- options ----------------------------------------------------------------------------------------------------- */

/* Bytes, with K, M, G or T behind them for powers of 1024. */
static bool read_bytes(const cli_option *option, const char *text, char *allowed, size_t allowed_size) {
    static const char units[] = "KMGT";
    char digits[32];
    size_t length = strlen(text);
    const char *unit = length > 0 ? strchr(units, text[length - 1]) : NULL;
    int shift = unit != NULL ? 10 * (int)(unit - units + 1) : 0;
    int64_t number;
    cli_option plain = *option;
    plain.target = &number;
    plain.maximum = option->maximum >> shift;
    snprintf(digits, sizeof(digits), "%.*s", (int)(unit != NULL ? length - 1 : length), text);
    if (length >= sizeof(digits) || !cli_read_integer(&plain, digits, allowed, allowed_size)) {
        snprintf(allowed, allowed_size, "is not a number of bytes from 1 on, such as 536870912, 512M or 2G");
        return false;
    }
    *(int64_t *)option->target = number << shift;
    return true;
}

void blocks_options(blocks_wish *wish, cli_option table[BLOCKS_OPTION_COUNT]) {
    const cli_option options[BLOCKS_OPTION_COUNT] = {
        {"block", "N", "tokens of a block: only one block of queries and one of keys\nare in memory at a time",
         cli_read_integer, &wish->block, 1, INT64_MAX},
        {"memory", "BYTES", "chooses the block so that the program stays below, such as 512M", read_bytes,
         &wish->memory, 1, INT64_MAX},
        {"resume", NULL, "go on with what a run left that was stopped: OUT.partial", cli_read_flag, &wish->resume, 0,
         0},
    };
    memcpy(table, options, sizeof(options));
}

/* ---- tensors in memory ------------------------------------------------------------------------------------------- */

/* A tensor of a file, of any type. Strides of files are positive. */
typedef struct file_view {
    const char *data;
    const int64_t *shape, *stride; /* batch, n, heads, head dim */
    size_t element;
} file_view;

static file_view view_of(const da_tensor *tensor) {
    return (file_view){tensor->data, tensor->shape, tensor->stride, da_dtype_size(tensor->dtype)};
}

/* The memory of some rows: `count` stretches of so many bytes, one for each step along the axes that stride farther. */
typedef struct stretches {
    int64_t count;
    int outer[3], outer_count;
    size_t bytes;
} stretches;

static stretches stretches_of(const file_view *view, int64_t rows) {
    static const int axes[] = {0, 2, 3};
    stretches s = {.count = 1};
    int64_t elements = (rows - 1) * view->stride[1] + 1;
    for (size_t k = 0; k < CLI_COUNT(axes); k++) {
        int axis = axes[k];
        if (view->shape[axis] > 1 && view->stride[axis] > view->stride[1]) {
            s.outer[s.outer_count++] = axis;
            s.count *= view->shape[axis];
        } else {
            elements += (view->shape[axis] - 1) * view->stride[axis];
        }
    }
    s.bytes = (size_t)elements * view->element;
    return s;
}

/* Lets the pages of rows go. */
static void let_rows_go(const da_mapping *mapping, file_view view, int64_t first, int64_t end) {
    stretches s = stretches_of(&view, end - first);
    for (int64_t index = 0; index < s.count; index++) {
        int64_t rest = index, offset = first * view.stride[1];
        for (int k = 0; k < s.outer_count; k++) {
            offset += rest % view.shape[s.outer[k]] * view.stride[s.outer[k]];
            rest /= view.shape[s.outer[k]];
        }
        da_mapping_let_go(mapping, view.data + offset * (int64_t)view.element, s.bytes);
    }
}

/* A mask has a byte for each key, and its shape is that of two axes of the query. */
static void let_mask_go(const blocks *b, int64_t first, int64_t end) {
    const int64_t shape[4] = {b->problem->batch, b->problem->n, 1, 1};
    const int64_t stride[4] = {b->mask->stride[0], b->mask->stride[1], 1, 1};
    if (b->mask->file.data != NULL) {
        let_rows_go(&b->mask->file.mapping, (file_view){b->mask->file.data, shape, stride, 1}, first, end);
    }
}

static void on_release(const da_tensor *tensor, int64_t first, int64_t end, void *user) {
    const blocks *b = user;
    const loaded_tensor *inputs[] = {b->q, b->k, b->v};
    for (size_t k = 0; k < CLI_COUNT(inputs); k++) {
        if (tensor == &inputs[k]->view && inputs[k]->converted == NULL) {
            let_rows_go(&inputs[k]->file.mapping, view_of(tensor), first, end);
        }
    }
    if (tensor == &b->k->view) {
        let_mask_go(b, first, end);
    } else if (tensor == &b->written->out) {
        let_rows_go(&b->written->writers[0].file.mapping, view_of(tensor), first, end);
    } else if (tensor == &b->written->lse) {
        let_rows_go(&b->written->writers[1].file.mapping, view_of(tensor), first, end);
    }
}

/* ---- how large a block is ---------------------------------------------------------------------------------------- */

/* Of so many rows, with what the system maps around them. */
static size_t resident_of(file_view view, int64_t rows) {
    stretches s = stretches_of(&view, rows), all = stretches_of(&view, view.shape[1]);
    size_t part = (size_t)s.count * (s.bytes + 2 * DA_MAPPED_AROUND), whole = (size_t)all.count * all.bytes;
    return part < whole ? part : whole;
}

/* All that is resident, at most, with blocks of so many tokens, beyond what is when the run begins: that and copies of another
 * type. */
static size_t bytes_with(const blocks *b, bool has_lse, int64_t block) {
    const da_problem *p = b->problem;
    const loaded_tensor *inputs[] = {b->q, b->k, b->v};
    size_t bytes = PROGRAM_BYTES;
    bytes += (size_t)da_context_threads(b->context) * THREAD_BYTES;
    bytes += da_stream_forward_bytes(b->context, b->config, p, block);
    for (size_t k = 0; k < CLI_COUNT(inputs); k++) {
        bytes += inputs[k]->converted == NULL ? resident_of(view_of(&inputs[k]->view), block) : 0;
    }
    bytes += resident_of(view_of(&b->q->view), block); /* the output, which is like the query */
    if (has_lse) {
        file_view q = view_of(&b->q->view);
        bytes += (size_t)(p->batch * p->heads * block) * sizeof(double);
        bytes += (size_t)stretches_of(&q, block).count * 2 * DA_MAPPED_AROUND;
    }
    if (b->mask->file.data != NULL) {
        int64_t stride = b->mask->stride[1] > 0 ? b->mask->stride[1] : 1;
        bytes += (size_t)p->batch * ((size_t)(block * stride) + 2 * DA_MAPPED_AROUND);
    }
    return bytes;
}

static int check_memory(const blocks *b, const blocks_wish *wish, bool has_lse, int64_t block) {
    char given[CLI_BYTES_TEXT], least[CLI_BYTES_TEXT], tokens[CLI_GROUPED_TEXT];
    size_t known = resident_now(), peak = resident_peak();
    size_t needed = bytes_with(b, has_lse, block) + (known > 0 ? known : BEGINNING_BYTES);
    needed = needed > peak ? needed : peak; /* by converting inputs */
    if (wish->memory == 0 || needed <= (size_t)wish->memory) {
        return CLI_CONTINUE;
    }
    return cli_fail(
        b->command,
        "--memory: %s is too little: with blocks of %s tokens the program may need %s; allowed: that or more",
        cli_bytes((double)wish->memory, given), cli_grouped(block, tokens), cli_bytes((double)needed, least));
}

int blocks_choose(const blocks *b, const blocks_wish *wish, bool has_lse, int64_t *block) {
    int64_t n = b->problem->n, most = n / PARTS > LONG_BLOCK ? n / PARTS : LONG_BLOCK;
    if (wish->block > 0) {
        *block = wish->block < n ? wish->block : n;
        return check_memory(b, wish, has_lse, *block);
    }
    size_t begins_with = BEGINNING_BYTES + b->q->converted_bytes + b->k->converted_bytes + b->v->converted_bytes;
    int64_t fits = 1, too_many = most / STEP + 1; /* in steps */
    while (wish->memory > 0 && fits + 1 < too_many) {
        int64_t middle = fits + (too_many - fits) / 2;
        bool is_within = begins_with + bytes_with(b, has_lse, middle * STEP) <= (size_t)wish->memory;
        *(is_within ? &fits : &too_many) = middle;
    }
    *block = fits * STEP < n ? fits * STEP : n;
    return check_memory(b, wish, has_lse, *block);
}

int blocks_check_resumed(const blocks *b, const blocks_wish *wish, bool has_lse) {
    if (wish->block > 0 && wish->block != b->state.block) {
        return cli_usage(b->command, "--block: %" PRId64 " is not %" PRId64 ", the block of the run that is resumed",
                         wish->block, b->state.block);
    }
    return check_memory(b, wish, has_lse, b->state.block);
}

/* ---- block by block ---------------------------------------------------------------------------------------------- */

/* The progress of a call for one block, as a part of the whole. */
typedef struct block_progress {
    da_progress report;
    void *user;
    int64_t first, tokens, n;
} block_progress;

static bool on_progress(int64_t finished, int64_t total, void *user) {
    const block_progress *block = user;
    double part = (double)block->tokens * (double)finished / (double)total;
    return block->report(block->first + (int64_t)part, block->n, block->user);
}

/* After a block; between the first and the last one now and then, since the disk is waited for. */
static int save_if_due(blocks *b, int64_t finished, double *saved_at) {
    if (finished < b->problem->n && cli_now() - *saved_at < SECONDS_BETWEEN_SAVES) {
        return CLI_CONTINUE;
    }
    int code = partial_save(&b->state, b->command, b->written, finished);
    *saved_at = cli_now();
    return code;
}

static int stop(blocks *b, da_status status, int64_t finished) {
    char message[1024], done[CLI_GROUPED_TEXT], all[CLI_GROUPED_TEXT];
    snprintf(message, sizeof(message), "%s", da_last_error_message());
    if (finished > 0 && partial_save(&b->state, b->command, b->written, finished) != CLI_CONTINUE) {
        return CLI_FAILED;
    }
    const char *what = status == DA_ERROR_CANCELLED ? "interrupted" : message;
    if (finished > 0) {
        cli_fail(b->command, "%s; %s of %s tokens are in %s, and --resume goes on with it", what,
                 cli_grouped(finished, done), cli_grouped(b->problem->n, all), b->written->writers[0].file.temporary);
    } else {
        cli_fail(b->command, "%s; nothing was written", what);
    }
    return status == DA_ERROR_CANCELLED ? 128 + interrupt_signal() : CLI_FAILED;
}

int blocks_run(blocks *b, da_call_options *forward) {
    int64_t n = b->problem->n, finished = b->state.finished;
    block_progress progress = {forward->progress, forward->progress_user, 0, 0, n};
    double saved_at = cli_now();
    int code = CLI_CONTINUE;
    b->resumed_from = finished;
    b->workspace = da_stream_forward_bytes(b->context, b->config, b->problem, b->state.block);
    forward->block = b->state.block;
    forward->release = on_release;
    forward->release_user = b;
    forward->progress = on_progress;
    forward->progress_user = &progress;
    while (finished < n && code == CLI_CONTINUE) {
        forward->query_first = progress.first = finished;
        forward->query_end = n - finished < b->state.block ? n : finished + b->state.block;
        progress.tokens = forward->query_end - finished;
        da_status status = da_attention_forward(b->attention, &b->q->view, &b->k->view, &b->v->view, &b->written->out,
                                                b->written->has_lse ? &b->written->lse : NULL, forward);
        if (status != DA_OK) {
            return stop(b, status, finished);
        }
        finished = forward->query_end;
        code = save_if_due(b, finished, &saved_at);
    }
    return code;
}
