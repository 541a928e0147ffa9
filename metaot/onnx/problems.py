"""Predictions of a `Problem`, for those who have torch: its geometry must be the model's."""

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import torch

from metaot.geometry import Geometry, Grid
from metaot.onnx import checks
from metaot.potentials import DualPotentials
from metaot.problem import Problem

if TYPE_CHECKING:
    from metaot.onnx.runtime import OnnxModel


def predict(model: "OnnxModel", problem: Problem) -> DualPotentials:
    """Return potentials in the dtype and on the device of a problem; ValueError for another geometry or eps."""
    require_known(model, problem.geometry)
    eps = problem.eps.numpy(force=True) if isinstance(problem.eps, torch.Tensor) else problem.eps
    a, b = problem.a.numpy(force=True), problem.b.numpy(force=True)
    f, g = model.evaluate(a, b, checks.temperatures(eps, model.eps, a.shape[:-1]))
    return DualPotentials(torch.from_numpy(f).to(problem.a), torch.from_numpy(g).to(problem.b))


def require_known(model: "OnnxModel", geometry: Geometry) -> None:
    """Raise ValueError unless this is the model's geometry; the last one known is not looked at again."""
    if geometry is model.matching:
        return
    known = model.metadata["geometry"]
    if fingerprint(geometry) != known["sha256"] and not _same_costs(model, geometry):
        raise ValueError(
            f"the model was trained on {known['description']}, got a problem on {geometry}: "
            "export a model that was trained for yours"
        )
    model.matching = geometry


def fingerprint(geometry: Geometry) -> str:
    """Return the sha256 of the type, the cost's name and the coordinates or the matrix, as float64."""
    digest = hashlib.sha256(f"{type(geometry).__name__} {geometry.cost_name}".encode())
    for name, tensor in sorted(geometry.tensors().items()):
        values = np.ascontiguousarray(tensor.numpy(force=True), dtype="<f8")
        digest.update(f" {name} {values.shape} ".encode() + values.tobytes())
    return digest.hexdigest()


def _same_costs(model: "OnnxModel", geometry: Geometry) -> bool:
    """Tell whether costs agree to six digits, as those of coordinates in float32 do."""
    costs = model.costs
    if geometry.batch_shape or geometry.shape != model.sizes:
        return False
    if costs.sizes:
        if not isinstance(geometry, Grid) or geometry.sizes != costs.sizes:
            return False
        theirs = geometry.axis_costs
    else:
        theirs = (geometry.cost_rows(slice(None)),)
    pairs = zip(costs.matrices, theirs, strict=True)
    return all(np.allclose(mine, other.numpy(force=True), 1e-6, 1e-6) for mine, other in pairs)
