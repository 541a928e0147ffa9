/* The universal network on images: see metaot/models/universal/network.py. */

#ifndef METAOT_UNIVERSAL_H
#define METAOT_UNIVERSAL_H

#include "arrays.h"

/* look_each(modes, coldest, warmest, everywhere, threads, (rows, columns, inputs, of_eps, emphasis, damping, outputs, gain,
   blocks ..., a, b, eps, numbers, cosines, x, f)): what the network sees of pairs of images into numbers, cosines and
   x, and the potentials, in units of eps, into f: on all atoms, or in the box around the mass and zeros elsewhere. Layers are weight and bias;
   temperatures are in squared widths. */
PyObject *look_each(PyObject *module, PyObject *arguments);

/* correct_each(modes, everywhere, threads, (rows, columns, missing_inputs, emphasis, damping, correction, corrector, eps, numbers,
   cosines, x, missing, f)): add to f what the missing marginal tells. */
PyObject *correct_each(PyObject *module, PyObject *arguments);

#endif
