#include "multihead/pass_gradients.h"

#include <string.h>

#include "core/arena.h"
#include "multihead/convert.h"
#include "multihead/shards.h"

static bool goes_over_ranks(const da_multihead *multihead, const da_pass_gradients *pass) {
    return pass->gradients && multihead->shards > 1;
}

/* Returns the bytes, and in *zero those at the beginning that are to be 0: the vectors. */
static size_t lay_out(const da_multihead *multihead, char *base, da_pass_gradients *pass, size_t *zero) {
    const da_parameter_table *table = &multihead->table;
    da_dtype real = da_real_of(multihead->config.dtype);
    const da_bundle vectors = da_bundle_of_vectors(table);
    size_t size = da_dtype_size(real), largest = (size_t)(multihead->config.embed_dim * multihead->config.embed_dim);
    da_arena arena = {base, 0};
    da_bundle_place(table, &vectors, real, da_arena_take(&arena, (size_t)da_bundle_elements(table, &vectors), size),
                    pass->at);
    *zero = (size_t)da_bundle_elements(table, &vectors) * size;
    pass->packed = da_arena_take(&arena, (size_t)da_bundle_elements(table, &vectors), size);
    pass->matrix = da_arena_take(&arena, largest, size);
    return arena.used;
}

da_status da_pass_gradients_make(const da_multihead *multihead, da_multihead_gradients *gradients,
                                 da_pass_gradients *out) {
    da_dtype real = da_real_of(multihead->config.dtype);
    size_t zero;
    *out = (da_pass_gradients){.gradients = gradients};
    if (!gradients) {
        return DA_OK;
    }
    if (multihead->shards == 1) {
        for (int id = 0; id < DA_PARAMETER_IDS; id++) {
            out->at[id] = da_parameter_address(&multihead->table, gradients->values, real, (da_parameter_id)id);
        }
        return DA_OK;
    }
    out->memory = da_allocate(multihead->allocator, 1, lay_out(multihead, NULL, out, &zero));
    if (!out->memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    lay_out(multihead, out->memory, out, &zero);
    memset(out->memory, 0, zero);
    return DA_OK;
}

void da_pass_gradients_release(const da_multihead *multihead, da_pass_gradients *pass) {
    da_release(multihead->allocator, pass->memory);
    *pass = (da_pass_gradients){0};
}

void da_pass_gradients_begin(const da_multihead *multihead, da_pass_gradients *pass, da_parameter_id weight) {
    if (goes_over_ranks(multihead, pass)) {
        const da_bundle one = da_bundle_of(weight);
        memset(pass->matrix, 0,
               (size_t)da_bundle_elements(&multihead->table, &one) *
                   da_dtype_size(da_real_of(multihead->config.dtype)));
        pass->at[weight] = pass->matrix;
    }
}

da_status da_pass_gradients_end(const da_multihead *multihead, da_pass_gradients *pass, da_parameter_id weight) {
    if (!goes_over_ranks(multihead, pass)) {
        return DA_OK;
    }
    const da_bundle one = da_bundle_of(weight);
    pass->at[weight] = NULL;
    return da_shards_reduce(multihead, &one, pass->matrix, pass->gradients);
}

da_status da_pass_gradients_finish(const da_multihead *multihead, da_pass_gradients *pass) {
    if (!goes_over_ranks(multihead, pass)) {
        return DA_OK;
    }
    const da_bundle vectors = da_bundle_of_vectors(&multihead->table);
    da_shards_pack(multihead, &vectors, pass->at, da_real_of(multihead->config.dtype), pass->packed);
    return da_shards_reduce(multihead, &vectors, pass->packed, pass->gradients);
}
