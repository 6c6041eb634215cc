/* dilated_attention_nn.h - multihead dilated attention as a module: projections, norms, position encodings, parameters;
 * and a language model made of it, with its training.
 *
 * A library of its own, dilated_attention_nn, because it needs a BLAS (CBLAS interface) and jansson; the library of
 * dilated_attention.h needs neither.
 *
 * WHAT IS COMPUTED
 *
 * For inputs query, key and value of shape (batch, n, embed_dim), with H heads, H' key and value heads (kv_heads),
 * head_dim d and E = embed_dim = H d, E' = H' d:
 *
 *     q = query q_proj.weight^T + q_proj.bias   (E)        k, v likewise from key and value   (E')
 *     q = layer_norm(q; q_ln), k = layer_norm(k; k_ln)     with qk_layer_norm: over all E, or E', channels of a token
 *     q = rotate(q), k = rotate(k)                         with a position encoding: every head, see below
 *     a = dilated attention(q, k, v)                       head h is channels h d .. h d + d - 1
 *     a = layer_norm(a; norm)                              with layer_norm: MAGNETO (arXiv:2210.06423), over all E
 *     out = a out_proj.weight^T + out_proj.bias
 *
 *     layer_norm(x; g)_c = (x_c - mean(x)) / sqrt(variance(x) + layer_norm_eps) g.weight_c + g.bias_c
 *
 * The variance is the mean of squared deviations. Biases of projections exist with `bias`, those of norms always.
 *
 * Rotary encoding (RoFormer, arXiv:2104.09864, eq. 34) turns the p-th pair of channels (x, y) of a head at position i
 * by the angle i rope_base^(-2p/d): (x cos - y sin, y cos + x sin). Positions count from 0. xPos (arXiv:2212.10554, and
 * torchscale's formulas) multiplies the turned pair of the query by s and that of the key by 1 / s,
 *
 *     s = ((2p + 0.4 d) / (1.4 d)) ^ ((i - ceil(n / 2)) / xpos_scale_base)
 *
 * so that a score has s^(i - j) and fades with the distance to the past; it grows towards the future, which is why xPos
 * is meant for causal attention. At the ends of a long sequence s leaves the range of numbers: calls whose factors
 * would be beyond 2^100 (f32, bf16), 2^1000 (f64) or 2^8 (f16) are refused. Angles and factors are computed in double.
 *
 * A PROGRAM (examples/multihead.c)
 *
 *     da_multihead_config config;
 *     da_multihead_config_init(&config);
 *     config.embed_dim = 768;
 *     config.num_heads = 12;
 *     da_multihead_create(context, "auto", &config, &attention_config, &multihead);
 *     da_multihead_initialise(multihead, 1);              // or da_multihead_load(multihead, "w.safetensors", NULL)
 *     da_tensor x = da_sequence_make(input, DA_F32, batch, n, 768);
 *     da_tensor y = da_sequence_make(output, DA_F32, batch, n, 768);
 *     da_multihead_forward(multihead, &x, NULL, NULL, &y, NULL);
 *
 * RULES
 *
 * - Those of dilated_attention.h: statuses and messages, sized structs, borrowed tensors.
 * - A forward or backward call only reads the parameters: any number of threads may run one module at once, while
 *   nobody writes parameters (da_multihead_parameter, _initialise, _load).
 * - Inputs and outputs have the module's data type. Sums, norms, biases and rotations are computed in f32, and in f64
 *   for DA_F64; with DA_BF16 and DA_F16, q, k, v, a and out (and their gradients) are rounded to the data type when
 *   stored, and nothing between.
 * - Results do not depend on the number of threads of the context, to the last bit. They may depend on the BLAS, and on
 *   the threads that it starts by itself. The library cuts the rows for its own threads, so a BLAS that stays on the
 *   thread that calls it is best: OpenBLAS built with OpenMP does (Debian: libopenblas-openmp-dev), and so does BLIS.
 *   No setting of the BLAS is changed; while a call runs, the calling thread's own OpenMP setting is one thread. An
 *   OpenBLAS built without threads may bear no concurrent calls: the library then lets its threads into it one at a
 *   time. Products in f32 and bf16 are oneDNN's where the build found it, see docs/multihead.md.
 */
#ifndef DILATED_ATTENTION_NN_H
#define DILATED_ATTENTION_NN_H

#include "dilated_attention.h"

#ifdef __cplusplus
extern "C" {
#endif

/* A dense view of (batch, n, embed_dim) memory: a da_tensor of shape (batch, n, 1, embed_dim). Other strides may be
 * set. */
DA_API da_tensor da_sequence_make(void *data, da_dtype dtype, int64_t batch, int64_t n, int64_t embed_dim);

/* ---------------------------------------------------------------------------------------------------------------------
 * The module
 */

typedef struct da_multihead da_multihead;

/* Creates a module whose attention is the implementation `name` of da_attention_create. Both configurations are
 * validated and copied; the attention's number of heads, and its data type where that is open, are the multihead's.
 * In a context of several ranks, with an implementation whose tensors are then parts (ring, distributed), all tensors of the
 * module hold this rank's part of the tokens, at least one; calls are collective; positions are those of the whole sequence.
 * Creation is collective, too: every rank must give the same configurations, or all end with DA_ERROR_COMMUNICATION.
 *
 * With config->sharded, the parameters of such a module are divided by rows (see SHARDED). In one process, or with one rank,
 * that changes nothing. With an implementation that computes on each rank by itself it is DA_ERROR_UNSUPPORTED.
 *
 * Where query, key and value are one input, their projections are one product. All parameters are 0 but the norms'
 * weights, which are 1. Errors: DA_ERROR_INVALID_ARGUMENT (also where the two configurations contradict each other),
 * DA_ERROR_UNAVAILABLE (DA_DEVICE_CUDA, or an implementation that cannot run here), DA_ERROR_UNKNOWN_IMPLEMENTATION,
 * DA_ERROR_UNSUPPORTED, DA_ERROR_COMMUNICATION, DA_ERROR_OUT_OF_MEMORY. On error *out is NULL. */
DA_API da_status da_multihead_create(const da_context *context, const char *name, const da_multihead_config *config,
                                     const da_attention_config *attention, da_multihead **out);

/* Frees a module; NULL is allowed. What was made from it (gradients, saved activations) must go first. */
DA_API void da_multihead_free(da_multihead *multihead);

/* Name of the attention implementation that runs; the string lives as long as the module. NULL for NULL. */
DA_API const char *da_multihead_implementation(const da_multihead *multihead);

/* ---------------------------------------------------------------------------------------------------------------------
 * Parameters
 *
 * name                              shape        exists
 * q_proj.weight                     (E, E)
 * k_proj.weight, v_proj.weight      (E', E)
 * q_proj.bias                       (E)          with bias; k_proj.bias and v_proj.bias are (E')
 * q_ln.weight, q_ln.bias            (E)          with qk_layer_norm; k_ln.weight and k_ln.bias are (E')
 * norm.weight, norm.bias            (E)          with layer_norm
 * out_proj.weight                   (E, E)
 * out_proj.bias                     (E)          with bias
 *
 * Weights are dense and have PyTorch's layout (out_features, in_features): out = in weight^T, and an output's weights
 * are consecutive. The other layout, (in_features, out_features), out = in weight, is that of Flax and Keras
 * ("kernel"): it is the transposed matrix, and da_multihead_load reads it if it is told so.
 */

/* A parameter, or the gradient of one. */
typedef struct da_parameter {
    const char *name; /* a module's: lives as long as the process; a model's: as long as the model */
    void *data;       /* dense; lives as long as the module (or model, or gradients) */
    da_dtype dtype;
    int rank;         /* 1 or 2 */
    int64_t shape[2]; /* of `data`; shape[1] is 1 where rank is 1 */
    /* Of a sharded parameter `data` has rows first_row .. first_row + shape[0] - 1 of whole_rows, perhaps none (shape[0] is 0).
     * Of others first_row is 0, and whole_rows is shape[0]. */
    int64_t first_row, whole_rows;
} da_parameter;

/* SHARDED
 *
 * In a module with config->sharded over P ranks, rank r holds of every parameter with R rows (a vector's elements are its rows)
 * the rows floor(r R / P) .. floor((r + 1) R / P) - 1; where R is smaller than P, some ranks hold none. A pass gathers what it
 * needs, the vectors at its beginning and the weights one by one, and lets each go before the next; a backward pass sums a
 * weight's gradient over the ranks and leaves each rank the rows that it holds. So an optimiser steps each rank's rows, and
 * nothing else is to be done about the others'. (Rajbhandari et al., ZeRO, arXiv:1910.02054, stage 3; Zhao et al., FSDP,
 * arXiv:2304.11277.)
 *
 * Collective are da_multihead_create, _forward, _forward_training, _backward, _save and _gather_parameter; not _initialise and
 * _load, which give each rank its rows of what one process gets. In a backward pass all ranks must want gradients of the same
 * inputs, and all or none of them those of the parameters; else all end with DA_ERROR_COMMUNICATION, and a message that names a
 * rank that differs.
 *
 * Results are those of a module that is not sharded, to rounding: query, key and value are one product each, also where they are
 * one input, and a BLAS may add up the terms of another product in another order.
 *
 * Memory of a rank: 1/P of the parameters and of their gradients. During a pass also the largest matrix, E^2 elements of the data
 * type, for bf16 and f16 once more in f32; in a backward pass its gradient in f32 (f64), some 2^21 numbers at most that are on
 * their way, and, where key or value is another input's tensor and a gradient cannot be added up in the caller's (another type or
 * other strides), batch n E numbers of f32 (f64). Bytes that a rank sends: in a pass P - 1 times its rows, in the data type; in a
 * backward pass without gradients of inputs only the rows of out_proj and of the vectors; with gradients of parameters
 * also, in f32 (f64), all rows that it does not hold. */

/* Number of parameters, 0 for NULL; and one by its number, or by its name. The data may be written while no call runs.
 * Errors: DA_ERROR_INVALID_ARGUMENT (NULL; no such number or name: the message lists the names). */
DA_API size_t da_multihead_parameter_count(const da_multihead *multihead);
DA_API da_status da_multihead_parameter_at(da_multihead *multihead, size_t index, da_parameter *out);
DA_API da_status da_multihead_parameter(da_multihead *multihead, const char *name, da_parameter *out);

/* Copies all rows of a parameter, dense, in its data type, to `data`. Of a sharded module collective: every rank gets them.
 * Errors: DA_ERROR_INVALID_ARGUMENT (NULL; no such name), DA_ERROR_COMMUNICATION (also where ranks ask for different
 * parameters), DA_ERROR_OUT_OF_MEMORY. */
DA_API da_status da_multihead_gather_parameter(const da_multihead *multihead, const char *name, void *data);

/* Draws the parameters: weights by xavier normal, that is normal with mean 0 and standard deviation
 * gain sqrt(2 / (in_features + out_features)), where gain is 1 for q_proj and k_proj and gamma_init for v_proj and
 * out_proj; biases 0; norms 1 and 0. This is the initialisation of MAGNETO (arXiv:2210.06423, fig. 2) as the PyTorch
 * packages of dilated attention have it. The numbers are a function of seed, parameter and place (philox_2x32-10 and
 * Box-Muller), not PyTorch's; so the ranks of a sharded module, with one seed, hold the rows of one module. Errors: DA_ERROR_INVALID_ARGUMENT (NULL). */
DA_API da_status da_multihead_initialise(da_multihead *multihead, uint64_t seed);

/* Names of parameters in files: as above, or torchscale's, where the inner norm is inner_attn_ln. */
typedef enum da_parameter_names { DA_NAMES_OWN = 0, DA_NAMES_TORCHSCALE = 1 } da_parameter_names;

/* Layout of projection weights in files. */
typedef enum da_weight_layout { DA_WEIGHTS_OUT_IN = 0, DA_WEIGHTS_IN_OUT = 1 } da_weight_layout;

/* How parameters lie in a .safetensors file. NULL in its place means the defaults. */
typedef struct da_weights_format {
    size_t size;
    const char *prefix;       /* NULL: none; put before every name, as "encoder.layers.0.self_attn." */
    da_parameter_names names; /* DA_NAMES_OWN; for saving: loading understands both */
    da_weight_layout layout;  /* DA_WEIGHTS_OUT_IN */
} da_weights_format;

DA_API void da_weights_format_init(da_weights_format *format);

/* Reads all parameters, or the rows that this rank holds, from a .safetensors file. Tensors of f32, f64, bf16 and f16 are converted to the module's data
 * type. The file is checked as a whole before the first parameter changes: each parameter must be there, with its
 * shape, and no other tensor may have the prefix. Errors: DA_ERROR_INVALID_ARGUMENT (NULL, format; a parameter is
 * missing, there twice, or of another shape or type; a tensor that is no parameter), DA_ERROR_IO, DA_ERROR_FORMAT (no
 * .safetensors file, or a damaged one), DA_ERROR_OUT_OF_MEMORY. */
DA_API da_status da_multihead_load(da_multihead *multihead, const char *path, const da_weights_format *format);

/* Writes all parameters, in the module's data type, to a .safetensors file: under a temporary name beside it, then
 * renamed, so that the old file or the new one is there, whatever happens. Of a sharded module collective: rank 0 writes the
 * file, which is the same; what it cannot is an error on every rank, after which calls may go on. Errors:
 * DA_ERROR_INVALID_ARGUMENT, DA_ERROR_IO, DA_ERROR_OUT_OF_MEMORY, DA_ERROR_COMMUNICATION. */
DA_API da_status da_multihead_save(const da_multihead *multihead, const char *path, const da_weights_format *format);

/* ---------------------------------------------------------------------------------------------------------------------
 * Forward
 */

/* out = module(query, key, value).
 *
 *   query, key, value  (batch, n, 1, embed_dim), see da_sequence_make; any strides. key NULL: query; value NULL: key.
 *                      The same tensor in two places (data and strides) is one input.
 *   out                the same shape; may not meet an input's memory
 *   options            NULL, or those of da_attention_forward: key padding, progress (of the attention), dropout of
 *                      attention weights with `training`
 *
 * The rows of key and value at padded places may hold anything, NaN too; those of query must be numbers.
 * Memory: batch n (2 E + 2 E') elements of the data type, some hundred rows of f32 (f64) a thread, for bf16 and f16 an
 * f32 copy of the parameters, and what the attention needs. Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_UNSUPPORTED,
 * DA_ERROR_OUT_OF_MEMORY, DA_ERROR_CANCELLED, DA_ERROR_COMMUNICATION. Arguments are checked before anything is written. */
DA_API da_status da_multihead_forward(const da_multihead *multihead, const da_tensor *query, const da_tensor *key,
                                      const da_tensor *value, const da_tensor *out, const da_call_options *options);

/* ---------------------------------------------------------------------------------------------------------------------
 * Backward
 *
 * A training step:
 *
 *     da_multihead_forward_training(multihead, &x, NULL, NULL, &y, &options, &saved);
 *     ... the gradient of the loss with respect to y, in grad_y ...
 *     da_multihead_backward(multihead, saved, &tensors, &options);   // grad_x; gradients += those of the parameters
 *     da_multihead_saved_free(saved);
 *
 * Activation checkpointing: free `saved` after the forward pass, and call da_multihead_forward_training again, with the
 * same inputs and options, before the backward pass: it gives the same bits.
 */

/* Gradients of all parameters: tensors with the parameters' names, shapes and rows, f32 (f64 for a DA_F64 module), into which
 * backward passes add. One backward pass at a time may use them. Created with zeros.
 * Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_OUT_OF_MEMORY. On error *out is NULL. */
typedef struct da_multihead_gradients da_multihead_gradients;
DA_API da_status da_multihead_gradients_create(const da_multihead *multihead, da_multihead_gradients **out);
DA_API void da_multihead_gradients_free(da_multihead_gradients *gradients); /* NULL is allowed */
DA_API void da_multihead_gradients_zero(da_multihead_gradients *gradients); /* NULL is allowed */
/* Over several ranks the gradient of the loss is the sum of what each rank's tokens give: where every rank has all parameters,
 * replaces the gradients by that sum, the same bits on every rank. Collective; in one process, and for a sharded module, whose
 * backward passes sum, it does nothing. Call it once, after the last backward pass of a step. Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_COMMUNICATION,
 * DA_ERROR_OUT_OF_MEMORY. */
DA_API da_status da_multihead_gradients_reduce(da_multihead_gradients *gradients);
/* As da_multihead_parameter_at and da_multihead_parameter; the numbers and names are the same. */
DA_API da_status da_multihead_gradient_at(da_multihead_gradients *gradients, size_t index, da_parameter *out);
DA_API da_status da_multihead_gradient(da_multihead_gradients *gradients, const char *name, da_parameter *out);

/* What a forward pass leaves for its backward pass: q, k, v, a and the logsumexp; with qk_layer_norm also q and k
 * before their norms. Not the inputs. Read only from then on: any number of backward passes may use it. */
typedef struct da_multihead_saved da_multihead_saved;
DA_API void da_multihead_saved_free(da_multihead_saved *saved); /* NULL is allowed */

/* da_multihead_forward, to the bit, which also makes *saved; on error *saved is NULL. */
DA_API da_status da_multihead_forward_training(const da_multihead *multihead, const da_tensor *query,
                                               const da_tensor *key, const da_tensor *value, const da_tensor *out,
                                               const da_call_options *options, da_multihead_saved **saved);

/* With L the loss, grad_x is dL/dx. */
typedef struct da_multihead_backward_tensors {
    size_t size;
    const da_tensor *query, *key, *value; /* as the forward pass had them; NULL as there */
    const da_tensor *grad_out;            /* like out */
    /* Outputs, like query, key and value; NULL: not wanted. Where key (or value) is NULL its gradient goes to what
     * stands for it, and grad_key (or grad_value) must be NULL. One tensor in two places (data and strides) gets the
     * sum. */
    const da_tensor *grad_query, *grad_key, *grad_value;
    da_multihead_gradients *gradients; /* of this module: backward adds to them; NULL: not wanted */
} da_multihead_backward_tensors;

DA_API void da_multihead_backward_tensors_init(da_multihead_backward_tensors *tensors);

/* Gradients of inputs and parameters: those of a sum of products by the product rule, those of the attention by
 * da_attention_backward, those of a layer norm, with y = (x - mean) r g + b, r = 1 / sqrt(variance + eps) and e =
 * grad_y g, by
 *
 *     grad_x = r (e - mean(e) - (x - mean) r mean(e (x - mean) r)).
 *
 * The parameters and options must be those of the forward pass. Outputs may not meet the memory of other tensors.
 * Memory: about as much as `saved`, and f32 (f64) rows of a. Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_UNSUPPORTED
 * (also where the attention has no backward pass), DA_ERROR_OUT_OF_MEMORY, DA_ERROR_CANCELLED, DA_ERROR_COMMUNICATION.
 * Arguments are checked before anything is written; after a later error or a cancellation, outputs and gradients are
 * unspecified. */
DA_API da_status da_multihead_backward(const da_multihead *multihead, const da_multihead_saved *saved,
                                       const da_multihead_backward_tensors *tensors, const da_call_options *options);

/* ---------------------------------------------------------------------------------------------------------------------
 * A language model: LongNet's decoder
 *
 * Of tokens t_0 .. t_(n-1), a stack of layers of width E = embed_dim makes a prediction of each next token:
 *
 *     x = embed.weight[t]
 *     of every layer:  x = x + attention(layer_norm(x; norm1))                  a da_multihead, causal
 *                      x = x + down(activation(up(layer_norm(x; norm2))))       up: E -> ffn_dim, down: ffn_dim -> E
 *     logits = layer_norm(x; norm) out.weight^T                                 out.weight = embed.weight where tied
 *
 * loss = mean over the tokens with a target >= 0 of  log sum_v exp(logits_v) - logits_target  (cross-entropy, in nats).
 *
 *     da_longnet_create(context, "auto", &config, &multihead, &attention, &model);
 *     da_longnet_initialise(model, 1);
 *     da_longnet_gradients_create(model, &gradients);
 *     da_adamw_create(model, &adamw_config, &adamw);
 *     for (step = 0; step < schedule.total_steps; step++) {
 *         ... tokens and targets into batch ...
 *         da_longnet_gradients_zero(gradients);
 *         da_longnet_backward(model, &batch, gradients, &loss);
 *         da_adamw_step(adamw, gradients, da_schedule_rate(&schedule, step), NULL);
 *     }
 *     da_longnet_save("model.safetensors", model, adamw, NULL, 0);
 *
 * Losses, gradients and steps do not depend on the number of threads, to the last bit (see RULES for the BLAS).
 */

/* gelu: x (1 + erf(x / sqrt 2)) / 2 (arXiv:1606.08415); relu: max(x, 0). */
typedef enum da_activation { DA_ACTIVATION_GELU = 0, DA_ACTIVATION_RELU = 1 } da_activation;

DA_API const char *da_activation_name(da_activation value); /* "?" outside the enumeration */
/* Errors: DA_ERROR_INVALID_ARGUMENT; the message lists the names. */
DA_API da_status da_activation_from_name(const char *name, da_activation *out);

/* What a model has beyond its attention. */
typedef struct da_longnet_config {
    size_t size;
    int64_t vocab_size; /* 256: bytes; 1 .. 2^24 */
    int64_t layers;     /* 4; 1 .. 1024 */
    int64_t ffn_dim;    /* 0: 4 embed_dim */
    da_activation activation;
    bool tied_output; /* true */
    double norm_eps;  /* 1e-5, of norm1, norm2 and norm; > 0 and finite */
} da_longnet_config;

DA_API void da_longnet_config_init(da_longnet_config *config);

typedef struct da_longnet da_longnet;

/* Creates a model. The attention must be causal; it is the implementation `name` of da_attention_create. The multihead's
 * data type must be DA_F32 or DA_F64, its `bias` also decides over those of up and down, and its gamma_init is also the
 * gain of theirs. All are validated and copied. Parameters are 0 but the norms' weights, which are 1. Errors:
 * DA_ERROR_INVALID_ARGUMENT, and those of da_multihead_create. On error *out is NULL. */
DA_API da_status da_longnet_create(const da_context *context, const char *name, const da_longnet_config *config,
                                   const da_multihead_config *multihead, const da_attention_config *attention,
                                   da_longnet **out);

/* Frees a model; NULL is allowed. What was made from it must go first. */
DA_API void da_longnet_free(da_longnet *model);

/* Copies of the configurations, what was open filled in; each may be NULL, or must have its size set by its _init
 * function. Errors: DA_ERROR_INVALID_ARGUMENT. */
DA_API da_status da_longnet_get_config(const da_longnet *model, da_longnet_config *config,
                                       da_multihead_config *multihead, da_attention_config *attention);

/* Name of the attention implementation that runs; NULL for NULL. */
DA_API const char *da_longnet_implementation(const da_longnet *model);

/* Parameters, in this order; K counts layers from 0, and those of K's attention are the module's (see "Parameters").
 * Names live as long as the model.
 *
 * embed.weight                                       (vocab_size, E)
 * layers.K.norm1.weight, layers.K.norm1.bias         (E)
 * layers.K.attention.q_proj.weight, ...
 * layers.K.norm2.weight, layers.K.norm2.bias         (E)
 * layers.K.ffn.up.weight, layers.K.ffn.up.bias       (ffn_dim, E), (ffn_dim)     biases with multihead.bias
 * layers.K.ffn.down.weight, layers.K.ffn.down.bias   (E, ffn_dim), (E)
 * norm.weight, norm.bias                             (E)
 * out.weight                                         (vocab_size, E)             unless tied
 *
 * Errors: DA_ERROR_INVALID_ARGUMENT (NULL; no such number or name). The data may be written while no call runs. */
DA_API size_t da_longnet_parameter_count(const da_longnet *model);
DA_API da_status da_longnet_parameter_at(da_longnet *model, size_t index, da_parameter *out);
DA_API da_status da_longnet_parameter(da_longnet *model, const char *name, da_parameter *out);

/* Draws the parameters: those of the attention as da_multihead_initialise, up and down by xavier normal with the gain
 * gamma_init, embed.weight and out.weight normal with standard deviation 0.02, biases 0, norms 1 and 0. The numbers are a
 * function of seed, parameter and place. Errors: DA_ERROR_INVALID_ARGUMENT (NULL). */
DA_API da_status da_longnet_initialise(da_longnet *model, uint64_t seed);

/* What a call reads. */
typedef struct da_longnet_batch {
    size_t size;
    const int32_t *tokens;  /* (batch, n), each 0 .. vocab_size - 1 */
    const int32_t *targets; /* (batch, n): what follows each token; negative: nothing to predict. At least one is not */
    int64_t batch, n;       /* 1, 0 */
    /* Dropout of attention weights, if the attention's configuration has it; the seed of layer K, from 0, is
     * dropout_seed + (K + 1) 0x9E3779B97F4A7C15, modulo 2^64. */
    bool training;
    uint64_t dropout_seed;
    da_progress progress; /* NULL; after each layer, counting layers; false stops the call (DA_ERROR_CANCELLED) */
    void *progress_user;
} da_longnet_batch;

DA_API void da_longnet_batch_init(da_longnet_batch *batch);

/* The loss alone. Memory: 3 batch n E elements, and what a da_multihead needs. Errors: DA_ERROR_INVALID_ARGUMENT,
 * DA_ERROR_OUT_OF_MEMORY, DA_ERROR_CANCELLED, DA_ERROR_UNSUPPORTED. */
DA_API da_status da_longnet_loss(const da_longnet *model, const da_longnet_batch *batch, double *loss);

/* Logits of tokens first .. first + count - 1 of each sequence: (batch, count, vocab_size) elements of the model's data
 * type. Targets are not looked at. Memory and errors as da_longnet_loss. */
DA_API da_status da_longnet_logits(const da_longnet *model, const da_longnet_batch *batch, int64_t first, int64_t count,
                                   void *logits);

/* Gradients of all parameters: numbers, names and shapes as the parameters', in the model's data type. Backward passes
 * add to them; one at a time may. Created with zeros. Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_OUT_OF_MEMORY. On error
 * *out is NULL. */
typedef struct da_longnet_gradients da_longnet_gradients;
DA_API da_status da_longnet_gradients_create(const da_longnet *model, da_longnet_gradients **out);
DA_API void da_longnet_gradients_free(da_longnet_gradients *gradients); /* NULL is allowed */
DA_API void da_longnet_gradients_zero(da_longnet_gradients *gradients); /* NULL is allowed */
DA_API da_status da_longnet_gradient_at(da_longnet_gradients *gradients, size_t index, da_parameter *out);
DA_API da_status da_longnet_gradient(da_longnet_gradients *gradients, const char *name, da_parameter *out);

/* The loss, as da_longnet_loss to the bit, and its gradients, added to `gradients`. Activations are checkpointed: of the
 * forward pass each layer's input is kept, and the backward pass computes the layer again. Memory: (layers + 4) batch n E
 * elements, what a da_multihead needs for its backward pass, and blocks of logits and of the feed-forward's inner layer
 * whose size does not depend on the length. After an error later than the checks, gradients are unspecified. Errors as
 * da_longnet_loss. */
DA_API da_status da_longnet_backward(const da_longnet *model, const da_longnet_batch *batch,
                                     da_longnet_gradients *gradients, double *loss);

/* ---------------------------------------------------------------------------------------------------------------------
 * Optimiser
 */

/* AdamW (Loshchilov and Hutter, arXiv:1711.05101): with the gradient g, t counting steps from 1,
 *
 *     m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g^2
 *     p = p - rate (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay p)
 *
 * The decay is that of matrices only: norms and biases have none. Before, g is multiplied by clip / |g| where the norm |g|
 * of all gradients together is above clip. */
typedef struct da_adamw_config {
    size_t size;
    double beta1, beta2; /* 0.9, 0.95; in [0, 1) */
    double eps;          /* 1e-8; > 0 and finite */
    double weight_decay; /* 0.1; >= 0 and finite */
    double clip;         /* 1; >= 0 and finite; 0: no clipping */
} da_adamw_config;

DA_API void da_adamw_config_init(da_adamw_config *config);

typedef struct da_adamw da_adamw;

/* Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_OUT_OF_MEMORY. On error *out is NULL. */
DA_API da_status da_adamw_create(da_longnet *model, const da_adamw_config *config, da_adamw **out);
DA_API void da_adamw_free(da_adamw *adamw); /* NULL is allowed */

/* Steps done so far; 0 for NULL. */
DA_API int64_t da_adamw_steps(const da_adamw *adamw);

/* One step: changes the model's parameters, not the gradients. *norm, unless NULL, is |g| before clipping. Errors:
 * DA_ERROR_INVALID_ARGUMENT (NULL, gradients of another model, a rate that is negative or not finite, gradients that are
 * not finite: then nothing is changed). */
DA_API da_status da_adamw_step(da_adamw *adamw, const da_longnet_gradients *gradients, double rate, double *norm);

/* Learning rate of a step: linear from peak / warmup_steps at step 0 to peak, then half a cosine down to `last` at
 * total_steps (Loshchilov and Hutter, arXiv:1608.03983, without restarts); `last` from there on. */
typedef struct da_schedule {
    size_t size;
    double peak, last;    /* 3e-4, 3e-5 */
    int64_t warmup_steps; /* 0 */
    int64_t total_steps;  /* 0: the rate is peak after the warm-up */
} da_schedule;

DA_API void da_schedule_init(da_schedule *schedule);
DA_API double da_schedule_rate(const da_schedule *schedule, int64_t step);

/* ---------------------------------------------------------------------------------------------------------------------
 * Checkpoints: .safetensors files with the parameters under their names, the optimiser's moments under
 * adamw.first.NAME and adamw.second.NAME, and as metadata the configurations, the optimiser's configuration and number of
 * steps, and notes of the caller (a generator's seed, say).
 */

typedef struct da_note {
    const char *key, *value; /* UTF-8; the key must not begin with "da." */
} da_note;

/* Writes a checkpoint under a temporary name beside the path, then renames it: the old file or the new one is there,
 * whatever happens. Space is reserved first. adamw may be NULL. Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_IO (a full
 * disk, too), DA_ERROR_OUT_OF_MEMORY. */
DA_API da_status da_longnet_save(const char *path, const da_longnet *model, const da_adamw *adamw, const da_note *notes,
                                 size_t note_count);

/* Makes the model that a checkpoint describes, with its parameters. A parameter that is missing, of another shape or data
 * type, a tensor that belongs to nothing, or metadata that no such file has are refused. Errors:
 * DA_ERROR_INVALID_ARGUMENT, DA_ERROR_IO, DA_ERROR_FORMAT, DA_ERROR_OUT_OF_MEMORY, and those of da_longnet_create. On
 * error *out is NULL. */
DA_API da_status da_longnet_load(const da_context *context, const char *name, const char *path, da_longnet **out);

/* Makes the optimiser of a checkpoint, for the model that was loaded from it. Errors as da_longnet_load;
 * DA_ERROR_FORMAT also where the file has no optimiser. */
DA_API da_status da_adamw_load(da_longnet *model, const char *path, da_adamw **out);

/* Copies a note's value, zero-terminated, into buffer. Errors: DA_ERROR_INVALID_ARGUMENT (no such note; a buffer too
 * small), DA_ERROR_IO, DA_ERROR_FORMAT, DA_ERROR_OUT_OF_MEMORY. */
DA_API da_status da_longnet_note(const char *path, const char *key, char *buffer, size_t size);

/* ---------------------------------------------------------------------------------------------------------------------
 * Generation, a token at a time
 *
 * A decoder keeps the keys and values of all layers, 2 E' elements a token and layer. The newest token's query sees those
 * of them that the patterns hold (da_pattern_multiplicity), which is what a forward pass over all tokens computes for its
 * last one; sums may differ in their order, and so in rounding.
 */

typedef struct da_longnet_decoder da_longnet_decoder;

/* For sequences of up to `capacity` tokens. The model's parameters must not change while it lives. Errors:
 * DA_ERROR_INVALID_ARGUMENT, DA_ERROR_OUT_OF_MEMORY, DA_ERROR_UNSUPPORTED. On error *out is NULL. */
DA_API da_status da_longnet_decoder_create(const da_longnet *model, int64_t capacity, da_longnet_decoder **out);
DA_API void da_longnet_decoder_free(da_longnet_decoder *decoder); /* NULL is allowed */

/* Tokens fed so far; 0 for NULL. */
DA_API int64_t da_longnet_decoder_length(const da_longnet_decoder *decoder);

/* Appends tokens; logits, unless NULL, gets (vocab_size) elements of the model's data type: what follows the last. The
 * first tokens that a decoder is fed are computed by one forward pass, later ones one by one. Errors:
 * DA_ERROR_INVALID_ARGUMENT (NULL, no token, a token out of range, more than capacity), DA_ERROR_OUT_OF_MEMORY. */
DA_API da_status da_longnet_decoder_feed(da_longnet_decoder *decoder, const int32_t *tokens, int64_t count,
                                         void *logits);

#ifdef __cplusplus
}
#endif

#endif
