/* The kernel between atoms with mass as a matrix, with the potentials of a recent point absorbed.

   K_ij = exp(x0_i + log a_i - C_ij - top_j), top_j such that the largest entry of a column is one. Where products with
   it lose digits, the point at hand is absorbed; rows of which no mass is left then are summed in the log domain. Tiles
   of columns lie one after another (tiles.c). */

#include "core.h"

#include <float.h>
#include <math.h>
#include <string.h>

typedef struct {
    Columns columns;
    Index n, m;
    int absorbed;
    double shift;
    double *K, *origin, *tops, *u, *v, *sums, *lanes, *rows, *row, *scratch;
} Matrix;

enum { PART = 64 };
static const double EXACT = 1e18;      /* how far sums must be above what is lost in them */
static const double WIDEST = 600;      /* exponents of scalings may differ by this much */
static const double SMALLEST = 1e-250; /* marginals down to which logarithms of sums are exact */

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
    for (Index i = 0; i < n; i++) self->u[i] = x[i] + op->source->logs[i];
    for (Index first = 0; first < m; first += TILE) {
        Index some = m - first < TILE ? m - first : TILE, width = width_of_tile(some);
        double *K = self->K + first * n, *tops = self->tops + first;
        for (Index j = 0; j < some; j++) tops[j] = -INFINITY;
        for (Index top = 0; top < n; top += PART) { /* rows that stay in the nearest cache */
            Index rows = n - top < PART ? n - top : PART;
            cost_tile(op->costs, op->inverse_eps, rows, op->source->atoms + top, &self->columns, first, some,
                      K + top * width, width);
            for (Index i = top; i < top + rows; i++) raise_tops(some, self->u[i], K + i * width, tops);
        }
        for (Index top = 0; top < n; top += PART) {
            Index end = n - top < PART ? n : top + PART;
            for (Index i = top; i < end; i++) {
                below_tops(some, self->u[i], tops, K + i * width);
                for (Index j = some; j < width; j++) K[i * width + j] = -INFINITY;
            }
            exponentials((end - top) * width, K + top * width, K + top * width);
        }
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

/* Put weights over sums there for some columns: the scalings that make the marginal the weights. */
static void scale_columns(const Operator *op, Matrix *self, Index first, Index count)
{
    quotients(count, op->target->weights + first, self->sums + first, self->v + first);
    for (Index j = first; j < first + count && op->relaxed; j++) self->v[j] *= op->factors[j];
}

/* Put the sums of both sides for x into place, or of columns; return whether they have all their digits: 1, in columns
   only: 0, or not: -1. Each tile of columns is summed over twice while it is in a cache, unless the scalings of all
   columns depend on each other, by the level. */
static int multiply(Operator *op, Matrix *self, const double *x, int both)
{
    Index n = self->n, m = self->m;
    for (Index i = 0; i < n; i++) self->u[i] = x[i] - self->origin[i];
    Range range = range_of(n, self->u);
    self->shift = range.most;
    if (!(range.most - range.least <= WIDEST)) return -1;
    for (Index i = 0; i < n; i++) self->u[i] -= self->shift;
    exponentials(n, self->u, self->u);
    memset(self->lanes, 0, (size_t)(4 * n) * sizeof *self->lanes);
    for (Index first = 0; first < m; first += TILE) {
        Index some = m - first < TILE ? m - first : TILE;
        sum_columns_of_tile(n, some, self->K + first * n, self->u, self->sums + first);
        if (!both || op->relaxed) continue;
        scale_columns(op, self, first, some);
        add_rows_of_tile(n, some, self->K + first * n, self->v + first, self->lanes);
    }
    if (!are_exact(m, self->sums, n, 1)) return -1;
    if (op->relaxed) {
        exact_potential(self, op->exact);
        price_columns(op, x);
    }
    if (!both) return 1;
    if (op->relaxed) {
        scale_columns(op, self, 0, m);
        for (Index first = 0; first < m; first += TILE)
            add_rows_of_tile(n, m - first < TILE ? m - first : TILE, self->K + first * n, self->v + first, self->lanes);
    }
    add_lanes(n, self->lanes, self->rows);
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
    return bytes_for(n * (m + TILE)) + 3 * bytes_for(n) + bytes_for(4 * n) + 5 * bytes_for(m + TILE) + 2 * bytes_for(sizeof(Matrix)) +
           columns_bytes(costs, m);
}

void open_matrix(Operator *op, Arena *arena)
{
    Matrix *self = (Matrix *)take_numbers(arena, (Index)sizeof(Matrix) / (Index)sizeof(double) + 1);
    self->n = op->source->count;
    self->m = op->target->count;
    self->absorbed = 0;
    self->K = take_numbers(arena, self->n * (self->m + TILE));
    self->lanes = take_numbers(arena, 4 * self->n);
    double **of_source[] = {&self->origin, &self->u, &self->rows};
    double **of_target[] = {&self->tops, &self->v, &self->sums, &self->row, &self->scratch};
    for (int k = 0; k < 3; k++) *of_source[k] = take_numbers(arena, self->n);
    for (int k = 0; k < 5; k++) *of_target[k] = take_numbers(arena, self->m + TILE);
    memset(self->v, 0, (size_t)(self->m + TILE) * sizeof *self->v);
    op->own = self;
    op->evaluate = matrix_evaluate;
    op->potential = matrix_potential;
    op->extend = matrix_extend;
    prepare_columns(&self->columns, op->costs, op->target->count, op->target->atoms, arena);
}
