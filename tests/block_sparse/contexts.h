/* Contexts of tests, which must be there. */
#ifndef DA_TESTS_BLOCK_SPARSE_CONTEXTS_H
#define DA_TESTS_BLOCK_SPARSE_CONTEXTS_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "support/counting_allocator.h"

/* counter: NULL, or what hands out the context's memory. */
static inline da_context *make_context(int threads, da_isa isa, counting_allocator *counter) {
    da_context_options options;
    da_context *context = NULL;
    da_context_options_init(&options);
    options.threads = threads;
    options.isa = isa;
    if (counter) {
        options.allocator = counting_allocator_interface(counter);
    }
    assert_int_equal(da_context_create(&options, &context), DA_OK);
    return context;
}

#endif
