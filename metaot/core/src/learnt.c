/* The rounds of a network that reads costs: metaot/models/costs.py, and metaot/amortize/costs.py for what it reads.

   Choices and means are made in double precision, rounds in single precision. Sources run along rows, eight at a time;
   rows are filled up with sources that get nothing. */

#include "core.h"

#include <math.h>
#include <string.h>

enum { SINGLES = 8, AT_ONCE = 4, READ = 3, CACHE_LINE = 16 };

typedef float Eight __attribute__((vector_size(SINGLES * sizeof(float)), aligned(sizeof(float)), may_alias));
typedef int32_t Whole __attribute__((vector_size(SINGLES * sizeof(int32_t))));

static const double CONTRAST = 1e-9;
static const float LEAST = 1e-6f, EMPTY = 1e-4f, NOWHERE = -1e30f;

typedef struct {
    const float *value, *value_bias, *of_weight, *of_spread, *inner, *inner_bias, *outer, *outer_bias;
    float step, momentum;
} Round; /* its weights, matrices by rows */

typedef struct {
    Index n, stride, count; /* sources, the length of a row of them, and how many have mass */
    float *share, *logs, *base, *f, *change, *sent, *read, *values, *answer, *units;
} Sources; /* `read` has the features that rounds hand on, and then what a round sees */

typedef struct {
    float *weights, *logs, *scales; /* of targets; behind them there is room for a few, zeros */
} Level;

static Index stride_of(Index n)
{
    return (n + SINGLES - 1) / SINGLES * SINGLES;
}

Index learnt_numbers(const Learnt *net, Index rounds)
{
    Index w = net->width, h = net->hidden, count = 0;
    for (Index k = 0; k < rounds; k++) {
        Index read = READ + (k ? w : 0);
        count += w * read + w + w + h + h * (read + w) + h + (w + 1) * h + w + 1 + 2;
    }
    return count;
}

static const float *next_round(const Learnt *net, int first, const float *at, Round *round)
{
    Index w = net->width, h = net->hidden, read = READ + (first ? 0 : w);
    round->value = at, at += w * read;
    round->value_bias = at, at += w;
    round->of_weight = at, at += w;
    round->of_spread = at, at += h;
    round->inner = at, at += h * (read + w);
    round->inner_bias = at, at += h;
    round->outer = at, at += (w + 1) * h;
    round->outer_bias = at, at += w + 1;
    round->step = at[0], round->momentum = at[1];
    return at + 2;
}

/* Macros: a function that takes or returns such a vector would have another form for each processor. */
#define ALL_OF(x) ((Eight){x, x, x, x, x, x, x, x})
#define CHOSEN(mask, yes, no) ((Eight)(((mask) & (Whole)(yes)) | (~(mask) & (Whole)(no))))

static inline float sum_of(const Eight *sums)
{
    const float *lanes = (const float *)sums;
    return ((lanes[0] + lanes[4]) + (lanes[1] + lanes[5])) + ((lanes[2] + lanes[6]) + (lanes[3] + lanes[7]));
}

/* e^(x - top) in place, for x <= top, to a few units in the last place; zero where it is too small to count. */
static inline void exponentials_of_lanes(float *x, float top)
{
    const float round = 12582912.0f; /* what is added to it has no fraction */
    Eight z = *(Eight *)x - top, bounded = CHOSEN(z < -50.0f, ALL_OF(-50.0f), z), k = (bounded * 1.44269504f + round) - round;
    Eight r = (bounded - k * 0.693359375f) + k * 2.12194440e-4f, p = ALL_OF(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    Whole power = (__builtin_convertvector(k, Whole) + 127) << 23;
    *(Eight *)x = (Eight)(~(z < -50.0f) & (Whole)(p * (Eight)power));
}

/* How the mass of a target is shared among the sources, up to the factor that is returned; `sent` grows by it. */
FOR_EACH_PROCESSOR
static float share_target(Index stride, const float *restrict base, const float *restrict costs, float cooler,
                          float weight, float *restrict plan, float *restrict sent)
{
    Eight tops = ALL_OF(NOWHERE), sums = ALL_OF(0);
    for (Index i = 0; i < stride; i += SINGLES) {
        Eight x = *(const Eight *)(base + i) - *(const Eight *)(costs + i) * cooler;
        *(Eight *)(plan + i) = x;
        tops = CHOSEN(x > tops, x, tops);
    }
    float top = tops[0];
    for (int l = 1; l < SINGLES; l++) top = tops[l] > top ? tops[l] : top;
    for (Index i = 0; i < stride; i += SINGLES) {
        exponentials_of_lanes(plan + i, top);
        sums += *(Eight *)(plan + i);
    }
    float scale = 1 / sum_of(&sums);
    for (Index i = 0; i < stride; i += SINGLES) *(Eight *)(sent + i) += *(Eight *)(plan + i) * (weight * scale);
    return scale;
}

/* What four targets hear of one value, and what they answer: `weights` and `scales` of them, `own` of their logarithms. */
static inline void pass_one_on(Index stride, const float *plan, const float *value, const float *weights,
                               const float *scales, const float *logs, float own, float *answer)
{
    const float *p0 = plan, *p1 = plan + stride, *p2 = p1 + stride, *p3 = p2 + stride;
    Eight s0 = ALL_OF(0), s1 = s0, s2 = s0, s3 = s0;
    for (Index i = 0; i < stride; i += SINGLES) {
        Eight v = *(const Eight *)(value + i);
        s0 += v * *(const Eight *)(p0 + i);
        s1 += v * *(const Eight *)(p1 + i);
        s2 += v * *(const Eight *)(p2 + i);
        s3 += v * *(const Eight *)(p3 + i);
    }
    float heard[AT_ONCE] = {sum_of(&s0), sum_of(&s1), sum_of(&s2), sum_of(&s3)};
    for (int t = 0; t < AT_ONCE; t++) {
        float h = heard[t] * scales[t] + logs[t] * own;
        heard[t] = (h > 0 ? h : 0) * weights[t] * scales[t];
    }
    for (Index i = 0; i < stride; i += SINGLES)
        *(Eight *)(answer + i) += heard[0] * *(const Eight *)(p0 + i) + heard[1] * *(const Eight *)(p1 + i) +
                                  heard[2] * *(const Eight *)(p2 + i) + heard[3] * *(const Eight *)(p3 + i);
}

FOR_EACH_PROCESSOR
static void pass_on(Index stride, Index width, Index targets, const float *restrict plan, const float *restrict values,
                    const float *restrict weights, const float *restrict scales, const float *restrict logs,
                    const float *restrict of_weight, float *restrict answer)
{
    for (Index j = 0; j < targets; j += AT_ONCE)
        for (Index k = 0; k < width; k++)
            pass_one_on(stride, plan + j * stride, values + k * stride, weights + j, scales + j, logs + j,
                        of_weight[k], answer + k * stride);
}

/* out = W x + bias + level of_level, not below zero if `rectified`, for x of `inputs` rows of sources. */
FOR_EACH_PROCESSOR
static void linear(Index stride, Index outputs, Index inputs, const float *restrict W, const float *restrict bias,
                   const float *restrict x, const float *restrict of_level, float level, int rectified,
                   float *restrict out)
{
    for (Index i = 0; i < stride; i += SINGLES)
        for (Index o = 0; o < outputs; o++) {
            Eight sum = ALL_OF(bias[o] + (of_level ? of_level[o] * level : 0));
            for (Index k = 0; k < inputs; k++) sum += W[o * inputs + k] * *(const Eight *)(x + k * stride + i);
            *(Eight *)(out + o * stride + i) = rectified ? CHOSEN(sum > 0, sum, ALL_OF(0)) : sum;
        }
}

/* One round on q targets: costs and plan, rows of sources for each. */
static void make_round(const Learnt *net, const Round *round, int first, float T, float spread, Sources *s, Index q,
                       const float *costs, const Level *level, float *plan)
{
    Index w = net->width, h = net->hidden, stride = s->stride, inherited = first ? 0 : w, read = READ + inherited;
    float cooler = 1 / T, count = (float)s->count;
    for (Index i = 0; i < s->n; i++) s->base[i] = s->f[i] * cooler + s->logs[i];
    memset(s->sent, 0, (size_t)stride * sizeof(float));
    memset(plan + q * stride, 0, (size_t)(AT_ONCE * stride) * sizeof(float));
    for (Index j = 0; j < q; j++)
        level->scales[j] = share_target(stride, s->base, costs + j * stride, cooler, level->weights[j],
                                        plan + j * stride, s->sent);
    float *seen = s->read + (w - inherited) * stride; /* the features, and behind them the three of this round */
    float *error = s->read + w * stride, *missing = error + stride;
    for (Index i = 0; i < stride; i++) {
        s->sent[i] = s->sent[i] * (count / s->share[i]) + EMPTY;
        error[i] = logf(s->sent[i]);
        missing[i] = s->share[i] * (s->sent[i] - 1);
    }
    memcpy(missing + stride, s->logs, (size_t)stride * sizeof(float));
    linear(stride, w, read, round->value, round->value_bias, seen, NULL, 0, 0, s->values);
    memset(s->answer, 0, (size_t)(w * stride) * sizeof(float));
    pass_on(stride, w, q, plan, s->values, level->weights, level->scales, level->logs, round->of_weight, s->answer);
    for (Index i = 0; i < stride; i++) {
        float factor = count / (s->share[i] * s->sent[i]);
        for (Index k = 0; k < w; k++) s->answer[k * stride + i] *= factor;
    }
    /* of what was read and the answers, which lie behind each other */
    linear(stride, h, read + w, round->inner, round->inner_bias, seen, round->of_spread, spread, 1, s->units);
    float *out = s->values; /* w + 1 rows */
    linear(stride, w + 1, h, round->outer, round->outer_bias, s->units, NULL, 0, 0, out);
    for (Index i = 0; i < stride; i++) {
        float change = T * (out[w * stride + i] - round->step * error[i]);
        s->change[i] = first ? change : change + round->momentum * s->change[i];
        s->f[i] += s->change[i];
    }
    for (Index i = 0; i < w * stride; i++) s->read[i] = first ? out[i] : s->read[i] + out[i];
}

/* The heaviest atoms in falling order; 0 if equal weights would have to be told apart. */
static int take_heaviest(Index count, const double *weights, Index chosen, double *sorted, int64_t *order, Arena *room,
                         int64_t *out)
{
    memcpy(sorted, weights, (size_t)count * sizeof(double));
    sort_row(count, 0, sorted, order, room);
    for (Index k = 0; k < chosen; k++) out[k] = order[count - 1 - k];
    for (Index k = 0; k < chosen && k < count - 1; k++)
        if (!(sorted[count - 1 - k] > sorted[count - 2 - k])) return 0;
    return 1;
}

/* Put the targets of each level in the order of the atoms, in which costs are read quickest. `order` is room. */
static void order_levels(const Learnt *net, Index m, const int64_t *heaviest, int64_t *order, int64_t *targets)
{
    Index q = net->counts[net->levels - 1], count = 0;
    for (Index j = 0; j < m; j++) order[j] = q;
    for (Index k = 0; k < q; k++) order[heaviest[k]] = k;
    for (Index level = 0, begin = 0; level < net->levels; begin = net->counts[level++])
        for (Index j = 0; j < m; j++)
            if (order[j] >= begin && order[j] < net->counts[level]) targets[count++] = j;
}

/* Which of the first targets is nearest to each target, by costs from some sources, `rows` of m; `middle` are those of
   the first targets, times -2. */
FOR_EACH_PROCESSOR
static void find_cells(Index m, Index rows, Index cells, const double *restrict R, const double *restrict middle,
                       const double *restrict sizes, Index *restrict near)
{
    for (Index j = 0; j < m; j += LANES) {
        double best[LANES];
        Index at[LANES] = {0}, count = m - j < LANES ? m - j : LANES;
        for (Index l = 0; l < LANES; l++) best[l] = INFINITY;
        for (Index c = 0; c < cells; c++) {
            double size = sizes[c], d[LANES];
            Four low = {size, size, size, size}, high = low;
            for (Index r = 0; r < rows; r++) {
                double factor = middle[c * rows + r];
                Four left, right;
                memcpy(&left, R + r * m + j, sizeof left);
                memcpy(&right, R + r * m + j + 4, sizeof right);
                low += factor * left;
                high += factor * right;
            }
            memcpy(d, &low, sizeof low);
            memcpy(d + 4, &high, sizeof high);
            for (Index l = 0; l < LANES; l++) {
                at[l] = d[l] < best[l] ? c : at[l];
                best[l] = d[l] < best[l] ? d[l] : best[l];
            }
        }
        for (Index l = 0; l < count; l++) near[j + l] = at[l];
    }
}

/* Costs from some sources without means, and the cell of each target; `sizes` has room for a row and for the cells.
   Return 0 where a cost is infinite. */
static int divide_targets(const LearntProblem *p, Index rows, const int64_t *sources, Index cells,
                           const int64_t *targets, double *R, double *middle, double *sizes, Index *near)
{
    double *mean = sizes + cells, part = 1 / (double)rows;
    for (Index j = 0; j < p->m; j++) mean[j] = 0;
    for (Index r = 0; r < rows; r++)
        for (Index j = 0; j < p->m; j++) mean[j] += part * p->C[sources[r] * p->m + j];
    double all = 0, check = 0;
    for (Index c = 0; c < cells; c++) sizes[c] = 0;
    for (Index r = 0; r < rows; r++) {
        double *row = R + r * p->m, of_row = 0;
        for (Index j = 0; j < p->m; j++) of_row += row[j] = p->C[sources[r] * p->m + j] - mean[j];
        double of_each = of_row / (double)p->m;
        for (Index j = 0; j < p->m; j++) row[j] -= of_each;
        check += of_row;
        for (Index c = 0; c < cells; c++) {
            middle[c * rows + r] = -2 * row[targets[c]];
            sizes[c] += row[targets[c]] * row[targets[c]];
        }
    }
    for (Index c = 0; c < cells; c++) all += sizes[c];
    for (Index c = 0; c < cells; c++) sizes[c] += CONTRAST * all / (double)cells * (double)c;
    find_cells(p->m, rows, cells, R, middle, sizes, near);
    return isfinite(check);
}

/* Share the mass of each cell among the first q targets in it. */
static void gather_mass(const LearntProblem *p, Index cells, const Index *near, const int64_t *targets, Index q,
                        double *mass, const Level *level)
{
    double *own = mass + cells, sum = 0;
    for (Index c = 0; c < 2 * cells; c++) mass[c] = 0;
    for (Index j = 0; j < p->m; j++) mass[near[j]] += p->b[j];
    for (Index k = 0; k < q; k++) own[near[targets[k]]] += p->b[targets[k]];
    for (Index k = 0; k < q; k++) sum += p->b[targets[k]] * mass[near[targets[k]]] / own[near[targets[k]]];
    for (Index k = 0; k < q; k++) {
        double weight = p->b[targets[k]] * mass[near[targets[k]]] / own[near[targets[k]]] / sum;
        float share = (float)(weight * (double)q);
        level->weights[k] = (float)weight;
        level->logs[k] = logf(share > EMPTY ? share : EMPTY);
    }
    for (Index k = q; k < q + AT_ONCE; k++) level->weights[k] = level->logs[k] = level->scales[k] = 0;
}

/* Costs to the chosen targets, q rows of sources without means in units of eps, and the means that f contains. */
FOR_EACH_PROCESSOR
static double remove_means(const LearntProblem *p, Index q, const int64_t *targets, Index first, const float *weights,
                           double *D, double *means, double *offset, Index stride, float *costs)
{
    double inverse = 1 / p->eps, middle = 0, check = 0;
    for (Index k = 0; k < q; k++) means[k] = 0;
    for (Index i = 0; i < p->n; i++) {
        const double *row = p->C + i * p->m;
        double *to = D + i * q, mean = 0;
        for (Index k = 0; k < q; k++) to[k] = row[targets[k]];
        for (Index k = 0; k < q; k++) means[k] += p->a[i] * to[k];
        for (Index k = 0; k < first; k++) mean += (double)weights[k] * to[k];
        offset[i] = mean;
        middle += p->a[i] * mean;
    }
    for (Index i = 0; i < p->n; i++) offset[i] -= middle;
    for (Index begin = 0; begin < p->n; begin += CACHE_LINE) {
        Index end = begin + CACHE_LINE < p->n ? begin + CACHE_LINE : p->n;
        for (Index k = 0; k < q; k++)
            for (Index i = begin; i < end; i++)
                costs[k * stride + i] = (float)((D[i * q + k] - means[k] - offset[i]) * inverse);
    }
    for (Index k = 0; k < q; k++) check += means[k];
    return check;
}

static float spread_of(const LearntProblem *p, Index first, Index stride, const float *costs, const float *weights)
{
    double spread = 0;
    for (Index k = 0; k < first; k++) {
        double mean = 0;
        for (Index i = 0; i < p->n; i++) mean += p->a[i] * fabsf(costs[k * stride + i]);
        spread += weights[k] * mean;
    }
    return logf(spread > LEAST ? (float)spread : LEAST);
}

static float *take_singles(Arena *arena, Index count)
{
    return (float *)take_numbers(arena, count / 2 + SINGLES);
}

static Sources open_sources(const LearntProblem *p, const Learnt *net, Arena *arena)
{
    Index stride = stride_of(p->n), w = net->width;
    Sources s = {.n = p->n, .stride = stride};
    float **rows[] = {&s.share, &s.logs, &s.base, &s.f, &s.change, &s.sent};
    for (int k = 0; k < 6; k++) {
        *rows[k] = take_singles(arena, stride);
        memset(*rows[k], 0, (size_t)stride * sizeof(float));
    }
    s.read = take_singles(arena, (2 * w + READ) * stride);
    s.answer = s.read + (w + READ) * stride;
    s.values = take_singles(arena, (w + 1) * stride);
    s.units = take_singles(arena, net->hidden * stride);
    for (Index i = 0; i < p->n; i++) s.count += p->a[i] > 0;
    for (Index i = 0; i < stride; i++) {
        float share = i < p->n ? (float)(p->a[i] * (double)s.count) : 1.0f;
        s.share[i] = share > LEAST ? share : LEAST;
        s.logs[i] = logf(s.share[i]);
        s.base[i] = NOWHERE;
    }
    return s;
}

size_t learnt_bytes(const Learnt *net, Index n, Index m)
{
    Index q = net->counts[net->levels - 1], stride = stride_of(n), w = net->width;
    size_t singles = bytes_for((2 * q + AT_ONCE) * stride) + bytes_for((3 * w + net->hidden + 16) * stride) + bytes_for(3 * q);
    size_t doubles = bytes_for(n * q) + bytes_for(net->rows * m) + bytes_for((net->rows + 3) * net->cells) +
                     bytes_for(2 * (n + m)) + bytes_for(q + n + m);
    return singles + doubles + bytes_for(n + 3 * m + 2 * q + net->rows) + 40 * bytes_for(2 * SINGLES);
}

/* Put f into its place; return 0 where equal weights or forbidden pairs ask for the longer way, in torch. */
int learnt_potential(const Learnt *net, LearntProblem *p, Arena *room, Arena *arena)
{
    arena->used = 0;
    Index n = p->n, m = p->m, levels = net->levels, q = net->counts[levels - 1], first = net->counts[0];
    Index rows = net->rows < n ? net->rows : n, cells = net->cells < q ? net->cells : q, stride = stride_of(n);
    double *sorted = take_numbers(arena, n > m ? n : m);
    int64_t *order = (int64_t *)take_indices(arena, n > m ? n : m);
    int64_t *heaviest = (int64_t *)take_indices(arena, q), *sources = (int64_t *)take_indices(arena, rows);
    int64_t *targets = (int64_t *)take_indices(arena, q);
    if (!take_heaviest(n, p->a, rows, sorted, order, room, sources)) return 0;
    if (!take_heaviest(m, p->b, q, sorted, order, room, heaviest)) return 0;
    Index *near = take_indices(arena, m);
    double *R = take_numbers(arena, rows * m), *middle = take_numbers(arena, rows * cells);
    double *mass = take_numbers(arena, 2 * cells), *sizes = take_numbers(arena, cells + m);
    order_levels(net, m, heaviest, order, targets);
    if (!divide_targets(p, rows, sources, cells, heaviest, R, middle, sizes, near)) return 0;
    Level level = {take_singles(arena, q), take_singles(arena, q), take_singles(arena, q)};
    float *costs = take_singles(arena, q * stride), *plan = take_singles(arena, (q + AT_ONCE) * stride);
    double *D = take_numbers(arena, n * q), *means = take_numbers(arena, q), *offset = take_numbers(arena, n);
    memset(costs, 0, (size_t)(q * stride) * sizeof(float));
    gather_mass(p, cells, near, targets, first, mass, &level);
    if (!isfinite(remove_means(p, q, targets, first, level.weights, D, means, offset, stride, costs))) return 0;
    float spread = spread_of(p, first, stride, costs, level.weights);
    Sources s = open_sources(p, net, arena);
    const float *at = net->weights, *temperatures = net->temperatures;
    Index done = 0;
    for (Index at_level = 0; at_level < levels; at_level++) {
        Index count = net->counts[at_level];
        if (at_level) gather_mass(p, cells, near, targets, count, mass, &level);
        for (Index k = 0; k < net->per_level[at_level]; k++, done++) {
            Round round;
            at = next_round(net, done == 0, at, &round);
            float T = expf(spread * temperatures[done] + temperatures[net->rounds + done]);
            make_round(net, &round, done == 0, T, spread, &s, count, costs, &level, plan);
        }
    }
    for (Index i = 0; i < n; i++) p->f[i] = (double)s.f[i] * p->eps + offset[i];
    p->spread = exp((double)spread);
    return 1;
}
