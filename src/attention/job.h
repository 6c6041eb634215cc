/* A pass as the threads share it out: how many parts, a piece of working memory each thread, progress, cancellation. */
#ifndef DA_ATTENTION_JOB_H
#define DA_ATTENTION_JOB_H

#include "attention/workspace.h"
#include "core/progress.h"

/* A pass plans all but the last two. */
typedef struct da_job {
    int64_t work;  /* parts that a thread takes one at a time */
    int64_t steps; /* of progress in all */
    int threads;
    size_t memory_per_thread, shared_memory; /* the latter for all threads together */
    bool clear_memory;                       /* to zero, before the first part: that of threads */
    char *memory;
    da_progress_state progress;
} da_job;

/* Sets work, threads for it, and as many steps of progress. */
void da_job_plan(da_job *job, const da_context *context, const da_tuning *tuning, int64_t work);

/* Of working memory, all threads together. */
static inline size_t da_job_bytes(const da_job *job) {
    return (size_t)job->threads * job->memory_per_thread + job->shared_memory;
}

static inline char *da_job_shared_memory(const da_job *job) {
    return job->memory + (size_t)job->threads * job->memory_per_thread;
}

static inline char *da_job_memory(const da_job *job, int thread) {
    return job->memory + (size_t)thread * job->memory_per_thread;
}

/* Allocates memory and begins progress; what follows are parallel loops of `threads` threads, and the end. Errors:
 * DA_ERROR_OUT_OF_MEMORY. */
da_status da_job_begin(da_job *job, const da_context *context, const da_call_options *options);
/* Errors: DA_ERROR_CANCELLED. */
da_status da_job_end(da_job *job, const da_context *context);

/* Runs body(part, thread, user) for every part. It looks at da_progress_cancelled, and calls da_progress_step `steps`
 * times in all. Errors: DA_ERROR_OUT_OF_MEMORY, DA_ERROR_CANCELLED. */
da_status da_job_run(da_job *job, const da_context *context, const da_call_options *options,
                     void (*body)(int64_t part, int thread, void *user), void *user);

#endif
