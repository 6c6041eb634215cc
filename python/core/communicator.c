/* The type Communicator: a da_comm whose functions call the methods of a Python object, the transport. The library calls
 * them from the thread that called it, without the interpreter's lock, which is taken here. */
#include "core.h"

#include <string.h>

struct core_communicator {
    PyObject_HEAD PyObject *transport;
    PyObject *cause; /* the first exception that a method raised since the call began, or NULL */
    da_comm comm;
    da_ranks_options rates;
    da_context *contexts[DA_MAX_THREADS + 1];
};

/* ---- exceptions --------------------------------------------------------------------------------------------------- */

/* Takes the exception that is set, and makes a status and a message of it. */
static da_status caught(core_communicator *self) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    if (traceback) {
        PyException_SetTraceback(value, traceback);
    }
    PyObject *text = value ? PyObject_Str(value) : NULL;
    PyObject *utf8 = text ? PyUnicode_AsUTF8String(text) : NULL;
    const char *message = utf8 ? PyBytes_AsString(utf8) : NULL;
    bool short_of_memory = PyErr_GivenExceptionMatches(type, PyExc_MemoryError);
    da_status status = da_report(short_of_memory ? DA_ERROR_OUT_OF_MEMORY : DA_ERROR_COMMUNICATION, "%s",
                                 message ? message : "the transport failed");
    PyErr_Clear();
    Py_XDECREF(text);
    Py_XDECREF(utf8);
    Py_XDECREF(type);
    Py_XDECREF(traceback);
    if (self->cause) {
        Py_XDECREF(value);
    } else {
        self->cause = value;
    }
    return status;
}

PyObject *core_raise_with_cause(core_communicator *self, da_status status, const char *message) {
    PyObject *cause = self ? self->cause : NULL, *type, *value, *traceback;
    if (!cause) {
        return core_raise(status, message);
    }
    self->cause = NULL;
    if (!PyErr_GivenExceptionMatches(cause, PyExc_Exception)) { /* an interrupt, which is nobody's failure */
        PyErr_SetObject((PyObject *)Py_TYPE(cause), cause);
        Py_DECREF(cause);
        return NULL;
    }
    core_raise(status, message);
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    PyException_SetCause(value, cause); /* takes the reference */
    PyErr_Restore(type, value, traceback);
    return NULL;
}

/* ---- the functions of the table ----------------------------------------------------------------------------------- */

/* The result of transport.name(...), arguments by Py_BuildValue's rules; NULL with an exception. */
static PyObject *ask(const core_communicator *self, const char *name, PyObject *arguments) {
    PyObject *method = arguments ? PyObject_GetAttrString(self->transport, name) : NULL;
    PyObject *result = method ? PyObject_CallObject(method, arguments) : NULL;
    Py_XDECREF(method);
    Py_XDECREF(arguments);
    return result;
}

/* PyBUF_READ and PyBUF_WRITE, which the limited API's headers lack before 3.11, though not PyMemoryView_FromMemory. */
enum { READS = 0x100, WRITES = 0x200 };

/* The library's memory as Python sees it; it must not be used after the request has ended. */
static PyObject *memory(const void *data, size_t bytes, int access) {
    static char nothing;
    return PyMemoryView_FromMemory(bytes > 0 ? (char *)(uintptr_t)data : &nothing, (Py_ssize_t)bytes, access);
}

/* A request is a new reference to what the method returned. */
static da_status begin(core_communicator *self, const char *name, PyObject *view, int peer, int tag, void **request) {
    PyObject *result = ask(self, name, view ? Py_BuildValue("(Nii)", view, peer, tag) : NULL);
    if (!result) {
        return caught(self);
    }
    *request = result;
    return DA_OK;
}

/* PyTorch's and mpi4py's views of memory have to be writable, also where they are only read. */
static da_status send(const void *data, size_t bytes, int to, int tag, void **request, void *user) {
    PyGILState_STATE state = PyGILState_Ensure();
    da_status status = begin(user, "send", memory(data, bytes, WRITES), to, tag, request);
    PyGILState_Release(state);
    return status;
}

static da_status receive(void *data, size_t bytes, int from, int tag, void **request, void *user) {
    PyGILState_STATE state = PyGILState_Ensure();
    da_status status = begin(user, "receive", memory(data, bytes, WRITES), from, tag, request);
    PyGILState_Release(state);
    return status;
}

static da_status wait_for(void *request, double seconds, bool *done, void *user) {
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *result = ask(user, "wait", Py_BuildValue("(Od)", (PyObject *)request, seconds));
    int truth = result ? PyObject_IsTrue(result) : -1;
    da_status status = truth < 0 ? caught(user) : DA_OK;
    *done = truth == 1;
    if (*done) {
        Py_DECREF((PyObject *)request);
    }
    Py_XDECREF(result);
    PyGILState_Release(state);
    return status;
}

static bool cancel(void *request, void *user) {
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *result = ask(user, "cancel", Py_BuildValue("(O)", (PyObject *)request));
    int truth = result ? PyObject_IsTrue(result) : -1;
    if (truth < 0) {
        caught(user);
    }
    Py_XDECREF(result);
    Py_DECREF((PyObject *)request);
    PyGILState_Release(state);
    return truth == 1;
}

static da_status gather(const void *mine, size_t bytes, void *all, void *user) {
    PyGILState_STATE state = PyGILState_Ensure();
    core_communicator *self = user;
    PyObject *from = memory(mine, bytes, READS);
    PyObject *to = from ? memory(all, bytes * (size_t)self->comm.ranks, WRITES) : NULL;
    PyObject *result = to ? ask(self, "gather", Py_BuildValue("(OO)", from, to)) : NULL;
    da_status status = result ? DA_OK : caught(self);
    Py_XDECREF(from);
    Py_XDECREF(to);
    Py_XDECREF(result);
    PyGILState_Release(state);
    return status;
}

static void abandon(void *user) {
    PyGILState_STATE state = PyGILState_Ensure();
    PyObject *result = ask(user, "abandon", PyTuple_New(0));
    if (!result) {
        caught(user);
    }
    Py_XDECREF(result);
    PyGILState_Release(state);
}

/* ---- the type ----------------------------------------------------------------------------------------------------- */

static PyTypeObject *communicator_type; /* the one that the module made */

/* From a tuple of five numbers, of which 0 or more may be None: the library's defaults; -1 with an exception. The library
 * checks the values. */
static int rates_from(PyObject *tuple, da_ranks_options *rates) {
    double *const fields[] = {&rates->bandwidth, &rates->latency, &rates->overhead, &rates->forward_flops,
                              &rates->backward_flops};
    const Py_ssize_t count = sizeof fields / sizeof *fields;
    da_ranks_options_init(rates);
    if (tuple == Py_None) {
        return 0;
    }
    if (!PyTuple_Check(tuple) || PyTuple_Size(tuple) != count) {
        PyErr_Format(PyExc_TypeError, "rates is %R; allowed: None, or a tuple of %zd numbers or None", tuple, count);
        return -1;
    }
    for (Py_ssize_t k = 0; k < count && !PyErr_Occurred(); k++) {
        PyObject *number = PyTuple_GetItem(tuple, k);
        *fields[k] = number == Py_None ? *fields[k] : PyFloat_AsDouble(number);
    }
    return PyErr_Occurred() ? -1 : 0;
}

static PyObject *communicator_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    int rank, ranks;
    double timeout;
    PyObject *transport, *rates = Py_None;
    da_ranks_options known;
    if (keywords && PyDict_Size(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "Communicator takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "iidO|O", &rank, &ranks, &timeout, &transport, &rates) || rates_from(rates, &known)) {
        return NULL;
    }
    core_communicator *self = (core_communicator *)PyType_GenericAlloc(type, 0);
    if (!self) {
        return NULL;
    }
    Py_INCREF(transport);
    self->transport = transport;
    self->rates = known;
    da_comm_init(&self->comm);
    self->comm.rank = rank;
    self->comm.ranks = ranks;
    self->comm.timeout = timeout;
    self->comm.user = self;
    self->comm.send = send;
    self->comm.receive = receive;
    self->comm.wait = wait_for;
    self->comm.cancel = cancel;
    self->comm.gather = gather;
    self->comm.abandon = abandon;
    return (PyObject *)self;
}

static void communicator_dealloc(PyObject *object) {
    core_communicator *self = (core_communicator *)object;
    PyTypeObject *type = Py_TYPE(object);
    for (int threads = 0; threads <= DA_MAX_THREADS; threads++) {
        da_context_free(self->contexts[threads]);
    }
    Py_XDECREF(self->transport);
    Py_XDECREF(self->cause);
    PyObject_Free(object);
    Py_DECREF(type);
}

int core_communicator_from(PyObject *object, core_communicator **out) {
    *out = NULL;
    if (object == Py_None) {
        return 0;
    }
    if (!PyObject_TypeCheck(object, communicator_type)) {
        PyErr_Format(PyExc_TypeError, "communicator is %R; allowed: a Communicator, or None", object);
        return -1;
    }
    *out = (core_communicator *)object;
    return 0;
}

const da_context *core_communicator_context(core_communicator *self, int threads) {
    return core_context_in(self->contexts, threads, &self->comm, &self->rates);
}

void core_communicator_begin(core_communicator *self) {
    if (self) {
        Py_CLEAR(self->cause);
    }
}

static char doc[] =
    "Communicator(rank, ranks, timeout, transport, rates=None, /)\n--\n\nA rank's connection; see _core.pyi.";

static PyType_Slot slots[] = {
    {Py_tp_doc, doc},
    {Py_tp_new, communicator_new},
    {Py_tp_dealloc, communicator_dealloc},
    {0, NULL},
};

static PyType_Spec spec = {
    .name = "dilated_attention_pytorch._core.Communicator",
    .basicsize = sizeof(core_communicator),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

PyObject *core_communicator_type(void) {
    communicator_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return (PyObject *)communicator_type;
}
