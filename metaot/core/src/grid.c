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

enum { MOST_STRIPS = 16, WORTH_THREADS = 1 << 24 };
/* The most threads of a product, and its least number of multiplications for more than one. */

typedef struct {
    const Support *support;
    Index low[MOST_AXES], high[MOST_AXES], box;
    Index *offsets; /* of the atoms in the box */
    double *given; /* what is multiplied, in the box */
} Box;

typedef struct {
    const Kernels *kernels;
    int axes, in_logs, everywhere, always_exact, threads;
    Index source_sizes[MOST_AXES], target_sizes[MOST_AXES];
    double *to_target[MOST_AXES], *to_source[MOST_AXES]; /* the panels of the boxes */
    double shift, largest_v;
    Box source, target;
    double *buffers[2], *h, *strip, *u, *columns, *rows, *scratch;
} Grid;

/* Rows of a factor for a block of a product, and a corner of it. */
static Index strip_numbers(Index terms)
{
    return LANES * (terms + 2 * LANES);
}

static Index longest(const Costs *costs)
{
    Index most = 1;
    for (int k = 0; k < costs->axes; k++) {
        most = costs->rows[k] > most ? costs->rows[k] : most;
        most = costs->columns[k] > most ? costs->columns[k] : most;
    }
    return most;
}

/* The most numbers of a product along some axes, and a few rows more. */
static Index product_numbers(const Costs *costs)
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
    return most + LANES * longest(costs);
}

/* Have the kernels of all axes at this eps; numbers below the smallest normal one are zero. Return whether there is
   enough memory. */
static int prepare_kernels(Kernels *kernels, const Costs *costs, double inverse_eps)
{
    double range = 0, lowest[MOST_AXES], offset = 0;
    size_t bytes = 0;
    if (kernels->memory.memory && kernels->inverse_eps == inverse_eps) return 1;
    for (int k = 0; k < costs->axes; k++) bytes += bytes_for(costs->rows[k] * costs->columns[k]);
    if (!open_arena(&kernels->memory, bytes)) return 0;
    for (int k = 0; k < costs->axes; k++) {
        Range found = range_of(costs->rows[k] * costs->columns[k], costs->axis[k]);
        lowest[k] = found.least;
        range += (found.most - found.least) * inverse_eps;
        offset += found.least * inverse_eps;
    }
    kernels->inverse_eps = inverse_eps;
    kernels->always_exact = range <= ALWAYS_EXACT;
    kernels->by_products = range <= WORTH_TRYING;
    double raised = kernels->always_exact ? 0 : RAISED, each = raised / costs->axes;
    kernels->offset = raised + offset;
    kernels->lost = 4 * (double)costs->n * DBL_MIN * exp(raised - each);
    for (int k = 0; k < costs->axes && kernels->by_products; k++) {
        if (k > 0 && costs->axis[k] == costs->axis[k - 1]) {
            kernels->of_axis[k] = kernels->of_axis[k - 1];
            continue;
        }
        Index entries = costs->rows[k] * costs->columns[k];
        double *K = kernels->of_axis[k] = take_numbers(&kernels->memory, entries);
        for (Index e = 0; e < entries; e++) K[e] = (lowest[k] - costs->axis[k][e]) * inverse_eps;
        shifted_exponentials(entries, K, -each, K);
    }
    return 1;
}

/* Put columns of a matrix side by side, a panel of 8 at a time; the last one is filled up with zeros. One entry is
   `along` from the next in its column, and `across` in its row. */
static void make_panels(const double *matrix, Index along, Index across, Index terms, Index width, double *panels)
{
    for (Index first = 0; first < width; first += LANES) {
        Index some = width - first < LANES ? width - first : LANES;
        const double *row = matrix + first * across;
        if (some == LANES && across == 1)
            for (Index n = 0; n < terms; n++) memcpy(panels + n * LANES, row + n * along, LANES * sizeof *row);
        else
            for (Index n = 0; n < terms; n++)
                for (Index k = 0; k < LANES; k++)
                    panels[n * LANES + k] = k < some ? row[n * along + k * across] : 0;
        panels += terms * LANES;
    }
}

typedef struct {
    SumBlock *sum;
    const double *values, *panels;
    Index terms, rows, width, each, next;
    double *strips, *out;
    Index taken;
} Multiplication; /* of values^T and a matrix, given in panels; `each` rows at a time */

/* Put some rows of the product into place, a block of 8 x 8 at a time; 7 rows more may be written. */
static void multiply_part(const Multiplication *self, Index first, Index end, double *strip)
{
    Index terms = self->terms, rows = self->rows, width = self->width, rest = width % LANES;
    double *corner = strip + LANES * terms;
    for (Index r = first; r < end; r += LANES) {
        double *out = self->out + r * width;
        for (Index n = 0; n < terms; n++)
            memcpy(strip + n * LANES, self->values + n * rows + r, LANES * sizeof *strip);
        for (Index i = 0; i + LANES <= width; i += LANES)
            self->sum(terms, strip, self->panels + i * terms, out + i, width);
        if (!rest) continue;
        self->sum(terms, strip, self->panels + (width - rest) * terms, corner, LANES);
        for (Index s = 0; s < LANES; s++)
            memcpy(out + s * width + width - rest, corner + s * LANES, (size_t)rest * sizeof *out);
    }
}

static void take_part_in_product(void *shared)
{
    Multiplication *self = shared;
    double *strip = self->strips + take_next(&self->taken) * strip_numbers(self->terms);
    for (Index part; (part = take_next(&self->next)) * self->each < self->rows;) {
        Index first = part * self->each, end = first + self->each;
        multiply_part(self, first, end < self->rows ? end : self->rows, strip);
    }
}

/* Make a product on the threads for which there are strips. */
static void multiply(const Grid *self, const double *values, Index terms, Index rows, const double *panels, Index width,
                     double *out)
{
    int threads = terms * rows * width < WORTH_THREADS ? 1 : self->threads;
    Index each = threads == 1 ? rows : (rows / (4 * threads) + LANES) / LANES * LANES;
    Multiplication task = {best_sum_block(), values, panels, terms, rows, width, each, 0, self->strip, out, 0};
    run_on_threads(take_part_in_product, &task, threads);
}

/* Prepare products from one box to the other, or to the whole grid of that side. */
static void prepare_product(const Grid *self, int to_source, int everywhere)
{
    const Box *from = to_source ? &self->target : &self->source, *to = to_source ? &self->source : &self->target;
    for (int k = 0; k < self->axes; k++) {
        Index columns = self->target_sizes[k], sizes = to_source ? self->source_sizes[k] : columns;
        Index first = everywhere ? 0 : to->low[k], width = everywhere ? sizes : to->high[k] - first;
        Index along = to_source ? 1 : columns, across = to_source ? columns : 1;
        make_panels(self->kernels->of_axis[k] + from->low[k] * along + first * across, along, across,
                    from->high[k] - from->low[k], width, to_source ? self->to_source[k] : self->to_target[k]);
    }
}

/* Multiply what is given along all axes, as was prepared: the first one becomes the last, until all have had their
   turn. */
static const double *product(const Grid *self, int to_source, int everywhere)
{
    const Box *from = to_source ? &self->target : &self->source, *to = to_source ? &self->source : &self->target;
    const double *values = from->given;
    Index count = from->box;
    for (int k = 0; k < self->axes; k++) {
        Index terms = from->high[k] - from->low[k], rows = count / terms;
        Index sizes = to_source ? self->source_sizes[k] : self->target_sizes[k];
        Index width = everywhere ? sizes : to->high[k] - to->low[k];
        multiply(self, values, terms, rows, to_source ? self->to_source[k] : self->to_target[k], width,
                 self->buffers[k % 2]);
        values = self->buffers[k % 2];
        count = rows * width;
    }
    return values;
}

/* Put products of numbers at these offsets. */
FOR_EACH_PROCESSOR
static void scatter_product(Index count, const double *restrict x, const double *restrict y,
                            const Index *restrict offsets, double *restrict given)
{
    for (Index k = 0; k < count; k++) given[offsets[k]] = x[k] * y[k];
}

/* Take sums from their offsets, and put weights divided by them there. */
FOR_EACH_PROCESSOR
static void gather_and_divide(Index count, const double *restrict sums, const Index *restrict offsets,
                            const double *restrict weights, double *restrict taken, double *restrict given)
{
    for (Index k = 0; k < count; k++) {
        taken[k] = sums[offsets[k]];
        given[offsets[k]] = weights[k] * (1 / taken[k]);
    }
}

/* Take sums from their offsets, and put them there times weights over the squares of other sums. */
FOR_EACH_PROCESSOR
static void smooth_columns(Index count, const double *restrict sums, const Index *restrict offsets,
                           const double *restrict weights, const double *restrict columns, double *restrict given)
{
    for (Index k = 0; k < count; k++) {
        double inverse = 1 / columns[k];
        given[offsets[k]] = weights[k] * inverse * (sums[offsets[k]] * inverse);
    }
}

FOR_EACH_PROCESSOR
static void gather(Index count, const double *restrict sums, const Index *restrict offsets, double *restrict taken)
{
    for (Index k = 0; k < count; k++) taken[k] = sums[offsets[k]];
}

FOR_EACH_PROCESSOR
static void multiply_by(Index count, const double *restrict factors, double *restrict x)
{
    for (Index k = 0; k < count; k++) x[k] *= factors[k];
}

/* Put top - log of sums into x. */
FOR_EACH_PROCESSOR
static void potential_of(Index count, const double *sums, double top, double *x)
{
    logarithms(count, sums, x);
    for (Index k = 0; k < count; k++) x[k] = top - x[k];
}

/* Find the smallest box around a support, and the offsets of its atoms there. */
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
        box->offsets[k] = begin + atom;
    }
    memset(box->given, 0, (size_t)box->box * sizeof(double));
}

/* Return whether sums have all their digits: they are far above what numbers below the smallest one can have added,
   after the other axes have multiplied it, and below the largest. */
static int are_exact(const Grid *self, Range sums, double largest_factor)
{
    double lost = EXACT * self->kernels->lost * (largest_factor > 1 ? largest_factor : 1);
    return self->always_exact || (sums.least > lost && sums.most < INFINITY);
}

static Range range_unless_exact(const Grid *self, Index count, const double *sums)
{
    return self->always_exact ? (Range){1, 1} : range_of(count, sums);
}

/* Give u = e^(x - shift) to products; return whether x is finite. */
static int scale_source(const Operator *op, Grid *self, const double *x)
{
    Index n = op->source->count;
    self->shift = range_of(n, x).most;
    if (!(fabs(self->shift) < INFINITY)) return 0;
    shifted_exponentials(n, x, self->shift, self->u);
    scatter_product(n, op->source->weights, self->u, self->source.offsets, self->source.given);
    return 1;
}

/* Put u and the products with it into place, and give the best v to products; return whether they are exact. */
static int scale_columns(Operator *op, Grid *self, const double *x)
{
    const Support *target = op->target;
    if (!scale_source(op, self, x)) return 0;
    gather_and_divide(target->count, product(self, 0, 0), self->target.offsets, target->weights, self->columns,
                    self->target.given);
    Range range = range_unless_exact(self, target->count, self->columns);
    self->largest_v = 1 / range.least;
    if (op->relaxed) {
        potential_of(target->count, self->columns, self->kernels->offset - self->shift, op->exact);
        price_columns(op, x);
        for (Index j = 0; j < target->count; j++) self->target.given[self->target.offsets[j]] *= op->factors[j];
        self->largest_v *= range_of(target->count, op->factors).most;
    }
    return are_exact(self, range, 1);
}

/* Give v to products again, for weights of the target that have changed since. */
FOR_EACH_PROCESSOR
static void divide(Index count, const double *restrict weights, const double *restrict sums,
                   const Index *restrict offsets, double *restrict given)
{
    for (Index k = 0; k < count; k++) given[offsets[k]] = weights[k] / sums[k];
}

/* Put the products with v into place, on the source's atoms with mass; return whether they are exact. */
static int scale_rows(const Operator *op, Grid *self)
{
    Index n = op->source->count;
    const Index *offsets = self->everywhere ? op->source->atoms : self->source.offsets;
    gather(n, product(self, 1, self->everywhere), offsets, self->rows);
    return are_exact(self, range_unless_exact(self, n, self->rows), self->largest_v);
}

/* Sum exponentials along one axis in the log domain: out_ri = log sum_j exp(z_jr - c_ij), c in units of eps. By products
   with exp(-c) where numbers below the smallest one add nothing. */
static void soft_maximum_along(const double *cost, Index stride_i, Index stride_j, double inverse_eps, Index terms,
                               Index width, const double *z, Index rows, double *scratch, double *out)
{
    double *c = scratch, *K = c + terms * width, *line = K + terms * width + LANES, *u = line + terms + LANES;
    double *sums = u + terms + LANES, smallest = 1e-250;
    for (Index j = 0; j < terms; j++)
        for (Index i = 0; i < width; i++) c[j * width + i] = cost[i * stride_i + j * stride_j] * inverse_eps;
    double least = range_of(terms * width, c).least;
    for (Index e = 0; e < terms * width; e++) K[e] = -c[e];
    shifted_exponentials(terms * width, K, -least, K);
    for (Index r = 0; r < rows; r++, out += width) {
        for (Index j = 0; j < terms; j++) line[j] = z[j * rows + r];
        double top = range_of(terms, line).most;
        if (!(fabs(top) < INFINITY)) { /* minus infinity: of nothing */
            for (Index i = 0; i < width; i++) out[i] = top;
            continue;
        }
        shifted_exponentials(terms, line, top, u);
        memset(sums, 0, (size_t)width * sizeof *sums);
        for (Index j = 0; j < terms; j++)
            if (u[j] != 0) subtract_multiple(width, -u[j], K + j * width, sums);
        logarithms(width, sums, out);
        for (Index i = 0; i < width; i++) {
            out[i] += top - least;
            if (sums[i] > smallest) continue;
            for (Index j = 0; j < terms; j++) u[j] = line[j] - c[j * width + i];
            out[i] = log_sum_exp(terms, u, u);
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
        double *out = self->buffers[k % 2];
        soft_maximum_along(costs->axis[k], across, along, op->inverse_eps, terms, width, values, lines,
                           self->scratch, out);
        values = out;
        count = lines * width;
    }
    for (Index j = 0; j < count; j++) g[j] = -values[j];
}

/* Put log weights + potential of a support on its whole grid into h; minus infinity elsewhere. */
static void scatter_logs(const Support *support, Index count, const double *potential, double *h)
{
    for (Index k = 0; k < count; k++) h[k] = -INFINITY;
    logarithms(support->count, support->weights, support->logs);
    for (Index k = 0; k < support->count; k++) h[support->atoms[k]] = potential[k] + support->logs[k];
}

/* The second half of an evaluation: g is in `columns`. */
static double rows_in_logs(Operator *op, Grid *self, const double *x, double *residual)
{
    const Support *source = op->source;
    double *h = self->h;
    scatter_logs(op->target, op->costs->m, self->columns, h);
    soft_minimum(self, op, 1, h, h);
    for (Index i = 0; i < source->count; i++) residual[i] = h[source->atoms[i]] - x[i] - op->level;
    for (Index i = 0; i < source->count; i++) self->rows[i] = -residual[i];
    exponentials(source->count, self->rows, self->rows);
    if (op->relaxed) return price_rows(op, x, self->rows, residual);
    return relative_l1_error(source->count, source->weights, self->rows);
}

static double evaluate_in_logs(Operator *op, Grid *self, const double *x, double *residual)
{
    const Support *source = op->source, *target = op->target;
    double *h = self->h;
    self->in_logs = 1;
    scatter_logs(source, op->costs->n, x, h);
    soft_minimum(self, op, 0, h, h);
    for (Index j = 0; j < target->count; j++) self->columns[j] = h[target->atoms[j]]; /* g itself */
    if (op->relaxed) {
        memcpy(op->exact, self->columns, (size_t)target->count * sizeof *h);
        price_columns(op, x);
        memcpy(self->columns, op->best, (size_t)target->count * sizeof *h);
    }
    return residual ? rows_in_logs(op, self, x, residual) : 0;
}

/* The second half of an evaluation by products, after `scale_rows`; NaN where a marginal has left floating point. */
static double rows_by_products(Operator *op, Grid *self, const double *x, double *residual)
{
    Index n = op->source->count;
    multiply_by(n, self->u, self->rows);
    potential_of(n, self->rows, 0, residual);
    int finite = largest_size(n, residual) < INFINITY;
    if (op->relaxed) return finite ? price_rows(op, x, self->rows, residual) : NAN;
    double error = relative_l1_error(n, op->source->weights, self->rows);
    return finite && isfinite(error) ? error : NAN;
}

static double grid_evaluate(Operator *op, const double *x, double *residual)
{
    Grid *self = op->own;
    self->in_logs = 0;
    if (!self->kernels->by_products || !scale_columns(op, self, x) || (residual && !scale_rows(op, self)))
        return evaluate_in_logs(op, self, x, residual);
    if (!residual) return 0;
    double error = rows_by_products(op, self, x, residual);
    return isnan(error) ? evaluate_in_logs(op, self, x, residual) : error;
}

/* After a point was evaluated: put sqrt(P 1), for a plan of mass one, into the roots, and a u over them into the scale of
   `smooth_on_grid`; return whether products are exact. */
int scale_smoothing(const Operator *op, double *roots, double *scale)
{
    const Grid *self = op->own;
    Index n = op->source->count;
    const double *a = op->source->weights;
    if (self->in_logs) return 0;
    double mass = inner_product(n, a, self->rows);
    for (Index i = 0; i < n; i++) {
        roots[i] = sqrt(a[i] * self->rows[i] / mass);
        scale[i] = a[i] * self->u[i] / (roots[i] * sqrt(mass));
    }
    return 1;
}

/* Put diag(scale) K diag(w / (K^T a u)^2) K^T diag(scale) y into out, on the source's atoms with mass, for the sums w of
   the plan's columns. */
void smooth_on_grid(Operator *op, const double *scale, const double *y, double *out)
{
    Grid *self = op->own;
    Index n = op->source->count, m = op->target->count;
    scatter_product(n, scale, y, self->source.offsets, self->source.given);
    smooth_columns(m, product(self, 0, 0), self->target.offsets, op->target->weights, self->columns,
                   self->target.given);
    for (Index j = 0; op->relaxed && j < m; j++) self->target.given[self->target.offsets[j]] *= op->factors[j];
    gather(n, product(self, 1, 0), self->source.offsets, out);
    multiply_by(n, scale, out);
}

static void grid_potential(const Operator *op, double *g)
{
    const Grid *self = op->own;
    Index m = op->target->count;
    if (op->relaxed)
        memcpy(g, op->best, (size_t)m * sizeof *g);
    else if (self->in_logs)
        memcpy(g, self->columns, (size_t)m * sizeof *g);
    else
        potential_of(m, self->columns, self->kernels->offset - self->shift, g);
}

/* After x was evaluated: the residual and its error for new weights of the target, with the same g. */
double finish_on_grid(Operator *op, const double *x, double *residual)
{
    Grid *self = op->own;
    const Support *target = op->target;
    if (!self->in_logs) {
        divide(target->count, target->weights, self->columns, self->target.offsets, self->target.given);
        double error = scale_rows(op, self) ? rows_by_products(op, self, x, residual) : NAN;
        if (!isnan(error)) return error;
        grid_potential(op, self->columns);
        self->in_logs = 1;
    }
    return rows_in_logs(op, self, x, residual);
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
            g[j] = best_of(op->target_price, self->h[j]);
    }
}

/* Put the best g for x on all atoms, by products if u was given to them. */
static void transform(const Operator *op, Grid *self, const double *x, int given, double *g)
{
    Index m = op->costs->m;
    int exact = given;
    if (exact) {
        if (self->target.box < m) prepare_product(self, 0, 1);
        const double *sums = product(self, 0, 1);
        exact = are_exact(self, range_unless_exact(self, m, sums), 1);
        potential_of(m, sums, self->kernels->offset - self->shift, g);
    }
    if (!exact) {
        scatter_logs(op->source, op->costs->n, x, self->h);
        soft_minimum(self, op, 0, self->h, g);
    }
}

void transform_on_grid(Operator *op, const double *x, double *g)
{
    Grid *self = op->own;
    transform(op, self, x, self->kernels->by_products && scale_source(op, self, x), g);
}

/* Put the best f on all atoms for g, which is the best for x. */
static void transform_back(const Operator *op, Grid *self, const double *g, double *f)
{
    Index n = op->costs->n;
    int exact = !self->in_logs;
    if (exact) {
        if (!self->everywhere && self->source.box < n) prepare_product(self, 1, 1);
        const double *sums = product(self, 1, 1);
        exact = are_exact(self, range_unless_exact(self, n, sums), self->largest_v);
        potential_of(n, sums, self->shift + op->level, f);
    }
    if (!exact) {
        for (Index j = 0; j < op->target->count; j++) self->columns[j] = g[op->target->atoms[j]];
        scatter_logs(op->target, op->costs->m, self->columns, self->h);
        soft_minimum(self, op, 1, self->h, f);
    }
}

/* Put the best g for x, and the best f for that, on all atoms; where all have mass these are known. */
static int grid_extend(Operator *op, const double *x, double *f, double *g)
{
    Grid *self = op->own;
    if (op->target->count == op->costs->m)
        grid_potential(op, g);
    else
        transform(op, self, x, !self->in_logs, g);
    if (op->relaxed && op->target->count < op->costs->m)
        for (Index j = 0; j < op->costs->m; j++) g[j] = best_of(op->target_price, g[j] - op->level);
    if (!f) return 1;
    if (op->source->count < op->costs->n) transform_back(op, self, g, f);
    if (op->relaxed) price_absent(op->source_price, op->costs->n, op->source, f);
    for (Index i = 0; i < op->source->count; i++) f[op->source->atoms[i]] = x[i] + op->level;
    if (op->source->leaves_mass && op->target->leaves_mass) settle_on_grid(op, self, f, g);
    return 1;
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

/* What an operator has for itself. */
size_t grid_bytes_beside(const Costs *costs)
{
    Index n = costs->n, m = costs->m;
    size_t bytes = 2 * bytes_for(sizeof(Grid)) + 2 * bytes_for(n) + bytes_for(m) + bytes_for(n > m ? n : m);
    for (int k = 0; k < costs->axes; k++) bytes += 2 * bytes_for(panel_numbers(costs, k));
    return bytes;
}

size_t grid_bytes(const Costs *costs)
{
    Index n = costs->n, m = costs->m;
    size_t bytes = grid_bytes_beside(costs) + bytes_for(n) + bytes_for(m) + 2 * bytes_for(n > m ? n : m);
    bytes += 2 * bytes_for(product_numbers(costs)) + bytes_for(scratch_numbers(costs));
    return bytes + bytes_for(MOST_STRIPS * strip_numbers(longest(costs)));
}

/* Take what operators share that have the same costs and the same target, from one of them or from the arena. */
static void take_shared(Grid *self, const Costs *costs, Arena *arena, const Grid *beside)
{
    Index n = costs->n, m = costs->m, most = n > m ? n : m;
    self->target.offsets = beside ? beside->target.offsets : take_indices(arena, m);
    self->target.given = beside ? beside->target.given : take_numbers(arena, most);
    self->rows = beside ? beside->rows : take_numbers(arena, n);
    self->h = beside ? beside->h : take_numbers(arena, most);
    self->scratch = beside ? beside->scratch : take_numbers(arena, scratch_numbers(costs));
    self->strip = beside ? beside->strip : take_numbers(arena, MOST_STRIPS * strip_numbers(longest(costs)));
    for (int k = 0; k < 2; k++)
        self->buffers[k] = beside ? beside->buffers[k] : take_numbers(arena, product_numbers(costs));
}

/* `everywhere`: products with v are made on the whole grid in each step, since they are asked for there. */
int open_grid(Operator *op, Workspace *workspace, int everywhere, const Operator *beside)
{
    const Costs *costs = op->costs;
    Arena *arena = &workspace->work;
    Grid *self = (Grid *)take_numbers(arena, (Index)sizeof(Grid) / (Index)sizeof(double) + 1);
    Index n = costs->n, m = costs->m;
    self->axes = costs->axes;
    self->threads = op->threads < MOST_STRIPS ? op->threads : MOST_STRIPS;
    self->everywhere = everywhere;
    self->in_logs = 0;
    for (int k = 0; k < costs->axes; k++) {
        self->source_sizes[k] = costs->rows[k];
        self->target_sizes[k] = costs->columns[k];
        self->to_target[k] = take_numbers(arena, panel_numbers(costs, k));
        self->to_source[k] = take_numbers(arena, panel_numbers(costs, k));
    }
    self->source.offsets = take_indices(arena, n);
    self->source.given = take_numbers(arena, n > m ? n : m);
    self->u = take_numbers(arena, n);
    self->columns = take_numbers(arena, m);
    take_shared(self, costs, arena, beside ? beside->own : NULL);
    op->own = self;
    op->evaluate = grid_evaluate;
    op->potential = grid_potential;
    op->extend = grid_extend;
    if (!prepare_kernels(&workspace->kernels, costs, op->inverse_eps)) return 0;
    self->kernels = &workspace->kernels;
    self->always_exact = self->kernels->always_exact && !op->relaxed;
    if (!self->kernels->by_products) return 1;
    find_box(op->source, self->axes, self->source_sizes, &self->source);
    find_box(op->target, self->axes, self->target_sizes, &self->target);
    prepare_product(self, 0, 0);
    prepare_product(self, 1, everywhere);
    return 1;
}

/* After a point was evaluated: put the f that a Sinkhorn step leads to on all atoms, and a - P 1 on those with mass. */
int step_on_grid(Operator *op, const double *residual, const double *x, double *following, double *missing)
{
    Grid *self = op->own;
    Index n = op->costs->n;
    int exact = !self->in_logs && self->everywhere;
    if (exact) { /* the last product was with v, everywhere */
        const double *sums = self->buffers[(self->axes - 1) % 2];
        exact = are_exact(self, range_unless_exact(self, n, sums), self->largest_v);
        potential_of(n, sums, self->shift, following);
    }
    if (!exact) {
        double *g = self->buffers[0];
        grid_potential(op, g);
        scatter_logs(op->target, op->costs->m, g, self->h);
        soft_minimum(self, op, 1, self->h, following);
    }
    for (Index i = 0; i < n; i++) missing[i] = 0;
    for (Index i = 0; i < op->source->count; i++) {
        following[op->source->atoms[i]] = x[i] + residual[i];
        missing[op->source->atoms[i]] = op->source->weights[i] * (1 - self->rows[i]);
    }
    return 1;
}
