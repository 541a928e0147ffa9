"""Recorded graphs compute what the modules do, for sizes that were not traced."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import InferenceSession
from torch import Tensor, nn
from torch.nn import functional

from metaot.onnx import trace
from metaot.onnx.record import UnrecordedError

Function = Callable[..., Tensor]
FLIPPED = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

FUNCTIONS: dict[str, Function] = {
    "arithmetic": lambda x, y: -(2 - x) / (1 + y.abs()) * x + y - 0.5,
    "powers": lambda x, y: x.abs() ** 0.5 + y**2 + x.abs().pow(1.5) + (x * x + 1).rsqrt() + y.square().sqrt(),
    "two types": lambda x, y: x.float() * y.float().double() + x.float().abs(),
    "comparisons": lambda x, y: torch.where(x > y, x, -torch.inf).clamp(-1, 2) + (x < 0.3).to(x),
    "bounds": lambda x, y: x.clamp_min(0) + y.clamp_max(0.5) + torch.maximum(x, y) - torch.minimum(x, -y),
    "activations": lambda x, y: (
        functional.softplus(x.float()) + functional.leaky_relu(y.float(), 0.2) + x.sigmoid() + y.relu()
    ),
    "reductions": lambda x, y: x.sum((1, 2), keepdim=True) * y.mean(-1, keepdim=True) + x.amax((0, 2)) - y.sum(),
    "products": lambda x, y: x @ FLIPPED @ y.mT + torch.bmm(x, y.transpose(1, 2)),
    "shapes": lambda x, y: (x.flatten(1).unflatten(1, (x.shape[1], 2, 2)).flatten(2) + y).permute(2, 0, 1),
    "sizes": lambda x, y: x.reshape(x.shape[0] * x.shape[1], -1) / (x.shape[1] - 1) + y.reshape(-1, 4),
    "parts": lambda x, y: torch.stack([*x.chunk(2, -1), *y.split([2, 2], -1)]).unbind()[3],
    "joined": lambda x, y: torch.cat([x, y], 0)[x.shape[0] :, None, 1:, -1] + x[:, 0, :1, None],
    "slices": lambda x, y: x[..., ::2] + y[:, :, 1:3] + x[:, -1:, :1] + y[0, 1, 2],
    "filled": lambda x, y: (
        torch.zeros(x.shape[0], 5).index_add_(-1, torch.tensor([0, 3, 3, 1]), x[:, 0]) + y[:, 0, :1]
    ),
    "counted": lambda x, y: torch.arange(x.shape[1], dtype=x.dtype) * x.mT + torch.zeros_like(y.mT),
    "repeated": lambda x, y: x.repeat(1, 1, 2) + y[:, :, :1].expand(-1, -1, 8),
    "chosen": lambda x, y: (
        y.gather(-1, x.topk(3, -1).indices) + y.gather(1, y.argmin(1)[:, None])[..., :3] + y.topk(3).values
    ),
    "gathered": lambda x, y: x.scatter_add(-1, y.topk(4, -1).indices, y) * 1.0,
    "fractions": lambda x, y: (10 * x).frac() + y.softmax(-1) + torch.where(torch.isfinite(x / 0), x, 1.0),
    "counts": lambda x, y: x[:, : torch.sym_min((y < torch.inf).sum((1, 2)).amax().item() // 8, x.shape[1])] * 2,
    "in place": lambda x, y: (x * 2).add_(y).mul_(x),
}


class Both(nn.Module):
    """A function of two tensors as a module."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.function(x, y)


def example(batch: int, rows: int) -> tuple[Tensor, Tensor]:
    x, y = torch.randn(2, batch, rows, 4, generator=torch.Generator().manual_seed(batch))
    return x, y


def recorded(module: nn.Module, record: Callable[..., Any] = trace.recorded) -> onnx.ModelProto:
    batch, rows = torch.export.Dim("batch", min=2, max=64), torch.export.Dim("rows", min=2, max=64)
    return record(module, example(2, 3), ({0: batch, 1: rows},) * 2, inputs=["x", "y"], outputs=["z"])


def require_equal(proto: onnx.ModelProto, function: Function) -> None:
    onnx.checker.check_model(proto, full_check=True)
    opened = InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for batch, rows in ((1, 2), (5, 3), (3, 7)):
        x, y = example(batch, rows)
        found = opened.run(None, {"x": x.numpy(), "y": y.numpy()})[0]
        np.testing.assert_allclose(found, function(x, y).numpy(), atol=1e-6)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_written_for_all_sizes(name: str) -> None:
    require_equal(recorded(Both(FUNCTIONS[name])), FUNCTIONS[name])


def test_layers_are_written() -> None:
    torch.default_generator.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2, bias=False))
    layers = layers.float().requires_grad_(False)
    module = Both(lambda x, y: functional.gelu(layers((x + y).float())).double())
    require_equal(recorded(module), module)


def test_equal_nodes_and_tensors_are_written_once() -> None:
    proto = recorded(Both(lambda x, y: (x @ FLIPPED).exp() + (x @ FLIPPED.clone()).exp() * (y @ FLIPPED).cos()))
    assert [node.op_type for node in proto.graph.node].count("MatMul") == 2
    assert len(proto.graph.initializer) == 1


def test_what_nothing_needs_is_not_written() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        y.exp().sum()
        return x + 1

    assert [node.op_type for node in recorded(Both(function)).graph.node] == ["Add", "Identity"]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda x, y: x.erfinv() + y, "'erfinv'"),
        (lambda x, y: x * len(y), "of any size"),
        (lambda x, y: x * y if x.shape[0] > 3 else x + y, "depends on sizes"),
    ],
)
def test_what_cannot_be_recorded_is_exported_by_torch(
    function: Function, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnrecordedError, match=words):
        recorded(Both(function))
    other = onnx.ModelProto(producer_name="torch")
    monkeypatch.setattr(trace, "exported_by_torch", lambda *_, **__: other)
    assert recorded(Both(function), trace.traced) is other


@pytest.mark.slow
def test_torch_exports_what_it_knows() -> None:
    def function(x: Tensor, y: Tensor) -> Tensor:
        return x.cumsum(-1) * y

    require_equal(recorded(Both(function), trace.traced), function)
