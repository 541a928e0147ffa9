"""`solve`: refine a start until each instance has converged."""

from typing import Any, Protocol, overload, runtime_checkable

import torch
from torch import Tensor

from metaot import core
from metaot.brenier import BrenierPair, SampleProblem
from metaot.core import method
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers.in_torch import InTorch, refine
from metaot.solvers.iterate import Solver
from metaot.solvers.maps import MapSolution, MapSolver, PairPredictor, solve_map
from metaot.solvers.newton import Newton
from metaot.solvers.sinkhorn import Sinkhorn
from metaot.solvers.solution import Solution
from metaot.solvers.w2gn import W2GN


@runtime_checkable
class PotentialPredictor(Protocol):
    """Anything that predicts potentials of a problem."""

    def predict(self, problem: Problem) -> DualPotentials:
        """Return a guess of the solution."""
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
    start is replaced by zeros, instance by instance, where it is not finite, has a lower dual value than zeros, or
    is far from the solution and worse than the first steps from zeros. `solver` is run as it is; None chooses:
    accelerated Sinkhorn steps, and Newton for instances with up to about a thousand atoms with mass on one side
    for which Sinkhorn takes long (see `metaot.core.method`). An instance that has not converged after `max_steps`
    steps is returned as it is, with `converged` false. Raises ValueError for contradictory arguments, TypeError
    for a solver of another kind.

    In float64 on a CPU compiled code makes the steps, elsewhere torch. A `SampleProblem` is solved by `W2GN`, the
    default, or `GaussNewton`: see `metaot.solvers.maps.solve_map`.
    """
    if not tol > 0:
        raise ValueError(f"tol must be positive, got {tol}")
    if max_steps < 0:
        raise ValueError(f"max_steps must not be negative, got {max_steps}")
    if isinstance(problem, SampleProblem):
        return solve_map(
            problem, init=init, solver=W2GN() if solver is None else solver, tol=tol, max_steps=max_steps
        )
    if solver is not None and (not isinstance(solver, Solver) or isinstance(solver, MapSolver)):
        raise TypeError(
            "solver must be None or a Solver of discrete problems, such as metaot.Sinkhorn() or metaot.Newton(), "
            f"got {solver!r}"
        )
    f = None if init is None else _start(problem, init)
    result, solvers = _refined(problem, f, solver, method.Limits(tol, max_steps))
    potentials = DualPotentials(_shaped(result.f, problem.a.shape), _shaped(result.g, problem.b.shape))
    error, steps = (_shaped(values, problem.batch_shape) for values in (result.error, result.steps))
    return Solution(problem, potentials, error, error <= tol, steps, solvers, max_steps)


def _shaped(values: Any, shape: torch.Size) -> Tensor:
    """Return an array or a tensor as a tensor of this shape; to reshape an array takes less time."""
    values = values.reshape(shape)
    return values if isinstance(values, Tensor) else torch.from_numpy(values)


def _refined(
    problem: Problem, f: Tensor | None, solver: Solver | None, limits: method.Limits
) -> tuple[method.Result, tuple[Solver, ...]]:
    """Refine f by the solver that was asked for or by the core's choice, in a flat batch of results."""
    start: Any = None if f is None else f.reshape(-1, problem.geometry.shape[0])
    if not isinstance(solver, Sinkhorn | Newton | None) or problem.a.numel() == 0:
        other = solver or Sinkhorn()
        return refine(other, problem.flat(), start, limits, on_support=False), (other,)
    back_end = _back_end(problem, solver)
    if start is not None and isinstance(back_end, core.Compiled):
        start = start.detach().numpy()
    if isinstance(solver, Sinkhorn):
        return method.only_sinkhorn(back_end, start, limits, accelerated=solver.accelerated), (solver,)
    if isinstance(solver, Newton):
        return method.only_newton(back_end, start, limits), (solver,)
    result, names = method.choose(back_end, start, limits)
    return result, tuple(Newton() if name == "newton" else Sinkhorn() for name in names)


def _back_end(problem: Problem, solver: Solver | None) -> method.BackEnd:
    """Return compiled code where it takes these problems, else torch."""
    if problem.suits_core:
        compiled = core.Compiled(*problem.flat().arrays(), threads=torch.get_num_threads())
        if not isinstance(solver, Newton) or all(method.suits_newton(compiled)):
            return compiled
    return InTorch(problem.flat())


def _start(problem: Problem, init: Any) -> Tensor:
    """Return f, which may be overwritten: of a `metaot.amortize.Predictor` its `warm_start`, else of the guess."""
    if hasattr(init, "warm_start"):
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
    return potential.to(weights)
