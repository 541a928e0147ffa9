/* Products with tiles of a matrix: TILE columns, or a whole number of vectors in the last one, row by row. */

#include "core.h"

#include <string.h>

enum { WIDTH = 4, PARTS = TILE / WIDTH };

/* The columns of a tile that has `count` of them, with those that are zero. */
Index width_of_tile(Index count)
{
    return (count + WIDTH - 1) / WIDTH * WIDTH;
}

static inline __attribute__((always_inline)) void sum_columns(Index rows, int parts, const double *restrict K,
                                                              const double *restrict u, Four *restrict sums)
{
    Four k;
    for (Index i = 0; i < rows; i++, K += parts * WIDTH)
#pragma GCC unroll 8
        for (int part = 0; part < parts; part++) {
            memcpy(&k, K + part * WIDTH, sizeof k);
            sums[part] += u[i] * k;
        }
}

/* Put K^T u into sums, which have room for a whole vector. */
FOR_EACH_PROCESSOR
void sum_columns_of_tile(Index rows, Index count, const double *restrict K, const double *restrict u,
                         double *restrict sums)
{
    Four below[PARTS] = {{0}};
    int parts = (int)(width_of_tile(count) / WIDTH);
    if (parts == PARTS)
        sum_columns(rows, PARTS, K, u, below);
    else
        sum_columns(rows, parts, K, u, below);
    memcpy(sums, below, (size_t)count * sizeof *sums);
}

static inline __attribute__((always_inline)) void add_rows(Index rows, int parts, const double *restrict K,
                                                           const Four *restrict v, double *restrict lanes)
{
    Four k, beside;
    for (Index i = 0; i < rows; i++, K += parts * WIDTH, lanes += WIDTH) {
        memcpy(&beside, lanes, sizeof beside);
#pragma GCC unroll 8
        for (int part = 0; part < parts; part++) {
            memcpy(&k, K + part * WIDTH, sizeof k);
            beside += v[part] * k;
        }
        memcpy(lanes, &beside, sizeof beside);
    }
}

/* Add K v to 4 lanes for each row; v has zeros up to a whole vector. */
FOR_EACH_PROCESSOR
void add_rows_of_tile(Index rows, Index count, const double *restrict K, const double *restrict v,
                      double *restrict lanes)
{
    Four right[PARTS];
    int parts = (int)(width_of_tile(count) / WIDTH);
    memcpy(right, v, (size_t)(parts * WIDTH) * sizeof *v);
    if (parts == PARTS)
        add_rows(rows, PARTS, K, right, lanes);
    else
        add_rows(rows, parts, K, right, lanes);
}

/* Do both at once: what a part of a symmetric matrix adds on either side of the diagonal. */
FOR_EACH_PROCESSOR
void add_both_of_tile(Index rows, const double *restrict K, const double *restrict u, const double *restrict v,
                      double *restrict sums, double *restrict lanes)
{
    Four below[PARTS] = {{0}}, right[PARTS], k, beside;
    memcpy(right, v, sizeof right);
    for (Index i = 0; i < rows; i++, K += TILE, lanes += WIDTH) {
        memcpy(&beside, lanes, sizeof beside);
#pragma GCC unroll 8
        for (int part = 0; part < PARTS; part++) {
            memcpy(&k, K + part * WIDTH, sizeof k);
            below[part] += u[i] * k;
            beside += right[part] * k;
        }
        memcpy(lanes, &beside, sizeof beside);
    }
    memcpy(sums, below, sizeof below);
}

void add_lanes(Index rows, const double *lanes, double *sums)
{
    for (Index i = 0; i < rows; i++, lanes += WIDTH) sums[i] = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}
