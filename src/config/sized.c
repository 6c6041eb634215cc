/* Checks that every folder shares: structs that can grow, whose first field is their size in the caller's version, values
 * of enumerations, and sizes of tiles. */
#include <inttypes.h>
#include <string.h>

#include "config/validation.h"

/* Later versions add fields at the end, so a newer caller's struct is longer; its extra fields must be zero, or the
 * caller asks for something that this version does not know. */
#define LARGEST_GROWTH 4096

da_status da_copy_sized(void *ours, size_t our_size, const void *theirs, const char *name) {
    size_t their_size;
    if (!theirs) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is NULL; allowed: a struct filled by its _init function", name);
    }
    memcpy(&their_size, theirs, sizeof their_size);
    if (their_size < our_size || their_size > our_size + LARGEST_GROWTH) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "%s.size is %zu; allowed: %zu, as its _init function of this version sets it", name,
                         their_size, our_size);
    }
    const unsigned char *extra = theirs;
    for (size_t k = our_size; k < their_size; k++) {
        if (extra[k] != 0) {
            return da_report(DA_ERROR_INVALID_ARGUMENT,
                             "%s sets a field that this version does not know (byte %zu); allowed: zero there", name,
                             k);
        }
    }
    memcpy(ours, theirs, our_size);
    memcpy(ours, &our_size, sizeof our_size);
    return DA_OK;
}

da_status da_check_result(const void *theirs, size_t our_size, const char *name) {
    size_t their_size = 0;
    if (!theirs) {
        return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is NULL; allowed: a struct filled by its _init function", name);
    }
    memcpy(&their_size, theirs, sizeof their_size);
    if (their_size < our_size) {
        return da_report(DA_ERROR_INVALID_ARGUMENT,
                         "%s.size is %zu; allowed: %zu or more, as its _init function sets it", name, their_size,
                         our_size);
    }
    return DA_OK;
}

da_status da_check_enum(const char *argument, int value, const char *name) {
    if (strcmp(name, "?") != 0) {
        return DA_OK;
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is %d; allowed: a value of its enumeration", argument, value);
}

da_status da_check_tile_block(const char *argument, int64_t value) {
    if (value >= DA_MIN_TILE_BLOCK && value <= DA_MAX_TILE_BLOCK && value % DA_MIN_TILE_BLOCK == 0) {
        return DA_OK;
    }
    return da_report(DA_ERROR_INVALID_ARGUMENT, "%s is %" PRId64 "; allowed: a multiple of %d up to %d", argument,
                     value, DA_MIN_TILE_BLOCK, DA_MAX_TILE_BLOCK);
}
