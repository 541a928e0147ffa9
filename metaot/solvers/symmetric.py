"""The potential of a measure to itself, by the symmetric iteration (Feydy et al., arXiv 1810.08278, section 3.1).

Both sides have one potential, f, which moves half of the way to the best one for it: at least half of the error is
gone after each step, at every eps, if the kernel exp(-C/eps) is positive definite. Anderson acceleration
(`metaot.solvers.anderson`) does the rest. A step is one product with the kernel. Where the marginals have a price,
the same on both sides, the best potential is the one at that price (Sejourne et al., arXiv 1910.12958).
"""

from dataclasses import dataclass, replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.geometry import Geometry
from metaot.geometry.base import expand_eps
from metaot.geometry.checks import first_place
from metaot.marginals import Marginal
from metaot.potentials import DualPotentials, exact_transform, relative_error, side_error, tilted
from metaot.problem import Problem
from metaot.solvers.anderson import Anderson
from metaot.solvers.iterate import Solver

_ROWS, _ALIKE = 8, 1e-6
"""Rows of C that are compared with its columns, and how far they may differ, relative to the largest."""


@final
@dataclass(frozen=True)
class SymmetricState:
    """A potential x in units of eps, the best one for it, half of their difference, and the error of x."""

    x: Float[Tensor, "batch n"]
    best: Float[Tensor, "batch n"]
    residual: Float[Tensor, "batch n"]
    error: Float[Tensor, "batch"]
    path: Anderson


@final
@dataclass(frozen=True)
class Symmetric(Solver[Problem, SymmetricState, DualPotentials]):
    """Symmetric steps, for problems between a measure and itself; a step is half of a step of `Sinkhorn`.

    In the solution f is the potential that both sides share, and g the best one for it: they differ by the error,
    which is that of both marginals of the plan of (f, f).
    """

    def init(self, problem: Problem, guess: DualPotentials | None) -> SymmetricState:
        path = Anderson.of(problem.a)
        zeros = evaluated(problem, torch.zeros_like(problem.a), path)
        if guess is None:
            return zeros
        eps = expand_eps(problem.eps, problem.a)
        start = evaluated(problem, torch.where(problem.a != 0, guess.f / eps, 0.0), path)
        rival = evaluated(problem, zeros.x + zeros.residual, path)
        worse = ~(start.error <= rival.error)
        return (
            evaluated(problem, torch.where(worse[:, None], rival.x, start.x), path) if bool(worse.any()) else start
        )

    def step(self, problem: Problem, state: SymmetricState) -> SymmetricState:
        x, path = state.path.next(state.x, state.residual)
        return evaluated(problem, _side(problem).bounded(x), path)

    def adjust(self, problem: Problem, state: SymmetricState, error: Float[Tensor, "batch"]) -> SymmetricState:
        return replace(state, path=state.path.judged(state.x, state.residual, error))

    def error(self, problem: Problem, state: SymmetricState) -> Float[Tensor, "batch"]:
        return state.error

    def value(self, problem: Problem, state: SymmetricState, which: Tensor | slice) -> DualPotentials:
        eps = expand_eps(problem.eps, state.x)
        return DualPotentials(eps * torch.where(problem.a != 0, state.x, state.best), eps * state.best)[which]


def evaluated(problem: Problem, x: Float[Tensor, "batch n"], path: Anderson) -> SymmetricState:
    """Return x with what belongs to it.

    If the problem is balanced, x is shifted such that the mass of its plan is one to first order.
    """
    eps = expand_eps(problem.eps, x)
    exact = exact_transform(problem, eps * x) / eps
    if problem.is_balanced:
        level = torch.where(problem.a != 0, problem.a * (exact - x), 0.0).sum(-1, keepdim=True) / 2
        x, exact = x + level, exact - level
    best = _side(problem).best(exact, 1.0)
    residual = torch.where(problem.a != 0, (best - x) / 2, 0.0)
    marginal = tilted(problem.a, torch.where(problem.a != 0, x - exact, 0.0))
    error = 2 * relative_error(problem, side_error(problem, eps * x, marginal), marginal.sum(-1))
    return SymmetricState(x, best, residual, error, path)


def _side(problem: Problem) -> Marginal:
    """Return the price of either marginal, in units of eps."""
    return problem.marginals.in_units_of(problem.eps).source


def require_symmetric(problem: Problem) -> None:
    """Raise ValueError unless the problems are between a measure and itself."""
    wanted = "Symmetric solves problems between a measure and itself"
    if problem.a.shape != problem.b.shape or not torch.equal(problem.a, problem.b):
        different = "sizes" if problem.a.shape != problem.b.shape else f"weights: a{_first(problem)}"
        raise ValueError(f"{wanted}, got a and b of different {different}; take Sinkhorn() or Newton()")
    if not problem.marginals.are_alike:
        sides = f"({problem.marginals.source}, {problem.marginals.target})"
        raise ValueError(f"{wanted} and one price for both marginals, got {sides}; take Sinkhorn() or Newton()")
    where = asymmetry(problem.geometry)
    if where:
        raise ValueError(f"{wanted} with symmetric costs, got {where}")


@torch.no_grad()
def asymmetry(geometry: Geometry) -> str | None:
    """Return where costs differ from those of the transposed space; None for symmetric ones.

    Of costs between points a few rows are looked at.
    """
    axes, points = geometry.axis_costs, geometry.points
    if axes is None and points is not None and geometry.cost_name is not None and _coincide(*points):
        return None
    rows = slice(None) if points is None else slice(0, _ROWS)
    sides = [(geometry.cost_rows(rows), geometry.T.cost_rows(rows))] if axes is None else [(C, C.mT) for C in axes]
    for C, D in sides:
        scale = torch.where(C.isfinite(), C, 0.0).abs().amax()
        alike = (C == D) | ((C - D).abs() <= _ALIKE * scale)
        if not bool(alike.all()):
            return f"C{first_place(~alike, C)} and its transpose{first_place(~alike, D)}"
    return None


def _coincide(x: Tensor, y: Tensor) -> bool:
    return x is y or (x.shape == y.shape and torch.equal(x, y))


def _first(problem: Problem) -> str:
    bad = problem.a != problem.b
    return f"{first_place(bad, problem.a)} and b{first_place(bad, problem.b)}"
