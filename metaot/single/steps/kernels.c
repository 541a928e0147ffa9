/* Gibbs kernels as Python hands them over: see Flat in metaot/single/axes_kernel.py. */

#include "steps.h"

enum { OFFSET, WIDEST, LOST_IN_SUMS, FITS, KERNEL_NUMBERS };

int read_kernels(Kernels *kernels, const Flat *flat, const Kernel *target)
{
    const int64_t *sizes = flat->arrays[SIZES];
    Index axes = flat->bytes[SIZES] / (Index)sizeof *sizes;
    if (axes < 1 || axes > MOST_AXES || (target && axes != target->axes)) return 0;
    Kernel shape = {.axes = (int)axes, .atoms = 1};
    kernels->entries = 0;
    for (int k = 0; k < shape.axes; k++) {
        shape.sizes[k] = (Index)sizes[k];
        shape.atoms *= shape.sizes[k];
        kernels->columns[k] = target ? target->sizes[k] : shape.sizes[k];
        kernels->entries += shape.sizes[k] * kernels->columns[k];
        if (kernels->columns[k] > shape.sizes[k]) return 0;
    }
    kernels->shape = shape;
    kernels->matrices = flat->arrays[MATRICES];
    kernels->transposed = flat->arrays[TRANSPOSED];
    kernels->numbers = flat->arrays[NUMBERS];
    kernels->count = flat->bytes[NUMBERS] / (Index)(KERNEL_NUMBERS * sizeof(double));
    Index needed = kernels->count * kernels->entries * (Index)sizeof(double);
    return shape.atoms > 0 && flat->bytes[MATRICES] == needed && flat->bytes[TRANSPOSED] == needed;
}

Kernel kernel_of(const Kernels *kernels, Index problem)
{
    Kernel kernel = kernels->shape;
    Index which = kernels->count > 1 ? problem : 0, entry = which * kernels->entries;
    const double *numbers = kernels->numbers + which * KERNEL_NUMBERS;
    kernel.offset = numbers[OFFSET];
    kernel.widest = numbers[WIDEST];
    kernel.lost = numbers[LOST_IN_SUMS];
    kernel.fits = numbers[FITS] != 0;
    for (int k = 0; k < kernel.axes; k++) {
        kernel.matrices[k] = kernels->matrices + entry;
        kernel.transposed[k] = kernels->transposed + entry;
        entry += kernel.sizes[k] * kernels->columns[k];
    }
    return kernel;
}
