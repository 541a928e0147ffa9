/* Entropic optimal transport on arrays: Sinkhorn with Anderson acceleration, and Newton on the truncated plan.

   Inside, potentials and costs are in units of eps, and there are only the atoms with mass. The algorithms are those of
   metaot/solvers (sinkhorn.py, anderson.py, newton.py), which say where they come from. */

#ifndef METAOT_CORE_H
#define METAOT_CORE_H

#include <stddef.h>
#include <stdint.h>

/* A function so marked is compiled for several generations of processors, of which the best one is taken. */
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12 && \
    !defined(WITHOUT_TARGETS)
#define WITH_TARGETS
#define FOR_EACH_PROCESSOR __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

typedef ptrdiff_t Index;

enum { MOST_AXES = 8, MOST_LEVELS = 12, LANES = 8, MEMORY = 10, TILE = 32, LARGEST_MATRIX = 1 << 22 };
/* LARGEST_MATRIX: entries of a matrix that fits into a cache. LANES: the doubles of the widest register. As many numbers may be read behind an array as it has lanes. */

typedef double Four __attribute__((vector_size(4 * sizeof(double)))); /* wider ones, which gcc takes apart, are slow */

typedef enum { SQEUCLIDEAN, EUCLIDEAN, SPHERE } PointCost;
typedef enum { AXES, MATRIX, CLOUDS } CostKind;

typedef struct {
    CostKind kind;
    Index n, m;
    int axes;
    Index rows[MOST_AXES], columns[MOST_AXES];
    const double *axis[MOST_AXES]; /* AXES: C is the sum of one matrix for each axis, rows columns */
    const double *matrix;          /* MATRIX: n m */
    const double *x, *y;           /* CLOUDS: n dim and m dim */
    Index dim;
    PointCost cost;
    int transposed; /* whether source and target are exchanged; n and m are those after the exchange */
} Costs;            /* the costs between all atoms, in the units of the cost */

typedef struct {
    Index count, *atoms;
    double *weights, *logs; /* the logarithms once they were taken */
    int leaves_mass;        /* whether some other atoms have a little */
} Support; /* the atoms with mass, in their order; weights below SMALLEST_WEIGHT count as zero */

typedef struct {
    Index count;
    const Index *atoms;
    double *coordinates;      /* CLOUDS: dim count */
    double *tile;             /* CLOUDS: dim TILE, those of the columns at hand */
    Index *along[MOST_AXES];  /* AXES: the place of each atom along each axis */
} Columns;                    /* some atoms of the target, prepared for rows of costs */

typedef struct {
    double least, most;
} Range;

typedef struct {
    double tol;
    Index max_steps;
    int accelerated;
} Limits;

typedef struct {
    int by_axes, symmetric;
} Steps; /* of Sinkhorn: on the axes of a grid or with a matrix; between two measures, or of a measure to itself */

typedef struct {
    double error;
    int64_t steps;
} Outcome;

typedef enum { EXACT_PRICE, KL_PRICE, TV_PRICE } PriceKind;

typedef struct {
    PriceKind kind;
    double rho; /* in units of eps */
} Price; /* of a marginal that is not the weights */

typedef struct {
    int axes;
    Index count, sizes[MOST_AXES];
    Index *nodes[MOST_AXES];  /* of each point along an axis, its place on the finest grid; of that grid NULL */
    Index *below[MOST_AXES];  /* of each point of the finest grid, the node before it, or the last but one */
    double *share[MOST_AXES]; /* and how far it is on the way to the next one */
} Mesh;                       /* some points of each axis of a grid */

typedef struct Correction Correction;

typedef struct {
    const Costs *costs;
    const double *a, *b, *start; /* the weights, and f or NULL, in the units of the cost */
    double eps;
    double *f, *g; /* the answer, or NULL */
    int threads;
    Price source_price, target_price;
    double *value; /* of the dual, or NULL */
    Correction *correction; /* of the steps, or NULL */
    int is_lifted;          /* whether the start is from a coarser level */
    int only_helps;         /* whether this is a coarser level: its sums need four digits */
} Instance;

/* threads.c */
void run_on_threads(void (*work)(void *), void *shared, int threads);
Index take_next(Index *next);

/* arena.c */
typedef struct {
    char *memory;
    size_t used, capacity;
} Arena; /* memory that is given back as a whole */

int open_arena(Arena *arena, size_t bytes);
double *take_numbers(Arena *arena, Index count);
Index *take_indices(Arena *arena, Index count);
void close_arena(Arena *arena);
size_t bytes_for(Index count);

typedef struct {
    Arena memory;
    double inverse_eps;
    double *of_axis[MOST_AXES]; /* source target */
    double offset, lost;
    int always_exact, by_products;
} Kernels; /* of all axes of a grid, exp(offset - C); kept for the next problem at this eps */

typedef struct {
    Arena supports, work;
    Support source, target;
    Kernels kernels;
} Workspace; /* what a thread uses for one problem after another, all with the same axes */

/* vector.c */
void exponentials(Index count, const double *x, double *out);
void shifted_exponentials(Index count, const double *x, double shift, double *out);
void logarithms(Index count, const double *x, double *out);
void arctangents(Index count, const double *x, double *out);
double inner_product(Index count, const double *x, const double *y);
double l1_distance(Index count, const double *x, const double *y);
double relative_l1_error(Index count, const double *weights, const double *ratio);
double total(Index count, const double *x);
Range range_of(Index count, const double *x);
double largest_size(Index count, const double *x);
void subtract_multiple(Index count, double factor, const double *x, double *out);
double log_sum_exp(Index count, const double *x, double *scratch);
void raise_tops(Index count, double h, const double *restrict costs, double *restrict tops);
void below_tops(Index count, double h, const double *restrict tops, double *restrict costs);

/* costs.c */
Costs transposed(const Costs *costs);

size_t columns_bytes(const Costs *costs, Index count);
void prepare_columns(Columns *columns, const Costs *costs, Index count, const Index *atoms, Arena *arena);
void cost_row(const Costs *costs, double inverse_eps, Index i, const Columns *columns, double *out);
void cost_tile(const Costs *costs, double inverse_eps, Index rows, const Index *atoms, const Columns *columns,
               Index first, Index count, double *out, Index stride);
double best_potential(const Costs *costs, double inverse_eps, Index i, const Columns *columns, const double *h,
                      double *row);

/* single.c */
void add_powers(Index rows, Index dim, const float *left, const float *x, const float *right, const float *y,
                const float *values, float *sums);

/* support.c */
void take_logs(Support *support);
Support take_support(Arena *arena, Index count);
int find_supports(Workspace *workspace, const Costs *costs, const double *a, const double *b, int relaxed);
void find_support(Index count, const double *weights, double mass, Support *support);
Index *absent_atoms(Index count, const Support *support, Index *absent, Index *absent_count);

/* extend.c */
int extend_potentials(const Costs *costs, double inverse_eps, const double *a, const double *b, const Support *source,
                      const Support *target, const double *known_f, const double *known_g, double *f, double *g);

/* anderson.c */
typedef struct {
    double *roots, *moves, *changes, *target, *missing, *last_target, *last_missing, *nearest;
    double gram[MEMORY][MEMORY], least, mark;
    double beyond; /* how many times its residual a step moves */
    Index count, shown, stale, plain, stretch;
} Path; /* the last points that were shown, and what led on from them */

void start_path(Path *path, Index count, const double *weights);
void weigh_path(Path *path, const double *weights);
void next_point(Path *path, double *x, double *residual, double error);
void plain_step(Index count, double *x, const double *residual);

/* blocks.c: products of blocks of 8 x 8 doubles */
typedef void SumBlock(Index terms, const double *left, const double *right, double *sums, Index stride);
SumBlock *best_sum_block(void);
int factorise(double *H, Index panels);
void solve_factorised(const double *L, Index panels, double *y);

/* means.c */
int sum_exponentials(Index n, Index m, Index p, Index q, const double *x, const double *y, const double *v, double *out,
                     int threads);

/* What is asked of the kernel exp(-C) between the atoms with mass. x is f in units of eps on the source's. */
typedef struct Operator Operator;
struct Operator {
    const Costs *costs;
    double inverse_eps;
    const Support *source, *target;
    const double *a, *b; /* all weights */
    double tol;          /* the L1 error that is wanted */
    int rough;           /* whether sums need four digits only: clouds may then take single precision */
    int threads;
    /* Where a marginal has a price (`relaxed`), the potential is x + level, the residual leads to the best x, and the
       error is that of metaot/potentials.py. Of the point that was evaluated last: the g that would make the target's
       marginal the weights, the best g, e to their difference, and the mass of the plan. */
    int relaxed;
    Price source_price, target_price;
    double level, mass, *exact, *best, *factors, *line, *ratio;
    /* Put the residual log a - log(P 1) of x and the best g for it there; return the L1 error, NaN if all is lost.
       Without a residual only that g, in half the time. */
    double (*evaluate)(Operator *op, const double *x, double *residual);
    /* Put that g there, on the target's atoms with mass. */
    void (*potential)(const Operator *op, double *g);
    /* After x was evaluated: put f and the best g for it on all atoms; 0 without enough memory. Of a balanced problem
       f may be NULL, unless both sides leave mass. */
    int (*extend)(Operator *op, const double *x, double *f, double *g);
    void *own;
};

/* prices.c */
double best_of(Price price, double exact);
size_t prices_bytes(Index n, Index m);
void open_prices(Operator *op, Arena *arena);
void price_columns(Operator *op, const double *x);
double price_rows(Operator *op, const double *x, const double *ratio, double *residual);
double priced_value(const Operator *op, const double *x);
double price_half_way(Price price, const Support *side, const double *x, const double *exact, double *ratio,
                      double *residual);
void bound_point(Price price, Index count, double *x);
int has_bounds(const Operator *op);
void put_between_bounds(const Operator *op, const double *x, double level, double *inside);
void price_absent(Price price, Index count, const Support *support, double *f);
int extend_priced(const Operator *op, const double *x, const double *known_g, double *f, double *g);

/* tiles.c */
Index width_of_tile(Index count);
void sum_columns_of_tile(Index rows, Index count, const double *K, const double *u, double *sums);
void add_rows_of_tile(Index rows, Index count, const double *K, const double *v, double *lanes);
void add_both_of_tile(Index rows, const double *K, const double *u, const double *v, double *sums, double *lanes);
void add_lanes(Index rows, const double *lanes, double *sums);

/* matrix.c */
size_t matrix_bytes(const Costs *costs, Index n, Index m);
void open_matrix(Operator *op, Arena *arena);

/* halves.c */
size_t halves_bytes(const Costs *costs, Index n);
void open_halves(Operator *op, Arena *arena);

/* clouds.c */
size_t clouds_bytes(const Costs *costs, Index n, Index m);
void order_points(Index *order, Index count, const double *points, Index dim, Index least);
void find_in_support(const Support *support, Index *order);
void open_clouds(Operator *op, Arena *arena);
void means_on_clouds(Operator *op, const double *values, double *out);

typedef struct {
    double eps;           /* of the weights exp((h_j - C_ij)/eps); zero for min_j C_ij - h_j in place of the softmin */
    Index count;          /* of values for each target atom */
    const double *values; /* m count, or NULL */
    double *least, *mean_costs, *means; /* softmin and mean cost, n each, and mean values, n count; or NULL */
} CloudSums; /* what is wanted for each source atom, of all target atoms */

int sum_on_clouds(const Costs *costs, const double *h, const CloudSums *wanted, int threads);

typedef struct {
    Index n, m, source_blocks, target_blocks;
    const Index *source_order, *target_order; /* the operator's: of each place, the atom among those with mass */
    Index *first, *rows, *columns;            /* of each source block its first tile; of each tile its blocks */
    Index *first_of_column, *of_column;       /* of each target block its first place among the tiles by columns */
    float *entries, *left, *right;
    int threads;
    Arena memory;
} BlockPlan; /* a plan in tiles of 32 x 32, without those that have nothing that counts */

int open_block_plan(BlockPlan *plan, Operator *op, double *source_roots, double *target_roots);
void columns_of_plan(BlockPlan *plan, const double *y, double *out);
void rows_of_plan(BlockPlan *plan, double *out);

/* grid.c */
size_t grid_bytes(const Costs *costs);
size_t grid_bytes_beside(const Costs *costs);
int open_grid(Operator *op, Workspace *workspace, int everywhere, const Operator *beside);
double finish_on_grid(Operator *op, const double *x, double *residual);
void transform_on_grid(Operator *op, const double *x, double *g);
int step_on_grid(Operator *op, const double *residual, const double *x, double *following, double *missing);

int scale_smoothing(const Operator *op, double *roots, double *scale);
void smooth_on_grid(Operator *op, const double *scale, const double *y, double *out);

/* mesh.c */
Index count_nodes(Index size, Index stride);
size_t mesh_bytes(const Mesh *fine, const int64_t *strides);
void open_mesh(Mesh *mesh, const Mesh *fine, const int64_t *strides, const double *const *coordinates, Arena *arena);
void divide_among_nodes(const Mesh *fine, const Mesh *coarse, const double *x, double *const *scratch, double *out);
void interpolate(const Mesh *fine, const Mesh *coarse, const double *y, double *const *scratch, double *out);

/* correction.c */
enum { DIRECTIONS = 24 };

struct Correction {
    Operator *op;   /* on the coarse level, after its last point was evaluated */
    Index known;    /* the coarse source's atoms with mass */
    double damping; /* how far a step moves with the residual of the balanced problem */
    double *roots, *vectors[5];
    double *directions, *images, curvatures[DIRECTIONS]; /* of the first solution by conjugate gradients */
    Index kept;                                          /* of these; -1 before it */
    Arena memory;
    void *own;
    /* Put the smoothing of y into out, but for the damping. */
    void (*smooth)(const Correction *self, const double *y, double *out);
    /* Put the sums of weights times a residual of the finer level into sums. */
    void (*take)(const Correction *self, const Support *source, const double *residual, double *sums);
    /* Add what is smooth, times the roots, to a residual of the finer level; it is the smoothing of itself and y. */
    void (*add)(const Correction *self, const Support *source, const double *y, const double *smooth, double *residual);
};

size_t correction_bytes(Index known);
void begin_correction(Correction *self, Operator *op, Index known, Arena *arena);
int open_correction(Correction *self, Operator *op, const Mesh *coarse, const Mesh *fine, const Mesh *finest);
void correct(Correction *self, const Support *source, double *residual);

/* levels.c */
typedef struct {
    Index count;
    const double *coordinates[MOST_AXES]; /* strictly monotone */
    const int64_t *strides;               /* count axes: of each level, the finest first */
} Levels;                                 /* the coarser grids of a grid */

typedef struct {
    Mesh mesh;
    Costs costs, lift; /* among its points; from its target points to the source points of the next finer level */
    Workspace workspace, lifting;
    Operator op;
    double *a, *b, *f, *g, *start; /* the last one on the next finer level */
    Arena memory;
} CoarseGrid;

typedef struct {
    const Levels *levels;
    Mesh finest;
    Index count;
    CoarseGrid level[MOST_LEVELS];
    Correction correction;
    Arena scratch;
} Hierarchy; /* what a thread uses for one problem after another, all with the same axes */

int refine_on_levels(Workspace *workspace, Hierarchy *self, const Instance *instance, Limits limits, const Levels *levels,
                     Outcome *outcome);
void close_levels(Hierarchy *self);

/* stages.c */
typedef struct {
    Costs costs, lift; /* among its clusters; from those of the target to the source's of the next finer stage */
    Index strides[2], sizes[2];
    double eps, spread; /* spread: the mean cost from atoms to their clusters */
    double *points[2], *weights[2], *f, *g, *start; /* the last one on the next finer stage */
    Workspace workspace, lifting;
    Arena memory;
} Stage; /* clusters of atoms of both clouds */

int refine_in_stages(Workspace *workspace, const Instance *instance, Limits limits, const Levels *levels,
                     Outcome *outcome);

/* sort.c */
size_t sort_bytes(Index n);
void sort_row(Index n, int is_single, void *numbers, int64_t *order, Arena *arena);

/* learnt.c */
typedef struct {
    Index width, hidden, cells, rows, levels, rounds;
    const int64_t *counts, *per_level;   /* of each level: targets, and rounds */
    const float *weights, *temperatures; /* of all rounds; then of their temperatures */
} Learnt; /* a network that reads costs */

typedef struct {
    Index n, m;
    const double *C, *a, *b; /* n m, n, m */
    double eps, spread;      /* by how many eps costs differ */
    double *f;
} LearntProblem;

Index learnt_numbers(const Learnt *net, Index rounds);
size_t learnt_bytes(const Learnt *net, Index n, Index m);
int learnt_potential(const Learnt *net, LearntProblem *problem, Arena *room, Arena *arena);

/* minplus.c */
int hard_minimum(const Costs *costs, const double *h, double *f);

/* assign.c */
typedef struct {
    Index n;
    const float *floats;   /* n n: costs, of either kind */
    const double *doubles;
    const Costs *points;   /* or squared distances, made a row at a time */
    const double *potential; /* of the rows, for which the first prices are the best ones; or NULL */
    Columns prepared;
    double *row;
    Index phases;
    const double *eps;     /* of the auctions, one after another */
    int exact;             /* whether the best assignment is wanted */
    double *prices;        /* of the columns: a start, and those that prove the bound */
    Index *columns, *rows; /* of each row its column; of each column its row */
    double bound;          /* no assignment has a lower sum of costs */
} Assignment;

int assign(Assignment *task);

/* pairs.c */
typedef struct {
    const Costs *costs; /* between clouds of as many points */
    Index phases;
    const double *eps;  /* of the auctions, one after another */
    int exact;          /* whether the best assignment is wanted */
    int quick;          /* whether rows that lost their best columns share what columns the other rows left */
    double *prices;     /* of the columns: a start, and those that prove the bound */
    int64_t *columns;   /* of each row its column */
    double cost, bound; /* the sum of costs of the pairs; no assignment has a lower one than the bound */
} CloudPairs;

int pair_clouds(CloudPairs *task);

/* products.c */
typedef struct {
    Index n, m, dim;
    const float *x, *y; /* n dim, m dim */
    float *out;         /* n m: x y^T times a factor */
    double factor;
    double error;       /* of the mean over pairs that have each row of x and of y once, at most */
} Products;

int can_multiply_rows(void);
int products_are_quick(void);
int multiply_rows(Products *task, int threads);

/* sinkhorn.c, newton.c */
void open_path(Path *path, Arena *arena, Index count);
int extend_along_axes(Workspace *workspace, const Instance *instance, Outcome *outcome);
void finish_potentials(const Instance *instance, Outcome *outcome);
int refine_by_sinkhorn(Workspace *workspace, const Instance *instance, Limits limits, Steps method, Outcome *outcome);
int refine_by_newton(Workspace *workspace, const Instance *instance, Limits limits, Outcome *outcome);
int evaluate_by_axes(Workspace *workspace, const Instance *instance, Operator *op);
int error_of_start(Workspace *workspace, const Instance *instance, Steps method, double *error);
int evaluate_on_clouds(Workspace *workspace, const Instance *instance, double tol, int both, Operator *op);
int lift_on_clouds(Workspace *workspace, const Instance *instance, double tol);
int step_by_axes(Workspace *workspace, const Instance *instance, Outcome *outcome);
int transform_by_axes(Workspace *workspace, const Instance *instance, Outcome *outcome);

/* barycenter.c */
typedef struct {
    const Costs *costs; /* the axes of one grid */
    Index count;        /* of measures */
    const double *measures, *weights, *start, *start_log_d; /* count n, count, count n, n */
    double eps;
    int debiased, settled;
    double *f, *g, *log_d, *log_alpha; /* count n, count n, n, n; start, f and g in the units of the cost */
    double error, self_error;
} Average;

int find_barycenter(Workspace *workspace, Average *average, Limits limits, Outcome *outcome);

#endif
