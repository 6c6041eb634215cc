#define _DEFAULT_SOURCE /* madvise */
#include "core/memory.h"

#include <stdlib.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#define ALIGNMENT DA_ALLOCATED_LINE
#define HUGE_PAGE ((size_t)2 << 20)

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

da_status da_check_allocator(const da_allocator *allocator) {
    if (allocator && !allocator->allocate != !allocator->release) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "allocator.%s is NULL; allowed: both functions, or neither",
                         allocator->allocate ? "release" : "allocate");
    }
    return DA_OK;
}

/* Attention reads rows that lie far apart: with pages of 4 KiB nearly every one costs a walk through the page tables.
 * Large pieces therefore begin on a huge page, and the system is asked for those. */
static void *allocate_pages(size_t bytes) {
    size_t alignment = bytes < HUGE_PAGE ? ALIGNMENT : HUGE_PAGE;
    void *memory = aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    if (memory && alignment == HUGE_PAGE) {
        (void)madvise(memory, bytes / HUGE_PAGE * HUGE_PAGE, MADV_HUGEPAGE); /* a wish: refusal costs only time */
    }
#endif
    return memory;
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
            memory = allocate_pages(rounded);
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
