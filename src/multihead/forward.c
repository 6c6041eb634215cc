/* The forward pass: rows are projected in blocks, attention runs over whole sequences, rows are projected again. */
#include <string.h>

#include "attention/workspace.h"
#include "core/parallel.h"
#include "core/tensor.h"
#include "multihead/convert.h"
#include "multihead/linear.h"
#include "multihead/product_onednn.h"
#include "multihead/real_parameters.h"
#include "multihead/rows.h"
#include "multihead/shards.h"

typedef struct forward_work {
    const da_multihead *multihead;
    da_module_inputs inputs;
    const da_tensor *out;
    da_multihead_saved *saved;
    da_real_parameters parameters;
    da_rotary rotary;
    da_dtype real;
    bool in_bf16;         /* products of what is stored in bf16 take it as it is */
    int part, end;        /* parts in work, of query, key, value: all; or, while one weight alone is at hand, one */
    int64_t rows;         /* batch n */
    char *scratch;        /* of all threads */
    size_t scratch_bytes; /* of one */
} forward_work;

/* A thread's memory, in the real type. */
typedef struct forward_scratch {
    void *input;  /* (DA_ROW_BLOCK, E): rows converted, or normalised */
    void *output; /* (DA_ROW_BLOCK, E + 2 E') */
} forward_scratch;

static size_t lay_out(const forward_work *work, char *base, forward_scratch *out) {
    da_arena arena = {base, 0};
    size_t size = da_dtype_size(work->real);
    int64_t block = work->rows < DA_ROW_BLOCK ? work->rows : DA_ROW_BLOCK;
    out->input = da_arena_take(&arena, (size_t)(block * work->multihead->config.embed_dim), size);
    out->output = da_arena_take(&arena, (size_t)(block * work->multihead->joint_width), size);
    return arena.used;
}

static forward_scratch scratch_of(const forward_work *work, int thread) {
    forward_scratch scratch;
    lay_out(work, work->scratch + (size_t)thread * work->scratch_bytes, &scratch);
    return scratch;
}

static int64_t block_rows(const forward_work *work, int64_t first) {
    return work->rows - first < DA_ROW_BLOCK ? work->rows - first : DA_ROW_BLOCK;
}

/* ---- q, k, v ----------------------------------------------------------------------------------------------------- */

/* Rows of a tensor by weights, `features` of them from those of a parameter on. */
typedef struct block_product {
    const da_tensor *input;
    int64_t first, count;
    da_parameter_id weight;
    int64_t features;
} block_product;

static void multiply_block(const forward_work *work, const block_product *p, void *scratch, void *out, int64_t ld) {
    const da_multihead *multihead = work->multihead;
    da_dtype stored = multihead->config.dtype;
    int64_t width = multihead->config.embed_dim;
    if (work->in_bf16) {
        da_matrix x = da_rows_load(p->input, p->first, p->count, stored, scratch);
        if (da_onednn_bf16(p->count, p->features, width, x, (da_matrix){work->parameters.stored[p->weight], width}, out,
                           ld)) {
            return;
        }
    }
    da_matrix x = da_rows_load(p->input, p->first, p->count, work->real, scratch);
    da_product(work->real, DA_PRODUCT_B_TRANSPOSED, p->count, p->features, width, x,
               (da_matrix){work->parameters.at[p->weight], width}, false, out, ld);
}

/* The first column of a part in q, k, v beside one another; of part 3, where they end. */
static int64_t column_of(const da_multihead *multihead, int part) {
    int64_t width = multihead->config.embed_dim;
    return part == 0 ? 0 : width + (part - 1) * multihead->key_width;
}

/* The products of a block of rows, neighbours that have one input in one. */
static void multiply(const forward_work *work, int64_t first, int64_t count, void *input_scratch, void *q) {
    const da_multihead *multihead = work->multihead;
    for (int part = work->part, begin_part = part; part < work->end; part++) {
        const da_tensor *input = work->inputs.tensors[part];
        if (part + 1 < work->end && da_rows_same(input, work->inputs.tensors[part + 1])) {
            continue;
        }
        int64_t begin = column_of(multihead, begin_part);
        const block_product product = {input, first, count, (da_parameter_id)(DA_Q_WEIGHT + begin_part),
                                       column_of(multihead, part + 1) - begin};
        multiply_block(work, &product, input_scratch, da_elements_on(q, begin, work->real), multihead->joint_width);
        begin_part = part + 1;
    }
}

/* Norm of q (part 0) or k (part 1); the rows as they were are kept for the backward pass. x: the first row of the part. */
static void norm_part(const forward_work *work, int part, int64_t first, int64_t count, void *x) {
    const da_multihead *multihead = work->multihead;
    int64_t both = column_of(multihead, 2), ld = multihead->joint_width;
    da_layer_norm norm = da_real_norm(multihead, &work->parameters, part == 0 ? DA_Q_LN_WEIGHT : DA_K_LN_WEIGHT);
    for (int64_t r = 0; work->saved->unnormed && r < count; r++) {
        memcpy(da_elements_on(work->saved->unnormed, (first + r) * both + column_of(multihead, part), work->real),
               da_elements_on(x, r * ld, work->real), (size_t)norm.width * da_dtype_size(work->real));
    }
    da_layer_norm_forward(work->real, &norm, count, (da_matrix){x, ld}, x, ld);
}

/* Norms and position encoding of the parts in work. q: the rows of all parts. */
static void norm_and_rotate(const forward_work *work, int64_t first, int64_t count, void *q) {
    const da_multihead *multihead = work->multihead;
    const da_multihead_config *config = &multihead->config;
    for (int part = work->part; config->qk_layer_norm && part < work->end && part < 2; part++) {
        norm_part(work, part, first, count, da_elements_on(q, column_of(multihead, part), work->real));
    }
    bool has_query = work->part == 0, has_key = work->part <= 1 && work->end > 1;
    if (work->rotary.applies && (has_query || has_key)) {
        const da_rotary_rows rows = {q, da_elements_on(q, config->embed_dim, work->real), multihead->joint_width,
                                     has_query ? config->num_heads : 0, has_key ? config->kv_heads : 0};
        da_rotary_apply(work->real, &work->rotary, false, first, count, &rows);
    }
}

static void project_block(int64_t block, int thread, void *user) {
    const forward_work *work = user;
    const da_multihead *multihead = work->multihead;
    da_dtype stored = multihead->config.dtype;
    int64_t first = block * DA_ROW_BLOCK, count = block_rows(work, first), ld = multihead->joint_width;
    int64_t column = column_of(multihead, work->part), columns = column_of(multihead, work->end) - column;
    forward_scratch scratch = scratch_of(work, thread);
    bool direct = stored == work->real;
    void *target = da_elements_on(work->saved->projected, first * ld, stored);
    void *q = direct ? target : scratch.output;
    multiply(work, first, count, scratch.input, q);
    da_add_bias(work->real, work->parameters.at[DA_Q_BIAS + work->part], columns, count,
                da_elements_on(q, column, work->real), ld);
    norm_and_rotate(work, first, count, q);
    for (int64_t r = 0; !direct && r < count; r++) {
        da_convert(work->real, da_elements_on(q, r * ld + column, work->real), 1, stored,
                   da_elements_on(target, r * ld + column, stored), 1, columns);
    }
}

/* All parts; one after the other where their weights are at hand one at a time. */
static da_status project(forward_work *work, int threads) {
    const da_multihead *multihead = work->multihead;
    int together = multihead->shards > 1 ? 1 : 3;
    da_status status = DA_OK;
    for (work->part = 0; status == DA_OK && work->part < 3; work->part = work->end) {
        work->end = work->part + together;
        status = da_real_parameters_fetch(multihead, &work->parameters, (da_parameter_id)(DA_Q_WEIGHT + work->part));
        if (status == DA_OK) {
            da_parallel_for(threads, da_row_blocks(work->rows), project_block, work);
        }
    }
    return status;
}

/* ---- attention and output ---------------------------------------------------------------------------------------- */

static da_status attend(const forward_work *work, const da_call_options *options) {
    const da_multihead *multihead = work->multihead;
    da_multihead_saved *saved = work->saved;
    da_tensor heads[3], attended = da_module_attended(multihead, saved->batch, saved->n, saved->attended), lse;
    da_module_heads(multihead, saved->batch, saved->n, saved->projected, heads);
    lse = da_tensor_make(saved->lse, DA_F64, saved->batch, saved->n, multihead->config.num_heads, 1);
    return da_attention_forward(multihead->attention, &heads[0], &heads[1], &heads[2], &attended,
                                saved->lse ? &lse : NULL, options);
}

static void output_block(int64_t block, int thread, void *user) {
    const forward_work *work = user;
    const da_multihead *multihead = work->multihead;
    int64_t first = block * DA_ROW_BLOCK, count = block_rows(work, first), width = multihead->config.embed_dim, ld;
    forward_scratch scratch = scratch_of(work, thread);
    da_tensor attended =
        da_sequence_make(work->saved->attended, multihead->config.dtype, work->saved->batch, work->saved->n, width);
    void *target;
    bool direct = da_rows_direct(work->out, first, count, work->real, &target, &ld);
    if (!direct) {
        target = scratch.output;
        ld = width;
    }
    if (multihead->config.layer_norm) {
        da_layer_norm norm = da_real_norm(multihead, &work->parameters, DA_NORM_WEIGHT);
        da_matrix x = da_rows_load(&attended, first, count, work->real, scratch.input);
        da_layer_norm_forward(work->real, &norm, count, x, scratch.input, width);
        da_product(work->real, DA_PRODUCT_B_TRANSPOSED, count, width, width, (da_matrix){scratch.input, width},
                   (da_matrix){work->parameters.at[DA_OUT_WEIGHT], width}, false, target, ld);
    } else {
        const block_product product = {&attended, first, count, DA_OUT_WEIGHT, width};
        multiply_block(work, &product, scratch.input, target, ld);
    }
    da_add_bias(work->real, work->parameters.at[DA_OUT_BIAS], width, count, target, ld);
    if (!direct) {
        da_rows_store(work->out, first, count, work->real, (da_matrix){target, ld});
    }
}

/* ---- calls ------------------------------------------------------------------------------------------------------- */

static da_status make_saved(const da_multihead *multihead, const da_tensor *query, bool training,
                            da_multihead_saved **out) {
    const da_multihead_config *config = &multihead->config;
    const da_allocator *allocator = multihead->allocator;
    size_t rows = (size_t)(query->shape[0] * query->shape[1]), size = da_dtype_size(config->dtype);
    da_multihead_saved *saved = da_allocate(allocator, 1, sizeof *saved);
    if (!saved) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *saved = (da_multihead_saved){.multihead = multihead,
                                  .batch = query->shape[0],
                                  .n = query->shape[1],
                                  .tokens = da_tokens_whole(query->shape[1])};
    saved->projected = da_allocate(allocator, rows * (size_t)multihead->joint_width, size);
    saved->attended = saved->projected ? da_allocate(allocator, rows * (size_t)config->embed_dim, size) : NULL;
    bool complete = saved->attended != NULL;
    if (complete && training) {
        saved->lse = da_allocate(allocator, rows * (size_t)config->num_heads, sizeof(double));
        complete = saved->lse != NULL;
    }
    if (complete && training && config->qk_layer_norm) {
        saved->unnormed = da_allocate(allocator, rows * (size_t)(config->embed_dim + multihead->key_width),
                                      da_dtype_size(da_real_of(config->dtype)));
        complete = saved->unnormed != NULL;
    }
    if (!complete) {
        da_multihead_saved_free(saved);
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *out = saved;
    return DA_OK;
}

void da_multihead_saved_free(da_multihead_saved *saved) {
    if (saved) {
        const da_allocator *allocator = saved->multihead->allocator;
        da_release(allocator, saved->projected);
        da_release(allocator, saved->attended);
        da_release(allocator, saved->unnormed);
        da_release(allocator, saved->lse);
        da_release(allocator, saved);
    }
}

static da_status run_parts(forward_work *work, const da_call_options *options, int threads) {
    const da_multihead *multihead = work->multihead;
    int foreign = da_limit_foreign_threads(1);
    da_rotary_begin(&work->rotary, &multihead->config, &work->saved->tokens);
    da_status status = project(work, threads);
    if (status == DA_OK) {
        status = attend(work, options);
    }
    if (status == DA_OK) {
        status = da_real_parameters_fetch(multihead, &work->parameters, DA_OUT_WEIGHT);
    }
    if (status == DA_OK) {
        da_parallel_for(threads, da_row_blocks(work->rows), output_block, work);
    }
    da_limit_foreign_threads(foreign);
    return status;
}

/* All is checked, and work->saved made. */
static da_status compute(forward_work *work, const da_call_options *options) {
    const da_multihead *multihead = work->multihead;
    forward_scratch unused;
    int64_t blocks = da_row_blocks(work->rows);
    int threads = (int)(multihead->threads < blocks ? multihead->threads : blocks);
    work->scratch_bytes = lay_out(work, NULL, &unused);
    work->scratch = da_allocate(multihead->allocator, (size_t)threads, work->scratch_bytes);
    if (!work->scratch) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    da_status status = da_real_parameters_make(multihead, &work->parameters);
    if (status == DA_OK) {
        status = run_parts(work, options, threads);
        da_real_parameters_release(multihead, &work->parameters);
    }
    da_release(multihead->allocator, work->scratch);
    return status;
}

/* The call's tokens, and that all ranks call for a forward pass. *alike: a refusal is, on every rank. */
static da_status meet(da_multihead_saved *saved, bool *alike) {
    const da_multihead *multihead = saved->multihead;
    const da_sharded_call call = {.backward = false};
    da_status status =
        da_tokens_of_rank(&saved->tokens, multihead->context, multihead->partition, multihead->stripe, saved->n);
    if (status == DA_OK) {
        status = da_module_check_length(multihead, saved->tokens.n);
    }
    *alike = status == DA_ERROR_INVALID_ARGUMENT;
    return status == DA_OK && multihead->shards > 1 ? da_shards_agree(multihead, &call, alike) : status;
}

static da_status check_out(const da_module_inputs *inputs, const da_tensor *out) {
    static const char *const names[] = {"query", "key", "value"};
    da_status status = da_tensor_check_output(out, "out");
    for (int k = 0; k < 3 && status == DA_OK; k++) {
        if (da_tensors_meet(out, inputs->tensors[k])) {
            status = da_report(DA_ERROR_INVALID_ARGUMENT,
                               "out.data is %p, which meets %s's memory; allowed: memory apart from the inputs",
                               out->data, names[k]);
        }
    }
    return status;
}

static da_status run(const da_multihead *multihead, const da_module_inputs *inputs, const da_tensor *out,
                     const da_call_options *options, bool training, da_multihead_saved **saved, bool *alike) {
    forward_work work = {
        .multihead = multihead,
        .inputs = *inputs,
        .out = out,
        .real = da_real_of(multihead->config.dtype),
        .in_bf16 = multihead->config.dtype == DA_BF16 && da_onednn_takes_bf16(),
        .rows = out->shape[0] * out->shape[1],
    };
    da_status status = check_out(inputs, out);
    if (status == DA_OK) {
        status = make_saved(multihead, inputs->tensors[0], training, &work.saved);
    }
    if (status == DA_OK && multihead->holds_part) {
        status = meet(work.saved, alike);
    }
    if (status == DA_OK) {
        status = compute(&work, options);
    }
    if (status == DA_OK && training) {
        *saved = work.saved;
    } else {
        da_multihead_saved_free(work.saved);
    }
    return status;
}

da_status da_multihead_forward(const da_multihead *multihead, const da_tensor *query, const da_tensor *key,
                               const da_tensor *value, const da_tensor *out, const da_call_options *options) {
    da_module_inputs inputs;
    bool alike = false;
    da_status status = da_module_check(multihead, query, key, value, out, "out", &inputs);
    if (status == DA_OK) {
        status = run(multihead, &inputs, out, options, false, NULL, &alike);
    }
    return da_module_leave(multihead, status, alike);
}

da_status da_multihead_forward_training(const da_multihead *multihead, const da_tensor *query, const da_tensor *key,
                                        const da_tensor *value, const da_tensor *out, const da_call_options *options,
                                        da_multihead_saved **saved) {
    da_module_inputs inputs;
    bool alike = false;
    if (!saved) {
        return da_module_leave(
            multihead, da_report(DA_ERROR_INVALID_ARGUMENT, "saved is NULL; allowed: a place for the activations"),
            false);
    }
    *saved = NULL;
    da_status status = da_module_check(multihead, query, key, value, out, "out", &inputs);
    if (status == DA_OK) {
        status = run(multihead, &inputs, out, options, true, saved, &alike);
    }
    return da_module_leave(multihead, status, alike);
}
