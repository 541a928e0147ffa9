/* Barycenters on the axes of one grid, with the iteration and the rules of metaot/averages/solver.py. */

#include "core.h"

#include <math.h>
#include <string.h>

enum { PLAIN = 3, EVERY = 5, FITS = 20, ALL_FITS = 60, PATIENCE = 10 };
static const double NEAR = 1e-3, NEARER = 3e-4, FARTHER = 1.5, SLOW = 0.6, RIGHT = 1e-9, FAIR = 0.1;

typedef struct {
    Average *average;
    Index n, count, known;    /* atoms; measures with a weight, and the atoms with mass of all of them */
    Support *supports, whole, uniform; /* of the measures; of the barycenter, whose weights change; the same, equal */
    Operator *ops, own;       /* from the measures to the barycenter, and from there to itself */
    double *shares, *point, *residual; /* weights; f on the supports, one after another, then log d, and their moves */
    double *g, *mean, *ahead, *line, *norm, *kept;
    double nearer, mark;      /* the error of the plans at which log d is fitted to them; that of the self-plan when it
                                 was last looked at */
    Index waiting;            /* steps since then with a small error of the plans */
    Path path;
} Search;

static Operator operator_of(const Search *search, const Support *source)
{
    const Costs *costs = search->average->costs;
    return (Operator){.costs = costs, .inverse_eps = 1 / search->average->eps, .source = source,
                      .target = &search->whole, .threads = 1, .source_price = {EXACT_PRICE, INFINITY},
                      .target_price = {EXACT_PRICE, INFINITY}};
}

/* Find the supports of all measures with a weight, and give the barycenter all atoms. */
static int take_measures(Search *search, Workspace *workspace)
{
    Average *average = search->average;
    Index n = search->n, most = average->count;
    Arena *arena = &workspace->supports;
    Index each = (Index)sizeof(double), supports = most * (Index)sizeof(Support) / each + 1;
    Index operators = most * (Index)sizeof(Operator) / each + 1;
    size_t bytes = (size_t)(3 * most + 5) * bytes_for(n) + bytes_for(most) + bytes_for(supports);
    if (!open_arena(arena, bytes + bytes_for(operators))) return 0;
    search->shares = take_numbers(arena, most);
    search->supports = (Support *)take_numbers(arena, supports);
    search->ops = (Operator *)take_numbers(arena, operators);
    search->count = search->known = 0;
    for (Index k = 0; k < most; k++) {
        if (!(average->weights[k] > 0)) continue;
        Support *support = search->supports + search->count;
        *support = take_support(arena, n);
        find_support(n, average->measures + k * n, 1, support);
        search->shares[search->count++] = average->weights[k];
        search->known += support->count;
    }
    search->whole = take_support(arena, n);
    for (Index j = 0; j < n; j++) search->whole.atoms[j] = j;
    search->whole.count = n;
    search->uniform = search->whole;
    search->uniform.weights = take_numbers(arena, n);
    search->uniform.logs = take_numbers(arena, n);
    for (Index j = 0; j < n; j++) search->uniform.weights[j] = search->whole.weights[j] = 1 / (double)n;
    return search->count > 0;
}

static int open_search(Search *search, Workspace *workspace)
{
    const Costs *costs = search->average->costs;
    Arena *arena = &workspace->work;
    Index n = search->n, all = search->known + n;
    size_t bytes = grid_bytes(costs) + (size_t)search->count * grid_bytes_beside(costs) + 5 * bytes_for(n);
    if (!open_arena(arena, bytes + 9 * bytes_for(all) + 2 * bytes_for(MEMORY * all))) return 0;
    search->own = operator_of(search, &search->uniform);
    if (!open_grid(&search->own, workspace, 0, NULL)) return 0;
    for (Index k = 0; k < search->count; k++) {
        search->ops[k] = operator_of(search, search->supports + k);
        if (!open_grid(search->ops + k, workspace, 0, &search->own)) return 0;
    }
    double **parts[] = {&search->point, &search->residual, &search->norm};
    for (int k = 0; k < 3; k++) *parts[k] = take_numbers(arena, all);
    double **lines[] = {&search->g, &search->mean, &search->ahead, &search->line, &search->kept};
    for (int k = 0; k < 5; k++) *lines[k] = take_numbers(arena, n);
    open_path(&search->path, arena, all);
    return 1;
}

/* Put the start into the point. */
static void take_point(Search *search)
{
    const Average *average = search->average;
    double *x = search->point;
    const Support *support = search->supports;
    for (Index k = 0; k < average->count; k++) {
        if (!(average->weights[k] > 0)) continue;
        for (Index i = 0; i < support->count; i++) *x++ = average->start[k * search->n + support->atoms[i]];
        support++;
    }
    memcpy(x, average->start_log_d, (size_t)search->n * sizeof *x);
}

/* Put d (K d) over the barycenter before d moves into `line`, log of it into `ahead`; take the self-plan's error. */
static void look_at_itself(Search *search)
{
    Index n = search->n;
    const double *log_d = search->point + search->known;
    double level = log((double)n);
    for (Index j = 0; j < n; j++) search->ahead[j] = log_d[j] + level;
    search->own.evaluate(&search->own, search->ahead, NULL);
    search->own.potential(&search->own, search->g);
    for (Index j = 0; j < n; j++) {
        search->ahead[j] = search->g[j] - search->mean[j];
        search->line[j] = -search->ahead[j];
        search->g[j] = log_d[j] - search->mean[j];
    }
    exponentials(n, search->g, search->g);
    exponentials(n, search->line, search->line);
    search->average->self_error = relative_l1_error(n, search->g, search->line);
}

/* Move log d to where the self-plan is right for these plans, until its error is the goal. */
static void fit_to_plans(Search *search, int moves, double goal)
{
    const double *error = &search->average->self_error, first = *error;
    double *log_d = search->point + search->known;
    memcpy(search->kept, log_d, (size_t)search->n * sizeof *log_d);
    for (; moves > 0 && *error > goal; moves--) {
        subtract_multiple(search->n, -FARTHER, search->ahead, log_d);
        look_at_itself(search);
    }
    if (*error <= first || *error <= FAIR) return;
    memcpy(log_d, search->kept, (size_t)search->n * sizeof *log_d); /* a kernel for which these moves are too far */
    look_at_itself(search);
}

/* Evaluate the point, after log d was fitted to its plans in so many moves. */
static void evaluate(Search *search, int fits)
{
    Average *average = search->average;
    Index n = search->n;
    const double *x = search->point, *log_d = x + search->known;
    double *residual = search->residual, *drift = residual + search->known, *log_alpha = average->log_alpha;
    memset(search->mean, 0, (size_t)n * sizeof *x);
    for (Index k = 0; k < search->count; x += search->supports[k++].count) {
        search->ops[k].evaluate(search->ops + k, x, NULL);
        search->ops[k].potential(search->ops + k, search->g);
        subtract_multiple(n, -search->shares[k], search->g, search->mean);
    }
    int moves = average->debiased && !average->settled;
    if (moves) look_at_itself(search);
    if (moves && fits) fit_to_plans(search, fits, RIGHT);
    for (Index j = 0; j < n; j++) {
        drift[j] = moves ? 0.5 * search->ahead[j] : 0;
        log_alpha[j] = log_d[j] + drift[j] - search->mean[j];
    }
    exponentials(n, log_alpha, search->whole.weights);
    average->error = 0;
    x = search->point;
    for (Index k = 0; k < search->count; x += search->supports[k].count, residual += search->supports[k++].count)
        average->error += search->shares[k] * finish_on_grid(search->ops + k, x, residual);
}

/* Put the weights of all moves in the sizes of residuals. */
static void weigh(Search *search)
{
    double *norm = search->norm, mass = total(search->n, search->whole.weights);
    for (Index k = 0; k < search->count; k++)
        for (Index i = 0; i < search->supports[k].count; i++)
            *norm++ = search->shares[k] * search->supports[k].weights[i];
    for (Index j = 0; j < search->n; j++)
        *norm++ = search->average->debiased ? search->whole.weights[j] / mass : 0;
    weigh_path(&search->path, search->norm);
}

/* Have log d settle where, fitted to plans that are nearly right, it is still farther off than they are, and where its
   error falls slowly later; return whether it did. It is then fitted from the uniform measure, so that how ragged it is
   depends on the plans alone. Elsewhere nothing changes. */
static int settles(Search *search)
{
    Average *average = search->average;
    double now = average->self_error, *log_d = search->point + search->known;
    if (average->settled) return 0;
    search->waiting += average->error <= NEAR;
    int slow = search->waiting > PATIENCE && now > SLOW * search->mark, tried = average->error <= search->nearer;
    if (search->waiting > PATIENCE || tried) {
        search->mark = now;
        search->waiting = 0;
    }
    if (!tried && !slow) return 0;
    search->nearer = -1;
    fit_to_plans(search, FITS, average->error);
    average->settled = slow || !(average->self_error <= average->error);
    if (!average->settled) {
        memcpy(log_d, search->kept, (size_t)search->n * sizeof *log_d);
        average->self_error = now;
        return 0;
    }
    for (Index j = 0; j < search->n; j++) log_d[j] = -log((double)search->n);
    look_at_itself(search);
    fit_to_plans(search, ALL_FITS, RIGHT);
    return 1;
}

static Outcome iterate(Search *search, Limits limits)
{
    Average *average = search->average;
    Outcome outcome = {INFINITY, 0};
    Index all = search->known + search->n;
    search->nearer = NEARER;
    search->mark = INFINITY;
    search->waiting = 0;
    start_path(&search->path, average->settled ? search->known : all, search->norm);
    evaluate(search, FITS);
    for (;; outcome.steps++) {
        outcome.error = average->error;
        if (!average->settled && !(average->self_error <= outcome.error)) outcome.error = average->self_error;
        if (!(outcome.error > limits.tol) || outcome.steps >= limits.max_steps) return outcome;
        if (outcome.steps >= PLAIN) {
            if (outcome.steps % EVERY == 0 || outcome.steps == PLAIN) weigh(search);
            double rest = average->settled ? 0 : average->self_error;
            if (settles(search)) /* from here on only the plans move */
                start_path(&search->path, search->known, search->norm);
            else
                next_point(&search->path, search->point, search->residual, average->error + rest);
        } else {
            plain_step(all, search->point, search->residual);
        }
        evaluate(search, 0);
    }
}

/* Put what was found on all atoms. */
static int extend(Search *search)
{
    Average *average = search->average;
    Index n = search->n, active = 0;
    double *x = search->point, *drift = search->residual + search->known;
    if (average->debiased && average->settled) look_at_itself(search);
    for (Index k = 0; k < average->count; k++) {
        double *f = average->f + k * n, *g = average->g + k * n;
        memset(f, 0, (size_t)n * sizeof *f);
        memset(g, 0, (size_t)n * sizeof *g);
        if (!(average->weights[k] > 0)) continue;
        Operator *op = search->ops + active;
        finish_on_grid(op, x, search->residual);
        if (!op->extend(op, x, f, g)) return 0;
        x += search->supports[active++].count;
    }
    for (Index j = 0; j < n; j++) average->log_d[j] = x[j] + drift[j];
    return 1;
}

/* Find a barycenter; return whether there is enough memory. */
int find_barycenter(Workspace *workspace, Average *average, Limits limits, Outcome *outcome)
{
    Search search = {.average = average, .n = average->costs->n};
    if (!take_measures(&search, workspace) || !open_search(&search, workspace)) return 0;
    take_point(&search);
    average->settled = average->settled || !average->debiased;
    average->self_error = 0;
    weigh(&search);
    *outcome = iterate(&search, limits);
    return extend(&search);
}
