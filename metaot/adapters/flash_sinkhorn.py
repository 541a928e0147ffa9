"""FlashSinkhorn (arXiv 2602.03067; the package flash-sinkhorn): fused Triton kernels on CUDA, from potentials.

Its `sinkhorn_flashstyle_symmetric` takes potentials in metaot's convention and averages f and g with their updates
in each step (Feydy 2020). `SamplesLoss` and the alternating solver of flash-sinkhorn 0.4 take no start. For
coordinates with the cost |x - y|^2; float32.
"""

import warnings
from typing import Any

from torch import Tensor

from metaot.adapters.support import Init, library, solved
from metaot.potentials import DualPotentials, marginal_error
from metaot.problem import Problem
from metaot.solvers.solution import Solution


def start(problem: Problem, guess: DualPotentials) -> dict[str, Tensor]:
    """Return the arguments `f_init` and `g_init` of `sinkhorn_flashstyle_symmetric` for one problem."""
    return {"f_init": guess.f.float().flatten(), "g_init": guess.g.float().flatten()}


def sinkhorn(
    problem: Problem,
    *,
    init: Init | None = None,
    tol: float = 1e-6,
    max_steps: int = 10_000,
    check_every: int = 5,
    **options: Any,
) -> Solution:
    """Solve problems on a CUDA device by FlashSinkhorn at a fixed eps, one after the other.

    `tol` is the L1 error of both marginals. Every `check_every` steps, FlashSinkhorn compares the change of the
    potentials since the last test with `tol eps/4`; it makes at least 2 `check_every` + 2 steps. Atoms without
    mass are kept. float32 does not reach a `tol` below about 1e-4, and makes all `max_steps` for it.
    `options` go to `sinkhorn_flashstyle_symmetric`.
    """
    if problem.geometry.points is None or problem.geometry.cost_name != "sqeuclidean":
        raise ValueError(f"FlashSinkhorn is for coordinates with the cost 'sqeuclidean', got {problem.geometry}")
    if problem.a.device.type != "cuda":
        raise ValueError(
            f"FlashSinkhorn runs on CUDA, the problem is on {problem.a.device}: move its weights there"
        )
    solvers = library("flash_sinkhorn.sinkhorn_solvers", "flash")

    def run(single: Problem, guess: DualPotentials | None) -> tuple[DualPotentials, float, int]:
        eps, points = float(single.eps), single.geometry.points
        assert points is not None
        x, y = points
        middle = (x.mean(0) + y.mean(0)) / 2  # centred clouds lose fewer digits in float32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the solution says so
            f, g, steps = solvers.sinkhorn_flashstyle_symmetric(
                *((z - middle).float().contiguous() for z in (x, y)),
                single.a.float(), single.b.float(), use_epsilon_scaling=False, eps=eps,
                n_iters=max_steps, check_every=check_every, return_n_iters=True,
                **({} if guess is None else start(single, guess)),
                **{"threshold": tol * eps / 4, "allow_tf32": False, **options},
            )  # fmt: skip
        potentials = DualPotentials(f.to(single.a), g.to(single.b))
        return potentials, float(marginal_error(single, potentials)), int(steps)

    return solved(problem, init, run, tol=tol, max_steps=max_steps, solver="FlashSinkhorn")
