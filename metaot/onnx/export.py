"""A checkpoint as one ONNX file: exported by torch, described, compared with torch, and only then written."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from metaot.amortize import AmortizedPotential
from metaot.geometry import Grid
from metaot.onnx.graph import Prediction, space
from metaot.onnx.graph.spaces import GridSpace, Space
from metaot.onnx.parity import drawn_problems, parity
from metaot.onnx.problems import fingerprint
from metaot.onnx.runtime import FORMAT, OnnxModel
from metaot.onnx.trace import either, traced

LARGEST_FILE = 2**31 - 2**20
"""What fits into one ONNX file."""
INPUTS, OUTPUTS = ["a", "b", "eps"], ["f", "g"]


def export(
    predictor: AmortizedPotential,
    card: dict[str, Any],
    path: Path,
    *,
    version: str,
    data_dir: Path | None = None,
) -> Iterator[str]:
    """Write the file of a model, or nothing if the two differ; yield words on what was done.

    `card` is what its checkpoint says of it. Raises ValueError when the file does not agree with torch.
    """
    problems, data = drawn_problems(predictor, card, data_dir)
    content = prediction_model(predictor, card, version)
    result = parity(OnnxModel.from_bytes(content, f"{path} (not yet written)"), predictor, problems, data)
    if not result.holds:
        raise ValueError(f"nothing was written to {path}: {result}")
    write(path, content)
    yield f"{path}: {len(content) / 1e6:.1f} MB, {result}"


def write(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def prediction_model(predictor: AmortizedPotential, card: dict[str, Any], version: str) -> bytes:
    """Return the content of a file that predicts (a, b, eps) -> (f, g)."""
    place = space(predictor.geometry, predictor.eps[0])
    module, example = Prediction(predictor.model, place), _example(predictor)
    if place.others is None:
        proto = exported(module, example, inputs=INPUTS, outputs=OUTPUTS)
    else:
        exact = exported(Prediction(predictor.model, place, exact=True), example, inputs=INPUTS, outputs=OUTPUTS)
        proto = either(exported(module, example, inputs=INPUTS, outputs=[*OUTPUTS, "right"]), exact, OUTPUTS)
    return described(proto, predictor, place, card, version)


def exported(
    module: nn.Module, example: tuple[Tensor, ...], *, inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Export a module of which the first inputs are batches: a, b and eps, which may also be one for all."""
    batch = torch.export.Dim("batch", min=2, max=2**31)
    shapes = tuple({0: batch} if value.ndim else {} for value in example)
    return _one_eps_for_all(traced(module, example, shapes, inputs=inputs, outputs=outputs))


def _one_eps_for_all(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Let eps be one number for the batch: all that is done with it broadcasts."""
    for value in proto.graph.input:
        if value.name == "eps":
            value.type.tensor_type.shape.dim[0].dim_param = "temperatures"
    return proto


def described(
    proto: onnx.ModelProto, predictor: AmortizedPotential, place: Space, card: dict[str, Any], version: str
) -> bytes:
    """Return the file with all that is known of the model inside."""
    geometry = predictor.geometry
    sizes = list(geometry.sizes) if isinstance(geometry, Grid) else []
    metadata = {
        "metaot": {"format": FORMAT, "version": version, "torch": torch.__version__},
        "model": card["model"],
        "passes": predictor.passes,
        "recipe": card.get("recipe"),
        "data": (card.get("recipe") or {}).get("data"),
        "geometry": {
            "kind": type(geometry).__name__,
            "cost": geometry.cost_name,
            "shape": list(geometry.shape),
            "sizes": sizes,
            "description": repr(geometry),
            "sha256": fingerprint(geometry),
            "costs": _with_costs(proto, place),
        },
        "eps": list(predictor.eps),
        "quality": {key: card[key] for key in ("validation", "test") if key in card},
    }
    return finished(proto, metadata)


def finished(proto: onnx.ModelProto, metadata: dict[str, Any]) -> bytes:
    """Return the content of the file, with its metadata inside; ValueError when it is too large for one file."""
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=json.dumps(value))
    if proto.ByteSize() > LARGEST_FILE:
        raise ValueError(f"the model is too large for one ONNX file: it would have {proto.ByteSize()} bytes")
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def _with_costs(proto: onnx.ModelProto, place: Space) -> list[str]:
    """Make the costs outputs of the graph; return their names, one for each axis or one in all."""
    costs = place.state_dict()
    names = [f"cost{k}" for k in place.axes] if isinstance(place, GridSpace) else ["cost"]
    for name in sorted(set(names)):
        tensor = onnx.numpy_helper.from_array(costs[name].numpy(), name)
        others = [other for other in proto.graph.initializer if other.name == f"space.{name}"]
        if others:
            proto.graph.node.append(onnx.helper.make_node("Identity", [f"space.{name}"], [name]))
        else:
            proto.graph.initializer.append(tensor)
        shape = list(costs[name].shape)
        proto.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, shape))
    return names


def _example(predictor: AmortizedPotential) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch to trace with."""
    n, m = predictor.geometry.shape
    a, b = (torch.full((3, size), 1 / size, dtype=torch.float64) for size in (n, m))
    return a, b, torch.full((3,), predictor.eps[1], dtype=torch.float64)
