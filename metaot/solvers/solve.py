"""`solve`: refine a start until each instance has converged."""

from typing import Any, overload

import torch
from torch import Tensor

from metaot import core
from metaot.arrays import require_limits, wrong
from metaot.brenier import SampleProblem
from metaot.core import method
from metaot.potentials import DualPotentials, c_transform
from metaot.problem import Problem, one_problem, require_problem
from metaot.solvers.hand_over import HandOver
from metaot.solvers.in_torch import InTorch
from metaot.solvers.iterate import Solver
from metaot.solvers.maps import MapSolution, MapSolver, MapStart, solve_map
from metaot.solvers.newton import Newton
from metaot.solvers.refine import refine
from metaot.solvers.sinkhorn import Sinkhorn
from metaot.solvers.solution import Solution
from metaot.solvers.start import Start, opened, warm_start
from metaot.solvers.symmetric import Symmetric, require_symmetric
from metaot.solvers.w2gn import W2GN


@overload
def solve(
    problem: Problem,
    *,
    init: Start | None = None,
    solver: Solver | None = None,
    tol: float = 1e-6,
    max_steps: int = 10_000,
) -> Solution: ...


@overload
def solve(
    problem: SampleProblem,
    *,
    init: MapStart | None = None,
    solver: Solver | None = None,
    tol: float = 1e-6,
    max_steps: int = 10_000,
) -> MapSolution: ...


@one_problem
@torch.no_grad()
def solve(
    problem: Problem | SampleProblem,
    *,
    init: Start | MapStart | None = None,
    solver: Solver | None = None,
    tol: float = 1e-6,
    max_steps: int = 10_000,
) -> Solution | MapSolution:
    """Solve a batch of entropic transport problems, each to an L1 marginal error of at most `tol`.

    Where marginals have a price, the error is their distance from what the potentials ask for, relative to the
    mass of the plan; a predictor is asked for the start of the balanced problem between the same weights.

    `init` is where to start: potentials, of which f is used, as `DualPotentials` or a pair (f, g) of arrays; an
    earlier solution; anything with `predict(problem)`; or the name of a model that comes with metaot, of which
    "universal" is near every solution for the squared distance on a `Grid` with two axes or on planar `Points`; it
    is left out where coarser grids lead to the solution sooner. A start is replaced by zeros, instance by
    instance, where it is not finite, has a lower dual value than zeros, or is far from the solution and worse than
    the first steps from zeros.

    `solver` is run as it is; None chooses: accelerated Sinkhorn steps, on grids and between large clouds
    coarse to fine, and Newton for instances with up to about a thousand atoms with mass on one side for which
    Sinkhorn takes long (see `metaot.core.method`). Steps are those of the problem itself, not of coarser ones.

    `tol` is the error at which an instance stops, `max_steps` the number of steps after which it is returned as it
    is, with `converged` false. Raises ValueError for contradictory arguments, TypeError for arguments of another
    kind.

    In float64 on a CPU compiled code makes the steps, elsewhere torch. A `SampleProblem` is solved by `W2GN`, the
    default, or `GaussNewton`: see `metaot.solvers.maps.solve_map`.
    """
    tol, max_steps = require_limits(tol, max_steps)
    if isinstance(problem, SampleProblem):
        return solve_map(
            problem, init=init, solver=W2GN() if solver is None else solver, tol=tol, max_steps=max_steps
        )
    _require_solver(solver)
    if isinstance(solver, Symmetric):
        require_symmetric(require_problem(problem))
    limits = method.Limits(tol, max_steps)
    start = None if _leaves_out(require_problem(problem), init, solver) else _start(problem, init)
    return _solution(problem, *_refined(problem, start, solver, limits), limits)


def _require_solver(solver: object) -> None:
    if solver is not None and (not isinstance(solver, Solver) or isinstance(solver, MapSolver)):
        taken = "None or a Solver of discrete problems, such as metaot.Sinkhorn() or metaot.Newton()"
        raise wrong("solver", taken, solver)


def solve_with_selves(
    problem: Problem,
    selves: tuple[Problem, Problem],
    inits: list[Start | None],
    solver: Solver | None,
    limits: method.Limits,
) -> tuple[list[Solution], list[method.Result]]:
    """Solve a problem by `solver`, and measures to themselves by symmetric steps; at one time if that pays.

    Return solutions, and what the back ends made in flat batches. Without derivatives; whether the costs of
    measures to themselves are symmetric is for the caller to know.
    """
    _require_solver(solver)
    calls: list[core.Call] = []
    f, *own = map(_start, (problem, *selves), inits)
    shared = _shared_back_end(problem, selves, solver, calls) if all(start is None for start in own) else None
    if shared is not None:
        found = method.only_symmetric(shared.of_each_side(calls), None, limits)
        rows = len(found.error) // 2
        results = [(method.Result(*(part[k : k + rows] for part in found)), (Symmetric(),)) for k in (0, rows)]
        results = [_stepped(shared, None if f is None else f.reshape(-1, f.shape[-1]), solver, limits), *results]
    else:
        results = [
            _refined(itself, start, Symmetric(), limits, deferred=calls)
            for itself, start in zip(selves, own, strict=True)
        ]
        results = [_refined(problem, f, solver, limits, along=calls), *results]
    core.run_together(calls, torch.get_num_threads())  # unless they went along
    parts = zip((problem, *selves), results, strict=True)
    return [_solution(part, *result, limits) for part, result in parts], [result for result, _ in results]


def _shared_back_end(
    problem: Problem, selves: tuple[Problem, Problem], solver: Solver | None, calls: list[core.Call]
) -> core.Compiled | None:
    """Return compiled code for balanced problems that all have the same space, in one batch for both selves."""
    space = problem.geometry
    if not (all(itself.geometry is space for itself in selves) and problem.is_balanced and not space.batch_shape):
        return None
    if not isinstance(solver, Sinkhorn | Newton | None) or problem.a.numel() == 0:
        return None
    back_end = _back_end(problem, solver, along=calls)
    return back_end if isinstance(back_end, core.Compiled) else None


def _leaves_out(problem: Problem, init: Any, solver: Solver | None) -> bool:
    """Return whether steps from coarser grids are sooner at the solution than this prediction."""
    if solver is not None or not problem.has_axes or problem.a.numel() == 0:
        return False
    if init is None or getattr(opened(init), "beats_coarse_to_fine", True):
        return False
    return method.goes_coarse_to_fine(_back_end(problem, solver))


def _start(problem: Problem, init: Any) -> Tensor | None:
    return None if init is None else warm_start(problem, init)


def _solution(
    problem: Problem, result: method.Result, solvers: tuple[Solver, ...], limits: method.Limits
) -> Solution:
    batch = problem.batch_shape
    potentials = DualPotentials(_shaped(result.f, problem.a.shape), _shaped(result.g, problem.b.shape))
    error, converged, steps = (
        _shaped(values, batch) for values in (result.error, result.error <= limits.tol, result.steps)
    )
    return Solution(problem, potentials, error, converged, steps, solvers, limits.max_steps)


def _shaped(values: Any, shape: torch.Size) -> Tensor:
    """Return an array or a tensor as a tensor of this shape; to reshape an array takes less time."""
    values = values.reshape(shape)
    return values if isinstance(values, Tensor) else torch.from_numpy(values)


def _refined(
    problem: Problem, f: Tensor | None, solver: Solver | None, limits: method.Limits, **calls: list[core.Call]
) -> tuple[method.Result, tuple[Solver, ...]]:
    """Refine f by the solver that was asked for or by the core's choice, in a flat batch of results.

    `calls` are those of `core.Compiled`.
    """
    start: Any = None if f is None else f.reshape(-1, problem.geometry.shape[0])
    if not isinstance(solver, Sinkhorn | Newton | Symmetric | None) or problem.a.numel() == 0:
        other = solver or Sinkhorn()
        return refine(other, problem.flat(), start, limits, on_support=False), (other,)
    if not (problem.marginals.are_smooth or isinstance(solver, Symmetric)):
        return _refined_from_the_freer_side(problem.flat(), start, solver, limits)
    return _refined_as_it_is(problem, start, solver, limits, **calls)


def _refined_from_the_freer_side(
    problem: Problem, f: Tensor | None, solver: Solver | None, limits: method.Limits
) -> tuple[method.Result, tuple[Solver, ...]]:
    """Exchange the sides of instances where bounds hold more of the source's potential, which is the unknown."""
    exchanged = problem.marginals.hold_the_source(problem.a, problem.b)
    parts, solvers = [], []
    for turned in (False, True):
        which = (exchanged == turned).nonzero()[:, 0]
        if len(which) == 0:
            continue
        part = problem if len(which) == len(exchanged) else problem[which]
        start = None if f is None else f[which]
        if turned:
            start, part = None if start is None else c_transform(part, start), part.T
        found, taken = _refined_as_it_is(part, start, solver, limits)
        parts.append((which, method.Result(found.g, found.f, found.error, found.steps) if turned else found))
        solvers += taken
    order = torch.cat([which for which, _ in parts]).argsort()
    joined = (
        torch.cat([torch.as_tensor(values) for values in each])[order]
        for each in zip(*(found for _, found in parts), strict=True)
    )
    return method.Result(*joined), tuple(dict.fromkeys(solvers))


def _refined_as_it_is(
    problem: Problem, start: Any, solver: Solver | None, limits: method.Limits, **calls: list[core.Call]
) -> tuple[method.Result, tuple[Solver, ...]]:
    return _stepped(_back_end(problem, solver, **calls), start, solver, limits)


def _stepped(
    back_end: method.BackEnd, start: Any, solver: Solver | None, limits: method.Limits
) -> tuple[method.Result, tuple[Solver, ...]]:
    """Make steps by the solver that was asked for, or by the core's choice."""
    if start is not None and not isinstance(back_end, InTorch):
        start = start.detach().numpy()
    if isinstance(solver, Sinkhorn):
        return method.only_sinkhorn(back_end, start, limits, accelerated=solver.accelerated), (solver,)
    if isinstance(solver, Symmetric):
        return method.only_symmetric(back_end, start, limits), (solver,)
    if isinstance(solver, Newton):
        return method.only_newton(back_end, start, limits), (solver,)
    result, names = method.choose(back_end, start, limits)
    return result, tuple(Newton() if name == "newton" else Sinkhorn() for name in names)


def _back_end(problem: Problem, solver: Solver | None, **calls: list[core.Call]) -> method.BackEnd:
    """Return compiled code where it takes these problems, else torch."""
    if problem.suits_core:
        flat = problem.flat()
        compiled = core.Compiled(*flat.arrays(), prices=flat.prices(), threads=torch.get_num_threads(), **calls)
        if not isinstance(solver, Newton):
            return compiled if problem.is_balanced else HandOver(compiled, flat)
        if problem.is_balanced and all(method.suits_newton(compiled)):
            return compiled
    return InTorch(problem.flat())
