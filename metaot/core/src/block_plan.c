/* The plan between two clouds in tiles of 32 x 32, in single precision. */

#include "clouds.h"

#include <math.h>
#include <string.h>

enum { WORTH_THREADS = 8192 }; /* tiles from which on threads do not only wait for each other */
static const double LEAST_ENTRY = -7; /* the logarithm of what a tile of a plan has at least somewhere */
static const double NO_ENTRY = 1e-8;  /* what counts as nothing in it: numbers without leading digits take their time */

/* Put half of what the logarithm of a side's share in the plan's entries is above that of its marginal into halves. */
static void take_halves(Side *side, double *halves)
{
    for (Index i = 0; i < side->n; i++) {
        halves[i] = (side->h[i] - side->sums[i]) / 2;
        side->guesses[i] = side->h[i];
        side->h[i] = halves[i];
    }
    take_bounds(side);
    memcpy(side->h, side->guesses, (size_t)side->n * sizeof *halves);
}

/* Go through the pairs of blocks that count; without a plan, only return their number. */
static Index for_each_pair(const Operator *op, const Side *source, const Side *target, BlockPlan *plan)
{
    Index count = 0;
    for (Index I = 0; I < source->blocks; I++) {
        if (plan) plan->first[I] = count;
        Walk walk = walk_to(op, target, source, I, bound_of(source, I));
        for (Index J; (J = next_block(&walk, LEAST_ENTRY)) >= 0; count++)
            if (plan) plan->columns[count] = J;
    }
    if (plan) plan->first[source->blocks] = count;
    return count;
}

static void fill_tile(const Operator *op, const Clouds *self, const double *left, const double *right, Index I, Index J,
                      float *tile)
{
    const Side *source = &self->source, *target = &self->target;
    Index first = J * BLOCK, n = target->n - first < BLOCK ? target->n - first : BLOCK;
    double row[BLOCK + 2 * LANES];
    memset(tile, 0, BLOCK * BLOCK * sizeof *tile);
    for (Index i = I * BLOCK; i < source->n && i < (I + 1) * BLOCK; i++, tile += BLOCK) {
        block_costs(op, source, i, target, first, n, row);
        for (Index j = 0; j < n; j++) row[j] = left[i] + right[first + j] - row[j];
        exponentials(n, row, row);
        for (Index j = 0; j < n; j++) tile[j] = row[j] > NO_ENTRY ? (float)row[j] : 0;
    }
}

/* Hold the plan of the point that was evaluated last, each entry over the roots of both its marginals; put the roots
   of the source's marginal, for a mass of one, into place, and those of the target's over the mass, both on the atoms
   with mass. */
int open_block_plan(BlockPlan *plan, Operator *op, double *source_roots, double *target_roots)
{
    Clouds *self = op->own;
    Side *source = &self->source, *target = &self->target;
    double *left = self->moved, *right = self->moved + source->n, mass = 0;
    take_halves(source, left);
    take_halves(target, right);
    Index tiles = for_each_pair(op, source, target, NULL), blocks = source->blocks + target->blocks;
    size_t bytes = 2 * bytes_for(blocks + 2) + 3 * bytes_for(tiles) + bytes_for(tiles * (BLOCK * BLOCK / 2 + 1)) +
                   2 * bytes_for(blocks * BLOCK);
    if (!open_arena(&plan->memory, bytes)) return 0;
    plan->source_blocks = source->blocks;
    plan->target_blocks = target->blocks;
    plan->source_order = source->order;
    plan->target_order = target->order;
    plan->n = source->n;
    plan->m = target->n;
    plan->threads = tiles > WORTH_THREADS ? op->threads : 1;
    plan->first = take_indices(&plan->memory, source->blocks + 1);
    plan->first_of_column = take_indices(&plan->memory, target->blocks + 2);
    plan->columns = take_indices(&plan->memory, tiles);
    plan->of_column = take_indices(&plan->memory, tiles);
    plan->entries = (float *)take_numbers(&plan->memory, tiles * BLOCK * BLOCK / 2);
    plan->left = (float *)take_numbers(&plan->memory, source->blocks * BLOCK);
    plan->right = (float *)take_numbers(&plan->memory, target->blocks * BLOCK);
    plan->rows = take_indices(&plan->memory, tiles);
    for_each_pair(op, source, target, plan);
    memset(plan->first_of_column, 0, (size_t)(target->blocks + 2) * sizeof *plan->first_of_column);
    for (Index t = 0; t < tiles; t++) plan->first_of_column[plan->columns[t] + 2]++;
    for (Index J = 0; J < target->blocks; J++) plan->first_of_column[J + 2] += plan->first_of_column[J + 1];
    for (Index I = 0; I < source->blocks; I++)
        for (Index t = plan->first[I]; t < plan->first[I + 1]; t++) {
            plan->rows[t] = I;
            plan->of_column[plan->first_of_column[plan->columns[t] + 1]++] = t;
            fill_tile(op, self, left, right, I, plan->columns[t], plan->entries + t * BLOCK * BLOCK);
        }
    for (Index i = 0; i < source->n; i++) mass += exp(source->h[i] + source->sums[i]);
    for (Index i = 0; i < source->n; i++)
        source_roots[source->order[i]] = sqrt(exp(source->h[i] + source->sums[i]) / mass);
    for (Index j = 0; j < target->n; j++)
        target_roots[target->order[j]] = sqrt(exp(target->h[j] + target->sums[j]) / mass);
    return isfinite(mass) && mass > 0;
}

FOR_EACH_PROCESSOR
static void add_columns_of_block(const float *restrict tile, const float *restrict y, float *restrict sums)
{
    for (int i = 0; i < BLOCK; i++)
        for (int j = 0; j < BLOCK; j++) sums[j] += y[i] * tile[i * BLOCK + j];
}

FOR_EACH_PROCESSOR
static void add_rows_of_block(const float *restrict tile, const float *restrict y, float *restrict sums)
{
    enum { WIDE = 16 };
    for (int i = 0; i < BLOCK; i++) {
        float lanes[WIDE];
        for (int k = 0; k < WIDE; k++) lanes[k] = tile[i * BLOCK + k] * y[k] + tile[i * BLOCK + WIDE + k] * y[WIDE + k];
        for (int half = WIDE / 2; half > 0; half /= 2)
            for (int k = 0; k < half; k++) lanes[k] += lanes[k + half];
        sums[i] += lanes[0];
    }
}

typedef struct {
    BlockPlan *plan;
    Index next;
} PlanPass;

static void take_columns(void *shared)
{
    PlanPass *pass = shared;
    BlockPlan *plan = pass->plan;
    for (Index J; (J = take_next(&pass->next)) < plan->target_blocks;) {
        float *sums = plan->right + J * BLOCK;
        memset(sums, 0, BLOCK * sizeof *sums);
        for (Index k = plan->first_of_column[J]; k < plan->first_of_column[J + 1]; k++) {
            Index t = plan->of_column[k];
            add_columns_of_block(plan->entries + t * BLOCK * BLOCK, plan->left + plan->rows[t] * BLOCK, sums);
        }
    }
}

static void take_rows(void *shared)
{
    PlanPass *pass = shared;
    BlockPlan *plan = pass->plan;
    for (Index I; (I = take_next(&pass->next)) < plan->source_blocks;) {
        float *sums = plan->left + I * BLOCK;
        memset(sums, 0, BLOCK * sizeof *sums);
        for (Index t = plan->first[I]; t < plan->first[I + 1]; t++)
            add_rows_of_block(plan->entries + t * BLOCK * BLOCK, plan->right + plan->columns[t] * BLOCK, sums);
    }
}

/* Put the product of the plan's transpose with y into its right side, and from there into `out` unless it is NULL. */
void columns_of_plan(BlockPlan *plan, const double *y, double *out)
{
    memset(plan->left, 0, (size_t)(plan->source_blocks * BLOCK) * sizeof *plan->left);
    for (Index i = 0; i < plan->n; i++) plan->left[i] = (float)y[plan->source_order[i]];
    PlanPass pass = {plan, 0};
    run_on_threads(take_columns, &pass, plan->threads);
    for (Index j = 0; out && j < plan->m; j++) out[plan->target_order[j]] = plan->right[j];
}

/* Put the product of the plan with its right side into out. */
void rows_of_plan(BlockPlan *plan, double *out)
{
    PlanPass pass = {plan, 0};
    run_on_threads(take_rows, &pass, plan->threads);
    for (Index i = 0; i < plan->n; i++) out[plan->source_order[i]] = plan->left[i];
}
