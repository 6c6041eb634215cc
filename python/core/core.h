/* The extension `_core`: the C library for Python, in the limited API (one binary for all CPython from 3.9 on). It knows
 * neither NumPy nor PyTorch: tensors come as tuples of an address, a data type, a shape and strides, and the Python
 * sources beside it (functional.py, _torch_ops.py) make those. */
#ifndef DA_PYTHON_CORE_H
#define DA_PYTHON_CORE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <dilated_attention.h>

/* errors.c */

/* Sets the exception that belongs to a status, with this message, and returns NULL. */
PyObject *core_raise(da_status status, const char *message);

/* The same with the calling thread's last message. */
PyObject *core_raise_last(da_status status);

/* contexts.c */

/* The context of a number of threads in a table of one per number, made at the first use. comm: the ranks it belongs to, or
 * NULL; rates: of these ranks, or NULL. NULL with an exception. */
const da_context *core_context_in(da_context *contexts[DA_MAX_THREADS + 1], int threads, const da_comm *comm,
                                  const da_ranks_options *rates);

/* The context of this process alone, of a number of threads (0: one per core), made at the first use and kept as long as the process lives, since
 * handles refer to it. NULL with an exception. */
const da_context *core_context(int threads);

/* communicator.c */

typedef struct core_communicator core_communicator;

/* Makes the type; NULL with an exception. */
PyObject *core_communicator_type(void);

/* *out is NULL for None, otherwise the object (borrowed); -1 with an exception. */
int core_communicator_from(PyObject *object, core_communicator **out);

/* A communicator's context of a number of threads; it lives as long as the communicator. NULL with an exception. */
const da_context *core_communicator_context(core_communicator *communicator, int threads);

/* Before a call of the library that may use the communicator; NULL is allowed. */
void core_communicator_begin(core_communicator *communicator);

/* core_raise after such a call: what the transport raised is the exception's cause, or, where it is an interrupt, raised
 * itself. communicator may be NULL. */
PyObject *core_raise_with_cause(core_communicator *communicator, da_status status, const char *message);

/* tiles.c */

typedef struct core_tile_mask core_tile_mask;

/* Makes the type; NULL with an exception. */
PyObject *core_tile_mask_type(void);

/* An object that owns the mask; NULL with an exception, and then it is freed. */
PyObject *core_tile_mask_from(da_tile_mask *mask);

/* *out is NULL for None, otherwise the object's mask, which lives as long as that; -1 with an exception. */
int core_tile_mask_of(PyObject *object, const da_tile_mask **out);

/* profile.c */

typedef struct core_profile core_profile;

/* Makes the type; NULL with an exception. */
PyObject *core_profile_type(void);

/* *out is NULL for None, otherwise the object's profile, which lives as long as that; -1 with an exception. */
int core_profile_of(PyObject *object, const da_sparse_profile **out);

/* find_profile() of the module. */
PyObject *core_find_profile(PyObject *module, PyObject *args);

/* arguments.c */

/* Fills a configuration from the arguments that Attention(), explain() and find_profile() share; -1 with an exception. A
 * profile among them is borrowed from `options`. */
int core_config_from(PyObject *options, da_attention_config *config);

/* A view of the tensor that a tuple (address, data type, shape, strides) describes: of rank 4, or 3 for a logsumexp, which
 * gets a last dimension of 1. None leaves *view as it is and sets *given to NULL, otherwise *given is view. -1 with an
 * exception. */
int core_view(PyObject *object, const char *name, Py_ssize_t rank, da_tensor *view, const da_tensor **given);

/* fork.c */

/* Runs work(data): on the calling thread, or in a forked child on a thread of its own. The interpreter's lock is not
 * held. */
void core_run(void (*work)(void *data), void *data);

/* Called in the child of every fork. */
void core_after_fork(void);

/* attention.c, information.c: what the module holds. */
extern PyType_Spec core_attention_spec;
extern PyMethodDef core_functions[];

#endif
