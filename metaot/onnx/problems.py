"""What of `OnnxModel` needs torch: predictions of a `Problem`, and steps where there is no compiled code."""

from functools import reduce
from typing import TYPE_CHECKING

import numpy as np
import torch

from metaot import core
from metaot.arrays import described
from metaot.geometry import Dense, Geometry, Grid
from metaot.potentials import DualPotentials
from metaot.problem import Problem, require_balanced
from metaot.solvers import solve

if TYPE_CHECKING:
    from metaot.onnx.runtime import OnnxModel

Array = np.ndarray


def predict(model: "OnnxModel", problem: Problem) -> DualPotentials:
    """Return potentials in the dtype and on the device of a problem; ValueError for another geometry or eps.

    Of a model that reads costs, any geometry of which a cost matrix fits into memory.
    """
    if not isinstance(problem, Problem):
        raise TypeError(f"predict takes a metaot.Problem, or weights a and b, got {described(problem)} alone")
    geometry, costs = require_balanced(problem, "an exported model").geometry, {}
    if model.spreads is None:
        require_known(model, geometry)
    else:
        costs["C"] = geometry.cost_rows(slice(None)).numpy(force=True)
    eps = problem.eps.numpy(force=True) if isinstance(problem.eps, torch.Tensor) else problem.eps
    a, b = problem.a.numpy(force=True), problem.b.numpy(force=True)
    if model.sizes is None and not costs:
        assert isinstance(geometry, Grid)
        a, b = (w.reshape(*w.shape[:-1], *geometry.sizes) for w in (a, b))
    guess = model.predict(a, b, eps=eps, **costs)
    f, g = (torch.from_numpy(values).to(problem.a) for values in (guess.f, guess.g))
    return DualPotentials(f.reshape(problem.a.shape), g.reshape(problem.b.shape))


def require_known(model: "OnnxModel", geometry: Geometry) -> None:
    """Raise ValueError unless this is the model's geometry, or the last one that was."""
    if geometry is model.matching:
        return
    if model.sizes is None:
        sizes = geometry.sizes if isinstance(geometry, Grid) else ()
        if len(sizes) != 2 or not geometry.matches(Grid(*sizes)):
            raise ValueError(
                "the model is for images whose pixels lie evenly on the unit square, as on Grid(height, width), "
                f"got a problem on {geometry}"
            )
    else:
        known, pairs = model.metadata["geometry"]["description"], _costs(model, geometry)
        if not pairs or not all(np.allclose(mine, theirs, 1e-6, 1e-6) for mine, theirs in pairs):
            difference = ""
            if pairs and repr(geometry) == known:
                largest = max(np.abs(mine - theirs).max() for mine, theirs in pairs)
                difference = f" whose costs differ by up to {largest:.3g}"
            raise ValueError(
                f"the model was trained on {known}, got a problem on {geometry}{difference}: export a model that "
                "was trained for yours"
            )
    model.matching = geometry


def _costs(model: "OnnxModel", geometry: Geometry) -> list[tuple[Array, Array]]:
    """Return the costs of the model and of a geometry, for each axis or in all; none if their sizes differ."""
    sizes = geometry.sizes if isinstance(geometry, Grid) else ()
    if geometry.batch_shape or geometry.shape != model.sizes or (model.grid and model.grid != sizes):
        return []
    axes = geometry.axis_costs if model.grid else None
    theirs = (geometry.cost_rows(slice(None)),) if axes is None else axes
    return [(C, other.numpy(force=True)) for C, other in zip(model.costs, theirs, strict=True)]


def geometry_of(model: "OnnxModel") -> Geometry:
    """Return the space of a model for one geometry, made from its costs."""
    cost = model.metadata["geometry"]["cost"]
    if not model.grid:
        return Dense(torch.from_numpy(model.costs[0]))
    first = (torch.from_numpy(C[0]) for C in model.costs)  # of an axis, with its first point at zero
    return Grid(*(c.sqrt() if cost == "sqeuclidean" else c for c in first), cost=cost)


def refined(
    costs: tuple[Array, ...], a: Array, b: Array, eps: Array, f: Array, *, tol: float, max_steps: int
) -> core.Result:
    """Refine the rows of f by torch, for costs that are the sum of one matrix for each axis of a grid."""
    C, source, target, each, first = map(torch.from_numpy, (reduce(_outer_sum, costs), a, b, eps, f))
    start = DualPotentials(first, torch.zeros_like(target))
    found = solve(Problem(source, target, Dense(C), each), init=start, tol=tol, max_steps=max_steps)
    values = found.potentials.f, found.potentials.g, found.error, found.steps
    return core.Result(*(value.numpy() for value in values))


def _outer_sum(C: Array, axis: Array) -> Array:
    return (C[:, None, :, None] + axis[None, :, None, :]).reshape(len(C) * len(axis), -1)
