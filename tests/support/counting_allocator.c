#include "support/counting_allocator.h"

#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 }; /* also the space before each block, where its size is kept */

static void *counted_allocate(size_t bytes, void *user) {
    counting_allocator *counter = user;
    long call = atomic_fetch_add(&counter->calls, 1) + 1;
    if (call >= counter->fail_from && call <= counter->fail_to) {
        return NULL;
    }
    size_t rounded = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    char *block = aligned_alloc(ALIGNMENT, rounded + ALIGNMENT);
    if (!block) {
        return NULL;
    }
    memcpy(block, &bytes, sizeof bytes);
    memset(block + ALIGNMENT, 0xFF, rounded); /* what is read before it is written becomes NaN */
    atomic_fetch_add(&counter->live, 1);
    long live_bytes = atomic_fetch_add(&counter->live_bytes, (long)bytes) + (long)bytes;
    long peak = atomic_load(&counter->peak_bytes);
    while (live_bytes > peak && !atomic_compare_exchange_weak(&counter->peak_bytes, &peak, live_bytes)) {}
    return block + ALIGNMENT;
}

static void counted_release(void *memory, void *user) {
    counting_allocator *counter = user;
    char *block = (char *)memory - ALIGNMENT;
    size_t bytes;
    memcpy(&bytes, block, sizeof bytes);
    atomic_fetch_sub(&counter->live, 1);
    atomic_fetch_sub(&counter->live_bytes, (long)bytes);
    free(block);
}

da_allocator counting_allocator_interface(counting_allocator *counter) {
    return (da_allocator){counted_allocate, counted_release, counter};
}
