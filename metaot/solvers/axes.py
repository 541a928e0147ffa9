"""Sinkhorn on grids of moderate size for the problems of a batch, one after another on each thread."""

import numpy as np
import torch
from torch import Tensor

from metaot import single
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.single import AxesKernels, Kernels
from metaot.solvers.alone import small_kernel
from metaot.solvers.iterate import Solver
from metaot.solvers.refine import Refined
from metaot.solvers.sinkhorn import Sinkhorn

_MOST = 2**24
"""Numbers in the kernels of several eps that are held at once: 128 MiB, and as much for their transposes."""


def axes_kernels(solver: Solver | None, problem: Problem) -> Kernels | None:
    """Return the kernel of all problems in units of eps, or one for each, where the method is for it."""
    accelerated = solver is None or (isinstance(solver, Sinkhorn) and solver.accelerated)
    if not accelerated or len(problem.a) == 0:
        return None
    eps = problem.eps
    if isinstance(eps, Tensor) and bool((eps == eps[0]).all()):
        eps = float(eps[0])
    kernels = small_kernel(problem.geometry, eps)
    if isinstance(kernels, AxesKernels) and len(problem.a) * sum(size**2 for size in kernels.sizes) > _MOST:
        return None
    return kernels


def refine_on_axes(
    kernels: Kernels, problem: Problem, guess: DualPotentials | None, *, tol: float, max_steps: int
) -> tuple[Refined, Tensor]:
    """Refine a guess, which is overwritten; tell which problems are not finished, and had better not go on so."""
    eps = problem.eps.numpy()[:, None] if isinstance(problem.eps, Tensor) else problem.eps
    start = None if guess is None else np.ascontiguousarray(guess.f.numpy())
    if start is not None:
        with np.errstate(over="ignore"):  # not by torch, whose threads would wait for those of numpy's products
            start /= eps
    found = single.sinkhorn_on_grid_each(
        kernels,
        problem.a.numpy(),
        problem.b.numpy(),
        start,
        tol=tol,
        max_steps=max_steps,
        threads=torch.get_num_threads(),
        in_place=True,
    )
    f, g = (torch.from_numpy(np.multiply(potential, eps, out=potential)) for potential in (found.f, found.g))
    left = torch.from_numpy((~(found.error <= tol)).nonzero()[0])
    return Refined(DualPotentials(f, g), torch.from_numpy(found.error), torch.from_numpy(found.steps)), left
