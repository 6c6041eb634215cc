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

static da_known_pair *find_pair(da_calibrations *calibrations, uint64_t key) {
    for (int k = 0; k < calibrations->pair_count; k++) {
        if (calibrations->pairs[k].key == key) {
            return &calibrations->pairs[k];
        }
    }
    return NULL;
}

da_pair_seconds da_calibrations_pair(da_calibrations *calibrations, uint64_t key) {
    pthread_mutex_lock(&calibrations->lock);
    const da_known_pair *known = find_pair(calibrations, key);
    da_pair_seconds seconds = known ? known->seconds : (da_pair_seconds){0};
    pthread_mutex_unlock(&calibrations->lock);
    return seconds;
}

/* The place of a new pair: a free one, or else that of the oldest. */
static da_known_pair *new_pair(da_calibrations *calibrations, uint64_t key) {
    da_known_pair *pair;
    if (calibrations->pair_count < DA_MAX_CALIBRATIONS) {
        pair = &calibrations->pairs[calibrations->pair_count++];
    } else {
        pair = &calibrations->pairs[calibrations->oldest_pair];
        calibrations->oldest_pair = (calibrations->oldest_pair + 1) % DA_MAX_CALIBRATIONS;
    }
    *pair = (da_known_pair){.key = key};
    return pair;
}

void da_calibrations_enter_pair(da_calibrations *calibrations, uint64_t key, const da_pair_seconds *seconds) {
    pthread_mutex_lock(&calibrations->lock);
    da_known_pair *known = find_pair(calibrations, key);
    da_pair_seconds *to = known ? &known->seconds : &new_pair(calibrations, key)->seconds;
    to->forward = seconds->forward > 0 ? seconds->forward : to->forward;
    to->grad_query = seconds->grad_query > 0 ? seconds->grad_query : to->grad_query;
    to->grad_keys = seconds->grad_keys > 0 ? seconds->grad_keys : to->grad_keys;
    pthread_mutex_unlock(&calibrations->lock);
}
