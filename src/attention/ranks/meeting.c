#include "attention/ranks/meeting.h"

#include <inttypes.h>
#include <string.h>

#include "core/hash.h"
#include "core/memory.h"

/* ---- what ranks say of a call ------------------------------------------------------------------------------------ */

enum {
    LENGTH,
    FIRST_AGREED,
    PASS = FIRST_AGREED,
    BATCH,
    HEADS,
    KV_HEADS,
    HEAD_DIM,
    DTYPE,
    LENGTHS,
    MASK,
    DROPS,
    SEED,
    LSE,
    GRADIENTS,
    FIELDS
};

/* As messages name them. */
static const char *const field_names[FIELDS] = {
    [PASS] = "the pass (0: forward, 1: backward)",
    [BATCH] = "batch",
    [HEADS] = "heads of query",
    [KV_HEADS] = "heads of key",
    [HEAD_DIM] = "head_dim",
    [DTYPE] = "the data type's number",
    [LENGTHS] = "the hash of key_lengths",
    [MASK] = "whether there is a key_mask",
    [DROPS] = "whether dropout is applied",
    [SEED] = "dropout_seed",
    [LSE] = "whether there is an lse, or a grad_lse",
    [GRADIENTS] = "the gradients that are wanted (1: query, 2: key, 4: value)",
};

size_t da_meeting_bytes(void) {
    return FIELDS * sizeof(int64_t);
}

static void describe_call(const da_meeting_call *call, int64_t fields[FIELDS]) {
    const da_call_options *options = call->options;
    fields[LENGTH] = call->query->shape[1];
    fields[PASS] = call->pass;
    fields[BATCH] = call->query->shape[0];
    fields[HEADS] = call->query->shape[2];
    fields[KV_HEADS] = call->key->shape[2];
    fields[HEAD_DIM] = call->query->shape[3];
    fields[DTYPE] = call->query->dtype;
    fields[LENGTHS] =
        options->key_lengths
            ? (int64_t)da_hash(options->key_lengths, (size_t)call->query->shape[0] * sizeof *options->key_lengths)
            : 0;
    fields[MASK] = options->key_mask != NULL;
    fields[DROPS] = call->dropout > 0;
    fields[SEED] = call->dropout > 0 ? (int64_t)options->dropout_seed : 0;
    fields[LSE] = call->wants_lse;
    fields[GRADIENTS] = (call->wants_query ? 1 : 0) + (call->wants_key ? 2 : 0) + (call->wants_value ? 4 : 0);
}

/* The first difference to rank 0, the same on all ranks. */
static da_status check_agreement(const da_comm *comm, const int64_t (*all)[FIELDS]) {
    for (int rank = 1; rank < comm->ranks; rank++) {
        for (int field = FIRST_AGREED; field < FIELDS; field++) {
            if (all[rank][field] != all[0][field]) {
                return da_report(DA_ERROR_COMMUNICATION,
                                 "rank %d calls with another value of %s, %" PRId64 ", than rank 0, %" PRId64
                                 "; allowed: the same on all ranks",
                                 rank, field_names[field], all[rank][field], all[0][field]);
            }
        }
    }
    return DA_OK;
}

/* ---- who holds what ---------------------------------------------------------------------------------------------- */

static da_status make_layout(da_meeting *meeting, const int64_t (*all)[FIELDS]) {
    const da_attention_config *config = meeting->config;
    const da_allocator *allocator = da_context_allocator(meeting->context);
    int ranks = meeting->comm->ranks;
    int64_t n = 0, *lengths = da_allocate(allocator, (size_t)ranks, sizeof *lengths);
    if (!lengths) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    for (int rank = 0; rank < ranks; rank++) {
        lengths[rank] = all[rank][LENGTH];
        n += lengths[rank];
    }
    da_status status =
        da_layout_create(allocator, config->partition, config->stripe, n, ranks, lengths, &meeting->layout);
    da_release(allocator, lengths);
    if (status == DA_OK) {
        meeting->part = da_layout_part(meeting->layout, meeting->comm->rank);
    }
    return status;
}

/* Key lengths and dropout go by positions in the whole sequence. */
static da_status check_whole(const da_meeting *meeting, const da_meeting_call *call) {
    const int64_t *lengths = meeting->options.key_lengths, n = meeting->layout->n, largest = (int64_t)1 << 32;
    for (int64_t b = 0; lengths && b < call->query->shape[0]; b++) {
        if (lengths[b] > n) {
            return da_report(DA_ERROR_INVALID_ARGUMENT,
                             "key_lengths[%" PRId64 "] is %" PRId64
                             "; allowed: 0 to n over all ranks, which is %" PRId64,
                             b, lengths[b], n);
        }
    }
    if (call->dropout > 0 && n > largest) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "n over all ranks is %" PRId64 "; allowed with dropout: up to %" PRId64, n, largest);
    }
    return n >= 1 ? DA_OK
                  : da_report(DA_ERROR_INVALID_ARGUMENT,
                              "query.shape[1] is 0 on all ranks; allowed: at least one token on one of them");
}

/* ---- padding ----------------------------------------------------------------------------------------------------- */

/* Each rank's rows of the mask to their positions. gathered: of each rank, (batch, longest). */
static void place_masks(const da_meeting *meeting, const uint8_t *gathered, int64_t batch, int64_t longest) {
    for (int rank = 0; rank < meeting->layout->ranks; rank++) {
        const da_part *part = da_layout_part(meeting->layout, rank);
        for (int64_t b = 0; b < batch; b++) {
            const uint8_t *rows = gathered + (rank * batch + b) * longest;
            for (int64_t p = 0; p < part->piece_count; p++) {
                const da_piece *piece = &part->pieces[p];
                memcpy(meeting->mask + b * meeting->layout->n + piece->first, rows + piece->row,
                       (size_t)(piece->end - piece->first));
            }
        }
    }
}

static void copy_mask(const da_call_options *options, int64_t batch, int64_t length, int64_t longest, uint8_t *to) {
    for (int64_t b = 0; b < batch; b++) {
        for (int64_t i = 0; i < length; i++) {
            to[b * longest + i] = options->key_mask[b * options->key_mask_stride[0] + i * options->key_mask_stride[1]];
        }
    }
}

/* Everybody gets the whole mask: a byte for each token of each batch element. */
static da_status gather_mask(da_meeting *meeting, int64_t batch) {
    const da_allocator *allocator = da_context_allocator(meeting->context);
    int64_t n = meeting->layout->n, longest = 1;
    int ranks = meeting->layout->ranks;
    for (int rank = 0; rank < ranks; rank++) {
        int64_t length = da_layout_part(meeting->layout, rank)->length;
        longest = length > longest ? length : longest;
    }
    size_t bytes = (size_t)(batch * longest);
    uint8_t *mine = da_allocate(allocator, bytes, 1), *all = da_allocate(allocator, bytes, (size_t)ranks);
    meeting->mask = da_allocate(allocator, (size_t)batch, (size_t)n);
    da_status status = mine && all && meeting->mask ? DA_OK : DA_ERROR_OUT_OF_MEMORY;
    if (status == DA_OK) {
        memset(mine, 0, bytes);
        copy_mask(&meeting->options, batch, meeting->part->length, longest, mine);
        status = da_comm_gather(meeting->comm, allocator, mine, bytes, all);
    }
    if (status == DA_OK) {
        place_masks(meeting, all, batch, longest);
        meeting->options.key_mask = meeting->mask;
        meeting->options.key_mask_stride[0] = n;
        meeting->options.key_mask_stride[1] = 1;
    }
    da_release(allocator, mine);
    da_release(allocator, all);
    return status;
}

/* ---- the meeting ------------------------------------------------------------------------------------------------- */

/* Checks what every rank knows, so that all come to the same; but for memory, which may be short on one of them. */
static da_status check_call(da_meeting *meeting, const da_meeting_call *call, const int64_t (*all)[FIELDS]) {
    da_status status = check_agreement(meeting->comm, all);
    if (status == DA_OK) {
        status = make_layout(meeting, all);
    }
    if (status == DA_OK) {
        status = check_whole(meeting, call);
    }
    meeting->all_refuse = status != DA_OK && status != DA_ERROR_OUT_OF_MEMORY;
    return status;
}

static da_status meet(da_meeting *meeting, const da_meeting_call *call, int64_t (*all)[FIELDS]) {
    int64_t mine[FIELDS];
    describe_call(call, mine);
    da_status status = da_comm_gather(meeting->comm, da_context_allocator(meeting->context), mine, sizeof mine, all);
    if (status == DA_OK) {
        status = check_call(meeting, call, (const int64_t(*)[FIELDS])all);
    }
    return status == DA_OK && call->options->key_mask ? gather_mask(meeting, call->query->shape[0]) : status;
}

da_status da_meeting_begin(da_meeting *meeting, const da_context *context, const da_attention_config *config,
                           const da_meeting_call *call) {
    const da_allocator *allocator = da_context_allocator(context);
    *meeting =
        (da_meeting){.context = context, .comm = da_context_comm(context), .config = config, .options = *call->options};
    int64_t(*all)[FIELDS] = da_allocate(allocator, (size_t)meeting->comm->ranks, sizeof *all);
    da_status status = all ? meet(meeting, call, all) : DA_ERROR_OUT_OF_MEMORY;
    da_release(allocator, all);
    return status;
}

void da_meeting_end(da_meeting *meeting) {
    da_release(da_context_allocator(meeting->context), meeting->mask);
    da_layout_free(meeting->layout);
}

/* ---- creation ---------------------------------------------------------------------------------------------------- */

/* A configuration without the gaps between a struct's fields. */
typedef struct agreed_config {
    char implementation[64];
    int64_t lengths[DA_MAX_PATTERNS], rates[DA_MAX_PATTERNS];
    double dropout, scale;
    int64_t count, causal, window, mixing, offset_rule, tail_rule, overlap, dtype, partition, stripe, split;
} agreed_config;

/* Memory may be short on this rank alone, which then says nothing. */
static da_status agree_or_leave(const da_context *context, const void *bytes, size_t count) {
    const da_comm *comm = da_context_comm(context);
    da_status status =
        da_comm_agree(comm, da_context_allocator(context), bytes, count, "implementation and configuration");
    if (status == DA_ERROR_OUT_OF_MEMORY) {
        da_comm_abandon(comm);
    }
    return status;
}

da_status da_meeting_agree(const da_context *context, const char *implementation, const da_attention_config *config) {
    agreed_config agreed;
    memset(&agreed, 0, sizeof agreed);
    strncpy(agreed.implementation, implementation, sizeof agreed.implementation - 1);
    for (size_t p = 0; p < config->segment_count; p++) {
        agreed.lengths[p] = config->segment_lengths[p];
        agreed.rates[p] = config->dilation_rates[p];
    }
    agreed.count = (int64_t)config->segment_count;
    agreed.dropout = config->dropout;
    agreed.scale = config->scale_is_set ? config->scale : 0;
    agreed.causal = config->causal;
    agreed.window = config->window;
    agreed.mixing = config->mixing;
    agreed.offset_rule = config->offset_rule;
    agreed.tail_rule = config->tail_rule;
    agreed.overlap = config->overlap;
    agreed.dtype = config->dtype;
    agreed.partition = config->partition;
    agreed.stripe = config->stripe;
    agreed.split = config->split;
    return agree_or_leave(context, &agreed, sizeof agreed);
}

void da_meeting_refuse(const da_context *context, da_status status) {
    static const char refused[] = "refused";
    if (status == DA_ERROR_OUT_OF_MEMORY) {
        da_comm_abandon(da_context_comm(context));
    } else {
        (void)agree_or_leave(context, refused, sizeof refused);
    }
}
