#include "fixtures.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void *allocate(size_t bytes, void *user) {
    short_memory *memory = user;
    if (memory->until_failure == 0) {
        return NULL;
    }
    memory->until_failure -= memory->until_failure > 0;
    void *block = aligned_alloc(64, (bytes + 63) / 64 * 64);
    memory->live += block != NULL;
    return block;
}

static void release(void *block, void *user) {
    short_memory *memory = user;
    memory->live--;
    free(block);
}

da_allocator short_memory_allocator(short_memory *memory) {
    return (da_allocator){allocate, release, memory};
}

da_context *make_context(const da_hardware *hardware, da_isa isa, short_memory *memory) {
    da_context_options options;
    da_context *context = NULL;
    da_context_options_init(&options);
    options.threads = 1;
    options.hardware = hardware;
    options.isa = isa;
    if (memory) {
        options.allocator = short_memory_allocator(memory);
    }
    assert_int_equal(da_context_create(&options, &context), DA_OK);
    return context;
}

da_attention_config make_config(int64_t n) {
    const int64_t segment_lengths[] = {64, 128}, dilation_rates[] = {1, 2};
    da_attention_config config;
    da_attention_config_init(&config);
    assert_int_equal(da_attention_config_set_patterns(&config, segment_lengths, 2, dilation_rates, 2), DA_OK);
    config.sequence_length = n;
    return config;
}

static bool count_available(const da_context *context, char *reason, size_t reason_size, void *user) {
    call_counts *counts = user;
    counts->available++;
    if (counts->unavailable_because) {
        snprintf(reason, reason_size, "%s", counts->unavailable_because);
    }
    return !counts->unavailable_because;
}

static da_status count_create(const da_context *context, const da_attention_config *config, void *user, void **state) {
    call_counts *counts = user;
    counts->create++;
    counts->config = *config;
    if (counts->create_status != DA_OK) {
        return da_report(counts->create_status, "creation was told to fail");
    }
    *state = &counts->create;
    return DA_OK;
}

static void count_destroy(void *state, void *user) {
    call_counts *counts = user;
    counts->destroy++;
    counts->state = state;
}

static da_status count_forward(void *state, const da_forward_call *call, void *user) {
    call_counts *counts = user;
    counts->forward++;
    counts->state = state;
    counts->call = *call;
    counts->options = *call->options;
    counts->config = *call->config;
    return counts->forward_status == DA_OK ? DA_OK : da_report(counts->forward_status, "forward was told to fail");
}

static da_status count_backward(void *state, const da_backward_call *call, void *user) {
    call_counts *counts = user;
    counts->backward++;
    counts->state = state;
    counts->backward_call = *call;
    counts->tensors = *call->tensors;
    counts->options = *call->options;
    counts->config = *call->config;
    return counts->forward_status == DA_OK ? DA_OK : da_report(counts->forward_status, "backward was told to fail");
}

static size_t count_workspace(const da_context *context, const da_attention_config *config, const da_problem *problem,
                              void *user) {
    call_counts *counts = user;
    counts->workspace++;
    return (size_t)(1000 * problem->heads + problem->n);
}

static size_t count_backward_workspace(const da_context *context, const da_attention_config *config,
                                       const da_problem *problem, void *user) {
    return 1 + 2 * count_workspace(context, config, problem, user);
}

da_implementation counting_implementation(const char *name, call_counts *counts) {
    return (da_implementation){
        .size = sizeof(da_implementation),
        .name = name,
        .description = "counts its calls",
        .best_for = "tests",
        .memory = "none",
        .features = 0,
        .dtypes = DA_DTYPE_BIT(DA_F32),
        .user = counts,
        .available = count_available,
        .create = count_create,
        .destroy = count_destroy,
        .forward = count_forward,
        .workspace = count_workspace,
        .backward = count_backward,
        .backward_workspace = count_backward_workspace,
    };
}

void assert_message_contains(const char *part) {
    if (!strstr(da_last_error_message(), part)) {
        fail_msg("\"%s\" does not contain \"%s\"", da_last_error_message(), part);
    }
}
