"""Pairs of images on a grid whose cost changes: exponents from one to two, other ones and other scales by axis."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from metaot.data.base import STREAMS, EpsRange, ProblemSet, Source, Split, stream
from metaot.data.drawings import DrawnPairs, each_twice
from metaot.geometry import Grid
from metaot.problem import Problem
from metaot.settings import require_eps, require_share, require_whole


@final
@dataclass(frozen=True)
class CostFamilies(Source):
    """Pairs of `drawn_images` on a square grid, with a cost that is drawn for each batch.

    The cost is the sum over the two axes of w |x - y|^p, with an exponent p that both axes share or that each has
    for itself, and a factor w of each axis; the product of the two factors is one. eps is a share of the mean
    cost: a batch's `eps` is that share times the mean of C, in the unit of C. All splits have the same
    distribution, by other seeds.
    """

    batch: int = 64
    """Problems in a step of training, which share one cost."""
    eps: EpsRange = (0.01, 0.05)
    """The lowest and the highest temperature, as a share of the mean cost."""
    side: int = 64
    """Rows and columns of the images."""
    exponents: tuple[float, float] = (1.0, 2.0)
    """The lowest and the highest exponent p."""
    anisotropy: float = 4.0
    """The largest ratio of the factors of the two axes; 1 for the same cost along both."""
    per_axis: float = 0.5
    """The share of batches in which each axis has an exponent of its own."""

    def __post_init__(self) -> None:
        require_whole(1, batch=self.batch)
        require_whole(2, side=self.side)
        require_eps(self.eps)
        require_share(per_axis=self.per_axis)
        low, high = self.exponents
        if not 1 <= low <= high < math.inf:
            raise ValueError(f"exponents must be (lowest, highest), at least 1 and finite, got {self.exponents}")
        if not 1 <= self.anisotropy < math.inf:
            raise ValueError(f"anisotropy must be finite and at least 1, got {self.anisotropy}")

    def split(self, name: Split, data_dir: Path | None = None) -> "CostFamilyPairs":
        return CostFamilyPairs(self.batch, self.eps, self, STREAMS[name])


@final
@dataclass(frozen=True)
class CostFamilyPairs(ProblemSet):
    """Pairs of images with a cost for each batch, see `CostFamilies`; `stream` keeps the splits apart."""

    source: CostFamilies
    stream: int = 2

    @property
    def geometry(self) -> None:
        return None

    def weights(self, generator: torch.Generator) -> tuple[Float[Tensor, "batch n"], Float[Tensor, "batch n"]]:
        return DrawnPairs(self.batch, self.eps, (self.source.side,), self.stream, each_twice).weights(generator)

    def sample(self, generator: torch.Generator) -> Problem:
        a, b = self.weights(generator)
        grid = self._grid(stream(generator, self.stream))
        mean = sum(float(C.mean()) for C in grid.axis_costs)
        return Problem(a, b, grid, self.temperatures(self.batch, generator) * mean)

    def _grid(self, generator: torch.Generator) -> Grid:
        """Draw the cost of a batch."""
        source, (low, high) = self.source, self.source.exponents
        shared, ratio, *own = torch.rand(4, generator=generator, dtype=torch.float64).tolist()
        alone = float(torch.rand((), generator=generator)) < source.per_axis
        factor = source.anisotropy ** (ratio - 0.5)
        places = own if alone else (shared, shared)
        costs = (
            AxisPower(low + place * (high - low), w) for place, w in zip(places, (factor, 1 / factor), strict=True)
        )
        return Grid(source.side, source.side, cost=tuple(costs))


@final
@dataclass(frozen=True)
class AxisPower:
    """The cost w |s - t|^p along an axis of a grid."""

    p: float
    w: float = 1.0

    def __call__(self, s: Tensor, t: Tensor) -> Tensor:
        return self.w * (s - t).abs().pow(self.p)
