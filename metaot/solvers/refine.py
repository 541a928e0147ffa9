"""One method on a flat batch in torch: between the atoms with mass, from a start that is compared with zeros."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.core.method import SMALLEST_WEIGHT, Limits, Result
from metaot.geometry import Dense, Points
from metaot.geometry.base import expand_eps, replaced
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
from metaot.solvers.newton import Newton
from metaot.solvers.sinkhorn import Sinkhorn, SinkhornState, corrected
from metaot.solvers.symmetric import Symmetric, evaluated

GOOD, DOUBTFUL = 0.01, 0.1
"""L1 errors of a start: up to the first it is kept without comparison; above the second it must beat two steps
from zeros by dual value, and halve the error of one."""

LIFTED = 0.5
"""The first of them for a start that is lifted from a coarser level."""

LARGEST = 1e8
"""Potentials beyond this many eps leave too few digits for the cost."""

_MATRIX = 2**26
"""Entries of the largest matrix between atoms of clouds that have mass: 512 MiB."""


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

    Steps of Sinkhorn may have a correction; a start that is lifted from a coarser level is near the solution.
    """
    part = kept = counted(problem) if isinstance(solver, Sinkhorn | Newton | Symmetric) else problem
    eps, rows = 1.0, None
    if on_support:
        eps, rows, part = _support(kept)
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
    return completed(problem, kept, found, result.steps)


def counted(problem: Problem) -> Problem:
    """Leave out tiny weights; replace those of instances that are not `_valid` by equal ones."""
    sides = [torch.where(w.isfinite() & counts(problem, w), w, 0.0) for w in (problem.a, problem.b)]
    valid = _valid(problem)
    if torch.equal(sides[0], problem.a) and torch.equal(sides[1], problem.b) and bool(valid.all()):
        return problem
    a, b = (torch.where(valid[:, None], w, 1.0 / w.shape[-1]) for w in sides)
    return Problem.trusted(a, b, problem.geometry, problem.eps, problem.marginals)


def _valid(problem: Problem) -> Bool[Tensor, "batch"]:
    """Return which instances have finite weights, and on either side one that counts."""
    some = counts(problem, problem.a).any(-1) & counts(problem, problem.b).any(-1)
    return (problem.a.sum(-1) + problem.b.sum(-1)).isfinite() & some


def counts(problem: Problem, weights: Float[Tensor, "batch n"]) -> Bool[Tensor, "batch n"]:
    """Return which atoms have mass that counts, of a mass of one or of what there is."""
    mass = 1.0 if problem.is_balanced else weights.sum(-1, keepdim=True)
    return (weights >= SMALLEST_WEIGHT * mass) & (weights > 0)


def _support(problem: Problem) -> tuple[float | Tensor, Int[Tensor, "batch k"], Problem]:
    """Return the unit of costs, the source atoms with mass, and the problem between atoms with mass in this unit.

    The unit is eps for a matrix; between clouds that are too large for one, costs are as they were.
    """
    (rows, a), (columns, b) = _with_mass(problem.a), _with_mass(problem.b)
    if isinstance(problem.geometry, Points) and a.numel() * b.shape[-1] > _MATRIX:
        return 1.0, *cloud_with_mass(problem)
    eps = expand_eps(problem.eps, a)
    C = problem.geometry.cost_block(rows, columns).to(a).div_(expand_eps(problem.eps, a, 2))
    part = Problem.trusted(a, b, Dense.trusted(C), 1.0, problem.marginals.in_units_of(problem.eps))
    return eps, rows, part


def cloud_with_mass(problem: Problem) -> tuple[Int[Tensor, "batch k"], Problem]:
    """Return the source atoms with mass, and the problem between the points with mass."""
    (rows, a), (columns, b) = _with_mass(problem.a), _with_mass(problem.b)
    if bool((problem.a > 0).all() & (problem.b > 0).all()):
        return rows, problem
    cloud = problem.geometry
    assert isinstance(cloud, Points)
    x, y = (
        z.expand(len(a), -1, -1).gather(1, atoms[..., None].expand(-1, -1, z.shape[-1]))
        for z, atoms in zip(cloud.points, (rows, columns), strict=True)
    )
    return rows, Problem.trusted(a, b, replaced(cloud, x=x, y=y), problem.eps, problem.marginals)


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
