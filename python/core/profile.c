/* The type SparseProfile: what each head needs of a pattern's tiles, as the library keeps it. */
#include "core.h"

#include <stdio.h>

struct core_profile {
    PyObject_HEAD da_sparse_profile *profile;
};

static PyTypeObject *profile_type; /* the one that the module made */

static PyObject *wrap(PyTypeObject *type, da_sparse_profile *profile) {
    core_profile *self = (core_profile *)PyType_GenericAlloc(type, 0);
    if (!self) {
        da_sparse_profile_free(profile);
        return NULL;
    }
    self->profile = profile;
    return (PyObject *)self;
}

static PyObject *profile_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    const char *path;
    da_sparse_profile *profile;
    if (keywords && PyDict_Size(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "SparseProfile takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "s", &path)) {
        return NULL;
    }
    da_status status = da_sparse_profile_load(NULL, path, &profile);
    return status == DA_OK ? wrap(type, profile) : core_raise_last(status);
}

/* A search, as core_run carries it to another thread; the message is read on the thread that failed. */
typedef struct search {
    const da_context *context;
    const da_attention_config *config;
    const da_tensor *query, *key;
    da_call_options options;
    double target;
    da_sparse_profile *found;
    da_status status;
    char message[1024];
} search;

static void run_search(void *data) {
    search *s = data;
    s->status = da_sparse_profile_create(s->context, s->config, s->query, s->key, &s->options, s->target, &s->found);
    if (s->status != DA_OK) {
        snprintf(s->message, sizeof s->message, "%s", da_last_error_message());
    }
}

PyObject *core_find_profile(PyObject *module, PyObject *args) {
    PyObject *options, *given[2], *key_lengths;
    da_attention_config config;
    da_tensor views[2];
    int threads;
    search s = {.config = &config};
    (void)module;
    da_call_options_init(&s.options);
    if (!PyArg_ParseTuple(args, "O!iOOOd", &PyTuple_Type, &options, &threads, &given[0], &given[1], &key_lengths,
                          &s.target) ||
        core_config_from(options, &config) || core_view(given[0], "query", 4, &views[0], &s.query) ||
        core_view(given[1], "key", 4, &views[1], &s.key)) {
        return NULL;
    }
    s.options.key_lengths = key_lengths == Py_None ? NULL : PyLong_AsVoidPtr(key_lengths);
    s.context = PyErr_Occurred() ? NULL : core_context(threads);
    if (!s.context) {
        return NULL;
    }
    Py_BEGIN_ALLOW_THREADS core_run(run_search, &s);
    Py_END_ALLOW_THREADS return s.status == DA_OK ? wrap(profile_type, s.found) : core_raise(s.status, s.message);
}

static void profile_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    da_sparse_profile_free(((core_profile *)object)->profile);
    PyObject_Free(object);
    Py_DECREF(type);
}

int core_profile_of(PyObject *object, const da_sparse_profile **out) {
    *out = NULL;
    if (object == Py_None) {
        return 0;
    }
    if (!PyObject_TypeCheck(object, profile_type)) {
        PyErr_Format(PyExc_TypeError, "sparse_profile is %R; allowed: a SparseProfile, or None", object);
        return -1;
    }
    *out = ((core_profile *)object)->profile;
    return 0;
}

static PyObject *profile_save(PyObject *object, PyObject *args) {
    const char *path;
    if (!PyArg_ParseTuple(args, "s", &path)) {
        return NULL;
    }
    da_status status = da_sparse_profile_save(((core_profile *)object)->profile, path);
    if (status != DA_OK) {
        return core_raise_last(status);
    }
    Py_RETURN_NONE;
}

static PyObject *profile_heads(PyObject *object, void *closure) {
    const da_sparse_profile *profile = ((core_profile *)object)->profile;
    da_sparse_profile_info info;
    (void)closure;
    da_sparse_profile_info_init(&info);
    da_sparse_profile_get_info(profile, &info);
    PyObject *list = PyList_New(0);
    for (int64_t head = 0; list && head < info.heads; head++) {
        da_sparse_pattern pattern = DA_SPARSE_CONTENT;
        double ratio = 0;
        da_sparse_profile_head(profile, head, &pattern, &ratio);
        PyObject *one = Py_BuildValue("sd", da_sparse_pattern_name(pattern), ratio);
        if (!one || PyList_Append(list, one)) {
            Py_CLEAR(list);
        }
        Py_XDECREF(one);
    }
    return list;
}

static PyObject *profile_info(PyObject *object, void *closure) {
    da_sparse_profile_info info;
    (void)closure;
    da_sparse_profile_info_init(&info);
    da_sparse_profile_get_info(((core_profile *)object)->profile, &info);
    return Py_BuildValue("Ld", (long long)info.block_size, info.quality_target);
}

static PyMethodDef methods[] = {
    {"save", profile_save, METH_VARARGS, "save(path, /)"},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"heads", profile_heads, NULL, "Each head's pattern and ratio.", NULL},
    {"info", profile_info, NULL, "block_size and quality_target.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static char doc[] = "SparseProfile(path, /)\n--\n\nA profile from a file; see _core.pyi.";

static PyType_Slot slots[] = {
    {Py_tp_doc, doc},         {Py_tp_new, profile_new},   {Py_tp_dealloc, profile_dealloc},
    {Py_tp_methods, methods}, {Py_tp_getset, properties}, {0, NULL},
};

static PyType_Spec spec = {
    .name = "dilated_attention_pytorch._core.SparseProfile",
    .basicsize = sizeof(core_profile),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

PyObject *core_profile_type(void) {
    profile_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return (PyObject *)profile_type;
}
