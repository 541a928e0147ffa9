/* metaot.single._steps: functions of arrays, which metaot/single/grid.py calls. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "steps.h"

enum { MATRICES, TRANSPOSED, SIZES, NUMBERS, KERNELS };
enum { LIFTS = KERNELS, A = LIFTS + KERNELS, B, START, FINE, F, G, TOLD, ERROR, STEPS, VALUE, BUFFERS };
enum { OFFSET, WIDEST, LOST_IN_SUMS, FITS, KERNEL_NUMBERS };

typedef struct {
    Kernel shape;
    const double *matrices, *transposed, *numbers;
    Index columns[MOST_AXES], entries, count;
} Kernels; /* one for all problems, or one for each: those of a grid at different temperatures */

/* Take the sizes, and where the matrices and the numbers of all kernels are; tell whether they fit each other. The
   targets are on the grid of the sources, or on another one, which is not larger. */
static int read_kernels(Kernels *kernels, const Py_buffer *buffers, const Kernel *other)
{
    const int64_t *sizes = buffers[SIZES].buf;
    Index axes = buffers[SIZES].len / (Index)sizeof *sizes;
    if (axes < 1 || axes > MOST_AXES || (other && axes != other->axes)) return 0;
    Kernel shape = {.axes = (int)axes, .atoms = 1};
    kernels->entries = 0;
    for (int k = 0; k < shape.axes; k++) {
        shape.sizes[k] = (Index)sizes[k];
        shape.atoms *= shape.sizes[k];
        kernels->columns[k] = other ? other->sizes[k] : shape.sizes[k];
        kernels->entries += shape.sizes[k] * kernels->columns[k];
        if (kernels->columns[k] > shape.sizes[k]) return 0;
    }
    kernels->shape = shape;
    kernels->matrices = buffers[MATRICES].buf;
    kernels->transposed = buffers[TRANSPOSED].buf;
    kernels->numbers = buffers[NUMBERS].buf;
    kernels->count = buffers[NUMBERS].len / (Index)(KERNEL_NUMBERS * sizeof(double));
    Index needed = kernels->count * kernels->entries * (Index)sizeof(double);
    return shape.atoms > 0 && buffers[MATRICES].len == needed && buffers[TRANSPOSED].len == needed;
}

/* The kernel of a problem. */
static Kernel kernel_of(const Kernels *kernels, Index problem)
{
    Kernel kernel = kernels->shape;
    Index which = kernels->count > 1 ? problem : 0, entry = which * kernels->entries;
    const double *numbers = kernels->numbers + which * KERNEL_NUMBERS;
    kernel.offset = numbers[OFFSET];
    kernel.widest = numbers[WIDEST];
    kernel.lost = numbers[LOST_IN_SUMS];
    kernel.fits = numbers[FITS] != 0;
    for (int k = 0; k < kernel.axes; k++) {
        kernel.matrices[k] = kernels->matrices + entry;
        kernel.transposed[k] = kernels->transposed + entry;
        entry += kernel.sizes[k] * kernels->columns[k];
    }
    return kernel;
}

/* Tell whether there is a kernel, a row of each function, and a number of each kind, for every problem; where there
   are no lifts, theirs are the same as the others. */
static int fit(const Kernels *kernels, const Kernels *lifts, const Py_buffer *buffers, Index count)
{
    if (kernels->count != 1 && kernels->count != count) return 0;
    if (lifts->count != kernels->count) return 0;
    for (int k = A; k < BUFFERS; k++) {
        Index size = k == FINE || k == F ? lifts->shape.atoms : k < TOLD ? kernels->shape.atoms : 1;
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
    const Kernels *kernels, *lifts;
    const Py_buffer *buffers;
    Limits limits;
    int everywhere, short_of_memory;
    Index count, next;
} Task; /* problems, of which the next one is for whoever comes first */

/* Refine a problem if errors are to be told, or find the dual value if that is to be told, or make one step, or half
   of one to a finer grid. */
static void do_one(Work *work, const Task *task, Index k)
{
    const Py_buffer *b = task->buffers;
    Index at = k * task->kernels->shape.atoms, fine = k * task->lifts->shape.atoms;
    const double *source = row(b, A, at), *target = row(b, B, at), *start = row(b, START, at);
    int64_t *told = (int64_t *)b[TOLD].buf + k;
    Kernel kernel = kernel_of(task->kernels, k);
    work->kernel = &kernel;
    if (b[ERROR].obj)
        *told = refine(work, source, target, start, task->limits, row(b, F, at), row(b, G, at), row(b, ERROR, k),
                       (int64_t *)b[STEPS].buf + k);
    else if (b[VALUE].obj)
        *told = dual_value(work, source, target, start, row(b, VALUE, k), row(b, G, at));
    else if (b[FINE].obj) {
        Kernel lifts = kernel_of(task->lifts, k);
        *told = lift(work, &lifts, source, target, start, row(b, FINE, fine), row(b, F, fine));
    } else
        *told = one_step(work, source, target, start, task->everywhere, row(b, F, at), row(b, G, at));
}

/* Do one problem after another, until all are done or in hand. */
static void take_part(void *shared)
{
    Task *task = shared;
    Work work;
    if (!open_work(&work, &task->lifts->shape)) {
        task->short_of_memory = 1;
        return;
    }
    for (Index k; (k = take_next(&task->next)) < task->count;) do_one(&work, task, k);
    close_work(&work);
}

/* Do it, if the arrays were parsed, without the lock of the interpreter. */
static PyObject *finish(int parsed, Py_buffer *b, Limits limits, int everywhere, int threads)
{
    Kernels kernels, lifts;
    Task task = {&kernels, &lifts, b, limits, everywhere, 0, 0, 0};
    int fits = 0;
    if (!parsed) return NULL;
    task.count = b[TOLD].len / (Index)sizeof(int64_t);
    fits = read_kernels(&kernels, b, NULL);
    lifts = kernels;
    if (fits && b[LIFTS].obj) fits = read_kernels(&lifts, b + LIFTS, &kernels.shape);
    fits = fits && fit(&kernels, &lifts, b, task.count);
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
    return finish(parsed, b, limits, 1, threads);
}

static PyObject *step_each(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer b[BUFFERS] = {{0}};
    Limits limits = {0, 0};
    int everywhere = 1, threads = 1, parsed = PyArg_ParseTuple(
        arguments, "(y*y*y*y*)(y*y*y*)(w*w*w*)pi:step_each", &b[MATRICES], &b[TRANSPOSED], &b[SIZES],
        &b[NUMBERS], &b[A], &b[B], &b[START], &b[F], &b[G], &b[TOLD], &everywhere, &threads);
    return finish(parsed, b, limits, everywhere, threads);
}

static PyObject *lift_each(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer b[BUFFERS] = {{0}};
    Limits limits = {0, 0};
    int threads = 1, parsed = PyArg_ParseTuple(
        arguments, "(y*y*y*y*)(y*y*y*y*)(y*y*y*y*)(w*w*)i:lift_each", &b[MATRICES], &b[TRANSPOSED], &b[SIZES],
        &b[NUMBERS], &b[LIFTS + MATRICES], &b[LIFTS + TRANSPOSED], &b[LIFTS + SIZES], &b[LIFTS + NUMBERS], &b[A],
        &b[B], &b[START], &b[FINE], &b[F], &b[TOLD], &threads);
    return finish(parsed, b, limits, 0, threads);
}

static PyObject *value_each(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_buffer b[BUFFERS] = {{0}};
    Limits limits = {0, 0};
    int threads = 1, parsed = PyArg_ParseTuple(
        arguments, "(y*y*y*y*)(y*y*y*)(w*w*w*)i:value_each", &b[MATRICES], &b[TRANSPOSED], &b[SIZES],
        &b[NUMBERS], &b[A], &b[B], &b[START], &b[VALUE], &b[G], &b[TOLD], &threads);
    return finish(parsed, b, limits, 1, threads);
}

static PyMethodDef methods[] = {
    {"refine_each", refine_each, METH_VARARGS, "Refine starts; see metaot/single/_steps.pyi."},
    {"step_each", step_each, METH_VARARGS, "Make one Sinkhorn step; see metaot/single/_steps.pyi."},
    {"lift_each", lift_each, METH_VARARGS, "Make half steps to finer grids; see metaot/single/_steps.pyi."},
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
