/* Products of the rows of two matrices, from numbers of 16 bits.

   A register holds twice as many of these as floats, and one instruction multiplies them and adds neighbours. Each row
   has a scale of its own: parts of at most PART numbers of it have a norm of at most LARGEST_NORM, so that by Cauchy and Schwarz
   no sum of 32 bits overflows; sums over parts are floats. What rounding changes is measured, row by row. */

#include "core.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { PART = 400, TALL = 6, WIDE = 16, ROWS = 192, COLUMNS = 128 };
static const float LARGEST_NORM = 46300, LARGEST = 32700, SMALLEST = 1e-36f; /* 2^15.5 and 2^15, less what rounding may add */

typedef int32_t Sums __attribute__((vector_size(32)));
typedef float Floats __attribute__((vector_size(32)));
typedef Floats AnyFloats __attribute__((aligned(4)));

#ifdef WITH_TARGETS
#include <immintrin.h>
#define QUICK __attribute__((target("avx2,fma")))
#define ADD_PRODUCTS(sum, one, eight) \
    (sum) = (Sums)_mm256_add_epi32((__m256i)(sum), _mm256_madd_epi16(_mm256_set1_epi32(one), (__m256i)(eight)))
#else
#define QUICK
#define LOW(pair) ((int32_t)((uint32_t)(pair) << 16) >> 16)
#define ADD_PRODUCTS(sum, one, eight) \
    for (int lane = 0; lane < 8; lane++) \
        (sum)[lane] += LOW(one) * LOW((eight)[lane]) + ((one) >> 16) * ((eight)[lane] >> 16)
#endif

/* Rows are packed in panels of `width`, of which one after another has its numbers of a part, two by two. */
typedef struct {
    const float *rows;
    int32_t *packed;
    float *scales, factor; /* of each row, and of all */
    double *squares, *errors; /* of each row, and of what rounding changed in it */
    Index width, panels, pairs; /* pairs of numbers in a part */
} Side;

typedef struct {
    const Products *task;
    Side left, right;
    Index dim, parts, pairs, next_panel, next_block;
} Shared;

/* The largest number of a part of a row, and the sum of squares, in lanes, so that a compiler may take many at once. */
FOR_EACH_PROCESSOR
static void measure_part(const float *row, Index count, float *largest, double *square)
{
    float most[WIDE] = {0}, squares[WIDE] = {0};
    Index k = 0;
    for (; k + WIDE <= count; k += WIDE)
        for (int lane = 0; lane < WIDE; lane++) {
            float size = fabsf(row[k + lane]);
            most[lane] = size > most[lane] ? size : most[lane];
            squares[lane] += size * size;
        }
    for (; k < count; k++) {
        most[0] = fabsf(row[k]) > most[0] ? fabsf(row[k]) : most[0];
        squares[0] += row[k] * row[k];
    }
    *square = 0;
    for (int lane = 0; lane < WIDE; lane++) {
        *largest = most[lane] > *largest ? most[lane] : *largest;
        *square += squares[lane];
    }
}

/* Round a part of a row, divided by its scale; return the sum of squares of what is lost. */
FOR_EACH_PROCESSOR
static double round_part(const float *row, Index count, float scale, int16_t *rounded)
{
    float inverse = scale > SMALLEST ? 1 / scale : 0, lost[WIDE] = {0};
    double error = 0;
    float part[PART] = {0};
    memcpy(part, row, (size_t)count * sizeof *row);
    for (Index k = 0; k < PART; k += WIDE)
        for (int lane = 0; lane < WIDE; lane++) {
            float number = rintf(part[k + lane] * inverse), rest = part[k + lane] - scale * number;
            rounded[k + lane] = (int16_t)(int32_t)number;
            lost[lane] += rest * rest;
        }
    for (int lane = 0; lane < WIDE; lane++) error += lost[lane];
    return error;
}

/* Numbers that are not finite have no scale: all products of their row are NaN. */
static void pack_row(const Side *side, Index i, Index dim)
{
    const float *row = side->rows + i * dim;
    Index length = 2 * side->pairs;
    float largest = 0;
    double norm = 0, square = 0, error = 0, own;
    for (Index first = 0; first < dim; first += length) {
        measure_part(row + first, dim - first < length ? dim - first : length, &largest, &own);
        square += own;
        norm = own > norm ? own : norm;
    }
    int is_finite = square <= FLT_MAX;
    float scale = is_finite ? fmaxf((float)sqrt(norm) / LARGEST_NORM, largest / LARGEST) : NAN;
    int32_t *panel = side->packed + i / side->width * side->width * side->pairs + i % side->width;
    for (Index first = 0; first < dim; first += length, panel += side->panels * side->width * side->pairs) {
        int16_t rounded[PART] = {0};
        if (is_finite) error += round_part(row + first, dim - first < length ? dim - first : length, scale, rounded);
        for (Index k = 0; k < side->pairs; k++) memcpy(panel + k * side->width, rounded + 2 * k, sizeof *panel);
    }
    side->scales[i] = scale * side->factor;
    side->squares[i] = square;
    side->errors[i] = error;
}

/* Add the products of one panel of each side over a part, TALL x WIDE, to out; or put them there, if it is the first. */
QUICK
static inline void multiply_tile(Index pairs, const int32_t *restrict a, const Sums *restrict b, const float *s,
                                 const float *t, float *restrict out, Index stride, int is_first)
{
    Sums sums[TALL][2] = {{{0}}};
    for (int i = 0; i < TALL && !is_first; i++) {
        __builtin_prefetch(out + i * stride, 1);
        __builtin_prefetch(out + i * stride + WIDE - 1, 1);
    }
    for (Index k = 0; k < pairs; k++, a += TALL, b += 2)
#pragma GCC unroll 6
        for (int i = 0; i < TALL; i++) {
            ADD_PRODUCTS(sums[i][0], a[i], b[0]);
            ADD_PRODUCTS(sums[i][1], a[i], b[1]);
        }
#pragma GCC unroll 6
    for (int i = 0; i < TALL; i++)
        for (int k = 0; k < 2; k++) {
            AnyFloats *place = (AnyFloats *)(out + i * stride + 8 * k);
            Floats product = __builtin_convertvector(sums[i][k], Floats) * (*(const AnyFloats *)(t + 8 * k) * s[i]);
            *place = is_first ? product : *place + product;
        }
}

/* Multiply a block of the matrix, which stays in the cache while its parts are added; tiles at its rim have their own place. */
QUICK
static void multiply_block(const Shared *self, Index top, Index left)
{
    Index n = self->task->n, m = self->task->m;
    float rim[TALL * WIDE];
    for (Index part = 0; part < self->parts; part++)
        for (Index j = left; j < left + COLUMNS && j < m; j += WIDE)
            for (Index i = top; i < top + ROWS && i < n; i += TALL) {
                const int32_t *a = self->left.packed + (part * self->left.panels * TALL + i) * self->pairs;
                const int32_t *b = self->right.packed + (part * self->right.panels * WIDE + j) * self->pairs;
                const float *s = self->left.scales + i, *t = self->right.scales + j;
                float *out = self->task->out + i * m + j;
                if (i + TALL <= n && j + WIDE <= m) {
                    multiply_tile(self->pairs, a, (const Sums *)b, s, t, out, m, part == 0);
                    continue;
                }
                multiply_tile(self->pairs, a, (const Sums *)b, s, t, rim, WIDE, 1);
                for (Index row = 0; row < TALL && i + row < n; row++)
                    for (Index k = 0; k < WIDE && j + k < m; k++)
                        out[row * m + k] = rim[row * WIDE + k] + (part ? out[row * m + k] : 0);
            }
}

static void take_part_in_packing(void *shared)
{
    Shared *self = shared;
    for (Index k; (k = take_next(&self->next_panel)) < self->left.panels + self->right.panels;) {
        int is_left = k < self->left.panels;
        const Side *side = is_left ? &self->left : &self->right;
        Index first = (is_left ? k : k - self->left.panels) * side->width;
        Index count = is_left ? self->task->n : self->task->m;
        for (Index i = first; i < first + side->width && i < count; i++) pack_row(side, i, self->dim);
    }
}

static void take_part_in_products(void *shared)
{
    Shared *self = shared;
    Index across = (self->task->m + COLUMNS - 1) / COLUMNS, down = (self->task->n + ROWS - 1) / ROWS;
    for (Index k; (k = take_next(&self->next_block)) < across * down;)
        multiply_block(self, k / across * ROWS, k % across * COLUMNS);
}

static size_t side_bytes(Index width, Index count, Index numbers)
{
    Index rows = (count + width - 1) / width * width;
    return bytes_for((rows * numbers + 1) / 2 + LANES) + 3 * bytes_for(rows);
}

/* The first number of a line of the cache; there are LANES more than are needed. */
static int32_t *in_line(double *numbers)
{
    return (int32_t *)(((uintptr_t)numbers + 63) / 64 * 64);
}

static void open_side(Side *self, Arena *arena, const float *rows, Index width, Index count, Index parts, Index pairs)
{
    self->rows = rows;
    self->pairs = pairs;
    self->width = width;
    self->panels = (count + width - 1) / width;
    Index all = self->panels * width;
    self->packed = in_line(take_numbers(arena, (all * pairs * parts + 1) / 2 + LANES));
    self->scales = (float *)take_numbers(arena, all);
    self->squares = take_numbers(arena, all);
    self->errors = take_numbers(arena, all);
    for (Index i = count; i < all; i++) /* panels that are not full */
        for (Index part = 0, place = i / width * width * pairs + i % width; part < parts; part++, place += all * pairs)
            for (Index k = 0; k < pairs; k++) self->packed[place + k * width] = 0;
    for (Index i = count; i < all; i++) self->scales[i] = 0;
}

int can_multiply_rows(void)
{
#ifdef WITH_TARGETS
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 1;
#endif
}

/* With registers of 512 bits, products of floats are as fast. */
int products_are_quick(void)
{
#ifdef WITH_TARGETS
    return can_multiply_rows() && !__builtin_cpu_supports("avx512f");
#else
    return 0;
#endif
}

int multiply_rows(Products *task, int threads)
{
    Arena arena;
    Shared self;
    memset(&arena, 0, sizeof arena);
    memset(&self, 0, sizeof self);
    self.task = task;
    self.dim = task->dim;
    self.parts = (task->dim + PART - 1) / PART;
    self.pairs = (task->dim + 2 * self.parts - 1) / (2 * self.parts);
    self.parts = (task->dim + 2 * self.pairs - 1) / (2 * self.pairs); /* of many, the last ones may be empty */
    Index numbers = self.parts * self.pairs;
    if (!open_arena(&arena, side_bytes(TALL, task->n, numbers) + side_bytes(WIDE, task->m, numbers))) return 0;
    open_side(&self.left, &arena, task->x, TALL, task->n, self.parts, self.pairs);
    self.left.factor = (float)task->factor;
    self.right.factor = 1;
    open_side(&self.right, &arena, task->y, WIDE, task->m, self.parts, self.pairs);
    run_on_threads(take_part_in_packing, &self, threads);
    run_on_threads(take_part_in_products, &self, threads);
    double x = sqrt(total(task->n, self.left.squares) / (double)task->n);
    double y = sqrt(total(task->m, self.right.squares) / (double)task->m);
    double lost_x = sqrt(total(task->n, self.left.errors) / (double)task->n);
    double lost_y = sqrt(total(task->m, self.right.errors) / (double)task->m);
    double of_floats = (double)(self.parts + 4) * FLT_EPSILON * x * y;
    task->error = fabs(task->factor) * (lost_x * y + (x + lost_x) * lost_y + of_floats);
    close_arena(&arena);
    return 1;
}
