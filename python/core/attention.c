/* The type Attention: a handle of the library, forward and backward. */
#include "core.h"

#include <stdio.h>

typedef struct attention {
    PyObject_HEAD da_attention *handle;
    core_communicator *communicator; /* NULL: this process alone */
    PyObject *options;               /* which own what the handle borrows */
} attention;

/* Creation, which all ranks of a communicator do together; the interpreter's lock is not held. */
typedef struct creation {
    const da_context *context;
    const char *implementation;
    da_attention_config config;
    da_attention *handle;
    char message[1024];
} creation;

static da_status create(creation *c) {
    da_status status = da_attention_create(c->context, c->implementation, &c->config, &c->handle);
    if (status != DA_OK) {
        snprintf(c->message, sizeof c->message, "%s", da_last_error_message());
    }
    return status;
}

static PyObject *attention_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    PyObject *options, *group = Py_None;
    core_communicator *communicator;
    int threads;
    creation c = {0};
    if (keywords && PyDict_Size(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "Attention takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "sO!i|O", &c.implementation, &PyTuple_Type, &options, &threads, &group) ||
        core_config_from(options, &c.config) || core_communicator_from(group, &communicator)) {
        return NULL;
    }
    c.context = communicator ? core_communicator_context(communicator, threads) : core_context(threads);
    if (!c.context) {
        return NULL;
    }
    da_status status;
    core_communicator_begin(communicator);
    Py_BEGIN_ALLOW_THREADS status = create(&c);
    Py_END_ALLOW_THREADS if (status != DA_OK) {
        return core_raise_with_cause(communicator, status, c.message);
    }
    attention *self = (attention *)PyType_GenericAlloc(type, 0);
    if (!self) {
        da_attention_free(c.handle);
        return NULL;
    }
    self->handle = c.handle;
    self->communicator = communicator;
    self->options = options;
    Py_INCREF(options);
    Py_XINCREF((PyObject *)communicator);
    return (PyObject *)self;
}

static void attention_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    attention *self = (attention *)object;
    da_attention_free(self->handle);
    Py_XDECREF((PyObject *)self->communicator);
    Py_XDECREF(self->options);
    PyObject_Free(object);
    Py_DECREF(type);
}

static PyObject *attention_implementation(PyObject *object, void *closure) {
    (void)closure;
    return PyUnicode_FromString(da_attention_implementation(((attention *)object)->handle));
}

/* A call, as core_run carries it to another thread; the message is read on the thread that failed. */
typedef struct call {
    const da_attention *handle;
    const da_tensor *query, *key, *value, *out, *lse; /* of a forward pass */
    const da_backward_tensors *backward;              /* or NULL */
    da_tile_mask **tiles;                             /* to be chosen alone; or NULL */
    da_sparse_report *report;                         /* of them; or NULL */
    da_call_options options;
    da_status status;
    char message[1024];
} call;

static void run_call(void *data) {
    call *c = data;
    c->status = c->tiles ? da_attention_tiles(c->handle, c->query, c->key, &c->options, c->tiles, c->report)
                : c->backward
                    ? da_attention_backward(c->handle, c->backward, &c->options)
                    : da_attention_forward(c->handle, c->query, c->key, c->value, c->out, c->lse, &c->options);
    if (c->status != DA_OK) {
        snprintf(c->message, sizeof c->message, "%s", da_last_error_message());
    }
}

/* None, or NULL with an exception. */
static PyObject *finish(call *c, const attention *self) {
    c->handle = self->handle;
    core_communicator_begin(self->communicator);
    Py_BEGIN_ALLOW_THREADS core_run(run_call, c);
    Py_END_ALLOW_THREADS if (c->status != DA_OK) {
        return core_raise_with_cause(self->communicator, c->status, c->message);
    }
    Py_RETURN_NONE;
}

/* key_lengths: the address of batch values of int64, or None. seed: of dropout, or None where there is none. tiles: a TileMask
 * or None. */
static int options_from(PyObject *key_lengths, PyObject *seed, PyObject *tiles, da_call_options *options) {
    da_call_options_init(options);
    if (key_lengths != Py_None) {
        options->key_lengths = PyLong_AsVoidPtr(key_lengths);
    }
    if (seed != Py_None) {
        options->training = true;
        options->dropout_seed = PyLong_AsUnsignedLongLongMask(seed);
    }
    return PyErr_Occurred() || core_tile_mask_of(tiles, &options->tiles) ? -1 : 0;
}

static PyObject *attention_forward(PyObject *object, PyObject *args) {
    static const char *const names[5] = {"query", "key", "value", "out", "lse"};
    PyObject *given[5], *key_lengths, *seed, *tiles = Py_None;
    da_tensor views[5];
    const da_tensor *tensors[5];
    call c = {0};
    if (!PyArg_ParseTuple(args, "OOOOOOO|O", &given[0], &given[1], &given[2], &given[3], &given[4], &key_lengths, &seed,
                          &tiles)) {
        return NULL;
    }
    for (int k = 0; k < 5; k++) {
        if (core_view(given[k], names[k], k == 4 ? 3 : 4, &views[k], &tensors[k])) {
            return NULL;
        }
    }
    if (options_from(key_lengths, seed, tiles, &c.options)) {
        return NULL;
    }
    c.query = tensors[0];
    c.key = tensors[1];
    c.value = tensors[2];
    c.out = tensors[3];
    c.lse = tensors[4];
    return finish(&c, (attention *)object);
}

static PyObject *attention_backward(PyObject *object, PyObject *args) {
    enum { COUNT = 10 };
    static const char *const names[COUNT] = {"query",    "key",      "value",      "out",      "lse",
                                             "grad_out", "grad_lse", "grad_query", "grad_key", "grad_value"};
    PyObject *given[COUNT], *key_lengths, *seed, *tiles = Py_None;
    da_tensor views[COUNT];
    da_backward_tensors tensors;
    call c = {.backward = &tensors};
    da_backward_tensors_init(&tensors);
    const da_tensor **const fields[COUNT] = {
        &tensors.query,    &tensors.key,      &tensors.value,      &tensors.out,      &tensors.lse,
        &tensors.grad_out, &tensors.grad_lse, &tensors.grad_query, &tensors.grad_key, &tensors.grad_value};
    if (!PyArg_ParseTuple(args, "OOOOOOOOOOOO|O", &given[0], &given[1], &given[2], &given[3], &given[4], &given[5],
                          &given[6], &given[7], &given[8], &given[9], &key_lengths, &seed, &tiles)) {
        return NULL;
    }
    for (int k = 0; k < COUNT; k++) {
        if (core_view(given[k], names[k], k == 4 || k == 6 ? 3 : 4, &views[k], fields[k])) {
            return NULL;
        }
    }
    if (options_from(key_lengths, seed, tiles, &c.options)) {
        return NULL;
    }
    return finish(&c, (attention *)object);
}

/* What is NaN was not measured. */
static PyObject *report_of(const da_sparse_report *report) {
    return Py_BuildValue("LLddddLd", (long long)report->tiles_kept, (long long)report->tiles_all, report->pairs_kept,
                         report->pairs_all, report->mass_kept, report->mass_error, (long long)report->sampled_queries,
                         report->choose_seconds);
}

static PyObject *attention_tiles(PyObject *object, PyObject *args) {
    PyObject *given[2], *key_lengths, *theirs = Py_None;
    da_tensor views[2];
    const da_tensor *tensors[2];
    da_tile_mask *mask;
    da_sparse_report report;
    int wants_report;
    if (!PyArg_ParseTuple(args, "OOOp|O", &given[0], &given[1], &key_lengths, &wants_report, &theirs)) {
        return NULL;
    }
    da_sparse_report_init(&report);
    call c = {.tiles = &mask, .report = wants_report ? &report : NULL};
    if (core_view(given[0], "query", 4, &views[0], &tensors[0]) ||
        core_view(given[1], "key", 4, &views[1], &tensors[1]) ||
        options_from(key_lengths, Py_None, theirs, &c.options)) {
        return NULL;
    }
    c.query = tensors[0];
    c.key = tensors[1];
    PyObject *none = finish(&c, (attention *)object);
    if (!none) {
        return NULL;
    }
    Py_DECREF(none);
    PyObject *tiles = core_tile_mask_from(mask);
    PyObject *described = !tiles ? NULL : wants_report ? report_of(&report) : Py_BuildValue("");
    PyObject *both = described ? PyTuple_Pack(2, tiles, described) : NULL;
    Py_XDECREF(tiles);
    Py_XDECREF(described);
    return both;
}

static PyMethodDef methods[] = {
    {"forward", attention_forward, METH_VARARGS,
     "forward(query, key, value, out, lse, key_lengths, seed, tiles=None, /)"},
    {"tiles", attention_tiles, METH_VARARGS, "tiles(query, key, key_lengths, report, tiles=None, /)"},
    {"backward", attention_backward, METH_VARARGS,
     "backward(query, key, value, out, lse, grad_out, grad_lse, grad_query, grad_key, grad_value, key_lengths, seed, "
     "tiles=None, /)"},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"implementation", attention_implementation, NULL, "Name of the implementation that runs.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static char doc[] = "Attention(implementation, options, threads, communicator=None, /)\n--\n\nA handle of the C "
                    "library; see _core.pyi.";

static PyType_Slot slots[] = {
    {Py_tp_doc, doc},         {Py_tp_new, attention_new}, {Py_tp_dealloc, attention_dealloc},
    {Py_tp_methods, methods}, {Py_tp_getset, properties}, {0, NULL},
};

PyType_Spec core_attention_spec = {
    .name = "dilated_attention_pytorch._core.Attention",
    .basicsize = sizeof(attention),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};
