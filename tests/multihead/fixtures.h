/* A small module with inputs and outputs, for the tests of its calls. */
#ifndef DA_TESTS_MULTIHEAD_FIXTURES_H
#define DA_TESTS_MULTIHEAD_FIXTURES_H

#include "dilated_attention_nn.h"

enum { BATCH = 2, N = 37, EMBED = 24, HEADS = 4, KV_HEADS = 2, ELEMENTS = BATCH * N * EMBED };

typedef struct module_fixture {
    da_context_options context_options;
    da_context *context;
    da_multihead_config config; /* all options on, f32 */
    da_attention_config attention;
    da_multihead *multihead;
    da_multihead_gradients *gradients;
    da_multihead_saved *saved;
    float input[ELEMENTS], other[ELEMENTS], out[ELEMENTS], grad_out[ELEMENTS], grad_input[ELEMENTS];
    da_tensor x, z, y, grad_y, grad_x; /* views of them, in that order */
    da_call_options options;
    da_multihead_backward_tensors tensors; /* self-attention, all outputs */
} module_fixture;

/* Fills everything but the handles. */
void module_fixture_init(module_fixture *f);

/* Makes the handles, one after the other: the context, the module, with drawn parameters, and its gradients. */
da_status module_fixture_open(module_fixture *f, const char *implementation);
void module_fixture_close(module_fixture *f);

/* y = module(x), keeping the activations; and its backward pass. */
da_status module_fixture_forward(module_fixture *f);
da_status module_fixture_backward(module_fixture *f);

/* True if the implementation has a backward pass. */
bool module_fixture_has_backward(const module_fixture *f, const char *implementation);

#endif
