/* The kernel of a measure to itself: one half of a symmetric matrix, which each product reads once.

   K_ij = exp(offset - C_ij), offset the least cost of an atom to itself: no sum is below the term of its own atom. Tiles
   of TILE columns lie one after another, with the rows down to the last one on the diagonal. */

#include "core.h"

#include <float.h>
#include <math.h>
#include <string.h>

typedef struct {
    Columns columns;
    Index n, tiles;
    double offset;
    double *K, *w, *lanes, *sums, *above, *g, *row;
} Halves;

enum { PART = 64 };
static const double EXACT = 1e18; /* how far sums must be above what is lost in them */

static Index tiles_of(Index n)
{
    return (n + TILE - 1) / TILE;
}

/* Where the tiles of a matrix begin, one after another. */
static Index numbers_before(Index tile)
{
    return TILE * TILE * tile * (tile + 1) / 2;
}

/* The least cost of an atom to itself; where there is none, zero. */
static double least_own_cost(const Operator *op, const Columns *columns)
{
    double least = INFINITY, cost;
    if (op->costs->kind == CLOUDS) return 0;
    for (Index i = 0; i < op->source->count; i++) {
        cost_tile(op->costs, op->inverse_eps, 1, op->source->atoms + i, columns, i, 1, &cost, 1);
        if (cost < least) least = cost;
    }
    return least < INFINITY ? least : 0;
}

static void make_halves(const Operator *op, Halves *self)
{
    for (Index tile = 0; tile < self->tiles; tile++) {
        Index first = tile * TILE, some = self->n - first < TILE ? self->n - first : TILE, rows = first + some;
        for (Index top = 0; top < rows; top += PART) { /* rows that stay in the nearest cache */
            Index here = rows - top < PART ? rows - top : PART;
            double *K = self->K + numbers_before(tile) + top * TILE;
            cost_tile(op->costs, op->inverse_eps, here, op->source->atoms + top, &self->columns, first, some, K, TILE);
            for (Index i = 0; i < here; i++)
                for (Index j = 0; j < TILE; j++)
                    K[i * TILE + j] = j < some ? self->offset - K[i * TILE + j] : -INFINITY;
            exponentials(here * TILE, K, K);
        }
    }
}

/* Put K w into sums: a tile adds to the columns, and as the other half to its rows; on the diagonal are both. */
static void times_halves(Halves *self)
{
    double sums[TILE], own[TILE];
    memset(self->lanes, 0, (size_t)(4 * self->n) * sizeof *self->lanes);
    for (Index tile = 0; tile < self->tiles; tile++) {
        Index first = tile * TILE, some = self->n - first < TILE ? self->n - first : TILE;
        const double *K = self->K + numbers_before(tile), *w = self->w;
        add_both_of_tile(first, K, w, w + first, sums, self->lanes);
        sum_columns_of_tile(some, TILE, K + first * TILE, w + first, own);
        for (Index j = 0; j < some; j++) self->above[first + j] = sums[j] + own[j];
    }
    add_lanes(self->n, self->lanes, self->sums);
    for (Index i = 0; i < self->n; i++) self->sums[i] += self->above[i];
}

/* Put the g that makes the marginal the weights there, each from a sum in the log domain. */
static void potential_in_logs(const Operator *op, Halves *self, const double *x)
{
    double *h = self->sums;
    for (Index i = 0; i < self->n; i++) h[i] = x[i] + op->source->logs[i];
    for (Index j = 0; j < self->n; j++)
        self->g[j] = best_potential(op->costs, op->inverse_eps, op->source->atoms[j], &self->columns, h, self->row);
}

/* Only the potential is asked for: there is no residual. */
static double halves_evaluate(Operator *op, const double *x, double *residual)
{
    Halves *self = op->own;
    Index n = self->n;
    (void)residual;
    double shift = range_of(n, x).most;
    if (!(largest_size(n, x) < INFINITY)) return NAN;
    shifted_exponentials(n, x, shift, self->w);
    for (Index i = 0; i < n; i++) self->w[i] *= op->source->weights[i];
    times_halves(self);
    Range sums = range_of(n, self->sums);
    if (sums.least > EXACT * 4 * (double)n * DBL_MIN && sums.most < INFINITY) {
        logarithms(n, self->sums, self->g);
        for (Index j = 0; j < n; j++) self->g[j] = self->offset - (shift + self->g[j]);
    } else {
        potential_in_logs(op, self, x);
    }
    return 0;
}

static void halves_potential(const Operator *op, double *g)
{
    const Halves *self = op->own;
    memcpy(g, self->g, (size_t)self->n * sizeof *g);
}

static int halves_extend(Operator *op, const double *x, double *f, double *g)
{
    return extend_priced(op, x, ((const Halves *)op->own)->g, f, g);
}

size_t halves_bytes(const Costs *costs, Index n)
{
    Index tiles = tiles_of(n);
    return bytes_for(numbers_before(tiles)) + bytes_for(4 * n) + bytes_for(TILE * tiles) + 4 * bytes_for(n) +
           2 * bytes_for(sizeof(Halves)) + columns_bytes(costs, n);
}

void open_halves(Operator *op, Arena *arena)
{
    Halves *self = (Halves *)take_numbers(arena, (Index)sizeof(Halves) / (Index)sizeof(double) + 1);
    Index n = self->n = op->source->count;
    self->tiles = tiles_of(n);
    self->K = take_numbers(arena, numbers_before(self->tiles));
    self->w = take_numbers(arena, self->tiles * TILE);
    self->lanes = take_numbers(arena, n * 4);
    self->sums = take_numbers(arena, n);
    self->g = take_numbers(arena, n);
    self->above = take_numbers(arena, n);
    self->row = take_numbers(arena, n);
    memset(self->w, 0, (size_t)(self->tiles * TILE) * sizeof *self->w);
    prepare_columns(&self->columns, op->costs, n, op->source->atoms, arena);
    self->offset = least_own_cost(op, &self->columns);
    make_halves(op, self);
    op->own = self;
    op->evaluate = halves_evaluate;
    op->potential = halves_potential;
    op->extend = halves_extend;
}
