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
    if (costs->kind == AXES) return bytes_for(costs->axes * count);
    return costs->kind == CLOUDS ? bytes_for(costs->dim * count) + bytes_for(costs->dim * TILE) : 0;
}

/* Prepare these atoms of the target for rows of costs. */
void prepare_columns(Columns *columns, const Costs *costs, Index count, const Index *atoms, Arena *arena)
{
    columns->count = count;
    columns->atoms = atoms;
    if (costs->kind == CLOUDS) {
        columns->coordinates = take_numbers(arena, costs->dim * count);
        columns->tile = take_numbers(arena, costs->dim * TILE);
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

/* Parts of a row: the costs between a source atom and `n` columns from `first` on, in units of eps. */
static void part_of_matrix(const Costs *costs, double inverse_eps, Index i, const Columns *columns, Index first,
                           Index n, double *out)
{
    const Index *atoms = columns->atoms + first;
    const double *matrix = costs->matrix;
    if (costs->transposed) {
        for (Index j = 0; j < n; j++) out[j] = matrix[atoms[j] * costs->n + i] * inverse_eps;
        return;
    }
    const double *row = matrix + i * costs->m;
    if (columns->count == costs->m)
        for (Index j = 0; j < n; j++) out[j] = row[first + j] * inverse_eps;
    else
        for (Index j = 0; j < n; j++) out[j] = row[atoms[j]] * inverse_eps;
}

static void part_of_axes(const Costs *costs, double inverse_eps, Index i, const Columns *columns, Index first, Index n,
                         double *out)
{
    memset(out, 0, (size_t)n * sizeof *out);
    for (int axis = costs->axes - 1; axis >= 0; axis--) {
        Index s = i % source_size(costs, axis), width = costs->columns[axis];
        const Index *offsets = columns->along[axis] + first;
        const double *entries = costs->transposed ? costs->axis[axis] + s : costs->axis[axis] + s * width;
        Index stride = costs->transposed ? width : 1;
        i /= source_size(costs, axis);
        for (Index j = 0; j < n; j++) out[j] += entries[offsets[j] * stride];
    }
    for (Index j = 0; j < n; j++) out[j] *= inverse_eps;
}

/* Put sum_k (x_k - y_jk)^2 into out. */
FOR_EACH_PROCESSOR
static void squared_distances(Index dim, Index count, const double *restrict x, const double *restrict y, Index stride,
                              double *restrict out)
{
    const double *last = y + (dim - 1) * stride;
    for (Index j = 0; j < count; j++) {
        double first = x[0] - y[j], other = dim > 1 ? x[dim - 1] - last[j] : 0;
        out[j] = first * first + other * other;
    }
    for (Index k = 1; k < dim - 1; k++) {
        double at = x[k];
        const double *coordinate = y + k * stride;
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
static void angles(const double *x, Index dim, const double *y, Index stride, Index n, double factor, double *out)
{
    enum { PART = 256 };
    double sums[PART], slopes[PART];
    squared_distances(dim, n, x, y, stride, out);
    for (Index first = 0; first < n; first += PART) {
        Index some = n - first < PART ? n - first : PART;
        for (Index j = 0; j < some; j++) sums[j] = 0;
        for (Index k = 0; k < dim; k++)
            for (Index j = 0; j < some; j++) {
                double sum = x[k] + y[k * stride + first + j];
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

/* From squared distances to costs in units of eps. */
static void costs_of_squares(const Costs *costs, double inverse_eps, Index n, double *out)
{
    if (costs->cost == EUCLIDEAN)
        square_roots(n, inverse_eps, out);
    else
        for (Index j = 0; j < n; j++) out[j] *= inverse_eps;
}

static void part_of_clouds(const Costs *costs, double inverse_eps, Index i, const Columns *columns, Index first,
                           Index n, double *out)
{
    const double *x = costs->x + i * costs->dim, *y = columns->coordinates + first;
    if (costs->cost == SPHERE) {
        angles(x, costs->dim, y, columns->count, n, inverse_eps, out);
    } else {
        squared_distances(costs->dim, n, x, y, columns->count, out);
        costs_of_squares(costs, inverse_eps, n, out);
    }
}

static void part_of_row(const Costs *costs, double inverse_eps, Index i, const Columns *columns, Index first, Index n,
                        double *out)
{
    if (costs->kind == MATRIX)
        part_of_matrix(costs, inverse_eps, i, columns, first, n, out);
    else if (costs->kind == AXES)
        part_of_axes(costs, inverse_eps, i, columns, first, n, out);
    else
        part_of_clouds(costs, inverse_eps, i, columns, first, n, out);
}

/* Put the costs, in units of eps, between a source atom and some of the target into out. */
void cost_row(const Costs *costs, double inverse_eps, Index i, const Columns *columns, double *out)
{
    part_of_row(costs, inverse_eps, i, columns, 0, columns->count, out);
}

/* Put the squared distances between a few points and a tile of others, dim TILE, into rows of a tile. */
enum { FEW = 4 };
FOR_EACH_PROCESSOR
static void squares_of_tile(Index dim, const double *const *x, const double *restrict y, double *restrict out)
{
    const double *x0 = x[0], *x1 = x[1], *x2 = x[2], *x3 = x[3];
    for (Index first = 0; first < TILE; first += 8) {
        Four a0 = {0}, a1 = {0}, a2 = {0}, a3 = {0}, b0 = {0}, b1 = {0}, b2 = {0}, b3 = {0}, near, far, d;
        for (Index k = 0; k < dim; k++) {
            memcpy(&near, y + k * TILE + first, sizeof near);
            memcpy(&far, y + k * TILE + first + 4, sizeof far);
            d = x0[k] - near, a0 += d * d, d = x0[k] - far, b0 += d * d;
            d = x1[k] - near, a1 += d * d, d = x1[k] - far, b1 += d * d;
            d = x2[k] - near, a2 += d * d, d = x2[k] - far, b2 += d * d;
            d = x3[k] - near, a3 += d * d, d = x3[k] - far, b3 += d * d;
        }
        Four sums[FEW][2] = {{a0, b0}, {a1, b1}, {a2, b2}, {a3, b3}};
        for (int s = 0; s < FEW; s++) memcpy(out + s * TILE + first, sums[s], sizeof sums[s]);
    }
}

/* Put the costs, in units of eps, between some source atoms and up to TILE columns from `first` on into rows. */
void cost_tile(const Costs *costs, double inverse_eps, Index rows, const Index *atoms, const Columns *columns,
               Index first, Index count, double *out, Index stride)
{
    if (costs->kind != CLOUDS || costs->cost == SPHERE) {
        for (Index i = 0; i < rows; i++)
            part_of_row(costs, inverse_eps, atoms[i], columns, first, count, out + i * stride);
        return;
    }
    double squares[FEW * TILE], *tile = columns->tile;
    memset(tile, 0, (size_t)(costs->dim * TILE) * sizeof *tile);
    for (Index k = 0; k < costs->dim; k++)
        memcpy(tile + k * TILE, columns->coordinates + k * columns->count + first, (size_t)count * sizeof *tile);
    for (Index i = 0; i < rows; i += FEW) {
        const double *x[FEW];
        for (Index s = 0; s < FEW; s++) x[s] = costs->x + atoms[i + s < rows ? i + s : i] * costs->dim;
        squares_of_tile(costs->dim, x, tile, squares);
        costs_of_squares(costs, inverse_eps, FEW * TILE, squares);
        for (Index s = 0; s < FEW && i + s < rows; s++)
            memcpy(out + (i + s) * stride, squares + s * TILE, (size_t)count * sizeof *out);
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
