/* Products with the Gibbs kernel between the boxes of two measures, axis by axis. */

#include "steps.h"

#include <math.h>
#include <string.h>

/* Put columns of a matrix side by side, a panel of a few at a time; the last one is filled up with zeros. */
static void make_panels(const double *matrix, Index stride, Index terms, Index width, double *panels)
{
    for (Index first = 0; first < width; first += COLUMNS) {
        Index some = width - first < COLUMNS ? width - first : COLUMNS;
        const double *row = matrix + first;
        if (some == COLUMNS)
            for (Index n = 0; n < terms; n++, row += stride, panels += COLUMNS)
                memcpy(panels, row, COLUMNS * sizeof *row);
        else
            for (Index n = 0; n < terms; n++, row += stride, panels += COLUMNS) {
                memset(panels, 0, COLUMNS * sizeof *row);
                for (Index k = 0; k < some; k++) panels[k] = row[k];
            }
    }
}

/* Put a few columns of values side by side; what is beyond the last one does not count. */
static void make_strip(const double *values, Index terms, Index rows, double *restrict strip)
{
    for (Index n = 0; n < terms; n++)
        for (Index s = 0; s < ROWS; s++) strip[n * ROWS + s] = values[n * rows + s];
}

/* Sum strip^T panel into 8 x 8 sums. */
typedef void SumBlock(Index terms, const double *strip, const double *panel, double (*sums)[COLUMNS]);

/* A SumBlock with two vectors for each of a few rows at a time: as many numbers as fit into the registers. */
#define SUM_BLOCK(NAME, TARGET, VECTOR, FEW)                                                                     \
    TARGET static void NAME(Index terms, const double *restrict strip, const double *restrict panel,            \
                            double (*sums)[COLUMNS])                                                            \
    {                                                                                                           \
        enum { WIDE = sizeof(VECTOR) / sizeof(double) };                                                        \
        for (int top = 0; top < ROWS; top += FEW)                                                               \
            for (int left = 0; left < COLUMNS; left += 2 * WIDE) {                                              \
                VECTOR first[FEW] = {{0}}, second[FEW] = {{0}}, x, y;                                           \
                for (Index n = 0; n < terms; n++) {                                                             \
                    memcpy(&x, panel + n * COLUMNS + left, sizeof x);                                           \
                    memcpy(&y, panel + n * COLUMNS + left + WIDE, sizeof y);                                    \
                    _Pragma("GCC unroll 8") for (int s = 0; s < FEW; s++)                                       \
                    {                                                                                           \
                        first[s] += strip[n * ROWS + top + s] * x;                                              \
                        second[s] += strip[n * ROWS + top + s] * y;                                             \
                    }                                                                                           \
                }                                                                                               \
                for (int s = 0; s < FEW; s++) {                                                                 \
                    memcpy(&sums[top + s][left], &first[s], sizeof x);                                          \
                    memcpy(&sums[top + s][left + WIDE], &second[s], sizeof y);                                  \
                }                                                                                               \
            }                                                                                                   \
    }

#ifdef __GNUC__
typedef double Two __attribute__((vector_size(2 * sizeof(double))));
SUM_BLOCK(sum_block, , Two, 2)
#else
static void sum_block(Index terms, const double *strip, const double *panel, double (*sums)[COLUMNS])
{
    memset(sums, 0, ROWS * sizeof *sums);
    for (Index n = 0; n < terms; n++)
        for (int s = 0; s < ROWS; s++)
            for (int k = 0; k < COLUMNS; k++) sums[s][k] += strip[n * ROWS + s] * panel[n * COLUMNS + k];
}
#endif

#ifdef WITH_TARGETS
typedef double Four __attribute__((vector_size(4 * sizeof(double))));
SUM_BLOCK(sum_block_in_fours, __attribute__((target("arch=x86-64-v3"))), Four, 4)

typedef double Eight __attribute__((vector_size(8 * sizeof(double))));

/* The same where a row of the block is one register, and there are many. */
__attribute__((target("arch=x86-64-v4")))
static void sum_block_in_eights(Index terms, const double *restrict strip, const double *restrict panel,
                                double (*sums)[COLUMNS])
{
    Eight rows[ROWS] = {{0}}, row;
    for (Index n = 0; n < terms; n++) {
        memcpy(&row, panel + n * COLUMNS, sizeof row);
#pragma GCC unroll 8
        for (int s = 0; s < ROWS; s++) rows[s] += strip[n * ROWS + s] * row;
    }
    memcpy(sums, rows, sizeof rows);
}
#endif

/* Choose how blocks are summed on this processor. */
static SumBlock *chosen(void)
{
#ifdef WITH_TARGETS
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512cd"))
        return sum_block_in_eights;
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2"))
        return sum_block_in_fours;
#endif
    return sum_block;
}

/* Put values^T times a matrix, given in panels, into out, a block of rows and columns at a time. */
static void multiply(const double *values, Index terms, Index rows, const double *panels, Index width,
                     double *strip, double *out)
{
    SumBlock *sum = chosen();
    double sums[ROWS][COLUMNS];
    for (Index r = 0; r < rows; r += ROWS) {
        Index some = rows - r < ROWS ? rows - r : ROWS;
        make_strip(values + r, terms, rows, strip);
        for (Index i = 0; i < width; i += COLUMNS) {
            sum(terms, strip, panels + i * terms, sums);
            if (width - i >= COLUMNS)
                for (Index s = 0; s < some; s++) memcpy(out + (r + s) * width + i, sums[s], sizeof sums[s]);
            else
                for (Index s = 0; s < some; s++)
                    for (Index k = 0; k < width - i; k++) out[(r + s) * width + i + k] = sums[s][k];
        }
    }
}

/* Have products of a measure in the box of the other, or on the whole grid if that is NULL. */
void aim(const Kernel *kernel, const double *const *matrices, Mass *from, const Mass *to)
{
    from->aims_at = to;
    for (int axis = 0; axis < kernel->axes; axis++) {
        Index size = kernel->sizes[axis], terms = from->high[axis] - from->low[axis];
        Index first = to ? to->low[axis] : 0, width = to ? to->high[axis] - first : size;
        make_panels(matrices[axis] + from->low[axis] * size + first, size, terms, width, from->panels[axis]);
    }
}

/* Multiply along all axes: the first one becomes the last, until all have had their turn. */
const double *product_of_given(const Work *work, const Mass *from)
{
    const Kernel *kernel = work->kernel;
    const double *values = from->given;
    Index count = from->box;
    for (int axis = 0; axis < kernel->axes; axis++) {
        Index terms = from->high[axis] - from->low[axis], rows = count / terms;
        Index width = from->aims_at ? from->aims_at->high[axis] - from->aims_at->low[axis] : kernel->sizes[axis];
        double *out = work->room[axis % 2];
        multiply(values, terms, rows, from->panels[axis], width, work->strip, out);
        values = out;
        count = rows * width;
    }
    return values;
}

static const double *product(const Work *work, const Mass *from, const double *factors)
{
    for (Index k = 0; k < from->count; k++) from->given[from->places[k]] = from->weights[k] * factors[k];
    return product_of_given(work, from);
}

/* K^T (a u) where it was aimed at; good until the next product. */
const double *product_to_target(Work *work)
{
    return product(work, &work->source, work->now.u);
}

/* K (b v) where it was aimed at; good until the next product. */
const double *product_to_source(Work *work)
{
    return product(work, &work->target, work->now.v);
}

/* Tell whether the sums of a product are right to rounding; see AxesKernel.right. */
int is_right(const Kernel *kernel, Index sums_count, const double *sums, Index count, const double *factors)
{
    double most = range_of(count, factors).most, least = 1e18 * kernel->lost * (most > 1 ? most : 1);
    Range range = range_of(sums_count, sums);
    return range.least > least && range.most < INFINITY;
}

/* Have a box without anything in it. */
static void empty_box(const Kernel *kernel, Mass *mass)
{
    for (int axis = 0; axis < kernel->axes; axis++) {
        mass->low[axis] = kernel->sizes[axis];
        mass->high[axis] = 0;
    }
}

/* Make the box larger, so that it reaches from one atom to another of the same line. */
static void include(const Kernel *kernel, Mass *mass, Index line, Index first, Index last)
{
    for (int axis = kernel->axes - 1; axis >= 0; axis--) {
        if (axis < kernel->axes - 1) {
            first = last = line % kernel->sizes[axis];
            line /= kernel->sizes[axis];
        }
        if (first < mass->low[axis]) mass->low[axis] = first;
        if (last >= mass->high[axis]) mass->high[axis] = last + 1;
    }
}

/* Where a line of the grid begins in the box, less where the box begins on the line. */
static Index line_in_box(const Kernel *kernel, const Mass *mass, Index line)
{
    int last = kernel->axes - 1;
    Index stride = mass->high[last] - mass->low[last], place = -mass->low[last];
    for (int axis = last - 1; axis >= 0; axis--) {
        Index size = kernel->sizes[axis], above = line / size;
        place += (line - above * size - mass->low[axis]) * stride;
        stride *= mass->high[axis] - mass->low[axis];
        line = above;
    }
    return place;
}

/* Tell whether there is a number that is not zero. */
FOR_EACH_PROCESSOR
static int any(Index count, const double *x)
{
    int64_t found = 0;
    for (Index k = 0; k < count; k++) found |= x[k] != 0;
    return found != 0;
}

/* Find the atoms with mass, and the smallest box around them. */
void find_mass(const Kernel *kernel, const double *weights, Mass *mass)
{
    Index length = kernel->sizes[kernel->axes - 1], lines = kernel->atoms / length, next = 0;
    mass->count = 0;
    empty_box(kernel, mass);
    for (Index line = 0; line < lines; line++) {
        Index before = mass->count, begin = line * length;
        if (!any(length, weights + begin)) continue;
        for (Index k = begin; k < begin + length; k++) {
            mass->atoms[mass->count] = k;
            mass->weights[mass->count] = weights[k];
            mass->count += weights[k] != 0;
        }
        include(kernel, mass, line, mass->atoms[before] - begin, mass->atoms[mass->count - 1] - begin);
    }
    mass->box = 1;
    for (int axis = 0; axis < kernel->axes; axis++) mass->box *= mass->high[axis] - mass->low[axis];
    for (Index line = 0; line < lines && next < mass->count; line++) {
        Index begin = line * length, end = begin + length;
        if (mass->atoms[next] >= end) continue;
        Index place = line_in_box(kernel, mass, line);
        for (; next < mass->count && mass->atoms[next] < end; next++)
            mass->places[next] = place + mass->atoms[next] - begin;
    }
    memset(mass->given, 0, (size_t)mass->box * sizeof(double));
}

/* Where a line of the box begins on the grid. */
static Index line_on_grid(const Kernel *kernel, const Mass *mass, Index line)
{
    int last = kernel->axes - 1;
    Index begin = mass->low[last], stride = kernel->sizes[last];
    for (int axis = last - 1; axis >= 0; axis--) {
        Index size = mass->high[axis] - mass->low[axis];
        begin += (mass->low[axis] + line % size) * stride;
        line /= size;
        stride *= kernel->sizes[axis];
    }
    return begin;
}

/* Take what a function of the grid is in the box. */
void read_box(const Kernel *kernel, const Mass *mass, const double *function, double *box)
{
    Index length = mass->high[kernel->axes - 1] - mass->low[kernel->axes - 1], lines = mass->box / length;
    for (Index line = 0; line < lines; line++)
        memcpy(box + line * length, function + line_on_grid(kernel, mass, line), (size_t)length * sizeof *box);
}

/* Have a function on the grid that is so in the box, and zero elsewhere. */
void write_box(const Kernel *kernel, const Mass *mass, const double *box, double *function)
{
    Index length = mass->high[kernel->axes - 1] - mass->low[kernel->axes - 1], lines = mass->box / length;
    memset(function, 0, (size_t)kernel->atoms * sizeof *function);
    for (Index line = 0; line < lines; line++)
        memcpy(function + line_on_grid(kernel, mass, line), box + line * length, (size_t)length * sizeof *box);
}

/* Take all atoms of the smallest box around the mass, in its order; tell whether there is mass. */
int take_box(const Kernel *kernel, const double *weights, Mass *mass)
{
    int along = kernel->axes - 1;
    Index length = kernel->sizes[along], lines = kernel->atoms / length;
    empty_box(kernel, mass);
    for (Index line = 0; line < lines; line++) {
        const double *here = weights + line * length;
        if (!any(length, here)) continue;
        Index first = mass->low[along], last = mass->high[along] - 1;
        if (any(first, here))
            for (first = 0; here[first] == 0;) first++;
        if (any(length - 1 - last, here + last + 1))
            for (last = length - 1; here[last] == 0;) last--;
        include(kernel, mass, line, first, last);
    }
    mass->box = 1;
    for (int axis = 0; axis < kernel->axes; axis++) mass->box *= mass->high[axis] - mass->low[axis];
    mass->count = mass->high[0] > 0 ? mass->box : 0;
    if (mass->count > 0) read_box(kernel, mass, weights, mass->weights);
    return mass->count > 0;
}
