/* Which exception a status becomes. What the caller can mend is a ValueError, an unavailable implementation too. */
#include "core.h"

PyObject *core_raise(da_status status, const char *message) {
    switch (status) {
    case DA_ERROR_OUT_OF_MEMORY: PyErr_SetString(PyExc_MemoryError, message); break;
    case DA_ERROR_IO: PyErr_SetString(PyExc_OSError, message); break;
    case DA_ERROR_CANCELLED:
    case DA_ERROR_COMMUNICATION: PyErr_SetString(PyExc_RuntimeError, message); break;
    default: PyErr_SetString(PyExc_ValueError, message); break;
    }
    return NULL;
}

PyObject *core_raise_last(da_status status) {
    return core_raise(status, da_last_error_message());
}
