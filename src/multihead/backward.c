/* The backward pass. First the gradient of the attention's output, block by block; then the attention's own backward
 * pass; then, chunk by chunk of rows, what the projections add: blocks of rows make the gradients of the inputs, and
 * blocks of output features those of the weights. How rows and features are cut depends on nothing but the problem.
 * Where the module is sharded, that is done for query, key, value and output one after the other, each with its weight at
 * hand, and with the sum of its gradient over the ranks at the end.
 * Gradients of parameters and inputs are written when nothing can be refused any more. */
#include "multihead/backward.h"

#include <string.h>

#include "attention/workspace.h"
#include "config/validation.h"
#include "core/parallel.h"
#include "core/tensor.h"
#include "multihead/convert.h"
#include "multihead/linear.h"
#include "multihead/shards.h"

enum { CHUNK_BLOCKS = DA_CHUNK_ROWS / DA_ROW_BLOCK };

void da_multihead_backward_tensors_init(da_multihead_backward_tensors *tensors) {
    if (tensors) {
        *tensors = (da_multihead_backward_tensors){.size = sizeof *tensors};
    }
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* Does the gradient of an input need memory of its own until its parts are added up? */
static bool needs_sum(const da_backward_work *work, int slot) {
    void *data;
    int64_t ld;
    bool direct = true;
    if (work->multihead->shards == 1 || !work->grad_inputs[slot] || work->slot_of[slot] != slot ||
        work->last_of[slot] == slot) {
        return false;
    }
    for (int64_t first = 0; direct && first < work->rows; first += DA_ROW_BLOCK) {
        int64_t rest = work->rows - first, count = rest < DA_ROW_BLOCK ? rest : DA_ROW_BLOCK;
        direct = da_rows_direct(work->grad_inputs[slot], first, count, work->real, &data, &ld);
    }
    return !direct;
}

static void lay_out(da_backward_work *work, char *base) {
    const da_multihead *multihead = work->multihead;
    const da_multihead_config *config = &multihead->config;
    size_t real = da_dtype_size(work->real), stored = da_dtype_size(config->dtype);
    int64_t width = config->embed_dim, joint = multihead->joint_width;
    size_t chunk = (size_t)(work->rows < DA_CHUNK_ROWS ? work->rows : DA_CHUNK_ROWS);
    size_t block = (size_t)(work->rows < DA_ROW_BLOCK ? work->rows : DA_ROW_BLOCK);
    da_arena arena = {base, 0};
    work->grad_attended = da_arena_take(&arena, (size_t)(work->rows * width), stored);
    for (int part = 0; part < 3; part++) {
        int64_t features = part == 0 ? width : multihead->key_width;
        work->grad_heads[part] = da_arena_take(&arena, (size_t)(work->rows * features), stored);
    }
    for (int slot = 0; slot < 3; slot++) {
        size_t rows = needs_sum(work, slot) ? (size_t)work->rows : 0;
        void *sum = da_arena_take(&arena, rows * (size_t)width, real);
        work->sums[slot] = rows > 0 ? sum : NULL;
    }
    work->chunk.grad_joint = da_arena_take(&arena, chunk * (size_t)joint, real);
    work->chunk.grad_out = da_arena_take(&arena, chunk * (size_t)width, real);
    work->chunk.normed = da_arena_take(&arena, chunk * (size_t)width, real);
    for (int part = 0; part < 3; part++) {
        work->chunk.inputs[part] = da_arena_take(&arena, chunk * (size_t)width, real);
    }
    work->norm_sums = da_arena_take(&arena, (size_t)(2 * width), real);
    work->partial_width = 2 * joint; /* of q_ln and k_ln: 2 (E + E'); of norm: 2 E */
    work->partials = da_arena_take(&arena, (size_t)(CHUNK_BLOCKS * work->partial_width), real);
    work->thread_rows = block;
    work->scratch = da_arena_take(&arena, (size_t)work->threads * 2 * block * (size_t)width, real);
    work->bytes = arena.used;
}

/* One of a thread's two arrays of (DA_ROW_BLOCK, E). */
static void *scratch_of(const da_backward_work *work, int thread, int which) {
    int64_t elements = (int64_t)work->thread_rows * work->multihead->config.embed_dim;
    return da_elements_on(work->scratch, (2 * thread + which) * elements, work->real);
}

static void *partial_of(const da_backward_work *work, int64_t block, int64_t first) {
    return da_elements_on(work->partials, block % CHUNK_BLOCKS * work->partial_width + first, work->real);
}

static void clear_partials(const da_backward_work *work) {
    memset(work->partials, 0, (size_t)(CHUNK_BLOCKS * work->partial_width) * da_dtype_size(work->real));
}

/* Adds `count` elements of every block's partial sums, from element `first`, in the order of blocks. */
static void collect_partials(const da_backward_work *work, int64_t first, int64_t count, void *sum) {
    for (int64_t block = 0; sum && block < CHUNK_BLOCKS; block++) {
        da_add_elements(work->real, sum, partial_of(work, block, first), count);
    }
}

static int64_t rows_from(const da_backward_work *work, int64_t first, int64_t most) {
    return work->rows - first < most ? work->rows - first : most;
}

/* ---- gradient of the attention's output -------------------------------------------------------------------------- */

static da_tensor attended_rows(const da_backward_work *work, void *data) {
    const da_multihead_saved *saved = work->saved;
    return da_sequence_make(data, work->multihead->config.dtype, saved->batch, saved->n,
                            work->multihead->config.embed_dim);
}

static void output_block(int64_t index, int thread, void *user) {
    const da_backward_work *work = user;
    const da_multihead *multihead = work->multihead;
    int64_t block = work->first_block + index, first = block * DA_ROW_BLOCK;
    int64_t count = rows_from(work, first, DA_ROW_BLOCK), width = multihead->config.embed_dim;
    void *gradient = scratch_of(work, thread, 0), *other = scratch_of(work, thread, 1);
    da_tensor attended = attended_rows(work, work->saved->attended);
    da_tensor grad_attended = attended_rows(work, work->grad_attended);
    da_matrix grad_out = da_rows_load(work->grad_out, first, count, work->real, other);
    da_product(work->real, DA_PRODUCT_PLAIN, count, width, width, grad_out,
               (da_matrix){work->parameters.at[DA_OUT_WEIGHT], width}, false, gradient, width);
    if (multihead->config.layer_norm) {
        da_layer_norm norm = da_real_norm(multihead, &work->parameters, DA_NORM_WEIGHT);
        da_matrix x = da_rows_load(&attended, first, count, work->real, other);
        da_layer_norm_backward(work->real, &norm, count, x, (da_matrix){gradient, width}, gradient, width,
                               partial_of(work, block, 0), partial_of(work, block, width));
    }
    da_rows_store(&grad_attended, first, count, work->real, (da_matrix){gradient, width});
}

static void output_gradient(da_backward_work *work) {
    int64_t blocks = da_row_blocks(work->rows), width = work->multihead->config.embed_dim;
    memset(work->norm_sums, 0, (size_t)(2 * width) * da_dtype_size(work->real));
    for (work->first_block = 0; work->first_block < blocks; work->first_block += CHUNK_BLOCKS) {
        int64_t rest = blocks - work->first_block;
        clear_partials(work);
        da_parallel_for(work->threads, rest < CHUNK_BLOCKS ? rest : CHUNK_BLOCKS, output_block, work);
        collect_partials(work, 0, 2 * width, work->norm_sums);
    }
}

/* ---- the attention ----------------------------------------------------------------------------------------------- */

static da_status attention_gradient(const da_backward_work *work) {
    const da_multihead *multihead = work->multihead;
    const da_multihead_saved *saved = work->saved;
    da_tensor heads[3], gradients[3];
    da_tensor out = da_module_attended(multihead, saved->batch, saved->n, saved->attended);
    da_tensor grad_out = da_module_attended(multihead, saved->batch, saved->n, work->grad_attended);
    da_tensor lse = da_tensor_make(saved->lse, DA_F64, saved->batch, saved->n, multihead->config.num_heads, 1);
    da_module_heads(multihead, saved->batch, saved->n, saved->projected, heads);
    for (int part = 0; part < 3; part++) {
        gradients[part] = da_tensor_make(work->grad_heads[part], heads[part].dtype, saved->batch, saved->n,
                                         heads[part].shape[2], heads[part].shape[3]);
    }
    da_backward_tensors tensors;
    da_backward_tensors_init(&tensors);
    tensors.query = &heads[0];
    tensors.key = &heads[1];
    tensors.value = &heads[2];
    tensors.out = &out;
    tensors.lse = &lse;
    tensors.grad_out = &grad_out;
    tensors.grad_query = &gradients[0];
    tensors.grad_key = &gradients[1];
    tensors.grad_value = &gradients[2];
    return da_attention_backward(multihead->attention, &tensors, &work->options);
}

/* ---- projections: rows ------------------------------------------------------------------------------------------- */

static bool is_padded(const da_backward_work *work, int64_t row) {
    const da_call_options *options = &work->options;
    int64_t n = work->saved->n, batch = row / n;
    const da_call_options mask_alone = {.key_mask = options->key_mask,
                                        .key_mask_stride = {options->key_mask_stride[0], options->key_mask_stride[1]}};
    return (options->key_lengths && da_tokens_position(&work->saved->tokens, row) >= options->key_lengths[batch]) ||
           da_key_is_padded(&mask_alone, batch, row % n);
}

/* Rows of padded keys stay out of it: x may be NaN there, and their gradient is zero. */
static void undo_key_norm(const da_backward_work *work, int64_t block, int64_t count, void *x, void *key) {
    const da_multihead *multihead = work->multihead;
    int64_t width = multihead->config.embed_dim, key_width = multihead->key_width, ld = multihead->joint_width;
    da_layer_norm norm = da_real_norm(multihead, &work->parameters, DA_K_LN_WEIGHT);
    for (int64_t r = 0; r < count; r++) {
        void *row = da_elements_on(key, r * ld, work->real);
        if (!is_padded(work, block * DA_ROW_BLOCK + r)) {
            da_layer_norm_backward(work->real, &norm, 1,
                                   (da_matrix){da_elements_on(x, r * (width + key_width), work->real), key_width},
                                   (da_matrix){row, key_width}, row, key_width, partial_of(work, block, 2 * width),
                                   partial_of(work, block, 2 * width + key_width));
        }
    }
}

/* True if a part, of query, key, value, output, is in work. */
static bool in_work(const da_backward_work *work, int part) {
    return part >= work->part && part < work->end;
}

/* Gradients of q and k before position encoding and norms. joint: the block's rows of chunk.grad_joint. */
static void undo_position_and_norm(const da_backward_work *work, int64_t block, int64_t count, void *joint) {
    const da_multihead *multihead = work->multihead;
    const da_multihead_config *config = &multihead->config;
    int64_t width = config->embed_dim, ld = multihead->joint_width, both = width + multihead->key_width;
    int64_t first = block * DA_ROW_BLOCK;
    void *key = da_elements_on(joint, width, work->real);
    if (work->rotary.applies && (in_work(work, 0) || in_work(work, 1))) {
        const da_rotary_rows rows = {joint, key, ld, in_work(work, 0) ? config->num_heads : 0,
                                     in_work(work, 1) ? config->kv_heads : 0};
        da_rotary_apply(work->real, &work->rotary, true, first, count, &rows);
    }
    if (!config->qk_layer_norm) {
        return;
    }
    void *x = da_elements_on(work->saved->unnormed, first * both, work->real);
    if (in_work(work, 0)) {
        da_layer_norm of_query = da_real_norm(multihead, &work->parameters, DA_Q_LN_WEIGHT);
        da_layer_norm_backward(work->real, &of_query, count, (da_matrix){x, both}, (da_matrix){joint, ld}, joint, ld,
                               partial_of(work, block, 0), partial_of(work, block, width));
    }
    if (in_work(work, 1)) {
        undo_key_norm(work, block, count, da_elements_on(x, width, work->real), key);
    }
}

/* The first column of a part in the gradients of q, k, v beside one another; of part 3, where they end. */
static int64_t column_of(const da_multihead *multihead, int part) {
    return part == 0 ? 0 : multihead->config.embed_dim + (part - 1) * multihead->key_width;
}

/* Adds the parts in work that a slot stands for, neighbours in one product. */
static void add_parts(const da_backward_work *work, int64_t count, const void *joint, int slot, void *sum, int64_t ld) {
    const da_multihead *multihead = work->multihead;
    int64_t width = multihead->config.embed_dim;
    int last = work->end < 3 ? work->end - 1 : 2;
    bool accumulate = slot < work->part;
    for (int part = work->part, begin = part; part <= last; part++) {
        if (work->slot_of[part] != slot) {
            begin = part + 1;
            continue;
        }
        if (part < last && work->slot_of[part + 1] == slot) {
            continue;
        }
        int64_t from = column_of(multihead, begin);
        da_matrix gradient = {da_elements_on(joint, from, work->real), multihead->joint_width};
        da_product(work->real, DA_PRODUCT_PLAIN, count, width, column_of(multihead, part + 1) - from, gradient,
                   (da_matrix){work->parameters.at[DA_Q_WEIGHT + begin], width}, accumulate, sum, ld);
        accumulate = true;
        begin = part + 1;
    }
}

/* A gradient of an input: the sum over the parts that it stands for. */
static void input_gradient(const da_backward_work *work, int64_t first, int64_t count, const void *joint, int slot,
                           void *scratch) {
    const da_tensor *target = work->grad_inputs[slot];
    int64_t width = work->multihead->config.embed_dim, ld = width;
    void *sum;
    bool direct = da_rows_direct(target, first, count, work->real, &sum, &ld);
    if (!direct) {
        sum = work->sums[slot] ? da_elements_on(work->sums[slot], first * width, work->real) : scratch;
        ld = width;
    }
    add_parts(work, count, joint, slot, sum, ld);
    if (!direct && in_work(work, work->last_of[slot])) {
        da_rows_store(target, first, count, work->real, (da_matrix){sum, ld});
    }
}

/* Rows of an input for the gradients of weights, where the chunk needs a copy; padded rows of key and value are zero
 * there: they may hold anything, and their gradients are zero. */
static void copy_input(const da_backward_work *work, int part, int64_t first, int64_t count) {
    const da_tensor *input = work->inputs.tensors[part];
    int64_t width = work->multihead->config.embed_dim;
    void *copy = da_elements_on(work->chunk.inputs[part], (first - work->chunk.first) * width, work->real);
    da_rows_copy(input, first, count, work->real, copy);
    for (int64_t r = 0; part > 0 && r < count; r++) {
        if (is_padded(work, first + r)) {
            memset(da_elements_on(copy, r * width, work->real), 0, (size_t)width * da_dtype_size(work->real));
        }
    }
}

/* The same of the output projection's two factors. */
static void copy_output_factors(const da_backward_work *work, int64_t first, int64_t count) {
    const da_multihead *multihead = work->multihead;
    int64_t width = multihead->config.embed_dim, place = (first - work->chunk.first) * width;
    da_tensor attended = attended_rows(work, work->saved->attended);
    void *normed = da_elements_on(work->chunk.normed, place, work->real);
    if (!work->chunk.grad_out_direct) {
        da_rows_copy(work->grad_out, first, count, work->real, da_elements_on(work->chunk.grad_out, place, work->real));
    }
    if (work->chunk.normed_direct) {
        return;
    }
    da_matrix x = da_rows_load(&attended, first, count, work->real, normed);
    if (multihead->config.layer_norm) {
        da_layer_norm norm = da_real_norm(multihead, &work->parameters, DA_NORM_WEIGHT);
        da_layer_norm_forward(work->real, &norm, count, x, normed, width);
    }
}

/* The gradients of q, k and v beside one another, in the real type: of the parts in work. */
static void join_gradients(const da_backward_work *work, int64_t first, int64_t count, void *joint) {
    const da_multihead *multihead = work->multihead;
    da_dtype stored = multihead->config.dtype;
    for (int64_t r = 0; r < count; r++) {
        for (int part = work->part; part < work->end && part < 3; part++) {
            int64_t column = column_of(multihead, part), features = column_of(multihead, part + 1) - column;
            da_convert(stored, da_elements_on(work->grad_heads[part], (first + r) * features, stored), 1, work->real,
                       da_elements_on(joint, r * multihead->joint_width + column, work->real), 1, features);
        }
    }
}

static void projection_block(int64_t index, int thread, void *user) {
    const da_backward_work *work = user;
    const da_multihead *multihead = work->multihead;
    int64_t first = work->chunk.first + index * DA_ROW_BLOCK, count = rows_from(work, first, DA_ROW_BLOCK);
    void *joint = da_elements_on(work->chunk.grad_joint, index * DA_ROW_BLOCK * multihead->joint_width, work->real);
    join_gradients(work, first, count, joint);
    undo_position_and_norm(work, first / DA_ROW_BLOCK, count, joint);
    for (int slot = 0; slot < 3; slot++) {
        if (work->slot_of[slot] == slot && work->grad_inputs[slot]) {
            input_gradient(work, first, count, joint, slot, scratch_of(work, thread, 0));
        }
    }
    for (int part = work->part; work->gradients && part < work->end && part < 3; part++) {
        if (work->chunk.copied[part]) {
            copy_input(work, part, first, count);
        }
    }
    if (work->gradients && in_work(work, 3)) {
        copy_output_factors(work, first, count);
    }
}

/* ---- projections: weights ---------------------------------------------------------------------------------------- */

/* Features first .. first + count - 1 of one projection: gradient (rows, features), input (rows, E). */
static void weight_gradient(const da_backward_work *work, da_parameter_id weight, da_parameter_id bias, int64_t first,
                            int64_t count, da_matrix gradient, da_matrix input) {
    da_linear_feature_gradient(work->real, first, count, work->chunk.count, work->multihead->config.embed_dim, gradient,
                               input, work->targets.at[weight], work->targets.at[bias]);
}

/* Output features of query, key, value, output. */
static int64_t features_of(const da_multihead *multihead, int part) {
    return part == 1 || part == 2 ? multihead->key_width : multihead->config.embed_dim;
}

/* Blocks of features of the parts in work, one after the other. */
static void feature_block(int64_t index, int thread, void *user) {
    const da_backward_work *work = user;
    const da_multihead *multihead = work->multihead;
    int part = work->part;
    for (; index >= da_feature_blocks(features_of(multihead, part)); part++) {
        index -= da_feature_blocks(features_of(multihead, part));
    }
    int64_t first = index * DA_FEATURE_BLOCK, rest = features_of(multihead, part) - first;
    int64_t count = rest < DA_FEATURE_BLOCK ? rest : DA_FEATURE_BLOCK;
    if (part == 3) {
        weight_gradient(work, DA_OUT_WEIGHT, DA_OUT_BIAS, first, count, work->chunk.grad_out_rows,
                        work->chunk.normed_rows);
        return;
    }
    da_matrix gradient = {da_elements_on(work->chunk.grad_joint, column_of(multihead, part), work->real),
                          multihead->joint_width};
    weight_gradient(work, (da_parameter_id)(DA_Q_WEIGHT + part), (da_parameter_id)(DA_Q_BIAS + part), first, count,
                    gradient, work->chunk.input_rows[part]);
}

/* Which matrices of a chunk are the callers' memory, and which are copies. */
static void choose_sources(da_backward_work *work) {
    int64_t width = work->multihead->config.embed_dim, first = work->chunk.first, count = work->chunk.count;
    bool padding = work->options.key_lengths || work->options.key_mask;
    da_tensor attended = attended_rows(work, work->saved->attended);
    for (int part = 0; part < 3; part++) {
        const da_tensor *input = work->inputs.tensors[part];
        da_matrix *rows = &work->chunk.input_rows[part];
        void *direct;
        bool as_before = part > 0 && part > work->part && da_rows_same(input, work->inputs.tensors[part - 1]) &&
                         (part > 1 || !padding);
        bool is_direct = (part == 0 || !padding) && da_rows_direct(input, first, count, work->real, &direct, &rows->ld);
        work->chunk.copied[part] = !as_before && !is_direct;
        if (as_before) {
            *rows = work->chunk.input_rows[part - 1];
        } else {
            *rows = is_direct ? (da_matrix){direct, rows->ld} : (da_matrix){work->chunk.inputs[part], width};
        }
    }
    void *direct;
    int64_t ld = width;
    work->chunk.grad_out_direct = da_rows_direct(work->grad_out, first, count, work->real, &direct, &ld);
    work->chunk.grad_out_rows =
        work->chunk.grad_out_direct ? (da_matrix){direct, ld} : (da_matrix){work->chunk.grad_out, width};
    work->chunk.normed_direct =
        !work->multihead->config.layer_norm && da_rows_direct(&attended, first, count, work->real, &direct, &ld);
    work->chunk.normed_rows =
        work->chunk.normed_direct ? (da_matrix){direct, ld} : (da_matrix){work->chunk.normed, width};
}

static void collect_norms(const da_backward_work *work) {
    int64_t width = work->multihead->config.embed_dim, key_width = work->multihead->key_width, first = 0;
    const da_parameter_id ids[4] = {DA_Q_LN_WEIGHT, DA_Q_LN_BIAS, DA_K_LN_WEIGHT, DA_K_LN_BIAS};
    for (int k = 0; k < 4; k++) {
        int64_t count = k < 2 ? width : key_width;
        if (in_work(work, k / 2)) {
            collect_partials(work, first, count, work->targets.at[ids[k]]);
        }
        first += count;
    }
}

/* What the parts in work add, chunk by chunk. */
static void add_chunks(da_backward_work *work) {
    int64_t features = 0;
    for (int part = work->part; part < work->end; part++) {
        features += da_feature_blocks(features_of(work->multihead, part));
    }
    for (int64_t first = 0; first < work->rows; first += DA_CHUNK_ROWS) {
        work->chunk.first = first;
        work->chunk.count = rows_from(work, first, DA_CHUNK_ROWS);
        choose_sources(work);
        clear_partials(work);
        da_parallel_for(work->threads, da_row_blocks(work->chunk.count), projection_block, work);
        if (work->gradients) {
            collect_norms(work);
            da_parallel_for(work->threads, features, feature_block, work);
        }
    }
}

/* A sharded module's part: its weight is fetched where an input's gradient needs it, and its gradient summed over the ranks. */
static da_status sharded_part(da_backward_work *work, int part) {
    const da_multihead *multihead = work->multihead;
    da_parameter_id weight = part == 3 ? DA_OUT_WEIGHT : (da_parameter_id)(DA_Q_WEIGHT + part);
    bool of_input = part < 3 && work->grad_inputs[part];
    if (!of_input && !work->gradients) {
        return DA_OK;
    }
    work->part = part;
    work->end = part + 1;
    da_status status = of_input ? da_real_parameters_fetch(multihead, &work->parameters, weight) : DA_OK;
    if (status != DA_OK) {
        return status;
    }
    da_pass_gradients_begin(multihead, &work->targets, weight);
    add_chunks(work);
    return da_pass_gradients_end(multihead, &work->targets, weight);
}

static da_status projection_gradients(da_backward_work *work) {
    const da_multihead *multihead = work->multihead;
    int64_t width = multihead->config.embed_dim;
    da_status status = DA_OK;
    if (work->gradients && multihead->config.layer_norm) {
        for (int k = 0; k < 2; k++) {
            da_add_elements(work->real, work->targets.at[DA_NORM_WEIGHT + k],
                            da_elements_on(work->norm_sums, k * width, work->real), width);
        }
    }
    if (multihead->shards == 1) {
        work->part = 0;
        work->end = 4;
        add_chunks(work);
        return DA_OK;
    }
    for (int part = 0; status == DA_OK && part < 4; part++) {
        status = sharded_part(work, part);
    }
    return status == DA_OK ? da_pass_gradients_finish(multihead, &work->targets) : status;
}

/* ---- the call ---------------------------------------------------------------------------------------------------- */

static da_status compute(da_backward_work *work) {
    int foreign = da_limit_foreign_threads(1);
    da_rotary_begin(&work->rotary, &work->multihead->config, &work->saved->tokens);
    da_status status = da_real_parameters_fetch(work->multihead, &work->parameters, DA_OUT_WEIGHT);
    if (status == DA_OK) {
        output_gradient(work);
        status = attention_gradient(work);
    }
    if (status == DA_OK) {
        status = projection_gradients(work);
    }
    da_limit_foreign_threads(foreign);
    return status;
}

/* With work->memory laid out. *alike: a refusal is, on every rank. */
static da_status meet_and_compute(da_backward_work *work, bool *alike) {
    const da_multihead *multihead = work->multihead;
    da_sharded_call call = {.backward = true, .of_parameters = work->gradients != NULL};
    for (int part = 0; part < 3; part++) {
        call.of_inputs |= work->grad_inputs[part] ? 1 << part : 0;
    }
    da_status status = multihead->shards > 1 ? da_shards_agree(multihead, &call, alike) : DA_OK;
    if (status == DA_OK) {
        status = da_real_parameters_make(multihead, &work->parameters);
    }
    if (status != DA_OK) {
        return status;
    }
    status = da_pass_gradients_make(multihead, work->gradients, &work->targets);
    if (status == DA_OK) {
        status = compute(work);
        da_pass_gradients_release(multihead, &work->targets);
    }
    da_real_parameters_release(multihead, &work->parameters);
    return status;
}

static da_status run(const da_multihead *multihead, const da_multihead_saved *saved,
                     const da_multihead_backward_tensors *tensors, const da_call_options *options, bool *alike) {
    da_backward_work work;
    da_status status = da_backward_prepare(multihead, saved, tensors, options, &work);
    if (status != DA_OK) {
        return status;
    }
    lay_out(&work, NULL);
    char *memory = da_allocate(multihead->allocator, 1, work.bytes);
    if (!memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    lay_out(&work, memory);
    status = meet_and_compute(&work, alike);
    da_release(multihead->allocator, memory);
    return status;
}

da_status da_multihead_backward(const da_multihead *multihead, const da_multihead_saved *saved,
                                const da_multihead_backward_tensors *tensors, const da_call_options *options) {
    bool alike = false;
    da_status status = run(multihead, saved, tensors, options, &alike);
    return da_module_leave(multihead, status, alike);
}
