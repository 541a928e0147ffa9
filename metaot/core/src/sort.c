/* Rows of numbers in increasing order, by where they are between the least and the largest one.

   That place, a whole number of two digits, never falls as numbers rise. Numbers are counted and brought to their
   places digit by digit, the lower one first; those of one place are few, and sorted by themselves. */

#include "core.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { MOST_BITS = 11, SHORT = 24 };

typedef struct {
    double unit, low, factor, top;
} Scale; /* from numbers to places, 0 to top */

typedef struct {
    double *x;
    uint32_t *order, *places, *first, *second; /* and where the next number of each digit goes */
} Room; /* for a row */

/* The place of a number; NaN is at the top. */
static inline uint32_t place_of(Scale scale, double x)
{
    double place = (x * scale.unit - scale.low) * scale.factor; /* the first product is exact where it counts */
    place = place < scale.top ? place : scale.top;
    return (uint32_t)(int32_t)(place > 0 ? place : 0);
}

FOR_EACH_PROCESSOR
static void find_places(Index n, const double *restrict x, Scale scale, uint32_t *restrict places)
{
    for (Index k = 0; k < n; k++) places[k] = place_of(scale, x[k]);
}

static Scale scale_between(double low, double high, int bits)
{
    double range = high - low, unit = range > DBL_MAX ? 0.5 : range < 0x1p-900 ? 0x1p600 : 1;
    double top = (double)((INT64_C(1) << 2 * bits) - 1);
    return (Scale){unit, low * unit, top / (high * unit - low * unit), top};
}

static void insert(Index n, double *x, uint32_t *order)
{
    for (Index k = 1; k < n; k++) {
        double number = x[k];
        uint32_t from = order ? order[k] : 0;
        Index j = k;
        for (; j > 0 && x[j - 1] > number; j--) {
            x[j] = x[j - 1];
            if (order) order[j] = order[j - 1];
        }
        x[j] = number;
        if (order) order[j] = from;
    }
}

/* Count the digits of all places, and put there where the first number of each goes. */
static void count_digits(Index n, int bits, Room room)
{
    Index values = (Index)1 << bits;
    uint32_t mask = (uint32_t)values - 1, before_first = 0, before_second = 0;
    memset(room.first, 0, (size_t)values * sizeof *room.first);
    memset(room.second, 0, (size_t)values * sizeof *room.second);
    for (Index k = 0; k < n; k++) {
        room.first[room.places[k] & mask]++;
        room.second[room.places[k] >> bits]++;
    }
    for (Index digit = 0; digit < values; digit++) {
        uint32_t first = room.first[digit], second = room.second[digit];
        room.first[digit] = before_first;
        room.second[digit] = before_second;
        before_first += first;
        before_second += second;
    }
}

/* Sort numbers, and the order with them if there is one. */
static void sort_part(Index n, double *x, uint32_t *order, Room room)
{
    if (n <= SHORT) {
        insert(n, x, order);
        return;
    }
    Range range = range_of(n, x);
    double low = range.least > -DBL_MAX ? range.least : -DBL_MAX, high = range.most < DBL_MAX ? range.most : DBL_MAX;
    if (!(low < high)) return;
    int bits = 0;
    while (bits < MOST_BITS && (n >> (2 * bits - 6 > 0 ? 2 * bits - 6 : 0))) bits++;
    Scale scale = scale_between(low, high, bits);
    uint32_t mask = ((uint32_t)1 << bits) - 1;
    find_places(n, x, scale, room.places);
    count_digits(n, bits, room);
    for (Index k = 0; k < n; k++) {
        uint32_t to = room.first[room.places[k] & mask]++;
        room.x[to] = x[k];
        if (order) room.order[to] = order[k];
    }
    find_places(n, room.x, scale, room.places);
    for (Index k = 0; k < n; k++) {
        uint32_t to = room.second[room.places[k] >> bits]++;
        x[to] = room.x[k];
        if (order) order[to] = room.order[k];
    }
    for (Index k = 1; k < n; k++) {
        if (!(x[k - 1] > x[k])) continue;
        uint32_t place = place_of(scale, x[k]);
        Index begin = k - 1, end = k + 1;
        while (begin > 0 && place_of(scale, x[begin - 1]) == place) begin--;
        while (end < n && place_of(scale, x[end]) == place) end++;
        uint32_t *part = order ? order + begin : NULL;
        if (end - begin < n)
            sort_part(end - begin, x + begin, part, room);
        else /* NaN among the numbers */
            insert(n, x, order);
        k = end;
    }
}

size_t sort_bytes(Index n)
{
    return 2 * bytes_for(n) + 5 * bytes_for(n + (1 << MOST_BITS));
}

/* Sort float32 or float64 where they are; put where each number was into order, unless that is NULL. */
void sort_row(Index n, int is_single, void *numbers, int64_t *order, Arena *arena)
{
    arena->used = 0;
    Index half = (n + 1) / 2, digits = 1 << (MOST_BITS - 1);
    Room room = {take_numbers(arena, n), (uint32_t *)take_indices(arena, half), (uint32_t *)take_indices(arena, half),
                 (uint32_t *)take_indices(arena, digits), (uint32_t *)take_indices(arena, digits)};
    double *x = is_single ? take_numbers(arena, n) : numbers;
    uint32_t *from = order ? (uint32_t *)take_indices(arena, half) : NULL;
    float *singles = numbers;
    for (Index k = 0; is_single && k < n; k++) x[k] = singles[k];
    for (Index k = 0; order && k < n; k++) from[k] = (uint32_t)k;
    sort_part(n, x, from, room);
    for (Index k = 0; is_single && k < n; k++) singles[k] = (float)x[k];
    for (Index k = 0; order && k < n; k++) order[k] = from[k];
}
