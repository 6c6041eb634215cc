/* The feed-forward's activations and their slopes; the formulas stand in dilated_attention_nn.h. */
#ifndef DA_MODEL_ACTIVATION_H
#define DA_MODEL_ACTIVATION_H

#include "dilated_attention_nn.h"

/* y = activation(z), element by element. y may be z. */
void da_activation_apply(da_dtype real, da_activation activation, int64_t count, const void *z, void *y);

/* The same, and z = the slope at z. y may not be z. */
void da_activation_apply_with_slope(da_dtype real, da_activation activation, int64_t count, void *z, void *y);

#endif
