"""What is exported: from weights and a temperature to both potentials."""

from typing import final

from torch import Tensor, nn

from metaot.onnx.graph.grids import Sums
from metaot.onnx.graph.networks import Network
from metaot.onnx.graph.spaces import Space


@final
class Prediction(nn.Module):
    """(a, b, eps) -> (f, g), all float64: the network, and the c-transform."""

    def __init__(self, network: Network, space: Space) -> None:
        super().__init__()
        self.network, self.space = network, space

    def forward(self, a: Tensor, b: Tensor, eps: Tensor) -> tuple[Tensor, Tensor]:
        *parts, f = self.network.start(a, b, eps)
        a, b, f = (self.space.shaped(values) for values in (a, b, f))
        f, g = self.space.by(eps, self._finish, (a, b, *parts, f))
        return f.flatten(1), g.flatten(1)

    def _finish(self, sums: Sums, a: Tensor, b: Tensor, *state: Tensor) -> tuple[Tensor, Tensor]:
        f = self.network.finish(state, a, b, sums)
        return f, sums.best_g(f, a)
