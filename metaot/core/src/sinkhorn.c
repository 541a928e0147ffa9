/* Sinkhorn's algorithm from a start, or from zeros where these are better, to potentials on all atoms. */

#include "core.h"

#include <math.h>
#include <string.h>

static const double GOOD = 0.01;     /* L1 error of a start up to which it is taken without comparison */
static const double GOOD_OF_PAIRS = 0.5; /* the same among many pairs, whose starts are alike, and from coarser grids */
static const double DOUBTFUL = 0.1;  /* L1 error above which it must beat two steps from zeros */
static const double HALVED = 0.5;    /* the part of the error that so many corrected steps may leave */
static const double GROWN = 2;       /* how many times larger one of them may make it */
static const double FARTHEST = 35;    /* the largest correction that counts as linear in the error */
enum { CORRECTED = 6 };
static const double ROUGH = 1e-4;    /* L1 error down to which sums may be rough */
static const double LARGEST = 1e8;   /* potentials beyond, in units of eps, leave too few digits for the cost */

typedef struct {
    Operator op;
    double *x, *residual, *g, *other_x, *other_residual;
    double mean; /* what was subtracted from the start */
    double level; /* what was added to the last point of a symmetric problem after it was evaluated */
    int symmetric; /* whether both sides are one measure, and share one potential; its operator knows no prices */
    Price price;   /* of the marginals of a symmetric problem */
    double *inside, raised; /* where potentials have bounds: the last point between them, after its level before was
                               added, and the level that is to be added to the next one; else NULL */
} Run;

/* Put x - g into ratio, and half of its negative, the way to the mean of x and g, into residual; return the mean of
   the latter under the weights. */
FOR_EACH_PROCESSOR
static double half_way(Index count, const double *restrict x, const double *restrict g, const double *restrict weights,
                       double *restrict ratio, double *restrict residual)
{
    for (Index i = 0; i < count; i++) {
        ratio[i] = x[i] - g[i];
        residual[i] = -0.5 * ratio[i];
    }
    return inner_product(count, weights, residual);
}

/* Evaluate a point where potentials have bounds: it is put between them, and the residual leads on from outside. */
static double evaluate_bounded(Run *run, const double *x, double *residual)
{
    Operator *op = &run->op;
    double before = run->raised;
    put_between_bounds(op, x, before, run->inside);
    double error = op->evaluate(op, run->inside, residual);
    for (Index i = 0; residual && i < op->source->count; i++) residual[i] += run->inside[i] - (x[i] + before);
    run->raised += op->level;
    return error;
}

/* Evaluate a point. Of a symmetric problem the step leads half of the way to the best potential, the error is that of
   both marginals, and x is shifted such that the plan has mass one, to first order. */
static double evaluate(Run *run, double *x, double *residual)
{
    Operator *op = &run->op;
    if (run->inside) return evaluate_bounded(run, x, residual);
    if (!run->symmetric) return op->evaluate(op, x, residual);
    Index n = op->source->count;
    if (isnan(op->evaluate(op, x, NULL))) return NAN;
    op->potential(op, run->g);
    if (run->price.kind != EXACT_PRICE)
        return price_half_way(run->price, op->source, x, run->g, run->other_x, residual);
    double level = half_way(n, x, run->g, op->source->weights, run->other_x, residual);
    for (Index i = 0; i < n; i++) {
        x[i] += level;
        residual[i] -= level;
        run->other_x[i] += 2 * level;
    }
    run->level = level; /* the operator still has the point before the shift */
    exponentials(n, run->other_x, run->other_x);
    return 2 * relative_l1_error(n, op->source->weights, run->other_x);
}

/* The dual value of the point that was evaluated last, and the best g for it. */
static double dual_value(Run *run, const double *x)
{
    if (run->op.relaxed) return priced_value(&run->op, run->inside ? run->inside : x);
    run->op.potential(&run->op, run->g);
    return inner_product(run->op.source->count, run->op.source->weights, x) +
           inner_product(run->op.target->count, run->op.target->weights, run->g);
}

/* The dual value of the best g for the last point, and the best f for that: the residual leads there. */
static double next_value(Run *run)
{
    return dual_value(run, run->x) + inner_product(run->op.source->count, run->op.source->weights, run->residual);
}

/* Return whether a start with this error and dual value is better than zeros: a higher value than theirs, and if it
   is doubtful a higher one than after two steps from them and half of the error of one. */
static int is_better_than_zeros(Run *run, double error, double value)
{
    Operator *op = &run->op;
    Index n = op->source->count;
    double *x = run->other_x, *residual = run->other_residual;
    memset(x, 0, (size_t)n * sizeof *x);
    run->raised = 0;
    evaluate(run, x, error <= DOUBTFUL ? NULL : residual);
    if (!(value >= dual_value(run, x))) return 0;
    if (error <= DOUBTFUL) return 1;
    plain_step(n, x, residual);
    double rival = evaluate(run, x, residual);
    double second = dual_value(run, x) + (op->relaxed ? 0 : inner_product(n, op->source->weights, residual));
    return value >= second && error <= 0.5 * rival;
}

/* Take the start, in units of eps and without the constant that means nothing; return whether it is of a size that
   leaves digits for the cost. */
static int take_start(Run *run, const Instance *instance)
{
    const Support *source = run->op.source;
    if (!instance->start) return 0;
    for (Index i = 0; i < source->count; i++) run->x[i] = instance->start[source->atoms[i]] / instance->eps;
    int level_counts = run->op.relaxed || run->price.kind != EXACT_PRICE;
    run->mean = level_counts ? 0 : inner_product(source->count, source->weights, run->x);
    for (Index i = 0; i < source->count; i++) run->x[i] -= run->mean;
    if (run->symmetric) bound_point(run->price, source->count, run->x);
    return largest_size(source->count, run->x) <= LARGEST;
}

/* Evaluate the start, or zeros where these are better; return the error. Where a step follows, the last point that was
   evaluated may be another one. */
static double begin(Run *run, const Instance *instance, Limits limits)
{
    if (take_start(run, instance)) {
        double error = evaluate(run, run->x, run->residual), raised = run->raised;
        if (error <= (instance->value || instance->is_lifted ? GOOD_OF_PAIRS : GOOD)) return error;
        if (error < INFINITY && is_better_than_zeros(run, error, dual_value(run, run->x))) {
            run->raised = raised;
            return error > limits.tol && limits.max_steps > 0 ? error : evaluate(run, run->x, run->residual);
        }
    }
    memset(run->x, 0, (size_t)run->op.source->count * sizeof(double));
    run->raised = 0;
    return evaluate(run, run->x, run->residual);
}

/* The same for a symmetric problem: a start that is far must be no worse than a step from zeros. */
static double begin_symmetric(Run *run, const Instance *instance)
{
    Index n = run->op.source->count;
    double error = take_start(run, instance) ? evaluate(run, run->x, run->residual) : NAN;
    if (error <= DOUBTFUL) return error;
    double *x = run->other_residual;
    memset(x, 0, (size_t)n * sizeof *x);
    if (isnan(error)) {
        memcpy(run->x, x, (size_t)n * sizeof *x);
        return evaluate(run, run->x, run->residual);
    }
    evaluate(run, x, run->residual);
    plain_step(n, x, run->residual);
    if (!(evaluate(run, x, run->residual) >= error)) memcpy(run->x, x, (size_t)n * sizeof *x);
    return evaluate(run, run->x, run->residual);
}

/* Sums have all digits from here on: evaluate the point again. */
static double evaluate_exactly(Run *run)
{
    run->op.rough = 0;
    return evaluate(run, run->x, run->residual);
}

/* Correct the residual; return whether the correction is small enough, else leave the residual as it is. */
static int correct_residual(Run *run, Correction *correction)
{
    Index n = run->op.source->count;
    double *plain = run->other_residual;
    int small = 1;
    memcpy(plain, run->residual, (size_t)n * sizeof *plain);
    correct(correction, run->op.source, run->residual);
    for (Index i = 0; i < n; i++) small &= fabs(run->residual[i] - plain[i]) <= FARTHEST;
    if (!small) memcpy(run->residual, plain, (size_t)n * sizeof *plain);
    return small;
}

static Outcome iterate(Run *run, const Instance *instance, Limits limits, Path *path)
{
    Outcome outcome = {run->symmetric ? begin_symmetric(run, instance) : begin(run, instance, limits), 0};
    int lost = isnan(outcome.error) ? 2 : 0; /* points in a row that left floating point */
    Index n = run->op.source->count;
    Correction *correction = instance->correction;
    double mark = outcome.error;
    start_path(path, n, run->op.source->weights);
    if (correction) path->beyond = 1;
    for (;;) {
        int ends = outcome.error <= limits.tol || outcome.steps >= limits.max_steps || lost >= 2;
        if (run->op.rough && !instance->only_helps && (ends || outcome.error <= ROUGH)) {
            outcome.error = evaluate_exactly(run);
            continue;
        }
        if (ends) break;
        int looks = outcome.steps % CORRECTED == 0;
        if (correction && outcome.steps > 0 && !(outcome.error <= (looks ? HALVED : GROWN) * mark)) {
            correction = NULL;
            start_path(path, n, run->op.source->weights);
            if (!(outcome.error <= mark)) { /* back to where it began to lead astray */
                memcpy(run->x, run->other_x, (size_t)n * sizeof(double));
                outcome.error = evaluate(run, run->x, run->residual);
            }
        }
        if (correction && looks) {
            mark = outcome.error;
            memcpy(run->other_x, run->x, (size_t)n * sizeof(double));
        }
        if (correction && !correct_residual(run, correction)) {
            correction = NULL;
            start_path(path, n, run->op.source->weights);
        }
        if (limits.accelerated)
            next_point(path, run->x, run->residual, outcome.error);
        else
            plain_step(n, run->x, run->residual);
        if (run->symmetric) bound_point(run->price, n, run->x);
        outcome.error = evaluate(run, run->x, run->residual);
        outcome.steps++;
        lost = isnan(outcome.error) ? lost + 1 : 0;
    }
    return outcome;
}

void open_path(Path *path, Arena *arena, Index n)
{
    double **parts[] = {&path->roots, &path->target, &path->missing, &path->last_target, &path->last_missing,
                        &path->nearest};
    for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) *parts[k] = take_numbers(arena, n);
    path->moves = take_numbers(arena, MEMORY * n);
    path->changes = take_numbers(arena, MEMORY * n);
}

typedef enum { BOXES, AXES_EVERYWHERE, WHOLE_MATRIX, HALF_MATRIX, CLOUD_BLOCKS } Layout;

/* Choose how products are made: clouds of which no matrix fits into a cache make theirs anew each time. */
static Layout layout_of(const Workspace *workspace, const Instance *instance, Steps method)
{
    if (method.by_axes) return BOXES;
    Index entries = workspace->source.count * workspace->target.count;
    if (instance->costs->kind == CLOUDS && entries > LARGEST_MATRIX) return CLOUD_BLOCKS;
    return method.symmetric ? HALF_MATRIX : WHOLE_MATRIX;
}

/* Open the operator between the atoms with mass. */
static int open_run(Run *run, Workspace *workspace, const Instance *instance, Layout layout, int symmetric, double tol,
                    Index paths)
{
    const Costs *costs = instance->costs;
    Index n = workspace->source.count, m = workspace->target.count;
    size_t bytes = 5 * bytes_for(n) + bytes_for(m) + (size_t)paths * bytes_for(n) +
                   (layout == CLOUD_BLOCKS ? clouds_bytes(costs, n, m)
                    : layout == WHOLE_MATRIX ? matrix_bytes(costs, n, m)
                    : layout == HALF_MATRIX ? halves_bytes(costs, n) : grid_bytes(costs));
    int relaxed = !symmetric && (instance->source_price.kind != EXACT_PRICE || instance->target_price.kind != EXACT_PRICE);
    if (relaxed) bytes += prices_bytes(n, m);
    if (!open_arena(&workspace->work, bytes)) return 0;
    run->symmetric = symmetric;
    run->price = instance->source_price;
    run->level = 0;
    run->op = (Operator){.costs = costs, .inverse_eps = 1 / instance->eps, .source = &workspace->source,
                         .target = &workspace->target, .a = instance->a, .b = instance->b, .tol = tol,
                         .rough = layout == CLOUD_BLOCKS && tol >= ROUGH, .threads = instance->threads, .relaxed = relaxed,
                         .source_price = instance->source_price, .target_price = instance->target_price};
    if (relaxed) open_prices(&run->op, &workspace->work);
    double **parts[] = {&run->x, &run->residual, &run->other_x, &run->other_residual};
    for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) *parts[k] = take_numbers(&workspace->work, n);
    run->g = take_numbers(&workspace->work, m);
    run->raised = 0;
    run->inside = relaxed && has_bounds(&run->op) ? take_numbers(&workspace->work, n) : NULL;
    if (layout == BOXES || layout == AXES_EVERYWHERE)
        return open_grid(&run->op, workspace, layout == AXES_EVERYWHERE, NULL);
    take_logs(&workspace->source);
    take_logs(&workspace->target);
    if (layout == CLOUD_BLOCKS)
        open_clouds(&run->op, &workspace->work);
    else if (layout == HALF_MATRIX)
        open_halves(&run->op, &workspace->work);
    else
        open_matrix(&run->op, &workspace->work);
    return 1;
}

/* Multiply a potential by eps; on atoms that reach no mass at a finite cost it becomes zero. */
FOR_EACH_PROCESSOR
static void to_units_of_cost(Index count, double eps, double *x)
{
    for (Index k = 0; k < count; k++) x[k] = isfinite(x[k]) ? x[k] * eps : 0;
}

static void shift(Index count, double by, double *x)
{
    for (Index k = 0; k < count; k++) x[k] += by;
}

/* Bring potentials to the units of the cost; without a plan they are zeros, and the error is infinite. */
void finish_potentials(const Instance *instance, Outcome *outcome)
{
    Index n = instance->costs->n, m = instance->costs->m;
    if (isfinite(outcome->error)) {
        to_units_of_cost(n, instance->eps, instance->f);
        to_units_of_cost(m, instance->eps, instance->g);
        return;
    }
    memset(instance->f, 0, (size_t)n * sizeof(double));
    memset(instance->g, 0, (size_t)m * sizeof(double));
    outcome->error = INFINITY;
}

static int extend(Run *run, const Instance *instance)
{
    const Operator *op = &run->op; /* both sides of a symmetric problem have one potential: g */
    double *f = run->symmetric && !op->source->leaves_mass ? NULL : instance->f;
    return op->extend(&run->op, run->inside ? run->inside : run->x, f, instance->g);
}

/* Put the point into f and its best potential into g; on atoms without mass into both. */
static int extend_symmetric(Run *run, const Instance *instance)
{
    const Support *source = run->op.source;
    shift(source->count, -run->level, run->x);
    if (!extend(run, instance)) return 0;
    shift(instance->costs->m, -run->level, instance->g);
    if (run->price.kind != EXACT_PRICE)
        for (Index i = 0; i < instance->costs->m; i++) instance->g[i] = best_of(run->price, instance->g[i]);
    memcpy(instance->f, instance->g, (size_t)instance->costs->n * sizeof(double));
    for (Index i = 0; i < source->count; i++) instance->f[source->atoms[i]] = run->x[i] + run->level;
    return 1;
}

/* Put the value into place; and potentials of atoms with mass, if they are wanted, among zeros. */
static void put_value(Run *run, const Instance *instance, double error)
{
    const Support *source = run->op.source, *target = run->op.target;
    int found = isfinite(error);
    *instance->value = found ? instance->eps * next_value(run) : INFINITY;
    if (!instance->f || !instance->g) return;
    memset(instance->f, 0, (size_t)instance->costs->n * sizeof(double));
    memset(instance->g, 0, (size_t)instance->costs->m * sizeof(double));
    for (Index i = 0; found && i < source->count; i++) instance->f[source->atoms[i]] = instance->eps * run->x[i];
    for (Index j = 0; found && j < target->count; j++) instance->g[target->atoms[j]] = instance->eps * run->g[j];
}

int refine_by_sinkhorn(Workspace *workspace, const Instance *instance, Limits limits, Steps method, Outcome *outcome)
{
    Run run;
    Path path;
    Layout layout = layout_of(workspace, instance, method);
    if (!open_run(&run, workspace, instance, layout, method.symmetric, limits.tol, 6 + 2 * MEMORY)) return 0;
    open_path(&path, &workspace->work, workspace->source.count);
    run.op.rough = layout == CLOUD_BLOCKS;
    *outcome = iterate(&run, instance, limits, &path);
    if (instance->value) {
        put_value(&run, instance, outcome->error);
        return 1;
    }
    int done = !isfinite(outcome->error) || (run.symmetric ? extend_symmetric : extend)(&run, instance);
    finish_potentials(instance, outcome);
    return done;
}

/* Evaluate the start on the axes of a grid; return whether there is one, and enough memory. */
int evaluate_by_axes(Workspace *workspace, const Instance *instance, Operator *op)
{
    Run run;
    if (!open_run(&run, workspace, instance, BOXES, 0, 0, 0)) return 0;
    int taken = take_start(&run, instance) && isfinite(run.op.evaluate(&run.op, run.x, run.residual));
    *op = run.op;
    return taken;
}

/* Put the error of the start into place, infinity if it is none. */
int error_of_start(Workspace *workspace, const Instance *instance, Steps method, double *error)
{
    Run run;
    if (!open_run(&run, workspace, instance, layout_of(workspace, instance, method), 0, 0, 0)) return 0;
    *error = take_start(&run, instance) ? run.op.evaluate(&run.op, run.x, run.residual) : INFINITY;
    if (isnan(*error)) *error = INFINITY;
    return 1;
}

/* Put the f after one Sinkhorn step from the start into f, a - P 1 of its plan into g, which is of the source, and the
   dual value in the place of the error. */
int step_by_axes(Workspace *workspace, const Instance *instance, Outcome *outcome)
{
    Run run;
    if (!open_run(&run, workspace, instance, AXES_EVERYWHERE, 0, 0, 0)) return 0;
    outcome->steps = 1;
    outcome->error = take_start(&run, instance) ? run.op.evaluate(&run.op, run.x, run.residual) : NAN;
    if (isfinite(outcome->error)) {
        outcome->error = instance->eps * dual_value(&run, run.x);
        step_on_grid(&run.op, run.residual, run.x, instance->f, instance->g);
        shift(instance->costs->n, run.mean, instance->f);
        to_units_of_cost(instance->costs->n, instance->eps, instance->f);
    } else {
        memset(instance->f, 0, (size_t)instance->costs->n * sizeof(double));
        memcpy(instance->g, instance->a, (size_t)instance->costs->n * sizeof(double));
    }
    return 1;
}

/* Put the best g for the start on all target atoms into g. */
int transform_by_axes(Workspace *workspace, const Instance *instance, Outcome *outcome)
{
    Run run;
    if (!open_run(&run, workspace, instance, BOXES, 0, 0, 0)) return 0;
    outcome->steps = 0;
    outcome->error = 0;
    if (take_start(&run, instance))
        transform_on_grid(&run.op, run.x, instance->g);
    else
        for (Index j = 0; j < instance->costs->m; j++) instance->g[j] = NAN;
    shift(instance->costs->m, -run.mean, instance->g);
    to_units_of_cost(instance->costs->m, instance->eps, instance->g);
    return 1;
}

/* Evaluate the start between two clouds, whatever their size; only the best g for it unless `both`. */
int evaluate_on_clouds(Workspace *workspace, const Instance *instance, double tol, int both, Operator *op)
{
    Run run;
    if (!open_run(&run, workspace, instance, CLOUD_BLOCKS, 0, tol, 0)) return 0;
    int taken = take_start(&run, instance) && isfinite(run.op.evaluate(&run.op, run.x, both ? run.residual : NULL));
    *op = run.op;
    return taken;
}

/* Put the best g for the start into g, on the target's atoms with mass; zeros elsewhere. */
int lift_on_clouds(Workspace *workspace, const Instance *instance, double tol)
{
    Run run;
    const Support *target = &workspace->target;
    if (!open_run(&run, workspace, instance, CLOUD_BLOCKS, 0, tol, 0)) return 0;
    if (!take_start(&run, instance) || !isfinite(run.op.evaluate(&run.op, run.x, NULL))) return 0;
    run.op.potential(&run.op, run.g);
    memset(instance->g, 0, (size_t)instance->costs->m * sizeof(double));
    for (Index j = 0; j < target->count; j++) instance->g[target->atoms[j]] = instance->eps * (run.g[j] - run.mean);
    return 1;
}

/* Put potentials on all atoms of a grid, where Newton has put those of the atoms with mass. */
int extend_along_axes(Workspace *workspace, const Instance *instance, Outcome *outcome)
{
    Run run;
    const Support *source = &workspace->source, *target = &workspace->target;
    const Costs *costs = instance->costs;
    double eps = instance->eps;
    int all = source->count == costs->n && target->count == costs->m;
    if (costs->kind != AXES || all || !isfinite(outcome->error)) return 1;
    if (!open_run(&run, workspace, instance, BOXES, 0, 0, 0)) return 0;
    for (Index i = 0; i < source->count; i++) run.x[i] = instance->f[source->atoms[i]] / eps;
    for (Index j = 0; j < target->count; j++) run.g[j] = instance->g[target->atoms[j]] / eps;
    run.op.evaluate(&run.op, run.x, run.residual);
    int done = run.op.extend(&run.op, run.x, instance->f, instance->g);
    for (Index j = 0; j < target->count; j++) instance->g[target->atoms[j]] = run.g[j];
    finish_potentials(instance, outcome);
    return done;
}
