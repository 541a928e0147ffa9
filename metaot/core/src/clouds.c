/* The kernel between two clouds, made anew by each product: in blocks of atoms that are near each other.

   Blocks too far apart to add anything to a sum are left out: what is lost in all of them together is far below the
   error that is wanted. How large a sum is at least is known from the last point, since no sum changes by more than
   the potentials do. */

#include "core.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { BLOCK = 32, FEW = 16, GROUP = 32, NEAREST = 2 };

static const double TRUSTED = 200; /* how far potentials may move before the sums are bounded anew */

typedef struct {
    const Support *support;
    Index n, blocks, groups, dim;
    Index *order;          /* the atoms of the support, block by block */
    double *coordinates;   /* dim n, in this order */
    double *low, *high;    /* the bounding boxes of blocks, and then of groups of them: (blocks + groups) dim */
    double *h;             /* potential + log weights, in this order */
    double *potential;     /* the potential, and the logarithms of sums: the other one is minus these */
    double *sums, *bounds; /* bounds: what sums are relative to, from below */
    double *tops;          /* the largest h of each block, and then of each group */
} Side;

typedef struct {
    Side source, target;
    int known, known_of_source; /* whether sums of a point before are known, over the source and over the target */
    double margin;
    double *moved;
} Clouds;

typedef struct {
    const Operator *op;
    const Clouds *clouds;
    const Side *from;
    Side *to;
    int tops_only;
    const double *values; /* what each term is multiplied by, or NULL */
    double *sums;
    Index next;
} Pass;

static void swap_atoms(Index *order, Index i, Index j)
{
    Index other = order[i];
    order[i] = order[j];
    order[j] = other;
}

/* Bring the `half` smallest along an axis to the front (quickselect). */
static void split(Index *order, Index count, const double *points, Index dim, Index axis, Index half)
{
    Index low = 0, high = count - 1;
    while (low < high) {
        double pivot = points[order[(low + high) / 2] * dim + axis];
        Index i = low, j = high;
        while (i <= j) {
            while (points[order[i] * dim + axis] < pivot) i++;
            while (points[order[j] * dim + axis] > pivot) j--;
            if (i <= j) swap_atoms(order, i++, j--);
        }
        if (half <= j)
            high = j;
        else if (half >= i)
            low = i;
        else
            return;
    }
}

/* Order atoms such that as many as any power of two from `least` on, in a row from a multiple of it, are near each
   other: two parts along the widest axis, and so on. */
void order_points(Index *order, Index count, const double *points, Index dim, Index least)
{
    if (count <= least) return;
    Index axis = 0, unit = least;
    while (4 * unit <= count) unit *= 2;
    Index half = (count + unit) / (2 * unit) * unit;
    double widest = -1;
    for (Index k = 0; k < dim; k++) {
        double low = INFINITY, high = -INFINITY;
        for (Index i = 0; i < count; i++) {
            double at = points[order[i] * dim + k];
            low = at < low ? at : low;
            high = at > high ? at : high;
        }
        if (high - low > widest) widest = high - low, axis = k;
    }
    split(order, count, points, dim, axis, half);
    order_points(order, half, points, dim, least);
    order_points(order + half, count - half, points, dim, least);
}

/* Let the box `to` hold that of `from` too. */
static void widen(Side *side, Index to, Index from)
{
    for (Index k = 0; k < side->dim; k++) {
        double *low = side->low + to * side->dim + k, *high = side->high + to * side->dim + k;
        *low = fmin(*low, side->low[from * side->dim + k]);
        *high = fmax(*high, side->high[from * side->dim + k]);
    }
}

/* Replace atoms by their places in the support. */
void find_in_support(const Support *support, Index *order)
{
    for (Index i = 0; i < support->count; i++) {
        Index low = 0, high = support->count - 1, atom = order[i];
        while (low < high) {
            Index middle = (low + high) / 2;
            if (support->atoms[middle] < atom)
                low = middle + 1;
            else
                high = middle;
        }
        order[i] = low;
    }
}

static void open_side(Side *side, Arena *arena, const Support *support, const double *points, Index dim)
{
    Index n = support->count, blocks = (n + BLOCK - 1) / BLOCK, groups = (blocks + GROUP - 1) / GROUP;
    *side = (Side){.support = support, .n = n, .blocks = blocks, .groups = groups, .dim = dim};
    side->order = take_indices(arena, n);
    side->coordinates = take_numbers(arena, n * dim);
    side->low = take_numbers(arena, (blocks + groups) * dim);
    side->high = take_numbers(arena, (blocks + groups) * dim);
    side->tops = take_numbers(arena, blocks + groups);
    double **parts[] = {&side->h, &side->potential, &side->sums, &side->bounds};
    for (size_t k = 0; k < sizeof parts / sizeof *parts; k++) *parts[k] = take_numbers(arena, n);
    memcpy(side->order, support->atoms, (size_t)n * sizeof *side->order);
    order_points(side->order, n, points, dim, BLOCK);
    for (Index b = 0; b < blocks; b++)
        for (Index k = 0; k < dim; k++) {
            double least = INFINITY, most = -INFINITY;
            for (Index i = b * BLOCK; i < n && i < (b + 1) * BLOCK; i++) {
                double at = points[side->order[i] * dim + k];
                side->coordinates[k * n + i] = at;
                least = at < least ? at : least;
                most = at > most ? at : most;
            }
            side->low[b * dim + k] = least;
            side->high[b * dim + k] = most;
        }
    for (Index k = 0; k < groups * dim; k++) {
        side->low[blocks * dim + k] = INFINITY;
        side->high[blocks * dim + k] = -INFINITY;
    }
    for (Index b = 0; b < blocks; b++) widen(side, blocks + b / GROUP, b);
    find_in_support(support, side->order);
}

/* The least cost, in units of eps, of points whose squared distance is no less. An angle is no less than its chord,
   but for the lengths of the vectors: they are one to 1e-4. */
static double least_of_square(const Operator *op, double square)
{
    if (op->costs->cost == SQEUCLIDEAN) return square * op->inverse_eps;
    return sqrt(square) * (op->costs->cost == SPHERE ? 1 - 2e-4 : 1 - 1e-12) * op->inverse_eps;
}

/* The least cost, in units of eps, between two bounding boxes. */
static double least_cost(const Operator *op, const Side *from, Index I, const Side *to, Index J)
{
    double square = 0;
    for (Index k = 0; k < from->dim; k++) {
        double gap = from->low[I * from->dim + k] - to->high[J * to->dim + k];
        double other = to->low[J * to->dim + k] - from->high[I * from->dim + k];
        gap = gap > other ? gap : other;
        if (gap > 0) square += gap * gap;
    }
    return least_of_square(op, square);
}

FOR_EACH_PROCESSOR
static void squares(Index dim, Index n, Index stride, const double *restrict x, Index x_stride, double sign,
                    const double *restrict y, double *restrict out)
{
    if (n == BLOCK) { /* whole blocks, in registers */
        double sums[BLOCK] = {0};
        for (Index k = 0; k < dim; k++)
            for (int j = 0; j < BLOCK; j++) {
                double difference = sign * x[k * x_stride] - y[k * stride + j];
                sums[j] += difference * difference;
            }
        memcpy(out, sums, sizeof sums);
        return;
    }
    for (Index j = 0; j < n; j++) out[j] = 0;
    for (Index k = 0; k < dim; k++) {
        double at = sign * x[k * x_stride];
        for (Index j = 0; j < n; j++) {
            double difference = at - y[k * stride + j];
            out[j] += difference * difference;
        }
    }
}

/* Put the costs in units of eps between one atom and a block into out. */
static void block_costs(const Operator *op, const Side *from, Index i, const Side *to, Index first, Index n,
                        double *out)
{
    const double *x = from->coordinates + i, *y = to->coordinates + first;
    squares(to->dim, n, to->n, x, from->n, 1, y, out);
    if (op->costs->cost == SQEUCLIDEAN) {
        for (Index j = 0; j < n; j++) out[j] *= op->inverse_eps;
    } else if (op->costs->cost == EUCLIDEAN) {
        for (Index j = 0; j < n; j++) out[j] = op->inverse_eps * sqrt(out[j]);
    } else {
        double far[BLOCK], slopes[BLOCK];
        squares(to->dim, n, to->n, x, from->n, -1, y, far);
        for (Index j = 0; j < n; j++) slopes[j] = out[j] <= far[j] ? sqrt(out[j] / far[j]) : sqrt(far[j] / out[j]);
        arctangents(n, slopes, slopes);
        for (Index j = 0; j < n; j++)
            out[j] = 2 * op->inverse_eps * (out[j] <= far[j] ? slopes[j] : 1.57079632679489661923 - slopes[j]);
    }
}

/* Put h - costs - bounds into costs; return the largest of them. */
FOR_EACH_PROCESSOR
static double relative_exponents(Index n, double h, const double *restrict bounds, double *restrict costs)
{
    double most[LANES] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY};
    Index j = 0;
    for (; j + LANES <= n; j += LANES)
        for (int k = 0; k < LANES; k++) {
            double exponent = h - costs[j + k] - bounds[j + k];
            costs[j + k] = exponent;
            most[k] = exponent > most[k] ? exponent : most[k];
        }
    for (; j < n; j++) {
        costs[j] = h - costs[j] - bounds[j];
        most[0] = costs[j] > most[0] ? costs[j] : most[0];
    }
    for (int k = 1; k < LANES; k++) most[0] = most[k] > most[0] ? most[k] : most[0];
    return most[0];
}

/* The same for squared distances between an atom and a whole block. */
FOR_EACH_PROCESSOR
static double squared_exponents(Index dim, const double *restrict x, Index x_stride, const double *restrict y,
                                Index y_stride, double inverse_eps, double h, const double *restrict bounds,
                                double *restrict out)
{
    double sums[BLOCK] = {0}, tops[LANES];
    for (Index k = 0; k < dim; k++)
        for (int j = 0; j < BLOCK; j++) {
            double difference = x[k * x_stride] - y[k * y_stride + j];
            sums[j] += difference * difference;
        }
    for (int j = 0; j < BLOCK; j++) out[j] = sums[j] = (h - bounds[j]) - sums[j] * inverse_eps;
    for (int s = 0; s < LANES; s++) tops[s] = sums[s];
    for (int j = LANES; j < BLOCK; j += LANES)
        for (int s = 0; s < LANES; s++) tops[s] = sums[j + s] > tops[s] ? sums[j + s] : tops[s];
    for (int s = 1; s < LANES; s++) tops[0] = tops[s] > tops[0] ? tops[s] : tops[0];
    return tops[0];
}

/* The least cost, in units of eps, between an atom and a bounding box. */
static double least_cost_of(const Operator *op, const Side *from, Index i, const Side *to, Index J)
{
    double square = 0;
    for (Index k = 0; k < from->dim; k++) {
        double at = from->coordinates[k * from->n + i];
        double below = to->low[J * to->dim + k] - at, above = at - to->high[J * to->dim + k];
        double gap = below > above ? below : above;
        square += gap > 0 ? gap * gap : 0;
    }
    return least_of_square(op, square);
}

/* Raise the bounds of a block to the largest terms of its sums. */
static void raise_bounds(const Operator *op, const Side *from, Index I, const Side *to, Index first, Index n,
                         double *bounds)
{
    double costs[BLOCK + LANES], least = range_of(n, bounds).least;
    for (Index i = I * BLOCK; i < from->n && i < (I + 1) * BLOCK; i++) {
        if (from->h[i] - least_cost_of(op, from, i, to, first / BLOCK) < least) continue;
        block_costs(op, from, i, to, first, n, costs);
        raise_tops(n, from->h[i], costs, bounds);
    }
}

/* Add up to FEW rows of terms to sums, from their exponents. */
static void add_rows(Index rows, Index n, const double *values, double *terms, double *sums)
{
    exponentials(rows * n, terms, terms);
    for (Index k = 0; k < rows; k++) subtract_multiple(n, -values[k], terms + k * n, sums);
}

/* Add the terms of one block to the sums of another, relative to their bounds, `least` of which is the lowest. Atoms
   none of whose terms counts are left out. */
static void add_block(const Pass *pass, Index I, Index J, double least, const double *bounds, double *sums)
{
    const Operator *op = pass->op;
    const Side *from = pass->from, *to = pass->to;
    double terms[FEW * BLOCK + 2 * LANES], values[FEW], margin = pass->clouds->margin;
    Index first = J * BLOCK, n = to->n - first < BLOCK ? to->n - first : BLOCK, rows = 0;
    Index last = from->n < (I + 1) * BLOCK ? from->n : (I + 1) * BLOCK;
    for (Index i = I * BLOCK; i < last; i++) {
        if (from->h[i] - least_cost_of(op, from, i, to, J) < least - margin) continue;
        double *row = terms + rows * n, most;
        if (op->costs->cost == SQEUCLIDEAN && n == BLOCK) {
            most = squared_exponents(to->dim, from->coordinates + i, from->n, to->coordinates + first, to->n,
                                     op->inverse_eps, from->h[i], bounds, row);
        } else {
            block_costs(op, from, i, to, first, n, row);
            most = relative_exponents(n, from->h[i], bounds, row);
        }
        if (most < -margin) continue;
        values[rows++] = pass->values ? pass->values[i] : 1;
        if (rows == FEW) {
            add_rows(rows, n, values, terms, sums);
            rows = 0;
        }
    }
    if (rows > 0) add_rows(rows, n, values, terms, sums);
}

/* The most that a term between a block or group and a block of the other side may be. */
static double top_between(const Pass *pass, Index I, Index J)
{
    return pass->from->tops[I] - least_cost(pass->op, pass->from, I, pass->to, J);
}

/* Find the blocks with the largest terms that a block may have. */
static void find_nearest(const Pass *pass, Index J, Index *nearest)
{
    const Side *from = pass->from;
    double tops[NEAREST];
    for (int k = 0; k < NEAREST; k++) nearest[k] = 0, tops[k] = -INFINITY;
    for (Index G = 0; G < from->groups; G++) {
        if (top_between(pass, from->blocks + G, J) <= tops[NEAREST - 1]) continue;
        for (Index I = G * GROUP; I < from->blocks && I < (G + 1) * GROUP; I++) {
            double top = top_between(pass, I, J);
            int k = NEAREST - 1;
            if (top <= tops[k]) continue;
            for (; k > 0 && top > tops[k - 1]; k--) tops[k] = tops[k - 1], nearest[k] = nearest[k - 1];
            tops[k] = top;
            nearest[k] = I;
        }
    }
}

/* Sum over all atoms of one side for a block of the other, one block after another. */
static void sum_blocks(void *shared)
{
    Pass *pass = shared;
    const Side *from = pass->from;
    Side *to = pass->to;
    double margin = pass->tops_only ? 0 : pass->clouds->margin;
    for (Index J; (J = take_next(&pass->next)) < to->blocks;) {
        Index first = J * BLOCK, n = to->n - first < BLOCK ? to->n - first : BLOCK, nearest[NEAREST];
        double *bounds = to->bounds + first, *sums = pass->sums + first, least;
        if (pass->tops_only) {
            find_nearest(pass, J, nearest);
            for (int k = 0; k < NEAREST; k++) raise_bounds(pass->op, from, nearest[k], to, first, n, bounds);
        } else {
            memset(sums, 0, (size_t)n * sizeof *sums);
        }
        least = range_of(n, bounds).least;
        for (Index G = 0; G < from->groups; G++) {
            if (top_between(pass, from->blocks + G, J) < least - margin) continue;
            for (Index I = G * GROUP; I < from->blocks && I < (G + 1) * GROUP; I++) {
                if (top_between(pass, I, J) < least - margin) continue;
                if (pass->tops_only) {
                    raise_bounds(pass->op, from, I, to, first, n, bounds);
                    least = range_of(n, bounds).least;
                } else {
                    add_block(pass, I, J, least, bounds, sums);
                }
            }
        }
    }
}

static void run_pass(Operator *op, const Side *from, Side *to, int tops_only, const double *values, double *sums)
{
    Pass pass = {op, op->own, from, to, tops_only, values, sums, 0};
    run_on_threads(sum_blocks, &pass, op->threads);
}

static void take_tops(Side *side)
{
    for (Index G = 0; G < side->groups; G++) side->tops[side->blocks + G] = -INFINITY;
    for (Index I = 0; I < side->blocks; I++) {
        Index first = I * BLOCK, n = side->n - first < BLOCK ? side->n - first : BLOCK;
        double *group = side->tops + side->blocks + I / GROUP;
        side->tops[I] = range_of(n, side->h + first).most;
        *group = fmax(*group, side->tops[I]);
    }
}

/* Put log sum_i exp(h_i - C_ij) of one side for all atoms of the other into its sums. `change` is the range of what h
   has changed by since the last time, and how far it has changed at least. */
static void sum_side(Operator *op, Side *from, Side *to, int known, Range change)
{
    take_tops(from);
    if (known && change.most - change.least <= TRUSTED) {
        for (Index j = 0; j < to->n; j++) to->bounds[j] = to->sums[j] + change.least;
    } else {
        for (Index j = 0; j < to->n; j++) to->bounds[j] = -INFINITY;
        run_pass(op, from, to, 1, NULL, NULL);
    }
    run_pass(op, from, to, 0, NULL, to->sums);
    logarithms(to->n, to->sums, to->sums);
    for (Index j = 0; j < to->n; j++) to->sums[j] += to->bounds[j];
}

/* Set a potential, and return by how much it has changed at least and at most. */
static Range set_potential(Side *side, double *moved, const double *given, int by_order)
{
    for (Index i = 0; i < side->n; i++) {
        double value = by_order ? given[i] : given[side->order[i]];
        moved[i] = value - side->potential[i];
        side->potential[i] = value;
        side->h[i] = value + side->support->logs[side->order[i]];
    }
    return range_of(side->n, moved);
}

static double clouds_evaluate(Operator *op, const double *x, double *residual)
{
    Clouds *self = op->own;
    Side *source = &self->source, *target = &self->target;
    if (!(largest_size(source->n, x) < INFINITY)) {
        self->known = self->known_of_source = 0;
        return NAN;
    }
    Range change = set_potential(source, self->moved, x, 0);
    sum_side(op, source, target, self->known, change);
    for (Index j = 0; j < target->n; j++) self->moved[j + source->n] = -target->sums[j];
    if (op->relaxed) {
        for (Index j = 0; j < target->n; j++) op->exact[target->order[j]] = -target->sums[j];
        price_columns(op, x);
        for (Index j = 0; j < target->n; j++) self->moved[j + source->n] = op->best[target->order[j]];
    }
    change = set_potential(target, self->moved, self->moved + source->n, 1);
    self->known = 1;
    if (!residual) {
        self->known_of_source = 0;
        return 0;
    }
    sum_side(op, target, source, self->known_of_source, change);
    self->known_of_source = 1;
    if (op->relaxed) {
        for (Index i = 0; i < source->n; i++)
            residual[source->order[i]] = -(source->potential[i] + op->level + source->sums[i]);
        for (Index i = 0; i < source->n; i++) op->ratio[i] = -residual[i];
        exponentials(source->n, op->ratio, op->ratio);
        return price_rows(op, x, op->ratio, residual);
    }
    double *ratio = self->moved, *weights = self->moved + source->n;
    for (Index i = 0; i < source->n; i++) {
        residual[source->order[i]] = -(source->potential[i] + source->sums[i]);
        ratio[i] = source->potential[i] + source->sums[i];
        weights[i] = source->support->weights[source->order[i]];
    }
    exponentials(source->n, ratio, ratio);
    return relative_l1_error(source->n, weights, ratio);
}

static void clouds_potential(const Operator *op, double *g)
{
    const Side *target = &((const Clouds *)op->own)->target;
    for (Index j = 0; j < target->n; j++) g[target->order[j]] = target->potential[j];
}

static int clouds_extend(Operator *op, const double *x, double *f, double *g)
{
    Clouds *self = op->own;
    clouds_potential(op, self->moved);
    return extend_priced(op, x, self->moved, f, g);
}

size_t clouds_bytes(const Costs *costs, Index n, Index m)
{
    size_t bytes = 2 * bytes_for(sizeof(Clouds)) + bytes_for(2 * (n + m));
    Index sizes[2] = {n, m};
    for (int k = 0; k < 2; k++) {
        Index blocks = (sizes[k] + BLOCK - 1) / BLOCK, boxes = blocks + (blocks + GROUP - 1) / GROUP;
        bytes += 5 * bytes_for(sizes[k]) + bytes_for(sizes[k] * costs->dim) + 2 * bytes_for(boxes * costs->dim);
        bytes += bytes_for(boxes);
    }
    return bytes;
}

void open_clouds(Operator *op, Arena *arena)
{
    const Costs *costs = op->costs;
    Clouds *self = (Clouds *)take_numbers(arena, (Index)sizeof(Clouds) / (Index)sizeof(double) + 1);
    Index n = op->source->count, m = op->target->count;
    self->known = self->known_of_source = 0;
    double margin = log((double)(n > m ? n : m)) - log(op->tol > DBL_MIN ? op->tol : DBL_MIN) + 5;
    self->margin = margin < 40 ? margin : 40;
    self->moved = take_numbers(arena, 2 * (n + m));
    open_side(&self->source, arena, op->source, costs->x, costs->dim);
    open_side(&self->target, arena, op->target, costs->y, costs->dim);
    memset(self->source.potential, 0, (size_t)n * sizeof(double));
    memset(self->target.potential, 0, (size_t)m * sizeof(double));
    op->own = self;
    op->evaluate = clouds_evaluate;
    op->potential = clouds_potential;
    op->extend = clouds_extend;
}

/* Put the means of values, one for each source atom with mass, under the plan's columns into out, which has one for
   each target atom with mass; after a point was evaluated. */
void means_on_clouds(Operator *op, const double *values, double *out)
{
    Clouds *self = op->own;
    Side *source = &self->source, *target = &self->target;
    double *ordered = self->moved, *sums = self->moved + source->n;
    for (Index i = 0; i < source->n; i++) ordered[i] = values[source->order[i]];
    memcpy(target->bounds, target->sums, (size_t)target->n * sizeof *sums);
    run_pass(op, source, target, 0, ordered, sums);
    for (Index j = 0; j < target->n; j++) out[target->order[j]] = sums[j];
}

enum { WORTH_THREADS = 8192 }; /* tiles from which on threads do not only wait for each other */
static const double LEAST_ENTRY = -7; /* the logarithm of what a tile of a plan has at least somewhere */
static const double NO_ENTRY = 1e-8;  /* what counts as nothing in it: numbers without leading digits take their time */

/* Put half of what the logarithm of a side's share in the plan's entries is above that of its marginal into halves. */
static void take_halves(Side *side, double *halves)
{
    for (Index i = 0; i < side->n; i++) {
        halves[i] = (side->h[i] - side->sums[i]) / 2;
        side->bounds[i] = side->h[i];
        side->h[i] = halves[i];
    }
    take_tops(side);
    memcpy(side->h, side->bounds, (size_t)side->n * sizeof *halves);
}

/* Go through the pairs of blocks that count; without a plan, only return their number. */
static Index for_each_pair(const Operator *op, const Clouds *self, BlockPlan *plan)
{
    const Side *source = &self->source, *target = &self->target;
    Index count = 0;
    for (Index I = 0; I < source->blocks; I++) {
        if (plan) plan->first[I] = count;
        for (Index J = 0; J < target->blocks; J++) {
            if (source->tops[I] + target->tops[J] - least_cost(op, source, I, target, J) < LEAST_ENTRY) continue;
            if (plan) plan->columns[count] = J;
            count++;
        }
    }
    if (plan) plan->first[source->blocks] = count;
    return count;
}

static void fill_tile(const Operator *op, const Clouds *self, const double *left, const double *right, Index I, Index J,
                      float *tile)
{
    const Side *source = &self->source, *target = &self->target;
    Index first = J * BLOCK, n = target->n - first < BLOCK ? target->n - first : BLOCK;
    double row[BLOCK + 2 * LANES];
    memset(tile, 0, BLOCK * BLOCK * sizeof *tile);
    for (Index i = I * BLOCK; i < source->n && i < (I + 1) * BLOCK; i++, tile += BLOCK) {
        block_costs(op, source, i, target, first, n, row);
        for (Index j = 0; j < n; j++) row[j] = left[i] + right[first + j] - row[j];
        exponentials(n, row, row);
        for (Index j = 0; j < n; j++) tile[j] = row[j] > NO_ENTRY ? (float)row[j] : 0;
    }
}

/* Hold the plan of the point that was evaluated last, each entry over the roots of both its marginals; put the roots
   of the source's marginal, for a mass of one, into place, and those of the target's over the mass, both on the atoms
   with mass. */
int open_block_plan(BlockPlan *plan, Operator *op, double *source_roots, double *target_roots)
{
    Clouds *self = op->own;
    Side *source = &self->source, *target = &self->target;
    double *left = self->moved, *right = self->moved + source->n, mass = 0;
    take_halves(source, left);
    take_halves(target, right);
    Index tiles = for_each_pair(op, self, NULL), blocks = source->blocks + target->blocks;
    size_t bytes = 2 * bytes_for(blocks + 2) + 3 * bytes_for(tiles) + bytes_for(tiles * (BLOCK * BLOCK / 2 + 1)) +
                   2 * bytes_for(blocks * BLOCK);
    if (!open_arena(&plan->memory, bytes)) return 0;
    plan->source_blocks = source->blocks;
    plan->target_blocks = target->blocks;
    plan->source_order = source->order;
    plan->target_order = target->order;
    plan->n = source->n;
    plan->m = target->n;
    plan->threads = tiles > WORTH_THREADS ? op->threads : 1;
    plan->first = take_indices(&plan->memory, source->blocks + 1);
    plan->first_of_column = take_indices(&plan->memory, target->blocks + 2);
    plan->columns = take_indices(&plan->memory, tiles);
    plan->of_column = take_indices(&plan->memory, tiles);
    plan->entries = (float *)take_numbers(&plan->memory, tiles * BLOCK * BLOCK / 2);
    plan->left = (float *)take_numbers(&plan->memory, source->blocks * BLOCK);
    plan->right = (float *)take_numbers(&plan->memory, target->blocks * BLOCK);
    plan->rows = take_indices(&plan->memory, tiles);
    for_each_pair(op, self, plan);
    memset(plan->first_of_column, 0, (size_t)(target->blocks + 2) * sizeof *plan->first_of_column);
    for (Index t = 0; t < tiles; t++) plan->first_of_column[plan->columns[t] + 2]++;
    for (Index J = 0; J < target->blocks; J++) plan->first_of_column[J + 2] += plan->first_of_column[J + 1];
    for (Index I = 0; I < source->blocks; I++)
        for (Index t = plan->first[I]; t < plan->first[I + 1]; t++) {
            plan->rows[t] = I;
            plan->of_column[plan->first_of_column[plan->columns[t] + 1]++] = t;
            fill_tile(op, self, left, right, I, plan->columns[t], plan->entries + t * BLOCK * BLOCK);
        }
    for (Index i = 0; i < source->n; i++) mass += exp(source->h[i] + source->sums[i]);
    for (Index i = 0; i < source->n; i++)
        source_roots[source->order[i]] = sqrt(exp(source->h[i] + source->sums[i]) / mass);
    for (Index j = 0; j < target->n; j++)
        target_roots[target->order[j]] = sqrt(exp(target->h[j] + target->sums[j]) / mass);
    return isfinite(mass) && mass > 0;
}

FOR_EACH_PROCESSOR
static void add_columns_of_block(const float *restrict tile, const float *restrict y, float *restrict sums)
{
    for (int i = 0; i < BLOCK; i++)
        for (int j = 0; j < BLOCK; j++) sums[j] += y[i] * tile[i * BLOCK + j];
}

FOR_EACH_PROCESSOR
static void add_rows_of_block(const float *restrict tile, const float *restrict y, float *restrict sums)
{
    enum { WIDE = 16 };
    for (int i = 0; i < BLOCK; i++) {
        float lanes[WIDE];
        for (int k = 0; k < WIDE; k++) lanes[k] = tile[i * BLOCK + k] * y[k] + tile[i * BLOCK + WIDE + k] * y[WIDE + k];
        for (int half = WIDE / 2; half > 0; half /= 2)
            for (int k = 0; k < half; k++) lanes[k] += lanes[k + half];
        sums[i] += lanes[0];
    }
}

typedef struct {
    BlockPlan *plan;
    Index next;
} PlanPass;

static void take_columns(void *shared)
{
    PlanPass *pass = shared;
    BlockPlan *plan = pass->plan;
    for (Index J; (J = take_next(&pass->next)) < plan->target_blocks;) {
        float *sums = plan->right + J * BLOCK;
        memset(sums, 0, BLOCK * sizeof *sums);
        for (Index k = plan->first_of_column[J]; k < plan->first_of_column[J + 1]; k++) {
            Index t = plan->of_column[k];
            add_columns_of_block(plan->entries + t * BLOCK * BLOCK, plan->left + plan->rows[t] * BLOCK, sums);
        }
    }
}

static void take_rows(void *shared)
{
    PlanPass *pass = shared;
    BlockPlan *plan = pass->plan;
    for (Index I; (I = take_next(&pass->next)) < plan->source_blocks;) {
        float *sums = plan->left + I * BLOCK;
        memset(sums, 0, BLOCK * sizeof *sums);
        for (Index t = plan->first[I]; t < plan->first[I + 1]; t++)
            add_rows_of_block(plan->entries + t * BLOCK * BLOCK, plan->right + plan->columns[t] * BLOCK, sums);
    }
}

/* Put the product of the plan's transpose with y into its right side, and from there into `out` unless it is NULL. */
void columns_of_plan(BlockPlan *plan, const double *y, double *out)
{
    memset(plan->left, 0, (size_t)(plan->source_blocks * BLOCK) * sizeof *plan->left);
    for (Index i = 0; i < plan->n; i++) plan->left[i] = (float)y[plan->source_order[i]];
    PlanPass pass = {plan, 0};
    run_on_threads(take_columns, &pass, plan->threads);
    for (Index j = 0; out && j < plan->m; j++) out[plan->target_order[j]] = plan->right[j];
}

/* Put the product of the plan with its right side into out. */
void rows_of_plan(BlockPlan *plan, double *out)
{
    PlanPass pass = {plan, 0};
    run_on_threads(take_rows, &pass, plan->threads);
    for (Index i = 0; i < plan->n; i++) out[plan->source_order[i]] = plan->left[i];
}

/* Sums for each source atom over all of the target, with any weights. Here exponents are in the units of the cost, so
   that the same largest terms are right for each eps, and h - C is rounded as in a matrix. */

static const double COUNTED = 40; /* terms below e^-40 of a sum do not change it: of those that fall off, a few count */

typedef struct {
    Pass pass; /* from the target to the source, after the largest terms were found */
    const CloudSums *wanted;
    int short_of_memory;
} SumPass;

/* Put (h - costs - bounds) times a scale into out; return the largest of them. */
static inline double scaled_exponents(double h, double scale, const double *restrict costs,
                                      const double *restrict bounds, double *restrict out)
{
    double tops[LANES];
    for (int j = 0; j < BLOCK; j++) out[j] = (h - costs[j] - bounds[j]) * scale;
    for (int s = 0; s < LANES; s++) tops[s] = out[s];
    for (int j = LANES; j < BLOCK; j += LANES)
        for (int s = 0; s < LANES; s++) tops[s] = out[j + s] > tops[s] ? out[j + s] : tops[s];
    for (int s = 1; s < LANES; s++) tops[0] = tops[s] > tops[0] ? tops[s] : tops[0];
    return tops[0];
}

FOR_EACH_PROCESSOR
static double exponents_of_costs(double h, double scale, const double *restrict costs, const double *restrict bounds,
                                 double *restrict out)
{
    double kept[BLOCK], found[BLOCK];
    memcpy(kept, costs, sizeof kept);
    double most = scaled_exponents(h, scale, kept, bounds, found);
    memcpy(out, found, sizeof found);
    return most;
}

/* The same for squared distances between an atom and a whole block, which are put into costs. */
FOR_EACH_PROCESSOR
static double exponents_of_squares(Index dim, const double *restrict x, Index x_stride, const double *restrict y,
                                   Index y_stride, double h, double scale, const double *restrict bounds,
                                   double *restrict costs, double *restrict out)
{
    double sums[BLOCK] = {0}, found[BLOCK];
    for (Index k = 0; k < dim; k++)
        for (int j = 0; j < BLOCK; j++) {
            double difference = x[k * x_stride] - y[k * y_stride + j];
            sums[j] += difference * difference;
        }
    double most = scaled_exponents(h, scale, sums, bounds, found);
    memcpy(costs, sums, sizeof sums);
    memcpy(out, found, sizeof found);
    return most;
}

/* Add rows of terms times values, `count` for each row, to count x BLOCK sums. */
FOR_EACH_PROCESSOR
static void add_multiples(Index rows, Index count, const double *const *values, const double *restrict terms,
                          double *restrict sums)
{
    for (Index k = 0; k < count; k++) {
        double lanes[BLOCK];
        for (int j = 0; j < BLOCK; j++) lanes[j] = sums[k * BLOCK + j];
        for (Index r = 0; r < rows; r++)
            for (int j = 0; j < BLOCK; j++) lanes[j] += values[r][k] * terms[r * BLOCK + j];
        for (int j = 0; j < BLOCK; j++) sums[k * BLOCK + j] = lanes[j];
    }
}

/* Add up to FEW rows to the sums of a block: of the terms, of terms times costs, of terms times values. */
FOR_EACH_PROCESSOR
static void add_wanted(const CloudSums *wanted, Index rows, const double *const *values,
                       const double *restrict costs, double *restrict terms, double *restrict sums)
{
    static const double one = 1;
    const double *const ones[FEW] = {&one, &one, &one, &one, &one, &one, &one, &one,
                                     &one, &one, &one, &one, &one, &one, &one, &one};
    exponentials(rows * BLOCK, terms, terms);
    add_multiples(rows, 1, ones, terms, sums);
    if (wanted->mean_costs)
        for (Index r = 0; r < rows; r++)
            for (int j = 0; j < BLOCK; j++) {
                double cost = costs[r * BLOCK + j];
                sums[BLOCK + j] += cost < INFINITY ? terms[r * BLOCK + j] * cost : 0;
            }
    if (wanted->means) add_multiples(rows, wanted->count, values, terms, sums + 2 * BLOCK);
}

/* Add the terms of one target block to the sums of a source block, relative to its largest terms. */
static void add_terms(const SumPass *task, Index I, Index J, double least, double scale, const double *bounds,
                      double *sums)
{
    const Operator *op = task->pass.op;
    const CloudSums *wanted = task->wanted;
    const Side *from = task->pass.from, *to = task->pass.to;
    double terms[FEW * BLOCK + LANES], costs[FEW * BLOCK + 2 * LANES], margin = task->pass.clouds->margin;
    const double *values[FEW] = {NULL};
    Index first = J * BLOCK, n = to->n - first < BLOCK ? to->n - first : BLOCK, rows = 0;
    Index last = from->n < (I + 1) * BLOCK ? from->n : (I + 1) * BLOCK;
    for (Index i = I * BLOCK; i < last; i++) {
        if (from->h[i] - least_cost_of(op, from, i, to, J) < least - margin) continue;
        double *row = costs + rows * BLOCK, *exponents = terms + rows * BLOCK, most;
        if (op->costs->cost == SQEUCLIDEAN && n == BLOCK) {
            most = exponents_of_squares(to->dim, from->coordinates + i, from->n, to->coordinates + first, to->n,
                                        from->h[i], scale, bounds, row, exponents);
        } else {
            block_costs(op, from, i, to, first, n, row);
            for (Index j = n; j < BLOCK; j++) row[j] = INFINITY;
            most = exponents_of_costs(from->h[i], scale, row, bounds, exponents);
        }
        if (most < -COUNTED) continue;
        values[rows++] = wanted->means ? wanted->values + from->order[i] * wanted->count : NULL;
        if (rows == FEW) {
            add_wanted(wanted, rows, values, costs, terms, sums);
            rows = 0;
        }
    }
    if (rows > 0) add_wanted(wanted, rows, values, costs, terms, sums);
}

/* Put what is wanted of a source block into place, from its sums and its largest terms. */
static void put_sums(const CloudSums *wanted, const Side *to, Index J, const double *bounds, const double *sums)
{
    for (Index j = 0; j < BLOCK && J * BLOCK + j < to->n; j++) {
        Index i = to->order[J * BLOCK + j];
        double inverse = sums[j] > 0 ? 1 / sums[j] : 0;
        if (wanted->least) wanted->least[i] = -(bounds[j] + wanted->eps * log(sums[j]));
        if (wanted->mean_costs) wanted->mean_costs[i] = sums[BLOCK + j] * inverse;
        for (Index k = 0; wanted->means && k < wanted->count; k++)
            wanted->means[i * wanted->count + k] = sums[(2 + k) * BLOCK + j] * inverse;
    }
}

/* Sum for one source block after another. */
static void sum_for_blocks(void *shared)
{
    SumPass *task = shared;
    const Pass *pass = &task->pass;
    const CloudSums *wanted = task->wanted;
    const Side *from = pass->from, *to = pass->to;
    Arena arena = {0};
    Index count = (2 + (wanted->means ? wanted->count : 0)) * BLOCK;
    if (!open_arena(&arena, bytes_for(count))) {
        task->short_of_memory = 1;
        return;
    }
    double *sums = take_numbers(&arena, count), margin = pass->clouds->margin, scale = fmin(1 / wanted->eps, DBL_MAX);
    for (Index J; (J = take_next(&task->pass.next)) < to->blocks;) {
        double bounds[BLOCK] = {0}, least = INFINITY;
        for (Index j = 0; j < BLOCK && J * BLOCK + j < to->n; j++) {
            bounds[j] = fmax(to->bounds[J * BLOCK + j], -DBL_MAX);
            least = fmin(least, bounds[j]);
        }
        memset(sums, 0, (size_t)count * sizeof *sums);
        for (Index G = 0; G < from->groups; G++) {
            if (top_between(pass, from->blocks + G, J) < least - margin) continue;
            for (Index I = G * GROUP; I < from->blocks && I < (G + 1) * GROUP; I++)
                if (top_between(pass, I, J) >= least - margin) add_terms(task, I, J, least, scale, bounds, sums);
        }
        put_sums(wanted, to, J, bounds, sums);
    }
    close_arena(&arena);
}

static Support all_atoms(Arena *arena, Index count)
{
    Support all = {count, take_indices(arena, count), NULL, NULL, 0};
    for (Index k = 0; k < count; k++) all.atoms[k] = k;
    return all;
}

/* Put sums between two clouds into place; return whether there is enough memory. */
int sum_on_clouds(const Costs *costs, const double *h, const CloudSums *wanted, int threads)
{
    Arena arena = {0};
    Index n = costs->n, m = costs->m;
    if (!open_arena(&arena, clouds_bytes(costs, n, m) + bytes_for(n) + bytes_for(m))) return 0;
    Support source = all_atoms(&arena, n), target = all_atoms(&arena, m);
    Operator op = {.costs = costs, .inverse_eps = 1, .source = &source, .target = &target, .threads = threads};
    open_clouds(&op, &arena);
    Clouds *self = op.own;
    Side *from = &self->target, *to = &self->source;
    self->margin = wanted->eps * COUNTED;
    for (Index j = 0; j < m; j++) from->h[j] = h[from->order[j]];
    for (Index i = 0; i < n; i++) to->bounds[i] = -INFINITY;
    take_tops(from);
    if (range_of(m, h).most > -INFINITY) run_pass(&op, from, to, 1, NULL, NULL);
    SumPass task = {{&op, self, from, to, 0, NULL, NULL, 0}, wanted, 0};
    if (wanted->eps > 0)
        run_on_threads(sum_for_blocks, &task, threads);
    else
        for (Index i = 0; i < n; i++) wanted->least[to->order[i]] = -to->bounds[i];
    close_arena(&arena);
    return !task.short_of_memory;
}
