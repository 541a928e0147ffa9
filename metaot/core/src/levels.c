/* Coarse to fine on a grid: each level is solved on some points of the next finer one, and only as far as that needs.

   A level has the nodes of its mesh as atoms, and their costs; weights of the finest grid are divided among them. Its
   potential g leads to f on the next level, which is the best one there for g on the nodes. */

#include "core.h"

#include <math.h>
#include <string.h>

static const double COARSEST = 0.01, RATIO = 4; /* the L1 error of the coarsest level, and how many times less each */
static const double NEAR = 0.01;                /* the L1 error of a start that is not left for that of the levels */
static const double SOLVED = 0.1;               /* that of a level from which the next one can start */
enum { MOST_COARSE_STEPS = 300 };

static Index entries_of(const Costs *costs)
{
    Index entries = 0;
    for (int k = 0; k < costs->axes; k++) entries += costs->rows[k] * costs->columns[k];
    return entries;
}

/* Let the costs of each axis be those between some rows and columns; equal ones stay one matrix. */
static void take_costs(Costs *part, const Costs *costs, const Mesh *rows, const Mesh *columns, int exchanged,
                       Arena *arena)
{
    *part = (Costs){.kind = AXES, .axes = costs->axes, .n = rows->count, .m = columns->count};
    for (int k = 0; k < costs->axes; k++) {
        Index n = part->rows[k] = rows->sizes[k], m = part->columns[k] = columns->sizes[k];
        int same = k > 0 && costs->axis[k] == costs->axis[k - 1] && n == part->rows[k - 1] && m == part->columns[k - 1];
        if (same) {
            part->axis[k] = part->axis[k - 1];
            continue;
        }
        double *matrix = take_numbers(arena, n * m);
        for (Index i = 0; i < n; i++)
            for (Index j = 0; j < m; j++) {
                Index row = rows->nodes[k] ? rows->nodes[k][i] : i, column = columns->nodes[k] ? columns->nodes[k][j] : j;
                matrix[i * m + j] = costs->axis[k][exchanged ? column * costs->columns[k] + row
                                                             : row * costs->columns[k] + column];
            }
        part->axis[k] = matrix;
    }
}

static int open_level(CoarseGrid *level, const Costs *costs, const Mesh *finest, const Mesh *finer, const Levels *levels,
                      const int64_t *strides)
{
    Index nodes = 1;
    for (int k = 0; k < finest->axes; k++) nodes *= count_nodes(finest->sizes[k], strides[k]);
    size_t bytes = mesh_bytes(finest, strides) + 4 * bytes_for(nodes) + bytes_for(finer->count);
    bytes += (size_t)(2 * costs->axes) * bytes_for(0) + 2 * sizeof(double) * (size_t)entries_of(costs);
    if (!open_arena(&level->memory, bytes)) return 0;
    open_mesh(&level->mesh, finest, strides, levels->coordinates, &level->memory);
    take_costs(&level->costs, costs, &level->mesh, &level->mesh, 0, &level->memory);
    take_costs(&level->lift, costs, &level->mesh, finer, 1, &level->memory);
    double **parts[] = {&level->a, &level->b, &level->f, &level->g};
    for (int k = 0; k < 4; k++) *parts[k] = take_numbers(&level->memory, nodes);
    level->start = take_numbers(&level->memory, finer->count);
    return 1;
}

/* Have the levels of these costs, which are kept for the next problem. */
static int open_levels(Hierarchy *self, const Costs *costs, const Levels *levels)
{
    if (self->levels == levels) return 1;
    close_levels(self);
    Mesh *finest = &self->finest;
    *finest = (Mesh){.axes = costs->axes, .count = costs->n};
    for (int k = 0; k < costs->axes; k++) finest->sizes[k] = costs->rows[k];
    for (; self->count < levels->count; self->count++) {
        const Mesh *finer = self->count ? &self->level[self->count - 1].mesh : finest;
        if (!open_level(&self->level[self->count], costs, finest, finer, levels,
                        levels->strides + self->count * costs->axes))
            return 0;
    }
    self->levels = levels;
    return 1;
}

static void close_workspace(Workspace *workspace)
{
    close_arena(&workspace->supports);
    close_arena(&workspace->work);
    close_arena(&workspace->kernels.memory);
}

void close_levels(Hierarchy *self)
{
    for (Index l = 0; l < MOST_LEVELS; l++) {
        close_workspace(&self->level[l].workspace);
        close_workspace(&self->level[l].lifting);
        close_arena(&self->level[l].memory);
    }
    close_arena(&self->correction.memory);
    close_arena(&self->scratch);
    memset(self, 0, sizeof *self);
}

/* Divide the weights among the nodes of each level, and take the start there. */
static int take_weights(Hierarchy *self, const Instance *instance)
{
    Index n = self->finest.count;
    if (!open_arena(&self->scratch, 2 * bytes_for(n))) return 0;
    double *scratch[] = {take_numbers(&self->scratch, n), take_numbers(&self->scratch, n)};
    const Mesh *finer = &self->finest;
    const double *a = instance->a, *b = instance->b;
    for (Index l = 0; l < self->count; l++) {
        CoarseGrid *level = &self->level[l];
        divide_among_nodes(finer, &level->mesh, a, scratch, level->a);
        divide_among_nodes(finer, &level->mesh, b, scratch, level->b);
        finer = &level->mesh;
        a = level->a;
        b = level->b;
    }
    close_arena(&self->scratch);
    return 1;
}

/* Put the potential of the finest grid at the nodes of a level into its f. */
static void take_start(const CoarseGrid *level, const Mesh *finest, const double *start)
{
    const Mesh *mesh = &level->mesh;
    for (Index node = 0; node < mesh->count; node++) {
        Index rest = node, atom = 0, stride = 1;
        for (int k = mesh->axes - 1; k >= 0; k--) {
            atom += stride * mesh->nodes[k][rest % mesh->sizes[k]];
            rest /= mesh->sizes[k];
            stride *= finest->sizes[k];
        }
        level->f[node] = start[atom];
    }
}

/* Put the f on the next finer level that is the best for g on this one into its start. */
static int lift(CoarseGrid *level, const Instance *instance, const double *finer_a)
{
    Outcome outcome;
    Instance across = {.costs = &level->lift, .a = level->b, .b = finer_a, .start = level->g, .eps = instance->eps,
                       .f = level->f, .g = level->start, .threads = instance->threads, .source_price = {EXACT_PRICE, INFINITY},
                       .target_price = {EXACT_PRICE, INFINITY}};
    if (!find_supports(&level->lifting, &level->lift, across.a, across.b, 0)) return 0;
    if (!level->lifting.source.count) return 0;
    int lifted = transform_by_axes(&level->lifting, &across, &outcome);
    close_arena(&level->lifting.supports);
    close_arena(&level->lifting.work);
    close_arena(&level->workspace.work);
    if (!lifted) return 0;
    if (instance->source_price.kind != EXACT_PRICE)
        for (Index i = 0; i < level->lift.m; i++)
            level->start[i] = instance->eps * best_of(instance->source_price, level->start[i] / instance->eps);
    return 1;
}

/* Prepare the correction for steps on level `l`: from two levels further down, or from the last one. */
static void take_correction(Hierarchy *self, const Instance *instance, Index l, Instance *finer)
{
    CoarseGrid *base = &self->level[l + 2 < self->count ? l + 2 : self->count - 1];
    finer->correction = NULL;
    finer->is_lifted = 1;
    if (instance->source_price.kind == TV_PRICE || instance->target_price.kind == TV_PRICE) return;
    Instance coarse = {.costs = &base->costs, .a = base->a, .b = base->b, .start = base->f, .eps = instance->eps,
                       .threads = instance->threads, .source_price = instance->source_price, .target_price = instance->target_price};
    if (!evaluate_by_axes(&base->workspace, &coarse, &base->op)) return;
    if (!open_correction(&self->correction, &base->op, &base->mesh, l < 0 ? &self->finest : &self->level[l].mesh, &self->finest)) return;
    finer->correction = &self->correction;
}

/* Solve the levels, the coarsest one first; return whether the start on the finest grid is worth taking. */
static int descend(Hierarchy *self, const Instance *instance, double tol)
{
    Outcome outcome;
    double error = COARSEST;
    for (Index l = self->count - 1; l >= 0; l--, error /= RATIO) {
        CoarseGrid *level = &self->level[l];
        int last = l == self->count - 1;
        Instance coarse = {.costs = &level->costs, .a = level->a, .b = level->b, .eps = instance->eps, .f = level->f,
                           .g = level->g, .threads = instance->threads, .source_price = instance->source_price,
                           .target_price = instance->target_price};
        int relaxed = instance->source_price.kind != EXACT_PRICE || instance->target_price.kind != EXACT_PRICE;
        if (last && instance->start) take_start(level, &self->finest, instance->start);
        coarse.start = last ? instance->start ? level->f : NULL : self->level[l + 1].start;
        if (!last) take_correction(self, instance, l, &coarse);
        if (!find_supports(&level->workspace, &level->costs, level->a, level->b, relaxed)) return 0;
        Limits limits = {error > tol ? error : tol, MOST_COARSE_STEPS, 1};
        if (!refine_by_sinkhorn(&level->workspace, &coarse, limits, (Steps){1, 0}, &outcome)) return 0;
        if (!(outcome.error <= SOLVED)) return 0;
        if (!lift(level, instance, l ? self->level[l - 1].a : instance->a)) return 0;
    }
    return 1;
}

/* Refine a start, or zeros, by way of the coarser levels. */
int refine_on_levels(Workspace *workspace, Hierarchy *self, const Instance *instance, Limits limits, const Levels *levels,
                     Outcome *outcome)
{
    Instance fine = *instance;
    double error = INFINITY;
    if (instance->start) {
        if (!error_of_start(workspace, instance, (Steps){1, 0}, &error)) return 0;
        if (error <= limits.tol) return refine_by_sinkhorn(workspace, instance, limits, (Steps){1, 0}, outcome);
    }
    if (open_levels(self, instance->costs, levels) && take_weights(self, instance) &&
        descend(self, instance, limits.tol / 2)) {
        if (!(error <= NEAR)) fine.start = self->level[0].start;
        take_correction(self, instance, -1, &fine);
    }
    return refine_by_sinkhorn(workspace, &fine, limits, (Steps){1, 0}, outcome);
}
