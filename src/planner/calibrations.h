/* Timings that a context has taken of its machine, so that each is taken once: a small locked table. */
#ifndef DA_PLANNER_CALIBRATIONS_H
#define DA_PLANNER_CALIBRATIONS_H

#include <pthread.h>

#include "planner/rates.h"
#include "planner/work.h"

/* What one implementation's parts of work take, for one data type and head_dim. */
typedef struct da_calibration {
    const da_implementation *implementation;
    da_dtype dtype;
    int64_t head_dim;
    double seconds[DA_WORK_KINDS]; /* of one thread alone, data in cache */
    double slowdown;               /* of a thread while all work */
} da_calibration;

/* What a pair takes in a problem, by a hash of its key (planner/plan_key.h). */
typedef struct da_known_pair {
    uint64_t key;
    da_pair_seconds seconds;
} da_known_pair;

#define DA_MAX_CALIBRATIONS 32

typedef struct da_calibrations {
    pthread_mutex_t lock;
    int count, oldest;
    da_calibration known[DA_MAX_CALIBRATIONS];
    int pair_count, oldest_pair;
    da_known_pair pairs[DA_MAX_CALIBRATIONS];
    double bytes_per_second; /* that all threads together read from memory; 0: not measured yet */
} da_calibrations;

da_status da_calibrations_create(const da_allocator *allocator, da_calibrations **out);
void da_calibrations_free(da_calibrations *calibrations, const da_allocator *allocator);

/* The context's. */
da_calibrations *da_context_calibrations(const da_context *context);

/* The timing that is known, or NULL; and enters one, in the place of the oldest if the table is full. The lock is held
 * by the caller. */
const da_calibration *da_calibrations_find(const da_calibrations *calibrations, const da_implementation *implementation,
                                           da_dtype dtype, int64_t head_dim);
void da_calibrations_enter(da_calibrations *calibrations, const da_calibration *timing);

/* What is known of the pairs of a problem, 0 if nothing is; and enters what is not 0. These two take the lock themselves. */
da_pair_seconds da_calibrations_pair(da_calibrations *calibrations, uint64_t key);
void da_calibrations_enter_pair(da_calibrations *calibrations, uint64_t key, const da_pair_seconds *seconds);

#endif
