/* Assignment: as many rows as columns, each row its column, with a low sum of costs.

   The auction of Bertsekas (1988): a row without a column bids for the one with the least cost + price, and raises its
   price by what that is better than the second one, and by eps. In the end no row could gain more than eps elsewhere, so
   the mean cost is within eps of the least one. The exact assignment follows from these prices by shortest augmenting
   paths (Jonker and Volgenant 1987). metaot/solvers/assignment.py does the same in torch, where all rows without a column
   bid at once. */

#include "core.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { WIDTH = 16, BIDS = 2 };

/* Where no number is NaN or infinite, the lesser of two is one instruction. */
#if defined(__GNUC__) && !defined(__clang__)
#define OF_NUMBERS __attribute__((optimize("finite-math-only", "no-signed-zeros")))
#else
#define OF_NUMBERS
#endif

typedef struct {
    double best, second;
    Index column;
} Offer; /* the least cost + price of a row and where it is, and the least one elsewhere */

/* Every WIDTH-th column has its own two least values, so that many are compared at once. */
#define BEST_OFFER(NAME, TYPE)                                                                                      \
    FOR_EACH_PROCESSOR OF_NUMBERS                                                                                   \
    static Offer NAME(Index n, const TYPE *restrict costs, const double *restrict prices)                          \
    {                                                                                                               \
        double best[WIDTH], second[WIDTH], place[WIDTH];                                                            \
        for (int k = 0; k < WIDTH; k++) best[k] = second[k] = DBL_MAX, place[k] = 0;                                \
        Index first = 0;                                                                                            \
        for (; first + WIDTH <= n; first += WIDTH) {                                                                \
            double at = (double)first;                                                                              \
            for (int k = 0; k < WIDTH; k++) {                                                                       \
                double value = (double)costs[first + k] + prices[first + k];                                        \
                double larger = value < best[k] ? best[k] : value;                                                  \
                second[k] = larger < second[k] ? larger : second[k];                                                \
                place[k] = value < best[k] ? at : place[k];                                                         \
                best[k] = value < best[k] ? value : best[k];                                                        \
            }                                                                                                       \
        }                                                                                                           \
        for (int k = 0; first + k < n; k++) {                                                                       \
            double value = (double)costs[first + k] + prices[first + k];                                            \
            double larger = value < best[k] ? best[k] : value;                                                      \
            second[k] = larger < second[k] ? larger : second[k];                                                    \
            place[k] = value < best[k] ? (double)first : place[k];                                                  \
            best[k] = value < best[k] ? value : best[k];                                                            \
        }                                                                                                           \
        return best_of_all(best, second, place);                                                                    \
    }

static Offer best_of_all(const double *best, const double *second, const double *place)
{
    Offer offer = {DBL_MAX, DBL_MAX, 0};
    for (int k = 0; k < WIDTH; k++) {
        Index column = (Index)place[k] + k;
        int better = best[k] < offer.best || (best[k] == offer.best && column < offer.column);
        double other = better ? offer.best : best[k];
        if (better) offer.best = best[k], offer.column = column;
        if (other < offer.second) offer.second = other;
        if (second[k] < offer.second) offer.second = second[k];
    }
    return offer;
}

BEST_OFFER(best_offer_of_floats, float)
BEST_OFFER(best_offer_of_doubles, double)

/* Shorten the paths to all columns by a row that is reached at `reach`; return the shortest one. Columns that are done
   are too far. */
#define SHORTEN(NAME, TYPE)                                                                                         \
    FOR_EACH_PROCESSOR OF_NUMBERS                                                                                   \
    static double NAME(Index n, double reach, const TYPE *restrict costs, const double *restrict prices,           \
                       double *restrict paths, Index *restrict before, Index row)                                  \
    {                                                                                                               \
        double least[WIDTH], shortest = DBL_MAX;                                                                    \
        for (int k = 0; k < WIDTH; k++) least[k] = DBL_MAX;                                                         \
        Index j = 0;                                                                                                \
        for (; j + WIDTH <= n; j += WIDTH)                                                                          \
            for (int k = 0; k < WIDTH; k++) {                                                                       \
                double path = reach + ((double)costs[j + k] + prices[j + k]), known = paths[j + k];                 \
                before[j + k] = path < known ? row : before[j + k];                                                 \
                paths[j + k] = path < known ? path : known;                                                         \
                least[k] = paths[j + k] < least[k] ? paths[j + k] : least[k];                                       \
            }                                                                                                       \
        for (; j < n; j++) {                                                                                        \
            double path = reach + ((double)costs[j] + prices[j]);                                                   \
            if (path < paths[j]) paths[j] = path, before[j] = row;                                                  \
            shortest = paths[j] < shortest ? paths[j] : shortest;                                                   \
        }                                                                                                           \
        for (int k = 0; k < WIDTH; k++) shortest = least[k] < shortest ? least[k] : shortest;                       \
        return shortest;                                                                                            \
    }
SHORTEN(shorten_by_floats, float)
SHORTEN(shorten_by_doubles, double)

static Offer best_offer(const Assignment *task, Index i)
{
    Index n = task->n;
    return task->floats ? best_offer_of_floats(n, task->floats + i * n, task->prices)
                        : best_offer_of_doubles(n, task->doubles + i * n, task->prices);
}

static double shorten(const Assignment *task, Index i, double reach, const double *prices, double *paths, Index *before)
{
    Index n = task->n;
    return task->floats ? shorten_by_floats(n, reach, task->floats + i * n, prices, paths, before, i)
                        : shorten_by_doubles(n, reach, task->doubles + i * n, prices, paths, before, i);
}

static double cost_of(const Assignment *task, Index i, Index j)
{
    return task->floats ? (double)task->floats[i * task->n + j] : task->doubles[i * task->n + j];
}

/* Let rows bid, those first that have waited longest, until each has a column; with an eps of zero, until all have bid
   some times: each then has a column that is the best for it, or none. */
static void run_auction(const Assignment *task, double eps, Index *queue)
{
    Index n = task->n, head = 0, waiting = n, bids = eps > 0 ? -1 : BIDS * n;
    for (Index i = 0; i < n; i++) {
        task->columns[i] = task->rows[i] = -1;
        queue[i] = i;
    }
    while (waiting && bids--) {
        Index i = queue[head];
        head = head + 1 < n ? head + 1 : 0;
        waiting--;
        Offer offer = best_offer(task, i);
        Index j = offer.column, other = task->rows[j];
        task->prices[j] += eps + (offer.second < DBL_MAX ? offer.second - offer.best : 0);
        if (!(eps > 0)) /* after rounding too, the row's best column */
            for (double over; (over = cost_of(task, i, j) + task->prices[j] - offer.second) > 0;)
                task->prices[j] = fmin(task->prices[j] - over, nextafter(task->prices[j], -DBL_MAX));
        task->rows[j] = i;
        task->columns[i] = j;
        if (other < 0) continue;
        task->columns[other] = -1;
        queue[(head + waiting++) % n] = other;
    }
}

typedef struct {
    double *best, *paths, *prices, *lengths; /* of rows: the least cost + price; of columns */
    Index *before, *done;
} Paths;

/* Assign one more row along the shortest path to a column that is free. */
static void augment(const Assignment *task, Paths *self, Index start)
{
    Index n = task->n, count = 0, i = start, j;
    double reach = 0;
    for (j = 0; j < n; j++) self->paths[j] = DBL_MAX;
    for (;;) {
        reach = shorten(task, i, reach - self->best[i], self->prices, self->paths, self->before);
        for (j = 0; self->paths[j] != reach; j++) {}
        self->done[count] = j;
        self->lengths[count++] = reach;
        self->paths[j] = self->prices[j] = DBL_MAX; /* which no path falls below */
        if (task->rows[j] < 0) break;
        i = task->rows[j];
    }
    self->best[start] += reach;
    for (Index k = 0; k < count; k++) {
        Index column = self->done[k], row = task->rows[column];
        task->prices[column] += reach - self->lengths[k];
        self->prices[column] = task->prices[column];
        if (row >= 0) self->best[row] += reach - self->lengths[k];
    }
    for (Index row = -1; row != start;) {
        row = self->before[j];
        Index next = task->columns[row];
        task->rows[j] = row;
        task->columns[row] = j;
        j = next;
    }
}

/* Keep the pairs that are the best of their rows, and assign the other rows along shortest paths. */
static void make_exact(const Assignment *task, Paths *paths)
{
    Index n = task->n;
    memcpy(paths->prices, task->prices, (size_t)n * sizeof *paths->prices);
    for (Index i = 0; i < n; i++) {
        Index j = task->columns[i];
        if (j >= 0 && cost_of(task, i, j) + task->prices[j] > paths->best[i]) task->columns[i] = task->rows[j] = -1;
    }
    for (Index i = 0; i < n; i++)
        if (task->columns[i] < 0) augment(task, paths, i);
}

int assign(Assignment *task)
{
    Index n = task->n;
    Paths paths;
    Arena arena;
    memset(&arena, 0, sizeof arena);
    if (!open_arena(&arena, 8 * bytes_for(n))) return 0;
    double **numbers[] = {&paths.best, &paths.paths, &paths.prices, &paths.lengths};
    for (int k = 0; k < 4; k++) *numbers[k] = take_numbers(&arena, n);
    paths.before = take_indices(&arena, n);
    paths.done = take_indices(&arena, n);
    task->rows = take_indices(&arena, n);
    Index *queue = take_indices(&arena, n);
    for (Index k = 0; k < task->phases; k++) run_auction(task, task->eps[k], queue);
    for (Index i = 0; i < n; i++) paths.best[i] = best_offer(task, i).best;
    if (task->exact || !(task->eps[task->phases - 1] > 0)) make_exact(task, &paths);
    task->bound = total(n, paths.best) - total(n, task->prices);
    close_arena(&arena);
    return 1;
}
