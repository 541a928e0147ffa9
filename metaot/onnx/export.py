"""A checkpoint as one ONNX file: exported by torch, described, compared with torch, and only then written."""

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from metaot.amortize import AmortizedPotential
from metaot.geometry import Grid
from metaot.onnx.graph import Prediction, Refinement, network, space
from metaot.onnx.graph.spaces import GridSpace, Space
from metaot.onnx.graph.tree import graphs
from metaot.onnx.parity import drawn_problems, parity
from metaot.onnx.problems import fingerprint
from metaot.onnx.quantise import LOSS, compare, quantised
from metaot.onnx.runtime import FORMAT, OnnxModel
from metaot.problem import Problem

try:
    import onnx
    import onnxscript  # noqa: F401, torch's exporter wants it
except ImportError:
    raise ImportError("exporting needs the extra `export`: pip install 'metaot[export]'") from None

LARGEST_FILE = 2**31 - 2**20
"""What fits into one ONNX file."""


_INT8_PROBLEMS = 128
"""Problems on which the loss of eight bits is measured, at the middle temperature."""


def export(
    predictor: AmortizedPotential,
    card: dict[str, Any],
    path: Path,
    *,
    version: str,
    refine: bool = False,
    int8: bool = False,
    data_dir: Path | None = None,
) -> Iterator[str]:
    """Write the file of a model, or nothing if the two differ; yield words on what was done.

    `card` is what its checkpoint says of it. With `refine` a second file, which also makes Sinkhorn steps, is
    written beside it, with `-refine` in its name; with `int8` a third one, whose weights have eight bits, if
    these cost at most `LOSS` steps. Raises ValueError when a file does not agree with torch.
    """
    problems, data = drawn_problems(predictor, card, data_dir)
    content = prediction_model(predictor, card, version)
    yield from _compared_and_written(path, content, predictor, problems, data)
    if refine:
        other, refining = beside(path, "refine"), refining_model(predictor, card, version)
        yield from _compared_and_written(other, refining, predictor, problems, data)
    if int8:
        other, smaller = beside(path, "int8"), quantised(content)
        many, _ = drawn_problems(predictor, card, data_dir, batches=(_INT8_PROBLEMS,))
        loss = compare(_opened(path, content), _opened(other, smaller), many[0])
        if loss.steps > LOSS:
            raise ValueError(f"{other} was not written: {loss}, more than {LOSS:g} step")
        write(other, smaller)
        yield f"{other}: {len(smaller) / 1e6:.1f} MB, {loss}"


def _compared_and_written(
    path: Path, content: bytes, predictor: AmortizedPotential, problems: list[Problem], data: str
) -> Iterator[str]:
    result = parity(_opened(path, content), predictor, problems, data)
    if not result.holds:
        raise ValueError(f"nothing was written to {path}: {result}")
    write(path, content)
    yield f"{path}: {len(content) / 1e6:.1f} MB, {result}"


def beside(path: Path, word: str) -> Path:
    return path.with_name(f"{path.stem}-{word}{path.suffix}")


def _opened(path: Path, content: bytes) -> OnnxModel:
    return OnnxModel.from_bytes(content, f"{path} (not yet written)")


def write(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    partial.replace(path)


def prediction_model(predictor: AmortizedPotential, card: dict[str, Any], version: str) -> bytes:
    """Return the content of a file that predicts (a, b, eps) -> (f, g)."""
    place = space(predictor.geometry, predictor.eps[0])
    module = Prediction(network(predictor.model), place)
    proto = exported(module, _example(predictor), inputs=["a", "b", "eps"], outputs=["f", "g"])
    return described(proto, predictor, place, card, version)


def refining_model(predictor: AmortizedPotential, card: dict[str, Any], version: str) -> bytes:
    """Return the content of a file that refines too: (a, b, eps, tol, max_steps) -> (f, g, error, steps)."""
    place = space(predictor.geometry, predictor.eps[0])
    example = (*_example(predictor), torch.tensor(1e-3, dtype=torch.float64), torch.tensor(100))
    proto = exported(
        Refinement(network(predictor.model), place),
        example,
        inputs=["a", "b", "eps", "tol", "max_steps"],
        outputs=["f", "g", "error", "steps"],
    )
    return described(proto, predictor, place, card, version)


def exported(
    module: nn.Module, example: tuple[Tensor, ...], *, inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Export a module of which the first inputs are batches: a, b and eps, which may also be one for all."""
    batch = torch.export.Dim("batch", min=2, max=2**31)
    shapes = tuple({0: batch} if value.ndim else {} for value in example)
    return _one_eps_for_all(traced(module, example, shapes, inputs=inputs, outputs=outputs))


def traced(
    module: nn.Module,
    example: tuple[Tensor, ...],
    shapes: tuple[dict[int, Any], ...],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> onnx.ModelProto:
    """Export a module, without notes of the tracing; `shapes` names the dimensions that may be of any size."""
    module = module.eval().requires_grad_(False)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        logger.setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                module, example, input_names=inputs, output_names=outputs, dynamic_shapes=shapes, dynamo=True,
                verbose=False,
            )  # fmt: skip
        finally:
            logger.setLevel(level)
    assert program is not None
    proto = program.model_proto  # made anew each time
    for graph in graphs(proto.graph):
        del graph.value_info[:]
        for node in graph.node:  # where in which file of this machine it comes from
            del node.metadata_props[:]
            node.doc_string = ""
    return proto


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
    """Return the names of the costs, one for each axis or one in all; see to it that they are in the file."""
    costs = place.state_dict()
    places = [f"cost{k}" for k in place.places] if isinstance(place, GridSpace) else ["cost"]
    there = {tensor.name for tensor in proto.graph.initializer}
    for name in sorted(set(places)):
        if f"space.{name}" not in there:
            proto.graph.initializer.append(onnx.numpy_helper.from_array(costs[name].numpy(), f"space.{name}"))
    return [f"space.{name}" for name in places]


def _example(predictor: AmortizedPotential) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch to trace with."""
    n, m = predictor.geometry.shape
    a, b = (torch.full((3, size), 1 / size, dtype=torch.float64) for size in (n, m))
    return a, b, torch.full((3,), predictor.eps[1], dtype=torch.float64)
