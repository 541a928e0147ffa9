/* Sums of vectors under exponentials of inner products, exp(X Y^T) V: what the derivatives of transport in points
   are made of. No matrix is kept: each part of it stays in a cache. */

#include "core.h"

#include <string.h>

enum { CHUNK = 128, ROWS = 64 };
/* CHUNK: rows of Y and V that are worked on at once; ROWS: those of X that a thread takes. */

typedef struct {
    const double *x; /* n p */
    double *out;     /* n q */
    Index n, m, p, q, next, chunks, panels;
    double *y, *v; /* in panels of 8 rows of Y, p 8; and of 8 columns of V for each chunk, CHUNK 8 */
    int short_of_memory;
} Sums;

/* Put up to 8 rows of a matrix side by side, filled up with zeros: columns 8. */
static void pack_rows(const double *rows, Index count, Index columns, double *panel)
{
    memset(panel, 0, (size_t)(columns * LANES) * sizeof *panel);
    for (Index s = 0; s < count && s < LANES; s++)
        for (Index k = 0; k < columns; k++) panel[k * LANES + s] = rows[s * columns + k];
}

static void pack(Sums *sums, const double *y, const double *v)
{
    for (Index j = 0; j < sums->chunks * CHUNK; j += LANES)
        pack_rows(y + (j < sums->m ? j : 0) * sums->p, sums->m - j, sums->p, sums->y + j * sums->p);
    memset(sums->v, 0, (size_t)(sums->chunks * CHUNK * sums->panels * LANES) * sizeof *v);
    for (Index j = 0; j < sums->m; j++)
        for (Index k = 0; k < sums->q; k++) {
            Index panel = j / CHUNK * sums->panels + k / LANES;
            sums->v[(panel * CHUNK + j % CHUNK) * LANES + k % LANES] = v[j * sums->q + k];
        }
}

/* Add what a chunk of Y and V adds to the sums of 8 rows of X. */
static void add_chunk(const Sums *sums, SumBlock *sum, Index chunk, const double *x, double *weights, double *out)
{
    double block[LANES * LANES];
    for (Index j = 0; j < CHUNK; j += LANES)
        sum(sums->p, sums->y + (chunk * CHUNK + j) * sums->p, x, weights + j * LANES, LANES);
    exponentials(CHUNK * LANES, weights, weights);
    for (Index panel = 0; panel < sums->panels; panel++) {
        sum(CHUNK, weights, sums->v + (chunk * sums->panels + panel) * CHUNK * LANES, block, LANES);
        for (Index e = 0; e < LANES * LANES; e++) out[panel * LANES * LANES + e] += block[e];
    }
}

/* Take some rows of X after others, until all are done or in hand. */
static void take_rows(void *shared)
{
    Sums *sums = shared;
    SumBlock *sum = best_sum_block();
    Arena arena = {0};
    Index wide = sums->panels * LANES;
    if (!open_arena(&arena, bytes_for(ROWS * sums->p) + bytes_for(CHUNK * LANES) + bytes_for(ROWS * wide))) {
        sums->short_of_memory = 1;
        return;
    }
    double *x = take_numbers(&arena, ROWS * sums->p), *weights = take_numbers(&arena, CHUNK * LANES);
    double *found = take_numbers(&arena, ROWS * wide);
    for (Index first; (first = ROWS * take_next(&sums->next)) < sums->n;) {
        Index rows = sums->n - first < ROWS ? sums->n - first : ROWS;
        memset(found, 0, (size_t)(ROWS * wide) * sizeof *found);
        for (Index i = 0; i < rows; i += LANES)
            pack_rows(sums->x + (first + i) * sums->p, rows - i, sums->p, x + i * sums->p);
        for (Index chunk = 0; chunk < sums->chunks; chunk++)
            for (Index i = 0; i < rows; i += LANES)
                add_chunk(sums, sum, chunk, x + i * sums->p, weights, found + i * wide);
        for (Index i = 0; i < rows; i++)
            for (Index k = 0; k < sums->q; k++)
                sums->out[(first + i) * sums->q + k] =
                    found[i / LANES * LANES * wide + (k / LANES * LANES + i % LANES) * LANES + k % LANES];
    }
    close_arena(&arena);
}

/* Put exp(X Y^T) V into out, for X n p, Y m p and V m q; return whether there is enough memory. */
int sum_exponentials(Index n, Index m, Index p, Index q, const double *x, const double *y, const double *v, double *out,
                     int threads)
{
    Sums sums = {.x = x, .out = out, .n = n, .m = m, .p = p, .q = q, .chunks = (m + CHUNK - 1) / CHUNK,
                 .panels = (q + LANES - 1) / LANES};
    Arena arena = {0};
    Index rows = sums.chunks * CHUNK;
    if (!open_arena(&arena, bytes_for(rows * p) + bytes_for(rows * sums.panels * LANES))) return 0;
    sums.y = take_numbers(&arena, rows * p);
    sums.v = take_numbers(&arena, rows * sums.panels * LANES);
    pack(&sums, y, v);
    run_on_threads(take_rows, &sums, threads);
    close_arena(&arena);
    return !sums.short_of_memory;
}
