/* See images.h. */

#include "images.h"

#include <stdlib.h>

#include "../../single/steps/threads.h"
#include "universal.h"

typedef struct {
    Task task;
    Index next;
    int threads, short_of_memory;
} Images; /* problems, of which the next ones are for whoever comes first */

/* Do some problems in lanes, and some more, until all are done or in hand. */
static void take_part(void *shared)
{
    Images *images = shared;
    const Task *task = &images->task;
    Desk desk;
    if (!open_desk(task, &desk)) {
        images->short_of_memory = 1;
        return;
    }
    for (Index k; (k = take_next(&images->next) * LANES) < task->problems;)
        work_on(task, &desk, k, task->problems - k < LANES ? task->problems - k : LANES);
    free(desk.memory);
}

/* Take what is known of problems, and work on them on so many threads. */
static PyObject *work(Arrays *all, Images *images)
{
    Task *task = &images->task;
    task->numbers = take_doubles(all, task->problems * task->numbers_size);
    task->cosines = take(all, task->problems * cosines_size(&task->plane));
    task->x = take(all, (task->problems + LANES - 1) * task->features);
    if (task->corrects) task->missing = take_doubles(all, task->problems * task->atoms);
    task->f = take_doubles(all, task->problems * task->atoms);
    if (all->next != all->count) all->fit = 0;
    if (all->fit) {
        Index groups = (task->problems + LANES - 1) / LANES;
        int threads = groups < images->threads ? (int)groups : images->threads;
        Py_BEGIN_ALLOW_THREADS
        run_on_threads(take_part, images, threads);
        Py_END_ALLOW_THREADS
    }
    return finish(all, !images->short_of_memory);
}

/* Hold the arrays of a tuple, of which so many are written to, and take the grid and the network, which are before so
   many others; 0 with an exception if they cannot be held. */
static int take_images(Arrays *all, PyObject *tuple, int written, int others, Task *task)
{
    if (!hold(all, tuple, written)) return 0;
    take_plane(all, task);
    take_network(all, task, others);
    return 1;
}

PyObject *look_each(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Images images = {.task = {.everywhere = 1}};
    Task *task = &images.task;
    PyObject *tuple;
    Arrays all;
    if (!PyArg_ParseTuple(arguments, "nddiO!:look_each", &task->modes, &task->coldest, &task->warmest,
                          &images.threads, &PyTuple_Type, &tuple) ||
        !take_images(&all, tuple, 4, 7, task))
        return NULL;
    task->problems = length(&all, 2) / 2;
    task->a = take_doubles(&all, task->problems * task->atoms);
    task->b = take_doubles(&all, task->problems * task->atoms);
    task->eps = take_doubles(&all, task->problems);
    return work(&all, &images);
}

PyObject *correct_each(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Images images = {.task = {.everywhere = 1, .corrects = 1}};
    Task *task = &images.task;
    PyObject *tuple;
    Arrays all;
    if (!PyArg_ParseTuple(arguments, "niO!:correct_each", &task->modes, &images.threads, &PyTuple_Type, &tuple) ||
        !take_images(&all, tuple, 1, 6, task))
        return NULL;
    task->problems = length(&all, 0) / 2;
    task->eps = take_doubles(&all, task->problems);
    return work(&all, &images);
}
