/* Threads: one parallel loop. */
#ifndef DA_CORE_PARALLEL_H
#define DA_CORE_PARALLEL_H

#include <stdint.h>

/* Calls body(index, thread, user) for every index in 0..count-1, on `threads` threads; `thread` numbers the caller's
 * thread in 0..threads-1. Indices are handed out in order, one at a time, as threads become free. */
void da_parallel_for(int threads, int64_t count, void (*body)(int64_t index, int thread, void *user), void *user);

/* Sets how many threads OpenMP code of others (a BLAS, say) that the calling thread enters may start, and returns what it
 * was. Only the calling thread's own setting; da_parallel_for does not look at it. */
int da_limit_foreign_threads(int threads);

/* Cores that this process may use, at least 1. */
int da_usable_cores(void);

#endif
