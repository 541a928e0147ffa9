"""Problems on a grid of fewer points, for potentials without detail in between."""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot import core
from metaot.geometry import Grid
from metaot.geometry.base import expand_eps
from metaot.geometry.kernel import Separable
from metaot.problem import Problem

_FEWEST = 64
_DETAIL, _CLOSE = 1.1, 0.22
"""An axis with at least _FEWEST points is halved if they are at most _DETAIL roots of eps apart afterwards, below
which potentials have no detail; and again, while they are at most _CLOSE apart, where pooled weights still do."""


@final
@dataclass(frozen=True)
class Coarse:
    """A flat batch of problems on a grid of images, and on a coarser one."""

    problem: Problem
    fine: Problem
    between: tuple[Float[Tensor, "_ _"], ...]
    """Costs along each axis between the points of both grids."""
    compiled: core.Costs | None
    """The same from the coarse grid to the fine one, as compiled code takes them on a CPU."""

    def lifted(self, g: Float[Tensor, "batch coarse"]) -> Float[Tensor, "batch n"]:
        """Return the f on the fine grid that is the best for g on the coarse one, both in float64."""
        here, there = (problem.to(g) for problem in (self.problem, self.fine))
        if self.compiled is None or not there.suits_core:
            each = tuple(here.eps.tolist()) if isinstance(here.eps, Tensor) else here.eps
            return Separable(self.between, each).softmin(g + expand_eps(here.eps, g) * here.b.log())
        (_, _, b, eps), a, threads = here.arrays(), there.a.detach().numpy(), torch.get_num_threads()
        return torch.from_numpy(core.best_potential(self.compiled, b, a, eps, g.numpy(), threads=threads))


def coarsened(problem: Problem) -> Coarse | None:
    """Return a flat batch of images, with the cost "sqeuclidean", on a coarser grid.

    None for other geometries, and where potentials have detail that the coarse grid has not.
    """
    grid = problem.geometry
    if not isinstance(grid, Grid) or len(problem.a) == 0:
        return None
    eps = float(problem.eps.min()) if isinstance(problem.eps, Tensor) else problem.eps
    by = tuple(_by(*axis, math.sqrt(eps)) for axis in zip(grid.sizes, grid.spacings, strict=True))
    if max(by) == 1:
        return None
    coarse, between, compiled = _coarser(grid, by)
    a, b = (_pooled(weights, grid.sizes, by) for weights in (problem.a, problem.b))
    return Coarse(Problem.trusted(a, b, coarse, problem.eps), problem, between, compiled)


def _by(size: int, spacing: float, root: float) -> int:
    """Return how many neighbouring points of an axis become one, for a root of eps."""
    by = 1
    while size >= by * _FEWEST and 2 * by * spacing <= root * (_DETAIL if by == 1 else _CLOSE):
        by *= 2
    return by


@lru_cache(maxsize=8)
def _coarser(grid: Grid, by: tuple[int, ...]) -> tuple[Grid, tuple[Tensor, ...], core.Costs | None]:
    """Return the grid of the means of `by` neighbouring points of each axis; the last mean may be of fewer."""
    groups = [axis.split(count) for axis, count in zip(grid.axes, by, strict=True)]
    coarse = Grid(*(torch.stack([group.mean() for group in along]) for along in groups))
    costs = tuple((s[:, None] - t).square() for s, t in zip(grid.axes, coarse.axes, strict=True))
    compiled = core.Costs.on_axes(tuple(cost.mT.numpy() for cost in costs)) if costs[0].is_cpu else None
    return coarse, costs, compiled


def _pooled(weights: Float[Tensor, "batch n"], sizes: tuple[int, ...], by: tuple[int, ...]) -> Tensor:
    """Return the sums of `by` neighbouring points of each axis, a power of two; the last sum may be of fewer."""
    sums: Any = weights.detach()
    sums = (sums.numpy() if sums.is_cpu else sums).reshape(-1, *sizes)
    for axis, count in enumerate(by, 1):
        before = (slice(None),) * axis
        for _ in range(count.bit_length() - 1):
            first, second = sums[*before, ::2], sums[*before, 1::2]
            sums = first + 0 if first.shape != second.shape else first + second
            if first.shape != second.shape:
                sums[*before, :-1] += second
    sums = sums.reshape(len(weights), -1)
    return sums if isinstance(sums, Tensor) else torch.from_numpy(sums)
