/* Marginals that have a price, with the maps of metaot/marginals.py: the best potentials, given those of the balanced
   problem, what the marginals lack, and what potentials are worth. All in units of eps. */

#include "core.h"

#include <float.h>
#include <math.h>
#include <string.h>

static const double FLAT = 1e-12;  /* relative slopes below it are rounding */
static const double BEYOND = 20;   /* how far beyond a bound a potential is still told from one that is farther */
enum { LEVELS = 24, TRUSTED = 4 }; /* levels that are tried, and those of them that Newton alone proposes */

double best_of(Price price, double exact)
{
    if (price.kind == KL_PRICE) return exact * (price.rho / (price.rho + 1));
    if (price.kind == TV_PRICE) return exact < -price.rho ? -price.rho : exact > price.rho ? price.rho : exact;
    return exact;
}

int has_bounds(const Operator *op)
{
    return op->source_price.kind == TV_PRICE || op->target_price.kind == TV_PRICE;
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

/* How fast the dual value rises with the level: by the mass that f asks for less what is sent; and how fast that falls. */
typedef struct {
    double asked, sent, fall;
} Slope;

static Slope slope_at(const Operator *op, const double *x, double level)
{
    Price source = op->source_price, target = op->target_price;
    const double *a = op->source->weights, *b = op->target->weights;
    Index n = op->source->count, m = op->target->count;
    double *line = op->line, moving = 0;
    Slope slope = {0, 0, 0};
    for (Index j = 0; j < m; j++) {
        double exact = op->exact[j] - level;
        line[j] = best_of(target, exact) - exact;
    }
    exponentials(m, line, line);
    for (Index j = 0; j < m; j++) {
        double sent = b[j] * line[j];
        slope.sent += sent;
        moving += line[j] != 1 ? sent : 0;
    }
    slope.fall = target.kind == TV_PRICE ? moving : target.kind == KL_PRICE ? slope.sent / (target.rho + 1) : 0;
    if (source.kind == KL_PRICE) {
        for (Index i = 0; i < n; i++) line[i] = -(x[i] + level) / source.rho;
        exponentials(n, line, line);
        slope.asked = inner_product(n, a, line);
        slope.fall += slope.asked / source.rho;
        return slope;
    }
    double above = source.kind == TV_PRICE ? source.rho - level : INFINITY, below = INFINITY;
    for (Index i = 0; i < n; i++) {
        slope.asked += x[i] < above ? a[i] : 0;
        below = x[i] < below ? x[i] : below;
    }
    if (source.kind == TV_PRICE && below + level < -source.rho) slope.asked = INFINITY;
    return slope;
}

/* Return the sign of a slope, zero where it is rounding. */
static int direction(Slope slope)
{
    double difference = slope.asked - slope.sent;
    if (fabs(difference) <= FLAT * fmin(slope.asked, slope.sent)) return 0;
    return difference > 0 ? 1 : -1;
}

/* The level of the highest dual value where a bound may hold it, by Newton's method between levels of both signs. What
   f asks for jumps where an atom reaches its bound: if the slope changes its sign there, that is the level. */
static double bounded_level(const Operator *op, const double *x)
{
    int source_has_bounds = op->source_price.kind == TV_PRICE;
    double rho = source_has_bounds ? op->source_price.rho : 0, tiny = 8 * DBL_EPSILON * (1 + rho);
    double low = -INFINITY, high = INFINITY, level = tiny;
    Slope slope = slope_at(op, x, level);
    int sign = direction(slope);
    if (sign <= 0) {
        slope = slope_at(op, x, level = -tiny);
        if ((sign = direction(slope)) >= 0) return 0;
    }
    for (int k = 0; k < LEVELS && sign; k++) {
        if (sign > 0) low = level;
        else high = level;
        double difference = slope.asked - slope.sent;
        double next = level + (difference > -slope.fall ? log1p(difference / slope.fall) : -INFINITY);
        if (!(next > low && next < high) || (k >= TRUSTED && k % 2)) {
            double reach = ldexp(1, 2 * (k + 1));
            next = low == -INFINITY ? high - reach : high == INFINITY ? low + reach : 0.5 * (low + high);
        }
        slope = slope_at(op, x, level = next);
        sign = direction(slope);
    }
    if (sign == 0) return level;
    double reached = INFINITY;
    for (Index i = 0; i < op->source->count && source_has_bounds; i++) {
        double at_bound = rho - x[i];
        if (at_bound > low && at_bound <= high && at_bound < reached) reached = at_bound;
    }
    return reached < INFINITY ? reached : high < INFINITY ? high : low;
}

/* The level by which to raise x, whose best balanced potential is `exact`, to raise the dual value most. */
static double best_level(const Operator *op, const double *x)
{
    Price source = op->source_price, target = op->target_price;
    if (has_bounds(op)) return bounded_level(op, x);
    double rate = source.kind == KL_PRICE ? 1 / source.rho : 0, other = target.kind == KL_PRICE ? 1 / (target.rho + 1) : 0;
    double asked = log_mass(op->source->count, op->source->weights, rate, x, op->line);
    double sent = log_mass(op->target->count, op->target->weights, other, op->exact, op->line);
    double level = (asked - sent) / (rate + other);
    return isfinite(level) ? level : 0;
}

/* Put the best g for x there, with `exact` that of the balanced problem, and the factors of its scalings. */
void price_columns(Operator *op, const double *x)
{
    Index m = op->target->count;
    op->level = best_level(op, x);
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
        double excess = ratio[i] - 1, f = x[i] + level;
        double share = price.kind != TV_PRICE ? 1 : excess < 0 ? price.rho - f : price.rho + f;
        error += side->weights[i] * fabs(excess) * fmin(fmax(share, 0), 1);
    }
    return error;
}

/* Make the best move of x of log a - log P 1, and return the error: `ratio` is P 1 over a. The move may lead beyond
   the bounds of a potential. */
double price_rows(Operator *op, const double *x, const double *ratio, double *residual)
{
    Index n = op->source->count;
    Price price = op->source_price;
    Price moves = price.kind == TV_PRICE ? (Price){TV_PRICE, price.rho + BEYOND} : price;
    for (Index i = 0; i < n; i++) {
        double f = x[i] + op->level;
        residual[i] = best_of(moves, f + residual[i]) - f;
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

/* Put x + level between the bounds of the source's potential. */
void put_between_bounds(const Operator *op, const double *x, double level, double *inside)
{
    Price price = op->source_price.kind == TV_PRICE ? op->source_price : (Price){EXACT_PRICE, INFINITY};
    for (Index i = 0; i < op->source->count; i++) inside[i] = best_of(price, x[i] + level);
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
