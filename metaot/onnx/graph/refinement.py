"""What is exported with --refine: from weights and a temperature to potentials with a certificate."""

from typing import final

from torch import Tensor, nn

from metaot.onnx.graph.grids import Sums
from metaot.onnx.graph.loops import Limits, Refined
from metaot.onnx.graph.networks import Network
from metaot.onnx.graph.spaces import Space


@final
class Refinement(nn.Module):
    """(a, b, eps, tol, max_steps) -> (f, g, error, steps): the network, and Sinkhorn until the L1 error is tol."""

    def __init__(self, network: Network, space: Space) -> None:
        super().__init__()
        self.network, self.space = network, space

    def forward(self, a: Tensor, b: Tensor, eps: Tensor, tol: Tensor, max_steps: Tensor) -> Refined:
        *parts, f = self.network.start(a, b, eps)
        a, b, f = (self.space.shaped(values) for values in (a, b, f))
        f, g, error, steps = self.space.by(eps, self._finish, (a, b, tol, max_steps, *parts, f))
        return f.flatten(1), g.flatten(1), error, steps

    def _finish(self, sums: Sums, a: Tensor, b: Tensor, *others: Tensor) -> Refined:
        tol, max_steps, *state = others
        f = self.network.finish(tuple(state), a, b, sums)
        return sums.refined(f, a, b, Limits(tol, max_steps))
