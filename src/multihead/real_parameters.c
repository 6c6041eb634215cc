#include "multihead/real_parameters.h"

#include "core/arena.h"
#include "core/parallel.h"
#include "multihead/convert.h"
#include "multihead/shards.h"

/* ---- to the real type -------------------------------------------------------------------------------------------- */

enum { PIECE = 1 << 16 };

typedef struct copying {
    const void *source;
    da_dtype dtype;
    float *target;
    int64_t elements;
} copying;

static void copy_piece(int64_t piece, int thread, void *user) {
    const copying *c = user;
    int64_t first = piece * PIECE, rest = c->elements - first;
    da_convert(c->dtype, da_elements_on(c->source, first, c->dtype), 1, DA_F32, c->target + first, 1,
               rest < PIECE ? rest : PIECE);
}

static void copy_to_f32(const da_multihead *multihead, const void *source, int64_t elements, float *target) {
    copying c = {source, multihead->config.dtype, target, elements};
    da_parallel_for(multihead->threads, (elements + PIECE - 1) / PIECE, copy_piece, &c);
}

/* ---- of a module that has all of them ------------------------------------------------------------------------------ */

static da_status make_of_own(const da_multihead *multihead, da_real_parameters *out) {
    const da_parameter_table *table = &multihead->table;
    da_dtype dtype = multihead->config.dtype, real = da_real_of(dtype);
    void *base = multihead->parameters;
    if (dtype != real) {
        base = out->memory = da_allocate(multihead->allocator, (size_t)table->elements, sizeof(float));
        if (!base) {
            return DA_ERROR_OUT_OF_MEMORY;
        }
        copy_to_f32(multihead, multihead->parameters, table->elements, base);
    }
    for (int id = 0; id < DA_PARAMETER_IDS; id++) {
        out->at[id] = da_parameter_address(table, base, real, (da_parameter_id)id);
        out->stored[id] = da_parameter_address(table, multihead->parameters, dtype, (da_parameter_id)id);
    }
    return DA_OK;
}

/* ---- of a sharded module ----------------------------------------------------------------------------------------- */

/* Returns the bytes. packed: the vectors as they travel; whole: each vector, its elements in the real type. */
static size_t lay_out(const da_multihead *multihead, char *base, da_real_parameters *out, void **packed,
                      void *whole[DA_PARAMETER_IDS]) {
    const da_parameter_table *table = &multihead->table;
    da_dtype dtype = multihead->config.dtype, real = da_real_of(dtype);
    const da_bundle vectors = da_bundle_of_vectors(table);
    size_t largest = (size_t)(multihead->config.embed_dim * multihead->config.embed_dim);
    da_arena arena = {base, 0};
    *packed = da_arena_take(&arena, (size_t)da_bundle_elements(table, &vectors), da_dtype_size(dtype));
    da_bundle_place(table, &vectors, real,
                    da_arena_take(&arena, (size_t)da_bundle_elements(table, &vectors), da_dtype_size(real)), whole);
    out->matrix = da_arena_take(&arena, largest, da_dtype_size(dtype));
    out->real_matrix = dtype == real ? out->matrix : da_arena_take(&arena, largest, da_dtype_size(real));
    return arena.used;
}

static da_status make_of_shards(const da_multihead *multihead, da_real_parameters *out) {
    const da_bundle vectors = da_bundle_of_vectors(&multihead->table);
    void *packed, *whole[DA_PARAMETER_IDS] = {0};
    out->memory = da_allocate(multihead->allocator, 1, lay_out(multihead, NULL, out, &packed, whole));
    if (!out->memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    lay_out(multihead, out->memory, out, &packed, whole);
    da_status status = da_shards_gather(multihead, &vectors, packed, &out->safe);
    if (status != DA_OK) {
        return status;
    }
    da_shards_unpack(multihead, &vectors, packed, multihead->config.dtype, whole, da_real_of(multihead->config.dtype));
    for (int id = 0; id < DA_PARAMETER_IDS; id++) {
        out->at[id] = whole[id];
    }
    return DA_OK;
}

da_status da_real_parameters_fetch(const da_multihead *multihead, da_real_parameters *parameters,
                                   da_parameter_id weight) {
    if (multihead->shards == 1) {
        return DA_OK;
    }
    const da_bundle one = da_bundle_of(weight);
    for (int k = 0; k < DA_PARAMETER_IDS; k++) {
        if (parameters->stored[k]) {
            parameters->at[k] = parameters->stored[k] = NULL;
        }
    }
    da_status status = da_shards_gather(multihead, &one, parameters->matrix, &parameters->safe);
    if (status != DA_OK) {
        return status;
    }
    if (parameters->real_matrix != parameters->matrix) {
        copy_to_f32(multihead, parameters->matrix, da_bundle_elements(&multihead->table, &one),
                    parameters->real_matrix);
    }
    parameters->stored[weight] = parameters->matrix;
    parameters->at[weight] = parameters->real_matrix;
    return DA_OK;
}

/* ---- both -------------------------------------------------------------------------------------------------------- */

da_status da_real_parameters_make(const da_multihead *multihead, da_real_parameters *out) {
    *out = (da_real_parameters){.safe = true};
    da_status status = multihead->shards > 1 ? make_of_shards(multihead, out) : make_of_own(multihead, out);
    if (status != DA_OK) {
        da_real_parameters_release(multihead, out);
    }
    return status;
}

/* What a transport may still touch after an error stays. */
void da_real_parameters_release(const da_multihead *multihead, da_real_parameters *parameters) {
    if (parameters->safe) {
        da_release(multihead->allocator, parameters->memory);
    }
    *parameters = (da_real_parameters){.safe = true};
}

/* A norm's bias follows its weight in the enumeration. */
da_layer_norm da_real_norm(const da_multihead *multihead, const da_real_parameters *parameters,
                           da_parameter_id weight) {
    return (da_layer_norm){
        .weight = parameters->at[weight],
        .bias = parameters->at[weight + 1],
        .width = weight == DA_K_LN_WEIGHT ? multihead->key_width : multihead->config.embed_dim,
        .eps = multihead->config.layer_norm_eps,
    };
}
