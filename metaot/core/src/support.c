/* The atoms with mass. */

#include "core.h"

#include <string.h>

static const double SMALLEST_WEIGHT = 1e-20;
/* Of mass one; what all atoms with less weigh together is far below every tolerance. Their potentials are the best
   ones for those of the other side, so that their own mass arrives. */

enum { COUNTS = 1, COUNTS_NOT = 2 };

/* Return which kinds of positive weights there are in a stretch. */
FOR_EACH_PROCESSOR
static int kinds_of_mass(Index count, const double *weights, double least)
{
    int64_t large = 0, small = 0;
    for (Index k = 0; k < count; k++) {
        large |= weights[k] >= least;
        small |= (weights[k] > 0) & (weights[k] < least);
    }
    return (large ? COUNTS : 0) | (small ? COUNTS_NOT : 0);
}

void find_support(Index count, const double *weights, double mass, Support *support)
{
    enum { STRETCH = 32 };
    Index found = 0;
    int kinds = 0;
    double least = SMALLEST_WEIGHT * mass;
    for (Index begin = 0; begin < count; begin += STRETCH) {
        Index end = begin + STRETCH < count ? begin + STRETCH : count;
        int here = kinds_of_mass(end - begin, weights + begin, least);
        kinds |= here;
        if (!(here & COUNTS)) continue;
        for (Index k = begin; k < end; k++) {
            support->atoms[found] = k;
            support->weights[found] = weights[k];
            found += weights[k] >= least;
        }
    }
    support->count = found;
    support->leaves_mass = (kinds & COUNTS_NOT) != 0;
}

void take_logs(Support *support)
{
    logarithms(support->count, support->weights, support->logs);
}

/* Put the other atoms into `absent`, which is returned. */
Index *absent_atoms(Index count, const Support *support, Index *absent, Index *absent_count)
{
    Index next = 0, found = 0;
    for (Index k = 0; k < count; k++) {
        if (next < support->count && support->atoms[next] == k)
            next++;
        else
            absent[found++] = k;
    }
    *absent_count = found;
    return absent;
}

Support take_support(Arena *arena, Index count)
{
    Support support = {0, take_indices(arena, count), take_numbers(arena, count), take_numbers(arena, count), 0};
    return support;
}

/* Find the supports of both sides; return whether there is enough memory. */
int find_supports(Workspace *workspace, const Costs *costs, const double *a, const double *b, int relaxed)
{
    if (!open_arena(&workspace->supports, 3 * bytes_for(costs->n) + 3 * bytes_for(costs->m))) return 0;
    workspace->source = take_support(&workspace->supports, costs->n);
    workspace->target = take_support(&workspace->supports, costs->m);
    find_support(costs->n, a, relaxed ? total(costs->n, a) : 1, &workspace->source);
    find_support(costs->m, b, relaxed ? total(costs->m, b) : 1, &workspace->target);
    return 1;
}
