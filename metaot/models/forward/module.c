/* metaot.models._forward: networks in float32 for one problem, which metaot/models/alone.py calls. */

#include "arrays.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "images.h"
#include "lanes.h"
#include "layers.h"
#include "starts.h"

enum { BLOCK = 6, DECODER = 6 };

static Linear take_linear(Arrays *arrays, Index columns)
{
    Linear linear = {.rows = length(arrays, 1), .columns = columns};
    linear.weight = take(arrays, linear.rows * columns);
    linear.bias = take(arrays, linear.rows);
    return linear;
}

static Block take_block(Arrays *arrays, Index width)
{
    Block block;
    block.scale = take(arrays, width);
    block.shift = take(arrays, width);
    block.inner = take_linear(arrays, width);
    block.outer = take_linear(arrays, block.inner.rows / 2);
    if (block.outer.rows != width || block.inner.rows % 2) arrays->fit = 0;
    return block;
}

static Index power(Index modes, int axes)
{
    Index count = 1;
    for (int axis = 0; axis < axes; axis++) count *= modes;
    return count;
}

/* The numbers of a matrix for each axis. */
static Index matrices(const Grid *grid, Index modes)
{
    Index count = 0;
    for (int axis = 0; axis < grid->axes; axis++) count += modes * grid->sizes[axis];
    return count;
}

static Decoder take_decoder(Arrays *arrays, const Grid *grid, Index modes, Index width)
{
    Decoder decoder;
    decoder.scale = take(arrays, width);
    decoder.shift = take(arrays, width);
    decoder.outputs = take_linear(arrays, width);
    decoder.gain = take(arrays, decoder.outputs.rows);
    decoder.synthesis = take(arrays, matrices(grid, modes));
    if (decoder.outputs.rows != power(modes, grid->axes)) arrays->fit = 0;
    return decoder;
}

/* Take the sizes of a grid, int64, whose functions are looked at in up to so many modes for each axis. */
static Grid take_grid(Arrays *arrays, Index modes)
{
    Grid grid = {.axes = (int)(length(arrays, 0) / 2), .atoms = 1, .largest = 1};
    const int64_t *sizes = (const int64_t *)take(arrays, 2 * (Index)grid.axes);
    if (grid.axes < 1 || grid.axes > MOST_AXES || modes < 1) arrays->fit = 0;
    for (int axis = 0; arrays->fit && axis < grid.axes; axis++) {
        grid.sizes[axis] = (Index)sizes[axis];
        if (sizes[axis] < 1) arrays->fit = 0;
        grid.atoms *= grid.sizes[axis];
        grid.largest *= grid.sizes[axis] > modes ? grid.sizes[axis] : modes;
    }
    return grid;
}

/* first(moments, modes, (sizes, analysis, inputs, blocks ..., decoder, a, b, x, f)): features of both measures into
   x, and the potential that they stand for into f. */
static PyObject *first(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_ssize_t moments, modes;
    PyObject *tuple;
    Arrays all;
    if (!PyArg_ParseTuple(arguments, "nnO!:first", &moments, &modes, &PyTuple_Type, &tuple) || !hold(&all, tuple, 2))
        return NULL;
    Grid grid = take_grid(&all, moments > modes ? moments : modes);
    Index seen = power(moments, grid.axes <= MOST_AXES ? grid.axes : 0), deepest = 0;
    const float *analysis = all.fit ? take(&all, matrices(&grid, moments)) : NULL;
    Linear inputs = take_linear(&all, 2 * seen);
    int depth = (all.count - all.next - DECODER - 4) / BLOCK, blocks = all.next;
    Index width = inputs.rows;
    for (int k = 0; k < depth; k++) {
        Index inner = take_block(&all, width).inner.rows;
        deepest = inner > deepest ? inner : deepest;
    }
    Decoder decoder = {0};
    if (all.fit) decoder = take_decoder(&all, &grid, modes, width);
    const float *a = take(&all, grid.atoms), *b = take(&all, grid.atoms);
    float *x = take(&all, width), *f = take(&all, grid.atoms), *room = NULL;
    if (all.fit && all.next == all.count) {
        room = malloc((size_t)(4 * grid.largest + 2 * seen + 2 * width + 2 * deepest) * sizeof *room);
    } else {
        all.fit = 0;
    }
    if (room) {
        float *read = room + 4 * grid.largest + 2 * width + 2 * deepest;
        analyse(&grid, analysis, moments, a, read, room);
        analyse(&grid, analysis, moments, b, read + seen, room);
        apply_linear(&inputs, read, x);
        all.next = blocks;
        for (int k = 0; k < depth; k++) {
            Block block = take_block(&all, width);
            apply_block(&block, width, x, room);
        }
        for (Index i = 0; i < grid.atoms; i++) f[i] = 0;
        decode(&grid, &decoder, modes, width, x, 1, f, room);
    }
    free(room);
    return finish(&all, room != NULL);
}

/* correct(modes, (sizes, analysis, inputs, scale, block, decoder, x, missing, f)): add to f what features x and the
   missing marginal tell. */
static PyObject *correct(PyObject *Py_UNUSED(module), PyObject *arguments)
{
    Py_ssize_t modes;
    PyObject *tuple;
    Arrays all;
    if (!PyArg_ParseTuple(arguments, "nO!:correct", &modes, &PyTuple_Type, &tuple) || !hold(&all, tuple, 1))
        return NULL;
    Grid grid = take_grid(&all, modes);
    Index seen = power(modes, grid.axes <= MOST_AXES ? grid.axes : 0);
    const float *analysis = all.fit ? take(&all, matrices(&grid, modes)) : NULL;
    Linear inputs = take_linear(&all, seen - 1);
    Index width = inputs.rows;
    const float *scale = take(&all, width);
    Block block = take_block(&all, width);
    Decoder decoder = {0};
    if (all.fit) decoder = take_decoder(&all, &grid, modes, width);
    const float *x = take(&all, width), *missing = take(&all, grid.atoms);
    float *f = take(&all, grid.atoms), *room = NULL;
    if (all.fit && all.next == all.count) {
        room = malloc((size_t)(4 * grid.largest + seen + 3 * width + 2 * block.inner.rows) * sizeof *room);
    } else {
        all.fit = 0;
    }
    if (room) {
        float *read = room + 4 * grid.largest + 2 * width + 2 * block.inner.rows, *y = read + seen, square = 0;
        analyse(&grid, analysis, modes, missing, read, room);
        for (Index i = 1; i < seen; i++) square += read[i] * read[i];
        float size = sqrtf(1e4f * square / (float)(seen - 1) + 1e-6f);
        for (Index i = 1; i < seen; i++) read[i] *= 100 / size;
        apply_linear(&inputs, read + 1, y);
        for (Index i = 0; i < width; i++) y[i] = x[i] + y[i] * scale[i];
        apply_block(&block, width, y, room);
        decode(&grid, &decoder, modes, width, y, size, f, room);
    }
    free(room);
    return finish(&all, room != NULL);
}

static PyMethodDef methods[] = {
    {"first", first, METH_VARARGS, "The potential of two measures; see metaot/models/_forward.pyi."},
    {"correct", correct, METH_VARARGS, "What is added after a Sinkhorn step; see metaot/models/_forward.pyi."},
    {"look_each", look_each, METH_VARARGS, "The potentials of pairs of images; see metaot/models/_forward.pyi."},
    {"correct_each", correct_each, METH_VARARGS, "Corrections of them; see metaot/models/_forward.pyi."},
    {"start_each", start_each, METH_VARARGS, "Starts for solvers; see metaot/models/_forward.pyi."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_forward", "Compiled networks.", 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__forward(void)
{
    choose_products();
    return PyModule_Create(&definition);
}
