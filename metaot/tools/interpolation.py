"""McCann's displacement interpolation of two images on a grid."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.geometry import Grid
from metaot.potentials import DualPotentials
from metaot.problem import Problem

_BLOCK = 2**20
"""Pairs of atoms that are moved at once."""


def displacement_interpolation(
    problem: Problem, potentials: DualPotentials, t: float
) -> Float[Tensor, "*batch n"]:
    """Move the mass P_ij of the plan to (1 - t) x_i + t y_j and share it among the nearest atoms of the grid.

    The atoms around a position get its mass d-linearly. The sum is that of the plan; t = 0 gives P 1 and t = 1
    gives P^T 1. Only pairs of atoms with mass are visited, in blocks of rows. ValueError unless the geometry
    is a `Grid` and t in [0, 1].
    """
    grid = problem.geometry
    if not isinstance(grid, Grid):
        raise ValueError(f"displacement interpolation is for a Grid, got {grid}")
    if not 0 <= t <= 1:
        raise ValueError(f"t must lie between 0 and 1, got {t}")
    flat, (n, m) = problem.flat(), grid.shape
    f, g = potentials.f.reshape(-1, n), potentials.g.reshape(-1, m)
    total = torch.zeros_like(flat.a)
    step = max(1, _BLOCK // m)
    for start in range(0, n, step):
        C = grid.cost_rows(slice(start, min(n, start + step))).to(total)
        for k in range(len(total)):
            here, there = flat.a[k].nonzero()[:, 0], flat.b[k].nonzero()[:, 0]
            here = here[(here >= start) & (here < start + step)]
            eps = flat.eps[k] if isinstance(flat.eps, Tensor) else flat.eps
            exponent = f[k, here, None] + g[k, None, there] - C[here - start][:, there]
            P = flat.a[k, here, None] * flat.b[k, None, there] * (exponent / eps).exp()
            _splat(total[k], P, grid, (here, there), t)
    return total.reshape(problem.a.shape)


def _splat(
    total: Float[Tensor, "n"],
    P: Float[Tensor, "rows columns"],
    grid: Grid,
    atoms: tuple[Int[Tensor, "rows"], Int[Tensor, "columns"]],
    t: float,
) -> None:
    """Add the mass of these rows and columns of the plan to `total`, at time t."""
    corners = [(torch.zeros(P.shape, dtype=torch.int64, device=P.device), P)]
    sources, targets = (torch.unravel_index(index, grid.sizes) for index in atoms)
    for axis, i, j in zip(grid.axes, sources, targets, strict=True):
        low, high, share = _neighbours(axis, (1 - t) * axis[i, None] + t * axis[None, j])
        share = share.to(P)
        corners = [
            (atom * len(axis) + point, mass * part)
            for atom, mass in corners
            for point, part in ((low, 1 - share), (high, share))
        ]
    for atom, mass in corners:
        total.index_add_(0, atom.flatten(), mass.flatten())


def _neighbours(
    axis: Float[Tensor, "points"], position: Float[Tensor, "*shape"]
) -> tuple[Int[Tensor, "*shape"], Int[Tensor, "*shape"], Float[Tensor, "*shape"]]:
    """Return the points of an axis below and above each position, and the share of the one above."""
    coordinates, order = axis.sort()
    above = torch.searchsorted(coordinates, position.contiguous()).clamp(max=len(axis) - 1)
    below = (above - 1).clamp_min(0)
    gap = coordinates[above] - coordinates[below]
    share = ((position - coordinates[below]) / torch.where(gap > 0, gap, 1.0)).clamp(0, 1)
    return order[below], order[above], torch.where(gap > 0, share, 0.0)
