#define _POSIX_C_SOURCE 200809L

#include "planner/calibrations.h"

#include "core/memory.h"

da_status da_calibrations_create(const da_allocator *allocator, da_calibrations **out) {
    da_calibrations *calibrations = da_allocate(allocator, 1, sizeof *calibrations);
    *out = calibrations;
    if (!calibrations) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    *calibrations = (da_calibrations){.count = 0};
    pthread_mutex_init(&calibrations->lock, NULL);
    return DA_OK;
}

void da_calibrations_free(da_calibrations *calibrations, const da_allocator *allocator) {
    if (calibrations) {
        pthread_mutex_destroy(&calibrations->lock);
        da_release(allocator, calibrations);
    }
}

const da_calibration *da_calibrations_find(const da_calibrations *calibrations, const da_implementation *implementation,
                                           da_dtype dtype, int64_t head_dim) {
    for (int k = 0; k < calibrations->count; k++) {
        const da_calibration *known = &calibrations->known[k];
        if (known->implementation->forward == implementation->forward && known->dtype == dtype &&
            known->head_dim == head_dim) {
            return known;
        }
    }
    return NULL;
}

void da_calibrations_enter(da_calibrations *calibrations, const da_calibration *timing) {
    if (calibrations->count < DA_MAX_CALIBRATIONS) {
        calibrations->known[calibrations->count++] = *timing;
    } else {
        calibrations->known[calibrations->oldest] = *timing;
        calibrations->oldest = (calibrations->oldest + 1) % DA_MAX_CALIBRATIONS;
    }
}
