"""Geometries in exported graphs: their costs, and which sums are right at a temperature."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import final

import torch
from torch import Tensor, nn

from metaot.geometry import Geometry, Grid
from metaot.onnx.graph.grids import PLAIN, TINY, AxisSplit, LineSums, PlainSums, Sums

_LOWEST = -1e30
"""Instead of minus infinity, with which the logsumexp of onnxruntime is sometimes NaN."""


class Space(nn.Module, ABC):
    """A geometry; its costs are the buffers whose names begin with `cost`."""

    @abstractmethod
    def shaped(self, weights: Tensor) -> Tensor:
        """Return vectors in the shape that sums want."""

    @abstractmethod
    def sums(self, eps: Tensor) -> "Sums":
        """Return the sums at temperatures eps; not finite where they are not right and `others` are needed."""

    @property
    @abstractmethod
    def others(self) -> "Callable[[Tensor], Sums] | None":
        """The sums that are right at all temperatures; None if `sums` are."""


@final
class GridSpace(Space):
    """A grid in an exported graph."""

    def __init__(self, grid: Grid, lowest: float) -> None:
        super().__init__()
        self.sizes = list(grid.sizes)
        self.axes: list[int] = []
        costs: list[Tensor] = []
        for cost in grid.axis_costs:
            same = [k for k, other in enumerate(costs) if torch.equal(cost, other)]
            self.axes.append(same[0] if same else len(costs))
            if not same:
                costs.append(cost.double())
        self.count = len(costs)
        for k, cost in enumerate(costs):
            self.register_buffer(f"cost{k}", cost)
        self.total = sum(float(cost.amax()) for cost in grid.axis_costs)
        self.always_plain = self.total <= PLAIN * lowest
        splits = [] if self.always_plain else [AxisSplit(cost, lowest) for cost in costs]
        self.splits = nn.ModuleList(splits)
        self.register_buffer("tiny", torch.tensor(TINY, dtype=torch.float64))
        self.tiny: Tensor

    @property
    def costs(self) -> list[Tensor]:
        """The different costs of axes; `axes` holds the index of that of each axis."""
        return [getattr(self, f"cost{k}") for k in range(self.count)]

    def shaped(self, weights: Tensor) -> Tensor:
        """Return vectors as functions on the grid."""
        return weights.reshape(-1, *self.sizes)

    def sums(self, eps: Tensor) -> PlainSums:
        return PlainSums(eps, self.costs, self.axes)

    @property
    def others(self) -> "Callable[[Tensor], Sums] | None":
        return None if self.always_plain else self.by_lines

    def by_lines(self, eps: Tensor) -> LineSums:
        """Return sums that are right for all eps of the range."""
        splits = [split for split in self.splits if isinstance(split, AxisSplit)]
        return LineSums(eps, self.costs, self.axes, splits, self.tiny)


@final
class DenseSpace(Space):
    """A cost matrix."""

    def __init__(self, C: Tensor) -> None:
        super().__init__()
        self.register_buffer("cost", C.double().contiguous())
        self.cost: Tensor

    def shaped(self, weights: Tensor) -> Tensor:
        return weights

    def sums(self, eps: Tensor) -> "DenseSums":
        return DenseSums(eps, self.cost)

    @property
    def others(self) -> None:
        return None


@final
class DenseSums(Sums):
    """Sums over the rows and columns of a matrix, in the log domain."""

    def __init__(self, eps: Tensor, cost: Tensor) -> None:
        self.eps, self.cost = eps[:, None], cost

    def step(self, f: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        after = self.best_f(self.best_g(f, a), b)
        return after, a - a * ((f - after) / self.eps).clamp_max(600).exp()

    def best_g(self, f: Tensor, a: Tensor) -> Tensor:
        z = (f / self.eps + a.log()).clamp_min(_LOWEST)
        return torch.logsumexp(z[:, :, None] - self.cost / self.eps[:, :, None], 1) * -self.eps

    def best_f(self, g: Tensor, b: Tensor) -> Tensor:
        """Return the best f for g."""
        z = (g / self.eps + b.log()).clamp_min(_LOWEST)
        return torch.logsumexp(z[:, None, :] - self.cost / self.eps[:, :, None], 2) * -self.eps


def space(geometry: Geometry, lowest: float) -> Space:
    """Return the space of a geometry for temperatures from the lowest one."""
    if isinstance(geometry, Grid):
        return GridSpace(geometry, lowest)
    return DenseSpace(geometry.cost_rows(slice(None)).detach())
