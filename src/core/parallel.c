/* OpenMP lives in this file alone. */
#include "core/parallel.h"

#include <omp.h>

void da_parallel_for(int threads, int64_t count, void (*body)(int64_t index, int thread, void *user), void *user) {
    if (threads > count) {
        threads = (int)count;
    }
    if (threads <= 1) {
        /* A team of one costs a call microseconds that small problems feel. */
        for (int64_t index = 0; index < count; index++) {
            body(index, 0, user);
        }
        return;
    }
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
    for (int64_t index = 0; index < count; index++) {
        body(index, omp_get_thread_num(), user);
    }
}

int da_limit_foreign_threads(int threads) {
    int before = omp_get_max_threads();
    omp_set_num_threads(threads);
    return before;
}

int da_usable_cores(void) {
    int cores = omp_get_num_procs();
    return cores > 0 ? cores : 1;
}
