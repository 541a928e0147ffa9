"""Which method takes part, on which atoms: by size, eps, device and what is left to do; shown in the result."""

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from metaot.geometry import Eps
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.single.choose import FACTORISED, PATIENCE
from metaot.solvers.alone import ROUNDS, Alone, refine_alone, small_kernel
from metaot.solvers.axes import axes_kernels, refine_on_axes
from metaot.solvers.iterate import Solver
from metaot.solvers.newton import Newton
from metaot.solvers.refine import Refined, refine, room
from metaot.solvers.sinkhorn import Sinkhorn

_CALLS = 300_000
"""Multiplications in the time of the calls that a step of a batch takes."""

_ALONE = 2**22
"""Entries of the largest plan that is made for one problem alone on the CPU."""

_BLOCK = 2**22
"""Entries of the plans that Newton holds at once: a few hundred MiB in all."""


def refine_by(
    solver: Solver | None, problem: Problem, guess: DualPotentials | None, *, tol: float, max_steps: int
) -> tuple[Refined, tuple[Solver, ...]]:
    """Refine a guess by one method, or by a choice of methods if it is None; return who took part."""
    result, taken = _set_out(solver, problem, guess, tol=tol, max_steps=max_steps)
    for _ in range(ROUNDS - 1):
        unfinished = result.error > tol
        if not bool(unfinished.any()):
            break
        left = (unfinished & (result.steps < max_steps)).nonzero()[:, 0]
        if len(left) == 0:
            break
        steps = max_steps - int(result.steps[left].max())
        more, others = _set_out(solver, problem[left], result.potentials[left], tol=tol, max_steps=steps)
        result.put(left, more)
        taken = taken + tuple(other for other in others if other not in taken)
    return result, taken


def _set_out(
    solver: Solver | None, problem: Problem, guess: DualPotentials | None, *, tol: float, max_steps: int
) -> tuple[Refined, tuple[Solver, ...]]:
    """Make steps on the axes of a grid, if there are some; those for which these are no way go on by size."""
    kernels = axes_kernels(solver, problem) if in_numpy(problem) else None
    if kernels is None:
        return _by_size(solver, problem, guess, _sizes(problem), tol=tol, max_steps=max_steps)
    suited = _suited(solver, problem)
    patience = min(PATIENCE, max_steps) if bool(suited.any()) else max_steps
    result, left = refine_on_axes(kernels, problem, guess, tol=tol, max_steps=patience)
    left = left[result.steps[left] < max_steps]
    taken: tuple[Solver, ...] = (Sinkhorn(),)
    if len(left) == 0:
        return result, taken
    sizes = _sizes(problem)
    tired = (result.steps[left] == patience) & suited[left] & (patience < max_steps)
    if bool(tired.any()):
        taken = _by_newton(problem, result, left[tired], sizes, tol=tol, max_steps=max_steps - patience)
        left = left[~tired]
    if len(left) > 0:
        steps = max_steps - int(result.steps[left].max())
        part, start = problem[left], result.potentials[left]
        more, others = _by_size(solver, part, start, sizes[:, left], tol=tol, max_steps=steps)
        result.put(left, more)
        taken += tuple(other for other in others if other not in taken)
    return result, taken


def _sizes(problem: Problem) -> Int[Tensor, "2 batch"]:
    """Count the atoms with mass."""
    return torch.stack([problem.a.count_nonzero(-1), problem.b.count_nonzero(-1)])


def _suited(solver: Solver | None, problem: Problem) -> Bool[Tensor, "batch"]:
    """Tell which problems, in numpy's reach, may be handed to Newton."""
    if solver is not None or min(problem.geometry.shape) <= FACTORISED:
        return torch.full((len(problem.a),), solver is None)
    sizes = (np.count_nonzero(weights.numpy(), axis=-1) for weights in (problem.a, problem.b))
    return torch.from_numpy(np.minimum(*sizes) <= FACTORISED)


def _by_size(
    solver: Solver | None,
    problem: Problem,
    guess: DualPotentials | None,
    sizes: Int[Tensor, "2 batch"],
    *,
    tol: float,
    max_steps: int,
) -> tuple[Refined, tuple[Solver, ...]]:
    if _alone(solver, problem, sizes):
        return _each_alone(solver, problem, guess, tol=tol, max_steps=max_steps)
    if solver is not None:
        whole = _whole(solver, problem, sizes)
        return refine(solver, problem, guess, tol=tol, max_steps=max_steps, whole=whole), (solver,)
    return _sinkhorn_then_newton(problem, guess, sizes, tol=tol, max_steps=max_steps)


def _sinkhorn_then_newton(
    problem: Problem, guess: DualPotentials | None, sizes: Int[Tensor, "2 batch"], *, tol: float, max_steps: int
) -> tuple[Refined, tuple[Solver, ...]]:
    """Refine by Sinkhorn; after some patience, by Newton those that are small enough for it."""
    suited = sizes.amin(0) <= FACTORISED
    sinkhorn = Sinkhorn()
    patience = min(PATIENCE, max_steps) if bool(suited.any()) else max_steps
    whole = _whole(sinkhorn, problem, sizes)
    result = refine(sinkhorn, problem, guess, tol=tol, max_steps=patience, whole=whole)
    hard = ((result.error > tol) & (result.steps < max_steps) & suited).nonzero()[:, 0]
    if len(hard) == 0:
        return result, (sinkhorn,)
    return result, _by_newton(problem, result, hard, sizes, tol=tol, max_steps=max_steps - patience)


def _by_newton(
    problem: Problem, result: Refined, hard: Tensor, sizes: Int[Tensor, "2 batch"], *, tol: float, max_steps: int
) -> tuple[Solver, ...]:
    """Go on with those that Sinkhorn takes long for, and put into the result what becomes of them."""
    newton, together = Newton(), max(1, _BLOCK // int(sizes[:, hard].amax(1).prod()))
    for index in hard.split(together):
        part, start = problem[index], result.potentials[index]
        if _alone(newton, part, sizes[:, index]):
            more, _ = _each_alone(newton, part, start, tol=tol, max_steps=max_steps)
        else:
            more = refine(newton, part, start, tol=tol, max_steps=max_steps, whole=False)
        result.put(index, more)
    return Sinkhorn(), newton


def _each_alone(
    solver: Solver | None, problem: Problem, guess: DualPotentials | None, *, tol: float, max_steps: int
) -> tuple[Refined, tuple[Solver, ...]]:
    """Refine one problem after the other."""
    result, taken = room(problem), ()
    f, g, error, steps = (
        values.numpy() for values in (result.potentials.f, result.potentials.g, result.error, result.steps)
    )
    for k, one in enumerate(Alone.each(problem)):
        start = None if guess is None else guess.f[k].numpy()
        refined, solvers = refine_alone(one, start, solver, tol=tol, max_steps=max_steps)
        f[k], g[k], error[k], steps[k] = refined.f, refined.g, refined.error, refined.steps
        taken = max(taken, solvers, key=len)
    return result, taken


def small_and_single(problem: Problem) -> bool:
    """Tell without counting atoms whether there is one problem, and that on a CPU."""
    n, m = problem.geometry.shape
    return problem.a.numel() == n and min(n, m) <= FACTORISED and n * m <= _ALONE and in_numpy(problem)


def in_numpy(problem: Problem) -> bool:
    return problem.a.is_cpu and problem.a.dtype == torch.float64


def _alone(solver: Solver | None, problem: Problem, sizes: Int[Tensor, "2 batch"]) -> bool:
    """Tell whether the problems of a batch had better be solved one after the other.

    On a CPU always, unless they are too large, or products for many of them at once are much cheaper.
    """
    count = len(problem.a)
    if count == 0 or not in_numpy(problem):
        return False
    plans = sizes.prod(0).double()
    if plans.max() > _ALONE:
        return False
    if isinstance(solver, Newton):
        return int(sizes.amin(0).max()) <= FACTORISED
    geometry, lowest = problem.geometry, _lowest(problem.eps)
    return (
        small_kernel(geometry, lowest) is not None
        or float(plans.mean()) <= geometry.kernel_work(problem.eps) + _CALLS / count
    )


def _lowest(eps: Eps) -> float:
    return float(eps.min()) if isinstance(eps, Tensor) else eps


def _whole(solver: Solver, problem: Problem, sizes: Int[Tensor, "2 batch"]) -> bool:
    """Tell whether a method had better work on all atoms than on those with mass."""
    if len(problem.a) == 0:
        return True
    if isinstance(solver, Newton):
        return int(sizes.amin(0).max()) > FACTORISED
    return int(sizes.amax(1).prod()) >= problem.geometry.kernel_work(problem.eps)
