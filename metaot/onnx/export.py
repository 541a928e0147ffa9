"""A checkpoint as ONNX files: exported by torch, described, compared with torch, and only then written."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from metaot import digest
from metaot.amortize.costs import CostPotential
from metaot.amortize.maps import AmortizedMap
from metaot.amortize.universal import UniversalPotential
from metaot.brenier import Frame, SampleProblem
from metaot.folders import read_card, write_atomically
from metaot.geometry import Grid
from metaot.models.data_set import DataSetPotential
from metaot.models.palette import PaletteIcnn
from metaot.onnx.compiled import fingerprint
from metaot.onnx.graph.costs import cost_graph
from metaot.onnx.graph.data_set import data_set_graph
from metaot.onnx.graph.hypernetwork import PredictedMaps, PushedPoints
from metaot.onnx.graph.prediction import ImagePrediction, Prediction, SpacePrediction
from metaot.onnx.graph.sums import Space
from metaot.onnx.maps import PARTS, OnnxMap
from metaot.onnx.parity import (
    Potential,
    drawn_clouds,
    drawn_problems,
    parity,
    parity_of_data_set,
    parity_of_maps,
)
from metaot.onnx.runtime import OnnxModel
from metaot.onnx.semidiscrete import OnnxSemiDiscrete
from metaot.onnx.trace import Shapes, either, finished, traced

INPUTS, OUTPUTS = ["a", "b", "eps"], ["f", "g"]


def export(
    predictor: Any,
    folder: Path,
    path: Path,
    *,
    data_dir: Path | None = None,
) -> str:
    """Write the file of a model, or both of a model of maps; return words on what was done.

    `folder` is the checkpoint that the predictor is from. Raises ValueError, and writes nothing, when a file does
    not agree with torch.
    """
    card, name = read_card(folder), f"{path} (not yet written)"
    if isinstance(predictor.model, DataSetPotential):
        contents = (data_set_model(predictor.model, card),)
        model = OnnxSemiDiscrete.from_bytes(*contents, name=name)
        result = parity_of_data_set(model, predictor.model)
    elif isinstance(predictor, AmortizedMap):
        contents = map_models(predictor, card)
        model = OnnxMap.from_bytes(*contents, name=name)
        result = parity_of_maps(model, predictor, *drawn_clouds(predictor, card, data_dir))
    else:
        contents = (prediction_model(predictor, card),)
        model = OnnxModel.from_bytes(*contents, name=name)
        result = parity(model, predictor, *drawn_problems(predictor, card, data_dir))
    if not result.holds:
        raise ValueError(f"nothing was written to {path}: {result}")
    files = model.files(path)
    for file, content in reversed(list(zip(files, contents, strict=True))):  # last the file that is looked for
        write_atomically(file, lambda partial, content=content: partial.write_bytes(content))
    return f"{' and '.join(map(str, files))}: {sum(map(len, contents)) / 1e6:.1f} MB, {result}"


def prediction_model(predictor: Potential, card: dict[str, Any]) -> bytes:
    """Return the content of a file that predicts (a, b, eps) -> (f, g).

    Weights are batch n and batch m on the geometry of the model, or images, batch height width, of any size. A
    model that reads costs predicts (a, b, C, eps) -> (f, g, spread), with C batch n m, for any n and m.
    """
    if isinstance(predictor, CostPotential):
        about = {"costs": {"spreads": predictor.model.spreads.tolist()}}
        return _finished(cost_graph(predictor.model), card, predictor, about)
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
        geometry = predictor.geometry
        description = {
            "kind": type(geometry).__name__,
            "cost": geometry.cost_name,
            "shape": list(geometry.shape),
            "sizes": list(geometry.sizes) if isinstance(geometry, Grid) else [],
            "description": repr(geometry),
            "sha256": digest.of_arrays(
                {name: value.double().numpy(force=True) for name, value in geometry.tensors().items()}
            ),
            "costs": _with_costs(proto, space),
        }
        about = {"geometry": description}
    return _finished(proto, card, predictor, about)


def data_set_model(model: DataSetPotential, card: dict[str, Any]) -> bytes:
    """Return the content of a file that scores a data set: x -> (scores, own)."""
    about = {"eps": model.eps, "cost": model.cost, "shape": list(model.y.shape), "dtype": model.config["dtype"]}
    return finished(data_set_graph(model), card, {"data_set": about})


def _finished(proto: onnx.ModelProto, card: dict[str, Any], predictor: Potential, about: dict[str, Any]) -> bytes:
    eps = None if predictor.eps is None else list(predictor.eps)
    return finished(proto, card, {"passes": predictor.passes, "eps": eps, **about})


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


def map_models(predictor: AmortizedMap, card: dict[str, Any]) -> tuple[bytes, bytes]:
    """Return the contents of the files: (x, y) -> `PARTS`, and (x, weights, m, n, U, scale) -> y."""
    model = predictor.model
    if not isinstance(model, PaletteIcnn):
        raise ValueError(f"a {type(model).__name__} reads pictures; only networks that read samples are exported")
    batch, n, m = (torch.export.Dim(name, min=2, max=2**31) for name in ("batch", "n", "m"))
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand(2, 3, 7, predictor.dim, generator=generator, dtype=torch.float32)
    example, clouds = (x, y[:, :6]), ({0: batch, 1: n}, {0: batch, 1: m})
    first = traced(PredictedMaps(model), example, clouds, inputs=["x", "y"], outputs=list(PARTS))
    frame = Frame.gaussian(SampleProblem(x, y))
    potential = (x, model.icnn.weights(generator, 3), frame.m, frame.n, frame.U, frame.scale)
    names = ["x", "weights", "m", "n", "U", "scale"]
    shapes = ({0: batch, 1: n}, *[{0: batch}] * 5)
    second = traced(PushedPoints(model.icnn), potential, shapes, inputs=names, outputs=["y"])
    maps = {
        "dim": predictor.dim,
        "icnn": asdict(model.icnn),
        **{key: card.get(key) for key in ("step", "seed")},
        "weights": fingerprint(model),
    }
    return finished(first, card, {"maps": maps}), finished(second, card, {"maps": maps})
