"""One method, from a start to certified potentials: on the atoms with mass where that pays, on all in the end."""

from dataclasses import dataclass
from typing import final

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from metaot.geometry.base import expand_eps
from metaot.objectives.dual import linear_value
from metaot.potentials import DualPotentials, c_transform, centred, tilted
from metaot.problem import Problem
from metaot.single.start import DOUBTFUL, GOOD, HUGE
from metaot.solvers.iterate import Solver, StateT, iterate
from metaot.solvers.newton import Newton
from metaot.solvers.support import Support


@final
@dataclass(frozen=True)
class Refined:
    """Potentials of a flat batch, and for each instance its error and its steps."""

    potentials: DualPotentials
    error: Float[Tensor, "batch"]
    steps: Int[Tensor, "batch"]

    @property
    def T(self) -> "Refined":
        """The same for the problems with source and target exchanged."""
        return Refined(self.potentials.T, self.error, self.steps)

    def put(self, index: Tensor | slice, other: "Refined") -> None:
        """Take over what became of some instances, and add their steps."""
        self.potentials.f[index], self.potentials.g[index] = other.potentials.f, other.potentials.g
        self.error[index] = other.error
        self.steps[index] += other.steps


def refine(
    solver: Solver, problem: Problem, guess: DualPotentials | None, *, tol: float, max_steps: int, whole: bool
) -> Refined:
    """Refine a guess by one method: on the `whole`, or on the support; for Newton with the smaller sides first."""
    if whole:
        result = iterate(solver, problem, _start(solver, problem, guess), tol=tol, max_steps=max_steps)
        return completed(problem, result.value.f, result.steps)
    if not isinstance(solver, Newton):
        return _on_support(solver, problem, guess, tol, max_steps)
    exchanged = (problem.a != 0).sum(-1) > (problem.b != 0).sum(-1)
    if not bool(exchanged.any()):
        return _on_support(solver, problem, guess, tol, max_steps)
    if bool(exchanged.all()):
        guess = None if guess is None else DualPotentials.from_f(problem, guess.f).T
        return _on_support(solver, problem.T, guess, tol, max_steps).T
    result = room(problem)
    for side in (exchanged, ~exchanged):
        mine = None if guess is None else guess[side]
        result.put(side, refine(solver, problem[side], mine, tol=tol, max_steps=max_steps, whole=False))
    return result


def _on_support(
    solver: Solver, problem: Problem, guess: DualPotentials | None, tol: float, max_steps: int
) -> Refined:
    support = Support.of(problem)
    guess = None if guess is None else support.gathered(problem, guess)
    state = _start(solver, support.problem, guess)
    result = iterate(solver, support.problem, state, tol=tol, max_steps=max_steps)
    return completed(problem, support.spread(problem, result.value.f), result.steps)


def completed(problem: Problem, f: Float[Tensor, "batch n"], steps: Int[Tensor, "batch"]) -> Refined:
    """Continue f, known on the atoms with mass, by the best g and to all atoms; measure the error on the whole.

    The error is that of the source's marginal; the target's is exact.
    """
    g = c_transform(problem, f)
    best = c_transform(problem.T, g)
    marginal = tilted(problem.a, (f - best) / expand_eps(problem.eps, f))
    error = torch.linalg.vector_norm(marginal - problem.a, 1, -1)
    return Refined(DualPotentials(torch.where(problem.a != 0, f, best), g), error, steps)


def room(problem: Problem) -> Refined:
    """Return room for results."""
    error = problem.a.new_zeros(len(problem.a))
    potentials = DualPotentials(torch.empty_like(problem.a), torch.empty_like(problem.b))
    return Refined(potentials, error, torch.zeros_like(error, dtype=torch.int64))


def _start(
    solver: Solver[Problem, StateT, DualPotentials], problem: Problem, guess: DualPotentials | None
) -> StateT:
    """Return the state of a guess, or of zeros where these are the better start."""
    if guess is None:
        return solver.init(problem, None)
    guess = DualPotentials(_reasonable(problem, centred(problem.a, guess.f)), guess.g)
    state = solver.init(problem, guess)
    worse = worse_than_zeros(problem, solver.value(problem, state, slice(None)), solver.error(problem, state))
    if not bool(worse.any()):
        return state
    return solver.init(problem, DualPotentials(torch.where(worse[:, None], 0.0, guess.f), guess.g))


def worse_than_zeros(
    problem: Problem, start: DualPotentials, error: Float[Tensor, "batch"]
) -> Bool[Tensor, "batch"]:
    """Tell which starts zeros are better than, by the rule of `metaot.single.start`."""
    if bool((error <= GOOD).all()):
        return torch.zeros_like(error, dtype=torch.bool)
    value = linear_value(problem, start)
    zeros = DualPotentials.from_f(problem, torch.zeros_like(start.f))
    worse = ~(value >= linear_value(problem, zeros)) & ~(error <= GOOD)
    doubtful = ~(error <= DOUBTFUL)
    if bool(doubtful.any()):
        f = c_transform(problem.T, zeros.g)
        first = DualPotentials.from_f(problem, f)
        f = c_transform(problem.T, first.g)
        second = DualPotentials(f, first.g)
        missing = tilted(problem.a, (first.f - f) / expand_eps(problem.eps, f)) - problem.a
        rival = torch.linalg.vector_norm(missing, 1, -1)
        worse |= doubtful & ~((value >= linear_value(problem, second)) & (error <= 0.5 * rival))
    return worse


def _reasonable(problem: Problem, f: Float[Tensor, "batch n"]) -> Float[Tensor, "batch n"]:
    """Replace the potentials of instances by zeros where they are huge or not finite."""
    size = torch.where(problem.a != 0, f, 0.0).abs().amax(-1, keepdim=True)
    good = (size <= HUGE * expand_eps(problem.eps, f)) & f.isfinite().all(-1, keepdim=True)
    return torch.where(good, f, 0.0)
