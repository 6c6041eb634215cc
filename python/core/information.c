/* What the library says of itself, of this machine and of its choices. */
#include "core.h"

static PyObject *version(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyUnicode_FromString(da_version());
}

/* Appends a string to a list that may be NULL already; returns the list, or NULL with an exception. */
static PyObject *append(PyObject *list, const char *text) {
    PyObject *string = list ? PyUnicode_FromString(text) : NULL;
    if (list && (!string || PyList_Append(list, string))) {
        Py_CLEAR(list);
    }
    Py_XDECREF(string);
    return list;
}

static PyObject *implementations(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    PyObject *names = PyList_New(0);
    for (size_t k = 0; k < da_implementation_count(); k++) {
        names = append(names, da_implementation_name(k));
    }
    return names;
}

static PyObject *dtype_names(uint32_t bits) {
    PyObject *names = PyList_New(0);
    for (int dtype = DA_F32; dtype <= DA_F16; dtype++) {
        names = bits & DA_DTYPE_BIT(dtype) ? append(names, da_dtype_name((da_dtype)dtype)) : names;
    }
    return names;
}

static PyObject *feature_names(uint32_t bits) {
    static const char *const all[] = {"causal",       "window",      "key_padding",   "grouped_queries",
                                      "logsumexp",    "head_groups", "block_offsets", "zero_pad",
                                      "overlap_once", "dropout",     "query_range"};
    PyObject *names = PyList_New(0);
    for (size_t k = 0; k < sizeof all / sizeof *all; k++) {
        names = bits & (1u << k) ? append(names, all[k]) : names;
    }
    return names;
}

static PyObject *info(PyObject *module, PyObject *args) {
    const char *name;
    da_implementation_info found;
    (void)module;
    if (!PyArg_ParseTuple(args, "s", &name)) {
        return NULL;
    }
    const da_context *context = core_context(0);
    if (!context) {
        return NULL;
    }
    da_implementation_info_init(&found);
    da_status status = da_implementation_get_info(context, name, &found);
    if (status != DA_OK) {
        return core_raise_last(status);
    }
    return Py_BuildValue("{s:s,s:s,s:s,s:s,s:N,s:N,s:N,s:N,s:s,s:N}", "name", found.name, "description",
                         found.description, "best_for", found.best_for, "memory", found.memory, "features",
                         feature_names(found.features), "dtypes", dtype_names(found.dtypes), "built_in",
                         PyBool_FromLong(found.built_in), "available", PyBool_FromLong(found.available), "reason",
                         found.reason, "backward", PyBool_FromLong(found.backward));
}

static PyObject *gpus(const da_hardware *hardware) {
    PyObject *list = PyList_New(0);
    for (int k = 0; list && k < hardware->gpu_count; k++) {
        const da_gpu *gpu = &hardware->gpus[k];
        PyObject *one = Py_BuildValue("{s:s,s:(ii),s:K}", "name", gpu->name, "compute_capability", gpu->compute_major,
                                      gpu->compute_minor, "memory", (unsigned long long)gpu->memory);
        if (!one || PyList_Append(list, one)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(one);
    }
    return list;
}

static PyObject *hardware(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    const da_context *context = core_context(0);
    if (!context) {
        return NULL;
    }
    const da_hardware *h = da_context_hardware(context);
    return Py_BuildValue("{s:s,s:s,s:i,s:s,s:K,s:K,s:K,s:K,s:N,s:s}", "cpu_name", h->cpu_name, "architecture",
                         h->architecture, "cores", h->cores, "isa", da_isa_name(da_context_isa(context)), "l1_cache",
                         (unsigned long long)h->l1_cache, "l2_cache", (unsigned long long)h->l2_cache, "l3_cache",
                         (unsigned long long)h->l3_cache, "memory", (unsigned long long)h->memory, "gpus", gpus(h),
                         "gpu_note", h->gpu_note);
}

static PyObject *explain(PyObject *module, PyObject *args) {
    PyObject *options;
    const char *dtype;
    long long batch, n, heads, kv_heads, head_dim;
    da_attention_config config;
    da_problem problem;
    da_explanation *explanation;
    (void)module;
    da_problem_init(&problem);
    if (!PyArg_ParseTuple(args, "O!LLLLLs", &PyTuple_Type, &options, &batch, &n, &heads, &kv_heads, &head_dim,
                          &dtype) ||
        core_config_from(options, &config)) {
        return NULL;
    }
    problem.batch = batch;
    problem.n = n;
    problem.heads = heads;
    problem.kv_heads = kv_heads;
    problem.head_dim = head_dim;
    const da_context *context = core_context(0);
    if (!context) {
        return NULL;
    }
    da_status status = da_dtype_from_name(dtype, &problem.dtype);
    status = status == DA_OK ? da_explain(context, &config, &problem, &explanation) : status;
    if (status != DA_OK) {
        return core_raise_last(status);
    }
    PyObject *text = PyUnicode_FromString(da_explanation_text(explanation));
    da_explanation_free(explanation);
    return text;
}

static int partition_from(PyObject *args, da_partition *partition, long long *stripe, long long *n, int *ranks,
                          int *rank, PyObject **address) {
    const char *name;
    if (!PyArg_ParseTuple(args, "sLLiiO", &name, stripe, n, ranks, rank, address)) {
        return -1;
    }
    da_status status = da_partition_from_name(name, partition);
    return status == DA_OK ? 0 : (core_raise_last(status), -1);
}

/* The number of a rank's rows; their positions are written where an address is given. */
static PyObject *partition_rows(PyObject *module, PyObject *args) {
    da_partition partition;
    long long stripe, n;
    int ranks, rank;
    int64_t length;
    PyObject *address;
    (void)module;
    if (partition_from(args, &partition, &stripe, &n, &ranks, &rank, &address)) {
        return NULL;
    }
    da_status status = da_partition_length(partition, stripe, n, ranks, rank, &length);
    int64_t *positions = address == Py_None ? NULL : PyLong_AsVoidPtr(address);
    if (PyErr_Occurred()) {
        return NULL;
    }
    for (int64_t row = 0; positions && status == DA_OK && row < length; row++) {
        status = da_partition_position(partition, stripe, n, ranks, rank, row, &positions[row]);
    }
    return status == DA_OK ? PyLong_FromLongLong(length) : core_raise_last(status);
}

static PyObject *after_fork(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    core_after_fork();
    Py_RETURN_NONE;
}

PyMethodDef core_functions[] = {
    {"version", version, METH_NOARGS, "Version of the C library."},
    {"implementations", implementations, METH_NOARGS, "Names of the registered implementations, available or not."},
    {"info", info, METH_VARARGS, "info(name, /): what is known of an implementation, as a dict."},
    {"hardware", hardware, METH_NOARGS, "This machine, as a dict."},
    {"explain", explain, METH_VARARGS,
     "explain(options, batch, n, heads, kv_heads, head_dim, dtype, /): what \"auto\" chooses, and why."},
    {"find_profile", core_find_profile, METH_VARARGS,
     "find_profile(options, threads, query, key, key_lengths, quality_target, /): what each head needs."},
    {"partition_rows", partition_rows, METH_VARARGS,
     "partition_rows(partition, stripe, n, ranks, rank, address, /): number of a rank's rows; their positions to "
     "address."},
    {"_after_fork", after_fork, METH_NOARGS, "To be called in the child of every fork."},
    {NULL, NULL, 0, NULL},
};
