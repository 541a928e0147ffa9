/* metaot.single._steps: functions of arrays, which metaot/single/grid.py calls. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "steps.h"

enum { MATRICES, TRANSPOSED, SIZES, A, B, START, F, G, TOLD, ERROR, STEPS, BUFFERS };

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
    for (int k = A; k < BUFFERS; k++) {
        Index size = k < TOLD ? kernel->atoms : 1;
        if (buffers[k].obj && buffers[k].len != count * size * (Index)sizeof(double)) return 0;
    }
    return 1;
}

/* A row of a function, of which there may be none. */
static double *row(const Py_buffer *buffers, int which, Index at)
{
    return buffers[which].obj ? (double *)buffers[which].buf + at : NULL;
}

typedef struct {
    const Kernel *kernel;
    const Py_buffer *buffers;
    Limits limits;
    Index count, next;
    int short_of_memory;
} Task; /* problems, of which the next one is for whoever comes first */

/* Refine a problem, or make one step if there are no errors to be told. */
static void do_one(Work *work, const Task *task, Index k)
{
    const Py_buffer *b = task->buffers;
    Index at = k * task->kernel->atoms;
    const double *source = row(b, A, at), *target = row(b, B, at), *start = row(b, START, at);
    int64_t *told = (int64_t *)b[TOLD].buf + k;
    if (b[ERROR].obj)
        *told = refine(work, source, target, start, task->limits, row(b, F, at), row(b, G, at), row(b, ERROR, k),
                       (int64_t *)b[STEPS].buf + k);
    else
        *told = one_step(work, source, target, start, row(b, F, at), row(b, G, at));
}

/* Do one problem after another, until all are done or in hand. */
static void take_part(void *shared)
{
    Task *task = shared;
    Work work;
    if (!open_work(&work, task->kernel)) {
        task->short_of_memory = 1;
        return;
    }
    for (Index k; (k = take_next(&task->next)) < task->count;) do_one(&work, task, k);
    close_work(&work);
}

/* Do it, if the arrays were parsed, without the lock of the interpreter. */
static PyObject *finish(int parsed, Kernel *kernel, Py_buffer *b, Limits limits, int threads)
{
    Task task = {kernel, b, limits, 0, 0, 0};
    int fits = 0;
    if (!parsed) return NULL;
    task.count = b[TOLD].len / (Index)sizeof(int64_t);
    fits = read_kernel(kernel, b) && fit(kernel, b, task.count);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        run_on_threads(take_part, &task, threads);
        Py_END_ALLOW_THREADS
    }
    for (int k = 0; k < BUFFERS; k++)
        if (b[k].obj) PyBuffer_Release(&b[k]);
    if (!fits) return PyErr_Format(PyExc_ValueError, "the sizes of the arrays do not fit each other");
    if (task.short_of_memory) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *refine_each(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer b[BUFFERS] = {{0}};
    Kernel kernel;
    Limits limits;
    Py_ssize_t max_steps = 0;
    int threads = 1, parsed = PyArg_ParseTuple(
        arguments, "(y*y*y*dddp)(y*y*z*)(w*w*w*w*w*)(dn)i:refine_each", &b[MATRICES], &b[TRANSPOSED], &b[SIZES],
        &kernel.offset, &kernel.widest, &kernel.lost, &kernel.fits, &b[A], &b[B], &b[START],
        &b[F], &b[G], &b[ERROR], &b[STEPS], &b[TOLD], &limits.tol, &max_steps, &threads);
    limits.max_steps = max_steps;
    return finish(parsed, &kernel, b, limits, threads);
}

static PyObject *step_each(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer b[BUFFERS] = {{0}};
    Kernel kernel;
    Limits limits = {0, 0};
    int threads = 1, parsed = PyArg_ParseTuple(
        arguments, "(y*y*y*dddp)(y*y*y*)(w*w*w*)i:step_each", &b[MATRICES], &b[TRANSPOSED], &b[SIZES],
        &kernel.offset, &kernel.widest, &kernel.lost, &kernel.fits, &b[A], &b[B], &b[START],
        &b[F], &b[G], &b[TOLD], &threads);
    return finish(parsed, &kernel, b, limits, threads);
}

static PyMethodDef methods[] = {
    {"refine_each", refine_each, METH_VARARGS, "Refine starts; see metaot/single/_steps.pyi."},
    {"step_each", step_each, METH_VARARGS, "Make one Sinkhorn step; see metaot/single/_steps.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_steps", "Compiled Sinkhorn steps.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__steps(void)
{
    return PyModule_Create(&definition);
}
