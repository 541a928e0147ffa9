/* See starts.h. */

#include "starts.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "../../single/steps/steps.h"
#include "universal.h"

typedef struct {
    Task look, correct;
    Kernels kernels, lifts;
    Index sizes[2], by[2], atoms, passes, next;
    int coarse, threads, short_of_memory;
    double enough;
    const double *a, *b, *eps;
    double *f;
    int64_t *told;
} Starts; /* problems on a grid of these sizes, of which the next ones are for whoever comes first */

typedef struct {
    const Starts *starts;
    Task look, correct;
    Desk seeing, correcting;
    Work work;
    double *a, *b, *f, *missing;
    char *memory;
} Place; /* where one thread works on a few problems, as they are on the grid of the prediction */

/* A part of the memory behind what was taken. */
static void *cut(char *memory, size_t *taken, Index count, size_t size)
{
    char *part = memory ? memory + *taken : NULL;
    *taken += ((size_t)count * size + 63) / 64 * 64;
    return part;
}

/* Share out memory, and return how many bytes are needed. */
static size_t furnish(Place *place, char *memory)
{
    Task *look = &place->look;
    Index few = look->problems < LANES ? look->problems : LANES, atoms = few * look->atoms;
    size_t taken = 0;
    double **functions[] = {&place->f, &place->missing, &place->a, &place->b};
    for (int k = 0; k < (place->starts->coarse ? 4 : 2); k++)
        *functions[k] = cut(memory, &taken, atoms, sizeof(double));
    look->numbers = cut(memory, &taken, few * look->numbers_size, sizeof(double));
    look->cosines = cut(memory, &taken, few * cosines_size(&look->plane), sizeof(float));
    look->x = cut(memory, &taken, LANES * look->features, sizeof(float));
    look->f = place->correct.f = place->f;
    place->correct.missing = place->missing;
    place->correct.numbers = look->numbers;
    place->correct.cosines = look->cosines;
    place->correct.x = look->x;
    return taken;
}

static void close_place(Place *place)
{
    close_work(&place->work);
    free(place->seeing.memory);
    free(place->correcting.memory);
    free(place->memory);
}

/* Have a place to work; 0 if there is none. */
static int open_place(const Starts *starts, Place *place)
{
    *place = (Place){.starts = starts, .look = starts->look, .correct = starts->correct};
    place->memory = malloc(furnish(place, NULL));
    if (place->memory) furnish(place, place->memory);
    int enough = open_work(&place->work, starts->coarse ? &starts->lifts.shape : &starts->kernels.shape);
    enough = open_desk(&place->look, &place->seeing) && enough;
    enough = open_desk(&place->correct, &place->correcting) && enough && place->memory;
    if (!enough) close_place(place);
    return enough;
}

/* Put sums of groups of points into an image of so many columns. */
static void pool(const Starts *starts, const double *weights, Index columns, double *sums, Index atoms)
{
    memset(sums, 0, (size_t)atoms * sizeof *sums);
    for (Index r = 0; r < starts->sizes[0]; r++, weights += starts->sizes[1]) {
        double *out = sums + r / starts->by[0] * columns;
        Index k = 0, whole = starts->sizes[1] / starts->by[1];
        if (starts->by[1] == 2)
            for (; k < whole; k++) out[k] += weights[2 * k] + weights[2 * k + 1];
        for (Index at = k * starts->by[1]; at < starts->sizes[1]; at++) out[at / starts->by[1]] += weights[at];
    }
}

/* Bring problems to the grid of the prediction. */
static void take_problems(Place *place, Index first, Index count)
{
    const Starts *starts = place->starts;
    Task *look = &place->look;
    Index atoms = look->atoms, columns = look->plane.sizes[1];
    look->eps = place->correct.eps = starts->eps + first;
    look->a = starts->coarse ? place->a : starts->a + first * atoms;
    look->b = starts->coarse ? place->b : starts->b + first * atoms;
    for (Index t = 0; t < count && starts->coarse; t++) {
        pool(starts, starts->a + (first + t) * starts->atoms, columns, place->a + t * atoms, atoms);
        pool(starts, starts->b + (first + t) * starts->atoms, columns, place->b + t * atoms, atoms);
    }
}

/* Make a step for each problem; return how much of the mass the plans have missed, in the mean. */
static double step_all(Place *place, Index first, Index count)
{
    const Starts *starts = place->starts;
    Index atoms = place->look.atoms;
    double missed = 0;
    for (Index t = 0; t < count; t++) {
        Kernel kernel = kernel_of(&starts->kernels, first + t);
        double *f = place->f + t * atoms, *missing = place->missing + t * atoms;
        place->work.kernel = &kernel;
        int64_t told = one_step(&place->work, place->look.a + t * atoms, place->look.b + t * atoms, f, 0, f, missing);
        if (told != DONE) {
            starts->told[first + t] = told;
            memset(missing, 0, (size_t)atoms * sizeof *missing);
        }
        for (Index k = 0; k < atoms; k++) missed += fabs(missing[k]);
    }
    return missed / (double)count;
}

/* Put f where it is asked for. */
static void put_f(Place *place, Index first, Index count)
{
    const Starts *starts = place->starts;
    Index atoms = place->look.atoms;
    if (!starts->coarse) memcpy(starts->f + first * atoms, place->f, (size_t)(count * atoms) * sizeof *place->f);
    for (Index t = 0; t < count && starts->coarse; t++) {
        Kernel kernel = kernel_of(&starts->kernels, first + t), lifts = kernel_of(&starts->lifts, first + t);
        place->work.kernel = &kernel;
        int64_t told = lift(&place->work, &lifts, place->look.a + t * atoms, place->look.b + t * atoms,
                            place->f + t * atoms, starts->a + (first + t) * starts->atoms,
                            starts->f + (first + t) * starts->atoms);
        if (told != DONE) starts->told[first + t] = told;
    }
}

static void start_some(Place *place, Index first, Index count)
{
    const Starts *starts = place->starts;
    take_problems(place, first, count);
    work_on(&place->look, &place->seeing, 0, count);
    for (Index pass = 0; pass < starts->passes; pass++) {
        double missed = step_all(place, first, count);
        work_on(&place->correct, &place->correcting, 0, count);
        if (missed <= starts->enough) break;
    }
    put_f(place, first, count);
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

enum { NETWORK, CORRECTION, KERNELS, LIFTS, PROBLEMS, TUPLES };

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
    Arrays *problems = &all[PROBLEMS];
    const int64_t *by = (const int64_t *)take_doubles(problems, 2);
    Index count = length(problems, 2) / 2;
    int fits = problems->fit && look->width == correct->width && look->temperatures == correct->temperatures &&
               take_kernels(&all[KERNELS], &starts->kernels, NULL, count) &&
               is_of(&starts->kernels.shape, look->plane.sizes) && is_of(&starts->kernels.shape, correct->plane.sizes);
    starts->coarse = all[LIFTS].count > 0;
    if (starts->coarse) fits = fits && take_kernels(&all[LIFTS], &starts->lifts, &starts->kernels.shape, count);
    if (!fits) return 0;
    starts->atoms = 1;
    for (int axis = 0; axis < 2; axis++) {
        starts->sizes[axis] = starts->coarse ? starts->lifts.shape.sizes[axis] : look->plane.sizes[axis];
        starts->by[axis] = (Index)by[axis];
        starts->atoms *= starts->sizes[axis];
        if (by[axis] < 1 || (starts->sizes[axis] - 1) / by[axis] + 1 != look->plane.sizes[axis]) return 0;
    }
    starts->a = take_doubles(problems, count * starts->atoms);
    starts->b = take_doubles(problems, count * starts->atoms);
    starts->eps = take_doubles(problems, count);
    starts->f = take_doubles(problems, count * starts->atoms);
    starts->told = (int64_t *)take_doubles(problems, count);
    starts->look.problems = starts->correct.problems = count;
    for (int k = 0; k < TUPLES; k++)
        if (!all[k].fit || (k != KERNELS && k != LIFTS && all[k].next != all[k].count)) return 0;
    return 1;
}

PyObject *start_each(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Starts starts = {.correct = {.corrects = 1}};
    PyObject *tuples[TUPLES];
    Arrays all[TUPLES];
    Py_ssize_t modes, passes;
    int held = 0, fits = 0;
    if (!PyArg_ParseTuple(arguments, "nddndiO!O!O!O!O!:start_each", &modes, &starts.look.coldest, &starts.look.warmest,
                          &passes, &starts.enough, &starts.threads, &PyTuple_Type, &tuples[NETWORK], &PyTuple_Type,
                          &tuples[CORRECTION], &PyTuple_Type, &tuples[KERNELS], &PyTuple_Type, &tuples[LIFTS],
                          &PyTuple_Type, &tuples[PROBLEMS]))
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
