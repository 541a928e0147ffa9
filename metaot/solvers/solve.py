"""`solve`: refine a start until each instance has converged."""

from typing import Any, Protocol, overload, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from metaot.brenier import BrenierPair, SampleProblem
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.single import Refined
from metaot.solvers.alone import Alone, refine_alone
from metaot.solvers.choose import refine_by, small_and_single
from metaot.solvers.iterate import Solver
from metaot.solvers.maps import MapSolution, PairPredictor, solve_map
from metaot.solvers.solution import Solution


@runtime_checkable
class PotentialPredictor(Protocol):
    """Anything that predicts potentials of a problem."""

    def predict(self, problem: Problem) -> DualPotentials:
        """Return a guess of the solution."""
        ...


@runtime_checkable
class WarmStarter(Protocol):
    """A predictor that says itself what a solver starts from; see `metaot.amortize.Predictor`."""

    def warm_start(self, problem: Problem) -> Tensor:
        """Return the potential f to start from, which may be overwritten."""
        ...


@overload
def solve(
    problem: Problem,
    *,
    init: DualPotentials | PotentialPredictor | None = None,
    solver: Solver | None = None,
    tol: float = 1e-6,
    max_steps: int = 10_000,
) -> Solution: ...


@overload
def solve(
    problem: SampleProblem,
    *,
    init: BrenierPair | PairPredictor | None = None,
    solver: Solver | None = None,
    tol: float = 1e-6,
    max_steps: int = 10_000,
) -> MapSolution: ...


@torch.no_grad()
def solve(
    problem: Problem | SampleProblem,
    *,
    init: Any = None,
    solver: Solver | None = None,
    tol: float = 1e-6,
    max_steps: int = 10_000,
) -> Solution | MapSolution:
    """Solve a batch of entropic transport problems, each to an L1 marginal error of at most `tol`.

    `init` is where to start: potentials, of which f is used, or anything with `predict(problem)`; for the squared
    distance on a `Grid` with two axes or on planar `Points`, `metaot.load("universal")` is near every solution. A
    start that zeros are better than, or NaN, is replaced by zeros, instance by instance: by dual value, and far
    from the solution by the first steps as well. `solver` holds the settings of a method; None makes accelerated
    Sinkhorn steps, and turns to Newton for instances with up to about a thousand atoms with mass on the smaller
    side that Sinkhorn would take long for. An instance that needs more than `max_steps` steps is returned as it is
    then, with `converged` false; nothing is raised. ValueError is raised for contradictory arguments.

    Small problems on a CPU, in float64, are solved without torch; others together in torch, on their device.
    A `SampleProblem` is solved by `W2GN` or `GaussNewton`: see `metaot.solvers.maps.solve_map`.
    """
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}")
    if max_steps < 0:
        raise ValueError(f"max_steps must not be negative, got {max_steps}")
    if isinstance(problem, SampleProblem):
        return solve_map(problem, init=init, solver=solver, tol=tol, max_steps=max_steps)
    f = None if init is None else _start(problem, init)
    if small_and_single(problem):
        start = None if f is None else f.numpy().reshape(-1)
        refined, solvers = refine_alone(Alone.of(problem), start, solver, tol=tol, max_steps=max_steps)
        return _solution_alone(problem, refined, tol, solvers)
    flat = problem.flat()
    guess = None if f is None else DualPotentials(f.reshape(flat.a.shape), flat.b.new_zeros(1).expand_as(flat.b))
    result, solvers = refine_by(solver, flat, guess, tol=tol, max_steps=max_steps)
    potentials, batch = result.potentials, problem.batch_shape
    return Solution(
        problem=problem,
        potentials=DualPotentials(potentials.f.reshape(problem.a.shape), potentials.g.reshape(problem.b.shape)),
        error=result.error.reshape(batch),
        converged=(result.error <= tol).reshape(batch),
        steps=result.steps.reshape(batch),
        solvers=solvers,
    )


def _solution_alone(problem: Problem, result: Refined, tol: float, solvers: tuple[Solver, ...]) -> Solution:
    batch, shapes = problem.batch_shape, (problem.a.shape, problem.b.shape)
    f, g, error, converged, steps = map(
        torch.from_numpy,
        (
            result.f.reshape(shapes[0]),
            result.g.reshape(shapes[1]),
            np.full(batch, result.error),
            np.full(batch, result.error <= tol),
            np.full(batch, result.steps),
        ),
    )
    return Solution(problem, DualPotentials(f, g), error, converged, steps, solvers)


def _start(problem: Problem, init: DualPotentials | PotentialPredictor) -> Tensor:
    """Return f, which may be overwritten: a predictor's `warm_start`, if it has one, else that of its guess."""
    if isinstance(init, WarmStarter):
        return _fitted("f", torch.as_tensor(init.warm_start(problem)), problem.a)
    guess = init if isinstance(init, DualPotentials) else init.predict(problem)
    f = _fitted("f", torch.as_tensor(guess.f), problem.a)
    _fitted("g", torch.as_tensor(guess.g), problem.b)
    return f.clone()


def _fitted(name: str, potential: Tensor, weights: Tensor) -> Tensor:
    if potential.shape != weights.shape:
        raise ValueError(
            f"init.{name} has the shape {tuple(potential.shape)}, the problem's weights {tuple(weights.shape)}"
        )
    same = potential.dtype == weights.dtype and potential.device == weights.device
    return potential if same else potential.to(weights)
