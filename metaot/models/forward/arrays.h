/* Arrays of numpy's that come in a tuple. */

#ifndef METAOT_ARRAYS_H
#define METAOT_ARRAYS_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

#include <stddef.h>

typedef ptrdiff_t Index;

enum { MOST = 128 };

typedef struct {
    Py_buffer buffers[MOST];
    int count, next, fit;
} Arrays; /* taken one after another; `fit` as long as their sizes are what they must be */

/* Hold the arrays of a tuple, of which the last few are written to; 0 with an exception if that fails. */
int hold(Arrays *arrays, PyObject *tuple, Py_ssize_t written);

/* Take the next array, of so many numbers, or of any number if it is negative. */
float *take(Arrays *arrays, Index wanted);

/* The same of an array of double precision. */
double *take_doubles(Arrays *arrays, Index wanted);

/* The numbers of the array that comes after so many others. */
Index length(const Arrays *arrays, int ahead);

void release(Arrays *arrays);

/* None, or raise what went wrong: arrays that do not fit, or not enough memory. */
PyObject *outcome(int fit, int enough);

/* Finish: release what is held, and raise what went wrong. */
PyObject *finish(Arrays *arrays, int enough);

#endif
