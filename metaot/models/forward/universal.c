/* See universal.h. */

#include "universal.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { COVARIANCES = 5, WORTH = 4, BLOCK_ARRAYS = 6 };
/* WORTH: problems from which on lanes are sooner than one problem after another. */

enum { WIDTH, MEAN, LOW_ROW = MEAN + 2, HIGH_ROW, LOW_COLUMN, HIGH_COLUMN, TEMPERATURE };
/* Numbers that are known of a problem. */

static const double NARROWEST = 1e-4; /* as in frame.py */

typedef struct {
    Index low[2], high[2];
} Box; /* rows and columns of the grid, from the low ones to before the high ones */

static Index padded(Index size)
{
    return (size + LANES - 1) / LANES * LANES;
}

static size_t lay_out(const Task *task, Desk *desk, char *memory)
{
    Index lanes = LANES * CLASSES, longest = task->plane.padded[0] + task->plane.padded[1];
    Index features = task->inputs.inputs > task->width ? task->inputs.inputs : task->width;
    Index sizes[] = {
        lanes * features, lanes * (features + 2 * task->width + 3 * task->hidden), lanes * task->count,
        LANES * (task->count + task->width), task->modes * task->plane.padded_modes, cosines_size(&task->plane),
        plane_room(&task->plane),
    };
    float **parts[] = {&desk->read, &desk->room, &desk->coefficients, &desk->gains, &desk->table, &desk->others,
                       &desk->plane};
    size_t taken = 0;
    desk->doubles = (double *)memory;
    taken += 4 * (size_t)longest * sizeof(double);
    for (int k = 0; k < (int)(sizeof sizes / sizeof *sizes); k++) {
        *parts[k] = memory ? (float *)(memory + taken) : NULL;
        taken += (size_t)sizes[k] * sizeof(float);
    }
    return taken;
}

int open_desk(const Task *task, Desk *desk)
{
    desk->memory = malloc(lay_out(task, desk, NULL));
    if (desk->memory) lay_out(task, desk, desk->memory);
    return desk->memory != NULL;
}

static double *numbers_of(const Task *task, Index problem)
{
    return task->numbers + problem * task->numbers_size;
}

/* The box around the mass of a source. */
static Box mass_of(const Task *task, Index problem)
{
    const double *numbers = numbers_of(task, problem);
    Box box = {{(Index)numbers[LOW_ROW], (Index)numbers[LOW_COLUMN]},
               {(Index)numbers[HIGH_ROW], (Index)numbers[HIGH_COLUMN]}};
    return box;
}

/* Where a potential is asked for. */
static Box scope_of(const Task *task, Index problem)
{
    Box all = {{0, 0}, {task->plane.sizes[0], task->plane.sizes[1]}};
    return task->everywhere ? all : mass_of(task, problem);
}

/* Where the source is seen. */
static Cosines cosines_of(const Task *task, Index problem)
{
    return cosines_in(&task->plane, task->cosines + problem * cosines_size(&task->plane));
}

/* Put a table into the lane of a problem, sorted into classes and emphasised. */
static void sort_into_classes(const Task *task, const float *table, Index features, int lanes, float *out)
{
    Index half = task->modes / 2, stride = task->plane.padded_modes;
    const float *emphasis = task->emphasis;
    for (int c = 0; c < CLASSES; c++)
        for (Index i = 0; i < half; i++)
            for (Index j = 0; j < half; j++)
                out[(c * features + i * half + j) * lanes] =
                    table[(2 * i + c / 2) * stride + 2 * j + c % 2] * *emphasis++;
}

/* Undo that, with damping in place of emphasis, and gains that all classes share. */
static void sort_out_of_classes(const Task *task, const float *coefficients, const float *gains, int lanes,
                                float *table)
{
    Index half = task->modes / 2, stride = task->plane.padded_modes;
    const float *damping = task->damping;
    for (int c = 0; c < CLASSES; c++)
        for (Index i = 0; i < half; i++)
            for (Index j = 0; j < half; j++) {
                Index k = i * half + j;
                table[(2 * i + c / 2) * stride + 2 * j + c % 2] =
                    coefficients[(c * task->count + k) * lanes] * gains[k * lanes] * *damping++;
            }
}

/* Chebyshev polynomials of the logarithm of a temperature in squared widths. */
static void take_temperature(const Task *task, double eps, double *out)
{
    double t = (2 * log(eps) - task->coldest - task->warmest) / (task->warmest - task->coldest);
    t = t < -1 ? -1 : t > 1 ? 1 : t;
    for (Index k = 0; k < task->temperatures; k++)
        out[k] = k == 0 ? 1 : k == 1 ? t : 2 * t * out[k - 1] - out[k - 2];
}

/* Look at a pair of images, put what is seen into a lane, and the potential between Gaussians into f. */
static void look_at(const Task *task, Desk *desk, Index problem, int lanes, float *read)
{
    const Plane *plane = &task->plane;
    Index features = task->inputs.inputs, atoms = task->atoms;
    double *numbers = numbers_of(task, problem), eps = task->eps[problem];
    const double *weights[2] = {task->a + problem * atoms, task->b + problem * atoms};
    Cosines tables[2] = {cosines_of(task, problem), cosines_in(plane, desk->others)};
    Measure seen[2];
    for (int side = 0; side < 2; side++) measure(plane, weights[side], &seen[side], desk->doubles);
    double square = (seen[0].xx + seen[0].yy + seen[1].xx + seen[1].yy) / 4;
    square = square > NARROWEST * NARROWEST ? square : NARROWEST * NARROWEST;
    numbers[WIDTH] = sqrt(square);
    memcpy(numbers + MEAN, seen[0].mean, sizeof seen[0].mean);
    numbers[LOW_ROW] = (double)seen[0].low[0];
    numbers[LOW_COLUMN] = (double)seen[0].low[1];
    numbers[HIGH_ROW] = (double)seen[0].high[0];
    numbers[HIGH_COLUMN] = (double)seen[0].high[1];
    take_temperature(task, eps / square, numbers + TEMPERATURE);
    for (int side = 0; side < 2; side++) {
        const Measure *one = &seen[side];
        fill_cosines(plane, one->mean, numbers[WIDTH], &tables[side], desk->doubles);
        analyse_plane(plane, &tables[side], weights[side], one->low, one->high, desk->table, desk->plane);
        sort_into_classes(task, desk->table, features, lanes, read + side * task->count * lanes);
        float *even = read + (2 * task->count + 2 * side) * lanes;
        even[0] = (float)(one->xx / square);
        even[lanes] = (float)(one->yy / square);
        read[((CLASSES - 1) * features + features - 2 + side) * lanes] = (float)(one->xy / square);
    }
    Box scope = scope_of(task, problem);
    if (!task->everywhere) memset(task->f + problem * atoms, 0, (size_t)atoms * sizeof(double));
    between_gaussians(plane, &seen[0], &seen[1], eps, 1 / eps, scope.low, scope.high, task->f + problem * atoms);
}

/* Put the temperatures of problems into lanes. */
static void spread_temperatures(const Task *task, Index first, Index count, int lanes, float *out)
{
    memset(out, 0, (size_t)(task->temperatures * lanes) * sizeof *out);
    for (Index t = 0; t < count; t++)
        for (Index k = 0; k < task->temperatures; k++)
            out[k * lanes + t] = (float)numbers_of(task, first + t)[TEMPERATURE + k];
}

/* Add the functions of features x to f, by the output layer; gains are those of lanes. */
static void add_functions(const Task *task, Desk *desk, Index first, Index count, int lanes, const float *x)
{
    normalise_lanes(CLASSES * task->width, lanes, x, desk->room);
    apply_parity(&task->outputs, lanes, desk->room, desk->coefficients);
    for (Index t = 0; t < count; t++) {
        Cosines cosines = cosines_of(task, first + t);
        Box scope = scope_of(task, first + t);
        double width = numbers_of(task, first + t)[WIDTH], scale = width * width / task->eps[first + t];
        sort_out_of_classes(task, desk->coefficients + t, desk->gains + t, lanes, desk->table);
        add_synthesis(&task->plane, &cosines, desk->table, scale, scope.low, scope.high,
                      task->f + (first + t) * task->atoms, desk->plane);
    }
}

/* Look at problems in lanes. */
static void look(const Task *task, Desk *desk, Index first, Index count, int lanes)
{
    float *x = task->x + first * CLASSES * task->width, temperatures[LARGEST_DEPTH * LANES];
    memset(desk->read, 0, (size_t)(CLASSES * task->inputs.inputs * lanes) * sizeof(float));
    for (Index t = 0; t < count; t++) look_at(task, desk, first + t, lanes, desk->read + t);
    spread_temperatures(task, first, count, lanes, temperatures);
    apply_parity(&task->inputs, lanes, desk->read, x);
    apply_affine(&task->of_eps, lanes, temperatures, desk->gains);
    for (Index k = 0; k < task->width * lanes; k++) x[k] += desk->gains[k];
    for (int k = 0; k < task->depth; k++) apply_parity_block(&task->blocks[k], lanes, temperatures, x, desk->room);
    apply_affine(&task->gain, lanes, temperatures, desk->gains);
    add_functions(task, desk, first, count, lanes, x);
}

/* Put what is missing of a marginal into a lane, in units of its size, which is returned. */
static float read_missing(const Task *task, Desk *desk, Index problem, int lanes, float *read)
{
    const double *missing = task->missing + problem * task->atoms;
    Index features = task->inputs.inputs;
    Cosines cosines = cosines_of(task, problem);
    Box mass = mass_of(task, problem);
    float square = 0, size;
    analyse_plane(&task->plane, &cosines, missing, mass.low, mass.high, desk->table, desk->plane);
    sort_into_classes(task, desk->table, features, lanes, read);
    for (int c = 0; c < CLASSES; c++)
        for (Index k = 0; k < task->count; k++) {
            float *moment = read + (c * features + k) * lanes;
            *moment *= 100;
            square += *moment * *moment;
        }
    size = sqrtf(square / (float)(CLASSES * task->count) + 1e-6f);
    for (int c = 0; c < CLASSES; c++)
        for (Index k = 0; k < task->count; k++) read[(c * features + k) * lanes] /= size;
    read[task->count * lanes] = logf(size);
    return size;
}

/* Correct the potentials of problems in lanes. */
static void correct(const Task *task, Desk *desk, Index first, Index count, int lanes)
{
    const float *seen = task->x + first * CLASSES * task->width;
    float temperatures[LARGEST_DEPTH * LANES], *x = desk->read, *read = desk->room;
    memset(read, 0, (size_t)(CLASSES * task->inputs.inputs * lanes) * sizeof *read);
    for (Index t = 0; t < count; t++) {
        float size = read_missing(task, desk, first + t, lanes, read + t);
        for (Index k = 0; k < task->count; k++) desk->gains[k * lanes + t] = size;
    }
    spread_temperatures(task, first, count, lanes, temperatures);
    apply_parity(&task->inputs, lanes, read, x);
    for (Index k = 0; k < CLASSES * task->width * lanes; k++) x[k] += seen[k];
    apply_parity_block(&task->blocks[0], lanes, temperatures, x, desk->room);
    add_functions(task, desk, first, count, lanes, x);
}

void look_closer(const Task *task, const Task *fine, Desk *desk, const Index *by, Index problem)
{
    const double *numbers = numbers_of(task, problem);
    double *finer = numbers_of(fine, problem);
    Cosines cosines = cosines_of(fine, problem);
    memcpy(finer, numbers, (size_t)task->numbers_size * sizeof *numbers);
    for (int axis = 0; axis < 2; axis++) {
        double size = (double)fine->plane.sizes[axis], high = numbers[HIGH_ROW + 2 * axis] * (double)by[axis];
        finer[LOW_ROW + 2 * axis] *= (double)by[axis];
        finer[HIGH_ROW + 2 * axis] = high < size ? high : size;
    }
    fill_cosines(&fine->plane, numbers + MEAN, numbers[WIDTH], &cosines, desk->doubles);
}

void work_on(const Task *task, Desk *desk, Index first, Index count)
{
    int lanes = count < WORTH ? 1 : LANES;
    for (Index done = 0; done < count; done += lanes) {
        Index some = lanes == 1 ? 1 : count;
        if (task->corrects)
            correct(task, desk, first + done, some, lanes);
        else
            look(task, desk, first + done, some, lanes);
    }
}

static ParityLinear take_parity(Arrays *all, Index inputs, Index outputs)
{
    ParityLinear linear = {.inputs = inputs, .outputs = outputs};
    linear.weight = take(all, CLASSES * inputs * outputs);
    linear.bias = take(all, outputs);
    return linear;
}

static Affine take_affine(Arrays *all, Index outputs, Index temperatures)
{
    Affine affine = {.outputs = outputs, .temperatures = temperatures};
    affine.weight = take(all, outputs * temperatures);
    affine.bias = take(all, outputs);
    return affine;
}

static ParityBlock take_block(Arrays *all, Index width, Index temperatures)
{
    ParityBlock block = {.temperatures = temperatures};
    block.scale = take(all, CLASSES * width);
    block.modulation = take(all, width * temperatures);
    Index hidden = length(all, 1) / 2;
    block.inner = take_parity(all, width, 2 * hidden);
    block.outer = take_parity(all, hidden, width);
    return block;
}

void take_plane(Arrays *all, Task *task)
{
    Plane *plane = &task->plane;
    task->atoms = 1;
    for (int axis = 0; axis < 2; axis++) {
        plane->sizes[axis] = length(all, 0) / 2;
        plane->axes[axis] = take_doubles(all, plane->sizes[axis]);
        plane->padded[axis] = padded(plane->sizes[axis]);
        task->atoms *= plane->sizes[axis];
        if (plane->sizes[axis] < 1) all->fit = 0;
    }
    if (task->modes < 2 || task->modes % 2) all->fit = 0;
    plane->modes = task->modes;
    plane->padded_modes = padded(task->modes);
    task->count = (task->modes / 2) * (task->modes / 2);
}

void take_network(Arrays *all, Task *task, int others)
{
    Index inputs = task->corrects ? task->count + 1 : 2 * task->count + COVARIANCES;
    task->width = length(all, 1);
    task->inputs = take_parity(all, inputs, task->width);
    if (!task->corrects) {
        task->temperatures = task->width ? length(all, 0) / task->width : 0;
        task->of_eps = take_affine(all, task->width, task->temperatures);
    }
    task->emphasis = take(all, CLASSES * task->count);
    task->damping = take(all, CLASSES * task->count);
    task->outputs = take_parity(all, task->width, task->count);
    if (!task->corrects) task->gain = take_affine(all, task->count, task->temperatures);
    task->depth = (all->count - all->next - others) / BLOCK_ARRAYS;
    if (task->depth < 0 || task->depth > LARGEST_DEPTH) all->fit = task->depth = 0;
    if (task->corrects && all->fit) task->temperatures = task->width ? length(all, 1) / task->width : 0;
    if (task->temperatures < 2 || task->temperatures > LARGEST_DEPTH) all->fit = 0;
    for (int k = 0; k < task->depth; k++) {
        task->blocks[k] = take_block(all, task->width, task->temperatures);
        Index hidden = task->blocks[k].outer.inputs;
        task->hidden = hidden > task->hidden ? hidden : task->hidden;
    }
    if (task->corrects && task->depth != 1) all->fit = 0;
    task->numbers_size = TEMPERATURE + task->temperatures;
    task->features = CLASSES * task->width;
}
