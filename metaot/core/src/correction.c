/* The correction of a Sinkhorn step: what is smooth in its error, found on a coarser grid or with clusters of atoms.

   Near the solution a step changes the error e of a potential, in units of eps, into A e, where
   A = diag(P 1)^-1 P diag(b)^-1 P^T, and the residual is r = (I - A) e. So e = r + (I - A)^-1 A r, and the second part
   is smooth: A r has no detail finer than the plan is wide. It is found with the plan of a coarser level, by conjugate
   gradients on the symmetric I - D^1/2 A D^-1/2 with D = diag(P 1), and interpolated. Where marginals have the price KL
   a step moves less: A has the factor of both sides. See metaot/solvers/correction.py. */

#include "core.h"

#include <math.h>
#include <string.h>

static const double ENOUGH = 0.1; /* the part of the right side that conjugate gradients leave */
enum { MOST_ITERATIONS = 40, VECTORS = 5 };

/* How far the best potential moves with that of the balanced problem. */
static double damping(Price price)
{
    return price.kind == KL_PRICE ? price.rho / (price.rho + 1) : 1;
}

size_t correction_bytes(Index known)
{
    return (VECTORS + 1) * bytes_for(known) + 2 * bytes_for(DIRECTIONS * known);
}

/* Prepare a correction with so many unknowns; the roots are left to its owner. */
void begin_correction(Correction *self, Operator *op, Index known, Arena *arena)
{
    self->op = op;
    self->known = known;
    self->roots = take_numbers(arena, known);
    for (int k = 0; k < VECTORS; k++) self->vectors[k] = take_numbers(arena, known);
    self->directions = take_numbers(arena, DIRECTIONS * known);
    self->images = take_numbers(arena, DIRECTIONS * known);
    self->kept = -1;
    self->damping = damping(op->source_price) * damping(op->target_price);
}

/* On a grid: the scale of the smoothing, and room on the nodes and on points. */
typedef struct {
    const Mesh *coarse, *fine;
    double *scale, *on_nodes, *on_points[3];
} OnGrid;

static void smooth_on_nodes(const Correction *self, const double *y, double *out)
{
    smooth_on_grid(self->op, ((const OnGrid *)self->own)->scale, y, out);
}

static void take_to_nodes(const Correction *self, const Support *source, const double *residual, double *sums)
{
    const OnGrid *own = self->own;
    double *values = own->on_points[0];
    memset(values, 0, (size_t)own->fine->count * sizeof *values);
    for (Index i = 0; i < source->count; i++) values[source->atoms[i]] = source->weights[i] * residual[i];
    divide_among_nodes(own->fine, own->coarse, values, own->on_points + 1, own->on_nodes);
    const Support *nodes = self->op->source; /* means there, times the plan's share */
    for (Index i = 0; i < self->known; i++)
        sums[i] = own->on_nodes[nodes->atoms[i]] / nodes->weights[i] * (self->roots[i] * self->roots[i]);
}

static void add_from_nodes(const Correction *self, const Support *source, const double *y, const double *smooth,
                           double *residual)
{
    const OnGrid *own = self->own;
    double *values = own->on_points[0];
    (void)y;
    memset(own->on_nodes, 0, (size_t)own->coarse->count * sizeof *own->on_nodes);
    for (Index i = 0; i < self->known; i++) own->on_nodes[self->op->source->atoms[i]] = smooth[i] / self->roots[i];
    interpolate(own->fine, own->coarse, own->on_nodes, own->on_points + 1, values);
    for (Index i = 0; i < source->count; i++) residual[i] += values[source->atoms[i]];
}

/* Prepare the correction by the plan of an operator on the coarse mesh, whose last point is near the solution there,
   for steps on the fine one; return whether there is one. */
int open_correction(Correction *self, Operator *op, const Mesh *coarse, const Mesh *fine, const Mesh *finest)
{
    Index n = op->source->count;
    size_t bytes = bytes_for(sizeof(OnGrid)) + bytes_for(n) + bytes_for(coarse->count) + 3 * bytes_for(finest->count);
    if (!open_arena(&self->memory, correction_bytes(n) + bytes)) return 0;
    OnGrid *own = (OnGrid *)take_numbers(&self->memory, sizeof(OnGrid));
    own->coarse = coarse;
    own->fine = fine;
    own->scale = take_numbers(&self->memory, n);
    own->on_nodes = take_numbers(&self->memory, coarse->count);
    for (int k = 0; k < 3; k++) own->on_points[k] = take_numbers(&self->memory, finest->count);
    begin_correction(self, op, n, &self->memory);
    self->own = own;
    self->smooth = smooth_on_nodes;
    self->take = take_to_nodes;
    self->add = add_from_nodes;
    return scale_smoothing(op, self->roots, own->scale);
}

/* Subtract the part along the roots: the constant, which changes nothing if both marginals are exact. */
static void remove_constant(const Correction *self, double *y)
{
    if (self->damping < 1) return;
    subtract_multiple(self->known, inner_product(self->known, self->roots, y), self->roots, y);
}

static void smooth(Correction *self, const double *y, double *out)
{
    self->smooth(self, y, out);
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
    double *direction = self->vectors[3], *image = self->vectors[4];
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

/* Add what is smooth in the error to the residual on the atoms with mass of a finer level. */
void correct(Correction *self, const Support *source, double *residual)
{
    double *right = self->vectors[0], *smooth_part = self->vectors[1], *y = self->vectors[2];
    self->take(self, source, residual, y);
    for (Index i = 0; i < self->known; i++) y[i] /= self->roots[i];
    remove_constant(self, y);
    smooth(self, y, right);
    solve_for_smooth(self, right, smooth_part);
    self->add(self, source, y, smooth_part, residual);
}
