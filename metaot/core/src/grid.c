/* The kernel of a grid: a small matrix for each axis, of which exp(-C) is the Kronecker product.

   Products are restricted to the bounding boxes of both supports. Where sums leave floating point they are made in the
   log domain, axis by axis. The source and the target may be two grids. */

#include "core.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const double EXACT = 1e18;          /* how far sums must be above what is lost in them */
static const double ALWAYS_EXACT = 300;    /* the range of costs, in units of eps, in which they always are */
static const double WORTH_TRYING = 1e4;    /* the range above which they never are */
static const double RAISED = 300;          /* the exponent by which kernels of larger ranges are raised */

typedef struct {
    const Support *support;
    Index low[MOST_AXES], high[MOST_AXES], box;
    Index *places; /* of the atoms in the box */
    double *given; /* what is multiplied, in the box */
} Box;

typedef struct {
    int axes, always_exact, by_products, in_logs, everywhere;
    Index source_sizes[MOST_AXES], target_sizes[MOST_AXES];
    double *forward[MOST_AXES], *backward[MOST_AXES]; /* kernels: source target, and target source */
    double *to_target[MOST_AXES], *to_source[MOST_AXES]; /* the panels of the boxes */
    double offset, lost, shift;
    Box source, target;
    double *room[2], *h, *strip, *u, *v, *columns, *rows, *scratch;
} Grid;

static Index largest(const Index *sizes, int axes)
{
    Index most = 1;
    for (int k = 0; k < axes; k++) most = sizes[k] > most ? sizes[k] : most;
    return most;
}

static Index most_numbers(const Costs *costs)
{
    Index most = 1, now = costs->n;
    for (int k = 0; k < costs->axes; k++) {
        most = now > most ? now : most;
        now = now / costs->rows[k] * costs->columns[k];
    }
    most = now > most ? now : most;
    for (int k = 0; k < costs->axes; k++) {
        now = now / costs->columns[k] * costs->rows[k];
        most = now > most ? now : most;
    }
    return most;
}

/* Fill the kernels of all axes; numbers below the smallest normal one are zero. */
static void make_kernels(const Operator *op, Grid *self)
{
    const Costs *costs = op->costs;
    double range = 0, lowest[MOST_AXES], offset = 0;
    for (int k = 0; k < self->axes; k++) {
        Range found = range_of(costs->rows[k] * costs->columns[k], costs->axis[k]);
        lowest[k] = found.least;
        range += (found.most - found.least) * op->inverse_eps;
        offset += found.least * op->inverse_eps;
    }
    self->always_exact = range <= ALWAYS_EXACT;
    self->by_products = range <= WORTH_TRYING;
    double raised = self->always_exact ? 0 : RAISED;
    self->offset = raised + offset;
    self->lost = 4 * (double)costs->n * DBL_MIN * exp(raised - raised / self->axes);
    for (int k = 0; k < self->axes && self->by_products; k++) {
        Index rows = costs->rows[k], columns = costs->columns[k];
        double *K = self->forward[k];
        for (Index e = 0; e < rows * columns; e++)
            K[e] = raised / self->axes + (lowest[k] - costs->axis[k][e]) * op->inverse_eps;
        exponentials(rows * columns, K, K);
        for (Index i = 0; i < rows; i++)
            for (Index j = 0; j < columns; j++) self->backward[k][j * rows + i] = K[i * columns + j];
    }
}

/* Put columns of a matrix side by side, a panel of 8 at a time; the last one is filled up with zeros. */
static void make_panels(const double *matrix, Index stride, Index terms, Index width, double *panels)
{
    for (Index first = 0; first < width; first += LANES) {
        Index some = width - first < LANES ? width - first : LANES;
        const double *row = matrix + first;
        for (Index n = 0; n < terms; n++, row += stride, panels += LANES) {
            if (some < LANES) memset(panels, 0, LANES * sizeof *row);
            memcpy(panels, row, (size_t)some * sizeof *row);
        }
    }
}

/* Put values^T times a matrix, given in panels, into out, a block of 8 x 8 at a time. */
static void multiply(SumBlock *sum, const double *values, Index terms, Index rows, const double *panels, Index width,
                     double *strip, double *out)
{
    double sums[LANES][LANES];
    for (Index r = 0; r < rows; r += LANES) {
        Index some = rows - r < LANES ? rows - r : LANES;
        for (Index n = 0; n < terms; n++)
            for (Index s = 0; s < LANES; s++) strip[n * LANES + s] = values[n * rows + r + s];
        for (Index i = 0; i < width; i += LANES) {
            sum(terms, strip, panels + i * terms, sums);
            Index wide = width - i < LANES ? width - i : LANES;
            if (wide == LANES)
                for (Index s = 0; s < some; s++) memcpy(out + (r + s) * width + i, sums[s], sizeof sums[s]);
            else
                for (Index s = 0; s < some; s++)
                    for (Index k = 0; k < wide; k++) out[(r + s) * width + i + k] = sums[s][k];
        }
    }
}

/* Prepare products from one box to another, or to the whole grid of these sizes where that is NULL. */
static void aim(const Grid *self, double *const *kernels, const Box *from, const Box *to, const Index *sizes,
                double *const *panels)
{
    for (int k = 0; k < self->axes; k++) {
        Index first = to ? to->low[k] : 0, width = to ? to->high[k] - first : sizes[k];
        make_panels(kernels[k] + from->low[k] * sizes[k] + first, sizes[k], from->high[k] - from->low[k], width,
                    panels[k]);
    }
}

/* Multiply along all axes: the first one becomes the last, until all have had their turn. */
static const double *product(const Grid *self, const Box *from, const Box *to, const Index *sizes,
                             double *const *panels)
{
    SumBlock *sum = best_sum_block();
    const double *values = from->given;
    Index count = from->box;
    for (int k = 0; k < self->axes; k++) {
        Index terms = from->high[k] - from->low[k], rows = count / terms;
        Index width = to ? to->high[k] - to->low[k] : sizes[k];
        multiply(sum, values, terms, rows, panels[k], width, self->strip, self->room[k % 2]);
        values = self->room[k % 2];
        count = rows * width;
    }
    return values;
}

static void give(const Box *box, const double *factors)
{
    const Support *support = box->support;
    for (Index k = 0; k < support->count; k++) box->given[box->places[k]] = support->weights[k] * factors[k];
}

/* Find the smallest box around a support, and the places of its atoms there. */
static void find_box(const Support *support, int axes, const Index *sizes, Box *box)
{
    Index length = sizes[axes - 1], strides[MOST_AXES], line = -1, begin = 0;
    box->support = support;
    for (int k = 0; k < axes; k++) box->low[k] = sizes[k], box->high[k] = 0;
    for (Index k = 0; k < support->count;) { /* line by line along the last axis */
        line = support->atoms[k] / length;
        Index first = support->atoms[k] - line * length, end = (line + 1) * length, rest = line;
        while (k < support->count && support->atoms[k] < end) k++;
        Index last = support->atoms[k - 1] - line * length;
        for (int axis = axes - 1; axis >= 0; axis--) {
            if (axis < axes - 1) {
                first = last = rest % sizes[axis];
                rest /= sizes[axis];
            }
            if (first < box->low[axis]) box->low[axis] = first;
            if (last >= box->high[axis]) box->high[axis] = last + 1;
        }
    }
    box->box = 1;
    for (int k = axes - 1; k >= 0; k--) {
        strides[k] = box->box;
        box->box *= box->high[k] - box->low[k];
    }
    line = -1;
    for (Index k = 0; k < support->count; k++) {
        Index atom = support->atoms[k];
        if (atom / length != line) {
            Index rest = line = atom / length;
            begin = -box->low[axes - 1] - line * length;
            for (int axis = axes - 2; axis >= 0; axis--) {
                begin += (rest % sizes[axis] - box->low[axis]) * strides[axis];
                rest /= sizes[axis];
            }
        }
        box->places[k] = begin + atom;
    }
    memset(box->given, 0, (size_t)box->box * sizeof(double));
}

/* Return whether sums have all their digits: they are far above what numbers below the smallest one can have added,
   after the other axes have multiplied it, and below the largest. */
static int are_exact(const Grid *self, Index count, const double *sums, Index factor_count, const double *factors)
{
    if (self->always_exact) return 1;
    double most = range_of(factor_count, factors).most;
    Range range = range_of(count, sums);
    return range.least > EXACT * self->lost * (most > 1 ? most : 1) && range.most < INFINITY;
}

/* Put u = e^(x - shift) into place; return whether x is finite. */
static int scale_source(const Operator *op, Grid *self, const double *x)
{
    Index n = op->source->count;
    self->shift = inner_product(n, op->source->weights, x);
    if (!(fabs(self->shift) < INFINITY)) return 0;
    for (Index i = 0; i < n; i++) self->u[i] = x[i] - self->shift;
    exponentials(n, self->u, self->u);
    return 1;
}

/* Put u = e^(x - shift), the products with it and the best v for it into place; return whether they are exact. */
static int scale_columns(const Operator *op, Grid *self, const double *x)
{
    Index n = op->source->count, m = op->target->count;
    if (!scale_source(op, self, x)) return 0;
    give(&self->source, self->u);
    const double *sums = product(self, &self->source, &self->target, self->target_sizes, self->to_target);
    for (Index j = 0; j < m; j++) self->columns[j] = sums[self->target.places[j]];
    for (Index j = 0; j < m; j++) self->v[j] = 1 / self->columns[j];
    return are_exact(self, m, self->columns, n, self->u);
}

/* Put the products with v into place, on the source's atoms with mass; return whether they are exact. */
static int scale_rows(const Operator *op, Grid *self)
{
    Index n = op->source->count;
    const Box *box = self->everywhere ? NULL : &self->source;
    const Index *places = self->everywhere ? op->source->atoms : self->source.places;
    give(&self->target, self->v);
    const double *sums = product(self, &self->target, box, self->source_sizes, self->to_source);
    for (Index i = 0; i < n; i++) self->rows[i] = sums[places[i]];
    return are_exact(self, n, self->rows, op->target->count, self->v);
}

/* Sum exponentials along one axis in the log domain: out_ri = log sum_j exp(z_jr - c_ij), c in units of eps. */
static void soft_maximum_along(const double *cost, Index stride_i, Index stride_j, double inverse_eps, Index terms,
                               Index width, const double *z, Index rows, double *scratch, double *out)
{
    double *c = scratch, *line = c + terms * width, *sums = line + terms + LANES;
    for (Index i = 0; i < width; i++)
        for (Index j = 0; j < terms; j++) c[i * terms + j] = cost[i * stride_i + j * stride_j] * inverse_eps;
    for (Index r = 0; r < rows; r++) {
        for (Index j = 0; j < terms; j++) line[j] = z[j * rows + r];
        for (Index i = 0; i < width; i++) {
            for (Index j = 0; j < terms; j++) sums[j] = line[j] - c[i * terms + j];
            out[r * width + i] = log_sum_exp(terms, sums, sums);
        }
    }
}

/* Put -log sum_i exp(h_i - C_ij) into g, for h on the whole source grid; `to_source`, with the sides exchanged. */
static void soft_minimum(const Grid *self, const Operator *op, int to_source, const double *h, double *g)
{
    const Costs *costs = op->costs;
    const double *values = h;
    Index count = to_source ? costs->m : costs->n;
    for (int k = 0; k < self->axes; k++) {
        Index rows = costs->rows[k], columns = costs->columns[k];
        Index terms = to_source ? columns : rows, width = to_source ? rows : columns, lines = count / terms;
        Index across = to_source ? columns : 1, along = to_source ? 1 : columns;
        double *out = self->room[k % 2];
        soft_maximum_along(costs->axis[k], across, along, op->inverse_eps, terms, width, values, lines,
                           self->scratch, out);
        values = out;
        count = lines * width;
    }
    for (Index j = 0; j < count; j++) g[j] = -values[j];
}

/* Put log weights + potential of a support on its whole grid into h; minus infinity elsewhere. */
static void spread_logs(const Support *support, Index count, const double *potential, double *h)
{
    for (Index k = 0; k < count; k++) h[k] = -INFINITY;
    for (Index k = 0; k < support->count; k++) h[support->atoms[k]] = potential[k] + support->logs[k];
}

static double evaluate_in_logs(Operator *op, Grid *self, const double *x, double *residual)
{
    const Support *source = op->source, *target = op->target;
    double *h = self->h;
    self->in_logs = 1;
    spread_logs(source, op->costs->n, x, h);
    soft_minimum(self, op, 0, h, h);
    for (Index j = 0; j < target->count; j++) self->columns[j] = h[target->atoms[j]]; /* g itself */
    spread_logs(target, op->costs->m, self->columns, h);
    soft_minimum(self, op, 1, h, h);
    for (Index i = 0; i < source->count; i++) residual[i] = h[source->atoms[i]] - x[i];
    for (Index i = 0; i < source->count; i++) self->rows[i] = -residual[i];
    exponentials(source->count, self->rows, self->rows);
    return relative_l1_error(source->count, source->weights, self->rows);
}

static double grid_evaluate(Operator *op, const double *x, double *residual)
{
    Grid *self = op->own;
    Index n = op->source->count;
    self->in_logs = 0;
    if (!self->by_products || !scale_columns(op, self, x) || !scale_rows(op, self))
        return evaluate_in_logs(op, self, x, residual);
    for (Index i = 0; i < n; i++) self->rows[i] *= self->u[i];
    logarithms(n, self->rows, residual);
    for (Index i = 0; i < n; i++) residual[i] = -residual[i];
    double error = relative_l1_error(n, op->source->weights, self->rows);
    int finite = isfinite(error) && largest_size(n, residual) < INFINITY; /* a marginal may have left floating point */
    return finite ? error : evaluate_in_logs(op, self, x, residual);
}

static void grid_potential(const Operator *op, double *g)
{
    const Grid *self = op->own;
    Index m = op->target->count;
    if (self->in_logs) {
        memcpy(g, self->columns, (size_t)m * sizeof *g);
        return;
    }
    logarithms(m, self->columns, g);
    for (Index j = 0; j < m; j++) g[j] = self->offset - self->shift - g[j];
}

/* The same as `settle_small_masses`, axis by axis. */
static void settle_on_grid(const Operator *op, Grid *self, const double *f, double *g)
{
    Index n = op->costs->n, m = op->costs->m, next = 0;
    logarithms(n, op->a, self->h);
    for (Index i = 0; i < n; i++) self->h[i] += f[i];
    soft_minimum(self, op, 0, self->h, self->h);
    for (Index j = 0; j < m; j++) {
        if (next < op->target->count && op->target->atoms[next] == j)
            next++;
        else if (op->b[j] > 0)
            g[j] = self->h[j];
    }
}

/* Put the best g for x on all atoms, by products with u if that is in place. */
static void transform(const Operator *op, Grid *self, const double *x, int in_place, double *g)
{
    Index m = op->costs->m;
    int exact = in_place;
    if (exact) {
        give(&self->source, self->u);
        aim(self, self->forward, &self->source, NULL, self->target_sizes, self->to_target);
        const double *sums = product(self, &self->source, NULL, self->target_sizes, self->to_target);
        exact = are_exact(self, m, sums, op->source->count, self->u);
        logarithms(m, sums, g);
        for (Index j = 0; j < m; j++) g[j] = self->offset - self->shift - g[j];
    }
    if (!exact) {
        spread_logs(op->source, op->costs->n, x, self->h);
        soft_minimum(self, op, 0, self->h, g);
    }
}

void transform_on_grid(Operator *op, const double *x, double *g)
{
    Grid *self = op->own;
    transform(op, self, x, self->by_products && scale_source(op, self, x), g);
}

/* Put the best g for x, and the best f for that, on all atoms. */
static int grid_extend(Operator *op, const double *x, double *f, double *g)
{
    Grid *self = op->own;
    Index n = op->costs->n, m = op->costs->m;
    transform(op, self, x, !self->in_logs, g);
    int exact = !self->in_logs;
    if (exact) {
        give(&self->target, self->v);
        if (!self->everywhere) aim(self, self->backward, &self->target, NULL, self->source_sizes, self->to_source);
        const double *sums = product(self, &self->target, NULL, self->source_sizes, self->to_source);
        exact = are_exact(self, n, sums, op->target->count, self->v);
        logarithms(n, sums, f);
        for (Index i = 0; i < n; i++) f[i] = self->shift - f[i];
    }
    if (!exact) {
        for (Index j = 0; j < op->target->count; j++) self->columns[j] = g[op->target->atoms[j]];
        spread_logs(op->target, m, self->columns, self->h);
        soft_minimum(self, op, 1, self->h, f);
    }
    for (Index i = 0; i < op->source->count; i++) f[op->source->atoms[i]] = x[i];
    if (leaves_mass(n, op->a, op->source) && leaves_mass(m, op->b, op->target)) settle_on_grid(op, self, f, g);
    return 1;
}

static void grid_close(Operator *op)
{
    (void)op;
}

static Index panel_numbers(const Costs *costs, int axis)
{
    Index rows = costs->rows[axis], columns = costs->columns[axis];
    return (rows + LANES) * (columns + LANES);
}

static Index scratch_numbers(const Costs *costs)
{
    Index most = 0;
    for (int k = 0; k < costs->axes; k++) most = panel_numbers(costs, k) > most ? panel_numbers(costs, k) : most;
    return 4 * most;
}

size_t grid_room(const Costs *costs)
{
    Index n = costs->n, m = costs->m;
    size_t bytes = 2 * room_for(sizeof(Grid)) + 3 * room_for(n) + 3 * room_for(m) + 2 * room_for(n > m ? n : m);
    bytes += 3 * room_for(most_numbers(costs)) + room_for(scratch_numbers(costs)) + room_for(n > m ? n : m);
    for (int k = 0; k < costs->axes; k++) bytes += 4 * room_for(panel_numbers(costs, k));
    return bytes + room_for(LANES * (n > m ? n : m));
}

/* `everywhere`: products with v are made on the whole grid in each step, since they are asked for there. */
int open_grid(Operator *op, Arena *arena, int everywhere)
{
    const Costs *costs = op->costs;
    Grid *self = (Grid *)take_numbers(arena, (Index)sizeof(Grid) / (Index)sizeof(double) + 1);
    Index n = costs->n, m = costs->m, longest = largest(costs->rows, costs->axes);
    Index other = largest(costs->columns, costs->axes);
    self->axes = costs->axes;
    self->everywhere = everywhere;
    self->in_logs = 0;
    for (int k = 0; k < costs->axes; k++) {
        self->source_sizes[k] = costs->rows[k];
        self->target_sizes[k] = costs->columns[k];
        self->forward[k] = take_numbers(arena, panel_numbers(costs, k));
        self->backward[k] = take_numbers(arena, panel_numbers(costs, k));
        self->to_target[k] = take_numbers(arena, panel_numbers(costs, k));
        self->to_source[k] = take_numbers(arena, panel_numbers(costs, k));
    }
    self->source.places = take_indices(arena, n);
    self->target.places = take_indices(arena, m);
    self->source.given = take_numbers(arena, n > m ? n : m);
    self->target.given = take_numbers(arena, n > m ? n : m);
    self->u = take_numbers(arena, n);
    self->rows = take_numbers(arena, n);
    self->v = take_numbers(arena, m);
    self->columns = take_numbers(arena, m);
    self->room[0] = take_numbers(arena, most_numbers(costs));
    self->room[1] = take_numbers(arena, most_numbers(costs));
    self->h = take_numbers(arena, n > m ? n : m);
    self->scratch = take_numbers(arena, scratch_numbers(costs));
    self->strip = take_numbers(arena, LANES * ((longest > other ? longest : other) + LANES));
    op->own = self;
    op->evaluate = grid_evaluate;
    op->potential = grid_potential;
    op->extend = grid_extend;
    op->close = grid_close;
    make_kernels(op, self);
    if (!self->by_products) return 1;
    find_box(op->source, self->axes, self->source_sizes, &self->source);
    find_box(op->target, self->axes, self->target_sizes, &self->target);
    aim(self, self->forward, &self->source, &self->target, self->target_sizes, self->to_target);
    aim(self, self->backward, &self->target, everywhere ? NULL : &self->source, self->source_sizes, self->to_source);
    return 1;
}

/* After a point was evaluated: put the f that a Sinkhorn step leads to on all atoms, and a - P 1 on those with mass. */
int step_on_grid(Operator *op, const double *residual, const double *x, double *following, double *missing)
{
    Grid *self = op->own;
    Index n = op->costs->n;
    int exact = !self->in_logs && self->everywhere;
    if (exact) { /* the last product was with v, everywhere */
        const double *sums = self->room[(self->axes - 1) % 2];
        exact = are_exact(self, n, sums, op->target->count, self->v);
        logarithms(n, sums, following);
        for (Index i = 0; i < n; i++) following[i] = self->shift - following[i];
    }
    if (!exact) {
        grid_potential(op, self->v);
        spread_logs(op->target, op->costs->m, self->v, self->h);
        soft_minimum(self, op, 1, self->h, following);
    }
    for (Index i = 0; i < n; i++) missing[i] = 0;
    for (Index i = 0; i < op->source->count; i++) {
        following[op->source->atoms[i]] = x[i] + residual[i];
        missing[op->source->atoms[i]] = op->source->weights[i] * (1 - self->rows[i]);
    }
    return 1;
}
