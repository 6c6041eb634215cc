#include "support/ranked.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "support/ranks.h"

enum { MAX_RANKS = RANKED_MERGES + 1, TENSORS = 10 };

static const double TIMEOUT = 120; /* long enough for a sanitizer on a busy machine */

/* How a call is cut. */
typedef struct cutting {
    da_attention_config config;
    int ranks, threads;
    int64_t n;
    int64_t first[MAX_RANKS + 1]; /* of contiguous parts */
} cutting;

/* A tensor of a call, and whether the call writes it. */
typedef struct part_of {
    const da_tensor *whole; /* or NULL */
    bool is_output;
    da_tensor part;
} part_of;

/* One rank's share of a call: either a forward call or a backward call. */
typedef struct rank_call {
    const cutting *cut;
    const char *implementation;
    const da_forward_call *forward;
    const da_backward_call *backward;
    int rank;
    const da_comm *comm;
    part_of tensors[TENSORS];
    int64_t length;
    uint8_t *mask;
    da_status status;
    char message[256];
} rank_call;

/* ---- cutting ----------------------------------------------------------------------------------------------------- */

/* All that a call is cut by follows from its size, so that a repeated call is cut alike. */
static void cut_call(cutting *cut, const da_context *context, const da_attention_config *config,
                     const da_tensor *query) {
    static const int ranks[] = {1, 2, 3, 4, MAX_RANKS};
    static const int64_t stripes[] = {1, 5, 64, 0};
    uint64_t mixed = (uint64_t)(query->shape[1] * 2654435761 + query->shape[2] * 40503 + query->shape[3] * 9973 +
                                (int64_t)config->segment_lengths[0] * 31 + (int64_t)config->dilation_rates[0]);
    mixed ^= mixed >> 15;
    cut->config = *config;
    cut->config.partition = (da_partition)(mixed / 5 % 3);
    cut->config.split = (da_split)(mixed / 60 % 3);
    cut->config.stripe = stripes[mixed / 15 % 4];
    cut->ranks = ranks_given() > 0 ? ranks_given() : ranks[mixed % 5];
    cut->threads = da_context_threads(context) > 1 ? 2 : 1;
    cut->n = query->shape[1];
    cut->first[0] = 0;
    for (int r = 0; r < cut->ranks; r++) { /* uneven, some empty */
        int64_t left = cut->n - cut->first[r], share = (int64_t)(mixed >> (r + 3) & 7) * left / 7;
        cut->first[r + 1] = r == cut->ranks - 1 ? cut->n : cut->first[r] + share;
    }
}

static int64_t length_of(const cutting *cut, int rank) {
    int64_t length = cut->first[rank + 1] - cut->first[rank];
    if (cut->config.partition != DA_PARTITION_CONTIGUOUS) {
        assert_int_equal(
            da_partition_length(cut->config.partition, cut->config.stripe, cut->n, cut->ranks, rank, &length), DA_OK);
    }
    return length;
}

static int64_t position_of(const cutting *cut, int rank, int64_t row) {
    int64_t position = cut->first[rank] + row;
    if (cut->config.partition != DA_PARTITION_CONTIGUOUS) {
        assert_int_equal(
            da_partition_position(cut->config.partition, cut->config.stripe, cut->n, cut->ranks, rank, row, &position),
            DA_OK);
    }
    return position;
}

/* Copies the rows of a part, in either direction. */
static void copy_rows(const rank_call *call, const part_of *tensor, bool into_part) {
    const da_tensor *whole = tensor->whole, *part = &tensor->part;
    size_t size = da_dtype_size(whole->dtype);
    for (int64_t b = 0; b < whole->shape[0]; b++) {
        for (int64_t row = 0; row < call->length; row++) {
            int64_t i = position_of(call->cut, call->rank, row);
            for (int64_t h = 0; h < whole->shape[2]; h++) {
                for (int64_t c = 0; c < whole->shape[3]; c++) {
                    char *in_whole = (char *)whole->data + (b * whole->stride[0] + i * whole->stride[1] +
                                                            h * whole->stride[2] + c * whole->stride[3]) *
                                                               (int64_t)size;
                    char *in_part = (char *)part->data + (b * part->stride[0] + row * part->stride[1] +
                                                          h * part->stride[2] + c * part->stride[3]) *
                                                             (int64_t)size;
                    memcpy(into_part ? in_part : in_whole, into_part ? in_whole : in_part, size);
                }
            }
        }
    }
}

/* Contiguous parts of inputs are views; all others are copies in memory of their own. */
static void begin_part(const rank_call *call, part_of *tensor) {
    const da_tensor *whole = tensor->whole;
    if (!whole) {
        return;
    }
    const int64_t *shape = whole->shape;
    if (call->cut->config.partition == DA_PARTITION_CONTIGUOUS && !tensor->is_output) {
        tensor->part = *whole;
        tensor->part.shape[1] = call->length;
        tensor->part.data = (char *)whole->data +
                            call->cut->first[call->rank] * whole->stride[1] * (int64_t)da_dtype_size(whole->dtype);
        return;
    }
    size_t elements = (size_t)(shape[0] * (call->length + 1) * shape[2] * shape[3]);
    void *memory = malloc(elements * da_dtype_size(whole->dtype));
    assert_non_null(memory);
    tensor->part = da_tensor_make(memory, whole->dtype, shape[0], call->length, shape[2], shape[3]);
    if (!tensor->is_output) {
        copy_rows(call, tensor, true);
    }
}

static void end_part(const rank_call *call, part_of *tensor) {
    if (tensor->whole && (tensor->is_output || call->cut->config.partition != DA_PARTITION_CONTIGUOUS)) {
        if (tensor->is_output && call->status == DA_OK) {
            copy_rows(call, tensor, false);
        }
        free(tensor->part.data);
    }
}

static void cut_mask(rank_call *call, const da_call_options *whole, int64_t batch, da_call_options *options) {
    *options = *whole;
    options->progress = NULL;
    if (!whole->key_mask) {
        return;
    }
    call->mask = malloc((size_t)(batch * call->length + 1));
    assert_non_null(call->mask);
    for (int64_t b = 0; b < batch; b++) {
        for (int64_t row = 0; row < call->length; row++) {
            int64_t i = position_of(call->cut, call->rank, row);
            call->mask[b * call->length + row] =
                whole->key_mask[b * whole->key_mask_stride[0] + i * whole->key_mask_stride[1]];
        }
    }
    options->key_mask = call->mask;
    options->key_mask_stride[0] = options->key_mask_stride[1] = 0;
}

/* ---- a rank ------------------------------------------------------------------------------------------------------ */

static const da_tensor *part_or_null(const part_of *tensor) {
    return tensor->whole ? &tensor->part : NULL;
}

static da_status call_forward(rank_call *call, const da_attention *attention) {
    const part_of *t = call->tensors;
    da_call_options options;
    cut_mask(call, call->forward->options, t[0].whole->shape[0], &options);
    return da_attention_forward(attention, &t[0].part, &t[1].part, &t[2].part, &t[3].part, part_or_null(&t[4]),
                                &options);
}

static da_status call_backward(rank_call *call, const da_attention *attention) {
    const part_of *t = call->tensors;
    da_call_options options;
    da_backward_tensors tensors;
    cut_mask(call, call->backward->options, t[0].whole->shape[0], &options);
    da_backward_tensors_init(&tensors);
    tensors.query = &t[0].part;
    tensors.key = &t[1].part;
    tensors.value = &t[2].part;
    tensors.out = &t[3].part;
    tensors.lse = &t[4].part;
    tensors.grad_out = &t[5].part;
    tensors.grad_lse = part_or_null(&t[6]);
    tensors.grad_query = part_or_null(&t[7]);
    tensors.grad_key = part_or_null(&t[8]);
    tensors.grad_value = part_or_null(&t[9]);
    return da_attention_backward(attention, &tensors, &options);
}

static const da_context *context_of(const rank_call *call) {
    return call->forward ? call->forward->context : call->backward->context;
}

static void run_rank(rank_call *call) {
    da_context *context = NULL;
    da_attention *attention = NULL;
    da_context_options options;
    da_context_options_init(&options);
    options.threads = call->cut->threads;
    options.isa = da_context_isa(context_of(call));
    options.comm = call->comm;
    call->status = da_context_create(&options, &context);
    if (call->status == DA_OK) {
        call->status = da_attention_create(context, call->implementation, &call->cut->config, &attention);
    }
    if (call->status == DA_OK) {
        call->status = call->forward ? call_forward(call, attention) : call_backward(call, attention);
    }
    if (call->status != DA_OK) {
        snprintf(call->message, sizeof call->message, "%s", da_last_error_message());
    }
    da_attention_free(attention);
    da_context_free(context);
}

static void list_tensors(rank_call *call) {
    const da_forward_call *f = call->forward;
    if (f) {
        const part_of tensors[] = {{f->query, false, {0}},
                                   {f->key, false, {0}},
                                   {f->value, false, {0}},
                                   {f->out, true, {0}},
                                   {f->lse, true, {0}}};
        memcpy(call->tensors, tensors, sizeof tensors);
        return;
    }
    const da_backward_tensors *t = call->backward->tensors;
    const da_tensor *inputs[] = {t->query, t->key, t->value, t->out, t->lse, t->grad_out, t->grad_lse};
    const da_tensor *outputs[] = {t->grad_query, t->grad_key, t->grad_value};
    for (int k = 0; k < TENSORS; k++) {
        call->tensors[k] = (part_of){.whole = k < 7 ? inputs[k] : outputs[k - 7], .is_output = k >= 7};
    }
}

/* ---- the group --------------------------------------------------------------------------------------------------- */

static void run_seat(const da_comm *comm, void *user) {
    rank_call *call = (rank_call *)user + comm->rank;
    call->comm = comm;
    run_rank(call);
}

/* Each process has computed one rank's call, and all compare all results. */
static void share_results(rank_call *call) {
    ranks_share(call->rank, &call->status, sizeof call->status);
    ranks_share(call->rank, call->message, sizeof call->message);
    for (int k = 0; k < TENSORS; k++) {
        const da_tensor *part = &call->tensors[k].part;
        if (call->tensors[k].whole && call->tensors[k].is_output) {
            const int64_t *shape = part->shape;
            size_t elements = (size_t)(shape[0] * shape[1] * shape[2] * shape[3]);
            ranks_share(call->rank, part->data, elements * da_dtype_size(part->dtype));
        }
    }
}

static da_status run_ranks(const cutting *cut, const char *implementation, const da_forward_call *forward,
                           const da_backward_call *backward) {
    rank_call calls[MAX_RANKS] = {0};
    da_status status = DA_OK;
    for (int r = 0; r < cut->ranks; r++) {
        calls[r] = (rank_call){.cut = cut,
                               .rank = r,
                               .implementation = implementation,
                               .forward = forward,
                               .backward = backward,
                               .length = length_of(cut, r)};
        list_tensors(&calls[r]);
        for (int k = 0; k < TENSORS; k++) {
            begin_part(&calls[r], &calls[r].tensors[k]);
        }
    }
    assert_true(ranks_run(cut->ranks, TIMEOUT, NULL, run_seat, calls));
    for (int r = 0; r < cut->ranks; r++) {
        share_results(&calls[r]);
        if (calls[r].status != DA_OK && status == DA_OK) {
            status = da_report(calls[r].status, "rank %d of %d: %s", r, cut->ranks, calls[r].message);
        }
        for (int k = 0; k < TENSORS; k++) {
            end_part(&calls[r], &calls[r].tensors[k]);
        }
        free(calls[r].mask);
    }
    return status;
}

static da_status forward(void *state, const da_forward_call *call, void *user) {
    cutting cut;
    cut_call(&cut, call->context, call->config, call->query);
    const char *implementation = cut.ranks == 1 ? "ring" : user;
    return run_ranks(&cut, implementation, call, NULL);
}

static da_status backward(void *state, const da_backward_call *call, void *user) {
    cutting cut;
    cut_call(&cut, call->context, call->config, call->tensors->query);
    const char *implementation = cut.ranks == 1 ? "ring" : user;
    return run_ranks(&cut, implementation, NULL, call);
}

void ranked_register(void) {
    static char ring[] = "ring", distributed[] = "distributed";
    char *const implementations[] = {ring, distributed};
    static const char *const names[] = {RING_OVER_RANKS, DISTRIBUTED_OVER_RANKS};
    for (int k = 0; k < 2; k++) {
        const da_implementation table = {
            .size = sizeof table,
            .name = names[k],
            .features = DA_FEATURE_ALL & ~(uint32_t)DA_FEATURE_QUERY_RANGE,
            .dtypes = DA_DTYPE_BITS_ALL,
            .user = implementations[k],
            .forward = forward,
            .backward = backward,
        };
        da_status status = da_register_implementation(&table);
        assert_true(status == DA_OK || status == DA_ERROR_ALREADY_REGISTERED);
    }
}
