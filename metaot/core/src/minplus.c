/* Minima over the atoms of a grid, one axis at a time. */

#include "core.h"

#include <math.h>
#include <string.h>

enum { LINES = 64, ROWS = 8 };

/* Put min_j cost_ij + z_j into 8 rows of 64 lines; z is terms 64. */
FOR_EACH_PROCESSOR
static void minimise(Index terms, Index stride, const double *restrict cost, const double *restrict z,
                     double (*restrict out)[LINES])
{
    for (int i = 0; i < ROWS; i++)
        for (int r = 0; r < LINES; r++) out[i][r] = INFINITY;
    for (Index j = 0; j < terms; j++)
        for (int i = 0; i < ROWS; i++) {
            double c = cost[i * stride + j];
            for (int r = 0; r < LINES; r++) {
                double sum = c + z[j * LINES + r];
                out[i][r] = sum < out[i][r] ? sum : out[i][r];
            }
        }
}

/* Put min_j C_ij + z_j along the first axis of z, terms lines, into out, lines width: that axis becomes the last. */
static void minimise_along(const double *cost, Index width, Index terms, const double *z, Index lines, double *scratch,
                           double *out)
{
    double found[ROWS][LINES];
    for (Index first = 0; first < lines; first += LINES) {
        Index some = lines - first < LINES ? lines - first : LINES;
        memset(scratch, 0, (size_t)(terms * LINES) * sizeof *scratch);
        for (Index j = 0; j < terms; j++)
            memcpy(scratch + j * LINES, z + j * lines + first, (size_t)some * sizeof *z);
        for (Index i = 0; i < width; i += ROWS) {
            Index rows = width - i < ROWS ? width - i : ROWS, begin = rows < ROWS && width >= ROWS ? width - ROWS : i;
            if (width < ROWS) {
                for (Index r = 0; r < some; r++)
                    for (Index k = 0; k < width; k++) {
                        double least = INFINITY;
                        for (Index j = 0; j < terms; j++) {
                            double sum = cost[k * terms + j] + scratch[j * LINES + r];
                            least = sum < least ? sum : least;
                        }
                        out[(first + r) * width + k] = least;
                    }
                continue;
            }
            minimise(terms, terms, cost + begin * terms, scratch, found);
            for (Index r = 0; r < some; r++)
                for (int k = 0; k < ROWS; k++) out[(first + r) * width + begin + k] = found[k][r];
        }
    }
}

/* Put min_j C_ij - h_j for all source atoms of a grid into f; return whether there is enough memory. */
int hard_minimum(const Costs *costs, const double *h, double *f)
{
    Index most = costs->n > costs->m ? costs->n : costs->m, longest = 1, count = costs->m;
    for (int k = 0; k < costs->axes; k++) longest = costs->columns[k] > longest ? costs->columns[k] : longest;
    Index largest = most; /* sizes between the axes are at most the product of the larger ones */
    for (Index now = count, k = 0; k < costs->axes; k++) {
        now = now / costs->columns[k] * costs->rows[k];
        largest = now > largest ? now : largest;
    }
    Arena arena = {0};
    if (!open_arena(&arena, 2 * bytes_for(largest) + bytes_for(longest * LINES))) return 0;
    double *buffers[2] = {take_numbers(&arena, largest), take_numbers(&arena, largest)};
    double *scratch = take_numbers(&arena, longest * LINES);
    for (Index j = 0; j < count; j++) buffers[1][j] = -h[j];
    for (int k = 0; k < costs->axes; k++) {
        Index terms = costs->columns[k], width = costs->rows[k], lines = count / terms;
        double *out = k == costs->axes - 1 ? f : buffers[k % 2];
        minimise_along(costs->axis[k], width, terms, buffers[(k + 1) % 2], lines, scratch, out);
        count = lines * width;
    }
    close_arena(&arena);
    return 1;
}
