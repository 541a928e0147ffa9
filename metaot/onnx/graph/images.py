"""The universal network in an exported graph: images of any size on the unit square."""

from typing import final

import torch
from torch import Tensor, nn

from metaot.amortize.plane import GridSupport, encode
from metaot.models.universal import UniversalNetwork
from metaot.onnx.graph.grids import PlainSums
from metaot.onnx.graph.prediction import finite

_NO_MASS = -1e4
"""The logarithm of a weight of zero, in sums that must stay finite."""


@final
class UniversalPrediction(nn.Module):
    """(a, b, eps) -> (f, g, right), float64: images, batch height width, of any size; eps is one or one for each.

    Sums over pixels are plain products, and `right` is whether all numbers stay in floating point. `exact`, sums
    are taken in the log domain, and there is no `right`.
    """

    def __init__(self, network: UniversalNetwork, *, exact: bool = False) -> None:
        super().__init__()
        self.network, self.exact = network, exact

    def forward(self, a: Tensor, b: Tensor, eps: Tensor) -> tuple[Tensor, ...]:
        rows, columns = _axis(a, 1), _axis(a, 2)
        atoms = GridSupport(rows, columns)
        each = eps + a[:, 0, 0] * 0
        encoding = encode(atoms, a.flatten(1), b.flatten(1), each, self.network.modes)
        coefficients, x, temperature = self.network(*encoding.inputs)
        f = encoding.potential(coefficients).reshape(a.shape)
        costs = (rows[:, None] - rows).square(), (columns[:, None] - columns).square()
        sums = LogSums(eps, costs) if self.exact else PlainSums(eps, costs, (0, 1))
        for _ in range(self.network.passes):
            stepped, missing = sums.step(f, a, b)
            moments = encoding.frame.analysed(missing.flatten(1))
            correction = encoding.correction(self.network.correct(moments, x, temperature))
            f = stepped + correction.reshape(a.shape)
        g = sums.best_g(f, a)
        return (f, g) if self.exact else (f, g, finite(f, g))


@final
class LogSums:
    """Sums over the atoms of an image in the log domain, axis by axis: right for every eps."""

    def __init__(self, eps: Tensor, costs: tuple[Tensor, Tensor]) -> None:
        self.eps = eps[:, None, None]
        self.costs = [cost / self.eps for cost in costs]

    def step(self, f: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        """Return f after a Sinkhorn step, and the marginal a - P 1 that the plan of f misses."""
        after = self.best_g(self.best_g(f, a), b)
        return after, a - a * ((f - after) / self.eps).clamp_max(600).exp()

    def best_g(self, f: Tensor, a: Tensor) -> Tensor:
        """Return the c-transform of f."""
        z = f / self.eps + a.log().clamp_min(_NO_MASS)
        return -self.eps * _along(_along(z, self.costs[1]), self.costs[0])


def _along(z: Tensor, cost: Tensor) -> Tensor:
    """Return log sum_j exp(z_ij - C_jk), transposed: batch columns rows."""
    terms = z[:, None, :, :] - cost[:, :, None, :]
    top = terms.amax(-1, keepdim=True)
    return (terms - top).exp().sum(-1).log() + top[..., 0]


def _axis(images: Tensor, dim: int) -> Tensor:
    """Return the coordinates of the pixels along an axis, evenly spaced from 0 to 1."""
    size = images.shape[dim]
    return torch.arange(size, dtype=torch.float64) / max(size - 1, 1)
