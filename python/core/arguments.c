/* From Python's values to the library's structs. Messages name the argument, its value and what is allowed. */
#include "core.h"

#include <string.h>

static int integer_from(PyObject *object, const char *name, int64_t *value) {
    *value = PyLong_AsLongLong(object);
    if (*value == -1 && PyErr_Occurred()) {
        PyErr_Format(PyExc_TypeError, "%s holds %R; allowed: integers of 64 bits", name, object);
        return -1;
    }
    return 0;
}

/* Reads a tuple of integers, at most `room`; returns their number, or -1 with an exception. */
static Py_ssize_t integers_from(PyObject *object, const char *name, int64_t *values, Py_ssize_t room) {
    if (!PyTuple_Check(object)) {
        PyErr_Format(PyExc_TypeError, "%s is %R; allowed: a tuple of integers", name, object);
        return -1;
    }
    Py_ssize_t count = PyTuple_Size(object);
    if (count > room) {
        PyErr_Format(PyExc_ValueError, "%s has %zd values; allowed: at most %zd", name, count, room);
        return -1;
    }
    for (Py_ssize_t k = 0; k < count; k++) {
        if (integer_from(PyTuple_GetItem(object, k), name, &values[k])) {
            return -1;
        }
    }
    return count;
}

static int set_patterns(PyObject *segments, PyObject *rates, da_attention_config *config) {
    int64_t lengths[DA_MAX_PATTERNS], dilations[DA_MAX_PATTERNS];
    Py_ssize_t segment_count = integers_from(segments, "segment_lengths", lengths, DA_MAX_PATTERNS);
    Py_ssize_t rate_count = segment_count < 0 ? -1 : integers_from(rates, "dilation_rates", dilations, DA_MAX_PATTERNS);
    if (rate_count < 0) {
        return -1;
    }
    da_status status =
        da_attention_config_set_patterns(config, lengths, (size_t)segment_count, dilations, (size_t)rate_count);
    return status == DA_OK ? 0 : (core_raise_last(status), -1);
}

static int set_names(const char *mixing, const char *offset_rule, const char *tail_rule, const char *overlap,
                     const char *partition, da_attention_config *config) {
    da_status status = da_mixing_from_name(mixing, &config->mixing);
    status = status == DA_OK ? da_offset_rule_from_name(offset_rule, &config->offset_rule) : status;
    status = status == DA_OK ? da_tail_rule_from_name(tail_rule, &config->tail_rule) : status;
    status = status == DA_OK ? da_overlap_from_name(overlap, &config->overlap) : status;
    status = status == DA_OK ? da_partition_from_name(partition, &config->partition) : status;
    return status == DA_OK ? 0 : (core_raise_last(status), -1);
}

static int set_scale(PyObject *scale, da_attention_config *config) {
    config->scale_is_set = scale != Py_None;
    config->scale = config->scale_is_set ? PyFloat_AsDouble(scale) : 0;
    return PyErr_Occurred() ? -1 : 0;
}

static int set_window(PyObject *window, da_attention_config *config) {
    return window == Py_None ? 0 : integer_from(window, "window", &config->window);
}

static int set_sparse(const char *pattern, PyObject *block_size, PyObject *global_blocks, PyObject *seed,
                      PyObject *profile, da_attention_config *config) {
    da_status status = da_sparse_pattern_from_name(pattern, &config->sparse_pattern);
    if (status != DA_OK) {
        return core_raise_last(status), -1;
    }
    if (core_profile_of(profile, &config->sparse_profile)) {
        return -1;
    }
    if (config->sparse_profile) {
        config->sparse_pattern = DA_SPARSE_PROFILE;
    }
    config->sparse_seed = PyLong_AsUnsignedLongLongMask(seed);
    return PyErr_Occurred() || integer_from(block_size, "block_size", &config->block_size) ||
                   integer_from(global_blocks, "global_blocks", &config->global_blocks)
               ? -1
               : 0;
}

int core_config_from(PyObject *options, da_attention_config *config) {
    PyObject *segments, *rates, *scale, *window, *stripe, *block_size, *global_blocks, *seed, *profile;
    const char *mixing, *offset_rule, *tail_rule, *overlap, *partition, *sparse_pattern;
    int causal;
    da_attention_config_init(config);
    if (!PyArg_ParseTuple(options, "OOpOOsssssOsdOdOOOd", &segments, &rates, &causal, &scale, &window, &mixing,
                          &offset_rule, &tail_rule, &overlap, &partition, &stripe, &sparse_pattern,
                          &config->sparsity_ratio, &block_size, &config->quality_target, &global_blocks, &seed,
                          &profile, &config->dropout)) {
        return -1;
    }
    config->causal = causal != 0;
    return set_patterns(segments, rates, config) || set_scale(scale, config) || set_window(window, config) ||
                   integer_from(stripe, "stripe", &config->stripe) ||
                   set_names(mixing, offset_rule, tail_rule, overlap, partition, config) ||
                   set_sparse(sparse_pattern, block_size, global_blocks, seed, profile, config)
               ? -1
               : 0;
}

int core_view(PyObject *object, const char *name, Py_ssize_t rank, da_tensor *view, const da_tensor **given) {
    *given = NULL;
    if (object == Py_None) {
        return 0;
    }
    if (!PyTuple_Check(object) || PyTuple_Size(object) != 4) {
        PyErr_Format(PyExc_TypeError, "%s is %R; allowed: a tuple (address, data type, shape, strides)", name, object);
        return -1;
    }
    view->data = PyLong_AsVoidPtr(PyTuple_GetItem(object, 0));
    view->dtype = (da_dtype)PyLong_AsLong(PyTuple_GetItem(object, 1));
    if (PyErr_Occurred()) {
        return -1;
    }
    Py_ssize_t dimensions = integers_from(PyTuple_GetItem(object, 2), name, view->shape, 4);
    Py_ssize_t strides = dimensions < 0 ? -1 : integers_from(PyTuple_GetItem(object, 3), name, view->stride, 4);
    if (strides < 0) {
        return -1;
    }
    if (dimensions != rank || strides != rank) {
        PyErr_Format(PyExc_ValueError, "%s has the shape %R; allowed: %s", name, PyTuple_GetItem(object, 2),
                     rank == 4 ? "(batch, n, heads, head_dim)" : "(batch, n, heads)");
        return -1;
    }
    if (rank == 3) {
        view->shape[3] = view->stride[3] = 1;
    }
    *given = view;
    return 0;
}
