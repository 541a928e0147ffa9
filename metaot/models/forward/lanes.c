/* See lanes.h. */

#include "lanes.h"

#include <string.h>

#include "gelu.h"

#ifdef __GNUC__
typedef float Lanes __attribute__((vector_size(LANES * sizeof(float))));
#else
#error "vectors of GCC's are needed: without a compiler that has them, numpy does the work"
#endif

typedef void Multiply(Index terms, const float *left, Index left_stride, Index outputs, const float *right,
                      Index right_stride, float *out, Index out_stride);
typedef void Combine(Index terms, const float *x, const float *rows, Index width, float *out);

/* A few rows of left^T right, from the output `first` on. */
#define MULTIPLY_ROWS(FEW)                                                                                      \
    for (; first + FEW <= outputs; first += FEW) {                                                              \
        Lanes sums[FEW] = {{0}}, row;                                                                           \
        for (Index n = 0; n < terms; n++) {                                                                     \
            const float *factors = left + n * left_stride + first;                                              \
            memcpy(&row, right + n * right_stride, sizeof row);                                                 \
            _Pragma("GCC unroll 16") for (int s = 0; s < FEW; s++) sums[s] += factors[s] * row;                 \
        }                                                                                                       \
        for (int s = 0; s < FEW; s++) memcpy(out + (first + s) * out_stride, &sums[s], sizeof row);             \
    }

/* The sum of some rows times factors, `MANY` vectors of it at a time, from `first` on. */
#define COMBINE_ROWS(MANY)                                                                                      \
    for (; first + MANY * LANES <= width; first += MANY * LANES) {                                              \
        Lanes sums[MANY] = {{0}}, part;                                                                         \
        for (Index n = 0; n < terms; n++) {                                                                     \
            const float *row = rows + n * width + first;                                                        \
            _Pragma("GCC unroll 8") for (int s = 0; s < MANY; s++)                                              \
            {                                                                                                   \
                memcpy(&part, row + s * LANES, sizeof part);                                                    \
                sums[s] += x[n] * part;                                                                         \
            }                                                                                                   \
        }                                                                                                       \
        memcpy(out + first, sums, sizeof sums);                                                                 \
    }

/* Both of them: as many numbers at once as fit into the registers. */
#define PRODUCTS(SUFFIX, TARGET, FEW, MANY)                                                                     \
    TARGET static void multiply##SUFFIX(Index terms, const float *restrict left, Index left_stride,             \
                                        Index outputs, const float *restrict right, Index right_stride,         \
                                        float *restrict out, Index out_stride)                                  \
    {                                                                                                           \
        Index first = 0;                                                                                        \
        MULTIPLY_ROWS(FEW)                                                                                      \
        MULTIPLY_ROWS(2)                                                                                        \
        MULTIPLY_ROWS(1)                                                                                        \
    }                                                                                                           \
    TARGET static void combine##SUFFIX(Index terms, const float *restrict x, const float *restrict rows,        \
                                       Index width, float *restrict out)                                        \
    {                                                                                                           \
        Index first = 0;                                                                                        \
        COMBINE_ROWS(MANY)                                                                                      \
        COMBINE_ROWS(1)                                                                                         \
        for (; first < width; first++) {                                                                        \
            float sum = 0;                                                                                      \
            for (Index n = 0; n < terms; n++) sum += x[n] * rows[n * width + first];                            \
            out[first] = sum;                                                                                   \
        }                                                                                                       \
    }

PRODUCTS(_plainly, , 2, 2)
#ifdef WITH_TARGETS
PRODUCTS(_in_eights, __attribute__((target("arch=x86-64-v3"))), 4, 4)
PRODUCTS(_in_sixteens, __attribute__((target("arch=x86-64-v4"))), 16, 8)
#endif

static Multiply *multiply = multiply_plainly;
static Combine *combine = combine_plainly;

/* Choose how products are made on this processor; called when the module is loaded. */
void choose_products(void)
{
#ifdef WITH_TARGETS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512cd")) {
        multiply = multiply_in_sixteens;
        combine = combine_in_sixteens;
    } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2")) {
        multiply = multiply_in_eights;
        combine = combine_in_eights;
    }
#endif
}

void multiply_lanes(Index terms, const float *left, Index left_stride, Index outputs, const float *right,
                    Index right_stride, float *out, Index out_stride)
{
    multiply(terms, left, left_stride, outputs, right, right_stride, out, out_stride);
}

void apply_parity(const ParityLinear *linear, int lanes, const float *x, float *y)
{
    Index inputs = linear->inputs, outputs = linear->outputs;
    for (int c = 0; c < CLASSES; c++) {
        const float *weight = linear->weight + c * inputs * outputs;
        if (lanes == 1)
            combine(inputs, x + c * inputs, weight, outputs, y + c * outputs);
        else
            multiply(inputs, weight, outputs, outputs, x + c * inputs * lanes, lanes, y + c * outputs * lanes, lanes);
    }
    for (Index j = 0; j < outputs; j++)
        for (int t = 0; t < lanes; t++) y[j * lanes + t] += linear->bias[j];
}

FOR_EACH_PROCESSOR
void normalise_lanes(Index features, int lanes, const float *restrict x, float *restrict out)
{
    Index count = features * lanes, k = 0;
    float squares[LANES] = {0};
    for (; k + LANES <= count; k += LANES)
        for (int t = 0; t < LANES; t++) squares[t] += x[k + t] * x[k + t];
    for (; k < count; k++) squares[0] += x[k] * x[k];
    for (int t = lanes; t < LANES; t++) squares[0] += squares[t];
    for (int t = 0; t < lanes; t++) squares[t] = 1 / sqrtf(squares[t] / (float)features + 1e-6f);
    if (lanes == 1)
        for (k = 0; k < count; k++) out[k] = x[k] * squares[0];
    else
        for (k = 0; k < count; k += LANES)
            for (int t = 0; t < LANES; t++) out[k + t] = x[k + t] * squares[t];
}

FOR_EACH_PROCESSOR
void apply_affine(const Affine *affine, int lanes, const float *restrict temperature, float *restrict out)
{
    for (Index j = 0; j < affine->outputs; j++)
        for (int t = 0; t < lanes; t++) {
            float sum = affine->bias ? affine->bias[j] : 1;
            for (Index k = 0; k < affine->temperatures; k++)
                sum += affine->weight[j * affine->temperatures + k] * temperature[k * lanes + t];
            out[j * lanes + t] = sum;
        }
}

/* Scale features of all classes by what depends on the temperature, and each class by its own. */
FOR_EACH_PROCESSOR
static void scale(Index width, int lanes, const float *restrict own, const float *restrict common, float *restrict x)
{
    for (int c = 0; c < CLASSES; c++)
        for (Index j = 0; j < width; j++)
            for (int t = 0; t < lanes; t++)
                x[(c * width + j) * lanes + t] *= own[c * width + j] * common[j * lanes + t];
}

/* Turn classes into mirror images, take GELU of the first half of the features times the second one, and turn these
   into classes: `count` numbers of each class out, and twice as many in. */
FOR_EACH_PROCESSOR
static void gate_mirrored(Index count, const float *restrict in, float *restrict out)
{
    for (Index k = 0; k < count; k++) {
        float x[2][CLASSES], y[CLASSES];
        for (int half = 0; half < 2; half++) {
            const float *from = in + half * count + k;
            float first = from[0] + from[4 * count], second = from[2 * count] + from[6 * count];
            float third = from[0] - from[4 * count], fourth = from[2 * count] - from[6 * count];
            x[half][0] = (first + second) / 2;
            x[half][1] = (first - second) / 2;
            x[half][2] = (third + fourth) / 2;
            x[half][3] = (third - fourth) / 2;
        }
        for (int c = 0; c < CLASSES; c++) y[c] = gelu(x[0][c]) * x[1][c];
        out[k] = ((y[0] + y[2]) + (y[1] + y[3])) / 2;
        out[k + count] = ((y[0] + y[2]) - (y[1] + y[3])) / 2;
        out[k + 2 * count] = ((y[0] - y[2]) + (y[1] - y[3])) / 2;
        out[k + 3 * count] = ((y[0] - y[2]) - (y[1] - y[3])) / 2;
    }
}

void apply_parity_block(const ParityBlock *block, int lanes, const float *temperature, float *x, float *room)
{
    Index width = block->inner.inputs, hidden = block->outer.inputs, features = CLASSES * width * lanes;
    float *other = room, *common = other + features, *inner = common + width * lanes;
    float *gated = inner + 2 * CLASSES * hidden * lanes;
    Affine modulation = {block->modulation, NULL, width, block->temperatures};
    apply_affine(&modulation, lanes, temperature, common);
    normalise_lanes(CLASSES * width, lanes, x, other);
    scale(width, lanes, block->scale, common, other);
    apply_parity(&block->inner, lanes, other, inner);
    gate_mirrored(hidden * lanes, inner, gated);
    apply_parity(&block->outer, lanes, gated, other);
    for (Index k = 0; k < features; k++) x[k] += other[k];
}
