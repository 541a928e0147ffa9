/* The kernel between two clouds, made anew by each product: in blocks of atoms that are near each other.

   Blocks too far apart to add anything to a sum are left out: what is lost in all of them together is far below the
   error that is wanted. What a sum is relative to is a guess: its value at the last point, or a few of its terms. Where
   the sum turns out to be lower, it is made again, relative to what was found, which it cannot be below. */

#include "clouds.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { FEW = 16, MOST_DIMENSIONS = 16, MOST_ROUNDS = 5 };

static const double TOO_LOW = 0.3, TOO_HIGH = 1e30; /* sums relative to a guess of them that must be made again */
static const double LARGEST_LOG = 600;              /* what an infinite sum has more than a guess */
static const double LARGEST_EXPONENT = 1024; /* in single precision, in units of log 2: its error is 1e-4 there */
static const double PER_UNIT = 1.44269504088896338700; /* 1 / log 2 */

typedef struct {
    Side source, target;
    int known, known_of_source; /* whether sums of the last point are known, over the source and over the target */
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

FOR_EACH_PROCESSOR
static void squares(Index dim, Index n, Index stride, const double *restrict x, Index x_stride, double sign,
                    const double *restrict y, double *restrict out)
{
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
void block_costs(const Operator *op, const Side *from, Index i, const Side *to, Index first, Index n,
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

/* Put h - costs - guesses into costs; return the largest of them. */
FOR_EACH_PROCESSOR
static double relative_exponents(Index n, double h, const double *restrict guesses, double *restrict costs)
{
    double most[LANES] = {-INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY, -INFINITY};
    Index j = 0;
    for (; j + LANES <= n; j += LANES)
        for (int k = 0; k < LANES; k++) {
            double exponent = h - costs[j + k] - guesses[j + k];
            costs[j + k] = exponent;
            most[k] = exponent > most[k] ? exponent : most[k];
        }
    for (; j < n; j++) {
        costs[j] = h - costs[j] - guesses[j];
        most[0] = costs[j] > most[0] ? costs[j] : most[0];
    }
    for (int k = 1; k < LANES; k++) most[0] = most[k] > most[0] ? most[k] : most[0];
    return most[0];
}

/* The same for squared distances between an atom and a whole block. */
FOR_EACH_PROCESSOR
static double squared_exponents(Index dim, const double *restrict x, Index x_stride, const double *restrict y,
                                Index y_stride, double inverse_eps, double h, const double *restrict guesses,
                                double *restrict out)
{
    double sums[BLOCK] = {0}, tops[LANES];
    for (Index k = 0; k < dim; k++)
        for (int j = 0; j < BLOCK; j++) {
            double difference = x[k * x_stride] - y[k * y_stride + j];
            sums[j] += difference * difference;
        }
    for (int j = 0; j < BLOCK; j++) out[j] = sums[j] = (h - guesses[j]) - sums[j] * inverse_eps;
    for (int s = 0; s < LANES; s++) tops[s] = sums[s];
    for (int j = LANES; j < BLOCK; j += LANES)
        for (int s = 0; s < LANES; s++) tops[s] = sums[j + s] > tops[s] ? sums[j + s] : tops[s];
    for (int s = 1; s < LANES; s++) tops[0] = tops[s] > tops[0] ? tops[s] : tops[0];
    return tops[0];
}

/* Put the most that terms of each atom of a block, less what is bounded on the other one, may be into most, and squared
   distances from the centre of the other one into squares. */
FOR_EACH_PROCESSOR
static void most_of_atoms(const Operator *op, const Side *from, Index I, const Side *to, Index J, Bound bound,
                          double *restrict most, double *restrict squares)
{
    Index n = atoms_of(from, I), dim = from->dim;
    const double *middle = to->middles + J * dim, *half = to->halves + J * dim, *h = from->h + I * BLOCK;
    const double inverse_eps = bounding_scale(op), half_eps = 0.5 / inverse_eps;
    double gaps[BLOCK] = {0}, by_gap = 0, by_tangent[BLOCK] = {0}, per_unit[BLOCK];
    for (Index i = 0; i < n; i++) squares[i] = 0;
    for (Index k = 0; k < dim; k++) {
        const double *at = from->coordinates + k * from->n + I * BLOCK;
        for (Index i = 0; i < n; i++) squares[i] += (at[i] - middle[k]) * (at[i] - middle[k]);
    }
    if (op->costs->cost == SQEUCLIDEAN) {
        for (Index i = 0; i < n; i++) most[i] = bound.top + h[i] - squares[i] * inverse_eps;
        for (Index k = 0; k < dim; k++) {
            const double *at = from->coordinates + k * from->n + I * BLOCK;
            for (Index i = 0; i < n; i++) {
                double tangent = fabs(2 * (at[i] - middle[k]) * inverse_eps + bound.slopes[k]);
                double moved = tangent * half_eps < half[k] ? tangent * half_eps : half[k];
                most[i] += moved * (tangent - moved * inverse_eps);
            }
        }
        return;
    }
    for (Index i = 0; i < n; i++) per_unit[i] = squares[i] > 0 ? inverse_eps / sqrt(squares[i]) : 0;
    for (Index k = 0; k < dim; k++) {
        const double *at = from->coordinates + k * from->n + I * BLOCK;
        by_gap += fabs(bound.slopes[k]) * half[k];
        for (Index i = 0; i < n; i++) {
            double apart = at[i] - middle[k], gap = fabs(apart) - half[k];
            gap = gap > 0 ? gap : 0;
            gaps[i] += gap * gap;
            by_tangent[i] += fabs(per_unit[i] * apart + bound.slopes[k]) * half[k];
        }
    }
    for (Index i = 0; i < n; i++) {
        double one = by_gap - sqrt(gaps[i]) * inverse_eps, other = by_tangent[i] - sqrt(squares[i]) * inverse_eps;
        most[i] = bound.top + h[i] + (one < other ? one : other);
    }
}

/* Raise a guess to the largest term that a block has for its sum. */
static void raise_guess(const Operator *op, const Side *from, Index I, const Side *to, Index j, double *guess)
{
    double costs[BLOCK + LANES];
    Index first = I * BLOCK, n = atoms_of(from, I);
    block_costs(op, to, j, from, first, n, costs);
    for (Index i = 0; i < n; i++) *guess = larger(*guess, from->h[first + i] - costs[i]);
}

/* Add up to FEW rows of terms to sums, from their exponents. */
static void add_rows(Index rows, Index n, const double *values, double *terms, double *sums)
{
    exponentials(rows * n, terms, terms);
    for (Index k = 0; k < rows; k++) subtract_multiple(n, -values[k], terms + k * n, sums);
}

/* Add the terms of one block to the sums of another, relative to their guesses, which are bounded. Atoms none of whose
   terms counts are left out. */
static void add_block(const Pass *pass, Index I, Index J, Bound bound, const double *guesses, double *sums)
{
    const Operator *op = pass->op;
    const Side *from = pass->from, *to = pass->to;
    double terms[FEW * BLOCK + 2 * LANES], values[FEW], margin = pass->clouds->margin, most[BLOCK], squares[BLOCK];
    Index first = J * BLOCK, n = atoms_of(to, J), rows = 0;
    most_of_atoms(op, from, I, to, J, bound, most, squares);
    for (Index k = 0; k < atoms_of(from, I); k++) {
        if (most[k] < -margin) continue;
        Index i = I * BLOCK + k;
        double *row = terms + rows * n, top;
        if (op->costs->cost == SQEUCLIDEAN && n == BLOCK) {
            top = squared_exponents(to->dim, from->coordinates + i, from->n, to->coordinates + first, to->n,
                                    op->inverse_eps, from->h[i], guesses, row);
        } else {
            block_costs(op, from, i, to, first, n, row);
            top = relative_exponents(n, from->h[i], guesses, row);
        }
        if (top < -margin) continue;
        values[rows++] = pass->values ? pass->values[i] : 1;
        if (rows == FEW) {
            add_rows(rows, n, values, terms, sums);
            rows = 0;
        }
    }
    if (rows > 0) add_rows(rows, n, values, terms, sums);
}

/* The block of the sums, prepared for single precision: in units of eps log 2, relative to its centre. */
typedef struct {
    double offsets[MOST_DIMENSIONS * BLOCK]; /* twice those of its atoms, over eps log 2 */
    double right[BLOCK];                     /* minus their squares, and minus the guesses */
    float y[MOST_DIMENSIONS * BLOCK];        /* the offsets */
} Prepared;

static void prepare_block(const Operator *op, const Side *to, Index J, const double *guesses, Prepared *prepared)
{
    Index first = J * BLOCK, n = atoms_of(to, J);
    double unit = PER_UNIT * op->inverse_eps;
    for (Index j = 0; j < BLOCK; j++) prepared->right[j] = j < n ? -PER_UNIT * guesses[j] : 0;
    for (Index k = 0; k < to->dim; k++) {
        double middle = to->middles[J * to->dim + k], *offsets = prepared->offsets + k * BLOCK;
        for (Index j = 0; j < BLOCK; j++) {
            double offset = j < n ? to->coordinates[k * to->n + first + j] - middle : 0;
            prepared->right[j] -= unit * offset * offset;
            offsets[j] = 2 * unit * offset;
            prepared->y[k * BLOCK + j] = (float)offsets[j];
        }
    }
}

/* Do what add_block does in single precision; return 0 where exponents would be too large for it.

   With centres X and Y of the blocks, -|x - y|^2 = -|x - Y|^2 + 2 <X - Y, y - Y> - |y - Y|^2 + 2 <x - X, y - Y>: the
   first part is of x, the next ones are of y, and only the last one is of both. */
FOR_EACH_PROCESSOR
static int add_block_in_single(const Pass *pass, Index I, Index J, Bound bound, const Prepared *prepared, double *sums)
{
    const Side *from = pass->from, *to = pass->to;
    Index begin = I * BLOCK, n = atoms_of(from, I), dim = to->dim, rows = 0, kept[BLOCK + 1];
    double inverse_eps = pass->op->inverse_eps, most[BLOCK], squares[BLOCK], right[BLOCK], left[BLOCK];
    float lefts[BLOCK], rights[BLOCK], values[BLOCK], x[MOST_DIMENSIONS * BLOCK], found[BLOCK] = {0};
    most_of_atoms(pass->op, from, I, to, J, bound, most, squares);
    for (Index i = 0; i < n; i++) {
        kept[rows] = i;
        rows += most[i] >= -pass->clouds->margin;
    }
    if (rows == 0) return 1;
    for (Index r = 0; r < rows; r++)
        left[r] = PER_UNIT * (from->h[begin + kept[r]] - squares[kept[r]] * inverse_eps);
    memcpy(right, prepared->right, sizeof right);
    for (Index k = 0; k < dim; k++) {
        double apart = from->middles[I * dim + k] - to->middles[J * dim + k];
        for (Index j = 0; j < BLOCK; j++) right[j] += apart * prepared->offsets[k * BLOCK + j];
    }
    Range of_left = range_of(rows, left), of_right = range_of(BLOCK, right);
    double top = of_left.most, largest = larger(fabs(of_right.least + top), fabs(of_right.most + top)) + top - of_left.least;
    largest += 2 * PER_UNIT * inverse_eps * from->radii[I] * to->radii[J];
    if (!(largest <= LARGEST_EXPONENT)) return 0;
    for (Index r = 0; r < rows; r++) {
        lefts[r] = (float)(left[r] - top);
        values[r] = pass->values ? (float)pass->values[begin + kept[r]] : 1;
    }
    for (Index j = 0; j < BLOCK; j++) rights[j] = (float)(right[j] + top);
    for (Index k = 0; k < dim; k++)
        for (Index r = 0; r < rows; r++) x[k * BLOCK + r] = from->offsets[(I * dim + k) * BLOCK + kept[r]];
    add_powers(rows, dim, lefts, x, rights, prepared->y, values, found);
    for (Index j = 0; j < atoms_of(to, J); j++) sums[j] += found[j];
    return 1;
}

/* Bound minus the guesses of a block. */
static Bound bound_minus(const Side *to, Index J, const double *guesses)
{
    double minus[BLOCK];
    for (Index j = 0; j < atoms_of(to, J); j++) minus[j] = -guesses[j];
    return bound_on_block(to, J, minus, to->guess_slopes + J * to->dim);
}

/* Put large terms of the sums of a block into guesses, or, if `all`, the largest ones. */
static void guess_by_terms(const Pass *pass, Index J, int all, double *guesses)
{
    const Operator *op = pass->op;
    const Side *from = pass->from, *to = pass->to;
    Index n = atoms_of(to, J), nearest[NEAREST];
    for (Index j = 0; j < n; j++) {
        Index count = find_nearest(op, from, point_of(to, J * BLOCK + j), nearest);
        guesses[j] = -INFINITY;
        for (Index k = 0; k < count; k++) raise_guess(op, from, nearest[k], to, J * BLOCK + j, guesses + j);
    }
    if (!all) return;
    Walk walk = walk_to(op, from, to, J, bound_minus(to, J, guesses));
    for (Index I; (I = next_block(&walk, 0)) >= 0;)
        for (Index j = 0; j < n; j++) raise_guess(op, from, I, to, J * BLOCK + j, guesses + j);
}

/* Whether sums are made in single precision. */
static int is_in_single(const Operator *op, const Side *side)
{
    return op->rough && op->costs->cost == SQEUCLIDEAN && side->dim <= MOST_DIMENSIONS;
}

/* Put the sums of a block relative to the guesses into sums. */
static void sum_block(const Pass *pass, Index J, const double *guesses, double *sums)
{
    const Side *to = pass->to;
    int in_single = is_in_single(pass->op, to);
    Bound bound = bound_minus(to, J, guesses);
    Walk walk = walk_to(pass->op, pass->from, to, J, bound);
    Prepared prepared;
    memset(sums, 0, (size_t)atoms_of(to, J) * sizeof *sums);
    if (in_single) prepare_block(pass->op, to, J, guesses, &prepared);
    for (Index I; (I = next_block(&walk, -pass->clouds->margin)) >= 0;)
        if (!in_single || !add_block_in_single(pass, I, J, bound, &prepared, sums))
            add_block(pass, I, J, bound, guesses, sums);
}

/* Make guesses that were too high or far too low into better ones by the sums relative to them; return whether some
   were. `lost` becomes one where nothing was found of a sum. */
static int mend_guesses(Index n, const double *sums, double *guesses, int *lost)
{
    Range range = range_of(n, sums);
    *lost = !(range.least > 0);
    if (range.least >= TOO_LOW && range.most <= TOO_HIGH) return 0;
    for (Index j = 0; j < n; j++) guesses[j] += sums[j] < INFINITY ? log(sums[j]) : LARGEST_LOG;
    return 1;
}

/* Sum over all atoms of one side for a block of the other, one block after another. */
static void sum_blocks(void *shared)
{
    Pass *pass = shared;
    Side *to = pass->to;
    for (Index J; (J = take_next(&pass->next)) < to->blocks;) {
        Index first = J * BLOCK, n = atoms_of(to, J);
        double *guesses = to->guesses + first, *sums = pass->sums + first;
        int lost = !(guesses[0] > -INFINITY), rounds = 0;
        if (pass->tops_only) {
            guess_by_terms(pass, J, 1, guesses);
            continue;
        }
        do {
            if (lost || rounds == MOST_ROUNDS) guess_by_terms(pass, J, rounds == MOST_ROUNDS, guesses);
            sum_block(pass, J, guesses, sums);
        } while (!pass->values && rounds++ < MOST_ROUNDS && mend_guesses(n, sums, guesses, &lost));
    }
}

static void run_pass(Operator *op, const Side *from, Side *to, int tops_only, const double *values, double *sums)
{
    Pass pass = {op, op->own, from, to, tops_only, values, sums, 0};
    run_on_threads(sum_blocks, &pass, op->threads);
}

/* Put log sum_i exp(h_i - C_ij) of one side for all atoms of the other into its sums. */
static void sum_side(Operator *op, Side *from, Side *to, int known)
{
    take_bounds(from);
    for (Index j = 0; j < to->n; j++) to->guesses[j] = known ? to->sums[j] : -INFINITY;
    run_pass(op, from, to, 0, NULL, to->sums);
    logarithms(to->n, to->sums, to->sums);
    for (Index j = 0; j < to->n; j++) to->sums[j] += to->guesses[j];
}

static void set_potential(Side *side, const double *given, int by_order)
{
    for (Index i = 0; i < side->n; i++) {
        side->potential[i] = by_order ? given[i] : given[side->order[i]];
        side->h[i] = side->potential[i] + side->support->logs[side->order[i]];
    }
}

static double clouds_evaluate(Operator *op, const double *x, double *residual)
{
    Clouds *self = op->own;
    Side *source = &self->source, *target = &self->target;
    if (!(largest_size(source->n, x) < INFINITY)) {
        self->known = self->known_of_source = 0;
        return NAN;
    }
    set_potential(source, x, 0);
    sum_side(op, source, target, self->known);
    for (Index j = 0; j < target->n; j++) self->moved[j] = -target->sums[j];
    if (op->relaxed) {
        for (Index j = 0; j < target->n; j++) op->exact[target->order[j]] = -target->sums[j];
        price_columns(op, x);
        for (Index j = 0; j < target->n; j++) self->moved[j] = op->best[target->order[j]];
    }
    set_potential(target, self->moved, 1);
    self->known = 1;
    if (!residual) return 0;
    sum_side(op, target, source, self->known_of_source);
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
    return 2 * bytes_for(sizeof(Clouds)) + bytes_for(2 * (n + m)) + side_bytes(n, costs->dim) + side_bytes(m, costs->dim);
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
    memcpy(target->guesses, target->sums, (size_t)target->n * sizeof *sums);
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
        side->guesses[i] = side->h[i];
        side->h[i] = halves[i];
    }
    take_bounds(side);
    memcpy(side->h, side->guesses, (size_t)side->n * sizeof *halves);
}

/* Go through the pairs of blocks that count; without a plan, only return their number. */
static Index for_each_pair(const Operator *op, const Side *source, const Side *target, BlockPlan *plan)
{
    Index count = 0;
    for (Index I = 0; I < source->blocks; I++) {
        if (plan) plan->first[I] = count;
        Walk walk = walk_to(op, target, source, I, bound_of(source, I));
        for (Index J; (J = next_block(&walk, LEAST_ENTRY)) >= 0; count++)
            if (plan) plan->columns[count] = J;
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
    Index tiles = for_each_pair(op, source, target, NULL), blocks = source->blocks + target->blocks;
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
    for_each_pair(op, source, target, plan);
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
