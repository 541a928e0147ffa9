"""Torch modules as ONNX graphs."""

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

try:
    import onnx
    import onnxscript  # noqa: F401, torch's exporter wants it
except ImportError:
    raise ImportError("exporting needs the extra `export`: pip install 'metaot[export]'") from None

from metaot import __version__
from metaot.onnx.files import FORMAT

Shapes = tuple[Any, ...]
"""For each input, the names of the dimensions that may be of any size."""
LARGEST_FILE = 2**31 - 2**20
"""What fits into one ONNX file."""
_FEW = 64
"""The size in bytes up to which equal tensors are stored twice."""


def finished(proto: onnx.ModelProto, card: dict[str, Any], about: dict[str, Any]) -> bytes:
    """Return the content of a file with all that is known of the model inside: of its card, and `about`.

    Raises ValueError when it is too large for one file.
    """
    metadata = {
        "metaot": {"format": FORMAT, "version": __version__, "torch": torch.__version__},
        "model": card["model"],
        "recipe": card.get("recipe"),
        "data": (card.get("recipe") or {}).get("data"),
        "quality": {key: card[key] for key in ("validation", "test") if key in card},
        **about,
    }
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=json.dumps(value))
    if proto.ByteSize() > LARGEST_FILE:
        raise ValueError(f"the model is too large for one ONNX file: it would have {proto.ByteSize()} bytes")
    onnx.checker.check_model(proto)
    return proto.SerializeToString()


def traced(
    module: nn.Module,
    example: tuple[Tensor, ...],
    shapes: Shapes,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> onnx.ModelProto:
    """Export a module, without notes of the tracing."""
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
    del proto.graph.value_info[:]
    for node in proto.graph.node:  # where in which file of this machine it comes from
        del node.metadata_props[:]
        node.doc_string = ""
    return proto


def either(main: onnx.ModelProto, other: onnx.ModelProto, outputs: Sequence[str]) -> onnx.ModelProto:
    """Return the first graph, with its outputs where it says `right`, else with those of the second.

    Both have the same inputs; the second is evaluated only if it is needed. Equal tensors are stored once.
    """
    kept = {tensor.raw_data: tensor.name for tensor in main.graph.initializer if len(tensor.raw_data) > _FEW}
    names = {value.name: value.name for value in other.graph.input}
    for tensor in list(other.graph.initializer):
        same = kept.get(tensor.raw_data)
        if same is not None:
            names[tensor.name] = same
            other.graph.initializer.remove(tensor)
    _rename(other.graph, lambda name: names.get(name, f"else_{name}"))
    _rename(main.graph, lambda name: f"then_{name}" if name in outputs else name)
    types = [value.type for value in main.graph.output if value.name != "right"]
    then, results = onnx.GraphProto(name="then"), []
    for name, kind in zip(outputs, types, strict=True):
        then.node.append(onnx.helper.make_node("Identity", [f"then_{name}"], [f"given_{name}"]))
        then.output.append(onnx.helper.make_value_info(f"given_{name}", kind))
        results.append(onnx.helper.make_value_info(name, kind))
    del other.graph.input[:]
    del main.graph.output[:]
    branches: dict[str, Any] = {"then_branch": then, "else_branch": other.graph}
    main.graph.node.append(onnx.helper.make_node("If", ["right"], list(outputs), **branches))
    main.graph.output.extend(results)
    return main


def _rename(graph: onnx.GraphProto, new: Callable[[str], str]) -> None:
    """Rename all values of a graph without inner ones."""
    for node in graph.node:
        node.input[:] = [new(name) if name else "" for name in node.input]
        node.output[:] = [new(name) if name else "" for name in node.output]
        node.name = new(node.name)
    for value in (*graph.initializer, *graph.output):
        value.name = new(value.name)
