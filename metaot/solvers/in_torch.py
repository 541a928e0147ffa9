"""Torch as a back end: any device, dtype and size; on the atoms with mass where that pays."""

import math
from dataclasses import replace
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.core.method import FACTORISED, SMALLEST_WEIGHT, BackEnd, Index, Limits, Result, Strides
from metaot.geometry import Dense, Grid
from metaot.geometry.base import expand_eps
from metaot.objectives.dual import best_value
from metaot.potentials import (
    DualPotentials,
    c_transform,
    centred,
    exact_marginal_error,
    exact_transform,
    relative_error,
    side_error,
    tilted,
)
from metaot.problem import Problem
from metaot.solvers.anderson import Anderson
from metaot.solvers.correction import Correction
from metaot.solvers.iterate import Solver, StateT, iterate
from metaot.solvers.levels import COARSE_STEPS, COARSEST, NEAR, RATIO, SOLVED, at_nodes, correction_of, levels_of
from metaot.solvers.newton import Newton
from metaot.solvers.sinkhorn import Sinkhorn, SinkhornState, corrected
from metaot.solvers.symmetric import Symmetric, evaluated

GOOD, DOUBTFUL = 0.01, 0.1
"""L1 errors of a start: up to the first it is kept without comparison; above the second it must beat two steps
from zeros by dual value, and halve the error of one."""

LIFTED = 0.5
"""The first of them for a start that is lifted from a coarser grid."""

LARGEST = 1e8
"""Potentials beyond this many eps leave too few digits for the cost."""

_BLOCK = 2**22
"""Entries of the plans that Newton holds at once."""


@final
class InTorch(BackEnd):
    """A flat batch of problems, and the solvers of this package, iterated by the one loop."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        sides = (problem.a, problem.b)
        self._rows, self._columns = (_counts(problem, w).sum(-1).detach().cpu().numpy() for w in sides)
        self.sizes = list(zip(*np.sort([self._rows, self._columns], axis=0).tolist(), strict=True))
        geometry, eps = problem.geometry, problem.eps
        axes = geometry.sizes if isinstance(geometry, Grid) else ()
        self.axis_points = float(sum(axes)) if len(axes) > 1 else math.inf
        self.dimension = 0
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


def refine_on_levels(problem: Problem, f: Tensor | None, limits: Limits, strides: Strides) -> Result:
    """Refine f, or zeros, by accelerated Sinkhorn steps by way of coarser grids."""
    assert isinstance(problem.geometry, Grid)
    solver, levels = Sinkhorn(), levels_of(problem, strides)
    coarsest, first = len(levels) - 1, torch.zeros_like(problem.a) if f is None else f
    leaves = solved = torch.ones_like(problem.a[:, 0], dtype=torch.bool)
    if f is not None:
        leaves = ~(refine(solver, problem, f, Limits(limits.tol, 0), on_support=False).error <= NEAR)
    start = None if f is None else at_nodes(levels[-1], problem.geometry, f)
    correction: Correction | None = None
    found: list[Tensor] = []
    for k in range(coarsest, -1, -1):
        coarse = Limits(max(COARSEST / RATIO ** (coarsest - k), limits.tol / 2), COARSE_STEPS)
        lifted = k < coarsest
        result = refine(
            solver, levels[k].problem, start, coarse, on_support=False, correction=correction, is_lifted=lifted
        )
        solved = solved & (result.error <= SOLVED)
        found.append(result.f)
        start = levels[k].lifted(result.g, levels[k].problem.b)
        correction = correction_of(levels, found[::-1], k - 1)
    assert start is not None
    start = torch.where((solved & leaves)[:, None], start, first)
    if correction is not None:
        correction = replace(correction, active=correction.active & solved)
    return refine(solver, problem, start, limits, on_support=False, correction=correction, is_lifted=True)


def refine(
    solver: Solver,
    problem: Problem,
    f: Tensor | None,
    limits: Limits,
    *,
    on_support: bool,
    correction: Correction | None = None,
    is_lifted: bool = False,
) -> Result:
    """Refine f, batch n, by one method: on the atoms with mass, or on all.

    Steps of Sinkhorn may have a correction; a start that is lifted from a coarser grid is near the solution.
    """
    counted = _counted(problem) if isinstance(solver, Sinkhorn | Newton | Symmetric) else problem
    eps, rows, part = expand_eps(problem.eps, problem.a), None, counted
    if on_support:
        rows, part = _support(counted)
        f = None if f is None else f.gather(-1, rows) / eps
    state = _start(solver, part, f, good=LIFTED if is_lifted else GOOD)
    if isinstance(state, SinkhornState):
        state = corrected(part, state, correction)
    result = iterate(solver, part, state, tol=limits.tol, max_steps=limits.max_steps)
    found = result.value.f
    if rows is not None:
        found = torch.where(part.a != 0, found, 0.0) * eps
        found = torch.zeros_like(problem.a).scatter_add(-1, rows, found)
    completed = _completed_symmetric if isinstance(solver, Symmetric) else _completed
    return completed(problem, counted, found, result.steps)


def _counted(problem: Problem) -> Problem:
    """Leave out tiny weights; replace those of instances that are not `_valid` by equal ones."""
    sides = [torch.where(w.isfinite() & _counts(problem, w), w, 0.0) for w in (problem.a, problem.b)]
    valid = _valid(problem)
    if torch.equal(sides[0], problem.a) and torch.equal(sides[1], problem.b) and bool(valid.all()):
        return problem
    a, b = (torch.where(valid[:, None], w, 1.0 / w.shape[-1]) for w in sides)
    return Problem.trusted(a, b, problem.geometry, problem.eps, problem.marginals)


def _valid(problem: Problem) -> Bool[Tensor, "batch"]:
    """Return which instances have finite weights, and on either side one that counts."""
    some = _counts(problem, problem.a).any(-1) & _counts(problem, problem.b).any(-1)
    return (problem.a.sum(-1) + problem.b.sum(-1)).isfinite() & some


def _counts(problem: Problem, weights: Float[Tensor, "batch n"]) -> Bool[Tensor, "batch n"]:
    """Return which atoms have mass that counts, of a mass of one or of what there is."""
    mass = 1.0 if problem.is_balanced else weights.sum(-1, keepdim=True)
    return (weights >= SMALLEST_WEIGHT * mass) & (weights > 0)


def _support(problem: Problem) -> tuple[Int[Tensor, "batch k"], Problem]:
    """Return the source atoms with mass, and the problem between atoms with mass, in units of eps."""
    (rows, a), (columns, b) = _with_mass(problem.a), _with_mass(problem.b)
    C = problem.geometry.cost_block(rows, columns).to(a).div_(expand_eps(problem.eps, a, 2))
    return rows, Problem.trusted(a, b, Dense.trusted(C), 1.0, problem.marginals.in_units_of(problem.eps))


def _with_mass(weights: Float[Tensor, "batch n"]) -> tuple[Int[Tensor, "batch k"], Float[Tensor, "batch k"]]:
    """Return the atoms with mass, padded to the most of an instance with atoms without, and their weights."""
    mass = weights != 0
    most = int(mass.sum(-1).amax()) if len(weights) else 1
    atoms = mass.byte().argsort(dim=-1, descending=True, stable=True)[:, :most]
    return atoms, weights.gather(-1, atoms)


def _completed(problem: Problem, counted: Problem, f: Float[Tensor, "batch n"], steps: Tensor) -> Result:
    """Continue f, known on the atoms that count, by the best g and to all atoms; measure the error in float64.

    The error is that of the source's marginal; the target's is exact, up to the dtype. Potentials that are not
    finite are replaced by zeros, with an infinite error.
    """
    g = c_transform(counted, f)
    best = exact_transform(counted.T, g)
    f = torch.where(counted.a != 0, f, counted.marginals.source.best(best, counted.eps))
    if counted is not problem:  # between two atoms with tiny masses nothing else bounds what is sent
        g = torch.where(counted.b != 0, g, c_transform(problem, f))
    if problem.a.dtype == torch.float64:
        error = _step_error(problem, f, best)
    else:
        error = exact_marginal_error(problem, DualPotentials(f, g)).to(f)
    finite = (f.sum(-1) + g.sum(-1) + error).isfinite() & _valid(problem)
    if not bool(finite.all()):
        f, g = (torch.where(finite[:, None], potential, 0.0) for potential in (f, g))
        error = torch.where(finite, error, torch.inf)
    return Result(f, g, error, steps)


def _completed_symmetric(problem: Problem, counted: Problem, f: Float[Tensor, "batch n"], steps: Tensor) -> Result:
    """Continue the potential of measures to themselves to all atoms; measure the error in float64."""
    exact = counted.normalised()
    eps = expand_eps(exact.eps, exact.a)
    state = evaluated(exact, torch.where(exact.a != 0, f.to(exact.a) / eps, 0.0), Anderson.of(exact.a[:, :1]))
    found, valid = Symmetric().value(exact, state, slice(None)), _valid(problem)
    finite = ((found.f + found.g).sum(-1) + state.error).isfinite() & valid
    f, g = (torch.where(finite[:, None], potential, 0.0).to(problem.a) for potential in (found.f, found.g))
    return Result(f, g, torch.where(finite, state.error, torch.inf).to(problem.a), steps)


def _step_error(problem: Problem, f: Tensor, best: Tensor) -> Float[Tensor, "batch"]:
    """Return the error of the source's marginal of f and g(f), to which `best` is the best balanced potential."""
    marginal = tilted(problem.a, (f - best) / expand_eps(problem.eps, f))
    return relative_error(problem, side_error(problem, f, marginal), marginal.sum(-1))


def _start(
    solver: Solver[Problem, StateT, DualPotentials],
    problem: Problem,
    f: Float[Tensor, "batch n"] | None,
    *,
    good: float = GOOD,
) -> StateT:
    """Return the state of f, or of zeros where these are the better start."""
    if f is None:
        return solver.init(problem, None)
    guess = DualPotentials(_reasonable(problem, f), problem.b.new_zeros(1).expand_as(problem.b))
    state = solver.init(problem, guess)
    if isinstance(solver, Symmetric):  # which has compared it with zeros
        return state
    start, error = solver.value(problem, state, slice(None)), solver.error(problem, state)
    worse = worse_than_zeros(problem, start, error, rivals=not isinstance(solver, Newton), good=good)
    if not bool(worse.any()):
        return state
    return solver.init(problem, DualPotentials(torch.where(worse[:, None], 0.0, guess.f), guess.g))


def worse_than_zeros(
    problem: Problem,
    start: DualPotentials,
    error: Float[Tensor, "batch"],
    *,
    rivals: bool = True,
    good: float = GOOD,
) -> Bool[Tensor, "batch"]:
    """Return which starts are worse than f = 0.

    A start with a small error is kept. Others are worse if their dual value is below that of zeros; with `rivals`,
    a start with a large error is also worse unless it clearly beats the first steps from zeros.
    """
    if bool((error <= good).all()):
        return torch.zeros_like(error, dtype=torch.bool)
    value = best_value(problem, start)
    zeros = DualPotentials.from_f(problem, torch.zeros_like(start.f))
    worse = ~(value >= best_value(problem, zeros)) & ~(error <= good)
    doubtful = ~(error <= max(good, DOUBTFUL))
    if rivals and bool(doubtful.any()):
        first = DualPotentials.from_f(problem, c_transform(problem.T, zeros.g))
        best = exact_transform(problem.T, first.g)
        second = DualPotentials(problem.marginals.source.best(best, problem.eps), first.g)
        rival = _step_error(problem, first.f, best)
        worse |= doubtful & ~((value >= best_value(problem, second)) & (error <= 0.5 * rival))
    return worse


def _reasonable(problem: Problem, f: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Centre f, with zeros on atoms without mass; replace potentials that are huge or not finite by zeros.

    Where marginals have a price a constant has a meaning, and stays.
    """
    f = torch.where(problem.a != 0, f, 0.0)
    f = centred(problem.a, f) if problem.is_balanced else problem.marginals.source.bounded(f)
    size = torch.where(problem.a != 0, f, 0.0).abs().amax(-1, keepdim=True)
    return torch.where(size <= LARGEST * expand_eps(problem.eps, f), f, 0.0)
