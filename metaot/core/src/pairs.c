/* The assignment between two clouds of as many points each, without their matrix of costs.

   The auction of assign.c, and shortest augmenting paths. A row knows the columns with its least cost + price, and a
   number that no other column was below. Prices only rise, so no other column is below it later: only where the second
   best of the known ones has risen above it are the columns looked up again, in the boxes of boxes.c. So each offer is
   that of all columns. Rows and columns are counted in the order of their blocks. */

#include "clouds.h"

#include <float.h>
#include <math.h>
#include <string.h>

enum { KNOWN = 12, FEWEST = 4, BIDS = 2, LAST = 1000 }; /* LAST: the points of the last market */

typedef struct {
    double value; /* cost + price */
    double cost;
    Index column;
} Entry;

typedef struct {
    double key;
    Index node;
} Reached; /* a column, or n + a row, of which more columns are wanted */

typedef struct {
    Operator op;
    Side rows, columns; /* h of the columns is minus their prices */
    Index n, searches;
    double *costs, *limits, *own, *prices; /* KNOWN of each row; what no other column is below; of each row's pair */
    Index *known, *counts, *column_of, *row_of, *queue;
    /* of paths */
    double *lengths, *last_values;
    Index *last_columns, *before, *done, *seen, stamp;
    Reached *heap;
    Index heaped, room;
    Arena heap_memory;
} Market;

static int is_before(double value, Index column, const Entry *entry)
{
    return value < entry->value || (value == entry->value && column < entry->column);
}

typedef struct {
    Entry entries[KNOWN], after;
    Index count;
    Index i;
    const double *point;
} Search; /* for the least entries of a row that are behind `after` */

static void search_block(const Market *self, Index block, Search *search)
{
    double costs[BLOCK + LANES];
    Index first = block * BLOCK, n = atoms_of(&self->columns, block);
    block_costs(&self->op, &self->rows, search->i, &self->columns, first, n, costs);
    for (Index k = 0; k < n; k++) {
        double value = costs[k] + self->prices[first + k];
        Index column = first + k, at = search->count;
        if (at == KNOWN && !is_before(value, column, &search->entries[KNOWN - 1])) continue;
        if (!(value > search->after.value || (value == search->after.value && column > search->after.column))) continue;
        if (at < KNOWN)
            search->count++;
        else
            at--;
        for (; at > 0 && is_before(value, column, &search->entries[at - 1]); at--)
            search->entries[at] = search->entries[at - 1];
        search->entries[at] = (Entry){value, costs[k], column};
    }
}

/* Look at some boxes of one level, those that may have the least values first. */
static void search_boxes(const Market *self, Index level, Index begin, Index end, Search *search)
{
    const Side *columns = &self->columns;
    Index order[GROUP], count = 0;
    double tops[GROUP];
    for (Index box = begin; box < end; box++) {
        double top = most_at_point(&self->op, columns, box, search->point);
        Index at = count++;
        for (; at > 0 && top > tops[at - 1]; at--) tops[at] = tops[at - 1], order[at] = order[at - 1];
        tops[at] = top;
        order[at] = box;
    }
    for (Index k = 0; k < count; k++) {
        if (search->count == KNOWN && -tops[k] > search->entries[KNOWN - 1].value) return;
        if (level == 0) {
            search_block(self, order[k], search);
            continue;
        }
        Index child = columns->first[level - 1] + (order[k] - columns->first[level]) * GROUP, after = child + GROUP;
        search_boxes(self, level - 1, child, after < columns->first[level] ? after : columns->first[level], search);
    }
}

static void search_all(Market *self, Index i, double value, Index column, Search *search)
{
    const Side *columns = &self->columns;
    Index level = columns->height - 1, begin = columns->first[level];
    *search = (Search){.after = {value, 0, column}, .i = i, .point = point_of(&self->rows, i)};
    if (self->searches++ % (self->n / 2 + 1) == 0) take_bounds(&self->columns);
    for (; begin < columns->boxes; begin += GROUP)
        search_boxes(self, level, begin, begin + GROUP < columns->boxes ? begin + GROUP : columns->boxes, search);
}

/* Look up the columns with the least cost + price of a row. */
static void look_up(Market *self, Index i)
{
    Search search;
    search_all(self, i, -INFINITY, -1, &search);
    for (Index k = 0; k < search.count; k++) {
        self->known[i * KNOWN + k] = search.entries[k].column;
        self->costs[i * KNOWN + k] = search.entries[k].cost;
    }
    self->counts[i] = search.count;
    self->limits[i] = search.count < KNOWN ? INFINITY : search.entries[KNOWN - 1].value;
}

typedef struct {
    double best, second, cost;
    Index column;
} Choice;

static Choice known_choice(const Market *self, Index i)
{
    Choice choice = {INFINITY, INFINITY, INFINITY, -1};
    const Index *known = self->known + i * KNOWN;
    const double *costs = self->costs + i * KNOWN;
    for (Index k = 0; k < self->counts[i]; k++) {
        double value = costs[k] + self->prices[known[k]];
        if (value < choice.best) {
            choice.second = choice.best;
            choice.best = value;
            choice.column = known[k];
            choice.cost = costs[k];
        } else if (value < choice.second) {
            choice.second = value;
        }
    }
    return choice;
}

/* The best and the second best cost + price of a row. */
static Choice choose(Market *self, Index i)
{
    Choice choice = known_choice(self, i);
    if (choice.column < 0 || choice.best > self->limits[i]) {
        look_up(self, i);
        choice = known_choice(self, i);
    }
    choice.second = smaller(choice.second, self->limits[i]);
    return choice;
}

static void set_price(Market *self, Index j, double price)
{
    self->prices[j] = price;
    self->columns.h[j] = -price;
}

/* Take the pairs apart that are worse than the best of their rows by more than eps; return how many rows wait. */
static Index take_apart(Market *self, double eps)
{
    Index waiting = 0;
    for (Index i = 0; i < self->n; i++) {
        Index j = self->column_of[i];
        if (j >= 0 && !(self->own[i] + self->prices[j] > choose(self, i).best + eps)) continue;
        if (j >= 0) self->column_of[i] = self->row_of[j] = -1;
        self->queue[waiting++] = i;
    }
    return waiting;
}

/* Let rows bid until each has a column; without eps, until all have bid some times. */
static void hold_auction(Market *self, double eps)
{
    Index n = self->n, head = 0, waiting = take_apart(self, eps), bids = eps > 0 ? -1 : BIDS * n;
    while (waiting && bids--) {
        Index i = self->queue[head];
        head = head + 1 < n ? head + 1 : 0;
        waiting--;
        Choice choice = choose(self, i);
        Index j = choice.column, other = self->row_of[j];
        double price = self->prices[j] + eps + (choice.second < INFINITY ? choice.second - choice.best : 0);
        if (!(eps > 0)) /* after rounding too, the row's best column */
            while (choice.cost + price > choice.second) price = nextafter(price, -DBL_MAX);
        if (price > self->prices[j]) set_price(self, j, price);
        self->row_of[j] = i;
        self->column_of[i] = j;
        self->own[i] = choice.cost;
        if (other < 0) continue;
        self->column_of[other] = -1;
        self->queue[(head + waiting++) % n] = other;
    }
}

static int push(Market *self, double key, Index node)
{
    if (self->heaped == self->room) {
        Arena larger = {0};
        if (!open_arena(&larger, bytes_for(4 * self->room + 4))) return 0;
        Reached *heap = (Reached *)take_numbers(&larger, 4 * self->room);
        memcpy(heap, self->heap, (size_t)self->heaped * sizeof *heap);
        close_arena(&self->heap_memory);
        self->heap_memory = larger;
        self->heap = heap;
        self->room *= 2;
    }
    Index at = self->heaped++;
    for (; at > 0 && key < self->heap[(at - 1) / 2].key; at = (at - 1) / 2) self->heap[at] = self->heap[(at - 1) / 2];
    self->heap[at] = (Reached){key, node};
    return 1;
}

static Reached pop(Market *self)
{
    Reached first = self->heap[0], last = self->heap[--self->heaped];
    Index at = 0;
    for (Index child; (child = 2 * at + 1) < self->heaped; at = child) {
        child += child + 1 < self->heaped && self->heap[child + 1].key < self->heap[child].key;
        if (!(self->heap[child].key < last.key)) break;
        self->heap[at] = self->heap[child];
    }
    self->heap[at] = last;
    return first;
}

/* Shorten the path to a column by a row; one that is done stays, though rounding makes paths shorter. */
static int shorten(Market *self, Index i, Index j, double length)
{
    if (self->seen[j] == -self->stamp || (self->seen[j] == self->stamp && !(length < self->lengths[j]))) return 1;
    self->seen[j] = self->stamp;
    self->lengths[j] = length;
    self->before[j] = i;
    return push(self, length, j);
}

/* Go on from a row at `reach` to the columns it knows. */
static int scan(Market *self, Index i, double reach, double best)
{
    Index fresh = 0;
    for (Index k = i * KNOWN; k < i * KNOWN + self->counts[i]; k++)
        fresh += self->costs[k] + self->prices[self->known[k]] <= self->limits[i];
    if (fresh < FEWEST) look_up(self, i);
    self->last_values[i] = self->limits[i];
    self->last_columns[i] = -1;
    for (Index k = i * KNOWN; k < i * KNOWN + self->counts[i]; k++)
        if (!shorten(self, i, self->known[k], reach + (self->costs[k] + self->prices[self->known[k]] - best))) return 0;
    return self->limits[i] == INFINITY || push(self, reach + (self->limits[i] - best), self->n + i);
}

/* Go on from a row to the next columns. */
static int scan_more(Market *self, Index i, double reach, double best)
{
    Search search;
    search_all(self, i, self->last_values[i], self->last_columns[i], &search);
    for (Index k = 0; k < search.count; k++)
        if (!shorten(self, i, search.entries[k].column, reach + (search.entries[k].value - best))) return 0;
    if (search.count < KNOWN) return 1;
    self->last_values[i] = search.entries[KNOWN - 1].value;
    self->last_columns[i] = search.entries[KNOWN - 1].column;
    return push(self, reach + (self->last_values[i] - best), self->n + i);
}

/* Assign one more row along the shortest path to a column that is free. */
static int augment(Market *self, Index start)
{
    double best = choose(self, start).best, reach = 0;
    Index count = 0, j = -1;
    self->heaped = 0;
    self->stamp++;
    if (!scan(self, start, 0, best)) return 0;
    while (self->heaped) {
        Reached next = pop(self);
        reach = next.key;
        Index is_row = next.node >= self->n, i = is_row ? next.node - self->n : self->row_of[next.node];
        if (is_row) {
            Index own = self->column_of[i];
            double begin = i == start ? 0 : self->lengths[own];
            double least = i == start ? best : self->own[i] + self->prices[own];
            if (!scan_more(self, i, begin, least)) return 0;
            continue;
        }
        j = next.node;
        if (self->seen[j] == -self->stamp) continue;
        self->seen[j] = -self->stamp;
        self->done[count++] = j;
        if (i < 0) break;
        if (!scan(self, i, reach, self->own[i] + self->prices[j])) return 0;
    }
    for (Index k = 0; k < count; k++) {
        Index column = self->done[k];
        if (reach > self->lengths[column])
            set_price(self, column, self->prices[column] + (reach - self->lengths[column]));
    }
    for (Index row = -1; row != start;) {
        row = self->before[j];
        Index next = self->column_of[row];
        self->row_of[j] = row;
        self->column_of[row] = j;
        double cost[1 + LANES];
        block_costs(&self->op, &self->rows, row, &self->columns, j, 1, cost);
        self->own[row] = cost[0];
        j = next;
    }
    return 1;
}

/* Whether half of the rows have a column. */
static int is_half_done(const Market *self)
{
    Index left = 0;
    for (Index i = 0; i < self->n; i++) left += self->column_of[i] < 0;
    return 2 * left <= self->n;
}

/* Find pairs: of the best assignment, or by the auctions. If `quick`, only those that are the best of their rows,
   unless they are few. */
static int find_pairs(Market *self, const CloudPairs *task, int exact, int quick)
{
    if (quick) hold_auction(self, 0);
    if (quick && !exact && is_half_done(self)) return 1;
    for (Index k = 0; k < task->phases; k++) hold_auction(self, task->eps[k]);
    if (!exact) return 1;
    hold_auction(self, 0);
    for (Index i = 0; i < self->n; i++)
        if (self->column_of[i] < 0 && !augment(self, i)) return 0;
    return 1;
}

static size_t market_bytes(Index n, Index dim)
{
    return 2 * side_bytes(n, dim) + 2 * bytes_for(KNOWN * n) + 13 * bytes_for(n);
}

/* Open a market between some rows and columns, with the prices of all columns. */
static int open_market(Market *self, Arena *arena, const CloudPairs *task, const Support *rows, const Support *columns)
{
    const Costs *costs = task->costs;
    Index n = rows->count;
    *self = (Market){.op = {.costs = costs, .inverse_eps = 1}, .n = n, .room = 4 * n};
    if (!open_arena(arena, market_bytes(n, costs->dim))) return 0;
    if (!open_arena(&self->heap_memory, bytes_for(2 * self->room))) return 0;
    self->heap = (Reached *)take_numbers(&self->heap_memory, 2 * self->room);
    open_side(&self->rows, arena, rows, costs->x, costs->dim);
    open_side(&self->columns, arena, columns, costs->y, costs->dim);
    self->costs = take_numbers(arena, KNOWN * n);
    self->known = take_indices(arena, KNOWN * n);
    double **numbers[] = {&self->limits, &self->own, &self->prices, &self->lengths, &self->last_values};
    for (size_t k = 0; k < sizeof numbers / sizeof *numbers; k++) *numbers[k] = take_numbers(arena, n);
    Index **indices[] = {&self->counts, &self->column_of, &self->row_of, &self->queue, &self->last_columns, &self->before,
                         &self->done,   &self->seen};
    for (size_t k = 0; k < sizeof indices / sizeof *indices; k++) *indices[k] = take_indices(arena, n);
    for (Index i = 0; i < n; i++) {
        self->column_of[i] = self->row_of[i] = -1;
        self->counts[i] = self->seen[i] = 0;
        set_price(self, i, task->prices[columns->atoms[self->columns.order[i]]]);
    }
    return 1;
}

/* Bound the sum of costs of all assignments, and put the prices that prove it into place. */
static void take_bound(Market *self, CloudPairs *task)
{
    task->bound = 0;
    for (Index i = 0; i < self->n; i++) task->bound += choose(self, i).best - self->prices[i];
    for (Index j = 0; j < self->n; j++) task->prices[self->columns.order[j]] = self->prices[j];
}

/* Put the pairs into place, and the rows and columns without one into the supports. */
static void take_pairs(const Market *self, CloudPairs *task, Support *rows, Support *columns)
{
    Index rest = 0;
    for (Index i = 0; i < self->n; i++) {
        Index j = self->column_of[i];
        if (j < 0) continue;
        Index *row = &rows->atoms[self->rows.order[i]], *column = &columns->atoms[self->columns.order[j]];
        task->columns[*row] = *column;
        task->cost += self->own[i];
        *row = *column = -1;
    }
    for (Index k = 0; k < self->n; k++)
        if (rows->atoms[k] >= 0) rows->atoms[rest++] = rows->atoms[k];
    rows->count = rest;
    rest = 0;
    for (Index k = 0; k < self->n; k++)
        if (columns->atoms[k] >= 0) columns->atoms[rest++] = columns->atoms[k];
    columns->count = rest;
}

static Support whole_support(Arena *arena, Index n)
{
    Support support = {.count = n, .atoms = take_indices(arena, n)};
    for (Index i = 0; i < n; i++) support.atoms[i] = i;
    return support;
}

/* Pair the points that are left, until none is. */
int pair_clouds(CloudPairs *task)
{
    Index n = task->costs->n;
    Arena arena = {0};
    int enough = open_arena(&arena, 2 * bytes_for(n)), is_first = 1;
    if (!enough) return 0;
    Support rows = whole_support(&arena, n), columns = whole_support(&arena, n);
    task->cost = 0;
    while (enough && rows.count) {
        Market market = {0};
        Arena memory = {0};
        int exact = is_first ? task->exact : rows.count <= LAST;
        enough = open_market(&market, &memory, task, &rows, &columns) &&
                 find_pairs(&market, task, exact, task->quick);
        if (enough && is_first) take_bound(&market, task);
        if (enough) take_pairs(&market, task, &rows, &columns);
        is_first = 0;
        close_arena(&memory);
        close_arena(&market.heap_memory);
    }
    close_arena(&arena);
    return enough;
}
