/* See arrays.h. */

#include "arrays.h"

void release(Arrays *arrays)
{
    for (int k = 0; k < arrays->count; k++) PyBuffer_Release(&arrays->buffers[k]);
}

int hold(Arrays *arrays, PyObject *tuple, Py_ssize_t written)
{
    Py_ssize_t count = PyTuple_Size(tuple);
    arrays->count = arrays->next = 0;
    arrays->fit = count <= MOST;
    for (Py_ssize_t k = 0; k < count && arrays->fit; k++) {
        int flags = k >= count - written ? PyBUF_WRITABLE : PyBUF_SIMPLE;
        if (PyObject_GetBuffer(PyTuple_GetItem(tuple, k), &arrays->buffers[k], flags) < 0) {
            release(arrays);
            return 0;
        }
        arrays->count++;
    }
    return 1;
}

static void *take_of(Arrays *arrays, Index wanted, size_t size)
{
    if (arrays->next >= arrays->count) {
        arrays->fit = 0;
        return NULL;
    }
    const Py_buffer *buffer = &arrays->buffers[arrays->next++];
    if (wanted >= 0 && buffer->len != wanted * (Index)size) arrays->fit = 0;
    return buffer->buf;
}

float *take(Arrays *arrays, Index wanted)
{
    return take_of(arrays, wanted, sizeof(float));
}

double *take_doubles(Arrays *arrays, Index wanted)
{
    return take_of(arrays, wanted, sizeof(double));
}

Index length(const Arrays *arrays, int ahead)
{
    int k = arrays->next + ahead;
    return k < arrays->count ? arrays->buffers[k].len / (Index)sizeof(float) : 0;
}

PyObject *outcome(int fit, int enough)
{
    if (!fit) return PyErr_Format(PyExc_ValueError, "the sizes of the arrays do not fit each other");
    if (!enough) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

PyObject *finish(Arrays *arrays, int enough)
{
    release(arrays);
    return outcome(arrays->fit, enough);
}
