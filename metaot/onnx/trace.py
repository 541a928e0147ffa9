"""Torch modules as ONNX graphs."""

import json
import logging
import warnings
from collections.abc import Callable, Sequence
from inspect import Parameter, signature
from typing import Any

import torch
from torch import Tensor, nn

try:
    import onnx
except ImportError:
    raise ImportError("exporting needs the extra `export`: pip install 'metaot[export]'") from None

from metaot import __version__, digest
from metaot.onnx.files import FORMAT
from metaot.onnx.operators import RULES
from metaot.onnx.record import DTYPES, IR_VERSION, OPSET, Pair, Recorder, UnrecordedError

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
    return digest.sealed(proto.SerializeToString())


def traced(
    module: nn.Module,
    example: tuple[Tensor, ...],
    shapes: Shapes,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> onnx.ModelProto:
    """Return a module as a graph: recorded, or exported by torch if it calls what the recorder has no rule for."""
    module = module.eval().requires_grad_(False)
    try:
        return recorded(module, example, shapes, inputs=inputs, outputs=outputs)
    except UnrecordedError:
        return exported_by_torch(module, example, shapes, inputs=inputs, outputs=outputs)


@torch.no_grad()
def recorded(
    module: nn.Module,
    example: tuple[Tensor, ...],
    shapes: Shapes,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> onnx.ModelProto:
    """Record a module as it runs on an example, and on one of other sizes; UnrecordedError if there is no rule."""
    example = tuple(value.clone() for value in example)  # one tensor may be given twice
    dims = list(dict.fromkeys(dim.__name__ for axes in shapes for dim in axes.values()))
    twins = tuple(_of_other_sizes(value, axes, dims) for value, axes in zip(example, shapes, strict=True))
    with Recorder(module, RULES) as recorder:
        pairs = list(map(recorder.follow, example, twins, inputs))
        found = module(*example)
    results = [recorder.pair(value) for value in (found if isinstance(found, tuple) else (found,))]
    expected = module(*twins)
    for result, value in zip(results, expected if isinstance(expected, tuple) else (expected,), strict=True):
        if result.twin.shape != value.shape or not torch.allclose(result.twin, value, equal_nan=True):
            raise UnrecordedError("what a module computes depends on sizes in ways that were not recorded")
    names = {}
    for given, pair in zip(shapes, pairs, strict=True):
        names.update({pair.sizes[axis]: dim.__name__ for axis, dim in given.items()})
    return _model(recorder, pairs, dict(zip(outputs, results, strict=True)), names)


def _of_other_sizes(values: Tensor, axes: dict[int, Any], dims: list[str]) -> Tensor:
    """Return an example with more entries along the axes of any size."""
    for axis, dim in axes.items():
        size = values.shape[axis]
        values = values.index_select(axis, torch.arange(2 * size + 1 + dims.index(dim.__name__)) % size)
    return values


def _model(
    recorder: Recorder, inputs: list[Pair], outputs: dict[str, Pair], names: dict[Any, str]
) -> onnx.ModelProto:
    """Return the graph of the nodes that the outputs need; `names` are those of sizes, by their pairs."""
    nodes = list(recorder.nodes)
    nodes += [onnx.helper.make_node("Identity", [pair.name], [name]) for name, pair in outputs.items()]
    needed, kept = set(outputs), []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)

    def described(name: str, pair: Pair) -> onnx.ValueInfoProto:
        sizes = [one if one == other else names.get((one, other)) for one, other in pair.sizes]
        return onnx.helper.make_tensor_value_info(name, DTYPES[pair.tensor.dtype], sizes)

    stored = [tensor for name, tensor in recorder.initializers.items() if name in needed]
    graph = onnx.helper.make_graph(
        kept[::-1],
        "metaot",
        [described(pair.name, pair) for pair in inputs],
        [described(name, pair) for name, pair in outputs.items()],
        stored,
    )
    return onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="metaot"
    )


def exported_by_torch(
    module: nn.Module,
    example: tuple[Tensor, ...],
    shapes: Shapes,
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> onnx.ModelProto:
    """Export a module by torch, which knows all of its functions and takes long; without notes of the tracing."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    (kind,) = {parameter.kind for parameter in signature(module.forward).parameters.values()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter about itself
        logger.setLevel(logging.ERROR)
        try:
            program = torch.onnx.export(
                module, example, input_names=inputs, output_names=outputs, dynamo=True, verbose=False,
                dynamic_shapes=(shapes,) if kind is Parameter.VAR_POSITIONAL else shapes,
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


def renamed(proto: onnx.ModelProto, *, prefix: str, kept: Sequence[str]) -> onnx.ModelProto:
    """Return a graph whose values have a prefix, all but some: to be a part of another graph."""
    _rename(proto.graph, lambda name: name if name in kept else prefix + name)
    return proto


def _rename(graph: onnx.GraphProto, new: Callable[[str], str]) -> None:
    """Rename all values of a graph without inner ones."""
    for node in graph.node:
        node.input[:] = [new(name) if name else "" for name in node.input]
        node.output[:] = [new(name) if name else "" for name in node.output]
        node.name = new(node.name) if node.name else ""
    for value in (*graph.initializer, *graph.output):
        value.name = new(value.name)
