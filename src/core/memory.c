#include "core/memory.h"

#include <stdlib.h>

#define ALIGNMENT 64

bool da_multiply_sizes(size_t a, size_t b, size_t *out) {
    if (b != 0 && a > SIZE_MAX / b) {
        return false;
    }
    *out = a * b;
    return true;
}

bool da_add_sizes(size_t a, size_t b, size_t *out) {
    if (a > SIZE_MAX - b) {
        return false;
    }
    *out = a + b;
    return true;
}

void *da_allocate(const da_allocator *allocator, size_t count, size_t size) {
    size_t bytes, rounded;
    void *memory = NULL;
    if (da_multiply_sizes(count, size, &bytes) && da_add_sizes(bytes, ALIGNMENT - 1, &rounded)) {
        rounded = rounded / ALIGNMENT * ALIGNMENT;
        rounded = rounded ? rounded : ALIGNMENT;
        if (allocator && allocator->allocate) {
            memory = allocator->allocate(rounded, allocator->user);
        } else {
            memory = aligned_alloc(ALIGNMENT, rounded);
        }
    }
    if (!memory) {
        da_report(DA_ERROR_OUT_OF_MEMORY, "could not allocate %zu x %zu bytes", count, size);
    }
    return memory;
}

void da_release(const da_allocator *allocator, void *memory) {
    if (!memory) {
        return;
    }
    if (allocator && allocator->release) {
        allocator->release(memory, allocator->user);
    } else {
        free(memory);
    }
}
