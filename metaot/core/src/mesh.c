/* Some points of each axis of a grid, the nodes of a coarser one: linear interpolation between them, and its transpose,
   which divides each atom among the nodes around it without moving the mean. */

#include "core.h"

#include <string.h>

/* The nodes of an axis: as many points as one of `stride` has, spread from the first one to the last. */
Index count_nodes(Index size, Index stride)
{
    Index nodes = (size + stride / 2) / stride;
    return nodes > 1 || size == 1 ? nodes : 2;
}

size_t mesh_bytes(const Mesh *fine, const int64_t *strides)
{
    size_t bytes = 0;
    for (int k = 0; k < fine->axes; k++)
        bytes += bytes_for(count_nodes(fine->sizes[k], strides[k])) + 2 * bytes_for(fine->sizes[k]);
    return bytes;
}

/* Choose the nodes along one axis, and find where each point of the finest grid is between them. */
static void place_points(Mesh *mesh, int k, Index size, const double *coordinates)
{
    Index last = mesh->sizes[k] - 1;
    for (Index node = 0; node <= last; node++)
        mesh->nodes[k][node] = last ? (2 * node * (size - 1) + last) / (2 * last) : 0;
    for (Index i = 0, below = 0; i < size; i++) {
        while (below + 1 < last && mesh->nodes[k][below + 1] <= i) below++;
        mesh->below[k][i] = below;
        mesh->share[k][i] = 0;
        if (last == 0) continue;
        double low = coordinates[mesh->nodes[k][below]], high = coordinates[mesh->nodes[k][below + 1]];
        mesh->share[k][i] = (coordinates[i] - low) / (high - low);
    }
}

void open_mesh(Mesh *mesh, const Mesh *fine, const int64_t *strides, const double *const *coordinates, Arena *arena)
{
    mesh->axes = fine->axes;
    mesh->count = 1;
    for (int k = 0; k < fine->axes; k++) {
        Index size = fine->sizes[k];
        mesh->count *= mesh->sizes[k] = count_nodes(size, strides[k]);
        mesh->nodes[k] = take_indices(arena, mesh->sizes[k]);
        mesh->below[k] = take_indices(arena, size);
        mesh->share[k] = take_numbers(arena, size);
        place_points(mesh, k, size, coordinates[k]);
    }
}

FOR_EACH_PROCESSOR
static void divide_row(Index count, double share, const double *restrict row, double *restrict low,
                       double *restrict high)
{
    for (Index j = 0; j < count; j++) {
        double part = share * row[j];
        low[j] += row[j] - part;
        high[j] += part;
    }
}

FOR_EACH_PROCESSOR
static void mix_rows(Index count, double share, const double *restrict low, const double *restrict high,
                     double *restrict row)
{
    for (Index j = 0; j < count; j++) row[j] = low[j] + share * (high[j] - low[j]);
}

/* Divide the atoms of a mesh among the nodes of a coarser one; each part of `scratch` has room for the finer mesh. */
void divide_among_nodes(const Mesh *fine, const Mesh *coarse, const double *x, double *const *scratch, double *out)
{
    Index before = 1, behind = fine->count;
    for (int k = 0; k < fine->axes; k++) {
        Index size = fine->sizes[k], nodes = coarse->sizes[k];
        double *to = k == fine->axes - 1 ? out : scratch[k % 2];
        behind /= size;
        memset(to, 0, (size_t)(before * nodes * behind) * sizeof *to);
        for (Index line = 0; line < before; line++)
            for (Index i = 0; i < size; i++) {
                Index point = fine->nodes[k] ? fine->nodes[k][i] : i;
                double share = coarse->share[k][point], *low = to + (line * nodes + coarse->below[k][point]) * behind;
                const double *row = x + (line * size + i) * behind;
                if (share == 0) subtract_multiple(behind, -1, row, low);
                else divide_row(behind, share, row, low, low + behind);
            }
        x = to;
        before *= nodes;
    }
}

/* Interpolate between the nodes of a coarser mesh; see `divide_among_nodes`. */
void interpolate(const Mesh *fine, const Mesh *coarse, const double *y, double *const *scratch, double *out)
{
    Index before = coarse->count, behind = 1;
    for (int k = fine->axes - 1; k >= 0; k--) {
        Index size = fine->sizes[k], nodes = coarse->sizes[k];
        double *to = k == 0 ? out : scratch[k % 2];
        before /= nodes;
        for (Index line = 0; line < before; line++)
            for (Index i = 0; i < size; i++) {
                Index point = fine->nodes[k] ? fine->nodes[k][i] : i;
                const double *low = y + (line * nodes + coarse->below[k][point]) * behind;
                double share = coarse->share[k][point], *row = to + (line * size + i) * behind;
                if (share == 0) memcpy(row, low, (size_t)behind * sizeof *row);
                else mix_rows(behind, share, low, low + behind, row);
            }
        y = to;
        behind *= size;
    }
}
