"""Torch as a back end: any device, dtype and size; on the atoms with mass where that pays."""

import math
from typing import final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.core.method import FACTORISED, SMALLEST_WEIGHT, BackEnd, Index, Result
from metaot.geometry import Grid
from metaot.geometry.base import expand_eps
from metaot.objectives.dual import linear_value
from metaot.potentials import DualPotentials, c_transform, centred, exact_marginal_error, tilted
from metaot.problem import Problem
from metaot.solvers.iterate import Solver, StateT, iterate
from metaot.solvers.newton import Newton
from metaot.solvers.sinkhorn import Sinkhorn
from metaot.solvers.support import Support

GOOD = 0.01
"""L1 error of a start up to which it is taken without comparison."""

DOUBTFUL = 0.1
"""L1 error of a start above which it must beat two steps from zeros by dual value, and halve the error of one."""

LARGEST = 1e8
"""Potentials beyond this many eps leave too few digits for the cost."""

_BLOCK = 2**22
"""Entries of the plans that Newton holds at once."""


@final
class InTorch(BackEnd):
    """A flat batch of problems, and the solvers of this package, iterated by the one loop."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        sizes = [(w >= SMALLEST_WEIGHT).sum(-1).detach().cpu().numpy() for w in (problem.a, problem.b)]
        self.sizes = list(zip(np.minimum(*sizes).tolist(), np.maximum(*sizes).tolist(), strict=True))
        self._exchanged, geometry, eps = sizes[0] > sizes[1], problem.geometry, problem.eps
        self.axis_points = math.inf
        if isinstance(geometry, Grid) and len(geometry.sizes) > 1:
            self.axis_points = float(sum(geometry.sizes))
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
        *,
        tol: float,
        max_steps: int,
        accelerated: bool = True,
        on_support: bool = False,
    ) -> Result:
        part, solver = self._part(index), Sinkhorn(accelerated)
        return refine(solver, part, f, tol=tol, max_steps=max_steps, on_support=on_support)

    def newton(self, index: Index, f: Tensor | None, *, tol: float, max_steps: int, warmer: float = 1.0) -> Result:
        problem, limits = self._part(index), {"tol": tol, "max_steps": max_steps}
        problem = Problem.trusted(problem.a, problem.b, problem.geometry, problem.eps * warmer)
        sizes = self.sizes if isinstance(index, slice) else [self.sizes[k] for k in index]
        if max(few for few, _ in sizes) > FACTORISED:
            return refine(Newton(), problem, f, **limits, on_support=False)
        result, exchanged = no_result(problem), self._exchanged[index]
        together = max(1, _BLOCK // max(1, *(few * many for few, many in sizes)))
        for side, turned in ((exchanged, True), (~exchanged, False)):
            some = side.nonzero()[0]
            for chosen in (some[k : k + together] for k in range(0, len(some), together)):
                part, start = problem[torch.from_numpy(chosen)], None if f is None else f[chosen]
                if turned:
                    start, part = None if start is None else c_transform(part, start), part.T
                found = refine(Newton(), part, start, **limits, on_support=True)
                result.update(chosen, Result(found.g, found.f, found.error, found.steps) if turned else found)
        return result

    def no_result(self) -> Result:
        return no_result(self.problem)

    def numbers(self, values: Tensor) -> np.ndarray:
        return values.detach().cpu().numpy()

    def _part(self, index: Index) -> Problem:
        return self.problem if isinstance(index, slice) else self.problem[torch.from_numpy(index)]


def no_result(problem: Problem) -> Result:
    """Return room for results: zeros, of no steps, with an infinite error."""
    error = problem.a.new_full((len(problem.a),), torch.inf)
    steps = torch.zeros_like(error, dtype=torch.int64)
    return Result(torch.zeros_like(problem.a), torch.zeros_like(problem.b), error, steps)


def refine(
    solver: Solver,
    problem: Problem,
    f: Float[Tensor, "batch n"] | None,
    *,
    tol: float,
    max_steps: int,
    on_support: bool,
) -> Result:
    """Refine f by one method: on the atoms with mass, or on all."""
    counted = _counted(problem) if isinstance(solver, Sinkhorn | Newton) else problem
    guess = None if f is None else DualPotentials(f, problem.b.new_zeros(1).expand_as(problem.b))
    if not on_support:
        result = iterate(solver, counted, _start(solver, counted, guess), tol=tol, max_steps=max_steps)
        return _completed(problem, counted, result.value.f, result.steps)
    support = Support.of(counted)
    guess = None if guess is None else support.gathered(counted, guess)
    state = _start(solver, support.problem, guess)
    result = iterate(solver, support.problem, state, tol=tol, max_steps=max_steps)
    return _completed(problem, counted, support.spread(counted, result.value.f), result.steps)


def _counted(problem: Problem) -> Problem:
    """Leave out tiny weights; replace those of instances that are not `_valid` by equal ones."""
    sides = [torch.where(w.isfinite() & (w >= SMALLEST_WEIGHT), w, 0.0) for w in (problem.a, problem.b)]
    valid = _valid(problem)
    if torch.equal(sides[0], problem.a) and torch.equal(sides[1], problem.b) and bool(valid.all()):
        return problem
    a, b = (torch.where(valid[:, None], w, 1.0 / w.shape[-1]) for w in sides)
    return Problem.trusted(a, b, problem.geometry, problem.eps)


def _valid(problem: Problem) -> Bool[Tensor, "batch"]:
    """Return which instances have numbers as weights, and one on either side that counts."""
    largest = torch.minimum(problem.a.amax(-1), problem.b.amax(-1))
    return (problem.a.sum(-1) + problem.b.sum(-1)).isfinite() & (largest >= SMALLEST_WEIGHT)


def _completed(
    problem: Problem, counted: Problem, f: Float[Tensor, "batch n"], steps: Int[Tensor, "batch"]
) -> Result:
    """Continue f, known on the atoms that count, by the best g and to all atoms; measure the error in float64.

    The error is that of the source's marginal; the target's is exact, up to the dtype. Where potentials are not
    finite, they are replaced by zeros, and the error is infinite.
    """
    g = c_transform(counted, f)
    best = c_transform(counted.T, g)
    f = torch.where(counted.a != 0, f, best)
    if counted is not problem:  # between two atoms with tiny masses nothing else bounds what is sent
        g = torch.where(counted.b != 0, g, c_transform(problem, f))
    if problem.a.dtype == torch.float64:
        marginal = tilted(problem.a, (f - best) / expand_eps(problem.eps, f))
        error = torch.linalg.vector_norm(marginal - problem.a, 1, -1)
    else:
        error = exact_marginal_error(problem, DualPotentials(f, g)).to(f)
    finite = (f.sum(-1) + g.sum(-1) + error).isfinite() & _valid(problem)
    if not bool(finite.all()):
        f, g = (torch.where(finite[:, None], potential, 0.0) for potential in (f, g))
        error = torch.where(finite, error, torch.inf)
    return Result(f, g, error, steps)


def _start(
    solver: Solver[Problem, StateT, DualPotentials], problem: Problem, guess: DualPotentials | None
) -> StateT:
    """Return the state of a guess, or of zeros where these are the better start."""
    if guess is None:
        return solver.init(problem, None)
    guess = DualPotentials(_reasonable(problem, guess.f), guess.g)
    state = solver.init(problem, guess)
    start, error = solver.value(problem, state, slice(None)), solver.error(problem, state)
    worse = worse_than_zeros(problem, start, error, rivals=not isinstance(solver, Newton))
    if not bool(worse.any()):
        return state
    return solver.init(problem, DualPotentials(torch.where(worse[:, None], 0.0, guess.f), guess.g))


def worse_than_zeros(
    problem: Problem, start: DualPotentials, error: Float[Tensor, "batch"], *, rivals: bool = True
) -> Bool[Tensor, "batch"]:
    """Return which starts are worse than f = 0.

    A start with a small error is not. Others are where their dual value is below that of zeros, and with `rivals`
    doubtful ones where they are not clearly better than the first steps from zeros.
    """
    if bool((error <= GOOD).all()):
        return torch.zeros_like(error, dtype=torch.bool)
    value = linear_value(problem, start)
    zeros = DualPotentials.from_f(problem, torch.zeros_like(start.f))
    worse = ~(value >= linear_value(problem, zeros)) & ~(error <= GOOD)
    doubtful = ~(error <= DOUBTFUL)
    if rivals and bool(doubtful.any()):
        f = c_transform(problem.T, zeros.g)
        first = DualPotentials.from_f(problem, f)
        f = c_transform(problem.T, first.g)
        second = DualPotentials(f, first.g)
        missing = tilted(problem.a, (first.f - f) / expand_eps(problem.eps, f)) - problem.a
        rival = torch.linalg.vector_norm(missing, 1, -1)
        worse |= doubtful & ~((value >= linear_value(problem, second)) & (error <= 0.5 * rival))
    return worse


def _reasonable(problem: Problem, f: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Remove what means nothing of potentials; replace them by zeros where they are huge or not finite."""
    f = centred(problem.a, torch.where(problem.a != 0, f, 0.0))
    size = torch.where(problem.a != 0, f, 0.0).abs().amax(-1, keepdim=True)
    return torch.where(size <= LARGEST * expand_eps(problem.eps, f), f, 0.0)
