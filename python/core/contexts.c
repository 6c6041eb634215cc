/* One context per number of threads. The machine is looked at once. All of this happens under the interpreter's lock. */
#include "core.h"

static da_context *contexts[DA_MAX_THREADS + 1];

const da_context *core_context_in(da_context *table[DA_MAX_THREADS + 1], int threads, const da_comm *comm,
                                  const da_ranks_options *rates) {
    da_context_options options;
    const da_hardware *hardware = NULL;
    if (threads < 0 || threads > DA_MAX_THREADS) {
        PyErr_Format(PyExc_ValueError, "threads is %d; allowed: 0 (one per core) to %d", threads, DA_MAX_THREADS);
        return NULL;
    }
    if (table[threads]) {
        return table[threads];
    }
    for (int other = 0; other <= DA_MAX_THREADS && !hardware; other++) {
        hardware = contexts[other] ? da_context_hardware(contexts[other]) : NULL;
    }
    da_context_options_init(&options);
    options.threads = threads;
    options.hardware = hardware;
    options.comm = comm;
    options.rates = rates;
    da_status status = da_context_create(&options, &table[threads]);
    return status == DA_OK ? table[threads] : (core_raise_last(status), NULL);
}

const da_context *core_context(int threads) {
    return core_context_in(contexts, threads, NULL, NULL);
}
