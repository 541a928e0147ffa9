"""Predictions of a `Problem`, for those who have torch: its geometry must be the model's."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from metaot.geometry import Geometry, Grid
from metaot.potentials import DualPotentials
from metaot.problem import Problem

if TYPE_CHECKING:
    from metaot.onnx.runtime import OnnxModel


def predict(model: "OnnxModel", problem: Problem) -> DualPotentials:
    """Return potentials in the dtype and on the device of a problem; ValueError for another geometry or eps."""
    require_known(model, problem.geometry)
    eps = problem.eps.numpy(force=True) if isinstance(problem.eps, torch.Tensor) else problem.eps
    a, b = problem.a.numpy(force=True), problem.b.numpy(force=True)
    if model.sizes is None:
        assert isinstance(problem.geometry, Grid)
        a, b = (w.reshape(*w.shape[:-1], *problem.geometry.sizes) for w in (a, b))
    guess = model.predict(a, b, eps=eps)
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


def _costs(model: "OnnxModel", geometry: Geometry) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the costs of the model and of a geometry, for each axis or in all; none if their sizes differ."""
    mine, sizes = model.costs, geometry.sizes if isinstance(geometry, Grid) else ()
    if geometry.batch_shape or geometry.shape != model.sizes or (mine.sizes and mine.sizes != sizes):
        return []
    axes = geometry.axis_costs if mine.sizes else None
    theirs = (geometry.cost_rows(slice(None)),) if axes is None else axes
    return [(C, other.numpy(force=True)) for C, other in zip(mine.matrices, theirs, strict=True)]
