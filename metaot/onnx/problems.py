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
    """Raise ValueError unless this is the model's geometry; the last one that was is known again."""
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
        known = model.metadata["geometry"]
        if not _same_costs(model, geometry):
            raise ValueError(
                f"the model was trained on {known['description']}, got a problem on {geometry}"
                f"{_difference(model, geometry)}: export a model that was trained for yours"
            )
    model.matching = geometry


def _difference(model: "OnnxModel", geometry: Geometry) -> str:
    """Return what differs from the model's geometry if it has the same description, to stand behind that."""
    if repr(geometry) != model.metadata["geometry"]["description"] or geometry.batch_shape:
        return ""
    off = max(np.abs(mine - theirs).max() for mine, theirs in _pairs(model, geometry))
    return f" whose costs differ by up to {off:.3g}"


def _pairs(model: "OnnxModel", geometry: Geometry) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the costs of the model and of a geometry of the same sizes: one for each axis, or one in all."""
    axes = geometry.axis_costs if model.costs.sizes else None
    theirs = (geometry.cost_rows(slice(None)),) if axes is None else axes
    pairs = zip(model.costs.matrices, theirs, strict=True)
    return [(mine, other.numpy(force=True)) for mine, other in pairs]


def _same_costs(model: "OnnxModel", geometry: Geometry) -> bool:
    """Return whether costs agree to six digits, as those of coordinates in float32 do."""
    if geometry.batch_shape or geometry.shape != model.sizes:
        return False
    if model.costs.sizes and (not isinstance(geometry, Grid) or geometry.sizes != model.costs.sizes):
        return False
    return all(np.allclose(mine, theirs, 1e-6, 1e-6) for mine, theirs in _pairs(model, geometry))
