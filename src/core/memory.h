/* Memory that goes through the context's allocator, with sizes that cannot overflow. */
#ifndef DA_CORE_MEMORY_H
#define DA_CORE_MEMORY_H

#include "dilated_attention.h"

/* An allocator has both functions or neither; NULL is one, too. Errors: DA_ERROR_INVALID_ARGUMENT. */
da_status da_check_allocator(const da_allocator *allocator);

#define DA_ALLOCATED_LINE 64

/* count * size bytes aligned to 64; NULL (with a message set) if the product overflows or memory is short. The contents
 * are undefined. The allocator may be NULL or empty: the C library's. */
void *da_allocate(const da_allocator *allocator, size_t count, size_t size);
void da_release(const da_allocator *allocator, void *memory);

/* What da_allocate takes for so many bytes: whole lines of the cache. 0 for 0. */
static inline size_t da_allocated_bytes(size_t bytes) {
    return bytes / DA_ALLOCATED_LINE * DA_ALLOCATED_LINE + (bytes % DA_ALLOCATED_LINE != 0) * DA_ALLOCATED_LINE;
}

/* a * b, a + b in size_t; false on overflow. */
bool da_multiply_sizes(size_t a, size_t b, size_t *out);
bool da_add_sizes(size_t a, size_t b, size_t *out);

#endif
