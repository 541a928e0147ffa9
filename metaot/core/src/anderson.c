/* Anderson acceleration, with the rules of metaot/solvers/anderson.py. */

#include "core.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const double BEYOND = 1.3, GROWTH = 2.0, PROGRESS = 0.9, RIDGE = 1e-12, FARTHEST = 35.0, MUCH = 100.0;
enum { STALE = 40, PART = 1024 };
/* PART: numbers that are worked on while they are in the nearest cache. */

void weigh_path(Path *path, const double *weights)
{
    for (Index i = 0; i < path->count; i++) path->roots[i] = sqrt(weights[i]);
}

void start_path(Path *path, Index count, const double *weights)
{
    path->count = count;
    path->beyond = BEYOND;
    weigh_path(path, weights);
    path->shown = path->stale = 0;
    path->plain = path->stretch = 1;
    path->least = path->mark = INFINITY;
}

/* Forget the last points but that with the least error; go where a plain step leads from there. */
static void go_back(Path *path, double *x)
{
    path->shown = path->stale = 0;
    path->stretch = path->least < PROGRESS * path->mark ? 1 : 2 * path->stretch;
    path->plain = path->stretch;
    path->mark = path->least;
    memcpy(x, path->nearest, (size_t)path->count * sizeof *x);
}

FOR_EACH_PROCESSOR
static void differences(Index count, const double *restrict x, const double *restrict y, double *restrict out)
{
    for (Index i = 0; i < count; i++) out[i] = x[i] - y[i];
}

/* Put x + factor times y into out. */
FOR_EACH_PROCESSOR
static void add_multiple(Index count, const double *restrict x, double factor, const double *restrict y,
                         double *restrict out)
{
    for (Index i = 0; i < count; i++) out[i] = x[i] + factor * y[i];
}

FOR_EACH_PROCESSOR
static void products(Index count, const double *restrict x, const double *restrict y, double *restrict out)
{
    for (Index i = 0; i < count; i++) out[i] = x[i] * y[i];
}

/* Put how the last step moved the target, and changed what is missing, into the place of the oldest.

   `share` becomes the products of all changes with what is missing. */
static void remember(Path *path, double *share)
{
    Index n = path->count, k = (path->shown - 1) % MEMORY, known = path->shown < MEMORY ? path->shown : MEMORY;
    double *move = path->moves + k * n, *change = path->changes + k * n;
    differences(n, path->target, path->last_target, move);
    differences(n, path->missing, path->last_missing, change);
    double row[MEMORY] = {0};
    memset(share, 0, MEMORY * sizeof *share);
    for (Index first = 0; first < n; first += PART)
        for (Index j = 0; j < known; j++) {
            Index size = n - first < PART ? n - first : PART;
            const double *other = path->changes + j * n + first;
            row[j] += inner_product(size, other, change + first);
            share[j] += inner_product(size, other, path->missing + first);
        }
    for (Index j = 0; j < known; j++) path->gram[j][k] = path->gram[k][j] = row[j];
    path->gram[k][k] = path->gram[k][k] * (1 + RIDGE) + DBL_MIN;
}

/* Put the solution of a system into y, by elimination with pivots; return whether there is one. */
static int solve(double (*gram)[MEMORY], Index count, double *y)
{
    double A[MEMORY][MEMORY];
    memcpy(A, gram, sizeof A);
    for (Index k = 0; k < count; k++) {
        Index pivot = k;
        for (Index i = k + 1; i < count; i++)
            if (fabs(A[i][k]) > fabs(A[pivot][k])) pivot = i;
        if (A[pivot][k] == 0) return 0;
        for (Index j = k; j < count && pivot != k; j++) {
            double other = A[k][j];
            A[k][j] = A[pivot][j];
            A[pivot][j] = other;
        }
        double other = y[k];
        y[k] = y[pivot];
        y[pivot] = other;
        for (Index i = k + 1; i < count; i++) {
            double factor = A[i][k] / A[k][k];
            for (Index j = k + 1; j < count; j++) A[i][j] -= factor * A[k][j];
            y[i] -= factor * y[k];
        }
    }
    for (Index k = count - 1; k >= 0; k--) {
        for (Index j = k + 1; j < count; j++) y[k] -= A[k][j] * y[j];
        y[k] /= A[k][k];
    }
    return 1;
}

/* Shorten a step from x to `following` where it is too long; moves that change nothing tell little. */
static void bound_step(const Path *path, const double *x, double *following)
{
    double length = 0;
    for (Index i = 0; i < path->count; i++) {
        double step = fabs(following[i] - x[i]);
        if (!(step <= length)) length = step;
    }
    if (!(length < INFINITY)) memcpy(following, path->target, (size_t)path->count * sizeof *x);
    else if (length > FARTHEST)
        for (Index i = 0; i < path->count; i++) following[i] = x[i] + (following[i] - x[i]) * (FARTHEST / length);
}

/* Move x to where the residual is the smallest, of all points between the last ones; `share` is overwritten. */
static void mix(Path *path, double *x, double *share)
{
    Index n = path->count, known = path->shown - 1 < MEMORY ? path->shown - 1 : MEMORY;
    double *before = path->last_target;
    int looks_back = path->shown <= MEMORY || path->shown % 2 == 0;
    if (!looks_back || !solve(path->gram, known, share)) {
        memcpy(x, path->target, (size_t)n * sizeof *x);
        return;
    }
    int far = !(inner_product(known, share, share) < MUCH);
    if (far) memcpy(before, x, (size_t)n * sizeof *x);
    for (Index first = 0; first < n; first += PART) {
        Index size = n - first < PART ? n - first : PART;
        memcpy(x + first, path->target + first, (size_t)size * sizeof *x);
        for (Index j = 0; j < known; j++) subtract_multiple(size, share[j], path->moves + j * n + first, x + first);
    }
    if (far) bound_step(path, before, x);
}

/* Note the point x with its residual and error. */
static void show(Path *path, const double *x, const double *residual, double error)
{
    Index n = path->count;
    products(n, path->roots, residual, path->missing);
    add_multiple(n, x, path->beyond, residual, path->target);
    path->stale++;
    if (error <= path->least) {
        path->least = error;
        path->stale = 0;
        add_multiple(n, x, 1, residual, path->nearest);
    }
}

static void swap(double **x, double **y)
{
    double *other = *x;
    *x = *y;
    *y = other;
}

void plain_step(Index count, double *x, const double *residual)
{
    subtract_multiple(count, -1, residual, x);
}

/* Move x to the point that follows it, where the residual and the L1 error are these. */
void next_point(Path *path, double *x, double *residual, double error)
{
    if (!(error <= GROWTH * path->least) || (path->stale >= STALE && error > path->least)) {
        go_back(path, x);
        return;
    }
    if (!(largest_size(path->count, residual) <= FARTHEST)) { /* nothing linear: a plain step, and nothing is kept */
        path->shown = path->stale = 0;
        path->plain = path->stretch;
        path->least = path->mark = INFINITY;
        plain_step(path->count, x, residual);
        memcpy(path->nearest, x, (size_t)path->count * sizeof *x);
        return;
    }
    double share[MEMORY];
    show(path, x, residual, error);
    if (path->shown > 0) remember(path, share);
    path->shown++;
    if (path->plain > 0) {
        path->plain--;
        path->stale = 0;
        plain_step(path->count, x, residual);
    } else {
        mix(path, x, share);
    }
    swap(&path->target, &path->last_target);
    swap(&path->missing, &path->last_missing);
}
