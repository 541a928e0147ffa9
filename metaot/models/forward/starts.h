/* Starts for solvers: all stages of a prediction in one call, of images, or of these at every few points. */

#ifndef METAOT_STARTS_H
#define METAOT_STARTS_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

/* start_each(modes, coldest, warmest, passes, enough, threads, (rows, columns, network ...), (rows, columns,
   correction ...), kernels, lifts, (by, a, b, eps, f, told)): predict in so many passes, or until plans miss at most
   `enough` of the mass, on the grid of rows and columns; f is right on the atoms with mass. Where there are lifts, which
   are kernels from a finer grid to this one, `by` says how many points of that are in one here; weights and f are on
   the finer grid, to which a Sinkhorn step leads in the end. Of problems of which something is told there is no f. */
PyObject *start_each(PyObject *module, PyObject *arguments);

#endif
