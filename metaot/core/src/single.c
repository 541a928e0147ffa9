/* Sums of exponentials between blocks of 32 points, in single precision: for sums that need four digits. */

#include "core.h"

#include <string.h>

/* 2^x to two units in the last place; nothing below -126, and above 110 as for that, of which thousands have a sum. For
   |r| <= 1/2 the polynomial of degree 5 that is nearest to 2^r is off by 1e-7 of it at most. */
static inline float power_of_two(float x)
{
    float bounded = x < -126.0f ? -126.0f : x > 110.0f ? 110.0f : x, with_low_bits = bounded + 12582912.0f;
    float r = bounded - (with_low_bits - 12582912.0f), p = 1.32647239e-3f, power;
    p = p * r + 9.67151287e-3f;
    p = p * r + 5.55073375e-2f;
    p = p * r + 2.40222421e-1f;
    p = p * r + 6.93146978e-1f;
    p = p * r + 1.0f;
    uint32_t bits, low_bits;
    memcpy(&bits, &p, sizeof bits);
    memcpy(&low_bits, &with_low_bits, sizeof low_bits);
    bits += low_bits << 23;
    memcpy(&power, &bits, sizeof power);
    return x < -126.0f ? 0.0f : power;
}

/* Add values_i 2^(left_i + <x_i, y_j> + right_j) for some rows i to 32 sums; x is 32 numbers for each coordinate, of
   each of the rows, and y those of each column. */
FOR_EACH_PROCESSOR
void add_powers(Index rows, Index dim, const float *restrict left, const float *restrict x, const float *restrict right,
                const float *restrict y, const float *restrict values, float *restrict sums)
{
    for (Index i = 0; i < rows; i++) {
        float exponents[TILE], first = left[i], value = values[i];
        for (int j = 0; j < TILE; j++) exponents[j] = first + right[j];
        for (Index k = 0; k < dim; k++) {
            float at = x[k * TILE + i];
            for (int j = 0; j < TILE; j++) exponents[j] += at * y[k * TILE + j];
        }
        for (int j = 0; j < TILE; j++) sums[j] += value * power_of_two(exponents[j]);
    }
}
