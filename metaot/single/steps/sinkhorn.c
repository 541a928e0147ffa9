/* From weights and a start to potentials on all atoms. */

#include "steps.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const double GOOD = 0.01, DOUBTFUL = 0.1; /* as in start.py */

/* Put the products with u, and the best v for it, into place. */
static void scale_columns(Work *work)
{
    const double *sums = product_to_target(work);
    for (Index k = 0; k < work->target.count; k++) {
        work->now.columns[k] = sums[work->target.places[k]];
        work->now.v[k] = 1 / work->now.columns[k];
    }
}

/* Put the products with v, and the marginal relative to the weights, into place; return the L1 error. */
static double scale_rows(Work *work)
{
    const double *sums = product_to_source(work);
    for (Index k = 0; k < work->source.count; k++) {
        work->now.rows[k] = sums[work->source.places[k]];
        work->now.marginal[k] = work->now.u[k] * work->now.rows[k];
    }
    return l1_error(work->source.count, work->source.weights, work->now.marginal);
}

static double scale(Work *work)
{
    exponentials(work->source.count, work->x, work->now.u);
    scale_columns(work);
    return scale_rows(work);
}

static int are_right(const Work *work)
{
    Index n = work->source.count, m = work->target.count;
    return is_right(work->kernel, m, work->now.columns, n, work->now.u) &&
           is_right(work->kernel, n, work->now.rows, m, work->now.v);
}

/* The integral of the logarithm of sums; `residual` is overwritten. */
static double integral(Work *work, const Mass *mass, const double *sums)
{
    logarithms(mass->count, sums, work->residual);
    return inner_product(mass->count, mass->weights, work->residual);
}

/* The dual value of the best g for x, less the part of x. */
static double value_of_columns(Work *work)
{
    return work->kernel->offset - integral(work, &work->target, work->now.columns);
}

/* Tell whether zeros are a better start than one with this error, which is not small, and dual value; see
   start.is_better. */
static int zeros_are_better(Work *work, double error, double value)
{
    Index n = work->source.count;
    for (Index k = 0; k < n; k++) work->now.u[k] = 1;
    scale_columns(work);
    if (!(value >= value_of_columns(work))) return 1;
    if (error <= DOUBTFUL) return 0;
    scale_rows(work);
    for (Index k = 0; k < n; k++) work->now.u[k] = 1 / work->now.rows[k];
    scale_columns(work);
    double rival = scale_rows(work);
    double second = value_of_columns(work) - integral(work, &work->source, work->now.rows);
    return !(value >= second && error <= 0.5 * rival);
}

static void swap_scaled(Work *work)
{
    Scaled other = work->now;
    work->now = work->other;
    work->other = other;
}

/* Go to the start, or to zeros where these are better; put the error there. Tell what became of it. */
static int set_out(Work *work, const double *start, double *error)
{
    Index n = work->source.count;
    if (start) {
        for (Index k = 0; k < n; k++) work->x[k] = start[work->source.atoms[k]];
        double mean = inner_product(n, work->source.weights, work->x);
        for (Index k = 0; k < n; k++) work->x[k] -= mean;
        Range range = range_of(n, work->x);
        if (isfinite(mean) && range.most - range.least <= work->kernel->widest) {
            *error = scale(work);
            if (!work->kernel->fits && !are_right(work)) return UNKNOWN;
            if (*error <= GOOD) return DONE;
            double value = value_of_columns(work);
            swap_scaled(work);
            int better = zeros_are_better(work, *error, value);
            swap_scaled(work);
            if (!better) return DONE;
        }
    }
    memset(work->x, 0, (size_t)n * sizeof(double));
    *error = scale(work);
    return are_right(work) ? DONE : LOST;
}

/* Step until the error is small; tell what became of it. */
static int step(Work *work, Limits limits, double *error, int64_t *steps)
{
    Index since = 0;
    start_path(&work->path, work->source.count, work->source.weights);
    while (!(*error <= limits.tol) && *steps < limits.max_steps) {
        int due = *steps >= since + 4 + since / 6;
        if (due) since = *steps;
        if (isnan(*error) || (due && !work->kernel->fits && !are_right(work))) return LOST;
        logarithms(work->source.count, work->now.marginal, work->residual);
        for (Index k = 0; k < work->source.count; k++) work->residual[k] = -work->residual[k];
        next_point(&work->path, work->x, work->residual, *error);
        *error = scale(work);
        ++*steps;
    }
    return are_right(work) ? DONE : LOST;
}

/* Put the potentials on all atoms into f and g; tell whether all are right. */
static int continue_everywhere(Work *work, double *f, double *g)
{
    const Kernel *kernel = work->kernel;
    Index n = kernel->atoms;
    aim(kernel, kernel->matrices, &work->source, NULL);
    aim(kernel, kernel->transposed, &work->target, NULL);
    const double *sums = product_to_target(work);
    int right = kernel->fits || is_right(kernel, n, sums, work->source.count, work->now.u);
    logarithms(n, sums, g);
    for (Index k = 0; k < n; k++) g[k] = kernel->offset - g[k];
    sums = product_to_source(work);
    right = right && (kernel->fits || is_right(kernel, n, sums, work->target.count, work->now.v));
    logarithms(n, sums, f);
    for (Index k = 0; k < n; k++) f[k] = -f[k];
    for (Index k = 0; k < work->source.count; k++) f[work->source.atoms[k]] = work->x[k];
    return right ? DONE : NEEDS_LOGS;
}

/* Refine a start, or zeros if it is NULL; all is on the whole grid, in units of eps. Tell what became of it. */
int64_t refine(Work *work, const double *a, const double *b, const double *start, Limits limits,
               double *f, double *g, double *error, int64_t *steps)
{
    const Kernel *kernel = work->kernel;
    *steps = 0;
    find_mass(kernel, a, &work->source);
    find_mass(kernel, b, &work->target);
    if (!work->source.count || !work->target.count) return LOST;
    aim(kernel, kernel->matrices, &work->source, &work->target);
    aim(kernel, kernel->transposed, &work->target, &work->source);
    int found = set_out(work, start, error);
    if (found == DONE) found = step(work, limits, error, steps);
    return found == DONE ? continue_everywhere(work, f, g) : found;
}

/* A part of the memory behind what was taken, and some room after it; NULL if there is none yet. */
static void *take(char *memory, size_t *taken, Index count)
{
    char *part = memory ? memory + *taken : NULL;
    *taken += (size_t)(count + COLUMNS) * sizeof(double);
    return part;
}

/* Share out memory, and return how many bytes are needed. */
static size_t share_out(Work *work, char *memory)
{
    const Kernel *kernel = work->kernel;
    Index n = kernel->atoms, widest = 0;
    size_t taken = 0;
    double **arrays[] = {
        &work->x, &work->residual, &work->now.u, &work->now.v, &work->now.columns, &work->now.rows,
        &work->now.marginal, &work->other.u, &work->other.v, &work->other.columns, &work->other.rows,
        &work->other.marginal, &work->room[0], &work->room[1], &work->source.weights, &work->source.given,
        &work->target.weights, &work->target.given, &work->path.roots, &work->path.target, &work->path.missing,
        &work->path.last_target, &work->path.last_missing, &work->path.nearest,
    };
    Index **indices[] = {&work->source.atoms, &work->source.places, &work->target.atoms, &work->target.places};
    for (size_t k = 0; k < sizeof arrays / sizeof *arrays; k++) *arrays[k] = take(memory, &taken, n);
    for (size_t k = 0; k < sizeof indices / sizeof *indices; k++) *indices[k] = take(memory, &taken, n);
    work->path.moves = take(memory, &taken, MEMORY * n);
    work->path.changes = take(memory, &taken, MEMORY * n);
    for (int axis = 0; axis < kernel->axes; axis++) {
        Index size = kernel->sizes[axis];
        work->source.panels[axis] = take(memory, &taken, size * (size + COLUMNS));
        work->target.panels[axis] = take(memory, &taken, size * (size + COLUMNS));
        widest = size > widest ? size : widest;
    }
    work->strip = take(memory, &taken, ROWS * widest);
    return taken;
}

/* Make room for problems with this kernel; tell whether there is enough memory. */
int open_work(Work *work, const Kernel *kernel)
{
    work->kernel = kernel;
    work->memory = malloc(share_out(work, NULL));
    if (work->memory) share_out(work, work->memory);
    return work->memory != NULL;
}

void close_work(Work *work)
{
    free(work->memory);
}
