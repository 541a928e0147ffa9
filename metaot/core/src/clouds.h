/* One side of two clouds in blocks of atoms that are near each other, and in boxes of these; see boxes.c. */

#ifndef METAOT_CLOUDS_H
#define METAOT_CLOUDS_H

#include "core.h"

enum { BLOCK = TILE, GROUP = 8, MOST_HEIGHT = 20, NEAREST = 3 }; /* GROUP: the boxes in one of the next level */

typedef struct {
    const Support *support;
    const double *points; /* of all atoms, with mass or not */
    Index n, blocks, dim;
    Index height, boxes, first[MOST_HEIGHT + 1]; /* levels: of blocks, of a few of these, and so on; where each starts */
    Index *order;             /* the atoms of the support, block by block */
    double *coordinates;      /* dim n, in this order */
    double *middles, *halves; /* of boxes, their centres and half of their widths: boxes dim */
    float *offsets;           /* of atoms from the centres of their blocks: blocks dim BLOCK */
    double *radii;            /* of blocks around their centres */
    double *h;                /* potential + log weights, in this order */
    double *potential;        /* the potential, and the logarithms of sums: the other one is minus these */
    double *sums, *guesses;   /* guesses: what sums are relative to */
    double *tops, *slopes;    /* of each box: h is at most top + <slopes, x - centre>; boxes, boxes dim */
    double *levels, *bends;   /* of each box: h is near level + <slopes, x - centre> + sum bends (x - centre)^2 */
    double *guess_slopes;     /* of minus the guesses in each block: blocks dim */
} Side;

typedef struct {
    double top;
    const double *slopes; /* NULL: only at the centre */
} Bound; /* values of the atoms in a box are at most top + <slopes, x - centre> */

typedef struct {
    double cost, slope;
} Tangent; /* of the cost as a function of the distance, in units of eps: the cost is nowhere below it */

typedef struct {
    const Operator *op;
    const Side *from;
    const double *middle, *half; /* the box of the other side's block */
    Bound bound;
    Index at[MOST_HEIGHT], end[MOST_HEIGHT], level;
} Walk; /* the way through the blocks of one side that may have terms for a block of the other one */

typedef struct {
    Side source, target;
    int known, known_of_source; /* whether sums of the last point are known, over the source and over the target */
    double margin;
    double *moved;
} Clouds;

static inline double larger(double x, double y)
{
    return x > y ? x : y; /* fmax is a call */
}

static inline double smaller(double x, double y)
{
    return x < y ? x : y;
}

static inline Index atoms_of(const Side *side, Index block)
{
    Index left = side->n - block * BLOCK;
    return left < BLOCK ? left : BLOCK;
}

/* boxes.c */
size_t side_bytes(Index n, Index dim);
void open_side(Side *side, Arena *arena, const Support *support, const double *points, Index dim);
const double *point_of(const Side *side, Index i);
Tangent tangent_at(const Operator *op, double distance);
void take_bounds(Side *side);
Bound bound_on_block(const Side *side, Index block, const double *values, double *slopes);
Bound bound_of(const Side *side, Index box);
Walk walk_to(const Operator *op, const Side *from, const Side *to, Index block, Bound bound);
Index next_block(Walk *walk, double lowest);
double most_at_point(const Operator *op, const Side *from, Index box, const double *y);
Index find_nearest(const Operator *op, const Side *from, const double *y, Index *nearest);

/* clouds.c */
void block_costs(const Operator *op, const Side *from, Index i, const Side *to, Index first, Index n, double *out);
void most_of_atoms(const Operator *op, const Side *from, Index I, const Side *to, Index J, Bound bound, double *most,
                   double *squares);
Bound bound_minus(const Side *to, Index J, const double *guesses);
void find_largest_terms(Operator *op, const Side *from, Side *to);

#endif
