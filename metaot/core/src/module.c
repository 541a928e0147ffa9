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
    Levels levels; /* of grids, if there are coarser ones */
    Py_buffer level_buffers[1 + MOST_AXES];
    int level_count;
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

static int solve_one(Workspace *workspace, Hierarchy *hierarchy, Task *task, Index k)
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
                         price_of(task, k, 1, *row(task, EPS, k, 1)), row(task, VALUE, k, 1), NULL, 0, 0};
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
        done = task->levels.count && costs.kind == CLOUDS
                   ? refine_in_stages(workspace, &instance, task->limits, &task->levels, &outcome)
               : task->levels.count ? refine_on_levels(workspace, hierarchy, &instance, task->limits, &task->levels, &outcome)
                                  : refine_by_sinkhorn(workspace, &instance, task->limits, steps, &outcome);
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

enum { MOST_TASKS = 8 };

typedef struct {
    Task tasks[MOST_TASKS];
    int count;
} Tasks;

static int have_the_same_axes(const Costs *first, const Costs *second)
{
    if (first->kind != AXES || second->kind != AXES || first->axes != second->axes) return 0;
    for (int k = 0; k < first->axes; k++)
        if (first->axis[k] != second->axis[k]) return 0;
    return 1;
}

/* Solve one problem after another, until all of all tasks are done or in hand. */
static void take_part(void *shared)
{
    Tasks *tasks = shared;
    Workspace workspace;
    Hierarchy hierarchy;
    memset(&workspace, 0, sizeof workspace);
    memset(&hierarchy, 0, sizeof hierarchy);
    for (int t = 0; t < tasks->count; t++) {
        Task *task = &tasks->tasks[t];
        if (t > 0 && !have_the_same_axes(&task->costs, &task[-1].costs)) close_arena(&workspace.kernels.memory);
        for (Index k; (k = take_next(&task->next)) < task->count;)
            if (!solve_one(&workspace, &hierarchy, task, k)) task->short_of_memory = 1;
    }
    close_levels(&hierarchy);
    close_arena(&workspace.supports);
    close_arena(&workspace.work);
    close_arena(&workspace.kernels.memory);
}

/* Solve all tasks, each problem on one thread; a problem whose products take several threads has all of them. */
static void run_tasks(Tasks *tasks, int threads)
{
    Index problems = 0;
    int apart = 0;
    for (int t = 0; t < tasks->count; t++) {
        const Costs *costs = &tasks->tasks[t].costs;
        problems += tasks->tasks[t].count;
        apart |= costs->kind == CLOUDS && costs->n * costs->m > LARGEST_MATRIX && tasks->tasks[t].count == 1;
    }
    for (int t = 0; t < tasks->count; t++) tasks->tasks[t].threads = apart || problems == 1 ? threads : 1;
    run_on_threads(take_part, tasks, apart || problems == 1 ? 1 : threads);
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
    if (strlen(format) != 1 || !strchr(formats, *format) || buffer->itemsize != (*format == 'f' ? 4 : 8)) {
        const char *wanted = *formats == 'f' ? "float32 or float64" : *formats == 'd' ? "float64" : "int64";
        PyErr_Format(PyExc_TypeError, "%s must be %s, got the format '%s'", name, wanted, format);
        return 0;
    }
    if (buffer->ndim < least_dimensions) {
        PyErr_Format(PyExc_ValueError, "%s must have at least %d dimensions, got %d", name, least_dimensions,
                     buffer->ndim);
        return 0;
    }
    return 1;
}

enum { MEASURES, WEIGHTS, AVERAGE_EPS, START_F, START_LOG_D, SETTLED, AVERAGE_F, AVERAGE_G, LOG_D, LOG_ALPHA, ERRORS,
       AVERAGE_STEPS, AVERAGE_BUFFERS };
static const char *const AVERAGE_NAMES[] = {"measures", "weights", "eps", "f", "log_d", "settled", "found f", "found g",
                                            "found log_d", "log_alpha", "errors", "steps"};

typedef struct {
    Costs costs;
    Index count, measures;
    Py_buffer buffers[AVERAGE_BUFFERS];
    Limits limits;
    int debiased, short_of_memory;
    Index next;
} AverageTask;

/* Find one barycenter after another, until all are done or in hand. */
static void take_part_in_averages(void *shared)
{
    AverageTask *task = shared;
    Workspace workspace;
    memset(&workspace, 0, sizeof workspace);
    Index n = task->costs.n, k = task->measures;
    for (Index i; (i = take_next(&task->next)) < task->count;) {
        double *b[AVERAGE_BUFFERS];
        Index sizes[] = {k * n, k, 1, k * n, n, 1, k * n, k * n, n, n, 3, 0};
        for (int part = 0; part < AVERAGE_BUFFERS; part++)
            b[part] = (double *)task->buffers[part].buf + i * sizes[part];
        Average average = {.costs = &task->costs, .count = k, .measures = b[MEASURES], .weights = b[WEIGHTS],
                           .start = b[START_F], .start_log_d = b[START_LOG_D], .eps = *b[AVERAGE_EPS],
                           .debiased = task->debiased, .settled = *b[SETTLED] != 0, .f = b[AVERAGE_F],
                           .g = b[AVERAGE_G], .log_d = b[LOG_D], .log_alpha = b[LOG_ALPHA]};
        Outcome outcome = {INFINITY, 0};
        if (!find_barycenter(&workspace, &average, task->limits, &outcome)) task->short_of_memory = 1;
        b[ERRORS][0] = average.error;
        b[ERRORS][1] = average.self_error;
        b[ERRORS][2] = average.settled;
        ((int64_t *)task->buffers[AVERAGE_STEPS].buf)[i] = outcome.steps;
    }
    close_arena(&workspace.supports);
    close_arena(&workspace.work);
    close_arena(&workspace.kernels.memory);
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

/* Read the coarser levels: the strides of each, and of a grid the coordinates along all axes. Between clouds the
   strides are how many atoms a cluster has. */
static int read_levels(Task *task, PyObject *levels)
{
    if (levels == Py_None) return 1;
    int axes = task->costs.axes, of_clouds = task->costs.kind == CLOUDS;
    Method method = of_clouds ? SINKHORN_BY_MATRIX : SINKHORN_BY_AXES;
    if (task->method != method || task->costs.kind == MATRIX || !PyTuple_Check(levels) || PyTuple_Size(levels) != 1 + axes)
        return misfit("levels are strides and coordinates, for Sinkhorn on the axes of a grid or between clouds");
    for (int k = 0; k <= axes; k++, task->level_count++) {
        Py_buffer *buffer = &task->level_buffers[k];
        if (!read_array(PyTuple_GetItem(levels, k), "a level", 0, k ? "d" : "lq", k ? 1 : 2, buffer)) {
            task->level_count += buffer->obj != NULL;
            return 0;
        }
        if (k > 0 && (buffer->shape[0] != task->costs.rows[k - 1] || buffer->shape[0] != task->costs.columns[k - 1]))
            return misfit("coordinates are those of both sides of a grid");
        if (k > 0) task->levels.coordinates[k - 1] = buffer->buf;
    }
    const Py_buffer *strides = &task->level_buffers[0];
    Index numbers = of_clouds ? 1 : axes;
    if (strides->ndim != 2 || strides->shape[1] != numbers || strides->shape[0] > MOST_LEVELS)
        return misfit("each of at most 12 levels has a stride for each axis, or one between clouds");
    task->levels.strides = strides->buf;
    for (Index k = 0; k < strides->shape[0] * numbers; k++) {
        if (task->levels.strides[k] < 1) return misfit("strides are positive");
        if (of_clouds && (task->levels.strides[k] & (task->levels.strides[k] - 1))) return misfit("clusters have powers of two");
    }
    task->levels.count = strides->shape[0];
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
    int symmetric = task->method == SYMMETRIC_BY_AXES || task->method == SYMMETRIC_BY_MATRIX;
    int takes_prices = symmetric || task->method == SINKHORN_BY_MATRIX || task->method == SINKHORN_BY_AXES;
    if (task->buffers[PRICES].obj && !takes_prices)
        return misfit("this method is for balanced problems");
    Index n = task->costs.n, m = task->costs.m;
    if (symmetric && n != m)
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

/* Read a task from a tuple; `format` begins with that of CALL, and `threads` follows if it goes on. */
#define CALL "i(iiO!O)(OOOOO)(OOOO)(dnp)"
static int read_call(PyObject *call, const char *format, Task *task, int *threads)
{
    PyObject *costs, *levels, *arrays[BUFFERS] = {NULL};
    int method, kind, point_cost;
    Py_ssize_t max_steps;
    if (!PyArg_ParseTuple(call, format, &method, &kind, &point_cost, &PyTuple_Type, &costs, &levels, &arrays[A],
                          &arrays[B], &arrays[EPS], &arrays[START], &arrays[PRICES], &arrays[F], &arrays[G], &arrays[ERROR],
                          &arrays[STEPS], &task->limits.tol, &max_steps, &task->limits.accelerated, threads))
        return 0;
    if (method < 0 || method >= METHODS) {
        PyErr_Format(PyExc_ValueError, "unknown method %d", method);
        return 0;
    }
    if (arrays[F] == Py_None || arrays[G] == Py_None) {
        PyErr_SetString(PyExc_TypeError, "f and g must be arrays");
        return 0;
    }
    task->method = (Method)method;
    task->limits.max_steps = max_steps;
    return read_task(task, kind, point_cost, costs, arrays) && read_levels(task, levels);
}

static PyObject *run_and_release(Tasks *tasks, int threads, int fits)
{
    int short_of_memory = 0;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        run_tasks(tasks, threads);
        Py_END_ALLOW_THREADS
    }
    for (int t = 0; t < tasks->count; t++) {
        Task *task = &tasks->tasks[t];
        for (int k = 0; k < BUFFERS; k++)
            if (task->buffers[k].obj) PyBuffer_Release(&task->buffers[k]);
        for (int k = 0; k < task->cost_count; k++) PyBuffer_Release(&task->cost_buffers[k]);
        for (int k = 0; k < task->level_count; k++) PyBuffer_Release(&task->level_buffers[k]);
        short_of_memory |= task->short_of_memory;
    }
    if (!fits) return NULL;
    if (short_of_memory) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *solve_each(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Tasks tasks = {.count = 1};
    int threads = 1, fits = read_call(arguments, CALL "i:solve_each", &tasks.tasks[0], &threads);
    return run_and_release(&tasks, threads, fits);
}

static PyObject *solve_together(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Tasks tasks = {.count = 0};
    PyObject *calls;
    int threads, fits = 1;
    if (!PyArg_ParseTuple(arguments, "O!i:solve_together", &PyTuple_Type, &calls, &threads)) return NULL;
    if (PyTuple_Size(calls) > MOST_TASKS)
        return PyErr_Format(PyExc_ValueError, "at most %d calls are solved together", (int)MOST_TASKS);
    for (Py_ssize_t t = 0; t < PyTuple_Size(calls) && fits; t++) {
        PyObject *call = PyTuple_GetItem(calls, t);
        if (PyTuple_Check(call)) {
            fits = read_call(call, CALL ":solve_together", &tasks.tasks[tasks.count++], NULL);
        } else {
            PyErr_Format(PyExc_TypeError, "a call must be a tuple, got %R", (PyObject *)Py_TYPE(call));
            fits = 0;
        }
    }
    return run_and_release(&tasks, threads, fits);
}

static PyObject *solve_pairs(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Tasks tasks = {.count = 1};
    Task *task = &tasks.tasks[0];
    PyObject *costs, *arrays[BUFFERS] = {NULL};
    int by_axes, kind, point_cost, threads;
    Py_ssize_t max_steps;
    if (!PyArg_ParseTuple(arguments, "p(iiO!)(OOOO)(OOOOO)(dnp)i:solve_pairs", &by_axes, &kind, &point_cost,
                          &PyTuple_Type, &costs, &arrays[A], &arrays[EPS], &arrays[START], &arrays[PAIRS],
                          &arrays[F], &arrays[G], &arrays[VALUE], &arrays[ERROR], &arrays[STEPS], &task->limits.tol,
                          &max_steps, &task->limits.accelerated, &threads))
        return NULL;
    if (arrays[PAIRS] == Py_None || arrays[VALUE] == Py_None)
        return PyErr_Format(PyExc_TypeError, "pairs and value must be arrays");
    arrays[B] = arrays[A];
    task->method = by_axes ? SINKHORN_BY_AXES : SINKHORN_BY_MATRIX;
    task->limits.max_steps = max_steps;
    return run_and_release(&tasks, threads, read_task(task, kind, point_cost, costs, arrays));
}

/* Read the arrays of barycenters; `sides` has the costs. */
static int read_averages(AverageTask *task, Task *sides, PyObject *costs, PyObject *const *arrays)
{
    for (int part = 0; part < AVERAGE_BUFFERS; part++)
        if (!read_array(arrays[part], AVERAGE_NAMES[part], part >= AVERAGE_F, part == AVERAGE_STEPS ? "lq" : "d", 1,
                        &task->buffers[part]))
            return 0;
    task->count = task->buffers[AVERAGE_EPS].len / (Index)sizeof(double);
    if (!read_costs(sides, AXES, SQEUCLIDEAN, costs)) return 0;
    task->costs = sides->costs;
    Index n = task->costs.n, weights = task->buffers[WEIGHTS].len / (Index)sizeof(double);
    Index k = task->measures = task->count ? weights / task->count : 1;
    if (n != task->costs.m || k < 1) return misfit("a barycenter is on one grid, of one measure at least");
    Index sizes[] = {k * n, k, 1, k * n, n, 1, k * n, k * n, n, n, 3, 1};
    for (int part = 0; part < AVERAGE_BUFFERS; part++)
        if (task->buffers[part].len != task->count * sizes[part] * (Index)sizeof(double)) {
            PyErr_Format(PyExc_ValueError, "%s has %zd bytes, expected %zd barycenters of %zd numbers",
                         AVERAGE_NAMES[part], task->buffers[part].len, task->count, sizes[part]);
            return 0;
        }
    return 1;
}

static PyObject *average_each(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    AverageTask task;
    Task sides;
    PyObject *costs, *a[AVERAGE_BUFFERS];
    Py_ssize_t max_steps;
    int threads;
    memset(&task, 0, sizeof task);
    memset(&sides, 0, sizeof sides);
    if (!PyArg_ParseTuple(arguments, "O!(OOOOOO)(OOOOOO)(dnp)i:average_each", &PyTuple_Type, &costs, &a[0], &a[1], &a[2],
                          &a[3], &a[4], &a[5], &a[6], &a[7], &a[8], &a[9], &a[10], &a[11], &task.limits.tol, &max_steps,
                          &task.debiased, &threads))
        return NULL;
    task.limits.max_steps = max_steps;
    int fits = read_averages(&task, &sides, costs, a);
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        run_on_threads(take_part_in_averages, &task, task.count > 1 ? threads : 1);
        Py_END_ALLOW_THREADS
    }
    for (int part = 0; part < AVERAGE_BUFFERS; part++)
        if (task.buffers[part].obj) PyBuffer_Release(&task.buffers[part]);
    for (int k = 0; k < sides.cost_count; k++) PyBuffer_Release(&sides.cost_buffers[k]);
    if (!fits) return NULL;
    if (task.short_of_memory) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *exponential_sums(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    static const char *const names[] = {"x", "y", "v", "out"};
    PyObject *arrays[4];
    Py_buffer b[4];
    int threads, fits = 1, done = 1;
    memset(b, 0, sizeof b);
    if (!PyArg_ParseTuple(arguments, "OOOOi:exponential_sums", &arrays[0], &arrays[1], &arrays[2], &arrays[3], &threads))
        return NULL;
    for (int k = 0; k < 4 && fits; k++) fits = read_array(arrays[k], names[k], k == 3, "d", 2, &b[k]);
    if (fits) {
        const Py_ssize_t *x = b[0].shape, *y = b[1].shape, *v = b[2].shape, *out = b[3].shape;
        int flat = b[0].ndim == 2 && b[1].ndim == 2 && b[2].ndim == 2 && b[3].ndim == 2;
        if (!flat || x[1] != y[1] || y[0] != v[0] || out[0] != x[0] || out[1] != v[1] || y[0] < 1)
            fits = misfit("x, y, v and out must be n p, m p, m q and n q");
        if (fits) {
            Py_BEGIN_ALLOW_THREADS
            done = sum_exponentials(x[0], y[0], x[1], v[1], b[0].buf, b[1].buf, b[2].buf, b[3].buf, threads);
            Py_END_ALLOW_THREADS
        }
    }
    for (int k = 0; k < 4; k++)
        if (b[k].obj) PyBuffer_Release(&b[k]);
    if (!fits) return NULL;
    if (!done) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyObject *sum_clouds(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    enum { X, Y, H, VALUES, LEAST, MEAN_COSTS, MEANS, GIVEN };
    static const char *const names[] = {"x", "y", "h", "values", "least", "mean costs", "means"};
    PyObject *given[GIVEN];
    Py_buffer b[GIVEN];
    int point_cost, threads, fits = 1, enough = 1;
    double eps;
    memset(b, 0, sizeof b);
    if (!PyArg_ParseTuple(arguments, "iOOOOd(OOO)i:sum_clouds", &point_cost, &given[X], &given[Y], &given[H],
                          &given[VALUES], &eps, &given[LEAST], &given[MEAN_COSTS], &given[MEANS], &threads))
        return NULL;
    for (int k = 0; k < GIVEN && fits; k++)
        if (k <= H || given[k] != Py_None) {
            fits = read_array(given[k], names[k], k >= LEAST, "d", 1, &b[k]);
            int dimensions = k == X || k == Y || k == VALUES || k == MEANS ? 2 : 1;
            if (fits && b[k].ndim != dimensions) fits = misfit("x, y, values and means are matrices, all else vectors");
        }
    if (fits) {
        Index n = b[X].shape[0], m = b[Y].shape[0], count = b[VALUES].obj ? b[VALUES].shape[1] : 0;
        int sizes = n > 0 && m > 0 && b[X].shape[1] == b[Y].shape[1] && b[H].shape[0] == m &&
                    (!b[VALUES].obj || b[VALUES].shape[0] == m) && (!b[LEAST].obj || b[LEAST].shape[0] == n) &&
                    (!b[MEAN_COSTS].obj || b[MEAN_COSTS].shape[0] == n) && !b[MEANS].obj == !b[VALUES].obj &&
                    (!b[MEANS].obj || (b[MEANS].shape[0] == n && b[MEANS].shape[1] == count));
        int hard = eps == 0, only_least = b[LEAST].obj && !b[MEAN_COSTS].obj && !b[MEANS].obj;
        if (point_cost < SQEUCLIDEAN || point_cost > SPHERE) fits = misfit("unknown costs");
        else if (!sizes) fits = misfit("x, y, h, values and results must be n d, m d, m, m k and n, n, n k");
        else if (!(eps >= 0) || (hard && !only_least)) fits = misfit("eps is positive, or zero for a minimum alone");
        if (fits) {
            Costs costs = {.kind = CLOUDS, .n = n, .m = m, .x = b[X].buf, .y = b[Y].buf, .dim = b[X].shape[1],
                           .cost = (PointCost)point_cost};
            CloudSums wanted = {eps, count, b[VALUES].buf, b[LEAST].buf, b[MEAN_COSTS].buf, b[MEANS].buf};
            Py_BEGIN_ALLOW_THREADS
            enough = sum_on_clouds(&costs, b[H].buf, &wanted, threads);
            Py_END_ALLOW_THREADS
        }
    }
    for (int k = 0; k < GIVEN; k++)
        if (b[k].obj) PyBuffer_Release(&b[k]);
    if (!fits) return NULL;
    if (!enough) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

typedef struct {
    Py_buffer values, order;
    Index rows, n, next;
    int short_of_memory;
} SortTask;

/* Sort one row after another, until all are done or in hand. */
static void take_part_in_sorting(void *shared)
{
    SortTask *task = shared;
    Arena arena = {0};
    if (!open_arena(&arena, sort_bytes(task->n))) {
        task->short_of_memory = 1;
        return;
    }
    int64_t *order = task->order.obj ? task->order.buf : NULL;
    for (Index k; (k = take_next(&task->next)) < task->rows;)
        sort_row(task->n, task->values.itemsize == 4, (char *)task->values.buf + k * task->n * task->values.itemsize,
                 order ? order + k * task->n : NULL, &arena);
    close_arena(&arena);
}

static PyObject *sort_rows(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    SortTask task;
    PyObject *values, *order;
    int threads;
    memset(&task, 0, sizeof task);
    if (!PyArg_ParseTuple(arguments, "OOi:sort_rows", &values, &order, &threads)) return NULL;
    int fits = read_array(values, "values", 1, "fd", 2, &task.values) &&
               (order == Py_None || read_array(order, "order", 1, "lq", 2, &task.order));
    if (fits) {
        task.rows = task.values.shape[0];
        task.n = task.values.shape[1];
        if (task.values.ndim != 2 || task.n > INT32_MAX)
            fits = misfit("values have two dimensions, and at most 2^31 - 1 in a row");
        else if (order != Py_None && (task.order.ndim != 2 || task.order.shape[0] != task.rows ||
                                      task.order.shape[1] != task.n))
            fits = misfit("order must have the shape of values");
    }
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        run_on_threads(take_part_in_sorting, &task, threads);
        Py_END_ALLOW_THREADS
    }
    if (task.values.obj) PyBuffer_Release(&task.values);
    if (task.order.obj) PyBuffer_Release(&task.order);
    if (!fits) return NULL;
    if (task.next < task.rows && task.short_of_memory) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

/* Read a square matrix of costs, or two clouds of as many points and a potential of the first one. */
static int read_square(PyObject *object, Py_buffer *buffers, Assignment *task, Costs *points)
{
    if (PyTuple_Check(object)) {
        static const char *const names[] = {"x", "y", "f"};
        if (PyTuple_Size(object) != 3) return misfit("points are x and y, and a potential f of x");
        for (int k = 0; k < 3; k++)
            if (!read_array(PyTuple_GetItem(object, k), names[k], 0, "d", k < 2 ? 2 : 1, &buffers[k])) return 0;
        Py_buffer *x = &buffers[0], *y = &buffers[1];
        if (x->ndim != 2 || y->ndim != 2 || x->len == 0 || x->shape[0] != y->shape[0] || x->shape[1] != y->shape[1] ||
            buffers[2].ndim != 1 || buffers[2].shape[0] != x->shape[0])
            return misfit("x and y must be n d, and f must be n");
        task->n = x->shape[0];
        *points = (Costs){.kind = CLOUDS, .n = task->n, .m = task->n, .x = x->buf, .y = y->buf, .dim = x->shape[1],
                          .cost = SQEUCLIDEAN};
        task->points = points;
        task->potential = buffers[2].buf;
        return 1;
    }
    if (!read_array(object, "costs", 0, "fd", 2, buffers)) return 0;
    if (buffers->ndim != 2 || buffers->shape[0] != buffers->shape[1] || buffers->shape[0] < 1)
        return misfit("costs must be a square matrix");
    task->n = buffers->shape[0];
    if (buffers->itemsize == 4) task->floats = buffers->buf;
    else task->doubles = buffers->buf;
    return 1;
}

static PyObject *assign_rows(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    enum { COSTS, PHASES, PRICES_OF_COLUMNS, COLUMNS, GIVEN };
    static const char *const names[] = {"costs", "eps", "prices", "columns"};
    Assignment task;
    Costs points;
    PyObject *given[GIVEN];
    Py_buffer buffers[GIVEN], of_costs[3];
    memset(&task, 0, sizeof task);
    memset(buffers, 0, sizeof buffers);
    memset(of_costs, 0, sizeof of_costs);
    if (!PyArg_ParseTuple(arguments, "OOOOp:assign_rows", &given[0], &given[1], &given[2], &given[3], &task.exact))
        return NULL;
    int fits = read_square(given[COSTS], of_costs, &task, &points), enough = 1;
    for (int k = PHASES; fits && k < GIVEN; k++) {
        fits = read_array(given[k], names[k], k > PHASES, k == COLUMNS ? "lq" : "d", 1, &buffers[k]);
        Py_ssize_t count = fits ? buffers[k].len / (Py_ssize_t)sizeof(double) : 0;
        if (fits && (k == PHASES ? count < 1 : count != task.n)) fits = misfit("prices and columns are those of the costs");
    }
    if (fits) {
        task.phases = buffers[PHASES].len / (Index)sizeof(double);
        task.eps = buffers[PHASES].buf;
        task.prices = buffers[PRICES_OF_COLUMNS].buf;
        task.columns = buffers[COLUMNS].buf;
        Py_BEGIN_ALLOW_THREADS
        enough = assign(&task);
        Py_END_ALLOW_THREADS
    }
    for (int k = PHASES; k < GIVEN; k++)
        if (buffers[k].obj) PyBuffer_Release(&buffers[k]);
    for (int k = 0; k < 3; k++)
        if (of_costs[k].obj) PyBuffer_Release(&of_costs[k]);
    if (!fits) return NULL;
    return enough ? PyFloat_FromDouble(task.bound) : PyErr_NoMemory();
}

static PyObject *assign_points(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    enum { X, Y, PHASES, PRICES_OF_COLUMNS, COLUMNS, GIVEN };
    static const char *const names[] = {"x", "y", "eps", "prices", "columns"};
    PyObject *given[GIVEN];
    Py_buffer b[GIVEN];
    CloudPairs task;
    Costs costs;
    int cost, fits = 1, enough = 1;
    memset(&task, 0, sizeof task);
    memset(b, 0, sizeof b);
    if (!PyArg_ParseTuple(arguments, "iOOOOOpp:assign_points", &cost, &given[X], &given[Y], &given[PHASES],
                          &given[PRICES_OF_COLUMNS], &given[COLUMNS], &task.exact, &task.quick))
        return NULL;
    for (int k = 0; fits && k < GIVEN; k++)
        fits = read_array(given[k], names[k], k > PHASES, k == COLUMNS ? "lq" : "d", k <= Y ? 2 : 1, &b[k]);
    if (fits && (b[X].ndim != 2 || b[Y].ndim != 2 || b[X].len == 0 || b[X].shape[0] != b[Y].shape[0] ||
                 b[X].shape[1] != b[Y].shape[1]))
        fits = misfit("x and y must be n d");
    for (int k = PRICES_OF_COLUMNS; fits && k < GIVEN; k++)
        if (b[k].len != b[X].shape[0] * (Py_ssize_t)sizeof(double)) fits = misfit("prices and columns are those of the points");
    if (fits && (cost < SQEUCLIDEAN || cost > SPHERE)) fits = misfit("unknown costs");
    if (fits) {
        Index n = b[X].shape[0];
        costs = (Costs){.kind = CLOUDS, .n = n, .m = n, .x = b[X].buf, .y = b[Y].buf, .dim = b[X].shape[1],
                        .cost = (PointCost)cost};
        task.costs = &costs;
        task.phases = b[PHASES].len / (Index)sizeof(double);
        task.eps = b[PHASES].buf;
        task.prices = b[PRICES_OF_COLUMNS].buf;
        task.columns = b[COLUMNS].buf;
        Py_BEGIN_ALLOW_THREADS
        enough = pair_clouds(&task);
        Py_END_ALLOW_THREADS
    }
    for (int k = 0; k < GIVEN; k++)
        if (b[k].obj) PyBuffer_Release(&b[k]);
    if (!fits) return NULL;
    return enough ? Py_BuildValue("dd", task.cost, task.bound) : PyErr_NoMemory();
}

static PyObject *multiply(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    static const char *const names[] = {"x", "y", "out"};
    Products task;
    PyObject *given[3];
    Py_buffer b[3];
    double factor;
    int threads, fits = 1, enough = 1;
    memset(&task, 0, sizeof task);
    memset(b, 0, sizeof b);
    if (!PyArg_ParseTuple(arguments, "OOOdi:multiply_rows", &given[0], &given[1], &given[2], &factor, &threads)) return NULL;
    for (int k = 0; fits && k < 3; k++)
        fits = read_array(given[k], names[k], k == 2, "f", 2, &b[k]) && (b[k].ndim == 2 || misfit("matrices have two dimensions"));
    if (fits && (b[0].shape[1] != b[1].shape[1] || b[2].shape[0] != b[0].shape[0] || b[2].shape[1] != b[1].shape[0] ||
                 b[0].len == 0 || b[1].len == 0))
        fits = misfit("out must have a row for each of x, and a column for each of y");
    if (fits && !can_multiply_rows()) fits = misfit("this processor has no AVX2, which products of 16 bits need");
    if (fits) {
        task = (Products){b[0].shape[0], b[1].shape[0], b[0].shape[1], b[0].buf, b[1].buf, b[2].buf, factor, 0};
        Py_BEGIN_ALLOW_THREADS
        enough = multiply_rows(&task, threads);
        Py_END_ALLOW_THREADS
    }
    for (int k = 0; k < 3; k++)
        if (b[k].obj) PyBuffer_Release(&b[k]);
    if (!fits) return NULL;
    return enough ? PyFloat_FromDouble(task.error) : PyErr_NoMemory();
}

static PyObject *has_quick_products(PyObject *Py_UNUSED(module), PyObject *Py_UNUSED(nothing))
{
    return PyBool_FromLong(products_are_quick());
}

enum { COSTS_OF_NET, A_OF_NET, B_OF_NET, EPS_OF_NET, SETTINGS, NUMBERS, TEMPERATURES, F_OF_NET, SPREADS, NET_PARTS };

typedef struct {
    Learnt net;
    Py_buffer b[NET_PARTS];
    Index rows, n, m, next;
    int short_of_memory;
} NetTask;

/* Evaluate one problem after another, until all are done or in hand. */
static void take_part_in_rounds(void *shared)
{
    NetTask *task = shared;
    Index n = task->n, m = task->m;
    Arena room = {0}, arena = {0};
    if (open_arena(&room, sort_bytes(n > m ? n : m)) && open_arena(&arena, learnt_bytes(&task->net, n, m))) {
        for (Index k; (k = take_next(&task->next)) < task->rows;) {
            const double *C = task->b[COSTS_OF_NET].buf, *eps = task->b[EPS_OF_NET].buf;
            LearntProblem problem = {n, m, task->b[COSTS_OF_NET].ndim == 2 ? C : C + k * n * m,
                                     (double *)task->b[A_OF_NET].buf + k * n, (double *)task->b[B_OF_NET].buf + k * m,
                                     eps[k], 0, (double *)task->b[F_OF_NET].buf + k * n};
            int done = learnt_potential(&task->net, &problem, &room, &arena);
            ((double *)task->b[SPREADS].buf)[k] = done ? problem.spread : -1;
        }
    } else
        task->short_of_memory = 1;
    close_arena(&room);
    close_arena(&arena);
}

/* Read the settings of a network, and compare their number and that of its weights. */
static int read_net(NetTask *task)
{
    const int64_t *settings = task->b[SETTINGS].buf;
    Index count = task->b[SETTINGS].len / (Index)sizeof(int64_t), levels = count >= 5 ? settings[4] : 0;
    if (levels < 1 || count != 5 + 2 * levels) return misfit("settings do not fit");
    Learnt *net = &task->net;
    *net = (Learnt){settings[0], settings[1], settings[2], settings[3], levels, 0, settings + 5, settings + 5 + levels,
                    task->b[NUMBERS].buf, task->b[TEMPERATURES].buf};
    Index last = 1;
    for (Index k = 0; k < levels; k++) {
        net->rounds += net->per_level[k];
        if (net->per_level[k] < 1 || net->counts[k] < last || net->counts[k] > task->m)
            return misfit("levels need rounds, and targets in growing numbers");
        last = net->counts[k];
    }
    int positive = net->width > 0 && net->hidden > 0 && net->cells > 0 && net->rows > 0;
    Index numbers = task->b[NUMBERS].len / 4, temperatures = task->b[TEMPERATURES].len / 4;
    if (!positive || numbers != learnt_numbers(net, net->rounds) || temperatures != 2 * net->rounds)
        return misfit("weights do not fit the settings");
    return 1;
}

static PyObject *learnt_potentials(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    static const char *const names[] = {"C", "a", "b", "eps", "settings", "weights", "temperatures", "f", "spreads"};
    static const char *const formats[] = {"d", "d", "d", "d", "lq", "f", "f", "d", "d"};
    PyObject *given[NET_PARTS];
    NetTask task;
    int threads, fits = 1;
    memset(&task, 0, sizeof task);
    if (!PyArg_ParseTuple(arguments, "OOOOOOOOOi:learnt_potentials", &given[0], &given[1], &given[2], &given[3],
                          &given[4], &given[5], &given[6], &given[7], &given[8], &threads))
        return NULL;
    for (int k = 0; k < NET_PARTS && fits; k++)
        fits = read_array(given[k], names[k], k >= F_OF_NET, formats[k], k == COSTS_OF_NET ? 2 : 1, &task.b[k]);
    if (fits) {
        const Py_buffer *C = &task.b[COSTS_OF_NET];
        Index rows = task.rows = task.b[EPS_OF_NET].len / 8, n = task.n = C->shape[C->ndim - 2];
        Index m = task.m = C->shape[C->ndim - 1];
        if (C->ndim > 3 || (C->ndim == 3 && C->shape[0] != rows) || n < 1 || m < 1 ||
            task.b[A_OF_NET].len != rows * n * 8 || task.b[B_OF_NET].len != rows * m * 8 ||
            task.b[F_OF_NET].len != rows * n * 8 || task.b[SPREADS].len != rows * 8)
            fits = misfit("C, a, b, eps, f and spreads must be (batch) n m, batch n, batch m, batch, batch n, batch");
        else
            fits = read_net(&task);
    }
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        run_on_threads(take_part_in_rounds, &task, threads);
        Py_END_ALLOW_THREADS
    }
    for (int k = 0; k < NET_PARTS; k++)
        if (task.b[k].obj) PyBuffer_Release(&task.b[k]);
    if (!fits) return NULL;
    if (task.short_of_memory) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"has_quick_products", has_quick_products, METH_NOARGS, "Tell whether multiply_rows is faster than floats."},
    {"multiply_rows", multiply, METH_VARARGS, "Put factor x y^T into out; see metaot/core/_core.pyi."},
    {"exponential_sums", exponential_sums, METH_VARARGS, "Put exp(x y^T) v into out; see metaot/core/_core.pyi."},
    {"assign_points", assign_points, METH_VARARGS, "Assign points to points; see metaot/core/_core.pyi."},
    {"assign_rows", assign_rows, METH_VARARGS, "Assign rows to columns; see metaot/core/_core.pyi."},
    {"average_each", average_each, METH_VARARGS, "Find each of many barycenters; see metaot/core/_core.pyi."},
    {"learnt_potentials", learnt_potentials, METH_VARARGS, "Evaluate a network that reads costs; see _core.pyi."},
    {"solve_each", solve_each, METH_VARARGS, "Solve each of many problems; see metaot/core/_core.pyi."},
    {"solve_together", solve_together, METH_VARARGS, "Solve the problems of some calls; see metaot/core/_core.pyi."},
    {"sort_rows", sort_rows, METH_VARARGS, "Sort rows of numbers; see metaot/core/_core.pyi."},
    {"sum_clouds", sum_clouds, METH_VARARGS, "Sum over one cloud for the points of another; see _core.pyi."},
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
