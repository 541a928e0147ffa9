/* See plane.h. */

#include "plane.h"

#include <math.h>
#include <string.h>

#define FAR 2.0 /* as in places.py */
#define HALF_TURN 3.14159265358979323846

Index cosines_size(const Plane *plane)
{
    Index points = plane->sizes[0] + plane->sizes[1];
    return plane->modes * (plane->padded[0] + plane->padded[1]) + points * plane->padded_modes;
}

Index plane_room(const Plane *plane)
{
    Index image = plane->padded[0] * plane->padded[1];
    return image + (plane->padded[0] + plane->padded[1]) * plane->padded_modes;
}

Cosines cosines_in(const Plane *plane, float *memory)
{
    Cosines cosines;
    for (int axis = 0; axis < 2; axis++) {
        cosines.by_mode[axis] = memory;
        memory += plane->modes * plane->padded[axis];
        cosines.by_point[axis] = memory;
        memory += plane->sizes[axis] * plane->padded_modes;
    }
    return cosines;
}

/* out += x */
FOR_EACH_PROCESSOR
static void add(Index count, const double *restrict x, double *restrict out)
{
    for (Index k = 0; k < count; k++) out[k] += x[k];
}

FOR_EACH_PROCESSOR
static double inner_product(Index count, const double *restrict x, const double *restrict y)
{
    double lanes[8] = {0}, total = 0;
    Index k = 0;
    for (; k + 8 <= count; k += 8)
        for (int s = 0; s < 8; s++) lanes[s] += x[k + s] * y[k + s];
    for (; k < count; k++) total += x[k] * y[k];
    for (int s = 0; s < 8; s++) total += lanes[s];
    return total;
}

FOR_EACH_PROCESSOR
static double sum_of(Index count, const double *x)
{
    double lanes[8] = {0}, total = 0;
    Index k = 0;
    for (; k + 8 <= count; k += 8)
        for (int s = 0; s < 8; s++) lanes[s] += x[k + s];
    for (; k < count; k++) total += x[k];
    for (int s = 0; s < 8; s++) total += lanes[s];
    return total;
}

/* The mean and the variance of weights along an axis, which become weights times coordinates from the mean; and where
   the first one and the last one that is not zero are. */
static double along(Index size, const double *axis, double *sums, double *mean, Index *low, Index *high)
{
    double variance = 0;
    for (*low = 0; *low < size - 1 && sums[*low] == 0; ++*low) continue;
    for (*high = size; *high > *low + 1 && sums[*high - 1] == 0; --*high) continue;
    *mean = inner_product(size, axis, sums);
    for (Index k = *low; k < *high; k++) variance += sums[k] * (axis[k] - *mean) * (axis[k] - *mean);
    return variance;
}

void measure(const Plane *plane, const double *weights, Measure *found, double *room)
{
    Index rows = plane->sizes[0], columns = plane->sizes[1];
    double *row_sums = room, *column_sums = room + rows;
    memset(column_sums, 0, (size_t)columns * sizeof *column_sums);
    for (Index r = 0; r < rows; r++) {
        row_sums[r] = sum_of(columns, weights + r * columns);
        if (row_sums[r] != 0) add(columns, weights + r * columns, column_sums);
    }
    found->xx = along(rows, plane->axes[0], row_sums, &found->mean[0], &found->low[0], &found->high[0]);
    found->yy = along(columns, plane->axes[1], column_sums, &found->mean[1], &found->low[1], &found->high[1]);
    Index first = found->low[1], count = found->high[1] - first;
    for (Index k = 0; k < count; k++) column_sums[k] = plane->axes[1][first + k] - found->mean[1];
    found->xy = 0;
    for (Index r = found->low[0]; r < found->high[0]; r++)
        found->xy += (plane->axes[0][r] - found->mean[0]) *
                     inner_product(count, weights + r * columns + first, column_sums);
}

/* The cosine of pi (w + FAR) / (2 FAR) for w = u / sqrt(1 + (u / FAR)^2): minus a sine, by Taylor's series. */
FOR_EACH_PROCESSOR
static void compressed(Index count, const double *restrict axis, double mean, double width, double *restrict out)
{
    for (Index k = 0; k < count; k++) {
        double u = (axis[k] - mean) / width, x = u / sqrt(1 + (u / FAR) * (u / FAR)) * (HALF_TURN / (2 * FAR));
        double z = x * x, p = -1.0 / 51090942171709440000.0;
        p = p * z + 1.0 / 121645100408832000.0;
        p = p * z - 1.0 / 355687428096000.0;
        p = p * z + 1.0 / 1307674368000.0;
        p = p * z - 1.0 / 6227020800.0;
        p = p * z + 1.0 / 39916800.0;
        p = p * z - 1.0 / 362880.0;
        p = p * z + 1.0 / 5040.0;
        p = p * z - 1.0 / 120.0;
        p = p * z + 1.0 / 6.0;
        out[k] = x * (p * z - 1);
    }
}

/* The next cosine by the recurrence of Chebyshev: next = 2 first this - last. */
FOR_EACH_PROCESSOR
static void recur(Index count, const double *restrict first, const double *restrict current,
                  const double *restrict last, double *restrict next, float *restrict out)
{
    for (Index k = 0; k < count; k++) {
        next[k] = 2 * first[k] * current[k] - last[k];
        out[k] = (float)next[k];
    }
}

static void fill(Index points, Index padded, Index modes, Index padded_modes, const double *axis, double mean,
                 double width, float *by_mode, float *by_point, double *room)
{
    double *first = room, *last = first + padded, *current = last + padded, *next = current + padded, *free;
    memset(by_mode, 0, (size_t)(modes * padded) * sizeof *by_mode);
    memset(by_point, 0, (size_t)(points * padded_modes) * sizeof *by_point);
    compressed(points, axis, mean, width, first);
    for (Index k = 0; k < points; k++) {
        last[k] = first[k];
        current[k] = 1;
    }
    for (Index m = 0; m < modes; m++) {
        if (m == 0)
            for (Index k = 0; k < points; k++) by_mode[k] = 1;
        else {
            recur(points, first, current, last, next, by_mode + m * padded);
            free = last;
            last = current;
            current = next;
            next = free;
        }
        for (Index k = 0; k < points; k++) by_point[k * padded_modes + m] = by_mode[m * padded + k];
    }
}

void fill_cosines(const Plane *plane, const double *mean, double width, Cosines *cosines, double *room)
{
    for (int axis = 0; axis < 2; axis++)
        fill(plane->sizes[axis], plane->padded[axis], plane->modes, plane->padded_modes, plane->axes[axis],
             mean[axis], width, cosines->by_mode[axis], cosines->by_point[axis], room);
}

/* Multiply columns of right from `low` to `high`, and some around them, a few lanes at a time. */
static void multiply_wide(Index terms, const float *left, Index left_stride, Index outputs, const float *right,
                          Index width, Index low, Index high, float *out)
{
    for (Index k = low / LANES * LANES; k < high; k += LANES)
        multiply_lanes(terms, left, left_stride, outputs, right + k, width, out + k, width);
}

FOR_EACH_PROCESSOR
static void to_floats(Index count, const double *restrict x, float *restrict out)
{
    for (Index k = 0; k < count; k++) out[k] = (float)x[k];
}

void analyse_plane(const Plane *plane, const Cosines *cosines, const double *weights, const Index *low,
                   const Index *high, float *table, float *room)
{
    Index columns = plane->sizes[1], height = high[0] - low[0], width = high[1] - low[1], modes = plane->padded_modes;
    float *image = room, *half = image + height * width;
    for (Index r = 0; r < height; r++)
        to_floats(width, weights + (low[0] + r) * columns + low[1], image + r * width);
    multiply_wide(height, image, width, width, cosines->by_point[0] + low[0] * modes, modes, 0, modes, half);
    multiply_wide(width, half, modes, plane->modes, cosines->by_point[1] + low[1] * modes, modes, 0, modes, table);
}

FOR_EACH_PROCESSOR
static void add_scaled(Index count, double scale, const float *restrict x, double *restrict out)
{
    for (Index k = 0; k < count; k++) out[k] += scale * x[k];
}

void add_synthesis(const Plane *plane, const Cosines *cosines, const float *table, double scale, const Index *low,
                   const Index *high, double *f, float *room)
{
    Index columns = plane->sizes[1], modes = plane->modes, height = plane->padded[0], width = plane->padded[1];
    float *half = room, *image = half + modes * height;
    multiply_wide(modes, table, plane->padded_modes, modes, cosines->by_mode[0], height, low[0], high[0], half);
    multiply_wide(modes, half + low[0], height, high[0] - low[0], cosines->by_mode[1], width, low[1], high[1],
                  image);
    for (Index r = low[0]; r < high[0]; r++)
        add_scaled(high[1] - low[1], scale, image + (r - low[0]) * width + low[1], f + r * columns + low[1]);
}

typedef struct {
    double xx, yy, xy;
} Symmetric;

/* The root of a positive matrix (Cayley and Hamilton). */
static Symmetric root(Symmetric M)
{
    double determinant = sqrt(fabs(M.xx * M.yy - M.xy * M.xy)), trace = sqrt(M.xx + M.yy + 2 * determinant + 1e-60);
    return (Symmetric){(M.xx + determinant) / trace, (M.yy + determinant) / trace, M.xy / trace};
}

/* R M R */
static Symmetric sandwich(Symmetric R, Symmetric M)
{
    double left = R.xx * M.xx + R.xy * M.xy, right = R.xx * M.xy + R.xy * M.yy;
    double low = R.xy * M.xx + R.yy * M.xy, high = R.xy * M.xy + R.yy * M.yy;
    return (Symmetric){left * R.xx + right * R.xy, low * R.xy + high * R.yy, left * R.xy + right * R.yy};
}

/* The matrix F of the potential, as in frame.py. */
static Symmetric quadratic(Symmetric A, Symmetric B, double c)
{
    Symmetric R = root(B), M = sandwich(R, A);
    M.xx += c * c;
    M.yy += c * c;
    M = root(M);
    M.xx += c;
    M.yy += c;
    double determinant = M.xx * M.yy - M.xy * M.xy;
    return sandwich(R, (Symmetric){M.yy / determinant, M.xx / determinant, -M.xy / determinant});
}

FOR_EACH_PROCESSOR
static void put_row(Index count, double row, double mixed, double slope, double bend, const double *restrict axis,
                    double mean, double *restrict out)
{
    for (Index k = 0; k < count; k++) {
        double y = axis[k] - mean;
        out[k] = row + y * (bend * y - slope - mixed);
    }
}

void between_gaussians(const Plane *plane, const Measure *a, const Measure *b, double eps, double scale,
                       const Index *low, const Index *high, double *f)
{
    Symmetric F = quadratic((Symmetric){a->xx, a->yy, a->xy}, (Symmetric){b->xx, b->yy, b->xy}, eps / 4);
    double slopes[2] = {2 * scale * (b->mean[0] - a->mean[0]), 2 * scale * (b->mean[1] - a->mean[1])};
    for (Index r = low[0]; r < high[0]; r++) {
        double x = plane->axes[0][r] - a->mean[0];
        put_row(high[1] - low[1], x * (scale * (1 - F.xx) * x - slopes[0]), 2 * scale * F.xy * x, slopes[1],
                scale * (1 - F.yy), plane->axes[1] + low[1], a->mean[1], f + r * plane->sizes[1] + low[1]);
    }
}
