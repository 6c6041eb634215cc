/* One context per number of threads. The machine is looked at once. All of this happens under the interpreter's lock. */
#include "core.h"

static da_context *contexts[DA_MAX_THREADS + 1];

const da_context *core_context(int threads) {
    da_context_options options;
    const da_hardware *hardware = NULL;
    if (threads < 0 || threads > DA_MAX_THREADS) {
        PyErr_Format(PyExc_ValueError, "threads is %d; allowed: 0 (one per core) to %d", threads, DA_MAX_THREADS);
        return NULL;
    }
    if (contexts[threads]) {
        return contexts[threads];
    }
    for (int other = 0; other <= DA_MAX_THREADS && !hardware; other++) {
        hardware = contexts[other] ? da_context_hardware(contexts[other]) : NULL;
    }
    da_context_options_init(&options);
    options.threads = threads;
    options.hardware = hardware;
    da_status status = da_context_create(&options, &contexts[threads]);
    return status == DA_OK ? contexts[threads] : (core_raise_last(status), NULL);
}
