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

enum { WIDTH = 32, BIDS = 2 };

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
        double best[WIDTH], second[WIDTH];                                                                          \
        for (int k = 0; k < WIDTH; k++) best[k] = second[k] = DBL_MAX;                                              \
        Index first = 0, column = 0;                                                                                \
        for (; first + WIDTH <= n; first += WIDTH)                                                                  \
            for (int k = 0; k < WIDTH; k++) {                                                                       \
                double value = (double)costs[first + k] + prices[first + k];                                        \
                double larger = value < best[k] ? best[k] : value;                                                  \
                second[k] = larger < second[k] ? larger : second[k];                                                \
                best[k] = value < best[k] ? value : best[k];                                                        \
            }                                                                                                       \
        for (int k = 0; first + k < n; k++) {                                                                       \
            double value = (double)costs[first + k] + prices[first + k];                                            \
            double larger = value < best[k] ? best[k] : value;                                                      \
            second[k] = larger < second[k] ? larger : second[k];                                                    \
            best[k] = value < best[k] ? value : best[k];                                                            \
        }                                                                                                           \
        Offer offer = best_of_all(best, second);                                                                    \
        for (int found = 0; column + WIDTH <= n; column += WIDTH) {                                                 \
            for (int k = 0; k < WIDTH; k++) found |= (double)costs[column + k] + prices[column + k] == offer.best;  \
            if (found) break;                                                                                       \
        }                                                                                                           \
        while (column < n - 1 && (double)costs[column] + prices[column] != offer.best) column++;                    \
        offer.column = column;                                                                                      \
        return offer;                                                                                               \
    }

static Offer best_of_all(const double *best, const double *second)
{
    Offer offer = {DBL_MAX, DBL_MAX, 0};
    for (int k = 0; k < WIDTH; k++) {
        double larger = best[k] < offer.best ? offer.best : best[k];
        if (best[k] < offer.best) offer.best = best[k];
        if (larger < offer.second) offer.second = larger;
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

/* A row of costs in doubles; of points it is made, and stays until the next one is. */
static const double *row_of(const Assignment *task, Index i)
{
    if (!task->points) return task->doubles + i * task->n;
    cost_row(task->points, 1, i, &task->prepared, task->row);
    return task->row;
}

static Offer best_offer(const Assignment *task, Index i)
{
    Index n = task->n;
    return task->floats ? best_offer_of_floats(n, task->floats + i * n, task->prices)
                        : best_offer_of_doubles(n, row_of(task, i), task->prices);
}

static double shorten(const Assignment *task, Index i, double reach, const double *prices, double *paths, Index *before)
{
    Index n = task->n;
    return task->floats ? shorten_by_floats(n, reach, task->floats + i * n, prices, paths, before, i)
                        : shorten_by_doubles(n, reach, row_of(task, i), prices, paths, before, i);
}

/* A cost in the row of which an offer was made last. */
static double cost_of(const Assignment *task, Index i, Index j)
{
    if (task->points) return task->row[j];
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

/* Find the least cost + price of each row; if the best assignment is wanted, give up pairs that are not the best of
   their rows. */
static void find_best(const Assignment *task, int exact, double *best)
{
    for (Index i = 0; i < task->n; i++) {
        Index j = task->columns[i];
        best[i] = best_offer(task, i).best;
        if (exact && j >= 0 && cost_of(task, i, j) + task->prices[j] > best[i]) task->columns[i] = task->rows[j] = -1;
    }
}

/* Assign the rows that have no column along shortest paths. */
static void make_exact(const Assignment *task, Paths *paths)
{
    Index n = task->n;
    memcpy(paths->prices, task->prices, (size_t)n * sizeof *paths->prices);
    for (Index i = 0; i < n; i++)
        if (task->columns[i] < 0) augment(task, paths, i);
}

int assign(Assignment *task)
{
    Index n = task->n;
    Paths paths;
    Arena arena;
    memset(&arena, 0, sizeof arena);
    if (!open_arena(&arena, 10 * bytes_for(n) + (task->points ? columns_bytes(task->points, n) : 0))) return 0;
    double **numbers[] = {&paths.best, &paths.paths, &paths.prices, &paths.lengths, &task->row};
    for (int k = 0; k < 5; k++) *numbers[k] = take_numbers(&arena, n);
    paths.before = take_indices(&arena, n);
    paths.done = take_indices(&arena, n);
    task->rows = take_indices(&arena, n);
    Index *queue = take_indices(&arena, n), *atoms = take_indices(&arena, n);
    for (Index j = 0; j < n; j++) atoms[j] = j;
    if (task->points) prepare_columns(&task->prepared, task->points, n, atoms, &arena);
    if (task->potential) {
        for (Index j = 0; j < n; j++) task->prices[j] = -DBL_MAX;
        for (Index i = 0; i < n; i++) raise_tops(n, task->potential[i], row_of(task, i), task->prices);
    }
    int exact = task->exact || !(task->eps[task->phases - 1] > 0);
    for (Index k = 0; k < task->phases; k++) run_auction(task, task->eps[k], queue);
    find_best(task, exact, paths.best);
    if (exact) make_exact(task, &paths);
    task->bound = total(n, paths.best) - total(n, task->prices);
    close_arena(&arena);
    return 1;
}
