/* Coarse to fine between clouds: each stage has clusters of the atoms of the next finer one, and is solved only as far
   as that needs.

   A cluster is as many atoms as a power of two, near each other; its point is their mean by weight. Where clusters are
   wider than the plan, a stage has a higher temperature: its plan is as wide as they are (Schmitzer, SIAM J. Sci.
   Comput. 2019). The potential g of a stage leads to f on the next one, which is the best there for g on the clusters.
   Steps are corrected by the plan of a coarser stage: what is smooth in their error is the mean, under the plan, of
   what is found for the clusters. */

#include "core.h"

#include <math.h>
#include <string.h>

static const double COARSEST = 0.01, RATIO = 4; /* the L1 error of the coarsest stage, and how many times less each */
static const double NEAR = 0.01;                /* the L1 error of a start that is not left for that of the stages */
static const double SOLVED = 1;                /* that of a stage from which the next one can start */
static const double WIDTH = 3; /* the temperature over the mean cost from atoms to their clusters, at least */
static const double SMOOTH = 6; /* the same where the plan of clusters is nearly as smooth as that of the atoms */
static const double CORRECTED = 1e-3; /* the error from which on steps are corrected: what is left is smooth then */
static const double HOTTER = 8;      /* how many times that of the steps a correction's temperature may be */
static const double PREPARED = 1e-3; /* the error to which sums are right that only help */
enum { MOST_COARSE_STEPS = 300, FEWEST = 64 };

typedef struct {
    Index count;
    Stage stage[MOST_LEVELS];
    const Instance *finest;
    Index *places; /* of the finest source's atoms with mass, where clusters follow each other */
    Correction correction;
    BlockPlan plan;
    Costs across;
    Operator base, means; /* among the clusters of the correction; from the target's to the finer source */
    Workspace meaning;
    Arena orders;
} Stages;

typedef struct {
    Stages *stages;
    const Stage *base;
    const Index *places; /* of the finer source; NULL where it has clusters itself */
    Index stride;        /* of these */
    double scale;        /* the temperature of the clusters over that of the steps */
    double *sums, *weights, *target_roots, *values, *on_finer;
} OnClusters;

static Index cluster_of(const OnClusters *own, Index k)
{
    return (own->places ? own->places[k] : k * own->stride) / own->base->strides[0];
}

static void smooth_in_blocks(const Correction *self, const double *y, double *out)
{
    const OnClusters *own = self->own;
    columns_of_plan(&own->stages->plan, y, NULL);
    rows_of_plan(&own->stages->plan, out);
}

/* The mean of each cluster, times its share of the plan's mass. */
static void take_to_clusters(const Correction *self, const Support *source, const double *residual, double *sums)
{
    const OnClusters *own = self->own;
    Index clusters = own->base->sizes[0];
    memset(own->sums, 0, (size_t)clusters * sizeof *own->sums);
    memset(own->weights, 0, (size_t)clusters * sizeof *own->weights);
    for (Index i = 0; i < source->count; i++) {
        Index k = cluster_of(own, own->places ? i : source->atoms[i]);
        own->sums[k] += source->weights[i] * residual[i];
        own->weights[k] += source->weights[i];
    }
    const Support *coarse = self->op->source;
    for (Index i = 0; i < self->known; i++) {
        Index k = coarse->atoms[i];
        sums[i] = own->weights[k] > 0 ? own->sums[k] / own->weights[k] * self->roots[i] * self->roots[i] : 0;
    }
}

static void add_means(const Correction *self, const Support *source, const double *y, const double *smooth,
                      double *residual)
{
    const OnClusters *own = self->own;
    Stages *stages = own->stages;
    const Support *target = self->op->target;
    for (Index i = 0; i < self->known; i++) own->sums[i] = y[i] + smooth[i];
    columns_of_plan(&stages->plan, own->sums, own->values);
    for (Index j = 0; j < target->count; j++)
        own->values[j] *= own->target_roots[j] > 0 ? self->damping * own->scale / own->target_roots[j] : 0;
    means_on_clouds(&stages->means, own->values, own->on_finer);
    for (Index i = 0; i < source->count; i++)
        if (isfinite(own->on_finer[i])) residual[i] += own->on_finer[i];
}

static void close_workspace(Workspace *workspace)
{
    close_arena(&workspace->supports);
    close_arena(&workspace->work);
    close_arena(&workspace->kernels.memory);
}

static void close_stages(Stages *self)
{
    for (Index l = 0; l < self->count; l++) {
        close_workspace(&self->stage[l].workspace);
        close_workspace(&self->stage[l].lifting);
        close_arena(&self->stage[l].memory);
    }
    close_workspace(&self->meaning);
    close_arena(&self->plan.memory);
    close_arena(&self->correction.memory);
    close_arena(&self->orders);
}

/* The cost between two points. */
static double cost_between(PointCost cost, Index dim, const double *x, const double *y)
{
    double square = 0, other = 0;
    for (Index k = 0; k < dim; k++) {
        square += (x[k] - y[k]) * (x[k] - y[k]);
        other += (x[k] + y[k]) * (x[k] + y[k]);
    }
    if (cost == SPHERE) return 2 * atan2(sqrt(square), sqrt(other));
    return cost == EUCLIDEAN ? sqrt(square) : square;
}

/* Put the clusters of one side of the finest clouds into a stage; return the mean cost from atoms to their clusters. */
static double take_clusters(Stage *stage, int side, const Costs *costs, const Support *support, const Index *order)
{
    const double *points = side ? costs->y : costs->x;
    double *means = stage->points[side], *weights = stage->weights[side], spread = 0, mass = 0;
    Index dim = costs->dim, stride = stage->strides[side];
    memset(means, 0, (size_t)(stage->sizes[side] * dim) * sizeof *means);
    memset(weights, 0, (size_t)stage->sizes[side] * sizeof *weights);
    for (Index i = 0; i < support->count; i++) {
        Index cluster = i / stride;
        double weight = support->weights[order[i]];
        weights[cluster] += weight;
        for (Index k = 0; k < dim; k++) means[cluster * dim + k] += weight * points[support->atoms[order[i]] * dim + k];
    }
    for (Index c = 0; c < stage->sizes[side]; c++) {
        double *mean = means + c * dim, size = weights[c];
        if (costs->cost == SPHERE) size = sqrt(inner_product(dim, mean, mean));
        const double *first = points + support->atoms[order[c * stride]] * dim;
        for (Index k = 0; k < dim; k++) mean[k] = size > 0 ? mean[k] / size : first[k];
    }
    for (Index i = 0; i < support->count; i++) {
        double weight = support->weights[order[i]];
        const double *point = points + support->atoms[order[i]] * dim;
        spread += weight * cost_between(costs->cost, dim, point, means + i / stride * dim);
        mass += weight;
    }
    return spread / mass;
}

/* Order the atoms with mass of one side such that clusters follow each other. */
static void order_side(const double *points, Index dim, const Support *support, Index *order)
{
    Index n = support->count;
    memcpy(order, support->atoms, (size_t)n * sizeof *order);
    order_points(order, n, points, dim, 1);
    find_in_support(support, order);
}

static int open_stage(Stage *stage, const Costs *costs, const Index *strides, const Index *finer_sizes,
                      const double *finer, const Support *const *supports, Index *const *orders, double eps)
{
    Index dim = costs->dim, n, m;
    for (int side = 0; side < 2; side++) {
        stage->strides[side] = strides[side];
        stage->sizes[side] = (supports[side]->count + strides[side] - 1) / strides[side];
    }
    n = stage->sizes[0];
    m = stage->sizes[1];
    if (!open_arena(&stage->memory, bytes_for(n * dim) + bytes_for(m * dim) + 2 * bytes_for(n) + 2 * bytes_for(m) +
                                        bytes_for(finer_sizes[0])))
        return 0;
    double spread[2];
    for (int side = 0; side < 2; side++) {
        stage->points[side] = take_numbers(&stage->memory, stage->sizes[side] * dim);
        stage->weights[side] = take_numbers(&stage->memory, stage->sizes[side]);
        spread[side] = take_clusters(stage, side, costs, supports[side], orders[side]);
    }
    stage->f = take_numbers(&stage->memory, n);
    stage->g = take_numbers(&stage->memory, m);
    stage->start = take_numbers(&stage->memory, finer_sizes[0]);
    stage->spread = fmax(spread[0], spread[1]);
    stage->eps = fmax(eps, WIDTH * stage->spread);
    stage->costs = (Costs){.kind = CLOUDS, .n = n, .m = m, .x = stage->points[0], .y = stage->points[1], .dim = dim,
                           .cost = costs->cost};
    stage->lift = (Costs){.kind = CLOUDS, .n = m, .m = finer_sizes[0], .x = stage->points[1], .y = finer, .dim = dim,
                          .cost = costs->cost};
    return 1;
}

static int open_stages(Stages *self, const Workspace *workspace, const Instance *instance, const Levels *levels)
{
    const Costs *costs = instance->costs;
    const Support *supports[] = {&workspace->source, &workspace->target};
    const double *points[] = {costs->x, costs->y}, *finer = costs->x;
    Index *orders[2], sizes[] = {costs->n, costs->m}, n = supports[0]->count, m = supports[1]->count;
    if (!open_arena(&self->orders, 2 * bytes_for(n) + bytes_for(m))) return 0;
    for (int side = 0; side < 2; side++) {
        orders[side] = take_indices(&self->orders, supports[side]->count);
        order_side(points[side], costs->dim, supports[side], orders[side]);
    }
    self->places = take_indices(&self->orders, n);
    for (Index i = 0; i < n; i++) self->places[orders[0][i]] = i;
    self->finest = instance;
    while (self->count < levels->count) {
        Index strides[2];
        for (int side = 0; side < 2; side++) {
            strides[side] = levels->strides[self->count];
            while (strides[side] > 1 && supports[side]->count < FEWEST * strides[side]) strides[side] /= 2;
        }
        Stage *stage = &self->stage[self->count++];
        if (!open_stage(stage, costs, strides, sizes, finer, supports, orders, instance->eps)) return 0;
        memcpy(sizes, stage->sizes, sizeof sizes);
        finer = stage->points[0];
    }
    return 1;
}

/* A price in units of another temperature. */
static Price price_at(Price price, const Instance *finest, double eps)
{
    return (Price){price.kind, price.rho * finest->eps / eps};
}

/* Put the f on the next finer stage that is the best for g on this one into its start. */
static int lift(Stage *stage, const Instance *instance, const double *finer_weights)
{
    Instance across = {.costs = &stage->lift, .a = stage->weights[1], .b = finer_weights, .start = stage->g,
                       .eps = stage->eps, .g = stage->start, .threads = instance->threads,
                       .source_price = {EXACT_PRICE, INFINITY}, .target_price = {EXACT_PRICE, INFINITY}};
    int relaxed = instance->source_price.kind != EXACT_PRICE || instance->target_price.kind != EXACT_PRICE;
    if (!find_supports(&stage->lifting, &stage->lift, across.a, across.b, relaxed)) return 0;
    int lifted = lift_on_clouds(&stage->lifting, &across, PREPARED);
    close_workspace(&stage->lifting);
    Price price = price_at(instance->source_price, instance, stage->eps);
    for (Index i = 0; i < stage->lift.m; i++) stage->start[i] = stage->eps * best_of(price, stage->start[i] / stage->eps);
    return lifted;
}

/* Prepare the correction of steps on stage `l`, -1 for the clouds themselves: by a coarser stage of the same
   temperature, or one that is a little above it. What is smooth in an error is as many times smaller there. */
static void take_correction(Stages *self, Index l, double eps, double tol, Instance *finer)
{
    const Instance *finest = self->finest;
    const Price none = {EXACT_PRICE, INFINITY};
    Stage *base = NULL;
    finer->correction = NULL;
    finer->is_lifted = 1;
    for (Index k = l + 1; k <= l + 2 && k < self->count; k++) {
        Stage *stage = &self->stage[k];
        int is_smooth = stage->eps == eps && stage->eps >= SMOOTH * stage->spread;
        if (is_smooth || (!base && stage->eps <= HOTTER * eps)) base = stage;
    }
    if (!base || tol >= CORRECTED || finest->source_price.kind == TV_PRICE || finest->target_price.kind == TV_PRICE) return;
    Instance coarse = {.costs = &base->costs, .a = base->weights[0], .b = base->weights[1], .start = base->f,
                       .eps = base->eps, .threads = finest->threads, .source_price = price_at(finest->source_price, finest, base->eps),
                       .target_price = price_at(finest->target_price, finest, base->eps)};
    if (!evaluate_on_clouds(&base->workspace, &coarse, PREPARED, 1, &self->base)) return;
    self->across = (Costs){.kind = CLOUDS, .n = base->sizes[1], .m = finer->costs->n, .x = base->points[1],
                           .y = finer->costs->x, .dim = base->costs.dim, .cost = base->costs.cost};
    Instance across = {.costs = &self->across, .a = base->weights[1], .b = finer->a, .start = base->g, .eps = base->eps,
                       .threads = finest->threads, .source_price = none, .target_price = none};
    if (!find_supports(&self->meaning, &self->across, across.a, across.b, self->base.relaxed)) return;
    if (!evaluate_on_clouds(&self->meaning, &across, 1, 0, &self->means)) return;
    Correction *correction = &self->correction;
    Index n = self->base.source->count, m = self->base.target->count, clusters = base->sizes[0] + base->sizes[1];
    size_t bytes = bytes_for(sizeof(OnClusters)) + 4 * bytes_for(clusters) + bytes_for(finer->costs->n);
    if (!open_arena(&correction->memory, correction_bytes(n) + bytes)) return;
    begin_correction(correction, &self->base, n, &correction->memory);
    OnClusters *own = (OnClusters *)take_numbers(&correction->memory, sizeof(OnClusters));
    *own = (OnClusters){.stages = self, .base = base, .places = l < 0 ? self->places : NULL,
                        .scale = base->eps / eps, .stride = l < 0 ? 1 : self->stage[l].strides[0]};
    double **parts[] = {&own->sums, &own->weights, &own->target_roots, &own->values};
    for (int k = 0; k < 4; k++) *parts[k] = take_numbers(&correction->memory, k < 2 ? clusters : m);
    own->on_finer = take_numbers(&correction->memory, finer->costs->n);
    correction->own = own;
    correction->smooth = smooth_in_blocks;
    correction->take = take_to_clusters;
    correction->add = add_means;
    if (open_block_plan(&self->plan, &self->base, correction->roots, own->target_roots)) finer->correction = correction;
}

/* Solve the stages, the coarsest one first; return whether the start for the clouds themselves is worth taking. */
static int descend(Stages *self, const Instance *instance, double tol)
{
    Outcome outcome;
    double error = COARSEST;
    int relaxed = instance->source_price.kind != EXACT_PRICE || instance->target_price.kind != EXACT_PRICE;
    for (Index l = self->count - 1; l >= 0; l--, error /= RATIO) {
        Stage *stage = &self->stage[l];
        Instance coarse = {.costs = &stage->costs, .a = stage->weights[0], .b = stage->weights[1], .eps = stage->eps,
                           .f = stage->f, .g = stage->g, .threads = instance->threads, .only_helps = 1,
                           .source_price = price_at(instance->source_price, instance, stage->eps),
                           .target_price = price_at(instance->target_price, instance, stage->eps)};
        Limits limits = {error > tol ? error : tol, MOST_COARSE_STEPS, 1};
        if (l < self->count - 1) {
            coarse.start = self->stage[l + 1].start;
            take_correction(self, l, stage->eps, limits.tol, &coarse);
        }
        if (!find_supports(&stage->workspace, &stage->costs, coarse.a, coarse.b, relaxed)) return 0;
        if (!refine_by_sinkhorn(&stage->workspace, &coarse, limits, (Steps){0, 0}, &outcome)) return 0;
        if (!(outcome.error <= SOLVED)) return 0;
        if (!lift(stage, instance, l ? self->stage[l - 1].weights[0] : instance->a)) return 0;
    }
    return 1;
}

/* Refine a start, or zeros, by way of clusters of the atoms of both clouds. */
int refine_in_stages(Workspace *workspace, const Instance *instance, Limits limits, const Levels *levels,
                     Outcome *outcome)
{
    Instance fine = *instance;
    Stages stages = {0};
    double error = INFINITY;
    if (instance->start && !error_of_start(workspace, instance, (Steps){0, 0}, &error)) return 0;
    if (!(error <= NEAR) && open_stages(&stages, workspace, instance, levels) &&
        descend(&stages, instance, limits.tol / 2)) {
        fine.start = stages.stage[0].start;
        take_correction(&stages, -1, instance->eps, limits.tol, &fine);
    }
    int done = refine_by_sinkhorn(workspace, &fine, limits, (Steps){0, 0}, outcome);
    close_stages(&stages);
    return done;
}
