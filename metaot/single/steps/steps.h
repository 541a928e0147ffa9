/* Sinkhorn on a grid for one problem after another, without a call from Python for each array.

   The rules are those of metaot/single/axes.py and metaot/single/anderson.py, which say where they come from.
   What needs logarithms of sums, since numbers leave floating point, is left to these. */

#ifndef METAOT_STEPS_H
#define METAOT_STEPS_H

#include <stddef.h>
#include <stdint.h>

#include "processors.h"
#include "threads.h"

typedef ptrdiff_t Index;

enum { MOST_AXES = 8, ROWS = 8, COLUMNS = 8, MEMORY = 10 };
/* ROWS, COLUMNS: the block of a product that is worked on at once. So many numbers may be read behind arrays. */

enum { DONE, NEEDS_LOGS, UNKNOWN, LOST };
/* What became of a problem: all is right; sums far from the mass, or those of the start, need logarithms, which
   are not taken here; numbers left floating point. */

typedef struct {
    int axes, fits;
    Index sizes[MOST_AXES], atoms;
    const double *matrices[MOST_AXES], *transposed[MOST_AXES];
    double offset, widest, lost;
} Kernel; /* for each axis a matrix (source target), and its transpose; see metaot/single/axes_kernel.py. The sizes are
             those of the source, and of the target too unless the kernel is that of lifts. */

enum { MATRICES, TRANSPOSED, SIZES, NUMBERS, KERNEL_ARRAYS };

typedef struct {
    const void *arrays[KERNEL_ARRAYS];
    Index bytes[KERNEL_ARRAYS];
} Flat; /* kernels as they come from Python */

typedef struct {
    Kernel shape;
    const double *matrices, *transposed, *numbers;
    Index columns[MOST_AXES], entries, count;
} Kernels; /* one for all problems, or one for each: those of a grid at different temperatures */

typedef struct Mass {
    const struct Mass *aims_at;
    Index count, box, low[MOST_AXES], high[MOST_AXES], *atoms, *places;
    double *weights, *given, *panels[MOST_AXES];
} Mass; /* the atoms with mass: where they are on the grid, and in the smallest box around them; what is given to
           products in that box, and the matrices from there to the box of another, or to the grid if it is NULL */

typedef struct {
    double tol;
    Index max_steps;
} Limits;

typedef struct {
    double least, most;
} Range; /* of numbers, of which there is one at least */

typedef struct {
    double *roots, *moves, *changes, *target, *missing, *last_target, *last_missing, *nearest;
    double gram[MEMORY][MEMORY], least, mark;
    Index count, shown, stale, plain, stretch;
} Path; /* the last points that were shown, and what led on from them */

typedef struct {
    double *u, *v, *columns, *rows, *marginal;
} Scaled; /* u, the best v for it, the products with both, and the marginal relative to the weights */

typedef struct {
    const Kernel *kernel;
    Mass source, target;
    Path path;
    double *x, *residual, *room[2], *strip;
    Scaled now, other;
    char *memory;
} Work; /* one problem, and the point x where it is, with u = e^x */

/* functions.c */
void exponentials(Index count, const double *x, double *out);
void logarithms(Index count, const double *x, double *out);
double inner_product(Index count, const double *x, const double *y);
double l1_error(Index count, const double *weights, const double *marginal);
double l1_norm(Index count, const double *x);
Range range_of(Index count, const double *x);
void subtract_multiple(Index count, double factor, const double *x, double *out);

/* kernels.c */

/* Take the sizes, and where the matrices and the numbers of all kernels are; tell whether they fit each other. The
   targets are on the grid of the sources, or on another one, which is not larger. */
int read_kernels(Kernels *kernels, const Flat *flat, const Kernel *target);

/* The kernel of a problem. */
Kernel kernel_of(const Kernels *kernels, Index problem);

/* products.c */
void find_mass(const Kernel *kernel, const double *weights, Mass *mass);
void aim(const Kernel *kernel, const double *const *matrices, Mass *from, const Mass *to);
const double *product_to_target(Work *work);
const double *product_to_source(Work *work);
const double *product_of_given(const Work *work, const Mass *from);
int is_right(const Kernel *kernel, Index sums_count, const double *sums, Index count, const double *factors);
int take_box(const Kernel *kernel, const double *weights, Mass *mass);
void read_box(const Kernel *kernel, const Mass *mass, const double *function, double *box);
void write_box(const Kernel *kernel, const Mass *mass, const double *box, double *function);

/* anderson.c */
void start_path(Path *path, Index count, const double *weights);
void next_point(Path *path, double *x, double *residual, double error);

/* sinkhorn.c */
int open_work(Work *work, const Kernel *kernel);
void close_work(Work *work);
int64_t refine(Work *work, const double *a, const double *b, const double *start, Limits limits,
               double *f, double *g, double *error, int64_t *steps);

/* inside.c */
int64_t one_step(Work *work, const double *a, const double *b, const double *f, int everywhere,
                 double *following, double *missing);
int64_t lift(Work *work, const Kernel *lifts, const double *a, const double *b, const double *f, const double *fine,
             double *lifted);
int64_t dual_value(Work *work, const double *a, const double *b, const double *f, double *value, double *missing);

#endif
