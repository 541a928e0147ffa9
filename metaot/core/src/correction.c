/* The correction of a Sinkhorn step on a grid: what is smooth in its error, found on a coarser grid.

   Near the solution a step changes the error e of a potential, in units of eps, into A e, where
   A = diag(P 1)^-1 P diag(b)^-1 P^T, and the residual is r = (I - A) e. So e = r + (I - A)^-1 A r, and the second part
   is smooth: A r has no detail finer than the plan is wide. It is found with the plan of a coarser grid, by conjugate
   gradients on the symmetric I - D^1/2 A D^-1/2 with D = diag(P 1), and interpolated. Where marginals have the price KL
   a step moves less: A has the factor of both sides. See metaot/solvers/correction.py. */

#include "core.h"

#include <math.h>
#include <string.h>

static const double ENOUGH = 0.1; /* the part of the right side that conjugate gradients leave */
enum { MOST_ITERATIONS = 40, VECTORS = 4 };

static size_t correction_bytes(const Mesh *coarse, Index known, const Mesh *finest)
{
    return (VECTORS + 2) * bytes_for(known) + 2 * bytes_for(DIRECTIONS * known) + bytes_for(coarse->count) +
           3 * bytes_for(finest->count);
}

/* How far the best potential moves with that of the balanced problem. */
static double damping(Price price)
{
    return price.kind == KL_PRICE ? price.rho / (price.rho + 1) : 1;
}

/* Prepare the correction by the plan of an operator on the coarse mesh, whose last point is near the solution there;
   return whether there is one. */
int open_correction(Correction *self, Operator *op, const Mesh *coarse, const Mesh *finest)
{
    Index n = op->source->count;
    self->op = op;
    self->coarse = coarse;
    self->known = n;
    if (!open_arena(&self->memory, correction_bytes(coarse, n, finest))) return 0;
    self->scale = take_numbers(&self->memory, n);
    self->roots = take_numbers(&self->memory, n);
    for (int k = 0; k < VECTORS; k++) self->vectors[k] = take_numbers(&self->memory, n);
    self->directions = take_numbers(&self->memory, DIRECTIONS * n);
    self->images = take_numbers(&self->memory, DIRECTIONS * n);
    self->kept = -1;
    self->on_nodes = take_numbers(&self->memory, coarse->count);
    for (int k = 0; k < 3; k++) self->on_points[k] = take_numbers(&self->memory, finest->count);
    self->damping = damping(op->source_price) * damping(op->target_price);
    return scale_smoothing(op, self->roots, self->scale);
}

/* Subtract the part along the roots: the constant, which changes nothing if both marginals are exact. */
static void remove_constant(const Correction *self, double *y)
{
    if (self->damping < 1) return;
    subtract_multiple(self->known, inner_product(self->known, self->roots, y), self->roots, y);
}

static void smooth(Correction *self, const double *y, double *out)
{
    smooth_on_grid(self->op, self->scale, y, out);
    for (Index i = 0; i < self->known; i++) out[i] *= self->damping;
    remove_constant(self, out);
}

/* Put the part of the solution that is along the directions of the first solution into y; `right` becomes the rest. */
static void solve_along_directions(const Correction *self, double *right, double *y)
{
    Index n = self->known;
    memset(y, 0, (size_t)n * sizeof *y);
    for (Index k = 0; k < self->kept; k++) {
        const double *direction = self->directions + k * n, *image = self->images + k * n;
        double step = inner_product(n, direction, right) / self->curvatures[k];
        subtract_multiple(n, -step, direction, y);
        subtract_multiple(n, step, image, right);
    }
}

/* Put the solution of (I - A) y = right, up to a rest, into y; `right` becomes the rest. */
static void solve_for_smooth(Correction *self, double *right, double *y)
{
    Index n = self->known, keeps = self->kept < 0 ? DIRECTIONS : 0, made = 0;
    double *direction = self->vectors[2], *image = self->vectors[3];
    double enough = ENOUGH * ENOUGH * inner_product(n, right, right);
    solve_along_directions(self, right, y);
    double size = inner_product(n, right, right);
    for (int k = 0; k < MOST_ITERATIONS && size > enough; k++) {
        if (k == 0) memcpy(direction, right, (size_t)n * sizeof *y);
        smooth(self, direction, image);
        for (Index i = 0; i < n; i++) image[i] = direction[i] - image[i];
        double curvature = inner_product(n, direction, image), step = size / curvature;
        if (!(curvature > 0)) break;
        if (made < keeps) {
            memcpy(self->directions + made * n, direction, (size_t)n * sizeof *y);
            memcpy(self->images + made * n, image, (size_t)n * sizeof *y);
            self->curvatures[made++] = curvature;
        }
        subtract_multiple(n, -step, direction, y);
        subtract_multiple(n, step, image, right);
        double next = inner_product(n, right, right);
        for (Index i = 0; i < n; i++) direction[i] = right[i] + next / size * direction[i];
        size = next;
    }
    if (self->kept < 0) self->kept = made;
}

/* Add what is smooth in the error to the residual on the atoms with mass of a finer mesh. */
void correct(Correction *self, const Mesh *fine, const Support *source, double *residual)
{
    double *values = self->on_points[0], *right = self->vectors[0], *y = self->vectors[1], *nodes = self->on_nodes;
    Index n = self->known;
    memset(values, 0, (size_t)fine->count * sizeof *values);
    for (Index i = 0; i < source->count; i++) values[source->atoms[i]] = source->weights[i] * residual[i];
    divide_among_nodes(fine, self->coarse, values, self->on_points + 1, nodes);
    for (Index i = 0; i < n; i++) y[i] = nodes[self->op->source->atoms[i]] / self->roots[i];
    remove_constant(self, y);
    smooth(self, y, right);
    solve_for_smooth(self, right, y);
    memset(nodes, 0, (size_t)self->coarse->count * sizeof *nodes);
    for (Index i = 0; i < n; i++) nodes[self->op->source->atoms[i]] = y[i] / self->roots[i];
    interpolate(fine, self->coarse, nodes, self->on_points + 1, values);
    for (Index i = 0; i < source->count; i++) residual[i] += values[source->atoms[i]];
}
