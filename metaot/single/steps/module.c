/* metaot.single._steps: functions of arrays, which metaot/single/grid.py calls. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "steps.h"

enum { A = KERNEL_ARRAYS, B, START, F, G, TOLD, ERROR, STEPS, VALUE, BUFFERS };

/* Tell whether there is a kernel, a row of each function, and a number of each kind, for every problem. */
static int fit(const Kernels *kernels, const Py_buffer *buffers, Index count)
{
    if (kernels->count != 1 && kernels->count != count) return 0;
    for (int k = A; k < BUFFERS; k++) {
        Index size = k < TOLD ? kernels->shape.atoms : 1;
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
    const Kernels *kernels;
    const Py_buffer *buffers;
    Limits limits;
    int short_of_memory;
    Index count, next;
} Task; /* problems, of which the next one is for whoever comes first */

/* Refine a problem if errors are to be told, or find the dual value if that is to be told, or make one step. */
static void do_one(Work *work, const Task *task, Index k)
{
    const Py_buffer *b = task->buffers;
    Index at = k * task->kernels->shape.atoms;
    const double *source = row(b, A, at), *target = row(b, B, at), *start = row(b, START, at);
    int64_t *told = (int64_t *)b[TOLD].buf + k;
    Kernel kernel = kernel_of(task->kernels, k);
    work->kernel = &kernel;
    if (b[ERROR].obj)
        *told = refine(work, source, target, start, task->limits, row(b, F, at), row(b, G, at), row(b, ERROR, k),
                       (int64_t *)b[STEPS].buf + k);
    else if (b[VALUE].obj)
        *told = dual_value(work, source, target, start, row(b, VALUE, k), row(b, G, at));
    else
        *told = one_step(work, source, target, start, 1, row(b, F, at), row(b, G, at));
}

/* Do one problem after another, until all are done or in hand. */
static void take_part(void *shared)
{
    Task *task = shared;
    Work work;
    if (!open_work(&work, &task->kernels->shape)) {
        task->short_of_memory = 1;
        return;
    }
    for (Index k; (k = take_next(&task->next)) < task->count;) do_one(&work, task, k);
    close_work(&work);
}

/* Do it, if the arrays were parsed, without the lock of the interpreter. */
static PyObject *finish(int parsed, Py_buffer *b, Limits limits, int threads)
{
    Flat flat;
    Kernels kernels;
    Task task = {&kernels, b, limits, 0, 0, 0};
    int fits = 0;
    if (!parsed) return NULL;
    for (int k = 0; k < KERNEL_ARRAYS; k++) {
        flat.arrays[k] = b[k].buf;
        flat.bytes[k] = b[k].len;
    }
    task.count = b[TOLD].len / (Index)sizeof(int64_t);
    fits = read_kernels(&kernels, &flat, NULL) && fit(&kernels, b, task.count);
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
    Limits limits;
    Py_ssize_t max_steps = 0;
    int threads = 1, parsed = PyArg_ParseTuple(
        arguments, "(y*y*y*y*)(y*y*z*)(w*w*w*w*w*)(dn)i:refine_each", &b[MATRICES], &b[TRANSPOSED], &b[SIZES],
        &b[NUMBERS], &b[A], &b[B], &b[START], &b[F], &b[G], &b[ERROR], &b[STEPS], &b[TOLD],
        &limits.tol, &max_steps, &threads);
    limits.max_steps = max_steps;
    return finish(parsed, b, limits, threads);
}

static PyObject *step_each(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer b[BUFFERS] = {{0}};
    Limits limits = {0, 0};
    int threads = 1, parsed = PyArg_ParseTuple(
        arguments, "(y*y*y*y*)(y*y*y*)(w*w*w*)i:step_each", &b[MATRICES], &b[TRANSPOSED], &b[SIZES],
        &b[NUMBERS], &b[A], &b[B], &b[START], &b[F], &b[G], &b[TOLD], &threads);
    return finish(parsed, b, limits, threads);
}

static PyObject *value_each(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer b[BUFFERS] = {{0}};
    Limits limits = {0, 0};
    int threads = 1, parsed = PyArg_ParseTuple(
        arguments, "(y*y*y*y*)(y*y*y*)(w*w*w*)i:value_each", &b[MATRICES], &b[TRANSPOSED], &b[SIZES],
        &b[NUMBERS], &b[A], &b[B], &b[START], &b[VALUE], &b[G], &b[TOLD], &threads);
    return finish(parsed, b, limits, threads);
}

static PyMethodDef methods[] = {
    {"refine_each", refine_each, METH_VARARGS, "Refine starts; see metaot/single/_steps.pyi."},
    {"step_each", step_each, METH_VARARGS, "Make one Sinkhorn step; see metaot/single/_steps.pyi."},
    {"value_each", value_each, METH_VARARGS, "Tell dual values; see metaot/single/_steps.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_steps", "Compiled Sinkhorn steps.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__steps(void)
{
    return PyModule_Create(&definition);
}
