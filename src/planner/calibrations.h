/* Timings that a context has taken of its machine, so that each is taken once: a small locked table. */
#ifndef DA_PLANNER_CALIBRATIONS_H
#define DA_PLANNER_CALIBRATIONS_H

#include <pthread.h>

#include "planner/work.h"

/* What one implementation's parts of work take, for one data type and head_dim. */
typedef struct da_calibration {
    const da_implementation *implementation;
    da_dtype dtype;
    int64_t head_dim;
    double seconds[DA_WORK_KINDS]; /* of one thread alone, data in cache */
    double slowdown;               /* of a thread while all work */
} da_calibration;

#define DA_MAX_CALIBRATIONS 32

typedef struct da_calibrations {
    pthread_mutex_t lock;
    int count, oldest;
    da_calibration known[DA_MAX_CALIBRATIONS];
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

#endif
