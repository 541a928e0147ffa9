/* Layers that commute with reflections, as in metaot/models/universal/parity.py, for one problem or for many at once.

   Features are held by class, then by feature, then by problem: a lane for each. There are LANES of them, or one. */

#ifndef METAOT_LANES_H
#define METAOT_LANES_H

#include <stddef.h>

#include "../../single/steps/processors.h"

typedef ptrdiff_t Index;

enum { LANES = 16, CLASSES = 4 };

typedef struct {
    const float *weight, *bias;
    Index inputs, outputs;
} ParityLinear; /* for each class a matrix (inputs outputs); the first class has a bias */

typedef struct {
    const float *scale, *modulation;
    Index temperatures;
    ParityLinear inner, outer;
} ParityBlock;

typedef struct {
    const float *weight, *bias;
    Index outputs, temperatures;
} Affine; /* of the temperature: a matrix (outputs temperatures) */

/* out = left^T right for LANES columns of right, of which there are `terms` rows: each row of left has a number for
   every row of out. */
void multiply_lanes(Index terms, const float *left, Index left_stride, Index outputs, const float *right,
                    Index right_stride, float *out, Index out_stride);

/* y = W x + bias */
void apply_parity(const ParityLinear *linear, int lanes, const float *x, float *y);

/* x becomes what the block makes of it. There is room for twice as many numbers as x has, and for three times the
   hidden features of all classes. */
void apply_parity_block(const ParityBlock *block, int lanes, const float *temperature, float *x, float *room);

/* Scale all features of a problem to a mean square of one. */
void normalise_lanes(Index features, int lanes, const float *x, float *out);

/* out = W t + bias, the same for all classes. */
void apply_affine(const Affine *affine, int lanes, const float *temperature, float *out);

/* Choose how products are made on this processor, once and for all. */
void choose_products(void);

#endif
