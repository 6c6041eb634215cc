/* An allocator for contexts that counts what it hands out, and can be told to run out of memory. */
#ifndef DA_TESTS_COUNTING_ALLOCATOR_H
#define DA_TESTS_COUNTING_ALLOCATOR_H

#include <stdatomic.h>

#include "dilated_attention.h"

typedef struct counting_allocator {
    atomic_long calls;       /* of allocate, failed ones included */
    atomic_long live;        /* blocks not yet released */
    atomic_long live_bytes;  /* in those blocks */
    atomic_long peak_bytes;  /* the most that live_bytes has been */
    long fail_from, fail_to; /* calls with these numbers (from 1) get NULL; 0, 0: none */
} counting_allocator;

/* The interface for da_context_options.allocator. */
da_allocator counting_allocator_interface(counting_allocator *counter);

#endif
