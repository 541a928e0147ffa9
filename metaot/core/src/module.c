/* metaot.core._core: problems as arrays, one after another on each thread; see metaot/core/_core.pyi. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include "core.h"

#include <math.h>
#include <string.h>

typedef enum { SINKHORN_BY_AXES, SINKHORN_BY_MATRIX, NEWTON, STEP, TRANSFORM, HARD_MINIMUM,
               SYMMETRIC_BY_AXES, SYMMETRIC_BY_MATRIX, METHODS } Method;
enum { A, B, EPS, START, PRICES, PAIRS, F, G, VALUE, ERROR, STEPS, BUFFERS };
static const char *const NAMES[] = {"a", "b", "eps", "start", "prices", "pairs", "f", "g", "value", "error", "steps"};
static const int MAY_MISS[] = {0, 0, 0, 1, 1, 1, 1, 1, 1, 0, 0};

typedef struct {
    Method method;
    Costs costs;
    Index count, rows; /* problems, and rows of weights: of pairs each problem names its rows */
    Index cost_stride, x_stride, y_stride; /* zero where all problems share the costs */
    Py_buffer buffers[BUFFERS], cost_buffers[MOST_AXES];
    int cost_count;
    Limits limits;
    Index next;
    int threads, short_of_memory;
} Task;

static double *row(const Task *task, int which, Index k, Index size)
{
    return task->buffers[which].obj ? (double *)task->buffers[which].buf + k * size : NULL;
}

/* The price of one side: its kind, and rho in the units of the cost. */
static Price price_of(const Task *task, Index k, int side, double eps)
{
    const double *given = row(task, PRICES, k, 4);
    if (!given || given[2 * side] == EXACT_PRICE) return (Price){EXACT_PRICE, INFINITY};
    return (Price){given[2 * side] == TV_PRICE ? TV_PRICE : KL_PRICE, given[2 * side + 1] / eps};
}

static int solve_one(Workspace *workspace, Task *task, Index k)
{
    Costs costs = task->costs;
    const int64_t *pairs = task->buffers[PAIRS].obj ? task->buffers[PAIRS].buf : NULL;
    Index i = pairs ? pairs[2 * k] : k, j = pairs ? pairs[2 * k + 1] : k;
    costs.matrix += i * task->cost_stride;
    costs.x += i * task->x_stride;
    costs.y += j * task->y_stride;
    Index n = costs.n, m = costs.m, second = task->method == STEP ? n : m;
    Instance instance = {&costs, row(task, A, i, n), row(task, B, j, m), row(task, START, k, n),
                         *row(task, EPS, k, 1), row(task, F, k, n), row(task, G, k, second),
                         task->count == 1 ? task->threads : 1, price_of(task, k, 0, *row(task, EPS, k, 1)),
                         price_of(task, k, 1, *row(task, EPS, k, 1)), row(task, VALUE, k, 1)};
    int relaxed = instance.source_price.kind != EXACT_PRICE || instance.target_price.kind != EXACT_PRICE;
    Outcome outcome = {INFINITY, 0};
    int done = 0;
    if (task->method == HARD_MINIMUM) return hard_minimum(&costs, instance.b, instance.f);
    if (!find_supports(workspace, &costs, instance.a, instance.b, relaxed)) return 0;
    if (!workspace->source.count || !workspace->target.count) { /* weights that are no weights: there is no plan */
        if (instance.f) memset(instance.f, 0, (size_t)n * sizeof(double));
        if (instance.g) memset(instance.g, 0, (size_t)second * sizeof(double));
        if (instance.value) *instance.value = INFINITY;
        *row(task, ERROR, k, 1) = INFINITY;
        ((int64_t *)task->buffers[STEPS].buf)[k] = 0;
        return 1;
    }
    switch (task->method) {
    case SINKHORN_BY_AXES:
    case SINKHORN_BY_MATRIX:
    case SYMMETRIC_BY_AXES:
    case SYMMETRIC_BY_MATRIX: {
        int by_axes = task->method == SINKHORN_BY_AXES || task->method == SYMMETRIC_BY_AXES;
        Steps steps = {by_axes, task->method == SYMMETRIC_BY_AXES || task->method == SYMMETRIC_BY_MATRIX};
        done = refine_by_sinkhorn(workspace, &instance, task->limits, steps, &outcome);
        break;
    }
    case NEWTON: done = refine_by_newton(workspace, &instance, task->limits, &outcome); break;
    case STEP: done = step_by_axes(workspace, &instance, &outcome); break;
    default: done = transform_by_axes(workspace, &instance, &outcome);
    }
    *row(task, ERROR, k, 1) = outcome.error;
    ((int64_t *)task->buffers[STEPS].buf)[k] = outcome.steps;
    return done;
}

/* Solve one problem after another, until all are done or in hand. */
static void take_part(void *shared)
{
    Task *task = shared;
    Workspace workspace;
    memset(&workspace, 0, sizeof workspace);
    for (Index k; (k = take_next(&task->next)) < task->count;)
        if (!solve_one(&workspace, task, k)) task->short_of_memory = 1;
    close_arena(&workspace.supports);
    close_arena(&workspace.work);
    close_arena(&workspace.kernels.memory);
}

/* Read an array without copying; raise TypeError or ValueError unless it is what is expected. */
static int read_array(PyObject *object, const char *name, int writable, const char *formats, int least_dimensions,
                      Py_buffer *buffer)
{
    int flags = PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | (writable ? PyBUF_WRITABLE : 0);
    if (!PyObject_CheckBuffer(object)) {
        PyErr_Format(PyExc_TypeError, "%s must be an array, got %R", name, (PyObject *)Py_TYPE(object));
        return 0;
    }
    if (PyObject_GetBuffer(object, buffer, flags) < 0) {
        buffer->obj = NULL;
        PyErr_Format(PyExc_ValueError, "%s must be C-contiguous%s", name, writable ? " and writable" : "");
        return 0;
    }
    const char *format = buffer->format ? buffer->format : "B";
    if (strlen(format) != 1 || !strchr(formats, *format) || buffer->itemsize != 8) {
        PyErr_Format(PyExc_TypeError, "%s must be %s, got the format '%s'", name,
                     *formats == 'd' ? "float64" : "int64", format);
        return 0;
    }
    if (buffer->ndim < least_dimensions) {
        PyErr_Format(PyExc_ValueError, "%s must have at least %d dimensions, got %d", name, least_dimensions,
                     buffer->ndim);
        return 0;
    }
    return 1;
}

static int misfit(const char *what)
{
    PyErr_Format(PyExc_ValueError, "%s", what);
    return 0;
}

/* Read the costs: one matrix for each axis, a matrix, or two clouds; batched ones have a batch of `count`. */
static int read_costs(Task *task, int kind, int point_cost, PyObject *arrays)
{
    Costs *costs = &task->costs;
    Py_buffer *b = task->cost_buffers;
    Py_ssize_t given = PyTuple_Size(arrays);
    if (given < 0) return 0;
    if (kind < AXES || kind > CLOUDS || point_cost < SQEUCLIDEAN || point_cost > SPHERE) return misfit("unknown costs");
    if (given < 1 || given > MOST_AXES || (kind == MATRIX && given != 1) || (kind == CLOUDS && given != 2))
        return misfit("costs are 1 to 8 axes, one matrix or two clouds");
    for (Py_ssize_t k = 0; k < given; k++, task->cost_count++)
        if (!read_array(PyTuple_GetItem(arrays, k), "a cost", 0, "d", 2, &b[k])) {
            task->cost_count += b[k].obj != NULL;
            return 0;
        }
    costs->kind = (CostKind)kind;
    costs->cost = (PointCost)point_cost;
    if (kind == AXES) {
        costs->axes = (int)given;
        costs->n = costs->m = 1;
        for (int k = 0; k < costs->axes; k++) {
            if (b[k].ndim != 2) return misfit("the costs of an axis have two dimensions");
            costs->axis[k] = b[k].buf;
            costs->n *= costs->rows[k] = b[k].shape[0];
            costs->m *= costs->columns[k] = b[k].shape[1];
        }
        return costs->n > 0 && costs->m > 0 ? 1 : misfit("an axis without points");
    }
    for (int k = 0; k < given; k++) {
        if (b[k].ndim > 3) return misfit("costs have two dimensions, or three with a batch");
        if (b[k].ndim == 3 && b[k].shape[0] != task->rows) return misfit("the batch of the costs does not fit");
    }
    const Py_ssize_t *first = b[0].shape + (b[0].ndim - 2), *last = b[given - 1].shape + (b[given - 1].ndim - 2);
    costs->n = first[0];
    costs->m = kind == MATRIX ? first[1] : last[0];
    costs->dim = first[1];
    if (kind == CLOUDS && last[1] != costs->dim) return misfit("clouds of different dimensions");
    if (costs->n < 1 || costs->m < 1) return misfit("costs without atoms");
    if (kind == MATRIX) {
        costs->matrix = b[0].buf;
        task->cost_stride = b[0].ndim == 3 ? costs->n * costs->m : 0;
    } else {
        costs->x = b[0].buf;
        costs->y = b[1].buf;
        task->x_stride = b[0].ndim == 3 ? costs->n * costs->dim : 0;
        task->y_stride = b[1].ndim == 3 ? costs->m * costs->dim : 0;
    }
    return 1;
}

static int read_task(Task *task, int kind, int point_cost, PyObject *costs, PyObject *const *arrays)
{
    for (int k = 0; k < BUFFERS; k++) {
        if (MAY_MISS[k] && (!arrays[k] || arrays[k] == Py_None)) continue;
        const char *formats = k == STEPS || k == PAIRS ? "lq" : "d";
        if (!read_array(arrays[k], NAMES[k], k >= F, formats, 1, &task->buffers[k])) return 0;
    }
    task->count = task->rows = task->buffers[EPS].len / (Index)sizeof(double);
    if (task->buffers[PAIRS].obj) task->rows = task->buffers[A].shape[0];
    if (!read_costs(task, kind, point_cost, costs)) return 0;
    int any_kind = task->method == SINKHORN_BY_MATRIX || task->method == NEWTON || task->method == SYMMETRIC_BY_MATRIX;
    if (!any_kind && kind != AXES)
        return misfit("this method is for the axes of a grid");
    if (task->buffers[PRICES].obj && task->method != SINKHORN_BY_MATRIX && task->method != SINKHORN_BY_AXES)
        return misfit("this method is for balanced problems");
    Index n = task->costs.n, m = task->costs.m;
    if ((task->method == SYMMETRIC_BY_AXES || task->method == SYMMETRIC_BY_MATRIX) && n != m)
        return misfit("a symmetric problem has as many source as target atoms");
    Index sizes[BUFFERS] = {n, m, 1, n, 4, 2, n, task->method == STEP ? n : m, 1, 1, 1};
    for (int k = 0; k < BUFFERS; k++) {
        Index rows = k <= B ? task->rows : task->count;
        if (task->buffers[k].obj && task->buffers[k].len != rows * sizes[k] * (Index)sizeof(double)) {
            PyErr_Format(PyExc_ValueError, "%s has %zd bytes, expected %zd problems of %zd numbers", NAMES[k],
                         task->buffers[k].len, rows, sizes[k]);
            return 0;
        }
    }
    const int64_t *pairs = task->buffers[PAIRS].buf;
    for (Index k = 0; task->buffers[PAIRS].obj && k < 2 * task->count; k++)
        if (pairs[k] < 0 || pairs[k] >= task->rows) return misfit("pairs must name rows of the weights");
    return 1;
}

/* Solve the problems of these arrays, and let go of them; NULL where an exception was raised. */
static PyObject *run_task(Task *task, int method, int kind, int point_cost, PyObject *costs, PyObject *const *arrays)
{
    task->method = (Method)method;
    int fits = read_task(task, kind, point_cost, costs, arrays);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        run_on_threads(take_part, task, task->count > 1 ? task->threads : 1);
        Py_END_ALLOW_THREADS
    }
    for (int k = 0; k < BUFFERS; k++)
        if (task->buffers[k].obj) PyBuffer_Release(&task->buffers[k]);
    for (int k = 0; k < task->cost_count; k++) PyBuffer_Release(&task->cost_buffers[k]);
    if (!fits) return NULL;
    if (task->short_of_memory) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *solve_each(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Task task;
    PyObject *costs, *arrays[BUFFERS] = {NULL};
    int method, kind, point_cost;
    Py_ssize_t max_steps;
    memset(&task, 0, sizeof task);
    if (!PyArg_ParseTuple(arguments, "i(iiO!)(OOOOO)(OOOO)(dnp)i:solve_each", &method, &kind, &point_cost,
                          &PyTuple_Type, &costs, &arrays[A], &arrays[B], &arrays[EPS], &arrays[START], &arrays[PRICES],
                          &arrays[F],
                          &arrays[G], &arrays[ERROR], &arrays[STEPS], &task.limits.tol, &max_steps,
                          &task.limits.accelerated, &task.threads))
        return NULL;
    if (method < 0 || method >= METHODS) return PyErr_Format(PyExc_ValueError, "unknown method %d", method);
    if (arrays[F] == Py_None || arrays[G] == Py_None) return PyErr_Format(PyExc_TypeError, "f and g must be arrays");
    task.limits.max_steps = max_steps;
    return run_task(&task, method, kind, point_cost, costs, arrays);
}

static PyObject *solve_pairs(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Task task;
    PyObject *costs, *arrays[BUFFERS] = {NULL};
    int by_axes, kind, point_cost;
    Py_ssize_t max_steps;
    memset(&task, 0, sizeof task);
    if (!PyArg_ParseTuple(arguments, "p(iiO!)(OOOO)(OOOOO)(dnp)i:solve_pairs", &by_axes, &kind, &point_cost,
                          &PyTuple_Type, &costs, &arrays[A], &arrays[EPS], &arrays[START], &arrays[PAIRS],
                          &arrays[F], &arrays[G], &arrays[VALUE], &arrays[ERROR], &arrays[STEPS], &task.limits.tol, &max_steps,
                          &task.limits.accelerated, &task.threads))
        return NULL;
    if (arrays[PAIRS] == Py_None || arrays[VALUE] == Py_None)
        return PyErr_Format(PyExc_TypeError, "pairs and value must be arrays");
    arrays[B] = arrays[A];
    task.limits.max_steps = max_steps;
    return run_task(&task, by_axes ? SINKHORN_BY_AXES : SINKHORN_BY_MATRIX, kind, point_cost, costs, arrays);
}

static PyMethodDef methods[] = {
    {"solve_each", solve_each, METH_VARARGS, "Solve each of many problems; see metaot/core/_core.pyi."},
    {"solve_pairs", solve_pairs, METH_VARARGS, "Solve between pairs of measures; see _core.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_core", "Entropic optimal transport on arrays.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__core(void)
{
    return PyModule_Create(&definition);
}
