/* A module on one rank, its tensors and passes, for tests that compare modules over ranks with one another. */
#ifndef DA_TESTS_MULTIHEAD_RANK_MODULE_H
#define DA_TESTS_MULTIHEAD_RANK_MODULE_H

#include "dilated_attention_nn.h"

/* What is computed. */
typedef struct module_problem {
    const char *implementation;
    da_dtype dtype;
    da_partition partition;
    da_position position;
    int64_t batch, n, embed_dim, heads, kv_heads;
    int threads; /* 0: one */
    int inputs;  /* 1: query alone; 2: query and key; 3: query, key and value, all different */
    bool plain;  /* without biases and norms */
    bool padded; /* key_lengths */
    bool apart;  /* tensors with space after each batch element */
    bool sharded;
    bool no_input_gradients, no_parameter_gradients;
} module_problem;

/* A small module with divided parameters. */
#define SMALL_SHARDED(inputs_)                                                                                         \
    {                                                                                                                  \
        .implementation = "ring", .dtype = DA_F32, .batch = 2, .n = 61, .embed_dim = 24, .heads = 4, .kv_heads = 2,    \
        .inputs = (inputs_), .sharded = true                                                                           \
    }

typedef struct rank_module {
    module_problem problem;
    da_context *context;
    da_multihead *multihead;
    da_multihead_gradients *gradients;
    da_multihead_saved *saved;
    int64_t length;      /* tokens of this rank */
    da_tensor inputs[3]; /* filled by a function of place */
    da_tensor out, grad_out;
    da_tensor grad_inputs[3];
    int64_t lengths[4]; /* of keys */
    da_call_options options;
    da_multihead_backward_tensors tensors;
    da_status status; /* of open, then of the last pass */
} rank_module;

/* Context, module with the parameters of a seed, gradients, tensors. comm NULL: one process, which has all tokens. The
 * implementation is then, and where there is one rank, "improved". allocator NULL: the C library's. To be closed after an error, too. */
da_status rank_module_open(rank_module *m, const module_problem *problem, const da_comm *comm,
                           const da_allocator *allocator);
void rank_module_close(rank_module *m);

/* Each does nothing where m->status is an error already, and sets it. */
da_status rank_module_forward(rank_module *m);
da_status rank_module_backward(rank_module *m);

/* The token of the whole sequence that is a row of this rank. */
int64_t rank_module_position(const rank_module *m, const da_comm *comm, int64_t row);

#endif
