/* Potentials that are known on the atoms with mass, on all atoms: each is the best one for the other. */

#include "core.h"

#include <math.h>
#include <string.h>

/* Put the best g for f, of all atoms with any mass, on the target atoms whose mass is too small to count: between two
   such atoms nothing else bounds what is sent. All in units of eps. Return whether there is enough memory. */
static int settle_small_masses(const Costs *costs, double inverse_eps, const double *a, const double *b,
                        const Support *target, const double *f, double *g)
{
    Costs other = transposed(costs);
    Columns columns;
    Arena arena = {0};
    Index count = 0, next = 0;
    if (!open_arena(&arena, 3 * bytes_for(costs->n) + columns_bytes(costs, costs->n))) return 0;
    Index *atoms = take_indices(&arena, costs->n);
    double *h = take_numbers(&arena, costs->n), *row = take_numbers(&arena, costs->n);
    for (Index i = 0; i < costs->n; i++)
        if (a[i] > 0) {
            h[count] = f[i] + log(a[i]);
            atoms[count++] = i;
        }
    prepare_columns(&columns, &other, count, atoms, &arena);
    for (Index j = 0; j < costs->m; j++) {
        if (next < target->count && target->atoms[next] == j)
            next++;
        else if (b[j] > 0)
            g[j] = best_potential(&other, inverse_eps, j, &columns, h, row);
    }
    close_arena(&arena);
    return 1;
}

/* Put the best g for f on target atoms without mass; zero where all that is near is forbidden. */
static int extend_target(const Costs *costs, double inverse_eps, const Support *source, const Support *target,
                         const double *known_f, double *g)
{
    Columns columns;
    Arena arena = {0};
    Index count;
    if (!open_arena(&arena, 4 * bytes_for(costs->m) + columns_bytes(costs, costs->m))) return 0;
    Index *absent = absent_atoms(costs->m, target, take_indices(&arena, costs->m), &count);
    double *tops = take_numbers(&arena, count), *sums = take_numbers(&arena, count), *row = take_numbers(&arena, count);
    prepare_columns(&columns, costs, count, absent, &arena);
    for (Index j = 0; j < count; j++) tops[j] = -INFINITY, sums[j] = 0;
    for (Index i = 0; i < source->count; i++) {
        cost_row(costs, inverse_eps, source->atoms[i], &columns, row);
        raise_tops(count, known_f[i] + source->logs[i], row, tops);
    }
    for (Index i = 0; i < source->count; i++) {
        cost_row(costs, inverse_eps, source->atoms[i], &columns, row);
        below_tops(count, known_f[i] + source->logs[i], tops, row);
        exponentials(count, row, row);
        subtract_multiple(count, -1, row, sums);
    }
    for (Index j = 0; j < count; j++) g[absent[j]] = tops[j] > -INFINITY ? -(tops[j] + log(sums[j])) : 0;
    close_arena(&arena);
    return 1;
}

/* Put the best f for g on source atoms without mass. */
static int extend_source(const Costs *costs, double inverse_eps, const Support *source, const Support *target,
                         const double *known_g, double *f)
{
    Columns columns;
    Arena arena = {0};
    Index count, m = target->count;
    if (!open_arena(&arena, bytes_for(costs->n) + 2 * bytes_for(m) + columns_bytes(costs, m))) return 0;
    Index *absent = absent_atoms(costs->n, source, take_indices(&arena, costs->n), &count);
    double *h = take_numbers(&arena, m), *row = take_numbers(&arena, m);
    prepare_columns(&columns, costs, m, target->atoms, &arena);
    for (Index j = 0; j < m; j++) h[j] = known_g[j] + target->logs[j];
    for (Index i = 0; i < count; i++) {
        double best = best_potential(costs, inverse_eps, absent[i], &columns, h, row);
        f[absent[i]] = best < INFINITY ? best : 0;
    }
    close_arena(&arena);
    return 1;
}

/* Put potentials in units of eps, known on the atoms with mass, on all atoms into f and g; return whether there is
   enough memory. Without f, only g, unless both sides leave mass. */
int extend_potentials(const Costs *costs, double inverse_eps, const double *a, const double *b, const Support *source,
                      const Support *target, const double *known_f, const double *known_g, double *f, double *g)
{
    for (Index i = 0; f && i < source->count; i++) f[source->atoms[i]] = known_f[i];
    for (Index j = 0; j < target->count; j++) g[target->atoms[j]] = known_g[j];
    if (target->count < costs->m && !extend_target(costs, inverse_eps, source, target, known_f, g)) return 0;
    if (f && source->count < costs->n && !extend_source(costs, inverse_eps, source, target, known_g, f)) return 0;
    if (source->leaves_mass && target->leaves_mass)
        return settle_small_masses(costs, inverse_eps, a, b, target, f, g);
    return 1;
}
