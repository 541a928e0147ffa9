/* Rows of a cost matrix, from a matrix, from one matrix for each axis of a grid, or from two clouds of points. */

#include "core.h"

#include <math.h>
#include <string.h>

Costs transposed(const Costs *costs)
{
    Costs other = *costs;
    other.transposed = !costs->transposed;
    other.n = costs->m;
    other.m = costs->n;
    other.x = costs->y;
    other.y = costs->x;
    return other;
}

static Index source_size(const Costs *costs, int axis)
{
    return costs->transposed ? costs->columns[axis] : costs->rows[axis];
}

size_t columns_bytes(const Costs *costs, Index count)
{
    return costs->kind == MATRIX ? 0 : bytes_for((costs->kind == AXES ? costs->axes : costs->dim) * count);
}

/* Prepare these atoms of the target for rows of costs. */
void prepare_columns(Columns *columns, const Costs *costs, Index count, const Index *atoms, Arena *arena)
{
    columns->count = count;
    columns->atoms = atoms;
    if (costs->kind == CLOUDS) {
        columns->coordinates = take_numbers(arena, costs->dim * count);
        for (Index k = 0; k < costs->dim; k++)
            for (Index j = 0; j < count; j++)
                columns->coordinates[k * count + j] = costs->y[atoms[j] * costs->dim + k];
    } else if (costs->kind == AXES) {
        Index *offsets = take_indices(arena, costs->axes * count);
        for (int axis = costs->axes - 1; axis >= 0; axis--) columns->along[axis] = offsets + axis * count;
        for (Index j = 0; j < count; j++) {
            Index atom = atoms[j];
            for (int axis = costs->axes - 1; axis >= 0; axis--) {
                Index size = costs->transposed ? costs->rows[axis] : costs->columns[axis];
                columns->along[axis][j] = atom % size;
                atom /= size;
            }
        }
    }
}

static void row_of_matrix(const Costs *costs, double inverse_eps, Index i, const Columns *columns, double *out)
{
    Index n = columns->count;
    const double *matrix = costs->matrix;
    if (costs->transposed) {
        for (Index j = 0; j < n; j++) out[j] = matrix[columns->atoms[j] * costs->n + i] * inverse_eps;
        return;
    }
    const double *row = matrix + i * costs->m;
    if (n == costs->m)
        for (Index j = 0; j < n; j++) out[j] = row[j] * inverse_eps;
    else
        for (Index j = 0; j < n; j++) out[j] = row[columns->atoms[j]] * inverse_eps;
}

static void row_of_axes(const Costs *costs, double inverse_eps, Index i, const Columns *columns, double *out)
{
    memset(out, 0, (size_t)columns->count * sizeof *out);
    for (int axis = costs->axes - 1; axis >= 0; axis--) {
        Index s = i % source_size(costs, axis), width = costs->columns[axis];
        const Index *offsets = columns->along[axis];
        const double *entries = costs->transposed ? costs->axis[axis] + s : costs->axis[axis] + s * width;
        Index stride = costs->transposed ? width : 1;
        i /= source_size(costs, axis);
        for (Index j = 0; j < columns->count; j++) out[j] += entries[offsets[j] * stride];
    }
    for (Index j = 0; j < columns->count; j++) out[j] *= inverse_eps;
}

/* Put sum_k (x_k - y_jk)^2 into out. */
FOR_EACH_PROCESSOR
static void squared_distances(Index dim, Index count, const double *restrict x, const double *restrict y,
                              double *restrict out)
{
    for (Index j = 0; j < count; j++) out[j] = 0;
    for (Index k = 0; k < dim; k++) {
        double at = x[k];
        const double *coordinate = y + k * count;
        for (Index j = 0; j < count; j++) {
            double difference = at - coordinate[j];
            out[j] += difference * difference;
        }
    }
}

FOR_EACH_PROCESSOR
static void square_roots(Index count, double factor, double *restrict x)
{
    for (Index j = 0; j < count; j++) x[j] = factor * sqrt(x[j]);
}

/* Angles between unit vectors, 2 atan2(|x - y|, |x + y|) as Kahan has it, times a factor. */
static void angles(const double *x, Index dim, const Columns *columns, double factor, double *out)
{
    enum { PART = 256 };
    double sums[PART], slopes[PART];
    Index n = columns->count;
    squared_distances(dim, n, x, columns->coordinates, out);
    for (Index first = 0; first < n; first += PART) {
        Index some = n - first < PART ? n - first : PART;
        for (Index j = 0; j < some; j++) sums[j] = 0;
        for (Index k = 0; k < dim; k++)
            for (Index j = 0; j < some; j++) {
                double sum = x[k] + columns->coordinates[k * n + first + j];
                sums[j] += sum * sum;
            }
        for (Index j = 0; j < some; j++) {
            double near = out[first + j], far = sums[j];
            slopes[j] = near <= far ? sqrt(near / far) : sqrt(far / near);
        }
        double turns[PART];
        arctangents(some, slopes, turns);
        for (Index j = 0; j < some; j++) {
            double half = out[first + j] <= sums[j] ? turns[j] : 1.57079632679489661923 - turns[j];
            out[first + j] = 2 * factor * half;
        }
    }
}

/* Put the costs, in units of eps, between a source atom and some of the target into out. */
void cost_row(const Costs *costs, double inverse_eps, Index i, const Columns *columns, double *out)
{
    if (costs->kind == MATRIX) {
        row_of_matrix(costs, inverse_eps, i, columns, out);
    } else if (costs->kind == AXES) {
        row_of_axes(costs, inverse_eps, i, columns, out);
    } else {
        const double *x = costs->x + i * costs->dim;
        Index n = columns->count;
        if (costs->cost == SPHERE) {
            angles(x, costs->dim, columns, inverse_eps, out);
        } else {
            squared_distances(costs->dim, n, x, columns->coordinates, out);
            if (costs->cost == EUCLIDEAN)
                square_roots(n, inverse_eps, out);
            else
                for (Index j = 0; j < n; j++) out[j] *= inverse_eps;
        }
    }
}

/* Return -log sum_j exp(h_j - C_ij), the best potential of a source atom, for h = log weights + potential on columns. */
double best_potential(const Costs *costs, double inverse_eps, Index i, const Columns *columns, const double *h,
                      double *row)
{
    cost_row(costs, inverse_eps, i, columns, row);
    for (Index j = 0; j < columns->count; j++) row[j] = h[j] - row[j];
    return -log_sum_exp(columns->count, row, row);
}
