/* Calls in a forked child.
 *
 * fork() copies the calling thread alone. GCC's OpenMP run-time library keeps a pool of threads per thread that begins
 * parallel regions; in the child, the forking thread's pool still lists threads that do not exist there, and its next
 * parallel region would wait for them for ever. A thread that is new begins with a pool of its own, so that is where the
 * child's calls run, each on a new one. */
#include "core.h"

#include <pthread.h>
#include <stdbool.h>

static bool forked;

typedef struct job {
    void (*work)(void *data);
    void *data;
} job;

static void *run_job(void *argument) {
    const job *mine = argument;
    mine->work(mine->data);
    return NULL;
}

void core_after_fork(void) {
    forked = true;
}

void core_run(void (*work)(void *data), void *data) {
    pthread_t thread;
    job mine = {work, data};
    if (forked && pthread_create(&thread, NULL, run_job, &mine) == 0) {
        pthread_join(thread, NULL);
    } else {
        work(data);
    }
}
