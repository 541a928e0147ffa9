/* One step, half of one to another grid, and the dual value, as networks need them: of all atoms in the boxes around the
   mass, most of which have some, so that nothing is gathered. Those without count as if they were none. */

#include "steps.h"

#include <math.h>

/* Have numbers be 1 where there is no mass. */
FOR_EACH_PROCESSOR
static void ignore_empty(Index count, const double *restrict weights, const double *restrict x,
                         double *restrict out)
{
    for (Index k = 0; k < count; k++) out[k] = weights[k] != 0 ? x[k] : 1;
}

FOR_EACH_PROCESSOR
static void multiply_each(Index count, const double *restrict x, const double *restrict y, double *restrict out)
{
    for (Index k = 0; k < count; k++) out[k] = x[k] * y[k];
}

/* Have x be zero at most, where there is mass, and zero elsewhere; return what is taken from it. */
FOR_EACH_PROCESSOR
static double lower(Index count, const double *restrict weights, double *restrict x)
{
    for (Index k = 0; k < count; k++) x[k] = weights[k] != 0 ? x[k] : -INFINITY;
    double top = range_of(count, x).most;
    for (Index k = 0; k < count; k++) x[k] = weights[k] != 0 ? x[k] - top : 0;
    return top;
}

/* Take the measures and f less its highest value; put u, the products with it, and the best v for it into place.
   Tell whether these are right. */
static int take_start(Work *work, const double *a, const double *b, const double *f, double *top)
{
    const Kernel *kernel = work->kernel;
    Mass *source = &work->source, *target = &work->target;
    if (!take_box(kernel, a, source) || !take_box(kernel, b, target)) return 0;
    Index n = source->count, m = target->count;
    read_box(kernel, source, f, work->x);
    *top = lower(n, source->weights, work->x);
    exponentials(n, work->x, work->now.u);
    multiply_each(n, source->weights, work->now.u, source->given);
    aim(kernel, kernel->matrices, source, target);
    ignore_empty(m, target->weights, product_of_given(work, source), work->now.columns);
    for (Index k = 0; k < m; k++) work->now.v[k] = 1 / work->now.columns[k];
    multiply_each(m, target->weights, work->now.v, target->given);
    return isfinite(*top) && is_right(kernel, m, work->now.columns, n, work->now.u);
}

/* Put products with v into place, and on the whole grid what of the weights the marginal misses; tell whether they
   are right. */
static int tell_missing(Work *work, const double *sums, double *missing)
{
    const Mass *source = &work->source;
    const double *u = work->now.u, *weights = source->weights;
    ignore_empty(source->count, weights, sums, work->now.rows);
    for (Index k = 0; k < source->count; k++)
        work->residual[k] = weights[k] * (1 - u[k] * work->now.rows[k]);
    write_box(work->kernel, source, work->residual, missing);
    return is_right(work->kernel, source->count, work->now.rows, work->target.count, work->now.v);
}

/* Put top - log of sums into x. */
static void continue_by(Index count, const double *sums, double top, double *x)
{
    logarithms(count, sums, x);
    for (Index k = 0; k < count; k++) x[k] = top - x[k];
}

/* Make one step from f to the whole grid, or to the box around the mass and to zeros elsewhere; tell what of the
   weights the plan of f misses. The next f may take the place of f. */
int64_t one_step(Work *work, const double *a, const double *b, const double *f, int everywhere, double *following,
                 double *missing)
{
    const Kernel *kernel = work->kernel;
    const Mass *source = &work->source, *target = &work->target;
    double top;
    if (!take_start(work, a, b, f, &top)) return LOST;
    aim(kernel, kernel->transposed, &work->target, everywhere ? NULL : source);
    const double *sums = product_of_given(work, target);
    int right = 1;
    if (everywhere) {
        right = is_right(kernel, kernel->atoms, sums, target->count, work->now.v);
        continue_by(kernel->atoms, sums, top, following);
        read_box(kernel, source, sums, work->x);
        sums = work->x;
    } else {
        continue_by(source->count, sums, top, work->x);
        write_box(kernel, source, work->x, following);
    }
    return tell_missing(work, sums, missing) && right ? DONE : LOST;
}

/* Make half a step back to another grid: to the box around the mass there, and to zeros elsewhere. */
int64_t lift(Work *work, const Kernel *lifts, const double *a, const double *b, const double *f, const double *fine,
             double *lifted)
{
    Mass *source = &work->source, *target = &work->target;
    double top;
    if (!take_start(work, a, b, f, &top) || !take_box(lifts, fine, source)) return LOST;
    top += lifts->offset - work->kernel->offset;
    work->kernel = lifts;
    aim(lifts, lifts->transposed, target, source);
    ignore_empty(source->count, source->weights, product_of_given(work, target), work->now.rows);
    continue_by(source->count, work->now.rows, top, work->x);
    write_box(lifts, source, work->x, lifted);
    return is_right(lifts, source->count, work->now.rows, target->count, work->now.v) ? DONE : LOST;
}

/* Tell the dual value of f and of the best potential for it, and what of the weights their plan misses. */
int64_t dual_value(Work *work, const double *a, const double *b, const double *f, double *value, double *missing)
{
    const Kernel *kernel = work->kernel;
    const Mass *source = &work->source, *target = &work->target;
    double top;
    if (!take_start(work, a, b, f, &top)) return LOST;
    logarithms(target->count, work->now.columns, work->residual);
    *value = kernel->offset + inner_product(source->count, source->weights, work->x) -
             inner_product(target->count, target->weights, work->residual);
    aim(kernel, kernel->transposed, &work->target, source);
    return tell_missing(work, product_of_given(work, target), missing) ? DONE : LOST;
}
