/* Products of blocks of 8 x 8 numbers, chosen for the processor, and the Cholesky factor that is made of them. */

#include "core.h"

#include <math.h>
#include <string.h>

/* Sum left^T right, both terms x 8, into 8 rows of 8 sums, a stride apart. With two vectors for each of a few rows at
   a time: as many numbers as fit into the registers. From the right, since with a stride of less than 8 a row goes on
   into the next one, which is written over it. */
#define SUM_BLOCK(NAME, TARGET, VECTOR, FEW)                                                            \
    TARGET static void NAME(Index terms, const double *restrict left, const double *restrict right,    \
                            double *sums, Index stride)                                                \
    {                                                                                                  \
        enum { WIDE = sizeof(VECTOR) / sizeof(double) };                                               \
        for (int top = 0; top < LANES; top += FEW)                                                     \
            for (int side = LANES - 2 * WIDE; side >= 0; side -= 2 * WIDE) {                           \
                VECTOR first[FEW] = {{0}}, second[FEW] = {{0}}, x, y;                                  \
                for (Index n = 0; n < terms; n++) {                                                    \
                    memcpy(&x, right + n * LANES + side, sizeof x);                                    \
                    memcpy(&y, right + n * LANES + side + WIDE, sizeof y);                             \
                    _Pragma("GCC unroll 8") for (int s = 0; s < FEW; s++)                              \
                    {                                                                                  \
                        first[s] += left[n * LANES + top + s] * x;                                     \
                        second[s] += left[n * LANES + top + s] * y;                                    \
                    }                                                                                  \
                }                                                                                      \
                for (int s = 0; s < FEW; s++) {                                                        \
                    memcpy(sums + (top + s) * stride + side, &first[s], sizeof x);                     \
                    memcpy(sums + (top + s) * stride + side + WIDE, &second[s], sizeof y);             \
                }                                                                                      \
            }                                                                                          \
    }

typedef double Two __attribute__((vector_size(2 * sizeof(double))));
SUM_BLOCK(sum_block, , Two, 2)

#ifdef WITH_TARGETS
typedef double Four __attribute__((vector_size(4 * sizeof(double))));
SUM_BLOCK(sum_block_in_fours, __attribute__((target("arch=x86-64-v3"))), Four, 4)

typedef double Eight __attribute__((vector_size(8 * sizeof(double))));

/* The same where a row of the block is one register, and there are many. */
__attribute__((target("arch=x86-64-v4")))
static void sum_block_in_eights(Index terms, const double *restrict left, const double *restrict right,
                                double *sums, Index stride)
{
    Eight rows[LANES] = {{0}}, row;
    for (Index n = 0; n < terms; n++) {
        memcpy(&row, right + n * LANES, sizeof row);
#pragma GCC unroll 8
        for (int s = 0; s < LANES; s++) rows[s] += left[n * LANES + s] * row;
    }
#pragma GCC unroll 8
    for (int s = 0; s < LANES; s++) memcpy(sums + s * stride, &rows[s], sizeof row);
}
#endif

SumBlock *best_sum_block(void)
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

/* Factor the block on the diagonal, 8 columns of 8 rows; return whether it is positive definite. */
static int factorise_block(double *block)
{
    for (int t = 0; t < LANES; t++) {
        if (!(block[t * LANES + t] > 0)) return 0;
        double root = sqrt(block[t * LANES + t]);
        for (int s = t; s < LANES; s++) block[t * LANES + s] /= root;
        for (int later = t + 1; later < LANES; later++)
            for (int s = later; s < LANES; s++)
                block[later * LANES + s] -= block[t * LANES + s] * block[t * LANES + later];
    }
    return 1;
}

/* Solve X L^T = block for the rows below a factored block L, in place. */
static void solve_block(const double *L, double *block)
{
    for (int t = 0; t < LANES; t++) {
        double *column = block + t * LANES;
        for (int r = 0; r < t; r++)
            for (int s = 0; s < LANES; s++) column[s] -= block[r * LANES + s] * L[r * LANES + t];
        for (int s = 0; s < LANES; s++) column[s] /= L[t * LANES + t];
    }
}

/* Replace a symmetric matrix by its Cholesky factor; return whether it is positive definite. A panel of 8 rows follows
   the other, each column by column. */
int factorise(double *H, Index panels)
{
    SumBlock *sum = best_sum_block();
    Index panel = panels * LANES * LANES;
    double sums[LANES][LANES];
    for (Index p = 0; p < panels; p++)
        for (Index q = p; q < panels; q++) {
            double *block = H + q * panel + p * LANES * LANES;
            sum(p * LANES, H + p * panel, H + q * panel, *sums, LANES);
            for (int t = 0; t < LANES; t++)
                for (int s = 0; s < LANES; s++) block[t * LANES + s] -= sums[t][s];
            if (q > p)
                solve_block(H + p * panel + p * LANES * LANES, block);
            else if (!factorise_block(block))
                return 0;
        }
    return 1;
}

/* Solve L L^T x = y in place. */
void solve_factorised(const double *L, Index panels, double *y)
{
    Index n = panels * LANES, panel = n * LANES;
    for (Index c = 0; c < n; c++) {
        y[c] /= L[c / LANES * panel + c * LANES + c % LANES];
        for (Index q = c / LANES; q < panels; q++) {
            const double *column = L + q * panel + c * LANES;
            for (Index s = q * LANES > c ? 0 : c % LANES + 1; s < LANES; s++) y[q * LANES + s] -= column[s] * y[c];
        }
    }
    for (Index c = n - 1; c >= 0; c--) {
        for (Index q = c / LANES; q < panels; q++) {
            const double *column = L + q * panel + c * LANES;
            for (Index s = q * LANES > c ? 0 : c % LANES + 1; s < LANES; s++) y[c] -= column[s] * y[q * LANES + s];
        }
        y[c] /= L[c / LANES * panel + c * LANES + c % LANES];
    }
}
