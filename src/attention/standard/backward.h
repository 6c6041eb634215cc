/* The backward pass of `standard`. */
#ifndef DA_ATTENTION_STANDARD_BACKWARD_H
#define DA_ATTENTION_STANDARD_BACKWARD_H

#include "dilated_attention.h"

da_status da_standard_backward(void *state, const da_backward_call *call, void *user);
size_t da_standard_backward_workspace(const da_context *context, const da_attention_config *config,
                                      const da_problem *problem, void *user);

#endif
