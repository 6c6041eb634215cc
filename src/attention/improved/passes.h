/* The passes of `improved`, as da_implementation has them. */
#ifndef DA_ATTENTION_PASSES_H
#define DA_ATTENTION_PASSES_H

#include "dilated_attention.h"

da_status da_improved_forward(void *state, const da_forward_call *call, void *user);
size_t da_improved_workspace(const da_context *context, const da_attention_config *config, const da_problem *problem,
                             void *user);

da_status da_improved_backward(void *state, const da_backward_call *call, void *user);
size_t da_improved_backward_workspace(const da_context *context, const da_attention_config *config,
                                      const da_problem *problem, void *user);

#endif
