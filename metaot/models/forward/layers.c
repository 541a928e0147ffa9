/* See layers.h. */

#include "layers.h"

#include <math.h>
#include <string.h>

#include "gelu.h"

enum { LANES = 16 };

FOR_EACH_PROCESSOR
static float inner_product(Index count, const float *restrict x, const float *restrict y)
{
    float lanes[LANES] = {0}, total = 0;
    Index i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int k = 0; k < LANES; k++) lanes[k] += x[i + k] * y[i + k];
    for (; i < count; i++) total += x[i] * y[i];
    for (int k = 0; k < LANES; k++) total += lanes[k];
    return total;
}

void apply_linear(const Linear *linear, const float *x, float *y)
{
    for (Index r = 0; r < linear->rows; r++)
        y[r] = linear->bias[r] + inner_product(linear->columns, linear->weight + r * linear->columns, x);
}

/* Bring x to mean zero and variance one, then scale and shift it. */
FOR_EACH_PROCESSOR
static void normalise(Index count, const float *restrict x, const float *restrict scale,
                      const float *restrict shift, float *restrict out)
{
    float mean = 0;
    for (Index i = 0; i < count; i++) mean += x[i];
    mean /= (float)count;
    for (Index i = 0; i < count; i++) out[i] = x[i] - mean;
    float factor = 1 / sqrtf(inner_product(count, out, out) / (float)count + 1e-5f);
    for (Index i = 0; i < count; i++) out[i] = out[i] * factor * scale[i] + shift[i];
}

/* GELU of the first half times the second one. */
FOR_EACH_PROCESSOR
static void gate(Index half, const float *restrict inner, float *restrict out)
{
    for (Index i = 0; i < half; i++) out[i] = gelu(inner[i]) * inner[half + i];
}

void apply_block(const Block *block, Index width, float *x, float *room)
{
    Index half = block->inner.rows / 2;
    float *inner = room, *gated = room + 2 * half, *other = room + 3 * half;
    normalise(width, x, block->scale, block->shift, other);
    apply_linear(&block->inner, other, inner);
    gate(half, inner, gated);
    apply_linear(&block->outer, gated, other);
    for (Index i = 0; i < width; i++) x[i] += other[i];
}

/* Multiply along the first axis, which becomes the last: out = values^T matrix. */
FOR_EACH_PROCESSOR
static void multiply(const float *restrict values, Index terms, Index rows, const float *restrict matrix, Index width,
                     float *restrict out)
{
    for (Index r = 0; r < rows; r++) {
        float *row = out + r * width;
        memset(row, 0, (size_t)width * sizeof *row);
        for (Index n = 0; n < terms; n++)
            for (Index i = 0; i < width; i++) row[i] += values[n * rows + r] * matrix[n * width + i];
    }
}

void analyse(const Grid *grid, const float *matrices, Index modes, const float *f, float *moments, float *room)
{
    Index count = grid->atoms;
    for (int axis = 0; axis < grid->axes; axis++) {
        Index size = grid->sizes[axis], rows = count / size;
        float *out = axis == grid->axes - 1 ? moments : room + (axis % 2) * grid->largest;
        multiply(f, size, rows, matrices, modes, out);
        matrices += size * modes;
        count = rows * modes;
        f = out;
    }
}

void decode(const Grid *grid, const Decoder *decoder, Index modes, Index width, const float *x, float size, float *f,
            float *room)
{
    Index count = decoder->outputs.rows;
    float *rooms[2] = {room + grid->largest, room + 2 * grid->largest}, *normal = room + 3 * grid->largest;
    const float *matrix = decoder->synthesis, *values = room;
    normalise(width, x, decoder->scale, decoder->shift, normal);
    apply_linear(&decoder->outputs, normal, room);
    for (Index i = 0; i < count; i++) room[i] *= decoder->gain[i] * size;
    for (int axis = 0; axis < grid->axes; axis++) {
        Index rows = count / modes;
        multiply(values, modes, rows, matrix, grid->sizes[axis], rooms[axis % 2]);
        values = rooms[axis % 2];
        matrix += modes * grid->sizes[axis];
        count = rows * grid->sizes[axis];
    }
    for (Index i = 0; i < count; i++) f[i] += values[i];
}
