/* Sums over all atoms of one cloud for each of another one: for potentials that are given, whatever they are.

   The largest term of each sum is found first, exactly; then all terms that count beside it are added. */

#include "clouds.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { FEW = 16 };

/* Exponents are in the units of the cost, so that the same largest terms are right for each eps, and h - C is rounded as
   in a matrix. */
static const double COUNTED = 40; /* terms below e^-40 of a sum do not change it: of those that fall off, a few count */

typedef struct {
    const Operator *op;
    const Side *from; /* the target */
    Side *to;         /* the source, after the largest terms were found */
    double margin;
    const CloudSums *wanted;
    int short_of_memory;
    Index next;
} SumPass;

/* Put (h - costs - bounds) times a scale into out; return the largest of them. */
static inline double scaled_exponents(double h, double scale, const double *restrict costs,
                                      const double *restrict bounds, double *restrict out)
{
    double tops[LANES];
    for (int j = 0; j < BLOCK; j++) out[j] = (h - costs[j] - bounds[j]) * scale;
    for (int s = 0; s < LANES; s++) tops[s] = out[s];
    for (int j = LANES; j < BLOCK; j += LANES)
        for (int s = 0; s < LANES; s++) tops[s] = out[j + s] > tops[s] ? out[j + s] : tops[s];
    for (int s = 1; s < LANES; s++) tops[0] = tops[s] > tops[0] ? tops[s] : tops[0];
    return tops[0];
}

FOR_EACH_PROCESSOR
static double exponents_of_costs(double h, double scale, const double *restrict costs, const double *restrict bounds,
                                 double *restrict out)
{
    double kept[BLOCK], found[BLOCK];
    memcpy(kept, costs, sizeof kept);
    double most = scaled_exponents(h, scale, kept, bounds, found);
    memcpy(out, found, sizeof found);
    return most;
}

/* The same for squared distances between an atom and a whole block, which are put into costs. */
FOR_EACH_PROCESSOR
static double exponents_of_squares(Index dim, const double *restrict x, Index x_stride, const double *restrict y,
                                   Index y_stride, double h, double scale, const double *restrict bounds,
                                   double *restrict costs, double *restrict out)
{
    double sums[BLOCK] = {0}, found[BLOCK];
    for (Index k = 0; k < dim; k++)
        for (int j = 0; j < BLOCK; j++) {
            double difference = x[k * x_stride] - y[k * y_stride + j];
            sums[j] += difference * difference;
        }
    double most = scaled_exponents(h, scale, sums, bounds, found);
    memcpy(costs, sums, sizeof sums);
    memcpy(out, found, sizeof found);
    return most;
}

/* Add rows of terms times values, `count` for each row, to count x BLOCK sums. */
FOR_EACH_PROCESSOR
static void add_multiples(Index rows, Index count, const double *const *values, const double *restrict terms,
                          double *restrict sums)
{
    for (Index k = 0; k < count; k++) {
        double lanes[BLOCK];
        for (int j = 0; j < BLOCK; j++) lanes[j] = sums[k * BLOCK + j];
        for (Index r = 0; r < rows; r++)
            for (int j = 0; j < BLOCK; j++) lanes[j] += values[r][k] * terms[r * BLOCK + j];
        for (int j = 0; j < BLOCK; j++) sums[k * BLOCK + j] = lanes[j];
    }
}

/* Add up to FEW rows to the sums of a block: of the terms, of terms times costs, of terms times values. */
FOR_EACH_PROCESSOR
static void add_wanted(const CloudSums *wanted, Index rows, const double *const *values,
                       const double *restrict costs, double *restrict terms, double *restrict sums)
{
    static const double one = 1;
    const double *const ones[FEW] = {&one, &one, &one, &one, &one, &one, &one, &one,
                                     &one, &one, &one, &one, &one, &one, &one, &one};
    exponentials(rows * BLOCK, terms, terms);
    add_multiples(rows, 1, ones, terms, sums);
    if (wanted->mean_costs)
        for (Index r = 0; r < rows; r++)
            for (int j = 0; j < BLOCK; j++) {
                double cost = costs[r * BLOCK + j];
                sums[BLOCK + j] += cost < INFINITY ? terms[r * BLOCK + j] * cost : 0;
            }
    if (wanted->means) add_multiples(rows, wanted->count, values, terms, sums + 2 * BLOCK);
}

/* Add the terms of one target block to the sums of a source block, relative to its largest terms. */
static void add_terms(const SumPass *task, Index I, Index J, Bound bound, double scale, const double *guesses,
                      double *sums)
{
    const Operator *op = task->op;
    const CloudSums *wanted = task->wanted;
    const Side *from = task->from, *to = task->to;
    double terms[FEW * BLOCK + LANES], costs[FEW * BLOCK + 2 * LANES], most[BLOCK], squares[BLOCK];
    const double *values[FEW] = {NULL};
    Index first = J * BLOCK, n = atoms_of(to, J), rows = 0;
    most_of_atoms(op, from, I, to, J, bound, most, squares);
    for (Index k = 0; k < atoms_of(from, I); k++) {
        if (most[k] < -task->margin) continue;
        Index i = I * BLOCK + k;
        double *row = costs + rows * BLOCK, *exponents = terms + rows * BLOCK, top;
        if (op->costs->cost == SQEUCLIDEAN && n == BLOCK) {
            top = exponents_of_squares(to->dim, from->coordinates + i, from->n, to->coordinates + first, to->n,
                                       from->h[i], scale, guesses, row, exponents);
        } else {
            block_costs(op, from, i, to, first, n, row);
            for (Index j = n; j < BLOCK; j++) row[j] = INFINITY;
            top = exponents_of_costs(from->h[i], scale, row, guesses, exponents);
        }
        if (top < -COUNTED) continue;
        values[rows++] = wanted->means ? wanted->values + from->order[i] * wanted->count : NULL;
        if (rows == FEW) {
            add_wanted(wanted, rows, values, costs, terms, sums);
            rows = 0;
        }
    }
    if (rows > 0) add_wanted(wanted, rows, values, costs, terms, sums);
}

/* Put what is wanted of a source block into place, from its sums and its largest terms. */
static void put_sums(const CloudSums *wanted, const Side *to, Index J, const double *bounds, const double *sums)
{
    for (Index j = 0; j < BLOCK && J * BLOCK + j < to->n; j++) {
        Index i = to->order[J * BLOCK + j];
        double inverse = sums[j] > 0 ? 1 / sums[j] : 0;
        if (wanted->least) wanted->least[i] = -(bounds[j] + wanted->eps * log(sums[j]));
        if (wanted->mean_costs) wanted->mean_costs[i] = sums[BLOCK + j] * inverse;
        for (Index k = 0; wanted->means && k < wanted->count; k++)
            wanted->means[i * wanted->count + k] = sums[(2 + k) * BLOCK + j] * inverse;
    }
}

/* Sum for one source block after another. */
static void sum_for_blocks(void *shared)
{
    SumPass *task = shared;
    const CloudSums *wanted = task->wanted;
    const Side *from = task->from, *to = task->to;
    Arena arena = {0};
    Index count = (2 + (wanted->means ? wanted->count : 0)) * BLOCK;
    if (!open_arena(&arena, bytes_for(count))) {
        task->short_of_memory = 1;
        return;
    }
    double *sums = take_numbers(&arena, count), scale = smaller(1 / wanted->eps, DBL_MAX);
    for (Index J; (J = take_next(&task->next)) < to->blocks;) {
        double guesses[BLOCK] = {0};
        for (Index j = 0; j < atoms_of(to, J); j++) guesses[j] = larger(to->guesses[J * BLOCK + j], -DBL_MAX);
        memset(sums, 0, (size_t)count * sizeof *sums);
        Bound bound = bound_minus(to, J, guesses);
        Walk walk = walk_to(task->op, from, to, J, bound);
        for (Index I; (I = next_block(&walk, -task->margin)) >= 0;)
            add_terms(task, I, J, bound, scale, guesses, sums);
        put_sums(wanted, to, J, guesses, sums);
    }
    close_arena(&arena);
}

static Support all_atoms(Arena *arena, Index count)
{
    Support all = {count, take_indices(arena, count), NULL, NULL, 0};
    for (Index k = 0; k < count; k++) all.atoms[k] = k;
    return all;
}

/* Put sums between two clouds into place; return whether there is enough memory. */
int sum_on_clouds(const Costs *costs, const double *h, const CloudSums *wanted, int threads)
{
    Arena arena = {0};
    Index n = costs->n, m = costs->m;
    if (!open_arena(&arena, clouds_bytes(costs, n, m) + bytes_for(n) + bytes_for(m))) return 0;
    Support source = all_atoms(&arena, n), target = all_atoms(&arena, m);
    Operator op = {.costs = costs, .inverse_eps = 1, .source = &source, .target = &target, .threads = threads};
    open_clouds(&op, &arena);
    Clouds *self = op.own;
    Side *from = &self->target, *to = &self->source;
    for (Index j = 0; j < m; j++) from->h[j] = h[from->order[j]];
    for (Index i = 0; i < n; i++) to->guesses[i] = -INFINITY;
    take_bounds(from);
    if (range_of(m, h).most > -INFINITY) find_largest_terms(&op, from, to);
    SumPass task = {&op, from, to, wanted->eps * COUNTED, wanted, 0, 0};
    if (wanted->eps > 0)
        run_on_threads(sum_for_blocks, &task, threads);
    else
        for (Index i = 0; i < n; i++) wanted->least[to->order[i]] = -to->guesses[i];
    close_arena(&arena);
    return !task.short_of_memory;
}
