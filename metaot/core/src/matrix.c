/* The kernel between atoms with mass as a matrix, with the potentials of a recent point absorbed.

   K_ij = exp(x0_i + log a_i - C_ij - top_j), top_j such that the largest entry of a column is one. Where products with
   it lose digits, the point at hand is absorbed; rows of which no mass is left then are summed in the log domain. */

#include "core.h"

#include <float.h>
#include <math.h>
#include <string.h>

typedef struct {
    Columns columns;
    Index n, m;
    int absorbed;
    double shift;
    double *K, *origin, *tops, *u, *v, *sums, *rows, *row, *scratch;
} Matrix;

static const double EXACT = 1e18;      /* how far sums must be above what is lost in them */
static const double WIDEST = 600;      /* exponents of scalings may differ by this much */
static const double SMALLEST = 1e-250; /* marginals down to which logarithms of sums are exact */

/* Put K^T u into sums, a few rows at a time. */
FOR_EACH_PROCESSOR
static void times_transposed(Index n, Index m, const double *restrict K, const double *restrict u,
                             double *restrict sums)
{
    enum { PART = 1024 };
    for (Index first = 0; first < m; first += PART) {
        Index some = m - first < PART ? m - first : PART, i = 0;
        double *out = sums + first;
        for (Index j = 0; j < some; j++) out[j] = 0;
        for (; i + 4 <= n; i += 4) {
            const double *p = K + i * m + first, *q = p + m, *r = q + m, *s = r + m;
            double a = u[i], b = u[i + 1], c = u[i + 2], d = u[i + 3];
            for (Index j = 0; j < some; j++) out[j] += (a * p[j] + b * q[j]) + (c * r[j] + d * s[j]);
        }
        for (; i < n; i++) {
            const double *p = K + i * m + first;
            double a = u[i];
            for (Index j = 0; j < some; j++) out[j] += a * p[j];
        }
    }
}

/* Put K v into rows. */
FOR_EACH_PROCESSOR
static void times(Index n, Index m, const double *restrict K, const double *restrict v, double *restrict rows)
{
    for (Index i = 0; i < n; i++) {
        const double *row = K + i * m;
        double lanes[4 * LANES] = {0};
        Index j = 0;
        for (; j + 4 * LANES <= m; j += 4 * LANES)
            for (int k = 0; k < 4 * LANES; k++) lanes[k] += row[j + k] * v[j + k];
        for (; j < m; j++) lanes[0] += row[j] * v[j];
        rows[i] = total(4 * LANES, lanes);
    }
}

FOR_EACH_PROCESSOR
static void quotients(Index count, const double *restrict x, const double *restrict y, double *restrict out)
{
    for (Index k = 0; k < count; k++) out[k] = x[k] / y[k];
}

/* Make K about the point x. */
static void absorb(const Operator *op, Matrix *self, const double *x)
{
    Index n = self->n, m = self->m;
    memcpy(self->origin, x, (size_t)n * sizeof *x);
    for (Index j = 0; j < m; j++) self->tops[j] = -INFINITY;
    for (Index i = 0; i < n; i++) {
        double *row = self->K + i * m;
        cost_row(op->costs, op->inverse_eps, op->source->atoms[i], &self->columns, row);
        raise_tops(m, x[i] + op->source->logs[i], row, self->tops);
    }
    for (Index i = 0; i < n; i++) {
        double *row = self->K + i * m;
        below_tops(m, x[i] + op->source->logs[i], self->tops, row);
        exponentials(m, row, row);
    }
    self->absorbed = 1;
}

/* Return whether all sums of a product have all their digits. */
static int are_exact(Index count, const double *sums, Index terms, double largest_factor)
{
    Range range = range_of(count, sums);
    return range.least > EXACT * 4 * (double)terms * DBL_MIN * largest_factor && range.most < INFINITY;
}

/* Put the g that makes the target's marginal the weights there. */
static void exact_potential(const Matrix *self, double *g)
{
    logarithms(self->m, self->sums, g);
    for (Index j = 0; j < self->m; j++) g[j] = -(self->shift + self->tops[j] + g[j]);
}

/* Put the sums of both sides for x into place, or of columns; return whether they have all their digits: 1, in columns
   only: 0, or not: -1. */
static int multiply(Operator *op, Matrix *self, const double *x, int both)
{
    Index n = self->n, m = self->m;
    for (Index i = 0; i < n; i++) self->u[i] = x[i] - self->origin[i];
    Range range = range_of(n, self->u);
    self->shift = range.most;
    if (!(range.most - range.least <= WIDEST)) return -1;
    for (Index i = 0; i < n; i++) self->u[i] -= self->shift;
    exponentials(n, self->u, self->u);
    times_transposed(n, m, self->K, self->u, self->sums);
    if (!are_exact(m, self->sums, n, 1)) return -1;
    if (op->relaxed) {
        exact_potential(self, op->exact);
        price_columns(op, x);
    }
    if (!both) return 1;
    quotients(m, op->target->weights, self->sums, self->v);
    for (Index j = 0; j < m && op->relaxed; j++) self->v[j] *= op->factors[j];
    times(n, m, self->K, self->v, self->rows);
    return are_exact(n, self->rows, m, range_of(m, self->v).most);
}

static void matrix_potential(const Operator *op, double *g)
{
    const Matrix *self = op->own;
    if (op->relaxed) memcpy(g, op->best, (size_t)self->m * sizeof *g);
    else exact_potential(self, g);
}

static double matrix_evaluate(Operator *op, const double *x, double *residual)
{
    Matrix *self = op->own;
    Index n = self->n, m = self->m;
    int exact = self->absorbed ? multiply(op, self, x, residual != NULL) : -1;
    if (exact < 1) {
        absorb(op, self, x);
        exact = multiply(op, self, x, residual != NULL);
        if (exact < 0) return NAN;
    }
    if (!residual) return 0;
    for (Index i = 0; i < n; i++) self->rows[i] *= self->u[i];
    quotients(n, op->source->weights, self->rows, residual);
    logarithms(n, residual, residual);
    double *h = NULL;
    for (Index i = 0; i < n; i++) { /* some rows may have next to nothing: their best f is far */
        if (self->rows[i] > SMALLEST) continue;
        if (!h) {
            h = self->scratch;
            matrix_potential(op, h);
            for (Index j = 0; j < m; j++) h[j] += op->target->logs[j];
        }
        Index atom = op->source->atoms[i];
        residual[i] = best_potential(op->costs, op->inverse_eps, atom, &self->columns, h, self->row) - x[i] - op->level;
    }
    if (op->relaxed) {
        quotients(n, self->rows, op->source->weights, op->ratio);
        return price_rows(op, x, op->ratio, residual);
    }
    return l1_distance(n, self->rows, op->source->weights);
}

static int matrix_extend(Operator *op, const double *x, double *f, double *g)
{
    Matrix *self = op->own;
    matrix_potential(op, self->scratch);
    return extend_priced(op, x, self->scratch, f, g);
}

size_t matrix_bytes(const Costs *costs, Index n, Index m)
{
    return bytes_for(n * m) + 3 * bytes_for(n) + 5 * bytes_for(m) + 2 * bytes_for(sizeof(Matrix)) +
           columns_bytes(costs, m);
}

void open_matrix(Operator *op, Arena *arena)
{
    Matrix *self = (Matrix *)take_numbers(arena, (Index)sizeof(Matrix) / (Index)sizeof(double) + 1);
    self->n = op->source->count;
    self->m = op->target->count;
    self->absorbed = 0;
    self->K = take_numbers(arena, self->n * self->m);
    double **of_source[] = {&self->origin, &self->u, &self->rows};
    double **of_target[] = {&self->tops, &self->v, &self->sums, &self->row, &self->scratch};
    for (int k = 0; k < 3; k++) *of_source[k] = take_numbers(arena, self->n);
    for (int k = 0; k < 5; k++) *of_target[k] = take_numbers(arena, self->m);
    op->own = self;
    op->evaluate = matrix_evaluate;
    op->potential = matrix_potential;
    op->extend = matrix_extend;
    prepare_columns(&self->columns, op->costs, op->target->count, op->target->atoms, arena);
}
