"""Weights of eight bits by onnxruntime's quantiser, and what they cost: Sinkhorn steps against microseconds."""

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import final

import numpy as np
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic

from metaot.onnx.runtime import OnnxModel
from metaot.problem import Problem
from metaot.solvers import Sinkhorn, solve

LOSS = 1.0
"""Sinkhorn steps that eight bits may cost in the mean."""

_TARGET = 1e-3
_CALLS = 200


def quantised(content: bytes) -> bytes:
    """Return the file with matrices of the network in eight bits, and activations quantised as they come."""
    with TemporaryDirectory() as folder:
        before, after = Path(folder) / "model.onnx", Path(folder) / "int8.onnx"
        before.write_bytes(content)
        level = logging.root.level
        logging.root.setLevel(logging.ERROR)  # it recommends a preprocessing that is not needed
        try:
            quantize_dynamic(
                before, after, weight_type=QuantType.QInt8, per_channel=True, op_types_to_quantize=["Gemm"],
                extra_options={"EnableSubgraph": True},
            )  # fmt: skip
        finally:
            logging.root.setLevel(level)
        return after.read_bytes()


@final
@dataclass(frozen=True)
class Loss:
    """Extra Sinkhorn steps to an L1 error of 1e-3, in the mean, and microseconds saved by a prediction."""

    steps: float
    microseconds: float

    def __str__(self) -> str:
        verb = "saves" if self.microseconds >= 0 else "adds"
        return f"int8 costs {self.steps:.2f} Sinkhorn steps to 1e-3 and {verb} {abs(self.microseconds):.0f} us"


def compare(whole: OnnxModel, smaller: OnnxModel, problems: list[Problem]) -> Loss:
    """Compare two files, on batches of problems, and on the first one alone for time."""
    one = problems[0][:1]
    a, b, eps = one.a.numpy(), one.b.numpy(), float(torch.as_tensor(one.eps).reshape(-1)[0])
    times = [[_seconds(model, a, b, eps) for model in (whole, smaller)] for _ in range(_CALLS)]
    saved = median(before - after for before, after in times)
    extra = torch.cat([_steps(problem, smaller) - _steps(problem, whole) for problem in problems])
    return Loss(float(extra.double().mean()), 1e6 * saved)


def _steps(problem: Problem, model: OnnxModel) -> torch.Tensor:
    return solve(
        problem, init=model.predict(problem), solver=Sinkhorn(relaxed=False), tol=_TARGET, max_steps=2000
    ).steps


def _seconds(model: OnnxModel, a: np.ndarray, b: np.ndarray, eps: float) -> float:
    begin = time.perf_counter()
    model.predict(a, b, eps=eps)
    return time.perf_counter() - begin
