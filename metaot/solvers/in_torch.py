"""Torch as a back end: any device, dtype and size; coarse to fine on grids and between clouds."""

import math
from dataclasses import replace
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metaot.core.costs import POINT_COSTS
from metaot.core.method import FACTORISED, BackEnd, Index, Limits, Result, Strides
from metaot.geometry import Geometry, Grid, Points
from metaot.potentials import (
    c_transform,
)
from metaot.problem import Problem
from metaot.solvers.correction import Correction
from metaot.solvers.hierarchy import COARSE_STEPS, COARSEST, NEAR, RATIO, Hierarchy
from metaot.solvers.levels import Grids
from metaot.solvers.newton import Newton
from metaot.solvers.refine import cloud_with_mass, counted, counts, refine
from metaot.solvers.sinkhorn import Sinkhorn
from metaot.solvers.stages import Clusters
from metaot.solvers.symmetric import Symmetric

_BLOCK = 2**22
"""Entries of the plans that Newton holds at once."""


@final
class InTorch(BackEnd):
    """A flat batch of problems, and the solvers of this package, iterated by the one loop."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        sides = (problem.a, problem.b)
        self._rows, self._columns = (counts(problem, w).sum(-1).detach().cpu().numpy() for w in sides)
        self.sizes = list(zip(*np.sort([self._rows, self._columns], axis=0).tolist(), strict=True))
        geometry, eps = problem.geometry, problem.eps
        axes = geometry.sizes if isinstance(geometry, Grid) else ()
        self.axis_points = float(sum(axes)) if len(axes) > 1 else math.inf
        self.dimension = _dimension(geometry)
        self.lowest_eps = float(eps.min()) if isinstance(eps, Tensor) else eps

    @property
    def cost_range(self) -> float:
        geometry = self.problem.geometry
        if isinstance(geometry, Grid):
            return sum(float(cost.max() - cost.min()) for cost in geometry.axis_costs)
        n = geometry.shape[0]
        rows = [geometry.cost_rows(slice(k, k + 1)) for k in range(0, n, max(1, n // 8))]
        finite = torch.cat([row[row.isfinite()] for row in rows])
        return float(finite.max() - finite.min()) if len(finite) else 0.0

    def sinkhorn(
        self,
        index: Index,
        f: Tensor | None,
        limits: Limits,
        *,
        accelerated: bool = True,
        on_support: bool = False,
        strides: Strides = (),
    ) -> Result:
        if strides:
            return refine_on_levels(self._part(index), f, limits, strides)
        return refine(Sinkhorn(accelerated), self._part(index), f, limits, on_support=on_support)

    @property
    def details(self) -> tuple[dict[int, float], ...]:
        geometry = self.problem.geometry
        return geometry.details if isinstance(geometry, Grid) else ()

    def newton(self, index: Index, f: Tensor | None, limits: Limits, *, warmer: float = 1.0) -> Result:
        """Exchange the sides where the target is smaller: the potential of the source is the unknown."""
        problem = self._part(index)
        a, b, marginals = problem.a, problem.b, problem.marginals
        problem = Problem.trusted(a, b, problem.geometry, problem.eps * warmer, marginals)
        result = Result(*(values[index] for values in self.no_result()))
        rows, columns, (n, m) = self._rows[index], self._columns[index], problem.geometry.shape
        on_support = bool((np.minimum(rows, columns) <= FACTORISED).all())
        exchanged = rows > columns if on_support else np.full(len(rows), n > m)
        together = max(1, _BLOCK // max(1, int((rows * columns).max()))) if on_support else len(rows)
        for turned in (True, False):
            some = (exchanged == turned).nonzero()[0]
            for chosen in (some[k : k + together] for k in range(0, len(some), together)):
                part = problem if len(chosen) == len(rows) else problem[torch.from_numpy(chosen)]
                start = None if f is None else f[chosen]
                if turned:
                    start, part = None if start is None else c_transform(part, start), part.T
                found = refine(Newton(), part, start, limits, on_support=on_support)
                result.update(chosen, Result(found.g, found.f, found.error, found.steps) if turned else found)
        return result

    def symmetric(self, f: Tensor | None, limits: Limits, *, on_support: bool = False) -> Result:
        return refine(Symmetric(), self.problem, f, limits, on_support=on_support)

    def no_result(self) -> Result:
        a, b = self.problem.a, self.problem.b
        error, steps = a.new_full(a.shape[:1], torch.inf), torch.zeros(len(a), dtype=torch.int64, device=a.device)
        return Result(torch.zeros_like(a), torch.zeros_like(b), error, steps)

    def numbers(self, values: Tensor) -> np.ndarray:
        return values.detach().cpu().numpy()

    def _part(self, index: Index) -> Problem:
        return self.problem if isinstance(index, slice) else self.problem[torch.from_numpy(index)]


def _dimension(geometry: Geometry) -> int:
    """Return that of points between which atoms can have clusters, else zero."""
    if not isinstance(geometry, Points) or geometry.cost_name not in POINT_COSTS:
        return 0
    return geometry.x.shape[-1]


def refine_on_levels(problem: Problem, f: Tensor | None, limits: Limits, strides: Strides) -> Result:
    """Refine f, or zeros, by accelerated Sinkhorn steps by way of coarser grids, or of clusters of two clouds."""
    solver, is_cloud = Sinkhorn(), isinstance(problem.geometry, Points)
    leaves = torch.ones_like(problem.a[:, 0], dtype=torch.bool)
    if f is not None:
        leaves = ~(refine(solver, problem, f, Limits(limits.tol, 0), on_support=is_cloud).error <= NEAR)
        if is_cloud and not bool(leaves.any()):
            return refine(solver, problem, f, limits, on_support=True)
    rows, part = cloud_with_mass(counted(problem)) if is_cloud else (None, problem)
    levels = Clusters(part, strides) if is_cloud else Grids(problem, strides)
    start, correction, solved = _descended(levels, None if f is None else levels.start(f), limits.tol)
    first = torch.zeros_like(problem.a) if f is None else f
    if rows is not None:
        start = torch.zeros_like(problem.a).scatter(-1, rows, start)
    start = torch.where((solved & leaves)[:, None], start, first)
    if correction is not None:
        correction = replace(correction, active=correction.active & solved & (leaves | (not is_cloud)))
    return refine(solver, problem, start, limits, on_support=is_cloud, correction=correction, is_lifted=True)


def _descended(
    levels: Hierarchy, start: Tensor | None, tol: float
) -> tuple[Float[Tensor, "batch n"], Correction | None, Bool[Tensor, "batch"]]:
    """Solve the levels, the coarsest first; return a start, the correction from there, and which are solved.

    `tol` is the L1 error that is wanted on the finest one; coarser ones need no less than half of it.
    """
    coarsest, correction, results = len(levels.problems) - 1, None, list[Result]()
    wanted = [tol, *(max(COARSEST / RATIO ** (coarsest - k), tol / 2) for k in range(coarsest + 1))]
    solved = torch.ones_like(levels.problems[0].a[:, 0], dtype=torch.bool)
    for k in range(coarsest, -1, -1):
        result = refine(
            Sinkhorn(),
            levels.problems[k],
            start,
            Limits(wanted[k + 1], COARSE_STEPS),
            on_support=False,
            correction=correction,
            is_lifted=k < coarsest,
        )
        solved = solved & (result.error <= levels.solved)
        results.insert(0, result)
        start, correction = levels.lifted(k, result.g), levels.correction(results, k - 1, wanted[k])
    assert isinstance(start, Tensor)
    return start, correction, solved
