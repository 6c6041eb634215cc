/* FNV-1a, 64 bits (RFC 9923, whose section 5 has the offset basis and the prime): notices that bytes differ by accident. */
#ifndef DA_CORE_HASH_H
#define DA_CORE_HASH_H

#include <stddef.h>
#include <stdint.h>

static inline uint64_t da_hash(const void *bytes, size_t count) {
    const unsigned char *byte = bytes;
    uint64_t hash = 0xcbf29ce484222325u;
    for (size_t k = 0; k < count; k++) {
        hash = (hash ^ byte[k]) * 0x100000001b3u;
    }
    return hash;
}

#endif
