/* What the factory's tests share: an allocator that can run short, an implementation that counts its calls, contexts
 * and configurations made in one line. */
#ifndef DA_TESTS_FACTORY_FIXTURES_H
#define DA_TESTS_FACTORY_FIXTURES_H

#include "dilated_attention.h"

/* `user` of the allocator. */
typedef struct short_memory {
    int until_failure; /* allocations that still succeed; below zero: all */
    int live;          /* blocks not released */
} short_memory;

da_allocator short_memory_allocator(short_memory *memory);

/* A context of one thread over made-up hardware (NULL: this machine), with short memory unless that is NULL. */
da_context *make_context(const da_hardware *hardware, da_isa isa, short_memory *memory);

/* (64, 1), (128, 2), expected length n. */
da_attention_config make_config(int64_t n);

/* `user` of the counting implementation, and what its functions saw last. */
typedef struct call_counts {
    int available, create, destroy, forward, backward, workspace;
    const char *unavailable_because; /* NULL: it is available */
    da_status create_status, forward_status;
    da_forward_call call;
    da_backward_call backward_call;
    da_backward_tensors tensors;
    da_call_options options;
    da_attention_config config;
    void *state;
} call_counts;

da_implementation counting_implementation(const char *name, call_counts *counts);

/* Fails the test unless the calling thread's message contains `part`. */
void assert_message_contains(const char *part);

#endif
