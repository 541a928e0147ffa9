"""A checkpoint as one ONNX file: exported by torch, described, compared with torch, and only then written."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from metaot.amortize import AmortizedPotential
from metaot.amortize.universal import UniversalPotential
from metaot.folders import write_atomically
from metaot.geometry import Geometry, Grid
from metaot.onnx.graph.prediction import ImagePrediction, Prediction, SpacePrediction
from metaot.onnx.graph.sums import Space
from metaot.onnx.parity import drawn_problems, parity
from metaot.onnx.runtime import OnnxModel
from metaot.onnx.trace import Shapes, either, finished, traced

INPUTS, OUTPUTS = ["a", "b", "eps"], ["f", "g"]


def export(
    predictor: AmortizedPotential | UniversalPotential,
    card: dict[str, Any],
    path: Path,
    *,
    data_dir: Path | None = None,
) -> str:
    """Write the file of a model, or nothing if the two differ; return words on what was done.

    `card` is what its checkpoint says of it. Raises ValueError when the file does not agree with torch.
    """
    problems, data = drawn_problems(predictor, card, data_dir)
    content = prediction_model(predictor, card)
    result = parity(OnnxModel.from_bytes(content, name=f"{path} (not yet written)"), predictor, problems, data)
    if not result.holds:
        raise ValueError(f"nothing was written to {path}: {result}")
    write_atomically(path, lambda partial: partial.write_bytes(content))
    return f"{path}: {len(content) / 1e6:.1f} MB, {result}"


def prediction_model(predictor: AmortizedPotential | UniversalPotential, card: dict[str, Any]) -> bytes:
    """Return the content of a file that predicts (a, b, eps) -> (f, g).

    Weights are batch n and batch m on the geometry of the model, or images, batch height width, of any size.
    """
    batch, height, width = (torch.export.Dim(name, min=2, max=2**15) for name in ("batch", "height", "width"))
    eps = torch.full((3,), predictor.eps[1], dtype=torch.float64)
    if isinstance(predictor, UniversalPotential):
        plain, exact = (ImagePrediction(predictor.model, exact=exact) for exact in (False, True))
        a, b = torch.full((2, 3, 5, 6), 1 / 30, dtype=torch.float64)
        weights = {0: batch, 1: height, 2: width}
        proto = _with_fallback(plain, exact, (a, b, eps), (weights, weights, {0: batch}))
        images = {"cost": "sqeuclidean", "square": [0, 1], "step": card.get("step")}
        about = {"images": images}
    else:
        space = Space(predictor.geometry, predictor.eps[0])
        plain, exact = (SpacePrediction(predictor.model, space, exact=exact) for exact in (False, True))
        a, b = (torch.full((3, size), 1 / size, dtype=torch.float64) for size in predictor.geometry.shape)
        proto = _with_fallback(plain, exact, (a, b, eps), ({0: batch},) * 3)
        about = {"geometry": _described(predictor, _with_costs(proto, space))}
    return finished(proto, card, {"passes": predictor.passes, "eps": list(predictor.eps), **about})


def _with_fallback(
    plain: Prediction, exact: Prediction, example: tuple[Tensor, ...], shapes: Shapes
) -> onnx.ModelProto:
    """Export the plain graph, and if that needs it the exact one for when numbers leave floating point.

    eps may be one number for the batch: all that is done with it broadcasts.
    """
    outputs = [*OUTPUTS, "right"] if plain.fallback else OUTPUTS
    proto = traced(plain, example, shapes, inputs=INPUTS, outputs=outputs)
    if plain.fallback:
        proto = either(proto, traced(exact, example, shapes, inputs=INPUTS, outputs=OUTPUTS), OUTPUTS)
    for value in proto.graph.input:
        if value.name == "eps":
            value.type.tensor_type.shape.dim[0].dim_param = "temperatures"
    return proto


def _described(predictor: AmortizedPotential, costs: list[str]) -> dict[str, Any]:
    geometry = predictor.geometry
    return {
        "kind": type(geometry).__name__,
        "cost": geometry.cost_name,
        "shape": list(geometry.shape),
        "sizes": list(geometry.sizes) if isinstance(geometry, Grid) else [],
        "description": repr(geometry),
        "sha256": _fingerprint(geometry),
        "costs": costs,
    }


def _with_costs(proto: onnx.ModelProto, space: Space) -> list[str]:
    """Make the costs outputs of the graph; return their names, one for each axis or one in all."""
    for name, cost in space.state_dict().items():
        if any(other.name == f"space.{name}" for other in proto.graph.initializer):
            proto.graph.node.append(onnx.helper.make_node("Identity", [f"space.{name}"], [name]))
        else:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(cost.numpy(), name))
        shape = list(cost.shape)
        proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, shape))
    return [f"cost{k}" for k in space.axes]


def _fingerprint(geometry: Geometry) -> str:
    """Return the sha256 of the type, the cost's name and the coordinates or the matrix, as float64."""
    digest = hashlib.sha256(f"{type(geometry).__name__} {geometry.cost_name}".encode())
    for name, tensor in sorted(geometry.tensors().items()):
        values = np.ascontiguousarray(tensor.numpy(force=True), dtype="<f8")
        digest.update(f" {name} {values.shape} ".encode() + values.tobytes())
    return digest.hexdigest()
