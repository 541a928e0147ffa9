/* The universal network on images, in float32: see metaot/models/universal/network.py. */

#ifndef METAOT_UNIVERSAL_H
#define METAOT_UNIVERSAL_H

#include "arrays.h"
#include "lanes.h"
#include "plane.h"

enum { LARGEST_DEPTH = 16 };

typedef struct {
    Plane plane;
    Index modes, count, width, features, hidden, temperatures, problems, atoms, numbers_size;
    int corrects, everywhere, depth;
    double coldest, warmest;
    ParityLinear inputs, outputs;
    Affine of_eps, gain;
    ParityBlock blocks[LARGEST_DEPTH];
    const float *emphasis, *damping;
    const double *a, *b, *eps, *missing;
    double *numbers, *f;
    float *cosines, *x;
} Task; /* the network, or its correction; and problems, with what is seen of them. Potentials are in units of eps, on
           all atoms, or in the box around the mass and zeros elsewhere */

typedef struct {
    float *read, *room, *coefficients, *gains, *table, *others, *plane;
    double *doubles;
    char *memory;
} Desk; /* where one thread works */

/* Take a grid of so many modes: coordinates of rows and of columns. */
void take_plane(Arrays *all, Task *task);

/* Take the network, or its correction, before so many other arrays: weight and bias of inputs, of what eps adds and of
   outputs, those of gains, and those of blocks; before outputs the factors of moments and of coefficients. A correction
   has neither what eps adds nor gains. */
void take_network(Arrays *all, Task *task, int others);

/* Have room to work, which is memory to be freed; 0 if there is none. */
int open_desk(const Task *task, Desk *desk);

/* See a problem on a grid of which so many points are one of the grid where it was looked at. */
void look_closer(const Task *task, const Task *fine, Desk *desk, const Index *by, Index problem);

/* Look at some problems, and put the first potentials into f; or correct f of some that have been seen. */
void work_on(const Task *task, Desk *desk, Index first, Index count);

#endif
