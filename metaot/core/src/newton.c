/* Newton's method on the semi-dual, on the entries of the plan that are not zero in floating point.

   The unknown is the potential f of the smaller side, k atoms. Entry i of column j is exp(h_i - C_ij - top_j) of the
   largest one, with h = f + log a. Those below e^-38 add nothing to a sum, and stay so while f moves little: they are
   left out. At a large eps that is none of them, at a small one nearly all. Atoms come in panels of 8; a panel has the
   columns in which one of its entries counts. */

#include "core.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const double MARGIN = 38;        /* exponents this far below the largest one of a column add nothing */
static const double SLACK = 50;         /* how far f may move before entries are chosen anew */
static const double NEAR = 0.05;        /* L1 error below which Newton needs no help from Sinkhorn */
static const double FARTHEST = 24;      /* the first change of f that is tried is not longer: less than half of SLACK */
static const double RIDGES[] = {1e-13, 1e-6, 1e-3}; /* damping of a Hessian whose eigenvalues are at most one */
enum { RIDGE_COUNT = 3, HALVINGS = 12, DOUBLINGS = 12, STALLED_AFTER = 16 };

typedef struct {
    const Costs *costs;
    double inverse_eps;
    const Support *rows, *columns; /* the smaller side, and the other one */
    Columns prepared;
    Index k, l, panels;
    Index *starts, *entries;       /* where the columns of each panel begin, and which these are */
    double *base, *tops, *reference; /* exponents relative to the tops, at the reference */
    double *row, *scratch;
} Plan;

typedef struct {
    double *f, *values, *totals, *marginal;
    double shift, error;
} State; /* a potential, the entries of its plan, the sums of columns before they were divided, and the marginal */

/* Choose the entries that count near f. */
static void choose_entries(Plan *plan, const double *f, double *exponents)
{
    Index k = plan->k, l = plan->l, next = 0;
    memcpy(plan->reference, f, (size_t)k * sizeof *f);
    for (Index j = 0; j < l; j++) plan->tops[j] = -INFINITY;
    for (Index e = k / LANES * LANES * l; e < plan->panels * LANES * l; e++) exponents[e] = -INFINITY;
    for (Index i = 0; i < k; i++) {
        double *lane = exponents + i / LANES * LANES * l + i % LANES, h = f[i] + plan->rows->logs[i];
        cost_row(plan->costs, plan->inverse_eps, plan->rows->atoms[i], &plan->prepared, plan->row);
        for (Index j = 0; j < l; j++) {
            double exponent = h - plan->row[j];
            lane[j * LANES] = exponent;
            plan->tops[j] = plan->tops[j] > exponent ? plan->tops[j] : exponent;
        }
    }
    for (Index p = 0; p < plan->panels; p++) {
        plan->starts[p] = next;
        for (Index j = 0; j < l; j++) {
            const double *block = exponents + (p * l + j) * LANES;
            double lowest = plan->tops[j] - (MARGIN + SLACK), most = block[0];
            for (int s = 1; s < LANES; s++) most = block[s] > most ? block[s] : most;
            if (!(most >= lowest)) continue;
            for (int s = 0; s < LANES; s++) plan->base[next * LANES + s] = block[s] - plan->tops[j];
            plan->entries[next++] = j;
        }
    }
    plan->starts[plan->panels] = next;
}

FOR_EACH_PROCESSOR
static void add_shifts(Index blocks, const double *restrict base, const double *restrict shifts, double *restrict out)
{
    for (Index e = 0; e < blocks; e++)
        for (int s = 0; s < LANES; s++) out[e * LANES + s] = base[e * LANES + s] + shifts[s];
}

FOR_EACH_PROCESSOR
static void add_to_totals(Index blocks, const double *restrict values, const Index *restrict columns,
                          double *restrict totals)
{
    for (Index e = 0; e < blocks; e++) {
        double sum = 0;
        for (int s = 0; s < LANES; s++) sum += values[e * LANES + s];
        totals[columns[e]] += sum;
    }
}

FOR_EACH_PROCESSOR
static void scale_blocks(Index blocks, const Index *restrict columns, const double *restrict factors,
                         double *restrict values, double *restrict marginal)
{
    double sums[LANES] = {0};
    for (Index e = 0; e < blocks; e++) {
        double factor = factors[columns[e]];
        for (int s = 0; s < LANES; s++) {
            values[e * LANES + s] *= factor;
            sums[s] += values[e * LANES + s];
        }
    }
    for (int s = 0; s < LANES; s++) marginal[s] = sums[s];
}

/* Return whether the entries that were chosen suffice for a potential; only differences count. */
static int reaches(const Plan *plan, const double *f)
{
    for (Index i = 0; i < plan->k; i++) plan->scratch[i] = f[i] - plan->reference[i];
    Range range = range_of(plan->k, plan->scratch);
    return range.most - range.least <= SLACK;
}

/* Fill a state with the plan of its f, of which the entries suffice. */
static void evaluate(const Plan *plan, State *state)
{
    double shifts[LANES];
    for (Index i = 0; i < plan->k; i++) plan->scratch[i] = state->f[i] - plan->reference[i];
    state->shift = range_of(plan->k, plan->scratch).most;
    memset(state->totals, 0, (size_t)plan->l * sizeof(double));
    for (Index p = 0; p < plan->panels; p++) {
        Index first = plan->starts[p], blocks = plan->starts[p + 1] - first;
        double *values = state->values + first * LANES;
        for (int s = 0; s < LANES; s++)
            shifts[s] = p * LANES + s < plan->k ? plan->scratch[p * LANES + s] - state->shift : 0;
        add_shifts(blocks, plan->base + first * LANES, shifts, values);
        exponentials(blocks * LANES, values, values);
        add_to_totals(blocks, values, plan->entries + first, state->totals);
    }
    double *factors = plan->row;
    for (Index j = 0; j < plan->l; j++) factors[j] = plan->columns->weights[j] / state->totals[j];
    for (Index p = 0; p < plan->panels; p++) {
        Index first = plan->starts[p];
        scale_blocks(plan->starts[p + 1] - first, plan->entries + first, factors, state->values + first * LANES,
                     state->marginal + p * LANES);
    }
    state->error = l1_distance(plan->k, state->marginal, plan->rows->weights);
}

/* Fill a state with the plan of its f, whatever that is. */
static void evaluate_anywhere(Plan *plan, State *state)
{
    if (!reaches(plan, state->f)) choose_entries(plan, state->f, state->values);
    evaluate(plan, state);
}

/* Put the best g for the f of a state there. */
static void best_g(const Plan *plan, const State *state, double *g)
{
    logarithms(plan->l, state->totals, g);
    for (Index j = 0; j < plan->l; j++) g[j] = -(plan->tops[j] + state->shift + g[j]);
}

static double dual_value(const Plan *plan, const State *state)
{
    best_g(plan, state, plan->row);
    return inner_product(plan->k, plan->rows->weights, state->f) +
           inner_product(plan->l, plan->columns->weights, plan->row);
}

/* How much the dual value rises between two states on the same entries, right to rounding of the rise itself. */
static double rise(const Plan *plan, const State *start, const State *end)
{
    double gain = 0, lift = end->shift - start->shift;
    for (Index i = 0; i < plan->k; i++) gain += plan->rows->weights[i] * (end->f[i] - start->f[i] - lift);
    for (Index j = 0; j < plan->l; j++) plan->row[j] = end->totals[j] / start->totals[j];
    logarithms(plan->l, plan->row, plan->row);
    return gain - inner_product(plan->l, plan->columns->weights, plan->row);
}

/* Move f to the best one for its g; rows that have next to nothing are summed as a whole. */
static void sinkhorn_step(Plan *plan, State *state)
{
    double *h = plan->scratch + 2 * (plan->panels + 2) * LANES;
    int prepared = 0;
    for (Index i = 0; i < plan->k; i++) {
        double ratio = state->marginal[i] / plan->rows->weights[i];
        if (ratio > 1e-6) {
            state->f[i] -= log(ratio);
            continue;
        }
        if (!prepared) {
            best_g(plan, state, h);
            for (Index j = 0; j < plan->l; j++) h[j] += plan->columns->logs[j];
            prepared = 1;
        }
        Index atom = plan->rows->atoms[i];
        state->f[i] = best_potential(plan->costs, plan->inverse_eps, atom, &plan->prepared, h, plan->row);
    }
    evaluate_anywhere(plan, state);
}

/* Return whether some row has next to none of its mass, or many times as much: there a parabola says nothing. */
static int has_far_rows(const Plan *plan, const State *state)
{
    for (Index i = 0; i < plan->k; i++) {
        double ratio = state->marginal[i] / plan->rows->weights[i];
        if (!(ratio > 0.1 && ratio < 10)) return 1;
    }
    return 0;
}

/* Put minus the Hessian, divided by sqrt(P 1) on both sides, into H, with one more eigenvalue one for constants. */
static void fill_hessian(const Plan *plan, const State *state, double *scaled, double *left, double *right, double *H)
{
    SumBlock *sum = best_sum_block();
    Index panel = plan->panels * LANES * LANES;
    double roots[2][LANES], sums[LANES][LANES], *factors = plan->row;
    for (Index j = 0; j < plan->l; j++) factors[j] = 1 / sqrt(plan->columns->weights[j]);
    for (Index p = 0; p < plan->panels; p++) {
        for (int s = 0; s < LANES; s++) {
            double mass = p * LANES + s < plan->k ? state->marginal[p * LANES + s] : 1;
            roots[0][s] = 1 / sqrt(mass > DBL_MIN ? mass : DBL_MIN);
        }
        for (Index e = plan->starts[p]; e < plan->starts[p + 1]; e++) {
            double factor = factors[plan->entries[e]];
            for (int s = 0; s < LANES; s++)
                scaled[e * LANES + s] = state->values[e * LANES + s] * (factor * roots[0][s]);
        }
    }
    for (Index p = 0; p < plan->panels; p++)
        for (Index q = p; q < plan->panels; q++) {
            Index e = plan->starts[p], f = plan->starts[q], count = 0;
            Index last = plan->starts[p + 1], other_last = plan->starts[q + 1];
            const double *first = scaled + e * LANES, *second = scaled + f * LANES;
            if (last - e == plan->l && other_last - f == plan->l) {
                count = plan->l;
            } else {
                while (e < last && f < other_last) {
                    if (plan->entries[e] == plan->entries[f]) {
                        memcpy(left + count * LANES, scaled + e++ * LANES, LANES * sizeof *left);
                        memcpy(right + count++ * LANES, scaled + f++ * LANES, LANES * sizeof *left);
                    } else if (plan->entries[e] < plan->entries[f]) {
                        e++;
                    } else {
                        f++;
                    }
                }
                first = left;
                second = right;
            }
            sum(count, first, second, *sums, LANES);
            double *block = H + q * panel + p * LANES * LANES;
            for (int t = 0; t < LANES; t++)
                for (int s = 0; s < LANES; s++) {
                    Index i = p * LANES + t, j = q * LANES + s;
                    double value = -sums[t][s] + (i == j);
                    if (i < plan->k && j < plan->k) value += sqrt(state->marginal[i]) * sqrt(state->marginal[j]);
                    block[t * LANES + s] = value;
                }
        }
}

/* Put the damped Newton direction there; return its size, infinity where there is none. */
static double damped_direction(const Plan *plan, const State *state, double ridge, const double *H, double *factor,
                               double *direction)
{
    Index n = plan->panels * LANES, panel = n * LANES;
    memcpy(factor, H, (size_t)(plan->panels * panel) * sizeof *H);
    for (Index i = 0; i < n; i++) factor[i / LANES * panel + i * LANES + i % LANES] += ridge;
    if (!factorise(factor, plan->panels)) return INFINITY;
    for (Index i = 0; i < n; i++) {
        double mass = i < plan->k ? state->marginal[i] : 1;
        direction[i] = i < plan->k ? (plan->rows->weights[i] - mass) / sqrt(mass > DBL_MIN ? mass : DBL_MIN) : 0;
    }
    solve_factorised(factor, plan->panels, direction);
    for (Index i = 0; i < plan->k; i++) {
        double mass = state->marginal[i];
        direction[i] /= sqrt(mass > DBL_MIN ? mass : DBL_MIN);
    }
    double size = largest_size(plan->k, direction);
    return isfinite(size) ? size : INFINITY;
}

typedef struct {
    Plan plan;
    State now, next;
    double *H, *factor, *direction, *origin, *scaled, *left, *right;
} Newton;

static void swap_states(Newton *newton)
{
    State other = newton->now;
    newton->now = newton->next;
    newton->next = other;
}

static void move(const Newton *newton, double length, double *f)
{
    for (Index i = 0; i < newton->plan.k; i++) f[i] = newton->origin[i] + length * newton->direction[i];
}

/* Go on in the same direction, twice as far each time, while the dual value rises: parts of a plan that hardly touch
   move freely until they do. */
static void expand(Newton *newton, double length)
{
    Plan *plan = &newton->plan;
    double value = dual_value(plan, &newton->now);
    for (int k = 0; k < DOUBLINGS; k++, length *= 2) {
        move(newton, 2 * length, newton->next.f);
        choose_entries(plan, newton->next.f, newton->next.values);
        evaluate(plan, &newton->next);
        double further = dual_value(plan, &newton->next);
        if (!(further > value)) break;
        value = further;
        swap_states(newton);
    }
    choose_entries(plan, newton->now.f, newton->now.values);
    evaluate(plan, &newton->now);
}

/* Try a direction, the whole of it or a part; return whether one raises the dual value as it should. */
static int search(Newton *newton, double size)
{
    Plan *plan = &newton->plan;
    State *now = &newton->now, *next = &newton->next;
    double expected = 0, length = size > FARTHEST ? FARTHEST / size : 1;
    memcpy(newton->origin, now->f, (size_t)plan->k * sizeof(double));
    for (Index i = 0; i < plan->k; i++)
        expected += (plan->rows->weights[i] - now->marginal[i]) * newton->direction[i];
    for (int k = 0; k < HALVINGS; k++, length /= 2) {
        move(newton, length, next->f);
        if (!reaches(plan, next->f)) {
            choose_entries(plan, now->f, next->values);
            evaluate(plan, now);
            if (!reaches(plan, next->f)) continue;
        }
        evaluate(plan, next);
        double gain = rise(plan, now, next);
        if (gain >= 0.25 * length * expected - 10 * DBL_EPSILON) {
            swap_states(newton);
            if (k == 0 && size > 1 && gain > 0.75 * length * expected) expand(newton, length);
            return 1;
        }
    }
    return 0;
}

/* Make a step of Sinkhorn's and one of Newton's; near the solution, of Newton's alone. Undamped almost always; a very
   long direction shows a plan that nearly falls apart, and damping lets the rest move. */
static void step(Newton *newton)
{
    if (!(newton->now.error < NEAR) || has_far_rows(&newton->plan, &newton->now))
        sinkhorn_step(&newton->plan, &newton->now);
    fill_hessian(&newton->plan, &newton->now, newton->scaled, newton->left, newton->right, newton->H);
    for (int k = 0; k < RIDGE_COUNT; k++) {
        double size = damped_direction(&newton->plan, &newton->now, RIDGES[k], newton->H, newton->factor,
                                       newton->direction);
        if (size < INFINITY && search(newton, size)) return;
    }
    if (newton->now.error < NEAR) sinkhorn_step(&newton->plan, &newton->now);
}

static State take_state(Arena *arena, const Plan *plan)
{
    Index padded = plan->panels * LANES;
    State state = {take_numbers(arena, padded), take_numbers(arena, padded * plan->l), take_numbers(arena, plan->l),
                   take_numbers(arena, padded), 0, 0};
    return state;
}

static int open_newton(Newton *newton, Workspace *workspace, const Instance *instance)
{
    Plan *plan = &newton->plan;
    Index k = workspace->source.count, l = workspace->target.count, panels = (k + LANES - 1) / LANES;
    Index padded = panels * LANES;
    size_t bytes = 3 * bytes_for(padded * l) + 2 * bytes_for(padded) + bytes_for(panels + 1) + bytes_for(panels * l);
    bytes += 2 * bytes_for(l) + bytes_for(2 * (padded + 2 * LANES) + l) + 2 * (2 * bytes_for(padded) + bytes_for(l));
    bytes += bytes_for(padded * l) + 2 * bytes_for(padded * padded) + 2 * bytes_for(padded) + 2 * bytes_for(LANES * l);
    bytes += columns_bytes(instance->costs, l);
    Arena *arena = &workspace->work;
    if (!open_arena(arena, bytes)) return 0;
    *plan = (Plan){.costs = instance->costs, .inverse_eps = 1 / instance->eps, .rows = &workspace->source,
                   .columns = &workspace->target, .k = k, .l = l, .panels = panels};
    plan->starts = take_indices(arena, panels + 1);
    plan->entries = take_indices(arena, panels * l);
    plan->base = take_numbers(arena, padded * l);
    plan->reference = take_numbers(arena, padded);
    plan->tops = take_numbers(arena, l);
    plan->row = take_numbers(arena, l > padded ? l : padded);
    plan->scratch = take_numbers(arena, 2 * (padded + 2 * LANES) + l);
    newton->now = take_state(arena, plan);
    newton->next = take_state(arena, plan);
    newton->scaled = take_numbers(arena, padded * l);
    newton->H = take_numbers(arena, padded * padded);
    newton->factor = take_numbers(arena, padded * padded);
    newton->direction = take_numbers(arena, padded);
    newton->origin = take_numbers(arena, padded);
    newton->left = take_numbers(arena, LANES * l);
    newton->right = take_numbers(arena, LANES * l);
    prepare_columns(&plan->prepared, instance->costs, l, workspace->target.atoms, arena);
    return 1;
}

/* Take the start, or zeros if there is none or its dual value is below theirs. */
static void begin(Newton *newton, const Instance *instance)
{
    Plan *plan = &newton->plan;
    State *now = &newton->now;
    const Support *rows = plan->rows;
    double largest = INFINITY;
    if (instance->start) {
        for (Index i = 0; i < plan->k; i++) now->f[i] = instance->start[rows->atoms[i]] / instance->eps;
        double mean = inner_product(plan->k, rows->weights, now->f);
        for (Index i = 0; i < plan->k; i++) now->f[i] -= mean;
        largest = largest_size(plan->k, now->f);
    }
    if (largest <= 1e8) {
        choose_entries(plan, now->f, now->values);
        evaluate(plan, now);
        if (now->error <= 0.01) return;
        double value = dual_value(plan, now);
        memcpy(newton->direction, now->f, (size_t)plan->k * sizeof(double));
        memset(now->f, 0, (size_t)plan->k * sizeof(double));
        choose_entries(plan, now->f, now->values);
        evaluate(plan, now);
        if (!(value >= dual_value(plan, now))) return;
        memcpy(now->f, newton->direction, (size_t)plan->k * sizeof(double));
    } else {
        memset(now->f, 0, (size_t)plan->k * sizeof(double));
    }
    choose_entries(plan, now->f, now->values);
    evaluate(plan, now);
}

/* Put f and the best g for it, in units of eps, on all atoms; along axes, first on those with mass only. */
static int store_potentials(const Plan *plan, const Instance *instance, const double *f)
{
    const Support *rows = plan->rows, *columns = plan->columns;
    if (instance->costs->kind != AXES)
        return extend_potentials(instance->costs, plan->inverse_eps, instance->a, instance->b, rows, columns, f,
                                 plan->row, instance->f, instance->g);
    for (Index i = 0; i < rows->count; i++) instance->f[rows->atoms[i]] = f[i];
    for (Index j = 0; j < columns->count; j++) instance->g[columns->atoms[j]] = plan->row[j];
    return 1;
}

/* Refine f of the source, the smaller side; stop where steps no longer help. */
static int refine(Workspace *workspace, const Instance *instance, Limits limits, Outcome *outcome)
{
    Newton newton;
    Index since = 0;
    double least = INFINITY;
    outcome->steps = 0;
    if (!open_newton(&newton, workspace, instance)) return 0;
    begin(&newton, instance);
    while (!(newton.now.error <= limits.tol) && outcome->steps < limits.max_steps && since < STALLED_AFTER) {
        if (isnan(newton.now.error)) break;
        since = newton.now.error < 0.9 * least ? 0 : since + 1;
        least = newton.now.error < least ? newton.now.error : least;
        step(&newton);
        outcome->steps++;
    }
    outcome->error = newton.now.error;
    int done = 1;
    if (isfinite(outcome->error)) {
        best_g(&newton.plan, &newton.now, newton.plan.row);
        done = store_potentials(&newton.plan, instance, newton.now.f);
    }
    finish_potentials(instance, outcome);
    return done;
}

int refine_by_newton(Workspace *workspace, const Instance *instance, Limits limits, Outcome *outcome)
{
    take_logs(&workspace->source);
    take_logs(&workspace->target);
    if (workspace->source.count <= workspace->target.count)
        return refine(workspace, instance, limits, outcome) && extend_along_axes(workspace, instance, outcome);
    Costs exchanged = transposed(instance->costs);
    Support other = workspace->source;
    workspace->source = workspace->target;
    workspace->target = other;
    Instance mirrored = {&exchanged, instance->b, instance->a, NULL, instance->eps, instance->g, instance->f, 1,
                         instance->target_price, instance->source_price, NULL, NULL, 0, 0};
    double *start = NULL;
    Arena arena = {0};
    if (instance->start) { /* the best g for f is the start on the other side */
        Columns columns;
        Index n = workspace->target.count, count = workspace->source.count;
        if (!open_arena(&arena, bytes_for(exchanged.n) + 2 * bytes_for(n) + columns_bytes(&exchanged, n))) return 0;
        prepare_columns(&columns, &exchanged, n, workspace->target.atoms, &arena);
        start = take_numbers(&arena, exchanged.n);
        double *h = take_numbers(&arena, n), *row = take_numbers(&arena, n);
        for (Index i = 0; i < n; i++)
            h[i] = instance->start[workspace->target.atoms[i]] / instance->eps + workspace->target.logs[i];
        for (Index j = 0; j < count; j++) {
            Index atom = workspace->source.atoms[j];
            start[atom] = instance->eps * best_potential(&exchanged, 1 / instance->eps, atom, &columns, h, row);
        }
        mirrored.start = start;
    }
    int done = refine(workspace, &mirrored, limits, outcome);
    close_arena(&arena);
    workspace->target = workspace->source;
    workspace->source = other;
    return done && extend_along_axes(workspace, instance, outcome);
}
