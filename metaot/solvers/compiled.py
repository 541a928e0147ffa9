"""The compiled core as a back end: float64 on a CPU."""

from typing import final

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from metaot import core
from metaot.geometry import Geometry, Grid, Points
from metaot.potentials import DualPotentials
from metaot.problem import Problem
from metaot.solvers.back_end import BackEnd, Refined

MOST_ENTRIES = 2**24
"""Entries of the largest plan that is kept: 128 MiB."""


@final
class Compiled(BackEnd):
    """Problems as arrays, one after another on each of torch's threads.

    `by_axes` tells for which instances products are made axis by axis on a grid, instead of with a matrix between the
    atoms with mass.
    """

    def sinkhorn(
        self,
        problem: Problem,
        f: Float[Tensor, "batch n"] | None,
        *,
        tol: float,
        max_steps: int,
        accelerated: bool = True,
    ) -> Refined:
        costs, arrays = core_costs(problem.geometry), _arrays(problem, f)
        limits = {"tol": tol, "max_steps": max_steps, "accelerated": accelerated}
        if not costs.has_axes:
            return _refined(core.sinkhorn(costs, *arrays, **limits, threads=torch.get_num_threads()))
        small = axes_are_longer(problem)
        if small.all() or not small.any():
            by_axes = not small.any()
            found = core.sinkhorn(costs, *arrays, **limits, by_axes=by_axes, threads=torch.get_num_threads())
            return _refined(found)
        parts = [
            core.sinkhorn(costs, *_chosen(arrays, mask), **limits, by_axes=by_axes, threads=torch.get_num_threads())
            for mask, by_axes in ((small, False), (~small, True))
        ]
        order = np.concatenate([small.nonzero()[0], (~small).nonzero()[0]]).argsort()
        return _refined(core.Result(*(np.concatenate(pair)[order] for pair in zip(*parts, strict=True))))

    def newton(
        self, problem: Problem, f: Float[Tensor, "batch n"] | None, *, tol: float, max_steps: int
    ) -> Refined:
        costs, arrays = core_costs(problem.geometry), _arrays(problem, f)
        found = core.newton(costs, *arrays, tol=tol, max_steps=max_steps, threads=torch.get_num_threads())
        return _refined(found)


def core_costs(geometry: Geometry) -> core.Costs:
    """Return what the core knows of a geometry: axes, points with a named cost, or a matrix."""
    if isinstance(geometry, Grid):
        return core.Costs.on_axes(tuple(cost.numpy() for cost in geometry.axis_costs))
    if isinstance(geometry, Points) and geometry.cost_name in core.POINT_COSTS:
        return core.Costs.between_points(
            geometry.x.detach().numpy(), geometry.y.detach().numpy(), geometry.cost_name
        )
    return core.Costs.of_matrix(geometry.cost_rows(slice(None)).detach().numpy())


def support_sizes(problem: Problem) -> tuple[Int[np.ndarray, "batch"], Int[np.ndarray, "batch"]]:
    """Count the atoms with mass of both sides."""
    a, b = (np.count_nonzero(weights.detach().numpy(), axis=-1) for weights in (problem.a, problem.b))
    return a, b


def axes_are_longer(problem: Problem) -> np.ndarray:
    """Return for which problems on a grid a matrix between the atoms with mass is less work than its axes."""
    geometry = problem.geometry
    assert isinstance(geometry, Grid)
    n, m = support_sizes(problem)
    return n * m * _ENTRY <= geometry.shape[0] * sum(geometry.sizes)


_ENTRY = 4
"""How many multiplications in blocks take the time of one with a matrix, which has to be made and read."""

Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


def _arrays(problem: Problem, f: Tensor | None) -> Arrays:
    a, b, eps = problem.a.detach().numpy(), problem.b.detach().numpy(), problem.eps
    temperatures = eps.detach().numpy() if isinstance(eps, Tensor) else np.full(len(a), eps)
    return a, b, temperatures, None if f is None else f.detach().numpy()


def _chosen(arrays: Arrays, mask: np.ndarray) -> Arrays:
    a, b, eps, f = arrays
    return a[mask], b[mask], eps[mask], None if f is None else f[mask]


def _refined(result: core.Result) -> Refined:
    f, g, error, steps = map(torch.from_numpy, result)
    return Refined(DualPotentials(f, g), error, steps)
