/* Measures on a grid in the plane, and functions of cosines there: metaot/models/universal/frame.py and places.py. */

#ifndef METAOT_PLANE_H
#define METAOT_PLANE_H

#include "lanes.h"

typedef struct {
    Index sizes[2], padded[2], modes, padded_modes;
    const double *axes[2];
} Plane; /* coordinates along both axes; sizes are padded to whole vectors */

typedef struct {
    double mean[2], xx, yy, xy;
    Index low[2], high[2];
} Measure; /* its mean and covariance, and the box around its mass */

typedef struct {
    float *by_mode[2], *by_point[2];
} Cosines; /* tables (modes points) and (points modes) of each axis; rows are padded */

/* How many numbers the tables need. */
Index cosines_size(const Plane *plane);

/* How much room the functions below need. */
Index plane_room(const Plane *plane);

/* The tables in memory. */
Cosines cosines_in(const Plane *plane, float *memory);

/* Look at a measure; there is room for as many doubles as the sizes. */
void measure(const Plane *plane, const double *weights, Measure *found, double *room);

/* Fill the tables of compressed coordinates around a mean; there is room for four times the larger size. */
void fill_cosines(const Plane *plane, const double *mean, double width, Cosines *cosines, double *room);

/* Put the sums of weights, which are zero outside of the box, times cosines into table (modes padded_modes). */
void analyse_plane(const Plane *plane, const Cosines *cosines, const double *weights, const Index *low,
                   const Index *high, float *table, float *room);

/* f += scale * the function of these coefficients, a table (modes padded_modes), in a box. */
void add_synthesis(const Plane *plane, const Cosines *cosines, const float *table, double scale, const Index *low,
                   const Index *high, double *f, float *room);

/* Put scale * the potential between Gaussians into f in a box. */
void between_gaussians(const Plane *plane, const Measure *a, const Measure *b, double eps, double scale,
                       const Index *low, const Index *high, double *f);

#endif
