/* The module behind a handle, and what its calls share. */
#ifndef DA_MULTIHEAD_MODULE_H
#define DA_MULTIHEAD_MODULE_H

#include "multihead/layer_norm.h"
#include "multihead/parameters.h"
#include "multihead/rotary.h"

struct da_multihead {
    const da_context *context;
    const da_allocator *allocator;
    da_multihead_config config; /* kv_heads filled in */
    da_attention *attention;
    bool holds_part;   /* over several ranks, tensors hold this rank's part of the tokens, and calls are collective */
    int shard, shards; /* which of so many parts of the parameters this rank has; 0 of 1: all */
    da_partition partition;
    int64_t stripe;
    int threads;
    int64_t key_width;   /* E' */
    int64_t joint_width; /* E + 2 E': q, k and v beside one another */
    da_parameter_table table;
    void *parameters;
};

struct da_multihead_gradients {
    const da_multihead *multihead;
    void *values; /* in the real type; laid out as the parameters */
};

struct da_multihead_saved {
    const da_multihead *multihead;
    int64_t batch, n; /* n: rows of a batch element */
    da_tokens tokens; /* that they are */
    void *projected;  /* (batch n, E + 2 E'): q, k, v as the attention takes them */
    void *attended;   /* (batch n, E) */
    void *unnormed;   /* (batch n, E + E') in the real type: q and k before their norms; or NULL */
    double *lse;      /* (batch n, heads); or NULL */
};

/* Inputs of a call, NULLs filled in. */
typedef struct da_module_inputs {
    const da_tensor *tensors[3]; /* query, key, value */
} da_module_inputs;

/* Checks inputs and, by the same rules, one more tensor of their shape (out or grad_out). */
da_status da_module_check(const da_multihead *multihead, const da_tensor *query, const da_tensor *key,
                          const da_tensor *value, const da_tensor *other, const char *other_name,
                          da_module_inputs *inputs);

/* Position encodings bound the length of the whole sequence. */
da_status da_module_check_length(const da_multihead *multihead, int64_t n);

/* Checks data type and shape of a tensor of a call, whose query is checked. */
da_status da_module_check_sequence(const da_multihead *multihead, const da_tensor *tensor, const char *name,
                                   const da_tensor *query);

/* An error of a collective call: the other ranks need not wait for this one, unless all are refused alike. Returns `status`. */
da_status da_module_leave(const da_multihead *multihead, da_status status, bool alike);

/* q, k, v as the attention sees them in an array like `projected`, and (batch, n, heads, head_dim) of one like
 * `attended`. */
void da_module_heads(const da_multihead *multihead, int64_t batch, int64_t n, void *projected, da_tensor heads[3]);
da_tensor da_module_attended(const da_multihead *multihead, int64_t batch, int64_t n, void *attended);

#endif
