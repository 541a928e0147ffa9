/* Starts for solvers: all stages of a prediction in one call, of images, or of these at every few points. */

#ifndef METAOT_STARTS_H
#define METAOT_STARTS_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

/* start_each(modes, coldest, warmest, passes, enough, threads, (rows, columns, network ...), (rows, columns,
   correction ...), kernels, lifts, fine, (by, rows, columns, a, b, eps, f, told)): predict in so many passes, or until
   plans miss at most `enough` of the mass; f is right on the atoms with mass. Of problems of which something is told
   there is none. Where there are lifts, the prediction is on a grid coarser than that of the problems, which comes
   last: `by` says how many of its points are one there, lifts are kernels from it to that, and fine those on it. A
   Sinkhorn step leads back from there, and where plans have missed more than enough a last pass is made here. */
PyObject *start_each(PyObject *module, PyObject *arguments);

#endif
