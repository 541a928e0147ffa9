"""The universal network in an exported graph: images of any size on the unit square."""

from typing import final

import torch
from torch import Tensor, nn

from metaot.models.universal import UniversalNetwork
from metaot.models.universal.network import Seen
from metaot.models.universal.places import GridPlace
from metaot.onnx.graph.grids import PLAIN, PlainSums

PLAINLY = 2.0 / PLAIN
"""The lowest eps at which the cost from corner to corner of the square fits into plain sums."""
_NO_MASS = -1e4
"""The logarithm of a weight of zero, in sums that must stay finite."""


@final
class UniversalPrediction(nn.Module):
    """(a, b, eps) -> (f, g, plain f, plain g), all float64: images, batch height width, of any size; eps k.

    The plain ones are the same where eps is at least `PLAINLY`, by sums that take a fraction of the time. A
    runtime asks for one pair.
    """

    def __init__(self, network: UniversalNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, a: Tensor, b: Tensor, eps: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        side = GridPlace((_axis(a, 1).float(), _axis(a, 2).float()))
        weights = a.flatten(1).float(), b.flatten(1).float()
        temperatures = eps.float() + torch.zeros_like(a[:, 0, 0]).float()
        seen = self.network.look((side, side), weights, temperatures)
        by_logs = self._by(LogSums(eps, _costs(a)), seen, a, b)
        plainly = self._by(PlainSums(eps, _costs(a), (0, 1)), seen, a, b)
        return *by_logs, *plainly

    def _by(self, sums: "PlainSums | LogSums", seen: Seen, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        def step(f: Tensor) -> tuple[Tensor, Tensor]:
            after, missing = sums.step(f.double().reshape(a.shape), a, b)
            return after.float().flatten(1), missing.float().flatten(1)

        *_, f = self.network.refined(seen, step)
        f = f.double().reshape(a.shape)
        return f, sums.best_g(f, a)


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


def _costs(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the cost along each axis."""
    rows, columns = _axis(images, 1), _axis(images, 2)
    return (rows[:, None] - rows).square(), (columns[:, None] - columns).square()


def _axis(images: Tensor, dim: int) -> Tensor:
    """Return the coordinates of the pixels along an axis, evenly spaced from 0 to 1."""
    size = images.shape[dim]
    return torch.arange(size, dtype=torch.float64) / max(size - 1, 1)
