/* The module itself. */
#include "core.h"

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_core",
    .m_doc = "The C library dilated_attention, for the Python sources of this package.",
    .m_size = -1,
    .m_methods = core_functions,
};

/* Calls os.register_at_fork(after_in_child=module._after_fork); -1 with an exception. */
static int follow_forks(PyObject *module) {
    PyObject *os = PyImport_ImportModule("os");
    PyObject *function = os ? PyObject_GetAttrString(os, "register_at_fork") : NULL;
    PyObject *hook = function ? PyObject_GetAttrString(module, "_after_fork") : NULL;
    PyObject *keywords = hook ? Py_BuildValue("{s:O}", "after_in_child", hook) : NULL;
    PyObject *none = keywords ? PyTuple_New(0) : NULL;
    PyObject *result = none ? PyObject_Call(function, none, keywords) : NULL;
    Py_XDECREF(os);
    Py_XDECREF(function);
    Py_XDECREF(hook);
    Py_XDECREF(keywords);
    Py_XDECREF(none);
    Py_XDECREF(result);
    return result ? 0 : -1;
}

PyMODINIT_FUNC PyInit__core(void); /* found by its name */

PyMODINIT_FUNC PyInit__core(void) {
    PyObject *module = PyModule_Create(&definition);
    PyObject *type = module ? PyType_FromSpec(&core_attention_spec) : NULL;
    PyObject *communicator = type ? core_communicator_type() : NULL;
    PyObject *tiles = communicator ? core_tile_mask_type() : NULL;
    PyObject *profile = tiles ? core_profile_type() : NULL;
    if (!profile || PyModule_AddObject(module, "Attention", type) ||
        PyModule_AddObject(module, "Communicator", communicator) || PyModule_AddObject(module, "TileMask", tiles) ||
        PyModule_AddObject(module, "SparseProfile", profile) || follow_forks(module)) {
        Py_XDECREF(module);
        return NULL;
    }
    return module;
}
