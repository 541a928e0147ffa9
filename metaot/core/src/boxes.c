/* The atoms of a cloud in blocks, and in boxes of blocks, of boxes of blocks, and so on; and which of them count.

   Between two boxes with the centres X and Y, terms are h(x) - c(x, y)/eps less a guess of their sum at y. Potentials
   change by much more than one from one side of a box to the other where mass moves far: so h, and the guess, are
   bounded by linear functions that follow them, h(x) <= top + <slopes, x - X>, and the cost by its tangent at X - Y. */

#include "clouds.h"

#include <math.h>
#include <string.h>

enum { MOST_FITTED = 8 }; /* the dimension up to which slopes are fitted */

static void swap_atoms(Index *order, Index i, Index j)
{
    Index other = order[i];
    order[i] = order[j];
    order[j] = other;
}

/* Bring the `half` smallest along an axis to the front (quickselect). */
static void split(Index *order, Index count, const double *points, Index dim, Index axis, Index half)
{
    Index low = 0, high = count - 1;
    while (low < high) {
        double pivot = points[order[(low + high) / 2] * dim + axis];
        Index i = low, j = high;
        while (i <= j) {
            while (points[order[i] * dim + axis] < pivot) i++;
            while (points[order[j] * dim + axis] > pivot) j--;
            if (i <= j) swap_atoms(order, i++, j--);
        }
        if (half <= j)
            high = j;
        else if (half >= i)
            low = i;
        else
            return;
    }
}

/* Order atoms such that as many as any power of two from `least` on, in a row from a multiple of it, are near each
   other: two parts along the widest axis, and so on. */
void order_points(Index *order, Index count, const double *points, Index dim, Index least)
{
    if (count <= least) return;
    Index axis = 0, unit = least;
    while (4 * unit <= count) unit *= 2;
    Index half = (count + unit) / (2 * unit) * unit;
    double widest = -1;
    for (Index k = 0; k < dim; k++) {
        double low = INFINITY, high = -INFINITY;
        for (Index i = 0; i < count; i++) {
            double at = points[order[i] * dim + k];
            low = at < low ? at : low;
            high = at > high ? at : high;
        }
        if (high - low > widest) widest = high - low, axis = k;
    }
    split(order, count, points, dim, axis, half);
    order_points(order, half, points, dim, least);
    order_points(order + half, count - half, points, dim, least);
}

/* Replace atoms by their places in the support. */
void find_in_support(const Support *support, Index *order)
{
    for (Index i = 0; i < support->count; i++) {
        Index low = 0, high = support->count - 1, atom = order[i];
        while (low < high) {
            Index middle = (low + high) / 2;
            if (support->atoms[middle] < atom)
                low = middle + 1;
            else
                high = middle;
        }
        order[i] = low;
    }
}

/* Count the boxes of all levels, down to a few on the last one; put where each level starts into place. */
static Index count_boxes(Index blocks, Index *first, Index *height)
{
    Index boxes = 0, levels = 0, count = blocks;
    for (;; count = (count + GROUP - 1) / GROUP) {
        first[levels++] = boxes;
        boxes += count;
        if (count <= GROUP || levels == MOST_HEIGHT) break;
    }
    first[levels] = boxes;
    *height = levels;
    return boxes;
}

/* The box on the next level that a box belongs to. */
static Index parent(const Side *side, Index level, Index box)
{
    return side->first[level + 1] + (box - side->first[level]) / GROUP;
}

/* Let boxes that hold corners low and high become those with centres and half widths. */
static void take_middles(Side *side)
{
    for (Index k = 0; k < side->boxes * side->dim; k++) {
        double low = side->middles[k], high = side->halves[k];
        side->middles[k] = 0.5 * (low + high);
        side->halves[k] = larger(high - side->middles[k], side->middles[k] - low);
    }
}

/* Put the coordinates of the atoms into blocks, and the boxes around them. */
static void take_boxes(Side *side, const double *points)
{
    Index dim = side->dim;
    double *low = side->middles, *high = side->halves;
    for (Index k = 0; k < side->boxes * dim; k++) low[k] = INFINITY, high[k] = -INFINITY;
    for (Index i = 0; i < side->n; i++)
        for (Index k = 0; k < dim; k++) {
            double at = side->coordinates[k * side->n + i] = points[side->order[i] * dim + k];
            Index b = i / BLOCK * dim + k;
            low[b] = at < low[b] ? at : low[b];
            high[b] = at > high[b] ? at : high[b];
        }
    for (Index l = 0; l + 1 < side->height; l++)
        for (Index b = side->first[l]; b < side->first[l + 1]; b++)
            for (Index k = 0; k < dim; k++) {
                Index to = parent(side, l, b) * dim + k;
                low[to] = smaller(low[to], low[b * dim + k]);
                high[to] = larger(high[to], high[b * dim + k]);
            }
    take_middles(side);
}

/* Put how far atoms are from the centres of their blocks into offsets; zeros behind the last atom. */
static void take_offsets(Side *side)
{
    memset(side->offsets, 0, (size_t)(side->blocks * side->dim * BLOCK) * sizeof *side->offsets);
    for (Index b = 0; b < side->blocks; b++) {
        const double *middle = side->middles + b * side->dim, *half = side->halves + b * side->dim;
        for (Index k = 0; k < side->dim; k++) {
            float *offsets = side->offsets + (b * side->dim + k) * BLOCK;
            for (Index i = 0; i < atoms_of(side, b); i++)
                offsets[i] = (float)(side->coordinates[k * side->n + b * BLOCK + i] - middle[k]);
        }
        side->radii[b] = sqrt(inner_product(side->dim, half, half));
    }
}

static Index blocks_of(Index n)
{
    return (n + BLOCK - 1) / BLOCK;
}

size_t side_bytes(Index n, Index dim)
{
    Index first[MOST_HEIGHT + 1], height, blocks = blocks_of(n), boxes = count_boxes(blocks, first, &height);
    return 5 * bytes_for(n) + bytes_for(n * dim) + 4 * bytes_for(boxes * dim) + 2 * bytes_for(boxes) + bytes_for(blocks) +
           bytes_for(blocks * dim) + bytes_for(blocks * dim * BLOCK / 2);
}

void open_side(Side *side, Arena *arena, const Support *support, const double *points, Index dim)
{
    Index n = support->count, blocks = blocks_of(n);
    *side = (Side){.support = support, .points = points, .n = n, .blocks = blocks, .dim = dim};
    side->boxes = count_boxes(blocks, side->first, &side->height);
    side->order = take_indices(arena, n);
    side->coordinates = take_numbers(arena, n * dim);
    double **of_atoms[] = {&side->h, &side->potential, &side->sums, &side->guesses};
    for (size_t k = 0; k < sizeof of_atoms / sizeof *of_atoms; k++) *of_atoms[k] = take_numbers(arena, n);
    double **of_boxes[] = {&side->middles, &side->halves, &side->slopes, &side->bends};
    for (size_t k = 0; k < sizeof of_boxes / sizeof *of_boxes; k++) *of_boxes[k] = take_numbers(arena, side->boxes * dim);
    side->tops = take_numbers(arena, side->boxes);
    side->levels = take_numbers(arena, side->boxes);
    side->radii = take_numbers(arena, blocks);
    side->guess_slopes = take_numbers(arena, blocks * dim);
    side->offsets = (float *)take_numbers(arena, blocks * dim * BLOCK / 2);
    memcpy(side->order, support->atoms, (size_t)n * sizeof *side->order);
    order_points(side->order, n, points, dim, BLOCK);
    take_boxes(side, points);
    take_offsets(side);
    find_in_support(support, side->order);
}

/* The coordinates of an atom, which is counted block by block. */
const double *point_of(const Side *side, Index i)
{
    return side->points + side->support->atoms[side->order[i]] * side->dim;
}

/* Put the slopes of a linear function near values of atoms into place: by least squares for one coordinate after the
   other, twice. Values of minus infinity take no part. */
static void fit_slopes(const Side *side, Index block, Index n, const double *values, double *slopes)
{
    double rest[BLOCK], weights[BLOCK], count = 0, mean = 0;
    memset(slopes, 0, (size_t)side->dim * sizeof *slopes);
    if (side->dim > MOST_FITTED) return;
    for (Index i = 0; i < n; i++) {
        weights[i] = isfinite(values[i]);
        rest[i] = weights[i] > 0 ? values[i] : 0;
        count += weights[i];
        mean += rest[i];
    }
    if (count < 2) return;
    for (Index i = 0; i < n; i++) rest[i] -= weights[i] * mean / count;
    for (Index k = 0; k < 2 * side->dim; k++) {
        const float *offsets = side->offsets + (block * side->dim + k % side->dim) * BLOCK;
        double middle = 0, square = 0, product = 0;
        for (Index i = 0; i < n; i++) middle += weights[i] * offsets[i] / count;
        for (Index i = 0; i < n; i++) {
            double offset = weights[i] * (offsets[i] - middle);
            square += offset * offset;
            product += offset * rest[i];
        }
        double slope = square > 0 && isfinite(product / square) ? product / square : 0;
        for (Index i = 0; i < n; i++) rest[i] -= slope * weights[i] * (offsets[i] - middle);
        slopes[k % side->dim] += slope;
    }
}

/* Put what values of the atoms in a block are above a linear function into rest. */
static void subtract_slopes(const Side *side, Index block, const double *values, const double *slopes, double *rest)
{
    Index n = atoms_of(side, block);
    memcpy(rest, values, (size_t)n * sizeof *rest);
    for (Index k = 0; k < side->dim; k++) {
        const float *offsets = side->offsets + (block * side->dim + k) * BLOCK;
        for (Index i = 0; i < n; i++) rest[i] -= slopes[k] * offsets[i];
    }
}

/* Bound values of the atoms in a block, with slopes that are put into place. */
Bound bound_on_block(const Side *side, Index block, const double *values, double *slopes)
{
    double rest[BLOCK];
    fit_slopes(side, block, atoms_of(side, block), values, slopes);
    subtract_slopes(side, block, values, slopes, rest);
    return (Bound){range_of(atoms_of(side, block), rest).most, slopes};
}

Bound bound_of(const Side *side, Index box)
{
    return (Bound){side->tops[box], side->slopes + box * side->dim};
}

/* Put the slopes of h at the centre of a box into place, and how they bend, from those of the boxes that it has. */
static void fit_box(Side *side, Index box, Index begin, Index end)
{
    for (Index k = 0; k < side->dim; k++) {
        double count = 0, middle = 0, slope = 0, square = 0, product = 0;
        for (Index c = begin; c < end; c++) {
            if (!(side->tops[c] > -INFINITY)) continue;
            count++;
            middle += side->middles[c * side->dim + k];
            slope += side->slopes[c * side->dim + k];
        }
        if (count > 0) middle /= count, slope /= count;
        for (Index c = begin; c < end; c++) {
            double apart = side->middles[c * side->dim + k] - middle;
            if (!(side->tops[c] > -INFINITY)) continue;
            square += apart * apart;
            product += apart * (side->slopes[c * side->dim + k] - slope);
        }
        double bend = square > 0 && isfinite(product / square) ? 0.5 * product / square : 0;
        side->bends[box * side->dim + k] = bend;
        side->slopes[box * side->dim + k] = slope + 2 * bend * (side->middles[box * side->dim + k] - middle);
    }
}

/* Bound h in a box by the bounds in those that it has. */
static void bound_box(Side *side, Index box, Index begin, Index end)
{
    double count = 0, level = 0, top = -INFINITY;
    fit_box(side, box, begin, end);
    for (Index child = begin; child < end; child++) {
        double most = side->tops[child], here = side->levels[child];
        if (!(most > -INFINITY)) continue;
        for (Index k = child * side->dim, j = box * side->dim; k < (child + 1) * side->dim; k++, j++) {
            double apart = side->middles[k] - side->middles[j], slope = side->slopes[j];
            most += fabs(side->slopes[k] - slope) * side->halves[k] - slope * apart;
            here -= 0.5 * (side->slopes[k] + slope) * apart;
        }
        top = larger(most, top);
        level += here;
        count++;
    }
    side->tops[box] = top;
    side->levels[box] = count > 0 ? level / count : -INFINITY;
}

/* Put the mean of what h in a block is above its slopes into place. */
static void take_level(Side *side, Index block)
{
    double rest[BLOCK], count = 0, level = 0;
    subtract_slopes(side, block, side->h + block * BLOCK, side->slopes + block * side->dim, rest);
    for (Index i = 0; i < atoms_of(side, block); i++) {
        count += isfinite(rest[i]);
        level += isfinite(rest[i]) ? rest[i] : 0;
    }
    side->levels[block] = count > 0 ? level / count : -INFINITY;
}

/* Bound h in all boxes. */
void take_bounds(Side *side)
{
    memset(side->bends, 0, (size_t)(side->blocks * side->dim) * sizeof *side->bends);
    for (Index b = 0; b < side->blocks; b++) {
        side->tops[b] = bound_on_block(side, b, side->h + b * BLOCK, side->slopes + b * side->dim).top;
        take_level(side, b);
    }
    for (Index l = 1; l < side->height; l++)
        for (Index box = side->first[l]; box < side->first[l + 1]; box++) {
            Index begin = side->first[l - 1] + (box - side->first[l]) * GROUP, end = begin + GROUP;
            bound_box(side, box, begin, end < side->first[l] ? end : side->first[l]);
        }
}

static double clamp(double x, double half)
{
    return smaller(larger(x, -half), half);
}

/* The most that p u + q v - (apart + u - v)^2/eps may be for |u| <= wide and |v| <= high: where both move together nothing
   but p + q counts, so one of them is at its end. */
static double most_along_axis(double inverse_eps, double apart, double p, double wide, double q, double high)
{
    double u = p + q < 0 ? -wide : wide, v = p + q < 0 ? -high : high, half_eps = 0.5 / inverse_eps;
    double other_v = clamp(apart + u + q * half_eps, high), other_u = clamp(v - apart + p * half_eps, wide);
    double one = apart + u - other_v, two = apart + other_u - v;
    return larger(p * u + q * other_v - one * one * inverse_eps, p * other_u + q * v - two * two * inverse_eps);
}

/* The most that a value at x, a value at y and minus the squared distance, in units of eps, are together, x in one box
   and y in the other. */
static double most_of_squares(double inverse_eps, Index dim, const double *x, const double *x_half, Bound at_x,
                              const double *y, const double *y_half, Bound at_y)
{
    double most = at_x.top + at_y.top;
    for (Index k = 0; k < dim; k++)
        most += most_along_axis(inverse_eps, x[k] - y[k], at_x.slopes[k], x_half[k], at_y.slopes[k], y_half[k]);
    return most;
}

/* A tangent to the cost between two points at a distance. An angle is 2 arcsin(chord / 2), which is convex; vectors may be
   longer than one by 1e-4. */
Tangent tangent_at(const Operator *op, double distance)
{
    static const double LONGEST = 1.99, SHORTENED = 1 - 2e-4;
    if (op->costs->cost != SPHERE) return (Tangent){distance * op->inverse_eps, op->inverse_eps};
    double chord = smaller(SHORTENED * distance, LONGEST), slope = 1 / sqrt(1 - chord * chord / 4);
    double angle = 2 * asin(chord / 2) + slope * (SHORTENED * distance - chord);
    return (Tangent){angle * op->inverse_eps, SHORTENED * slope * op->inverse_eps};
}

/* The same for distances and angles: by the tangent between the centres, or between the nearest points of the boxes. */
static double most_of_distances(const Operator *op, Index dim, const double *x, const double *x_half, Bound at_x,
                                const double *y, const double *y_half, Bound at_y)
{
    double square = 0, gaps = 0, by_tangent = 0, by_gap = 0;
    for (Index k = 0; k < dim; k++) square += (x[k] - y[k]) * (x[k] - y[k]);
    double distance = sqrt(square);
    Tangent tangent = tangent_at(op, distance);
    double per_unit = distance > 0 ? tangent.slope / distance : 0;
    for (Index k = 0; k < dim; k++) {
        double apart = x[k] - y[k], wide = at_y.slopes ? y_half[k] : 0, slope = at_y.slopes ? at_y.slopes[k] : 0;
        double gap = larger(fabs(apart) - x_half[k] - wide, 0);
        gaps += gap * gap;
        by_tangent += fabs(at_x.slopes[k] - per_unit * apart) * x_half[k] + fabs(slope + per_unit * apart) * wide;
        by_gap += fabs(at_x.slopes[k]) * x_half[k] + fabs(slope) * wide;
    }
    by_tangent -= tangent.cost;
    by_gap -= tangent_at(op, sqrt(gaps)).cost;
    return at_x.top + at_y.top + smaller(by_tangent, by_gap);
}

static double most_between(const Operator *op, const Side *from, Index box, const double *y, const double *y_half,
                           Bound bound)
{
    const double *x = from->middles + box * from->dim, *x_half = from->halves + box * from->dim;
    if (op->costs->cost == SQEUCLIDEAN)
        return most_of_squares(op->inverse_eps, from->dim, x, x_half, bound_of(from, box), y, y_half, bound);
    return most_of_distances(op, from->dim, x, x_half, bound_of(from, box), y, y_half, bound);
}

/* Begin with the blocks that may have terms for a block of the other side; `bound` is of minus what they are relative to. */
Walk walk_to(const Operator *op, const Side *from, const Side *to, Index block, Bound bound)
{
    Walk walk = {.op = op, .from = from, .level = from->height - 1, .bound = bound};
    walk.middle = to->middles + block * to->dim;
    walk.half = to->halves + block * to->dim;
    walk.at[walk.level] = from->first[walk.level];
    walk.end[walk.level] = from->boxes;
    return walk;
}

/* The next block with terms that may be at least `lowest`; -1 behind the last one. */
Index next_block(Walk *walk, double lowest)
{
    const Side *from = walk->from;
    while (walk->level < from->height) {
        Index level = walk->level, box = walk->at[level]++;
        if (box == walk->end[level]) {
            walk->level++;
        } else if (!(most_between(walk->op, from, box, walk->middle, walk->half, walk->bound) < lowest)) {
            if (level == 0) return box;
            Index child = from->first[level - 1] + (box - from->first[level]) * GROUP;
            walk->at[level - 1] = child;
            walk->end[level - 1] = child + GROUP < from->first[level] ? child + GROUP : from->first[level];
            walk->level--;
        }
    }
    return -1;
}

/* The most that a term between a box and a point of the other side may be. */
double most_at_point(const Operator *op, const Side *from, Index box, const double *y)
{
    const double *x = from->middles + box * from->dim, *half = from->halves + box * from->dim;
    Bound bound = bound_of(from, box);
    double most = bound.top;
    if (op->costs->cost != SQEUCLIDEAN)
        return most_of_distances(op, from->dim, x, half, bound, y, NULL, (Bound){0, NULL});
    for (Index k = 0; k < from->dim; k++)
        most += most_along_axis(op->inverse_eps, x[k] - y[k], bound.slopes[k], half[k], 0, 0);
    return most;
}

/* About the largest term between a box and a point of the other side. */
static double likely_between(const Operator *op, const Side *from, Index box, const double *y)
{
    const double *x = from->middles + box * from->dim, *half = from->halves + box * from->dim;
    const double *slopes = from->slopes + box * from->dim, *bends = from->bends + box * from->dim;
    double likely = from->levels[box], inverse_eps = op->inverse_eps;
    if (op->costs->cost != SQEUCLIDEAN)
        return most_of_distances(op, from->dim, x, half, (Bound){likely, slopes}, y, NULL, (Bound){0, NULL});
    for (Index k = 0; k < from->dim; k++) {
        double apart = x[k] - y[k], slope = slopes[k] - 2 * apart * inverse_eps, bend = inverse_eps - bends[k];
        double u = 2 * bend * half[k] > fabs(slope) ? 0.5 * slope / bend : slope < 0 ? -half[k] : half[k];
        likely += slope * u - bend * u * u - apart * apart * inverse_eps;
    }
    return likely;
}

/* Find blocks with large terms at a point of the other side: on each level those that may have the largest ones; return
   how many. */
Index find_nearest(const Operator *op, const Side *from, const double *y, Index *nearest)
{
    Index known = 0;
    for (Index level = from->height - 1; level >= 0; level--) {
        Index found[NEAREST], count = 0, is_last = level == from->height - 1;
        double tops[NEAREST];
        for (Index p = 0; p < (is_last ? 1 : known); p++) {
            Index child = from->first[level], end = from->first[level + 1];
            if (!is_last) {
                child += (nearest[p] - from->first[level + 1]) * GROUP;
                end = child + GROUP < end ? child + GROUP : end;
            }
            for (; child < end; child++) {
                double top = likely_between(op, from, child, y);
                if (count == NEAREST && !(top > tops[count - 1])) continue;
                Index k = count < NEAREST ? count++ : count - 1;
                for (; k > 0 && top > tops[k - 1]; k--) tops[k] = tops[k - 1], found[k] = found[k - 1];
                tops[k] = top;
                found[k] = child;
            }
        }
        memcpy(nearest, found, (size_t)count * sizeof *nearest);
        known = count;
    }
    return known;
}
