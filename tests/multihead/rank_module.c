#include "multihead/rank_module.h"

#include <stdlib.h>
#include <string.h>

#include "support/values.h"

enum { STRIPE = 3, SPACE = 2 }; /* rows after a batch element that is apart */

static int64_t position_of(const module_problem *p, const da_comm *comm, int64_t row) {
    int64_t position = row;
    if (comm) {
        da_partition_position(p->partition, STRIPE, p->n, comm->ranks, comm->rank, row, &position);
    }
    return position;
}

int64_t rank_module_position(const rank_module *m, const da_comm *comm, int64_t row) {
    return position_of(&m->problem, comm, row);
}

/* ---- tensors ----------------------------------------------------------------------------------------------------- */

static da_tensor make_tensor(const rank_module *m) {
    const module_problem *p = &m->problem;
    int64_t rows = m->length + (p->apart ? SPACE : 0);
    void *data = calloc((size_t)(p->batch * rows * p->embed_dim), da_dtype_size(p->dtype));
    da_tensor tensor = da_sequence_make(data, p->dtype, p->batch, m->length, p->embed_dim);
    tensor.stride[0] = rows * p->embed_dim;
    return tensor;
}

/* A number that every data type holds, of a token's channel: eighths between -1 and 1. */
static double number_of(int64_t batch, int64_t position, int64_t channel, uint64_t which) {
    uint64_t state = ((uint64_t)batch << 40) + ((uint64_t)position << 16) + (uint64_t)channel + (which << 52);
    state = (state ^ (state >> 29)) * UINT64_C(0xBF58476D1CE4E5B9);
    state = (state ^ (state >> 32)) * UINT64_C(0x94D049BB133111EB);
    return (double)((int64_t)(state >> 60) - 8) / 8;
}

static void fill(const rank_module *m, const da_comm *comm, const da_tensor *tensor, uint64_t which) {
    for (int64_t b = 0; b < m->problem.batch; b++) {
        for (int64_t row = 0; row < m->length; row++) {
            int64_t position = position_of(&m->problem, comm, row),
                    first = b * tensor->stride[0] + row * tensor->stride[1];
            for (int64_t c = 0; c < m->problem.embed_dim; c++) {
                value_store(tensor->data, tensor->dtype, first + c, number_of(b, position, c, which));
            }
        }
    }
}

static void make_tensors(rank_module *m, const da_comm *comm) {
    const module_problem *p = &m->problem;
    for (int k = 0; k < p->inputs; k++) {
        m->inputs[k] = make_tensor(m);
        m->grad_inputs[k] = make_tensor(m);
        fill(m, comm, &m->inputs[k], (uint64_t)k);
    }
    m->out = make_tensor(m);
    m->grad_out = make_tensor(m);
    fill(m, comm, &m->grad_out, 3);
    for (int64_t b = 0; b < p->batch; b++) {
        m->lengths[b] = b == 0 ? p->n - p->n / 8 : p->n / 4 + 1;
    }
    da_call_options_init(&m->options);
    m->options.key_lengths = p->padded ? m->lengths : NULL;
    da_multihead_backward_tensors_init(&m->tensors);
    const da_tensor **inputs[3] = {&m->tensors.query, &m->tensors.key, &m->tensors.value};
    const da_tensor **gradients[3] = {&m->tensors.grad_query, &m->tensors.grad_key, &m->tensors.grad_value};
    for (int k = 0; k < p->inputs; k++) {
        *inputs[k] = &m->inputs[k];
        *gradients[k] = p->no_input_gradients ? NULL : &m->grad_inputs[k];
    }
    m->tensors.grad_out = &m->grad_out;
    m->tensors.gradients = p->no_parameter_gradients ? NULL : m->gradients;
}

/* ---- the module -------------------------------------------------------------------------------------------------- */

static da_status make_module(rank_module *m, const da_comm *comm, const da_allocator *allocator) {
    const module_problem *p = &m->problem;
    da_context_options options;
    da_multihead_config config;
    da_attention_config attention;
    da_context_options_init(&options);
    options.threads = p->threads > 0 ? p->threads : 1;
    options.comm = comm;
    if (allocator) {
        options.allocator = *allocator;
    }
    da_multihead_config_init(&config);
    config.embed_dim = p->embed_dim;
    config.num_heads = p->heads;
    config.kv_heads = p->kv_heads;
    config.dtype = p->dtype;
    config.bias = config.layer_norm = config.qk_layer_norm = !p->plain;
    config.position = p->position;
    config.sharded = p->sharded;
    da_attention_config_init(&attention);
    da_attention_config_set_patterns(&attention, (int64_t[]){8, 20, 64}, 3, (int64_t[]){1, 2, 5}, 3);
    attention.causal = p->padded;
    attention.partition = p->partition;
    attention.stripe = STRIPE;
    bool several = comm && comm->ranks > 1;
    da_status status = da_context_create(&options, &m->context);
    if (status == DA_OK) {
        status = da_multihead_create(m->context, several ? p->implementation : "improved", &config, &attention,
                                     &m->multihead);
    }
    if (status == DA_OK) {
        status = da_multihead_initialise(m->multihead, 5);
    }
    return status == DA_OK ? da_multihead_gradients_create(m->multihead, &m->gradients) : status;
}

da_status rank_module_open(rank_module *m, const module_problem *problem, const da_comm *comm,
                           const da_allocator *allocator) {
    *m = (rank_module){.problem = *problem, .length = problem->n};
    if (comm) {
        da_partition_length(problem->partition, STRIPE, problem->n, comm->ranks, comm->rank, &m->length);
    }
    m->status = make_module(m, comm, allocator);
    make_tensors(m, comm);
    return m->status;
}

void rank_module_close(rank_module *m) {
    for (int k = 0; k < 3; k++) {
        free(m->inputs[k].data);
        free(m->grad_inputs[k].data);
    }
    free(m->out.data);
    free(m->grad_out.data);
    da_multihead_saved_free(m->saved);
    da_multihead_gradients_free(m->gradients);
    da_multihead_free(m->multihead);
    da_context_free(m->context);
}

da_status rank_module_forward(rank_module *m) {
    if (m->status == DA_OK) {
        m->status = da_multihead_forward_training(m->multihead, m->tensors.query, m->tensors.key, m->tensors.value,
                                                  &m->out, &m->options, &m->saved);
    }
    return m->status;
}

da_status rank_module_backward(rank_module *m) {
    if (m->status == DA_OK) {
        m->status = da_multihead_backward(m->multihead, m->saved, &m->tensors, &m->options);
    }
    if (m->status == DA_OK) {
        m->status = da_multihead_gradients_reduce(m->gradients);
    }
    return m->status;
}
