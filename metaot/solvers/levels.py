"""Coarse to fine on a grid: each level is a coarser grid, solved only as far as the next finer one needs.

A level has some points of each axis as its nodes, and weights of the finest grid are divided among them by linear
interpolation, which moves no mean. Its potential g leads to f on the next level, which is the best one there for g
on the nodes. Steps on all levels but the coarsest are corrected (`metaot.solvers.correction`).
"""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot.core.method import Result, Strides
from metaot.geometry import Grid
from metaot.geometry.base import expand_eps
from metaot.geometry.kernel import Separable, contract
from metaot.problem import Problem
from metaot.solvers.correction import Correction, Interpolation
from metaot.solvers.hierarchy import Hierarchy

SOLVED = 0.1
"""The L1 error of a level that gives no start."""


@final
@dataclass(frozen=True)
class Level:
    """A coarser grid, and the problems there."""

    problem: Problem
    nodes: tuple[Int[Tensor, "_"], ...]
    """Of each axis, the places of the nodes on the finest grid."""
    interpolation: tuple[Float[Tensor, "_ _"], ...]
    """Of each axis, from the nodes to the points of the finest grid."""
    lift: tuple[Float[Tensor, "_ _"], ...]
    """Of each axis, costs from the source's points of the next finer grid to the target's nodes."""

    def lifted(
        self, g: Float[Tensor, "batch coarse_m"], b: Float[Tensor, "batch coarse_m"]
    ) -> Float[Tensor, "batch n"]:
        """Return the f on the next finer grid that is the best for g on the nodes, which have the weights b."""
        eps = self.problem.eps
        each = tuple(eps.double().tolist()) if isinstance(eps, Tensor) else eps
        exact = Separable(self.lift, each).softmin((g + expand_eps(eps, g) * b.log()).double()).to(g)
        return self.problem.marginals.source.best(exact, eps)


@final
class Grids(Hierarchy):
    """The coarser grids of a problem on a grid."""

    solved = SOLVED

    def __init__(self, problem: Problem, strides: Strides) -> None:
        self._levels, self._sizes = levels_of(problem, strides), problem.geometry.sizes
        self.problems = [level.problem for level in self._levels]

    def start(self, f: Float[Tensor, "batch n"]) -> Float[Tensor, "batch coarsest_n"]:
        values = f.reshape(-1, *self._sizes)
        for axis, nodes in enumerate(self._levels[-1].nodes, 1):
            values = values.index_select(axis, nodes)
        return values.reshape(len(f), -1)

    def lifted(self, level: int, g: Float[Tensor, "batch coarse_m"]) -> Float[Tensor, "batch n"]:
        return self._levels[level].lifted(g, self.problems[level].b)

    def correction(self, results: list[Result], to: int, tol: float) -> Correction | None:
        """Return that from two levels further down, or from the last one; None where potentials have bounds."""
        base = min(to + 2, len(self._levels) - 1)
        level = self._levels[base]
        if not level.problem.marginals.are_smooth:
            return None
        tables = level.interpolation
        if to >= 0:
            tables = tuple(H[points] for H, points in zip(tables, self._levels[to].nodes, strict=True))
        return Correction.of(level.problem, results[base - len(self._levels)].f, Interpolation(tables))


def levels_of(problem: Problem, strides: Strides) -> list[Level]:
    """Return the coarser grids of a flat batch on a grid, the finest first."""
    grid, levels = problem.geometry, list[Level]()
    assert isinstance(grid, Grid)
    a, b = problem.a, problem.b
    finer = tuple(torch.arange(size, device=a.device) for size in grid.sizes)
    for each in strides:
        nodes = tuple(_nodes(*pair, a.device) for pair in zip(grid.sizes, each, strict=True))
        tables = tuple(map(_interpolation, grid.axes, nodes))
        down = tuple(H[points].mT.contiguous() for H, points in zip(tables, finer, strict=True))
        a, b = (contract(weights.double(), down).to(weights) for weights in (a, b))
        axes = zip(grid.axis_costs, finer, nodes, strict=True)
        lift = tuple(C[points][:, to].contiguous() for C, points, to in axes)
        geometry = Grid(*(axis[to] for axis, to in zip(grid.axes, nodes, strict=True)), cost=grid.cost)
        coarse = Problem.trusted(a, b, geometry, problem.eps, problem.marginals)
        levels.append(Level(coarse, nodes, tables, lift))
        finer = nodes
    return levels


def _nodes(size: int, stride: int, device: torch.device) -> Int[Tensor, "nodes"]:
    """Return as many points of an axis as one of `stride` has, spread from the first one to the last."""
    last = max((size + stride // 2) // stride, min(size, 2)) - 1
    if last == 0:
        return torch.zeros(1, dtype=torch.int64, device=device)
    return (2 * torch.arange(last + 1, device=device) * (size - 1) + last) // (2 * last)


def _interpolation(axis: Float[Tensor, "points"], nodes: Int[Tensor, "nodes"]) -> Float[Tensor, "points nodes"]:
    """Return the matrix of linear interpolation from the nodes to all points."""
    table = axis.new_zeros(len(axis), len(nodes))
    points = torch.arange(len(axis), device=axis.device)
    if len(nodes) == 1:
        return table + 1
    below = (torch.searchsorted(nodes, points, right=True) - 1).clamp_max(len(nodes) - 2)
    low, high = axis[nodes[below]], axis[nodes[below + 1]]
    share = (axis - low) / (high - low)
    table[points, below], table[points, below + 1] = 1 - share, share
    return table
