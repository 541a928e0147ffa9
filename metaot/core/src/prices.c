/* Marginals that have a price, with the maps of metaot/marginals.py: the best potentials, given those of the balanced
   problem, what the marginals lack, and what potentials are worth. All in units of eps. */

#include "core.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const double FLAT = 1e-12; /* relative slopes below it are rounding */
static const double WIDER = 100; /* how far a level may be beyond all potentials and prices */
enum { BISECTIONS = 60 };

double best_of(Price price, double exact)
{
    if (price.kind == KL_PRICE) return exact * (price.rho / (price.rho + 1));
    if (price.kind == TV_PRICE) return exact < -price.rho ? -price.rho : exact > price.rho ? price.rho : exact;
    return exact;
}

static double worth(Price price, double f)
{
    if (price.kind == KL_PRICE) return -price.rho * expm1(-f / price.rho);
    if (price.kind == TV_PRICE) return f < price.rho ? f : price.rho;
    return f;
}

size_t prices_bytes(Index n, Index m)
{
    return 3 * bytes_for(m) + 2 * bytes_for(n > m ? n : m);
}

void open_prices(Operator *op, Arena *arena)
{
    Index n = op->source->count, m = op->target->count, most = n > m ? n : m;
    double **parts[] = {&op->exact, &op->best, &op->factors};
    for (int k = 0; k < 3; k++) *parts[k] = take_numbers(arena, m);
    op->line = take_numbers(arena, most);
    op->ratio = take_numbers(arena, most);
}

/* The logarithm of the sum of weights times e^(-rate x). */
static double log_mass(Index count, const double *weights, double rate, const double *x, double *line)
{
    if (rate == 0) return log(total(count, weights));
    for (Index i = 0; i < count; i++) line[i] = -rate * x[i];
    double top = range_of(count, line).most;
    shifted_exponentials(count, line, top, line);
    return top + log(inner_product(count, weights, line));
}

/* The level by which to raise x, whose best balanced potential is `exact`, in closed form; zero where there is none. */
static double smooth_level(const Operator *op, const double *x)
{
    Price source = op->source_price, target = op->target_price;
    double rate = source.kind == KL_PRICE ? 1 / source.rho : 0, other = target.kind == KL_PRICE ? 1 / (target.rho + 1) : 0;
    if (source.kind == TV_PRICE || target.kind == TV_PRICE || rate + other == 0) return 0;
    double asked = log_mass(op->source->count, op->source->weights, rate, x, op->line);
    double sent = log_mass(op->target->count, op->target->weights, other, op->exact, op->line);
    double level = (asked - sent) / (rate + other);
    return isfinite(level) ? level : 0;
}

/* Put the best g for x there, with `exact` that of the balanced problem, and the factors of its scalings. */
void price_columns(Operator *op, const double *x)
{
    Index m = op->target->count;
    op->level = smooth_level(op, x);
    for (Index j = 0; j < m; j++) {
        double exact = op->exact[j] - op->level, best = best_of(op->target_price, exact);
        op->best[j] = best;
        op->factors[j] = best - exact;
    }
    exponentials(m, op->factors, op->factors);
    op->mass = inner_product(m, op->target->weights, op->factors);
}

/* How far a marginal is from what the potential x + level asks for; `ratio` is the marginal over the weights. */
static double marginal_error(Price price, const Support *side, const double *x, double level, const double *ratio,
                             double *line)
{
    Index n = side->count;
    double error = 0;
    if (price.kind == KL_PRICE) {
        for (Index i = 0; i < n; i++) line[i] = -(x[i] + level) / price.rho;
        exponentials(n, line, line);
        for (Index i = 0; i < n; i++) error += side->weights[i] * fabs(ratio[i] - line[i]);
        return error;
    }
    for (Index i = 0; i < n; i++) {
        double excess = ratio[i] - 1, share = price.kind == TV_PRICE ? x[i] / price.rho : 0;
        error += side->weights[i] * (fabs(excess) + share * excess);
    }
    return error;
}

/* Make the best move of x of log a - log P 1, and return the error: `ratio` is P 1 over a. */
double price_rows(Operator *op, const double *x, const double *ratio, double *residual)
{
    Index n = op->source->count;
    Price price = op->source_price;
    for (Index i = 0; i < n; i++) {
        double f = x[i] + op->level;
        residual[i] = best_of(price, f + residual[i]) - f;
    }
    return marginal_error(price, op->source, x, op->level, ratio, op->line) / (op->mass > DBL_MIN ? op->mass : DBL_MIN);
}

/* Of a measure to itself, where `exact` is the best potential for x of the balanced problem: put half of the way to the
   best one into residual, and P 1 over a into ratio; return the error of both marginals. */
double price_half_way(Price price, const Support *side, const double *x, const double *exact, double *ratio,
                      double *residual)
{
    Index n = side->count;
    for (Index i = 0; i < n; i++) ratio[i] = x[i] - exact[i];
    exponentials(n, ratio, ratio);
    double mass = inner_product(n, side->weights, ratio), error = 2 * marginal_error(price, side, x, 0, ratio, residual);
    for (Index i = 0; i < n; i++) residual[i] = 0.5 * (best_of(price, exact[i]) - x[i]);
    return error / (mass > DBL_MIN ? mass : DBL_MIN);
}

/* The dual value of x, which was evaluated last, but for a constant. */
double priced_value(const Operator *op, const double *x)
{
    double value = -op->mass;
    for (Index i = 0; i < op->source->count; i++)
        value += op->source->weights[i] * worth(op->source_price, x[i] + op->level);
    for (Index j = 0; j < op->target->count; j++)
        value += op->target->weights[j] * worth(op->target_price, op->best[j]);
    return value;
}

void bound_point(Price price, Index count, double *x)
{
    if (price.kind != TV_PRICE) return;
    for (Index i = 0; i < count; i++) x[i] = best_of(price, x[i]);
}

/* How fast the dual value rises with the level there, relative to the mass; zero but for rounding where it is flat. */
static double slope(const Operator *op, const double *x, double level)
{
    Price source = op->source_price, target = op->target_price;
    double asked = 0, sent = 0;
    for (Index i = 0; i < op->source->count; i++) {
        double f = x[i] + level;
        if (source.kind == KL_PRICE) asked += op->source->weights[i] * exp(-f / source.rho);
        else if (source.kind != TV_PRICE || f < source.rho) asked += op->source->weights[i];
        if (source.kind == TV_PRICE && f < -source.rho) return INFINITY;
    }
    for (Index j = 0; j < op->target->count; j++) {
        double exact = op->exact[j] - level;
        sent += op->target->weights[j] * exp(best_of(target, exact) - exact);
    }
    double difference = asked - sent, larger = asked > sent ? asked : sent;
    return fabs(difference) > FLAT * larger ? difference : 0;
}

/* Raise x, which was evaluated, to the level that raises the dual value most, where there is no closed form. */
void raise_to_level(const Operator *op, double *x)
{
    double reach = largest_size(op->source->count, x) + largest_size(op->target->count, op->exact) + WIDER;
    if (op->source_price.kind != EXACT_PRICE) reach += op->source_price.rho;
    if (op->target_price.kind != EXACT_PRICE) reach += op->target_price.rho;
    if (!isfinite(reach)) return;
    double low = -reach, high = reach;
    for (int k = 0; k < BISECTIONS; k++) {
        double level = 0.5 * (low + high);
        double rate = slope(op, x, level);
        if (rate > 0) low = level;
        else high = level;
    }
    if (slope(op, x, 0) == 0) high = 0;
    for (Index i = 0; i < op->source->count; i++) x[i] += high;
    bound_point(op->source_price, op->source->count, x);
}

/* Bring potentials on atoms that are not in the support from those of the balanced problem to the best ones. */
void price_absent(Price price, Index count, const Support *support, double *f)
{
    Index next = 0;
    for (Index i = 0; i < count; i++) {
        if (next < support->count && support->atoms[next] == i) next++;
        else f[i] = best_of(price, f[i]);
    }
}

/* Put potentials, which are known on the atoms with mass, on all atoms. */
int extend_priced(const Operator *op, const double *x, const double *known_g, double *f, double *g)
{
    const Costs *costs = op->costs;
    const double *known = x;
    if (op->relaxed) {
        for (Index i = 0; i < op->source->count; i++) op->line[i] = x[i] + op->level;
        known = op->line;
    }
    int done = extend_potentials(costs, op->inverse_eps, op->a, op->b, op->source, op->target, known, known_g, f, g);
    if (op->relaxed) {
        price_absent(op->source_price, costs->n, op->source, f);
        price_absent(op->target_price, costs->m, op->target, g);
    }
    return done;
}
