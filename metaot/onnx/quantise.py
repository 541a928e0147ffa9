"""Weights of eight bits by onnxruntime's quantiser, and what they cost: Sinkhorn steps against microseconds."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import final

import numpy as np
import onnx
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from metaot.geometry import Eps
from metaot.onnx.graph.tree import graphs
from metaot.onnx.runtime import OnnxModel
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, solve

LOSS = 1.0
"""Sinkhorn steps that eight bits may cost in the mean."""

_TARGET = 1e-3
_CALLS = 200


def quantised(content: bytes) -> bytes:
    """Return the file with the layers of the network in eight bits, and activations quantised as they come."""
    proto = onnx.load_from_string(content)
    _transpose(proto)
    with TemporaryDirectory() as folder:
        before, after = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        before.write_bytes(proto.SerializeToString())
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # it recommends a preprocessing that is not needed
        try:
            quantize_dynamic(
                before,
                after,
                weight_type=QuantType.QInt8,
                per_channel=True,
                op_types_to_quantize=["Gemm", "MatMul"],
                nodes_to_exclude=_exact(proto),
                extra_options={"EnableSubgraph": True},
            )
        finally:
            logging.root.setLevel(level)
        smaller = onnx.load(after)
    del smaller.metadata_props[:]
    smaller.metadata_props.extend(proto.metadata_props)
    return smaller.SerializeToString()


def _transpose(proto: onnx.ModelProto) -> None:
    """Turn the matrices of layers: the quantiser does so in the outer graph only."""
    tensors = {tensor.name: tensor for tensor in proto.graph.initializer}
    turned: set[str] = set()
    for node in (node for graph in graphs(proto.graph) for node in graph.node if node.op_type == "Gemm"):
        for attribute in node.attribute:
            if attribute.name != "transB" or attribute.i == 0:
                continue
            attribute.i, name = 0, node.input[1]
            if name not in turned:
                matrix = np.ascontiguousarray(onnx.numpy_helper.to_array(tensors[name]).T)
                tensors[name].CopyFrom(onnx.numpy_helper.from_array(matrix, name))
                turned.add(name)


def _exact(proto: onnx.ModelProto) -> list[str]:
    """Return the names of products that stay as they are: along axes of the grid, and with powers of log eps."""
    nodes = [node for graph in graphs(proto.graph) for node in graph.node]
    return [
        node.name
        for node in nodes
        if node.op_type == "MatMul" or any(name.endswith("of_eps.weight") for name in node.input)
    ]


@final
@dataclass(frozen=True)
class Loss:
    """Extra Sinkhorn steps to an L1 error of 1e-3, in the mean, and microseconds saved by a prediction."""

    steps: float
    microseconds: float

    def __str__(self) -> str:
        verb = "saves" if self.microseconds >= 0 else "adds"
        return f"int8 costs {self.steps:.2f} Sinkhorn steps to 1e-3 and {verb} {abs(self.microseconds):.0f} us"


def compare(whole: OnnxModel, smaller: OnnxModel, problems: Problem) -> Loss:
    """Compare two files on a batch of problems, and on the first of it alone for time."""
    a, b, eps = problems.a[:1].numpy(), problems.b[:1].numpy(), problems.eps
    times = [[_seconds(model, a, b, eps) for model in (whole, smaller)] for _ in range(_CALLS)]
    saved = median(before - after for before, after in times)
    extra = (_steps(problems, smaller) - _steps(problems, whole)).double()
    return Loss(float(extra.mean()), 1e6 * saved)


def _steps(problems: Problem, model: OnnxModel) -> torch.Tensor:
    guess = model.predict(problems)
    return solve(problems, init=guess, solver=Sinkhorn(accelerated=False), tol=_TARGET, max_steps=2000).steps


def _seconds(model: OnnxModel, a: np.ndarray, b: np.ndarray, eps: Eps) -> float:
    begin = time.perf_counter()
    model.predict(a, b, eps=eps)
    return time.perf_counter() - begin
