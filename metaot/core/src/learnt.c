/* The rounds of a network that reads costs: metaot/models/costs.py, and metaot/amortize/costs.py for what it reads.

   Choices and means are made in double precision, rounds in single precision. Sources run along rows, eight at a time;
   rows are filled up with sources that get nothing. */

#include "core.h"

#include <math.h>
#include <string.h>

enum { SINGLES = 8, AT_ONCE = 4, PAIR = 2, READ = 3, CACHE_LINE = 16, SPAN = 8 };

typedef float Eight __attribute__((vector_size(SINGLES * sizeof(float)), aligned(sizeof(float)), may_alias));
typedef int32_t Whole __attribute__((vector_size(SINGLES * sizeof(int32_t))));
typedef int64_t FourWhole __attribute__((vector_size(4 * sizeof(int64_t))));

static const double CONTRAST = 1e-9;
static const float LEAST = 1e-6f, EMPTY = 1e-4f, NOWHERE = -1e30f;

typedef struct {
    const float *value, *value_bias, *of_weight, *of_spread, *inner, *inner_bias, *outer, *outer_bias;
    float step, momentum;
} Round; /* its weights, matrices by rows */

typedef struct {
    Index n, stride, count; /* sources, the length of a row of them, and how many have mass */
    float *a, *share, *logs, *base, *f, *change, *sent, *read, *values, *answer, *units, *biases;
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

/* e^(x - top) in place, for x <= top, to a few units in the last place; e^-50 where it is less, which
   does not count. */
static inline void exponentials_of_lanes(float *x, float top)
{
    const float round = 12582912.0f; /* what is added to it has no fraction */
    Eight z = *(Eight *)x - top;
    z = CHOSEN(z < -50.0f, ALL_OF(-50.0f), z);
    Eight k = (z * 1.44269504f + round) - round, r = (z - k * 0.693359375f) + k * 2.12194440e-4f, p = ALL_OF(1.9875691500e-4f);
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    Whole power = (__builtin_convertvector(k, Whole) + 127) << 23;
    *(Eight *)x = p * (Eight)power;
}

/* How the mass of four targets is shared among the sources, up to factors, `scales`; `sent` grows by it. */
FOR_EACH_PROCESSOR
static void share_targets(Index stride, const float *restrict base, const float *restrict costs, float cooler,
                          const float *restrict weights, float *restrict plan, float *restrict scales,
                          float *restrict sent)
{
    float tops[AT_ONCE], factors[AT_ONCE];
    for (int t = 0; t < AT_ONCE; t++) {
        Eight most = ALL_OF(NOWHERE);
        for (Index i = t * stride; i < (t + 1) * stride; i += SINGLES) {
            Eight x = *(const Eight *)(base + i - t * stride) - *(const Eight *)(costs + i) * cooler;
            *(Eight *)(plan + i) = x;
            most = CHOSEN(x > most, x, most);
        }
        tops[t] = most[0];
        for (int l = 1; l < SINGLES; l++) tops[t] = most[l] > tops[t] ? most[l] : tops[t];
    }
    for (int t = 0; t < AT_ONCE; t++) {
        Eight sums = ALL_OF(0);
        for (Index i = t * stride; i < (t + 1) * stride; i += SINGLES) {
            exponentials_of_lanes(plan + i, tops[t]);
            sums += *(Eight *)(plan + i);
        }
        scales[t] = 1 / sum_of(&sums);
        factors[t] = weights[t] * scales[t];
    }
    for (Index i = 0; i < stride; i += SINGLES) {
        Eight all = *(Eight *)(sent + i);
        for (int t = 0; t < AT_ONCE; t++) all += factors[t] * *(Eight *)(plan + t * stride + i);
        *(Eight *)(sent + i) = all;
    }
}

/* What four targets hear of one or two values, and what they answer: `weights`, `scales` and `logs` of them, `own` of
   these logarithms for each value. */
static inline __attribute__((always_inline)) void
pass_some_on(int values_at_once, Index stride, const float *restrict plan, const float *restrict values,
             const float *restrict weights, const float *restrict scales, const float *restrict logs,
             const float *restrict own, float *restrict answer)
{
    const float *p0 = plan, *p1 = plan + stride, *p2 = p1 + stride, *p3 = p2 + stride;
    Eight sums[PAIR][AT_ONCE] = {{ALL_OF(0)}};
    float heard[PAIR][AT_ONCE];
    for (Index i = 0; i < stride; i += SINGLES) {
        Eight x0 = *(const Eight *)(p0 + i), x1 = *(const Eight *)(p1 + i);
        Eight x2 = *(const Eight *)(p2 + i), x3 = *(const Eight *)(p3 + i);
#pragma GCC unroll 2
        for (int k = 0; k < values_at_once; k++) {
            Eight v = *(const Eight *)(values + k * stride + i);
            sums[k][0] += v * x0, sums[k][1] += v * x1, sums[k][2] += v * x2, sums[k][3] += v * x3;
        }
    }
    for (int k = 0; k < values_at_once; k++)
        for (int t = 0; t < AT_ONCE; t++) {
            float h = sum_of(&sums[k][t]) * scales[t] + logs[t] * own[k];
            heard[k][t] = (h > 0 ? h : 0) * weights[t] * scales[t];
        }
    for (Index i = 0; i < stride; i += SINGLES) {
        Eight x0 = *(const Eight *)(p0 + i), x1 = *(const Eight *)(p1 + i);
        Eight x2 = *(const Eight *)(p2 + i), x3 = *(const Eight *)(p3 + i);
#pragma GCC unroll 2
        for (int k = 0; k < values_at_once; k++) {
            Eight all = *(const Eight *)(answer + k * stride + i);
            all += heard[k][0] * x0, all += heard[k][1] * x1, all += heard[k][2] * x2, all += heard[k][3] * x3;
            *(Eight *)(answer + k * stride + i) = all;
        }
    }
}

FOR_EACH_PROCESSOR
static void pass_on(Index stride, Index width, Index targets, const float *restrict plan, const float *restrict values,
                    const float *restrict weights, const float *restrict scales, const float *restrict logs,
                    const float *restrict of_weight, float *restrict answer)
{
    for (Index j = 0; j < targets; j += AT_ONCE) {
        const float *of_four = plan + j * stride;
        Index k = 0;
        for (; k + PAIR <= width; k += PAIR)
            pass_some_on(PAIR, stride, of_four, values + k * stride, weights + j, scales + j, logs + j, of_weight + k,
                         answer + k * stride);
        if (k < width)
            pass_some_on(1, stride, of_four, values + k * stride, weights + j, scales + j, logs + j, of_weight + k,
                         answer + k * stride);
    }
}

static inline __attribute__((always_inline)) void
some_of_linear(int outputs, Index stride, Index inputs, const float *restrict W, const float *restrict bias,
               const float *restrict x, int rectified, float *restrict out)
{
    for (Index i = 0; i < stride; i += SINGLES) {
        Eight sums[AT_ONCE] = {{0}};
        for (Index k = 0; k < inputs; k++) {
            Eight at = *(const Eight *)(x + k * stride + i);
#pragma GCC unroll 4
            for (int o = 0; o < outputs; o++) sums[o] += W[o * inputs + k] * at;
        }
#pragma GCC unroll 4
        for (int o = 0; o < outputs; o++) {
            Eight sum = sums[o] + bias[o];
            *(Eight *)(out + o * stride + i) = rectified ? CHOSEN(sum > 0, sum, ALL_OF(0)) : sum;
        }
    }
}

/* out = W x + bias, not below zero if `rectified`, for x of `inputs` rows of sources. */
FOR_EACH_PROCESSOR
static void linear(Index stride, Index outputs, Index inputs, const float *restrict W, const float *restrict bias,
                   const float *restrict x, int rectified, float *restrict out)
{
    Index o = 0;
    for (; o + AT_ONCE <= outputs; o += AT_ONCE)
        some_of_linear(AT_ONCE, stride, inputs, W + o * inputs, bias + o, x, rectified, out + o * stride);
    for (; o < outputs; o++)
        some_of_linear(1, stride, inputs, W + o * inputs, bias + o, x, rectified, out + o * stride);
}

/* One round on q targets: costs and plan, rows of sources for each. */
static void make_round(const Learnt *net, const Round *round, int first, float T, float spread, Sources *s, Index q,
                       const float *costs, const Level *level, float *plan)
{
    Index w = net->width, h = net->hidden, stride = s->stride, inherited = first ? 0 : w, read = READ + inherited;
    float cooler = 1 / T, count = (float)s->count;
    for (Index i = 0; i < s->n; i++) s->base[i] = s->f[i] * cooler + s->logs[i];
    memset(s->sent, 0, (size_t)stride * sizeof(float));
    for (Index j = 0; j < q; j += AT_ONCE)
        share_targets(stride, s->base, costs + j * stride, cooler, level->weights + j, plan + j * stride,
                      level->scales + j, s->sent);
    float *seen = s->read + (w - inherited) * stride; /* the features, and behind them the three of this round */
    float *error = s->read + w * stride, *missing = error + stride;
    for (Index i = 0; i < stride; i++) {
        s->sent[i] = s->sent[i] * (count / s->share[i]) + EMPTY;
        error[i] = logf(s->sent[i]);
        missing[i] = s->share[i] * (s->sent[i] - 1);
    }
    memcpy(missing + stride, s->logs, (size_t)stride * sizeof(float));
    linear(stride, w, read, round->value, round->value_bias, seen, 0, s->values);
    memset(s->answer, 0, (size_t)(w * stride) * sizeof(float));
    pass_on(stride, w, q, plan, s->values, level->weights, level->scales, level->logs, round->of_weight, s->answer);
    for (Index i = 0; i < stride; i++) {
        float factor = count / (s->share[i] * s->sent[i]);
        for (Index k = 0; k < w; k++) s->answer[k * stride + i] *= factor;
    }
    /* of what was read and the answers, which lie behind each other */
    for (Index k = 0; k < h; k++) s->biases[k] = round->inner_bias[k] + round->of_spread[k] * spread;
    linear(stride, h, read + w, round->inner, s->biases, seen, 1, s->units);
    float *out = s->values; /* w + 1 rows */
    linear(stride, w + 1, h, round->outer, round->outer_bias, s->units, 0, out);
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
   the first targets, times -2. Cells are compared four at a time: behind the last one there may be some that are
   infinitely far. */
FOR_EACH_PROCESSOR
static void find_cells(Index m, Index rows, Index cells, const double *restrict R, const double *restrict middle,
                       const double *restrict sizes, Index *restrict near)
{
    for (Index j = 0; j < m; j += SPAN) {
        Four best = {INFINITY, INFINITY, INFINITY, INFINITY}, more_best = best;
        FourWhole at = {0}, more_at = {0};
        for (Index c = 0; c < cells; c += AT_ONCE) {
            Four d[AT_ONCE], more[AT_ONCE], x, y;
#pragma GCC unroll 4
            for (int t = 0; t < AT_ONCE; t++) d[t] = more[t] = (Four){sizes[c + t], sizes[c + t], sizes[c + t], sizes[c + t]};
            for (Index r = 0; r < rows; r++) {
                memcpy(&x, R + r * m + j, sizeof x);
                memcpy(&y, R + r * m + j + SPAN / 2, sizeof y);
#pragma GCC unroll 4
                for (int t = 0; t < AT_ONCE; t++) {
                    double factor = middle[(c + t) * rows + r];
                    d[t] += factor * x;
                    more[t] += factor * y;
                }
            }
#pragma GCC unroll 4
            for (int t = 0; t < AT_ONCE; t++) {
                FourWhole is_nearer = d[t] < best, more_are = more[t] < more_best;
                best = (Four)((is_nearer & (FourWhole)d[t]) | (~is_nearer & (FourWhole)best));
                more_best = (Four)((more_are & (FourWhole)more[t]) | (~more_are & (FourWhole)more_best));
                at = (is_nearer & (c + t)) | (~is_nearer & at);
                more_at = (more_are & (c + t)) | (~more_are & more_at);
            }
        }
        for (Index l = 0; l < SPAN && j + l < m; l++) near[j + l] = l < SPAN / 2 ? at[l] : more_at[l - SPAN / 2];
    }
}

/* Costs from some sources without means, and the cell of each target; `sizes` has room for a row and for the cells.
   Return 0 where a cost is infinite. */
static int divide_targets(const LearntProblem *p, Index rows, const int64_t *sources, Index cells,
                           const int64_t *targets, double *R, double *middle, double *sizes, Index *near)
{
    double *mean = sizes + cells + AT_ONCE, part = 1 / (double)rows;
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
    for (Index c = cells; c < cells + AT_ONCE; c++) sizes[c] = INFINITY;
    memset(middle + cells * rows, 0, (size_t)(AT_ONCE * rows) * sizeof *middle);
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
    for (Index c = 0; c < cells; c++) mass[c] /= own[c] > 0 ? own[c] : 1;
    for (Index k = 0; k < q; k++) sum += p->b[targets[k]] * mass[near[targets[k]]];
    for (Index k = 0; k < q; k++) {
        double weight = p->b[targets[k]] * mass[near[targets[k]]] / sum;
        float share = (float)(weight * (double)q);
        level->weights[k] = (float)weight;
        level->logs[k] = logf(share > EMPTY ? share : EMPTY);
    }
    for (Index k = q; k < q + AT_ONCE; k++) level->weights[k] = level->logs[k] = level->scales[k] = 0;
}

/* Costs to the chosen targets, q rows of sources, in units of eps, and their means over targets, which f contains.
   Before the digits of double precision are given up, costs lose these means, and those from one `middle` source. */
FOR_EACH_PROCESSOR
static void gather_costs(const LearntProblem *p, Index middle, Index q, const int64_t *restrict targets, Index first,
                         const double *restrict weights, double *restrict whole, double *restrict row, double *restrict base,
                         double *restrict offset, Index stride, float *restrict some, float *restrict costs)
{
    double inverse = 1 / p->eps, level = 0;
    for (Index begin = 0; begin < p->n; begin += CACHE_LINE) {
        Index end = begin + CACHE_LINE < stride ? begin + CACHE_LINE : stride;
        for (Index i = begin == 0 ? -1 : begin; i < end; i++) { /* at first the one in the middle */
            if (i >= p->n) {
                memset(some + (i - begin) * q, 0, (size_t)q * sizeof *some);
                continue;
            }
            const double *from = p->C + (i < 0 ? middle : i) * p->m;
            memcpy(whole, from, (size_t)p->m * sizeof *whole);
            for (Index k = 0; k < q; k++) row[k] = whole[targets[k]];
            double mean = inner_product(first, weights, row);
            if (i < 0) {
                for (Index k = 0; k < q; k++) base[k] = row[k] - mean;
                continue;
            }
            float *to = some + (i - begin) * q;
            for (Index k = 0; k < q; k++) to[k] = (float)((row[k] - mean - base[k]) * inverse);
            offset[i] = mean;
            level += p->a[i] * mean;
        }
        for (Index k = 0; k < q; k++)
            for (Index i = begin; i < end; i++) costs[k * stride + i] = some[(i - begin) * q + k];
    }
    for (Index i = 0; i < p->n; i++) offset[i] -= level;
}

/* Remove the means of costs over sources, whose weights are a; return the logarithm of what is left in the mean over
   the first targets, or NaN where there are infinite costs. */
FOR_EACH_PROCESSOR
static float remove_means(Index q, Index first, Index stride, const float *restrict a, const float *restrict weights,
                          float *restrict costs)
{
    float check = 0, spread = 0;
    for (Index k = 0; k < q; k++, costs += stride) {
        Eight sums = ALL_OF(0);
        for (Index i = 0; i < stride; i += SINGLES) sums += *(const Eight *)(a + i) * *(const Eight *)(costs + i);
        float mean = sum_of(&sums);
        check += mean;
        for (Index i = 0; i < stride; i += SINGLES) *(Eight *)(costs + i) -= mean;
        if (k >= first) continue;
        sums = ALL_OF(0);
        for (Index i = 0; i < stride; i += SINGLES) {
            Eight x = *(const Eight *)(costs + i);
            sums += *(const Eight *)(a + i) * CHOSEN(x < 0, -x, x);
        }
        spread += weights[k] * sum_of(&sums);
    }
    return isfinite(check) ? logf(spread > LEAST ? spread : LEAST) : NAN;
}

static float *take_singles(Arena *arena, Index count)
{
    return (float *)take_numbers(arena, count / 2 + SINGLES);
}

static Sources open_sources(const LearntProblem *p, const Learnt *net, Arena *arena)
{
    Index stride = stride_of(p->n), w = net->width;
    Sources s = {.n = p->n, .stride = stride};
    float **rows[] = {&s.a, &s.share, &s.logs, &s.base, &s.f, &s.change, &s.sent};
    for (int k = 0; k < 7; k++) {
        *rows[k] = take_singles(arena, stride);
        memset(*rows[k], 0, (size_t)stride * sizeof(float));
    }
    s.read = take_singles(arena, (2 * w + READ) * stride);
    s.answer = s.read + (w + READ) * stride;
    s.values = take_singles(arena, (w + 1) * stride);
    s.units = take_singles(arena, net->hidden * stride);
    s.biases = take_singles(arena, net->hidden);
    for (Index i = 0; i < p->n; i++) {
        s.a[i] = (float)p->a[i];
        s.count += p->a[i] > 0;
    }
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
    Index q = net->counts[net->levels - 1], stride = stride_of(n), w = net->width, rows = net->rows, cells = net->cells;
    Index singles = 2 * (q + AT_ONCE) * stride + (3 * w + net->hidden + 16) * stride + net->hidden + 3 * q + CACHE_LINE * q;
    Index doubles = rows * m + (rows + 3) * (cells + AT_ONCE) + 2 * (n + m) + 3 * q;
    return bytes_for(singles) + bytes_for(doubles) + bytes_for(n + 3 * m + 2 * q + rows) + 40 * bytes_for(2 * SINGLES);
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
    double *R = take_numbers(arena, rows * m), *middle = take_numbers(arena, rows * (cells + AT_ONCE));
    double *mass = take_numbers(arena, 2 * cells), *sizes = take_numbers(arena, cells + AT_ONCE + m);
    order_levels(net, m, heaviest, order, targets);
    if (!divide_targets(p, rows, sources, cells, heaviest, R, middle, sizes, near)) return 0;
    Level level = {take_singles(arena, q), take_singles(arena, q), take_singles(arena, q)};
    float *costs = take_singles(arena, (q + AT_ONCE) * stride), *plan = take_singles(arena, (q + AT_ONCE) * stride);
    float *some = take_singles(arena, CACHE_LINE * q);
    double *row = take_numbers(arena, q), *base = take_numbers(arena, q), *shares = take_numbers(arena, first), *offset = take_numbers(arena, n);
    memset(costs + q * stride, 0, (size_t)(AT_ONCE * stride) * sizeof(float));
    gather_mass(p, cells, near, targets, first, mass, &level);
    for (Index k = 0; k < first; k++) shares[k] = level.weights[k];
    gather_costs(p, sources[0], q, targets, first, shares, sizes, row, base, offset, stride, some, costs);
    Sources s = open_sources(p, net, arena);
    float spread = remove_means(q, first, stride, s.a, level.weights, costs);
    if (isnan(spread)) return 0;
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
