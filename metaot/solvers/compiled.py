"""The compiled core as a back end: float64 on a CPU."""

from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from metaot import core
from metaot.geometry import Geometry, Grid, Points
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers.back_end import BackEnd, Refined

@final
class Compiled(BackEnd):
    """Problems as arrays, one after another on each of torch's threads."""

    def sinkhorn(
        self,
        problem: Problem,
        f: Float[Tensor, "batch n"] | None,
        *,
        tol: float,
        max_steps: int,
        accelerated: bool = True,
        on_support: bool = False,
    ) -> Refined:
        found = core.sinkhorn(
            core_costs(problem.geometry),
            *_arrays(problem, f),
            tol=tol,
            max_steps=max_steps,
            accelerated=accelerated,
            by_axes=not on_support,
            threads=torch.get_num_threads(),
        )
        return _refined(found)

    def newton(
        self, problem: Problem, f: Float[Tensor, "batch n"] | None, *, tol: float, max_steps: int
    ) -> Refined:
        costs, arrays = core_costs(problem.geometry), _arrays(problem, f)
        found = core.newton(costs, *arrays, tol=tol, max_steps=max_steps, threads=torch.get_num_threads())
        return _refined(found)


def is_cloud(geometry: Geometry) -> bool:
    """Return whether these are points with a cost that compiled code knows: it needs no matrix for them."""
    return isinstance(geometry, Points) and geometry.cost_name in core.POINT_COSTS


def core_costs(geometry: Geometry) -> core.Costs:
    """Return what the core knows of a geometry: axes, points with a named cost, or a matrix."""
    if isinstance(geometry, Grid):
        return core.Costs.on_axes(tuple(cost.numpy() for cost in geometry.axis_costs))
    if is_cloud(geometry):
        assert isinstance(geometry, Points)
        assert geometry.cost_name is not None
        return core.Costs.between_points(
            geometry.x.detach().numpy(), geometry.y.detach().numpy(), geometry.cost_name
        )
    return core.Costs.of_matrix(geometry.cost_rows(slice(None)).detach().numpy())


def _arrays(
    problem: Problem, f: Tensor | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    a, b, eps = problem.a.detach().numpy(), problem.b.detach().numpy(), problem.eps
    temperatures = eps.detach().numpy() if isinstance(eps, Tensor) else np.full(len(a), eps)
    return a, b, temperatures, None if f is None else f.detach().numpy()


def _refined(result: core.Result) -> Refined:
    f, g, error, steps = map(torch.from_numpy, result)
    return Refined(DualPotentials(f, g), error, steps)
