#include "attention/job.h"

#include <string.h>

#include "core/parallel.h"

void da_job_plan(da_job *job, const da_context *context, const da_tuning *tuning, int64_t work) {
    job->work = job->steps = work;
    job->threads = da_threads_for(context, tuning, work);
}

da_status da_job_begin(da_job *job, const da_context *context, const da_call_options *options) {
    job->memory = da_allocate(da_context_allocator(context), 1, da_job_bytes(job));
    if (!job->memory) {
        return DA_ERROR_OUT_OF_MEMORY;
    }
    if (job->clear_memory) {
        memset(job->memory, 0, (size_t)job->threads * job->memory_per_thread);
    }
    da_progress_begin(&job->progress, options, job->steps);
    return DA_OK;
}

da_status da_job_end(da_job *job, const da_context *context) {
    da_release(da_context_allocator(context), job->memory);
    return da_progress_end(&job->progress);
}

da_status da_job_run(da_job *job, const da_context *context, const da_call_options *options,
                     void (*body)(int64_t part, int thread, void *user), void *user) {
    if (job->work == 0) { /* a backward pass of which no gradient is wanted */
        return DA_OK;
    }
    da_status status = da_job_begin(job, context, options);
    if (status != DA_OK) {
        return status;
    }
    da_parallel_for(job->threads, job->work, body, user);
    return da_job_end(job, context);
}
