/* metaot.single._steps: refine_each(...), which metaot/single/grid.py calls. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "steps.h"

enum { MATRICES, TRANSPOSED, SIZES, A, B, START, F, G, ERROR, STEPS, TOLD, BUFFERS };

/* Take the sizes and the matrices, one behind the other; tell whether they fit each other. */
static int read_kernel(Kernel *kernel, const Py_buffer *buffers)
{
    const int64_t *sizes = buffers[SIZES].buf;
    Index entries = 0, axes = buffers[SIZES].len / (Index)sizeof *sizes;
    if (axes < 1 || axes > MOST_AXES) return 0;
    kernel->axes = (int)axes;
    kernel->atoms = 1;
    for (int k = 0; k < kernel->axes; k++) {
        kernel->sizes[k] = (Index)sizes[k];
        kernel->matrices[k] = (const double *)buffers[MATRICES].buf + entries;
        kernel->transposed[k] = (const double *)buffers[TRANSPOSED].buf + entries;
        entries += kernel->sizes[k] * kernel->sizes[k];
        kernel->atoms *= kernel->sizes[k];
    }
    Index needed = entries * (Index)sizeof(double);
    return kernel->atoms > 0 && buffers[MATRICES].len == needed && buffers[TRANSPOSED].len == needed;
}

/* Tell whether there is a row of each function, and a number of each kind, for every problem. */
static int fit(const Kernel *kernel, const Py_buffer *buffers, Index count)
{
    for (int k = A; k <= G; k++)
        if (buffers[k].buf && buffers[k].len != count * kernel->atoms * (Index)sizeof(double)) return 0;
    for (int k = ERROR; k <= TOLD; k++)
        if (buffers[k].len != count * 8) return 0;
    return 1;
}

static int refine_all(const Kernel *kernel, const Py_buffer *buffers, Index count, Limits limits)
{
    Work work;
    if (!open_work(&work, kernel)) return 0;
    for (Index k = 0; k < count; k++) {
        const double *start = buffers[START].buf;
        Index at = k * kernel->atoms;
        ((int64_t *)buffers[TOLD].buf)[k] = refine(
            &work, (const double *)buffers[A].buf + at, (const double *)buffers[B].buf + at,
            start ? start + at : NULL, limits, (double *)buffers[F].buf + at, (double *)buffers[G].buf + at,
            (double *)buffers[ERROR].buf + k, (int64_t *)buffers[STEPS].buf + k);
    }
    close_work(&work);
    return 1;
}

static PyObject *refine_each(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer b[BUFFERS] = {{0}};
    Kernel kernel;
    Limits limits;
    Py_ssize_t max_steps;
    int enough = 1, fits;
    if (!PyArg_ParseTuple(arguments, "(y*y*y*dddp)(y*y*z*)(w*w*w*w*w*)(dn):refine_each",
                          &b[MATRICES], &b[TRANSPOSED], &b[SIZES], &kernel.offset, &kernel.widest, &kernel.lost,
                          &kernel.fits, &b[A], &b[B], &b[START], &b[F], &b[G], &b[ERROR], &b[STEPS], &b[TOLD],
                          &limits.tol, &max_steps))
        return NULL;
    limits.max_steps = max_steps;
    Index count = b[ERROR].len / (Index)sizeof(double);
    fits = read_kernel(&kernel, b) && fit(&kernel, b, count);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        enough = refine_all(&kernel, b, count, limits);
        Py_END_ALLOW_THREADS
    }
    for (int k = 0; k < BUFFERS; k++)
        if (b[k].obj) PyBuffer_Release(&b[k]);
    if (!fits) return PyErr_Format(PyExc_ValueError, "the sizes of the arrays do not fit each other");
    if (!enough) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"refine_each", refine_each, METH_VARARGS, "Refine starts; see metaot/single/_steps.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_steps", "Compiled Sinkhorn steps.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__steps(void)
{
    return PyModule_Create(&definition);
}
