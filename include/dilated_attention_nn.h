/* dilated_attention_nn.h - multihead dilated attention as a module: projections, norms, position encodings, parameters.
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
 * Where query, key and value are one input, their projections are one product. All parameters are 0 but the norms'
 * weights, which are 1. Errors: DA_ERROR_INVALID_ARGUMENT (also where the two configurations contradict each other),
 * DA_ERROR_UNAVAILABLE (DA_DEVICE_CUDA, or an implementation that cannot run here), DA_ERROR_UNKNOWN_IMPLEMENTATION,
 * DA_ERROR_UNSUPPORTED, DA_ERROR_OUT_OF_MEMORY. On error *out is NULL. */
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
    const char *name; /* lives as long as the process */
    void *data;       /* dense; lives as long as the module (or the gradients) */
    da_dtype dtype;
    int rank;         /* 1 or 2 */
    int64_t shape[2]; /* shape[1] is 1 where rank is 1 */
} da_parameter;

/* Number of parameters, 0 for NULL; and one by its number, or by its name. The data may be written while no call runs.
 * Errors: DA_ERROR_INVALID_ARGUMENT (NULL; no such number or name: the message lists the names). */
DA_API size_t da_multihead_parameter_count(const da_multihead *multihead);
DA_API da_status da_multihead_parameter_at(da_multihead *multihead, size_t index, da_parameter *out);
DA_API da_status da_multihead_parameter(da_multihead *multihead, const char *name, da_parameter *out);

/* Draws the parameters: weights by xavier normal, that is normal with mean 0 and standard deviation
 * gain sqrt(2 / (in_features + out_features)), where gain is 1 for q_proj and k_proj and gamma_init for v_proj and
 * out_proj; biases 0; norms 1 and 0. This is the initialisation of MAGNETO (arXiv:2210.06423, fig. 2) as the PyTorch
 * packages of dilated attention have it. The numbers are a function of seed, parameter and place (philox_2x32-10 and
 * Box-Muller), not PyTorch's. Errors: DA_ERROR_INVALID_ARGUMENT (NULL). */
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

/* Reads all parameters from a .safetensors file. Tensors of f32, f64, bf16 and f16 are converted to the module's data
 * type. The file is checked as a whole before the first parameter changes: each parameter must be there, with its
 * shape, and no other tensor may have the prefix. Errors: DA_ERROR_INVALID_ARGUMENT (NULL, format; a parameter is
 * missing, there twice, or of another shape or type; a tensor that is no parameter), DA_ERROR_IO, DA_ERROR_FORMAT (no
 * .safetensors file, or a damaged one), DA_ERROR_OUT_OF_MEMORY. */
DA_API da_status da_multihead_load(da_multihead *multihead, const char *path, const da_weights_format *format);

/* Writes all parameters, in the module's data type, to a .safetensors file: under a temporary name beside it, then
 * renamed, so that the old file or the new one is there, whatever happens. Errors: DA_ERROR_INVALID_ARGUMENT,
 * DA_ERROR_IO, DA_ERROR_OUT_OF_MEMORY. */
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
 * DA_ERROR_OUT_OF_MEMORY, DA_ERROR_CANCELLED. Arguments are checked before anything is written. */
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

/* Gradients of all parameters: tensors with the parameters' names and shapes, f32 (f64 for a DA_F64 module), into which
 * backward passes add. One backward pass at a time may use them. Created with zeros.
 * Errors: DA_ERROR_INVALID_ARGUMENT, DA_ERROR_OUT_OF_MEMORY. On error *out is NULL. */
typedef struct da_multihead_gradients da_multihead_gradients;
DA_API da_status da_multihead_gradients_create(const da_multihead *multihead, da_multihead_gradients **out);
DA_API void da_multihead_gradients_free(da_multihead_gradients *gradients); /* NULL is allowed */
DA_API void da_multihead_gradients_zero(da_multihead_gradients *gradients); /* NULL is allowed */
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
 * (also where the attention has no backward pass), DA_ERROR_OUT_OF_MEMORY, DA_ERROR_CANCELLED. Arguments are checked
 * before anything is written; after a later error or a cancellation, outputs and gradients are unspecified. */
DA_API da_status da_multihead_backward(const da_multihead *multihead, const da_multihead_saved *saved,
                                       const da_multihead_backward_tensors *tensors, const da_call_options *options);

#ifdef __cplusplus
}
#endif

#endif
