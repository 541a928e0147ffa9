/* Functions of many numbers at once. Sums run in eight lanes, so that a compiler may add eight at a time. */

#include "core.h"

#include <math.h>
#include <string.h>

static const double LN2 = 6.93147180369123816490e-01, LN2_REST = 1.90821492927058770002e-10;
/* ln 2 in two parts, of which the first one times a small integer has no rounding error. */

/* e^(x - shift). e^z = 2^k e^r, with Taylor's series for |r| < 0.35, to two units in the last place; zero below the
   normal numbers. */
FOR_EACH_PROCESSOR
void shifted_exponentials(Index count, const double *x, double shift, double *out)
{
    for (Index i = 0; i < count; i++) {
        double z = x[i] - shift, bounded = z < -708.0 ? -708.0 : z > 709.0 ? 709.0 : z;
        double k = floor(bounded * 1.44269504088896338700 + 0.5), r = (z - k * LN2) - k * LN2_REST;
        double p = 1 / 6227020800.0;
        p = p * r + 1 / 479001600.0;
        p = p * r + 1 / 39916800.0;
        p = p * r + 1 / 3628800.0;
        p = p * r + 1 / 362880.0;
        p = p * r + 1 / 40320.0;
        p = p * r + 1 / 5040.0;
        p = p * r + 1 / 720.0;
        p = p * r + 1 / 120.0;
        p = p * r + 1 / 24.0;
        p = p * r + 1 / 6.0;
        p = p * r + 0.5;
        p = p * r + 1.0;
        p = p * r + 1.0;
        double with_low_bits = k + 6755399441055744.0, power;
        int64_t bits;
        memcpy(&bits, &with_low_bits, sizeof bits);
        bits = (int64_t)(((uint64_t)bits + 1023) << 52);
        memcpy(&power, &bits, sizeof power);
        double inside = p * power;
        out[i] = z < -708.0 ? 0.0 : z <= 709.0 ? inside : z + INFINITY;
    }
}

void exponentials(Index count, const double *x, double *out)
{
    shifted_exponentials(count, x, 0, out);
}

/* The logarithm of numbers that are not negative, by 2 artanh((m - 1)/(m + 1)), to two units in the last place. */
FOR_EACH_PROCESSOR
void logarithms(Index count, const double *x, double *out)
{
    for (Index i = 0; i < count; i++) {
        int64_t bits, mantissa;
        memcpy(&bits, &x[i], sizeof bits);
        int64_t exponent = (bits - INT64_C(0x3FE6A09E667F3BCD)) >> 52;
        mantissa = bits - (int64_t)((uint64_t)exponent << 52);
        double m, k = (double)(int32_t)exponent;
        memcpy(&m, &mantissa, sizeof m);
        double s = (m - 1.0) / (m + 1.0), z = s * s, p = 1 / 21.0;
        p = p * z + 1 / 19.0;
        p = p * z + 1 / 17.0;
        p = p * z + 1 / 15.0;
        p = p * z + 1 / 13.0;
        p = p * z + 1 / 11.0;
        p = p * z + 1 / 9.0;
        p = p * z + 1 / 7.0;
        p = p * z + 1 / 5.0;
        p = p * z + 1 / 3.0;
        double inside = k * LN2 + (2 * s + (2 * s * p * z + k * LN2_REST));
        out[i] = x[i] == 0 ? -INFINITY : x[i] < INFINITY ? inside : x[i];
    }
}

static double sum(const double *lanes)
{
    double total = 0;
    for (int k = 0; k < LANES; k++) total += lanes[k];
    return total;
}

/* A sum of terms that are made of x_i and y_i. */
#define SUM_OF(NAME, TERM)                                                             \
    FOR_EACH_PROCESSOR                                                                 \
    double NAME(Index count, const double *restrict x, const double *restrict y)       \
    {                                                                                  \
        double lanes[LANES] = {0};                                                     \
        Index i = 0;                                                                   \
        for (; i + LANES <= count; i += LANES)                                         \
            for (int k = 0; k < LANES; k++) lanes[k] += TERM(x[i + k], y[i + k]);      \
        for (; i < count; i++) lanes[0] += TERM(x[i], y[i]);                           \
        return sum(lanes);                                                             \
    }
#define PRODUCT(x, y) ((x) * (y))
#define DISTANCE(x, y) fabs((x) - (y))
#define RELATIVE_ERROR(weight, ratio) ((weight) * fabs((ratio) - 1))

SUM_OF(inner_product, PRODUCT)
SUM_OF(l1_distance, DISTANCE)
SUM_OF(relative_l1_error, RELATIVE_ERROR) /* of a marginal that is given relative to the weights */

FOR_EACH_PROCESSOR
double total(Index count, const double *restrict x)
{
    double lanes[LANES] = {0};
    Index i = 0;
    for (; i + LANES <= count; i += LANES)
        for (int k = 0; k < LANES; k++) lanes[k] += x[i + k];
    for (; i < count; i++) lanes[0] += x[i];
    return sum(lanes);
}

/* The bits of a number, such that they are in the order of numbers; NaN beyond infinity, on the side of its sign. */
static inline int64_t ordered(double x)
{
    int64_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits ^ ((bits >> 63) & INT64_MAX);
}

static double number(int64_t order)
{
    int64_t bits = order ^ ((order >> 63) & INT64_MAX);
    double x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The largest absolute value; NaN if there is one. */
FOR_EACH_PROCESSOR
double largest_size(Index count, const double *restrict x)
{
    int64_t largest = 0;
    for (Index i = 0; i < count; i++) {
        int64_t size = ordered(fabs(x[i]));
        largest = size > largest ? size : largest;
    }
    return number(largest);
}

FOR_EACH_PROCESSOR
Range range_of(Index count, const double *restrict x)
{
    int64_t least = INT64_MAX, most = INT64_MIN;
    for (Index i = 0; i < count; i++) {
        int64_t order = ordered(x[i]);
        least = order < least ? order : least;
        most = order > most ? order : most;
    }
    Range range = {number(least), number(most)};
    return range;
}

FOR_EACH_PROCESSOR
void subtract_multiple(Index count, double factor, const double *restrict x, double *restrict out)
{
    for (Index i = 0; i < count; i++) out[i] -= factor * x[i];
}

/* The arctangent of numbers between zero and one (Cephes, double precision): of t above 0.66 by (t - 1)/(t + 1). */
FOR_EACH_PROCESSOR
void arctangents(Index count, const double *restrict x, double *restrict out)
{
    for (Index i = 0; i < count; i++) {
        int far = x[i] > 0.66;
        double t = far ? (x[i] - 1) / (x[i] + 1) : x[i], z = t * t;
        double p = -8.750608600031904122785e-1;
        p = p * z - 1.615753718733365076637e1;
        p = p * z - 7.500855792314704667340e1;
        p = p * z - 1.228866684490136173410e2;
        p = p * z - 6.485021904942025371773e1;
        double q = z + 2.485846490142306297962e1;
        q = q * z + 1.650270098316988542046e2;
        q = q * z + 4.328810604912902668951e2;
        q = q * z + 4.853903996359136964868e2;
        q = q * z + 1.945506571482613964425e2;
        double inside = t + t * z * (p / q);
        out[i] = far ? inside + (7.85398163397448309616e-1 + 3.061616997868383e-17) : inside;
    }
}

/* log sum_i exp(x_i); minus infinity of nothing. */
double log_sum_exp(Index count, const double *x, double *scratch)
{
    if (count == 0) return -INFINITY;
    double top = range_of(count, x).most;
    if (!(top > -INFINITY && top < INFINITY)) return top;
    for (Index i = 0; i < count; i++) scratch[i] = x[i] - top;
    exponentials(count, scratch, scratch);
    return top + log(total(count, scratch));
}

/* Raise each top to h - cost where that is higher. */
FOR_EACH_PROCESSOR
void raise_tops(Index count, double h, const double *restrict costs, double *restrict tops)
{
    for (Index j = 0; j < count; j++) tops[j] = tops[j] > h - costs[j] ? tops[j] : h - costs[j];
}

/* Replace costs by how far h - cost is above the top: exponents that are not positive. */
FOR_EACH_PROCESSOR
void below_tops(Index count, double h, const double *restrict tops, double *restrict costs)
{
    for (Index j = 0; j < count; j++) costs[j] = h - costs[j] - tops[j];
}
