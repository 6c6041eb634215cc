#include "multihead/shards.h"

#include <inttypes.h>
#include <string.h>

#include "comm/comm.h"
#include "multihead/convert.h"
#include "multihead/linear.h"
#include "pattern/layout.h"

da_bundle da_bundle_of(da_parameter_id id) {
    return (da_bundle){1, {id}};
}

da_bundle da_bundle_of_vectors(const da_parameter_table *table) {
    da_bundle vectors = {0};
    for (size_t k = 0; k < table->count; k++) {
        if (table->entries[k].rank == 1) {
            vectors.ids[vectors.count++] = table->entries[k].id;
        }
    }
    return vectors;
}

static const da_parameter_shape *entry_of(const da_parameter_table *table, da_parameter_id id) {
    return &table->entries[table->index[id]];
}

int64_t da_bundle_elements(const da_parameter_table *table, const da_bundle *bundle) {
    int64_t elements = 0;
    for (int k = 0; k < bundle->count; k++) {
        const da_parameter_shape *entry = entry_of(table, bundle->ids[k]);
        elements += entry->whole_rows * entry->shape[1];
    }
    return elements;
}

void da_bundle_place(const da_parameter_table *table, const da_bundle *bundle, da_dtype dtype, void *elements,
                     void *at[DA_PARAMETER_IDS]) {
    for (int k = 0; elements && k < bundle->count; k++) {
        const da_parameter_shape *entry = entry_of(table, bundle->ids[k]);
        at[bundle->ids[k]] = elements;
        elements = da_elements_on(elements, entry->whole_rows * entry->shape[1], dtype);
    }
}

/* Elements first .. end - 1 of a parameter are a rank's. */
typedef struct share {
    int64_t first, end;
} share;

static share share_of(const da_multihead *multihead, da_parameter_id id, int rank) {
    const da_parameter_shape *entry = entry_of(&multihead->table, id);
    return (share){da_even_end(entry->whole_rows, rank, multihead->shards) * entry->shape[1],
                   da_even_end(entry->whole_rows, (int64_t)rank + 1, multihead->shards) * entry->shape[1]};
}

static int64_t elements_of_rank(const da_multihead *multihead, const da_bundle *bundle, int rank) {
    int64_t elements = 0;
    for (int k = 0; k < bundle->count; k++) {
        share s = share_of(multihead, bundle->ids[k], rank);
        elements += s.end - s.first;
    }
    return elements;
}

/* ---- gathering --------------------------------------------------------------------------------------------------- */

/* This rank's rows to their place in a packed array. */
static void pack_own(const da_multihead *multihead, const da_bundle *bundle, void *packed) {
    da_dtype dtype = multihead->config.dtype;
    int64_t place = 0;
    for (int rank = 0; rank < multihead->shard; rank++) {
        place += elements_of_rank(multihead, bundle, rank);
    }
    for (int k = 0; k < bundle->count; k++) {
        int64_t count = entry_of(&multihead->table, bundle->ids[k])->count;
        const void *own = da_parameter_address(&multihead->table, multihead->parameters, dtype, bundle->ids[k]);
        memcpy(da_elements_on(packed, place, dtype), own, (size_t)count * da_dtype_size(dtype));
        place += count;
    }
}

da_status da_shards_gather(const da_multihead *multihead, const da_bundle *bundle, void *packed, bool *safe) {
    size_t size = da_dtype_size(multihead->config.dtype);
    size_t *bytes = da_allocate(multihead->allocator, (size_t)multihead->shards, sizeof *bytes);
    *safe = true;
    if (!bytes) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    for (int rank = 0; rank < multihead->shards; rank++) {
        bytes[rank] = (size_t)elements_of_rank(multihead, bundle, rank) * size;
    }
    pack_own(multihead, bundle, packed);
    da_status status = da_comm_gather_slices(da_context_comm(multihead->context), multihead->allocator, bytes, packed,
                                             "rows of parameters", safe);
    da_release(multihead->allocator, bytes);
    return status;
}

void da_shards_unpack(const da_multihead *multihead, const da_bundle *bundle, const void *packed, da_dtype dtype,
                      void *const whole[DA_PARAMETER_IDS], da_dtype to) {
    int64_t place = 0;
    for (int rank = 0; rank < multihead->shards; rank++) {
        for (int k = 0; k < bundle->count; k++) {
            share s = share_of(multihead, bundle->ids[k], rank);
            da_convert(dtype, da_elements_on(packed, place, dtype), 1, to,
                       da_elements_on(whole[bundle->ids[k]], s.first, to), 1, s.end - s.first);
            place += s.end - s.first;
        }
    }
}

/* ---- reducing ---------------------------------------------------------------------------------------------------- */

void da_shards_pack(const da_multihead *multihead, const da_bundle *bundle, void *const whole[DA_PARAMETER_IDS],
                    da_dtype dtype, void *packed) {
    int64_t place = 0;
    for (int rank = 0; rank < multihead->shards; rank++) {
        for (int k = 0; k < bundle->count; k++) {
            share s = share_of(multihead, bundle->ids[k], rank);
            memcpy(da_elements_on(packed, place, dtype), da_elements_on(whole[bundle->ids[k]], s.first, dtype),
                   (size_t)(s.end - s.first) * da_dtype_size(dtype));
            place += s.end - s.first;
        }
    }
}

/* The sums of several parameters' rows to their places among the gradients. */
static void add_sums(const da_multihead *multihead, const da_bundle *bundle, const void *sums,
                     da_multihead_gradients *gradients) {
    da_dtype real = da_real_of(multihead->config.dtype);
    for (int k = 0; k < bundle->count; k++) {
        int64_t count = entry_of(&multihead->table, bundle->ids[k])->count;
        da_add_elements(real, da_parameter_address(&multihead->table, gradients->values, real, bundle->ids[k]), sums,
                        count);
        sums = da_elements_on(sums, count, real);
    }
}

da_status da_shards_reduce(const da_multihead *multihead, const da_bundle *bundle, const void *packed,
                           da_multihead_gradients *gradients) {
    const da_allocator *allocator = multihead->allocator;
    da_dtype real = da_real_of(multihead->config.dtype);
    size_t mine = (size_t)elements_of_rank(multihead, bundle, multihead->shard) * da_dtype_size(real);
    int64_t *counts = da_allocate(allocator, (size_t)multihead->shards, sizeof *counts);
    void *sums = counts ? da_allocate(allocator, 1, mine) : NULL;
    if (!sums) {
        da_release(allocator, counts);
        return DA_ERROR_OUT_OF_MEMORY;
    }
    for (int rank = 0; rank < multihead->shards; rank++) {
        counts[rank] = elements_of_rank(multihead, bundle, rank);
    }
    da_status status =
        da_comm_reduce_slices(da_context_comm(multihead->context), allocator, packed, counts, real, sums);
    if (status == DA_OK) {
        add_sums(multihead, bundle, sums, gradients);
    }
    da_release(allocator, sums);
    da_release(allocator, counts);
    return status;
}

/* ---- agreeing ---------------------------------------------------------------------------------------------------- */

enum { CALL_FIELDS = 3 };

static void describe(const da_sharded_call *call, int64_t fields[CALL_FIELDS]) {
    fields[0] = call->backward;
    fields[1] = call->of_parameters;
    fields[2] = call->of_inputs;
}

static da_status compare(const int64_t (*all)[CALL_FIELDS], int ranks) {
    static const char *const names[CALL_FIELDS] = {
        "the pass (0: forward, 1: backward)",
        "whether gradients of parameters are wanted",
        "the gradients of inputs that are wanted (1: query, 2: key, 4: value)",
    };
    for (int rank = 1; rank < ranks; rank++) {
        for (int field = 0; field < CALL_FIELDS; field++) {
            if (all[rank][field] != all[0][field]) {
                return da_report(DA_ERROR_COMMUNICATION,
                                 "rank %d calls with another value of %s, %" PRId64 ", than rank 0, %" PRId64
                                 "; allowed with sharded parameters: the same on all ranks",
                                 rank, names[field], all[rank][field], all[0][field]);
            }
        }
    }
    return DA_OK;
}

da_status da_shards_agree(const da_multihead *multihead, const da_sharded_call *call, bool *alike) {
    int64_t mine[CALL_FIELDS];
    int64_t(*all)[CALL_FIELDS] = da_allocate(multihead->allocator, (size_t)multihead->shards, sizeof *all);
    *alike = false;
    if (!all) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    describe(call, mine);
    da_status status =
        da_comm_gather(da_context_comm(multihead->context), multihead->allocator, mine, sizeof mine, all);
    if (status == DA_OK) {
        status = compare((const int64_t(*)[CALL_FIELDS])all, multihead->shards);
        *alike = status != DA_OK;
    }
    da_release(multihead->allocator, all);
    return status;
}

da_status da_shards_share_status(const da_multihead *multihead, da_status status, const char *what) {
    int64_t mine = status, *all = da_allocate(multihead->allocator, (size_t)multihead->shards, sizeof *all);
    da_status shared =
        all ? da_comm_gather(da_context_comm(multihead->context), multihead->allocator, &mine, sizeof mine, all)
            : DA_ERROR_OUT_OF_MEMORY;
    da_module_leave(multihead, shared, false);
    for (int rank = 0; shared == DA_OK && status == DA_OK && rank < multihead->shards; rank++) {
        if (all[rank] != DA_OK) {
            shared = da_report((da_status)all[rank], "rank %d could not %s: %s; its own message says more", rank, what,
                               da_status_name((da_status)all[rank]));
        }
    }
    da_release(multihead->allocator, all);
    return status == DA_OK ? shared : status;
}
