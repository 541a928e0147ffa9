"""What is exported of a data set with a potential: from points to the scores of the data."""

from typing import Any, final

import onnx
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from metaot.models.data_set import PRODUCTS, DataSetPotential
from metaot.onnx.trace import traced

_DIRECT = 8
"""Up to this dimension squared distances are sums over axes, which lose no digits."""


@final
class Scores(nn.Module):
    """x, k d -> the scores of the data, k m, and what of f depends on x only, k: |x|^2 for squared distances."""

    def __init__(self, model: DataSetPotential) -> None:
        super().__init__()
        self.cost: Any = model.cost
        far = self.cost == "sqeuclidean"
        self.register_buffer("points", model.y.detach())
        self.register_buffer("centre", model.centre)
        self.register_buffer("offsets", model.h - model.y.square().sum(1) if far else model.h)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.cost in PRODUCTS:
            x = x - self.centre
            own = x.square().sum(1) * (1.0 if self.cost == "sqeuclidean" else 0.0)
            return x @ self.points.mT * PRODUCTS[self.cost] + self.offsets, own
        return self.offsets - _COSTS[self.cost](x, self.points), x[:, 0] * 0.0


def _squared(x: Tensor, y: Tensor) -> Tensor:
    if x.shape[1] > _DIRECT:
        squares = x.square().sum(1)[:, None] + y.square().sum(1)
        return (squares - 2.0 * (x @ y.mT)).clamp_min(0.0)
    total = (x[:, 0, None] - y[:, 0]).square()
    for axis in range(1, x.shape[1]):
        total = total + (x[:, axis, None] - y[:, axis]).square()
    return total


_COSTS = {
    "euclidean": lambda x, y: _squared(x, y).sqrt(),
    "cosine": lambda x, y: _squared(normalize(x, dim=1), normalize(y, dim=1)) / 2.0,
    "sphere": lambda x, y: 2.0 * (_squared(x, y).sqrt() / 2.0).clamp_max(1.0).asin(),
}


def data_set_graph(model: DataSetPotential) -> onnx.ModelProto:
    """Return the graph x -> (scores, own), with the data as one more output; ValueError for a cost function."""
    if model.cost not in {*PRODUCTS, *_COSTS}:
        raise ValueError(f"costs that are exported are {sorted({*PRODUCTS, *_COSTS})}, got a function")
    x = model.y[:3] + model.centre
    example = x.repeat(3, 1)[:3] + 0.1
    batch = torch.export.Dim("batch", min=2, max=2**31)
    with torch.no_grad():
        proto = traced(Scores(model), (example,), ({0: batch},), inputs=["x"], outputs=["scores", "own"])
    data = onnx.numpy_helper.from_array(model.data.cpu().numpy(), "y")
    proto.graph.initializer.append(data)
    proto.graph.output.append(onnx.helper.make_tensor_value_info("y", data.data_type, list(data.dims)))
    return proto
