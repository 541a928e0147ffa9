/* Layers of networks for one vector, in float32: those of metaot/models/alone.py, without a call for each array. */

#ifndef METAOT_LAYERS_H
#define METAOT_LAYERS_H

#include <stddef.h>

#include "../../single/steps/processors.h"

typedef ptrdiff_t Index;

enum { MOST_AXES = 8 };

typedef struct {
    const float *weight, *bias;
    Index rows, columns;
} Linear;

typedef struct {
    const float *scale, *shift;
    Linear inner, outer;
} Block; /* a norm, a gated layer and its residual */

typedef struct {
    const float *scale, *shift, *gain, *synthesis;
    Linear outputs;
} Decoder; /* a norm, cosine coefficients, and a matrix for each axis */

typedef struct {
    int axes;
    Index sizes[MOST_AXES], atoms, largest;
} Grid; /* `largest`: the most numbers of a function on the grid, on its way to coefficients or from them */

/* y = W x + bias */
void apply_linear(const Linear *linear, const float *x, float *y);

/* x becomes what the block makes of it; there is room for twice the inner layer and for x. */
void apply_block(const Block *block, Index width, float *x, float *room);

/* Put the moments of a function into place; there is room for two functions. */
void analyse(const Grid *grid, const float *matrices, Index modes, const float *f, float *moments, float *room);

/* Add `size` times the function of features x to f; there is room for three functions and for x. */
void decode(const Grid *grid, const Decoder *decoder, Index modes, Index width, const float *x, float size, float *f,
            float *room);

#endif
