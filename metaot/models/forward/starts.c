/* See starts.h. */

#include "starts.h"

#include <stdlib.h>
#include <string.h>

#include "../../single/steps/steps.h"
#include "universal.h"

typedef struct {
    Task look, correct, finish;
    Kernels kernels, lifts, fine;
    Index by[2], passes, next;
    int coarse, threads, short_of_memory;
    double enough;
    const double *a, *b, *eps;
    double *f;
    int64_t *told;
} Starts; /* problems, of which the next ones are for whoever comes first; they are seen on their own grid to finish,
             and otherwise on that of the prediction */

typedef struct {
    const Starts *starts;
    Task look, correct, finish;
    Desk seeing, correcting, finishing;
    Work work;
    double *a, *b, *f, *missing, *left;
    char *memory;
} Place; /* where one thread works on a few problems: what is missing on the grid of the prediction, and if that is a
            coarser one weights and f there, and what is left missing on their own */

/* A part of the memory behind what was taken. */
static void *cut(char *memory, size_t *taken, Index count, size_t size)
{
    char *part = memory ? memory + *taken : NULL;
    *taken += ((size_t)count * size + 63) / 64 * 64;
    return part;
}

/* Have room for what is seen of a few problems. */
static void make_room(Task *task, Index few, char *memory, size_t *taken)
{
    task->numbers = cut(memory, taken, few * task->numbers_size, sizeof(double));
    task->cosines = cut(memory, taken, few * cosines_size(&task->plane), sizeof(float));
}

/* Share out memory, and return how many bytes are needed. */
static size_t furnish(Place *place, char *memory)
{
    Task *look = &place->look, *correct = &place->correct, *finish = &place->finish;
    Index few = look->problems < LANES ? look->problems : LANES, atoms = few * look->atoms;
    size_t taken = 0;
    place->missing = cut(memory, &taken, atoms, sizeof(double));
    make_room(look, few, memory, &taken);
    look->x = cut(memory, &taken, LANES * look->features, sizeof(float));
    if (place->starts->coarse) {
        place->f = cut(memory, &taken, atoms, sizeof(double));
        place->a = cut(memory, &taken, atoms, sizeof(double));
        place->b = cut(memory, &taken, atoms, sizeof(double));
        place->left = cut(memory, &taken, few * finish->atoms, sizeof(double));
        make_room(finish, few, memory, &taken);
    }
    correct->missing = place->missing;
    correct->numbers = look->numbers;
    correct->cosines = look->cosines;
    finish->missing = place->left;
    finish->x = correct->x = look->x;
    return taken;
}

static void close_place(Place *place)
{
    close_work(&place->work);
    free(place->seeing.memory);
    free(place->correcting.memory);
    free(place->finishing.memory);
    free(place->memory);
}

/* Have a place to work; 0 if there is none. */
static int open_place(const Starts *starts, Place *place)
{
    *place = (Place){.starts = starts, .look = starts->look, .correct = starts->correct, .finish = starts->finish};
    place->memory = malloc(furnish(place, NULL));
    if (place->memory) furnish(place, place->memory);
    int enough = open_work(&place->work, &starts->fine.shape) && place->memory;
    enough = open_desk(&place->look, &place->seeing) && enough;
    enough = open_desk(&place->correct, &place->correcting) && enough;
    if (starts->coarse) enough = open_desk(&place->finish, &place->finishing) && enough;
    if (!enough) close_place(place);
    return enough;
}

/* Add sums of groups of so many numbers; the last one may have fewer. */
FOR_EACH_PROCESSOR
static void add_groups(Index count, Index by, const double *restrict x, double *restrict sums)
{
    Index pairs = by == 2 ? count / 2 : 0;
    for (Index k = 0; k < pairs; k++) sums[k] += x[2 * k] + x[2 * k + 1];
    for (Index at = pairs * by; at < count; at++) sums[at / by] += x[at];
}

/* Put sums of groups of points into an image of so many columns. */
static void pool(const Starts *starts, const double *weights, Index columns, double *sums, Index atoms)
{
    const Index *sizes = starts->finish.plane.sizes, *by = starts->by;
    memset(sums, 0, (size_t)atoms * sizeof *sums);
    for (Index r = 0; r < sizes[0]; r++)
        add_groups(sizes[1], by[1], weights + r * sizes[1], sums + r / by[0] * columns);
}

/* Bring problems to the grid of the prediction. */
static void take_problems(Place *place, Index first, Index count)
{
    const Starts *starts = place->starts;
    Task *look = &place->look, *finish = &place->finish;
    Index atoms = look->atoms, all = finish->atoms;
    look->eps = place->correct.eps = finish->eps = starts->eps + first;
    finish->a = starts->a + first * all;
    finish->b = starts->b + first * all;
    finish->f = starts->f + first * all;
    look->a = starts->coarse ? place->a : finish->a;
    look->b = starts->coarse ? place->b : finish->b;
    look->f = place->correct.f = starts->coarse ? place->f : finish->f;
    for (Index t = 0; t < count && starts->coarse; t++) {
        pool(starts, finish->a + t * all, look->plane.sizes[1], place->a + t * atoms, atoms);
        pool(starts, finish->b + t * all, look->plane.sizes[1], place->b + t * atoms, atoms);
    }
}

/* Make a step from f of each problem, in its place, and tell what is missing; return how much of the mass that is, in
   the mean. */
static double step_all(Place *place, const Kernels *kernels, const Task *seen, double *missing, Index first,
                       Index count)
{
    Index atoms = seen->atoms;
    double missed = 0;
    for (Index t = 0; t < count; t++, missing += atoms) {
        Kernel kernel = kernel_of(kernels, first + t);
        double *f = seen->f + t * atoms;
        place->work.kernel = &kernel;
        int64_t told = one_step(&place->work, seen->a + t * atoms, seen->b + t * atoms, f, 0, f, missing);
        if (told != DONE) {
            place->starts->told[first + t] = told;
            memset(missing, 0, (size_t)atoms * sizeof *missing);
        }
        missed += l1_norm(atoms, missing);
    }
    return missed / (double)count;
}

/* Step back to the grid of the problems. */
static void lift_all(Place *place, Index first, Index count)
{
    const Starts *starts = place->starts;
    const Task *look = &place->look, *finish = &place->finish;
    Index atoms = look->atoms, all = finish->atoms;
    for (Index t = 0; t < count; t++) {
        Kernel kernel = kernel_of(&starts->kernels, first + t), lifts = kernel_of(&starts->lifts, first + t);
        place->work.kernel = &kernel;
        int64_t told = lift(&place->work, &lifts, look->a + t * atoms, look->b + t * atoms, look->f + t * atoms,
                            finish->a + t * all, finish->f + t * all);
        if (told != DONE) starts->told[first + t] = told;
    }
}

/* Make one pass more, on the grid of the problems. */
static void finish_all(Place *place, Index first, Index count)
{
    const Starts *starts = place->starts;
    for (Index t = 0; t < count; t++)
        look_closer(&place->look, &place->finish, &place->finishing, starts->by, t);
    step_all(place, &starts->fine, &place->finish, place->left, first, count);
    work_on(&place->finish, &place->finishing, 0, count);
}

static void start_some(Place *place, Index first, Index count)
{
    const Starts *starts = place->starts;
    double missed = 0;
    take_problems(place, first, count);
    work_on(&place->look, &place->seeing, 0, count);
    for (Index pass = 0; pass < starts->passes; pass++) {
        missed = step_all(place, &starts->kernels, &place->look, place->missing, first, count);
        work_on(&place->correct, &place->correcting, 0, count);
        if (missed <= starts->enough) break;
    }
    if (!starts->coarse) return;
    lift_all(place, first, count);
    if (missed > starts->enough) finish_all(place, first, count);
}

/* Do some problems, and some more, until all are done or in hand. */
static void take_part(void *shared)
{
    Starts *starts = shared;
    Place place;
    if (!open_place(starts, &place)) {
        starts->short_of_memory = 1;
        return;
    }
    for (Index k; (k = take_next(&starts->next) * LANES) < starts->look.problems;)
        start_some(&place, k, starts->look.problems - k < LANES ? starts->look.problems - k : LANES);
    close_place(&place);
}

/* Take kernels; tell whether they are there, and one for all problems or one for each. */
static int take_kernels(Arrays *all, Kernels *kernels, const Kernel *target, Index problems)
{
    Flat flat;
    if (all->count != KERNEL_ARRAYS) return 0;
    for (int k = 0; k < KERNEL_ARRAYS; k++) {
        flat.arrays[k] = all->buffers[k].buf;
        flat.bytes[k] = all->buffers[k].len;
    }
    return read_kernels(kernels, &flat, target) && (kernels->count == 1 || kernels->count == problems);
}

/* Tell whether a kernel has the sizes of an image. */
static int is_of(const Kernel *kernel, const Index *sizes)
{
    return kernel->axes == 2 && kernel->sizes[0] == sizes[0] && kernel->sizes[1] == sizes[1];
}

enum { NETWORK, CORRECTION, KERNELS, LIFTS, FINE, PROBLEMS, TUPLES };

/* Take all; tell whether everything fits. */
static int take_starts(Arrays *all, Starts *starts, Index modes)
{
    Task *tasks[] = {&starts->look, &starts->correct};
    for (int k = NETWORK; k <= CORRECTION; k++) {
        tasks[k]->modes = modes;
        take_plane(&all[k], tasks[k]);
        take_network(&all[k], tasks[k], 0);
    }
    const Task *look = &starts->look, *correct = &starts->correct;
    const Index *seen = look->plane.sizes, *sizes = starts->finish.plane.sizes;
    Arrays *problems = &all[PROBLEMS];
    const int64_t *by = (const int64_t *)take_doubles(problems, 2);
    starts->finish = *correct;
    take_plane(problems, &starts->finish);
    Index count = length(problems, 2) / 2, atoms = starts->finish.atoms;
    int fits = problems->fit && look->width == correct->width && look->temperatures == correct->temperatures &&
               take_kernels(&all[KERNELS], &starts->kernels, NULL, count) &&
               take_kernels(&all[FINE], &starts->fine, NULL, count) && is_of(&starts->kernels.shape, seen) &&
               is_of(&starts->kernels.shape, correct->plane.sizes) && is_of(&starts->fine.shape, sizes);
    starts->coarse = all[LIFTS].count > 0;
    if (starts->coarse)
        fits = fits && take_kernels(&all[LIFTS], &starts->lifts, &starts->kernels.shape, count) &&
               is_of(&starts->lifts.shape, sizes);
    if (!fits) return 0;
    for (int axis = 0; axis < 2; axis++) {
        starts->by[axis] = (Index)by[axis];
        if (by[axis] < 1 || (sizes[axis] - 1) / by[axis] + 1 != seen[axis]) return 0;
    }
    starts->a = take_doubles(problems, count * atoms);
    starts->b = take_doubles(problems, count * atoms);
    starts->eps = take_doubles(problems, count);
    starts->f = take_doubles(problems, count * atoms);
    starts->told = (int64_t *)take_doubles(problems, count);
    starts->look.problems = count;
    const int taken[] = {NETWORK, CORRECTION, PROBLEMS};
    for (int k = 0; k < 3; k++)
        if (!all[taken[k]].fit || all[taken[k]].next != all[taken[k]].count) return 0;
    return 1;
}

PyObject *start_each(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Starts starts = {.correct = {.corrects = 1}};
    PyObject *tuples[TUPLES];
    Arrays all[TUPLES];
    Py_ssize_t modes, passes;
    int held = 0, fits = 0;
    if (!PyArg_ParseTuple(arguments, "nddndiO!O!O!O!O!O!:start_each", &modes, &starts.look.coldest, &starts.look.warmest,
                          &passes, &starts.enough, &starts.threads, &PyTuple_Type, &tuples[NETWORK], &PyTuple_Type,
                          &tuples[CORRECTION], &PyTuple_Type, &tuples[KERNELS], &PyTuple_Type, &tuples[LIFTS],
                          &PyTuple_Type, &tuples[FINE], &PyTuple_Type, &tuples[PROBLEMS]))
        return NULL;
    starts.passes = passes;
    while (held < TUPLES && hold(&all[held], tuples[held], held == PROBLEMS ? 2 : 0)) held++;
    if (held == TUPLES) fits = take_starts(all, &starts, modes);
    if (fits) {
        Index groups = (starts.look.problems + LANES - 1) / LANES;
        int threads = groups < starts.threads ? (int)groups : starts.threads;
        Py_BEGIN_ALLOW_THREADS
        run_on_threads(take_part, &starts, threads);
        Py_END_ALLOW_THREADS
    }
    for (int k = 0; k < held; k++) release(&all[k]);
    if (held < TUPLES) return NULL;
    return outcome(fits, !starts.short_of_memory);
}
