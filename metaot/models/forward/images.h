/* What Python asks of the universal network: predictions of images, stage by stage, on all atoms. */

#ifndef METAOT_IMAGES_H
#define METAOT_IMAGES_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>

/* look_each(modes, coldest, warmest, threads, (rows, columns, network ..., a, b, eps, numbers, cosines, x, f)): what the
   network sees of pairs of images into numbers, cosines and x, and the first potentials into f. Temperatures are in
   squared widths. */
PyObject *look_each(PyObject *module, PyObject *arguments);

/* correct_each(modes, threads, (rows, columns, correction ..., eps, numbers, cosines, x, missing, f)): add to f what the
   missing marginal tells. */
PyObject *correct_each(PyObject *module, PyObject *arguments);

#endif
