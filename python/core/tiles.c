/* The type TileMask: tiles that block_sparse computes, as the library keeps them. Python has them as two arrays, the number
 * of tiles of each row of tiles and the columns of all of them, and hands over addresses. */
#include "core.h"

#include <inttypes.h>
#include <stdlib.h>

struct core_tile_mask {
    PyObject_HEAD da_tile_mask *mask;
};

static PyTypeObject *tile_mask_type; /* the one that the module made */

/* row_starts of `rows` counts; NULL with an exception. The counts may be anything, and so may the columns be fewer. */
static int64_t *starts_of(const int32_t *counts, int64_t rows, int64_t columns) {
    int64_t *starts = malloc((size_t)(rows + 1) * sizeof *starts);
    if (!starts) {
        PyErr_NoMemory();
        return NULL;
    }
    starts[0] = 0;
    for (int64_t row = 0; row < rows; row++) {
        if (counts[row] < 0 || counts[row] > columns - starts[row]) {
            PyErr_Format(PyExc_ValueError, "tiles: row %lld has %d tiles; allowed: 0 to what is left of the columns",
                         (long long)row, (int)counts[row]);
            free(starts);
            return NULL;
        }
        starts[row + 1] = starts[row] + counts[row];
    }
    if (starts[rows] != columns) {
        PyErr_Format(PyExc_ValueError, "tiles: there are %lld columns; allowed: as many as the rows count, %lld",
                     (long long)columns, (long long)starts[rows]);
        free(starts);
        return NULL;
    }
    return starts;
}

static PyObject *wrap(PyTypeObject *type, da_tile_mask *mask) {
    core_tile_mask *self = (core_tile_mask *)PyType_GenericAlloc(type, 0);
    if (!self) {
        da_tile_mask_free(mask);
        return NULL;
    }
    self->mask = mask;
    return (PyObject *)self;
}

PyObject *core_tile_mask_from(da_tile_mask *mask) {
    return wrap(tile_mask_type, mask);
}

static PyObject *tile_mask_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    long long batch, heads, n, block_size, rows, columns;
    PyObject *count_address, *column_address;
    da_tile_mask *mask;
    if (keywords && PyDict_Size(keywords) > 0) {
        PyErr_SetString(PyExc_TypeError, "TileMask takes no keyword arguments");
        return NULL;
    }
    if (!PyArg_ParseTuple(args, "LLLLLLOO", &batch, &heads, &n, &block_size, &rows, &columns, &count_address,
                          &column_address)) {
        return NULL;
    }
    const int32_t *counts = PyLong_AsVoidPtr(count_address), *of_columns = PyLong_AsVoidPtr(column_address);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (batch < 1 || heads < 1 || n < 1 || block_size < 1 || rows / heads / batch != (n - 1) / block_size + 1 ||
        rows % heads != 0 || rows / heads % batch != 0) {
        PyErr_Format(PyExc_ValueError,
                     "tiles: %lld rows; allowed: batch * heads * ceil(n / block_size), of %lld, %lld, %lld and %lld",
                     rows, batch, heads, n, block_size);
        return NULL;
    }
    int64_t *starts = starts_of(counts, rows, columns);
    if (!starts) {
        return NULL;
    }
    da_status status = da_tile_mask_create_csr(NULL, batch, heads, n, block_size, starts, of_columns, &mask);
    free(starts);
    return status == DA_OK ? wrap(type, mask) : core_raise_last(status);
}

static void tile_mask_dealloc(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    da_tile_mask_free(((core_tile_mask *)object)->mask);
    PyObject_Free(object);
    Py_DECREF(type);
}

int core_tile_mask_of(PyObject *object, const da_tile_mask **out) {
    *out = NULL;
    if (object == Py_None) {
        return 0;
    }
    if (!PyObject_TypeCheck(object, tile_mask_type)) {
        PyErr_Format(PyExc_TypeError, "tiles is %R; allowed: a TileMask, or None", object);
        return -1;
    }
    *out = ((core_tile_mask *)object)->mask;
    return 0;
}

static da_tile_mask_info info_of(PyObject *object) {
    da_tile_mask_info info;
    da_tile_mask_info_init(&info);
    da_tile_mask_get_info(((core_tile_mask *)object)->mask, &info);
    return info;
}

static PyObject *tile_mask_shape(PyObject *object, void *closure) {
    da_tile_mask_info info = info_of(object);
    (void)closure;
    return Py_BuildValue("LLLLL", (long long)info.batch, (long long)info.heads, (long long)info.n,
                         (long long)info.block_size, (long long)info.tiles);
}

static PyObject *tile_mask_write(PyObject *object, PyObject *args) {
    PyObject *count_address, *column_address;
    if (!PyArg_ParseTuple(args, "OO", &count_address, &column_address)) {
        return NULL;
    }
    int32_t *counts = PyLong_AsVoidPtr(count_address), *columns = PyLong_AsVoidPtr(column_address);
    if (PyErr_Occurred()) {
        return NULL;
    }
    da_tile_mask_info info = info_of(object);
    for (int64_t row = 0; row < info.batch * info.heads * info.blocks; row++) {
        counts[row] = (int32_t)(info.row_starts[row + 1] - info.row_starts[row]);
    }
    for (int64_t tile = 0; tile < info.tiles; tile++) {
        columns[tile] = info.columns[tile];
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"write", tile_mask_write, METH_VARARGS, "write(counts, columns, /): int32 arrays at these addresses."},
    {NULL, NULL, 0, NULL},
};

static PyGetSetDef properties[] = {
    {"shape", tile_mask_shape, NULL, "batch, heads, n, block_size and the number of tiles.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static char doc[] =
    "TileMask(batch, heads, n, block_size, rows, tiles, counts, columns, /)\n--\n\nTiles; see _core.pyi.";

static PyType_Slot slots[] = {
    {Py_tp_doc, doc},         {Py_tp_new, tile_mask_new}, {Py_tp_dealloc, tile_mask_dealloc},
    {Py_tp_methods, methods}, {Py_tp_getset, properties}, {0, NULL},
};

static PyType_Spec spec = {
    .name = "dilated_attention_pytorch._core.TileMask",
    .basicsize = sizeof(core_tile_mask),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = slots,
};

PyObject *core_tile_mask_type(void) {
    tile_mask_type = (PyTypeObject *)PyType_FromSpec(&spec);
    return (PyObject *)tile_mask_type;
}
